"""Which part of the photo becomes the picture. For now by geometry alone: the tallest centred frame, near the top.

A layout by the face (eye line, crown, face width) replaces `frame` and nothing else.
"""

from __future__ import annotations

from PIL import Image

from pipeline.photo.profile import Output

Box = tuple[float, float, float, float]

# Where a source is taller than the picture, this share of what is cut comes off the top, the rest off the bottom:
# a portrait has its head near the upper edge and spare chest below.
_TOP_SHARE = 0.1


def frame(width_px: int, height_px: int, *, output: Output) -> Box:
    """The largest box of the picture's shape inside a source of this size: (left, top, right, bottom) in source pixels."""
    width = min(width_px, height_px * output.width_px / output.height_px)
    height = min(height_px, width_px * output.height_px / output.width_px)
    left = (width_px - width) / 2
    top = (height_px - height) * _TOP_SHARE
    return (left, top, left + width, top + height)


def cut(image: Image.Image, box: Box, *, output: Output) -> Image.Image:
    """The picture: `box` of the source in one resampling. A source that already is the picture is not resampled."""
    size = (output.width_px, output.height_px)
    if image.size == size and box == (0, 0, *size):
        return image
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
