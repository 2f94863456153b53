"""What the photo stage asks of its models, as a port: faces, the points of one face, and where the person is.

The one adapter is `pipeline.photo.faces`; tests of everything else bring their own. Arrays are numpy; nothing here infers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""height × width × 3, sRGB."""
Points = NDArray[np.float32]
"""n × 2, (x, y) in pixels."""

MESH_SIDE = 192
PERSON_SIDE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A detected face in the pixels given: its box (left, top, width, height), its score from 0 to 1, and five points: image-left
    eye, image-right eye, nose tip, image-left and image-right corner of the mouth, as they are named for an upright face."""

    box: tuple[float, float, float, float]
    score: float
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """468 points of a face in the crop given, and how surely there is a face, 0 to 1."""

    points: Points
    presence: float


class Vision(Protocol):
    """Three models. One thread at a time."""

    def faces(self, pixels: Pixels) -> tuple[Seen, ...]:
        """Every face, best first, in a picture of about 320 px."""

    def mesh(self, crop: Pixels) -> Mesh:
        """The points of the face in a levelled square of `MESH_SIDE`."""

    def person(self, tile: Pixels) -> NDArray[np.float32]:
        """How surely each pixel of a square of `PERSON_SIDE` is the person: same height and width, 0 to 1."""
