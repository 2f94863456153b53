"""Draws the printed side of the card: photo and the few visible fields on a background made by code.

Bytes and values in, PNG bytes out, always the same for the same input. Text that does not fit or that the font cannot
draw is refused before anything is printed: nothing is cut. Must not know the chip, the journal or where photos live.
"""

import io
import math
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from card_personalization.errors import FaceError, Problem
from card_personalization.plan import FaceData
from card_personalization.profiles import FaceField, FaceTemplate

_INK = (24, 28, 40)
_LABEL_INK = (70, 92, 122)
_TITLE_INK = (150, 28, 36)
_SKY = (214, 231, 246)
_PAPER = (250, 252, 253)
_LEAF = (222, 240, 230)
_WAVE = (192, 216, 236)
_DEMO_INK = (190, 40, 40, 92)
_DEMO_DEGREES = 28
_FONT_SUFFIXES = frozenset({".otf", ".ttf", ".ttc"})
_NONCHARACTER = "\U0010ffff"
_PROBE_PX = 24
_LINE_PITCH = 1.2
_PNG_LEVEL = 3


def render(template: FaceTemplate, face: FaceData, photo_jpeg: bytes, *, demo: bool) -> bytes:
    """The face as PNG, `width_px` by `height_px` at `dpi`; with `demo` the word DEMO lies across it.

    Raises:
        FaceError: the photo is no JPEG, a text does not fit its place, or the font lacks a character.
    """
    texts = _texts(template, face)
    problems = [*_missing(template, texts), *_overflowing(template, texts)]
    photo = _photo(template, photo_jpeg, problems)
    if problems or photo is None:
        raise FaceError(tuple(problems))
    image = _background(template).copy()
    image.paste(photo, (template.photo.x_px, template.photo.y_px))
    _write(template, ImageDraw.Draw(image), texts)
    if demo:
        image.paste(Image.new("RGB", image.size, _DEMO_INK[:3]), mask=_demo_mask(template))
    output = io.BytesIO()
    image.save(output, "PNG", dpi=(template.dpi, template.dpi), compress_level=_PNG_LEVEL)
    return output.getvalue()


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


def _missing(template: FaceTemplate, texts: dict[str, str]) -> Iterator[Problem]:
    for field, text in texts.items():
        if not all(_drawable(template.font, character) for character in text):
            yield Problem(field, "no-glyph", "holds a character that the font cannot draw")


def _overflowing(template: FaceTemplate, texts: dict[str, str]) -> Iterator[Problem]:
    for field, place in template.fields:
        if _layout(template, place, texts[field]) is None:
            yield Problem(field, "too-wide", "does not fit its place even at the smallest size")


def _photo(template: FaceTemplate, jpeg: bytes, problems: list[Problem]) -> Image.Image | None:
    size = (template.photo.width_px, template.photo.height_px)
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        problems.append(Problem("photo", "format", "is not a JPEG image that can be read"))
        return None


def _write(template: FaceTemplate, draw: ImageDraw.ImageDraw, texts: dict[str, str]) -> None:
    for field, place in template.fields:
        layout = _layout(template, place, texts[field])
        if layout is None:
            continue
        font, lines = layout
        pitch = font.size * _LINE_PITCH
        first = _baseline(template, place) - pitch * (len(lines) - 1) / 2
        for index, line in enumerate(lines):
            _text(template, draw, (place.x_px, round(first + index * pitch)), line, font, _INK)


def _baseline(template: FaceTemplate, place: FaceField) -> int:
    """Shrunk text stands on the same line as its label."""
    ascent, _ = _font(template.font, place.size_px).getmetrics()
    return place.y_px + ascent


def _layout(
    template: FaceTemplate, place: FaceField, text: str
) -> tuple[ImageFont.FreeTypeFont, tuple[str, ...]] | None:
    """The largest size at which the text fits one line, else two at the smallest; None when neither does."""
    for size in range(place.size_px, place.min_size_px - 1, -1):
        font = _font(template.font, size)
        if _width(template, font, text) <= place.max_width_px:
            return font, (text,)
    font = _font(template.font, place.min_size_px)
    if place.max_lines > 1 and (lines := _two_lines(template, font, text, place.max_width_px)):
        return font, lines
    return None


def _two_lines(
    template: FaceTemplate, font: ImageFont.FreeTypeFont, text: str, width_px: int
) -> tuple[str, str] | None:
    for at in range(len(text) - 1, 0, -1):
        lines = text[:at], text[at:]
        if all(_width(template, font, line) <= width_px for line in lines):
            return lines
    return None


def _width(template: FaceTemplate, font: ImageFont.FreeTypeFont, text: str) -> float:
    return font.getlength(text, language=template.language)


def _text(
    template: FaceTemplate,
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
) -> None:
    draw.text(at, text, font=font, fill=ink, language=template.language, anchor="ls")


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


@lru_cache(maxsize=8192)
def _drawable(package: str, character: str) -> bool:
    return character.isspace() or _shape(package, character) != _shape(package, _NONCHARACTER)


def _shape(package: str, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(package, _PROBE_PX).getmask(character)
    return mask.size, bytes(mask)


@lru_cache(maxsize=8)
def _background(template: FaceTemplate) -> Image.Image:
    """Everything that is the same on each card; drawn once, copied for each."""
    image = _gradient(template.width_px, template.height_px)
    draw = ImageDraw.Draw(image)
    _waves(draw, template.width_px, template.height_px)
    title = _font(template.font, template.title_size_px)
    draw.text(
        (template.title_x_px, template.title_y_px),
        template.title,
        font=title,
        fill=_TITLE_INK,
        anchor="ma",
        language=template.language,
    )
    for _, place in template.fields:
        font = _font(template.font, place.size_px)
        _text(template, draw, (place.label_x_px, _baseline(template, place)), place.label, font, _LABEL_INK)
    return image


def _gradient(width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        part = y / (height - 1)
        above, below, share = (_SKY, _PAPER, part * 2) if part < 0.5 else (_PAPER, _LEAF, part * 2 - 1)
        column.putpixel((0, y), _mixed(above, below, share))
    return column.resize((width, height))


def _mixed(first: tuple[int, int, int], second: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _waves(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for index in range(9):
        base = height * 0.70 + index * 11
        points = [
            (x, base + 26 * math.sin(x / 150 + index * 0.35) + 9 * math.sin(x / 61 - index * 0.2))
            for x in range(0, width + 8, 8)
        ]
        draw.line(points, fill=_WAVE, width=1)


@lru_cache(maxsize=8)
def _demo_mask(template: FaceTemplate) -> Image.Image:
    size = (template.width_px, template.height_px)
    mask = Image.new("L", size, 0)
    font = _font(template.font, template.height_px // 3)
    centre = (template.width_px / 2, template.height_px / 2)
    ImageDraw.Draw(mask).text(centre, "DEMO", font=font, fill=_DEMO_INK[3], anchor="mm")
    return mask.rotate(_DEMO_DEGREES, Image.Resampling.BICUBIC)
