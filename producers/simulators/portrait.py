"""Uploads of one portrait, as different as those of different people: framed, lit and filed anew for each.

`portraits/SOURCES.md` says whose portrait it is. The same person has the same photo, byte for byte.
"""

from __future__ import annotations

import io
import math
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

Flaw = Literal["unfit", "doubtful"]
"""`unfit`: on blue and tilted, two reasons to refuse it. `doubtful`: in dark glasses, for a person to decide."""
Sort = Literal["plain", "progressive", "png", "sideways", "large"]
SORTS: tuple[Sort, ...] = (
    "plain", "progressive", "png", "sideways", "plain", "sideways", "large", "plain", "progressive", "plain", "sideways",
)  # fmt: skip
"""What files people send, in turn. `sideways` lies on a side or on its head, as its EXIF tells."""

_FILE = Path(__file__).parent / "portraits" / "portrait.jpg"
# Measured once on that file, in its pixels: the eyes, the face between the ears, and from the eyes to the top of the hair.
_EYES = ((333.8, 256.9), (436.6, 255.6))
_FACE_PX = 235
_CROWN_PX = 190
_WHITE = (252, 252, 252)
_PERSON_FROM = 10  # how far from white a pixel is of the person

# How photos differ. Widths are of the upload, 4:5. Within these ranges a level frame never leaves the portrait.
_WIDTH_PX, _LARGE_PX = (600, 721), (1280, 2001)
_FACE_SHARE = (0.40, 0.48)
_HAIR_BELOW = (0.03, 0.07)
_ASIDE = 0.03
_TURN_DEG, _TILTED_DEG = 3.5, (13.0, 16.0)
_GAIN, _GAMMA, _WARMTH = (0.88, 1.0), (0.86, 1.18), 0.015
_BLUE = (67, 142, 219)
_GLASSES = (18, 18, 20)
_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""How an upright picture is stored under an EXIF orientation (EXIF 2.32, 4.6.4)."""
_ORIENTATION = 0x0112


def upload(person: str, *, sort: Sort = "plain", flaw: Flaw | None = None) -> tuple[str, bytes]:
    """A person's photo as (file name extension, bytes)."""
    random = Random(person)
    image = _taken(random, sort, flaw)
    match sort:
        case "png":
            return "png", _written(image, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        case "sideways":
            orientation = random.choice(list(_STORED))
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            return "jpg", _written(image.transpose(_STORED[orientation]), "JPEG", quality=88, exif=exif)
        case _:
            return "jpg", _written(image, "JPEG", quality=88, progressive=sort == "progressive")


def _written(image: Image.Image, form: str, **options: object) -> bytes:
    kept = io.BytesIO()
    image.save(kept, form, **options)
    return kept.getvalue()


def _taken(random: Random, sort: Sort, flaw: Flaw | None) -> Image.Image:
    """The portrait as somebody framed and lit it; most held the camera level."""
    width = random.randrange(*(_LARGE_PX if sort == "large" else _WIDTH_PX), 20)
    size = (width, width * 5 // 4)
    mirrored = random.random() < 0.5
    scale = _FACE_PX / (random.uniform(*_FACE_SHARE) * width)
    eyes = (
        width * (0.5 + random.uniform(-_ASIDE, _ASIDE)),
        _CROWN_PX / scale + size[1] * random.uniform(*_HAIR_BELOW),
    )
    turn_deg = 0.0
    if flaw == "unfit":
        turn_deg = random.choice((-1, 1)) * random.uniform(*_TILTED_DEG)
    elif sort in ("plain", "sideways") and random.random() < 0.5:
        turn_deg = random.uniform(-_TURN_DEG, _TURN_DEG)
    return _framed(
        _lit(_portrait(flaw, mirrored), random), size, eyes, scale=scale, turn_deg=turn_deg, mirrored=mirrored
    )


def _framed(
    portrait: Image.Image,
    size: tuple[int, int],
    eyes: tuple[float, float],
    *,
    scale: float,
    turn_deg: float,
    mirrored: bool,
) -> Image.Image:
    """A picture of `size` with the midpoint between the eyes at `eyes`, `scale` pixels of the portrait to one of its own."""
    x, y = ((left + right) / 2 for left, right in zip(*_EYES, strict=True))
    x = portrait.width - x if mirrored else x
    if not turn_deg:
        left, top = x - scale * eyes[0], y - scale * eyes[1]
        box = (left, top, left + scale * size[0], top + scale * size[1])
        return portrait.resize(size, Image.Resampling.BILINEAR, box=box)
    cos, sin = scale * math.cos(math.radians(turn_deg)), scale * math.sin(math.radians(turn_deg))
    matrix = (cos, sin, x - cos * eyes[0] - sin * eyes[1], -sin, cos, y + sin * eyes[0] - cos * eyes[1])
    beyond = portrait.getpixel((0, 0))
    return portrait.transform(
        size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=beyond
    )  # fmt: skip


def _lit(portrait: Image.Image, random: Random) -> Image.Image:
    """With an exposure, a contrast and a white balance of its own: the background becomes anything from white to light grey."""
    gain, gamma = random.uniform(*_GAIN), random.uniform(*_GAMMA)
    warmth = random.uniform(-_WARMTH, _WARMTH)
    curve = [255 * gain * (value / 255) ** gamma for value in range(256)]
    return portrait.point([min(255, round(v * (1 + tint))) for tint in (warmth, 0, -warmth) for v in curve])


@cache
def _portrait(flaw: Flaw | None, mirrored: bool) -> Image.Image:
    """The portrait as it is altered for everybody alike; made once for a process."""
    if mirrored:
        return ImageOps.mirror(_portrait(flaw, False))
    with Image.open(_FILE) as image:
        portrait = image.convert("RGB")
    match flaw:
        case "unfit":
            portrait.paste(_BLUE, mask=_background(portrait))
        case "doubtful":
            _put_on_glasses(portrait)
    return portrait


def _background(portrait: Image.Image) -> Image.Image:
    """Where nothing differs from white, and the light rim about the person (mode L, 0 or 255); no white in eyes and teeth."""
    steps = ImageChops.difference(portrait, Image.new("RGB", portrait.size, _WHITE)).split()
    largest = ImageChops.lighter(ImageChops.lighter(steps[0], steps[1]), steps[2])
    near = largest.point([255 if step <= _PERSON_FROM else 0 for step in range(256)])
    return near.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.MaxFilter(7))


def _put_on_glasses(portrait: Image.Image) -> None:
    pen = ImageDraw.Draw(portrait)
    for x, y in _EYES:
        pen.rounded_rectangle((x - 47, y - 28, x + 47, y + 34), radius=22, fill=_GLASSES)
    (left, y), (right, _) = _EYES
    pen.line((left - 80, y - 14, right + 80, y - 14), fill=_GLASSES, width=9)
