"""Where a face is and how it is held, from the mesh's points. Pure geometry in whatever pixels the points are in.

Left and right are the image's, not the person's. Numbers of points are those of MediaPipe's face mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.photo.result import Matrix, Point
from pipeline.photo.vision import Points

EYE_LEFT, EYE_RIGHT = (33, 133), (362, 263)
"""Eye corners, each pair from left to right."""
LIDS_LEFT, LIDS_RIGHT = (159, 145), (386, 374)
LIPS = (13, 14)
NOSE, CHIN = 1, 152
EAR_LEFT, EAR_RIGHT = 234, 454
CHEEK_LEFT, CHEEK_RIGHT = (50, 205), (280, 425)

_CHIN_LOW = 0.1


@dataclass(frozen=True, slots=True)
class Pose:
    """A face's 468 points."""

    points: Points

    def at(self, number: int) -> Point:
        x, y = self.points[number]
        return (float(x), float(y))

    def between(self, pair: tuple[int, int]) -> Point:
        """The middle of two points."""
        (x0, y0), (x1, y1) = self.at(pair[0]), self.at(pair[1])
        return ((x0 + x1) / 2, (y0 + y1) / 2)

    def apart(self, pair: tuple[int, int]) -> float:
        """The distance of two points."""
        return math.dist(self.at(pair[0]), self.at(pair[1]))

    @property
    def eyes(self) -> tuple[Point, Point]:
        """The eye centres, left and right."""
        return self.between(EYE_LEFT), self.between(EYE_RIGHT)

    @property
    def eye_mid(self) -> Point:
        (x0, y0), (x1, y1) = self.eyes
        return ((x0 + x1) / 2, (y0 + y1) / 2)

    @property
    def width(self) -> float:
        """脸部宽: from ear root to ear root."""
        return self.apart((EAR_LEFT, EAR_RIGHT))

    @property
    def length(self) -> float:
        """From the midpoint between the eyes to the chin."""
        return math.dist(self.eye_mid, self.at(CHIN))

    @property
    def roll_deg(self) -> float:
        """How far the eye line is turned clockwise."""
        left, right = self.eyes
        return math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))

    def levelled(self, point: Point) -> Point:
        """A point along the eye line (x) and across it (y, down), from the midpoint between the eyes."""
        turn = math.radians(self.roll_deg)
        dx, dy = point[0] - self.eye_mid[0], point[1] - self.eye_mid[1]
        return (dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn))

    def extent(self) -> tuple[Point, float]:
        """The middle and the longer side of the box about all points that is level with the eyes."""
        turn = math.radians(self.roll_deg)
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = self.points[:, 0], self.points[:, 1]
        along, across = cos * x + sin * y, cos * y - sin * x
        left, right, top, bottom = (float(v) for v in (along.min(), along.max(), across.min(), across.max()))
        u, v = (left + right) / 2, (top + bottom) / 2
        return (cos * u - sin * v, sin * u + cos * v), max(right - left, bottom - top)

    def is_face(self, size: tuple[int, int]) -> bool:
        """Whether the points could be a face in an image of this size: no wider than it, eyes inside, the chin below them."""
        if not np.isfinite(self.points).all():
            return False
        (x, y), width = self.eye_mid, self.width
        inside = 0 <= x <= size[0] and 0 <= y <= size[1] and 1 < width <= max(size)
        return inside and self.levelled(self.at(CHIN))[1] > _CHIN_LOW * width

    @property
    def yaw_deg(self) -> float:
        """How far the face is turned to the side: the nose tip's place between the ear roots, along the eye line."""
        nose = self.levelled(self.at(NOSE))[0]
        left = nose - self.levelled(self.at(EAR_LEFT))[0]
        right = self.levelled(self.at(EAR_RIGHT))[0] - nose
        return (
            math.degrees(math.asin(max(-1.0, min(1.0, (left - right) / (left + right))))) if left + right > 0 else 90.0
        )

    @property
    def pitch_ratio(self) -> float:
        """How far the nose tip lies below the eyes, as a share of the way to the chin; 0.28 to 0.45 is usual."""
        return self.levelled(self.at(NOSE))[1] / self.length

    @property
    def eye_opening(self) -> float:
        """The smaller lid opening, as a share of its eye's width."""
        pairs = ((LIDS_LEFT, EYE_LEFT), (LIDS_RIGHT, EYE_RIGHT))
        return min(self.apart(lids) / max(self.apart(corners), 1e-6) for lids, corners in pairs)

    @property
    def mouth_opening(self) -> float:
        """The gap between the inner lips, as a share of the way from the eyes to the chin."""
        return self.apart(LIPS) / self.length

    def moved(self, matrix: Matrix) -> Pose:
        """The same face after (x, y) became (a·x + b·y + c, d·x + e·y + f)."""
        a, b, c, d, e, f = matrix
        x, y = self.points[:, 0], self.points[:, 1]
        return Pose(np.stack((a * x + b * y + c, d * x + e * y + f), axis=1).astype(np.float32))


def similarity(*, scale: float, turn_deg: float, onto: Point, origin: Point) -> Matrix:
    """The matrix that takes `origin` onto `onto`, enlarges by `scale` and turns clockwise by `turn_deg`."""
    cos, sin = scale * math.cos(math.radians(turn_deg)), scale * math.sin(math.radians(turn_deg))
    return (
        cos, -sin, onto[0] - cos * origin[0] + sin * origin[1],
        sin, cos, onto[1] - sin * origin[0] - cos * origin[1],
    )  # fmt: skip


def inverse(matrix: Matrix) -> Matrix:
    """The matrix that undoes another.

    Raises:
        ZeroDivisionError: it cannot be undone.
    """
    a, b, c, d, e, f = matrix
    det = a * e - b * d
    return (e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det)


def scaled(matrix: Matrix, factor: float) -> Matrix:
    """A matrix whose results are `factor` times as far from the origin: into the pixels of another size of the same image."""
    a, b, c, d, e, f = matrix
    return (a * factor, b * factor, c * factor, d * factor, e * factor, f * factor)
