"""The background of the finished picture: which pixels are surely background, and making a plain one white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from pipeline.photo.person import Person, on_picture
from pipeline.photo.pose import CHIN, Pose
from pipeline.photo.resample import WHITE
from pipeline.photo.result import Matrix
from pipeline.photo.tally import median_colour, step_from

# How far a pixel must differ from the background before it is kept as the person's, and from where it is kept whole.
_KEPT_FROM, _KEPT_WHOLE = 24, 48
_KEPT = [max(0, min(255, round((v - _KEPT_FROM) * 255 / (_KEPT_WHOLE - _KEPT_FROM)))) for v in range(256)]
_WHOLE = [255 if v > 250 else 0 for v in range(256)]


def behind(person: Person, pose: Pose, frame_matrix: Matrix, size: tuple[int, int]) -> Image.Image:
    """The picture's pixels that are surely background: away from the person, above the chin, inside the source (mode L)."""
    seen = on_picture(person.free.astype(np.uint8) * 255, person, frame_matrix, size).point(_WHOLE)
    seen.paste(0, (0, max(0, round(pose.at(CHIN)[1])), *size))
    return seen


def whitened(picture: Image.Image, person: Person, frame_matrix: Matrix, seen: Image.Image) -> Image.Image:
    """The person on white, the mask as a soft matte. What clearly differs from the background is kept as well: fine hair."""
    matte = on_picture((person.mask * 255).astype(np.uint8), person, frame_matrix, picture.size)
    kept = step_from(picture, median_colour(picture, seen)).point(_KEPT)
    return Image.composite(picture, Image.new("RGB", picture.size, WHITE), ImageChops.lighter(matte, kept))
