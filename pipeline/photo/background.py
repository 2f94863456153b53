"""The background of the finished picture: which pixels are surely background, and making a plain one white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from pipeline.photo.person import Person, on_picture
from pipeline.photo.pose import CHIN, Pose
from pipeline.photo.resample import WHITE
from pipeline.photo.result import Matrix
from pipeline.photo.tally import median_colour, step_from

# How far a pixel must differ from the background before it is kept as the person's, and from where it is kept whole: next to the
# person and away from it.
_NEAR, _FAR = (24, 48), (90, 120)
_SUSPICION = 8  # an eighth of certainty that it is the person makes a pixel a neighbour
_WHOLE = [255 if v > 250 else 0 for v in range(256)]


def behind(person: Person, pose: Pose, frame_matrix: Matrix, size: tuple[int, int]) -> Image.Image:
    """The picture's pixels that are surely background: away from the person, above the chin, inside the source (mode L)."""
    seen = on_picture(person.free.astype(np.uint8) * 255, person, frame_matrix, size).point(_WHOLE)
    seen.paste(0, (0, max(0, round(pose.at(CHIN)[1])), *size))
    return seen


def whitened(picture: Image.Image, person: Person, frame_matrix: Matrix, seen: Image.Image) -> Image.Image:
    """The person on white, the mask as a soft matte.

    Fine hair at the mask's edge is kept where it differs from the background; away from it only what no shadow is, such as a hat
    that the mask misses.
    """
    matte = on_picture((person.mask * 255).astype(np.uint8), person, frame_matrix, picture.size)
    suspected = (np.minimum(person.mask * _SUSPICION, 1) * 255).astype(np.uint8)
    near = on_picture(suspected, person, frame_matrix, picture.size)
    step = step_from(picture, median_colour(picture, seen))
    kept = ImageChops.lighter(ImageChops.multiply(step.point(_ramp(*_NEAR)), near), step.point(_ramp(*_FAR)))
    return Image.composite(picture, Image.new("RGB", picture.size, WHITE), ImageChops.lighter(matte, kept))


def _ramp(low: int, high: int) -> list[int]:
    """For each value from 0 to 255: 0 up to `low`, 255 from `high`, straight between."""
    return [max(0, min(255, round((value - low) * 255 / (high - low)))) for value in range(256)]
