"""The free portrait of the samples with marks set by hand, and what code makes of it: nobody has to sit for a test."""

from __future__ import annotations

import cmath
import io
import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw

PHOTOS = Path(__file__).parents[2] / "photos"

WHITE = "derived/good_white.jpg"
GREY = "derived/bg_lightgrey.jpg"
_BEHIND = {WHITE: (252, 252, 252), GREY: (225, 226, 228)}
"""The colour behind the person."""

# Marked by eye on `WHITE`, pixels as x + y·i.
EYES = ((415 + 220j, 474 + 222j), (521 + 218j, 577 + 219j))
"""The corners of each eye."""
EAR_JOINS = (374 + 245j, 611 + 240j)
"""Where cheek and ear meet."""
CHIN = 485 + 429j
HAIR = (400 + 66j, 430 + 46j, 455 + 36j, 487 + 29j, 520 + 33j, 545 + 42j, 575 + 66j)
"""The hair's outline."""

# EXIF orientation → how an upright picture is stored under it.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@cache
def sample(name: str = WHITE) -> Image.Image:
    """A sample's pixels, to be copied before they are changed."""
    return Image.open(PHOTOS / name).convert("RGB")


def written(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image as a file; keywords as in `Image.save`."""
    out = io.BytesIO()
    if kind in ("JPEG", "MPO"):
        options.setdefault("quality", 92)
    if kind == "PNG":
        options.setdefault("compress_level", 1)
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    values = Image.Exif()
    values[0x0112] = orientation
    return values


def cut(box: tuple[int, int, int, int], name: str = WHITE) -> Image.Image:
    """A part of a sample; beyond its edges the colour behind the person goes on."""
    part = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), _BEHIND.get(name, (255, 255, 255)))
    part.paste(sample(name), (-box[0], -box[1]))
    return part


def head() -> Image.Image:
    """The head and shoulders of the portrait alone, 560×540: small, so that it is quick."""
    return cut((215, 0, 775, 540))


def turned(image: Image.Image, degrees: float, behind: tuple[int, int, int] = _BEHIND[WHITE]) -> Image.Image:
    """The image turned clockwise about its middle."""
    return image.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=behind)


@dataclass(frozen=True, slots=True)
class Variation:
    """An upload that ought to be accepted, and whether it shows the portrait mirrored. `told` is for a failure's message."""

    data: bytes
    mirrored: bool
    told: str


def variation(seed: int) -> Variation:
    """The portrait as another camera, studio and clerk might have made it, all within the limits."""
    dice = random.Random(seed)
    name = dice.choice((WHITE, WHITE, GREY))
    scale, mirrored = dice.uniform(0.6, 1.4), dice.random() < 0.3
    roll = dice.choice((0.0, dice.uniform(-7, 7)))
    left, top = dice.randint(100, 270), dice.randint(-120, 24)
    right, bottom = dice.randint(720, 860), dice.choice((dice.randint(468, 520), dice.randint(520, 760)))
    if roll:  # a turned portrait needs room for its shoulders
        left, right, bottom = min(left, 180), max(right, 800), max(bottom, 640)
    turn = cmath.rect(1 / scale, math.radians(-roll))
    middle = sum(EYES[0] + EYES[1]) / 4
    shift = middle - turn * scale * (middle - complex(left, top))
    size = (round((right - left) * scale), round((bottom - top) * scale))
    image = sample(name).transform(
        size,
        Image.Transform.AFFINE,
        (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag),
        Image.Resampling.BICUBIC,
        fillcolor=_BEHIND[name],
    )
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    gain, gamma, side = dice.uniform(0.93, 1.02), dice.uniform(0.85, 1.2), dice.choice((0, dice.randint(-14, 14)))
    image = _lit(image, gain=gain, gamma=gamma, side=side)
    orientation = dice.choice((1, 1, 1, *STORED))
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    options: dict[str, Any]
    kind, options = dice.choice((("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})))
    if orientation != 1:
        options = options | {"exif": exif(orientation)}
    told = (
        f"seed {seed}: {name} × {scale:.2f}, roll {roll:.1f}, mirrored {mirrored}, {(left, top, right, bottom)}, "
        f"gain {gain:.2f}, gamma {gamma:.2f}, side {side}, {kind} {orientation}"
    )
    return Variation(written(stored, kind, **options), mirrored, told)


def _lit(image: Image.Image, *, gain: float, gamma: float, side: int) -> Image.Image:
    """Other light: brighter by a factor, by a curve, and darker towards one side by up to `side` values."""
    image = image.point([max(0, min(255, round(255 * (gain * v / 255) ** gamma))) for v in range(256)] * 3)
    if side:
        ramp = Image.linear_gradient("L").rotate(90 if side > 0 else 270).resize(image.size)
        shade = ramp.point(lambda v: v * abs(side) // 255)
        image = ImageChops.subtract(image, Image.merge("RGB", (shade, shade, shade)))
    return image


def behind(image: Image.Image) -> Image.Image:
    """Where a portrait on white shows the background (mode L), its edge soft as a studio's."""
    red, green, blue = image.split()
    least = ImageChops.darker(ImageChops.darker(red, green), blue)
    return least.point(lambda v: max(0, min(255, (v - 236) * 16)))


def person_as(changed: Image.Image) -> Image.Image:
    """`head` with the person as in another image of its size, before its own white background."""
    return Image.composite(head(), changed, behind(head()))


def before(backdrop: Image.Image) -> Image.Image:
    """`head` before another background."""
    return Image.composite(backdrop, head(), behind(head()))


def haired(above_px: int) -> Image.Image:
    """`head` with dark hair drawn up to so many pixels above its own, and room above that."""
    image = cut((215, -above_px - 60, 775, 540))
    pen = ImageDraw.Draw(image)
    crown, eyes = round(HAIR[3].real) - 215, round(EYES[0][0].imag) + above_px + 60
    pen.ellipse((crown - 105, 60 + 29, crown + 105, eyes + 60), fill=(38, 28, 24))
    face = cut((375, 86, 610, 440))
    image.paste(face, (160, 86 + above_px + 60))
    return image


def beside(small: float, at: tuple[int, int], size: tuple[int, int] = (560, 540)) -> Image.Image:
    """`head` at the left of a white picture, with a smaller copy of its face pasted at a place."""
    image = Image.new("RGB", size, _BEHIND[WHITE])
    image.paste(head())
    face = sample().crop((340, 15, 645, 450))
    image.paste(face.resize((round(face.width * small), round(face.height * small)), Image.Resampling.LANCZOS), at)
    return image
