"""One resampling from an image to a view of it, by a matrix. What lies outside the image is white unless another colour is asked."""

from __future__ import annotations

import math
from typing import Literal

from PIL import Image

from pipeline.photo.pose import scaled
from pipeline.photo.result import Matrix

Quality = Literal["fine", "smooth", "quick"]
"""For the card's picture (LANCZOS, or BICUBIC where it is turned); for measuring; for a look at the whole."""
WHITE = (255, 255, 255)

_TURNED = {
    "fine": Image.Resampling.BICUBIC,
    "smooth": Image.Resampling.BILINEAR,
    "quick": Image.Resampling.NEAREST,
}
_SPARE_PX = 4
_UPRIGHT = 1e-6
_GAP = 2.0  # Pillow averages whole pixels first where the image is more than twice this dense
_Box = tuple[float, float, float, float]
_Colour = tuple[int, ...] | int


def view(
    image: Image.Image, matrix: Matrix, size: tuple[int, int], *, quality: Quality = "smooth", outside: _Colour = WHITE
) -> Image.Image:
    """The picture of `size` whose point (x, y) is the image's point `matrix`·(x, y).

    An upright matrix is one resize (`quick` never is); a turned one is one affine step, after whole pixels were averaged where
    the image is dense.
    """
    a, b, c, d, e, f = matrix
    if a > 0 and abs(b) < _UPRIGHT and abs(d) < _UPRIGHT and quality != "quick":
        kind = Image.Resampling.LANCZOS if quality == "fine" else Image.Resampling.BILINEAR
        source, box = _holding(image, (c, f, c + a * size[0], f + e * size[1]), outside, dense=max(1, int(a / _GAP)))
        return source.resize(size, kind, box=box, reducing_gap=_GAP)
    source, moved = image, matrix
    density = math.hypot(a, d)
    if (dense := int(density) if quality == "fine" else round(density)) > 1:
        visible = _visible(image, matrix, size)
        if visible is None:
            return Image.new(image.mode, size, outside)
        source = image.reduce(dense, box=visible)
        moved = scaled((a, b, c - visible[0], d, e, f - visible[1]), 1 / dense)
    return source.transform(size, Image.Transform.AFFINE, moved, _TURNED[quality], fillcolor=outside)


def _visible(image: Image.Image, matrix: Matrix, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of the image that a view shows, with some pixels to spare; None when it shows none."""
    a, b, c, d, e, f = matrix
    xs = [a * x + b * y + c for x in (0, size[0]) for y in (0, size[1])]
    ys = [d * x + e * y + f for x in (0, size[0]) for y in (0, size[1])]
    left, top = max(0, math.floor(min(xs)) - _SPARE_PX), max(0, math.floor(min(ys)) - _SPARE_PX)
    right = min(image.width, math.ceil(max(xs)) + _SPARE_PX)
    bottom = min(image.height, math.ceil(max(ys)) + _SPARE_PX)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _holding(image: Image.Image, box: _Box, outside: _Colour, *, dense: int) -> tuple[Image.Image, _Box]:
    """An image that holds all of `box`, `outside` where the given one ends, and where `box` lies in it.

    When something has to be added, `dense` by `dense` pixels become one: a frame wider than a large photo must not cost its area.
    """
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    visible = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if visible == (left, top, right, bottom):
        return image, box
    before_x, before_y = -(-(visible[0] - left) // dense), -(-(visible[1] - top) // dense)
    left, top = visible[0] - before_x * dense, visible[1] - before_y * dense
    canvas = Image.new(image.mode, (-(-(right - left) // dense), -(-(bottom - top) // dense)), outside)
    if visible[0] < visible[2] and visible[1] < visible[3]:
        part = image.reduce(dense, box=visible) if dense > 1 else image.crop(visible)
        canvas.paste(part, (before_x, before_y))
    return canvas, tuple((at - start) / dense for at, start in zip(box, (left, top, left, top), strict=True))  # type: ignore[return-value]
