"""Draws the printed side of the card: photo and the few visible fields on a background made by code.

Bytes and values in, PNG bytes out, always the same for the same input. Text that does not fit or that the font cannot
draw is refused before anything is printed: nothing is cut. Must not know the chip, the journal or where photos live.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from card_personalization import png
from card_personalization.errors import FaceError, Problem
from card_personalization.plan import FaceData
from card_personalization.profiles import FaceField, FaceTemplate

_Ink = tuple[int, int, int]

_INK: _Ink = (22, 26, 36)
_LABEL_INK: _Ink = (74, 98, 130)
_TITLE_INK: _Ink = (128, 24, 34)
_FRAME_INK: _Ink = (186, 205, 224)
_SKY: _Ink = (205, 226, 245)
_PAPER: _Ink = (249, 252, 254)
_LEAF: _Ink = (219, 238, 230)
_WAVE_INK: _Ink = (184, 210, 233)
_ROSETTE_INK: _Ink = (190, 217, 224)
_DEMO_INK: _Ink = (196, 44, 44)
_DEMO_OPACITY = 84
_DEMO_DEGREES = 28
_FONT_SUFFIXES = frozenset({".otf", ".ttf", ".ttc"})
_NONCHARACTER = "\U0010ffff"
_SEPARATORS = ("·", " ")
_PROBE_PX = 24
_BEFORE = "一"
_LINE_PITCH = 1.15
_EM_MIDDLE = 0.38  # of a CJK character, above the baseline
_TITLE_TRACKING = 0.12
_OVERSAMPLING = 2
_BAND_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Setting:
    """A text as it will stand in its place: one line or two, at one size."""

    place: FaceField
    size_px: int
    lines: tuple[str, ...]


def render(template: FaceTemplate, face: FaceData, photo_jpeg: bytes, *, demo: bool) -> bytes:
    """The face as PNG, `width_px` by `height_px` at `dpi`; with `demo` the word DEMO lies across it.

    Raises:
        FaceError: the photo is no JPEG, a text does not fit its place, or the font lacks a character; all at once.
    """
    texts = _texts(template, face)
    problems: list[Problem] = []
    settings = [*_settings(template, texts, problems)]
    photo = _photo(template, photo_jpeg, problems)
    if problems or photo is None:
        raise FaceError(tuple(problems))
    image = _background(template).copy()
    image.paste(photo, (template.photo.x_px, template.photo.y_px))
    _write(template, ImageDraw.Draw(image), settings)
    if demo:
        image.paste(_DEMO_INK, mask=_demo_mask(template))
    return png.encode(_scanlines(image), width_px=image.width, height_px=image.height, dpi=template.dpi)


def _texts(template: FaceTemplate, face: FaceData) -> dict[str, str]:
    issued = face.issued
    number = face.bank_card_number or ""
    return {
        "name": face.name,
        "social_security_number": face.social_security_number,
        "card_number": face.card_number,
        "issued": template.date_format.format(year=issued.year, month=issued.month, day=issued.day),
        "bank_name": face.bank_name,
        "bank_card_number": " ".join(number[at : at + 4] for at in range(0, len(number), 4)),
    }


def _photo(template: FaceTemplate, jpeg: bytes, problems: list[Problem]) -> Image.Image | None:
    size = (template.photo.width_px, template.photo.height_px)
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            image.draft("RGB", size)  # a photo of twice the size or more is reduced while it is decoded
            return ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        problems.append(Problem("photo", "format", "is not a JPEG image that can be read"))
        return None


def _scanlines(image: Image.Image) -> Iterator[bytes]:
    """The picture as PNG scanlines, all with the filter "Up": an even background becomes zeros.

    In bands: buffers small enough to be used again cost half of what new ones for the whole picture do.
    """
    row = png.CHANNELS * image.width
    last = bytes(row)
    for top in range(0, image.height, _BAND_ROWS):
        rows = min(_BAND_ROWS, image.height - top)
        pixels = image.crop((0, top, image.width, top + rows)).tobytes()
        this, above = (Image.frombuffer("L", (row, rows), data) for data in (pixels, last + pixels[:-row]))
        lines = Image.new("L", (row + 1, rows), png.UP)
        lines.paste(ImageChops.subtract_modulo(this, above), (1, 0))
        yield lines.tobytes()
        last = pixels[-row:]


# ---------------------------------------------------------------------------------------------------------------- text


def _settings(template: FaceTemplate, texts: dict[str, str], problems: list[Problem]) -> Iterator[_Setting]:
    for field, place in template.fields:
        text = texts[field]
        if missing := _missing(template, text):
            where = f"has no glyph for character {missing} in the font {template.font}"
            problems.append(Problem(field, "no-glyph", where))
        elif setting := _fitted(template, place, text):
            yield setting
        else:
            lines = "one line" if place.max_lines == 1 else "two lines"
            problems.append(Problem(field, "too-wide", f"does not fit {lines} even at the smallest size"))


def _missing(template: FaceTemplate, text: str) -> int | None:
    """The position, from 1, of the first character that cannot be drawn."""
    positions = (at for at, char in enumerate(text, 1) if not _drawable(template.font, template.language, char))
    return next(positions, None)


def _fitted(template: FaceTemplate, place: FaceField, text: str) -> _Setting | None:
    """The largest size at which the text fits one line, else two lines at the smallest; None when neither does."""
    sizes = range(place.size_px, place.min_size_px - 1, -1)

    def fits(size: int) -> bool:
        return _width(template, size, text) <= place.max_width_px

    if fits(place.size_px):
        return _Setting(place=place, size_px=place.size_px, lines=(text,))
    at = bisect_left(sizes, True, key=fits)
    if at < len(sizes):
        return _Setting(place=place, size_px=sizes[at], lines=(text,))
    if place.max_lines > 1 and (lines := _two_lines(template, place, text)):
        return _Setting(place=place, size_px=place.min_size_px, lines=lines)
    return None


def _two_lines(template: FaceTemplate, place: FaceField, text: str) -> tuple[str, str] | None:
    """The most even of the breaks after a separator, if it fits; else the most even of all breaks, if that does."""

    def width(line: str) -> float:
        return _width(template, place.min_size_px, line)

    everywhere = range(1, len(text))
    for breaks in ([at for at in everywhere if text[at - 1] in _SEPARATORS], everywhere):
        middle = bisect_left(breaks, True, key=lambda at: width(text[:at]) >= width(text[at:]))
        pairs = [(text[:at].rstrip(), text[at:]) for at in breaks[max(0, middle - 1) : middle + 1]]
        lines = min(pairs, key=lambda pair: max(map(width, pair)), default=None)
        if lines and max(map(width, lines)) <= place.max_width_px:
            return lines
    return None


def _width(template: FaceTemplate, size_px: int, text: str) -> float:
    return _font(template.font, size_px).getlength(text, language=template.language)


def _write(template: FaceTemplate, draw: ImageDraw.ImageDraw, settings: Iterable[_Setting]) -> None:
    for setting in settings:
        font = _font(template.font, setting.size_px)
        pitch = round(setting.size_px * _LINE_PITCH)
        first = _first_baseline(template, setting, pitch)
        for index, line in enumerate(setting.lines):
            at = (setting.place.x_px, first + index * pitch)
            draw.text(at, line, font=font, fill=_INK, language=template.language, anchor="ls")


def _first_baseline(template: FaceTemplate, setting: _Setting, pitch_px: int) -> int:
    """One line, however small, stands on the line of its label; two lie evenly about the label's middle."""
    baseline = _baseline(template, setting.place)
    if len(setting.lines) == 1:
        return baseline
    return baseline - round((setting.place.size_px - setting.size_px) * _EM_MIDDLE + pitch_px / 2)


def _baseline(template: FaceTemplate, place: FaceField) -> int:
    ascent, _ = _font(template.font, place.size_px).getmetrics()
    return place.y_px + ascent


@lru_cache(maxsize=64)
def _font(package: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_file(package)), size_px, layout_engine=ImageFont.Layout.RAQM)


@lru_cache(maxsize=4)
def _font_file(package: str) -> Path:
    try:
        files = sorted(Path(str(resources.files(package))).iterdir())
    except (ModuleNotFoundError, OSError) as error:
        raise FaceError((Problem("font", "absent", f"the font package {package} is not installed"),)) from error
    for file in files:
        if file.suffix.lower() in _FONT_SUFFIXES:
            return file
    raise FaceError((Problem("font", "absent", f"the package {package} holds no font"),))


@lru_cache(maxsize=32768)
def _drawable(package: str, language: str, character: str) -> bool:
    """Whether the font puts ink of its own on the card for it: joiners, selectors and controls leave none."""
    if character == " ":
        return True
    font = _font(package, _PROBE_PX)
    try:
        mask = font.getmask(character, language=language)
        takes_room = font.getlength(_BEFORE + character, language=language) > font.getlength(_BEFORE, language=language)
    except (RuntimeError, ValueError):  # it cannot even be laid out
        return False
    return takes_room and mask.getbbox() is not None and (mask.size, bytes(mask)) != _notdef(package)


@lru_cache(maxsize=4)
def _notdef(package: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(package, _PROBE_PX).getmask(_NONCHARACTER)
    return mask.size, bytes(mask)


# ---------------------------------------------------------------------------------------------------------- background


@lru_cache(maxsize=8)
def _background(template: FaceTemplate) -> Image.Image:
    """Everything that is the same on each card; drawn once, copied for each."""
    size = (template.width_px, template.height_px)
    image = _gradient(*size)
    image.paste(_ROSETTE_INK, mask=_lines(size, _rosette(*size)))
    image.paste(_WAVE_INK, mask=_lines(size, _waves(*size)))
    draw = ImageDraw.Draw(image)
    _title(template, draw)
    _frame(template, draw)
    for _, place in template.fields:
        font = _font(template.font, place.size_px)
        at = (place.label_x_px, _baseline(template, place))
        draw.text(at, place.label, font=font, fill=_LABEL_INK, language=template.language, anchor="ls")
    return image


def _gradient(width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        part = y / (height - 1)
        above, below, share = (_SKY, _PAPER, part * 2) if part < 0.5 else (_PAPER, _LEAF, part * 2 - 1)
        column.putpixel((0, y), _mixed(above, below, share))
    return column.resize((width, height))


def _mixed(first: _Ink, second: _Ink, share: float) -> _Ink:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


_Curve = list[tuple[float, float]]


def _lines(size: tuple[int, int], curves: Iterable[_Curve]) -> Image.Image:
    """Fine lines as a mask, drawn larger and reduced so that their edges are smooth."""
    width, height = size
    mask = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for curve in curves:
        draw.line([(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in curve], fill=255, width=_OVERSAMPLING)
    return mask.reduce(_OVERSAMPLING)


def _waves(width: int, height: int) -> Iterator[_Curve]:
    """A ribbon of lines that cross, along the foot of the card."""
    for index in range(14):
        phase = index * 0.22
        base = height * 0.80 + index * 4
        yield [
            (x, base + 34 * math.sin(x / 170 + phase) + 10 * math.sin(x / 67 - phase)) for x in range(-4, width + 8, 4)
        ]


def _rosette(width: int, height: int) -> Iterator[_Curve]:
    """A guilloche flower of turned and growing closed curves, at the lower right."""
    centre_x, centre_y = width * 0.855, height * 0.75
    for index in range(10):
        radius, turn = height * (0.07 + 0.0145 * index), index * 0.11
        yield [
            (
                centre_x + radius * (1 + 0.17 * math.cos(9 * angle + turn)) * math.cos(angle),
                centre_y + radius * (1 + 0.17 * math.cos(9 * angle + turn)) * math.sin(angle),
            )
            for angle in (step * math.tau / 360 for step in range(361))
        ]


def _title(template: FaceTemplate, draw: ImageDraw.ImageDraw) -> None:
    """The title, centred on its place, a little spaced and a little heavier than the text."""
    font = _font(template.font, template.title_size_px)
    pitch = template.title_size_px * (1 + _TITLE_TRACKING)
    first = template.title_x_px - pitch * (len(template.title) - 1) / 2
    for index, character in enumerate(template.title):
        at = (first + index * pitch, template.title_y_px)
        draw.text(at, character, font=font, fill=_TITLE_INK, language=template.language, anchor="ma", stroke_width=0.6)


def _frame(template: FaceTemplate, draw: ImageDraw.ImageDraw) -> None:
    """A hairline around the photo's edge."""
    photo = template.photo
    draw.rectangle(
        (photo.x_px - 1, photo.y_px - 1, photo.x_px + photo.width_px, photo.y_px + photo.height_px), outline=_FRAME_INK
    )


@lru_cache(maxsize=8)
def _demo_mask(template: FaceTemplate) -> Image.Image:
    size = (template.width_px, template.height_px)
    mask = Image.new("L", size, 0)
    font = _font(template.font, template.height_px // 3)
    centre = (template.width_px / 2, template.height_px / 2)
    ImageDraw.Draw(mask).text(centre, "DEMO", font=font, fill=_DEMO_OPACITY, anchor="mm")
    return mask.rotate(_DEMO_DEGREES, Image.Resampling.BICUBIC)
