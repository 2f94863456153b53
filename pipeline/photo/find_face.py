"""Finding the one face of a photo, upright: detected on a small copy, turned if the photo lies on its side, then measured.

What the detector took for a face and the mesh cannot follow is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from pipeline.photo.findings import Finding, find
from pipeline.photo.pose import Pose, similarity
from pipeline.photo.profile import Limits
from pipeline.photo.resample import Quality, view
from pipeline.photo.result import Point
from pipeline.photo.vision import MESH_SIDE, Seen, Vision

_DETECT_PX = 320
_DETECT_MAX_PX = 352
_UPRIGHT_DEG = 45
_SURE = 0.89
"""Upright portraits score 0.92 to 0.95, a face read upside down up to 0.88: below this the other three turns are looked at too."""
_CROP = 1.5
"""The mesh's square is this much wider than the face's box."""
_OTHERS_MAX = 3

# Clockwise degrees → what turns the picture so.
_TURNS: Mapping[int, Image.Transpose] = MappingProxyType({
    90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90,
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The face of a photo. `image` is upright, `turn_deg` how far it was turned clockwise for that; `pose` is in its pixels.

    `others` are the further faces in the same pixels; `other_ratio` is the area of the largest of them to the face's, or 0.
    """

    image: Image.Image
    turn_deg: int
    pose: Pose
    presence: float
    others: tuple[Seen, ...]
    other_ratio: float

    def turned(self, image: Image.Image) -> Image.Image:
        """Another decoding of the same photo, turned alike."""
        return _turned(image, self.turn_deg)


def find_face(image: Image.Image, vision: Vision, *, limits: Limits) -> Found | Finding:
    """The largest face, or the finding that there is none."""
    small = _small(image)
    turn, faces = 0, vision.faces(np.asarray(small))
    if not faces or faces[0].score < _SURE or not _is_upright(_largest(faces)):
        turn, faces = _surest_turn(small, faces, vision)
    if not faces:
        return find("NO_FACE")
    image, small = _turned(image, turn), _turned(small, turn)
    across, down = image.width / small.width, image.height / small.height
    faces = tuple(_enlarged(face, across, down) for face in faces)
    face = _largest(faces)
    presence, pose = _measured(image, face, vision, limits=limits)
    if presence < limits.presence_none or (turn and presence < limits.presence_clear) or not pose.is_face(image.size):
        return find("NO_FACE", measured=round(presence, 3), limit=f">= {limits.presence_none:g}")
    others = _others(image, face, faces, vision, limits)
    ratio = max((_area(other) for other in others), default=0.0) / _area(face)
    return Found(image=image, turn_deg=turn, pose=pose, presence=presence, others=others, other_ratio=ratio)


def _small(image: Image.Image) -> Image.Image:
    """A copy whose long side is about `_DETECT_PX`: whole pixels averaged, and resized only where that leaves too much."""
    long = max(image.size)
    if (whole := round(long / _DETECT_PX)) > 1:
        return image.reduce(whole)
    if long <= _DETECT_MAX_PX:
        return image
    size = (round(image.width * _DETECT_PX / long), round(image.height * _DETECT_PX / long))
    return image.resize(size, Image.Resampling.BILINEAR)


def _surest_turn(small: Image.Image, faces: tuple[Seen, ...], vision: Vision) -> tuple[int, tuple[Seen, ...]]:
    """The turn that shows the surest face with its eyes above its mouth, and the faces seen then; `faces` are those of no turn."""
    seen = {0: faces} | {turn: vision.faces(np.asarray(_turned(small, turn))) for turn in _TURNS}
    upright = {turn: tuple(face for face in found if _is_upright(face)) for turn, found in seen.items()}
    turn = max(upright, key=lambda t: upright[t][0].score if upright[t] else 0.0)
    return turn, upright[turn]


def _turned(image: Image.Image, turn_deg: int) -> Image.Image:
    return image.transpose(_TURNS[turn_deg]) if turn_deg else image


def _enlarged(face: Seen, across: float, down: float) -> Seen:
    left, top, width, height = face.box
    points = tuple((x * across, y * down) for x, y in face.points)
    return Seen(box=(left * across, top * down, width * across, height * down), score=face.score, points=points)


def _largest(faces: tuple[Seen, ...]) -> Seen:
    return max(faces, key=_area)


def _area(face: Seen) -> float:
    return face.box[2] * face.box[3]


def _eye_line_deg(face: Seen) -> float:
    (x0, y0), (x1, y1) = face.points[:2]
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def _is_upright(face: Seen) -> bool:
    eyes, mouth = face.points[:2], face.points[3:]
    return abs(_eye_line_deg(face)) <= _UPRIGHT_DEG and sum(y for _, y in eyes) < sum(y for _, y in mouth)


def _measured(image: Image.Image, face: Seen, vision: Vision, *, limits: Limits) -> tuple[float, Pose]:
    """How surely there is a face, and its points in the image.

    Measured twice: the detector's box varies with the photo's framing and the mesh with the box, so that a face's width would
    vary by 3 %. On the square about the points of the first mesh it varies by half of that.
    """
    left, top, width, height = face.box
    middle = (left + width / 2, top + height / 2)
    presence, pose = _meshed(image, middle, max(width, height), _eye_line_deg(face), vision, quality="quick")
    if presence < limits.presence_none or not pose.is_face(image.size):
        return presence, pose
    middle, side = pose.extent()
    return _meshed(image, middle, side, pose.roll_deg, vision)


def _meshed(
    image: Image.Image, middle: Point, side: float, turn_deg: float, vision: Vision, *, quality: Quality = "smooth"
) -> tuple[float, Pose]:
    centre = (MESH_SIDE / 2, MESH_SIDE / 2)
    matrix = similarity(scale=_CROP * side / MESH_SIDE, turn_deg=turn_deg, onto=middle, origin=centre)
    mesh = vision.mesh(np.asarray(view(image, matrix, (MESH_SIDE, MESH_SIDE), quality=quality)))
    return mesh.presence, Pose(mesh.points).moved(matrix)


def _others(
    image: Image.Image, face: Seen, faces: tuple[Seen, ...], vision: Vision, limits: Limits
) -> tuple[Seen, ...]:
    """Further faces. One large enough to refuse the photo must be a face to the mesh as well."""
    rest = sorted((other for other in faces if other is not face), key=_area, reverse=True)[:_OTHERS_MAX]
    return tuple(
        other
        for other in rest
        if _area(other) <= limits.other_face_ratio * _area(face)
        or _measured(image, other, vision, limits=limits)[0] >= limits.presence_none
    )
