"""The person on a small levelled tile about the face: how high the hair reaches, and where the source cuts the person.

The tile is the segmentation model's own size, so its mask is never resampled before it is measured. Lengths are in face widths
(fw) from the midpoint between the eyes unless they say otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.photo.layout import Frame, Room
from pipeline.photo.pose import Pose, inverse, similarity
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.resample import view
from pipeline.photo.result import Matrix, Point
from pipeline.photo.tally import median_colour, step_from, tally
from pipeline.photo.vision import PERSON_SIDE, Vision

SPAN_FW = 3.25
"""The tile's side."""
ABOVE_FW = 1.6
"""How much of the tile lies above the eyes: high hair must be seen to be cut knowingly."""
UNIT = PERSON_SIDE / SPAN_FW
"""Tile pixels a face width."""

_EYE_ROW = round(ABOVE_FW * UNIT)
_MIDDLE = PERSON_SIDE // 2
_MASK_BLEEDS = 3  # so many pixels of the tile the mask may reach beyond hair that can be seen
_MIXED_PX = 2  # so far resampling mixes the white beyond the source into its last pixels
_SLACK_PX = 2  # a frame that leaves the source by less touches it
_PAD = 64
_ASIDE_FW = 0.83  # to the side: half a picture
_LOW_FW = 1.3  # down: where shoulders reach a picture's sides
_SURE = 0.5
# All given in pixels of a picture whose face is this wide; the tile is coarser by `_GRAIN`.
_FACE_PX = 207
_GRAIN = UNIT / _FACE_PX
_CROWN_HALF_PX, _CROWN_SHARE = 120, 0.08
_HAIR_HALF_PX, _HAIR_RUN_PX, _HAIR_STEP = 100, 8, 40
_TOP_HALF_PX, _TOP_SHARE, _SIDE_SHARE = 100, 0.10, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the tile shows, `PERSON_SIDE` square: `mask` (0 to 1), `inside` (the source is there), `free` (the source alone, neither
    the person nor next to it), and `matrix` from the tile to the image. `room` is what the source offers to the frame."""

    mask: NDArray[np.float32]
    inside: NDArray[np.bool_]
    free: NDArray[np.bool_]
    matrix: Matrix
    room: Room

    def cut_at_top(self, frame: Frame) -> bool:
        """Whether the source ends inside the frame's top with the person on its outermost row."""
        rows, _ = _region(frame)
        half = max(1, round(_TOP_HALF_PX * _GRAIN))
        inside = self.inside[rows, _MIDDLE - half : _MIDDLE + half]
        mask = self.mask[rows, _MIDDLE - half : _MIDDLE + half]
        return _on_edge(inside, mask, axis=0) > _TOP_SHARE

    def cut_at_left(self, frame: Frame) -> bool:
        """Whether the source ends inside the frame's left with the person on its outermost column."""
        return _on_edge(self.inside[_region(frame)], self.mask[_region(frame)], axis=1) > _SIDE_SHARE

    def cut_at_right(self, frame: Frame) -> bool:
        """Whether the source ends inside the frame's right with the person on its outermost column."""
        inside, mask = self.inside[_region(frame)][:, ::-1], self.mask[_region(frame)][:, ::-1]
        return _on_edge(inside, mask, axis=1) > _SIDE_SHARE


def see(image: Image.Image, pose: Pose, vision: Vision, *, roll_deg: float, profile: PhotoProfile) -> Person:
    """Look at the person of whom `pose` is the face, levelled by `roll_deg`."""
    matrix = similarity(
        scale=pose.width / UNIT, turn_deg=roll_deg, onto=pose.eye_mid, origin=(_MIDDLE, _EYE_ROW)
    )  # fmt: skip
    tile = view(image, matrix, (PERSON_SIDE, PERSON_SIDE), quality="quick")
    mask = vision.person(np.asarray(tile))
    inside = _inside(matrix, image.size, edge_px=0.5)
    unmixed = _inside(matrix, image.size, edge_px=_MIXED_PX)
    free = unmixed & ~_grown(mask, profile.background.guard_px * UNIT / profile.face.width_target_px)
    above_chin = _EYE_ROW + round(pose.length / pose.width * UNIT)
    crown = (_EYE_ROW - _crown(mask, inside)) / UNIT
    if (found := _hair(tile, unmixed, free, above_chin, profile)) is not None:
        row, colour = found
        hair = _hair_line(image, pose, roll_deg, (_EYE_ROW - row) / UNIT, colour)
        crown = hair if crown - hair < _MASK_BLEEDS / UNIT else crown
    room = Room(
        crown=crown,
        chin=pose.length / pose.width,
        below=_reach(pose, roll_deg, image.size, [(x, 0.0) for x in (-_ASIDE_FW, 0.0, _ASIDE_FW)], (0, 1)),
        left=_reach(pose, roll_deg, image.size, [(0.0, y) for y in (0.0, _LOW_FW)], (-1, 0)),
        right=_reach(pose, roll_deg, image.size, [(0.0, y) for y in (0.0, _LOW_FW)], (1, 0)),
    )
    return Person(mask=mask, inside=inside, free=free, matrix=matrix, room=room)


def _reach(pose: Pose, turn_deg: float, size: tuple[int, int], starts: list[Point], way: tuple[int, int]) -> float:
    """How far the source goes on in one levelled direction, up to the edge on that side: the least of some starts (fw from the eyes).

    A start outside the source does not count. In a source that has to be turned the other edges come nearer on the way, which only
    matters where the person touches them.
    """
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    axis = 0 if way[0] else 1
    step = (way[0] * cos - way[1] * sin, way[0] * sin + way[1] * cos)[axis]
    limit = size[axis] if sum(way) > 0 else 0
    if step * sum(way) <= 0:  # turned by a right angle and more: no way leads there
        return math.inf
    ways = []
    for x, y in starts:
        at = (
            pose.eye_mid[0] + (x * cos - y * sin) * pose.width,
            pose.eye_mid[1] + (x * sin + y * cos) * pose.width,
        )
        if all(0 <= place <= most for place, most in zip(at, size, strict=True)):
            ways.append((limit - at[axis]) / step / pose.width)
    return max(0.0, min(ways, default=math.inf))


def _grown(mask: NDArray[np.float32], margin_px: float) -> NDArray[np.bool_]:
    """The person with a margin all around."""
    sure = Image.fromarray((mask > _SURE).astype(np.uint8) * 255)
    return np.asarray(sure.filter(ImageFilter.BoxBlur(max(1, round(margin_px))))) > 0


def _inside(matrix: Matrix, size: tuple[int, int], *, edge_px: float) -> NDArray[np.bool_]:
    """Where the tile shows the source, at least so many of its pixels away from the source's edge."""
    a, b, c, d, e, f = matrix
    at = np.arange(PERSON_SIDE) + 0.5
    x, y = a * at[None, :] + b * at[:, None] + c, d * at[None, :] + e * at[:, None] + f
    edge = edge_px * math.hypot(a, d)
    return (x >= edge) & (y >= edge) & (x <= size[0] - edge) & (y <= size[1] - edge)


def _crown(mask: NDArray[np.float32], inside: NDArray[np.bool_]) -> int:
    half = round(_CROWN_HALF_PX * _GRAIN)
    columns = slice(_MIDDLE - half, _MIDDLE + half)
    counts = np.count_nonzero((mask[:_EYE_ROW, columns] > _SURE) & inside[:_EYE_ROW, columns], axis=1)
    rows = np.flatnonzero(counts >= _CROWN_SHARE * 2 * half)
    return int(rows[0]) if rows.size else _EYE_ROW


def _hair(
    tile: Image.Image, inside: NDArray[np.bool_], free: NDArray[np.bool_], above: int, profile: PhotoProfile
) -> tuple[int, tuple[int, ...]] | None:
    """The first row with something that is not background, and the background's colour, where that is plain enough to tell."""
    limits, marked = profile.background, Image.fromarray(free.astype(np.uint8) * 255)
    marked.paste(0, (0, min(above, PERSON_SIDE), PERSON_SIDE, PERSON_SIDE))
    luma = tally(tile.convert("L"), marked)[0]
    # Not the deviation: what is looked for here would itself make the background uneven.
    uneven = luma.percentile(0.9) - luma.percentile(0.1) > 2 * limits.plain_luma_sd_max
    if luma.size < limits.seen_min_px * _GRAIN * _GRAIN or uneven:
        return None
    half = round(_HAIR_HALF_PX * _GRAIN)
    box = (_MIDDLE - half, 0, _MIDDLE + half, _EYE_ROW)
    colour = median_colour(tile, marked)
    step = np.asarray(step_from(tile.crop(box), colour))
    counts = np.count_nonzero((step > _HAIR_STEP) & inside[:_EYE_ROW, box[0] : box[2]], axis=1)
    rows = np.flatnonzero(counts >= round(_HAIR_RUN_PX * _GRAIN))
    return (int(rows[0]), colour) if rows.size else None


def _hair_line(image: Image.Image, pose: Pose, roll_deg: float, about: float, colour: tuple[int, ...]) -> float:
    """How far the hair reaches above the eyes, looked for again `about` there in pixels as fine as the picture's."""
    spare = round(2 / _GRAIN)
    height, size = round(about * _FACE_PX), (2 * _HAIR_HALF_PX, 2 * spare)
    matrix = similarity(
        scale=pose.width / _FACE_PX, turn_deg=roll_deg, onto=pose.eye_mid, origin=(_HAIR_HALF_PX, height + spare)
    )
    step = np.asarray(step_from(view(image, matrix, size, outside=colour), colour))
    rows = np.flatnonzero(np.count_nonzero(step > _HAIR_STEP, axis=1) >= _HAIR_RUN_PX)
    return about if not rows.size else (height + spare - int(rows[0])) / _FACE_PX


def _region(frame: Frame) -> tuple[slice, slice]:
    """The frame on the tile."""
    fine = UNIT / frame.face_px
    left, top = _MIDDLE - frame.eye_x * fine, _EYE_ROW - frame.eye_y * fine
    rows = slice(max(0, round(top)), min(PERSON_SIDE, round(top + frame.height_px * fine)))
    columns = slice(max(0, round(left)), min(PERSON_SIDE, round(left + frame.width_px * fine)))
    return rows, columns


def _on_edge(inside: NDArray[np.bool_], mask: NDArray[np.float32], *, axis: int) -> float:
    """The share of lines along `axis` that enter the source only after their first pixel, and find the person there."""
    first = inside.argmax(axis=axis)
    at = np.arange(first.size)
    there = mask[first, at] if axis == 0 else mask[at, first]
    late = (first > _SLACK_PX) & inside.any(axis=axis) & (there > _SURE)
    return float(late.mean()) if late.size else 0.0


def on_picture(values: NDArray[np.uint8], person: Person, frame_matrix: Matrix, size: tuple[int, int]) -> Image.Image:
    """A tile of one channel as the finished picture sees it; its edge goes on where the tile ends.

    `frame_matrix` takes the picture to the image, as `person.matrix` takes the tile.
    """
    a, b, c, d, e, f = _after(inverse(person.matrix), frame_matrix)
    padded = Image.fromarray(np.pad(values, _PAD, mode="edge"))
    moved = (a, b, c + _PAD, d, e, f + _PAD)
    return view(padded, moved, size, outside=0)


def _after(second: Matrix, first: Matrix) -> Matrix:
    """The matrix that does `first`, then `second`."""
    a, b, c, d, e, f = second
    g, h, i, j, k, m = first
    return (
        a * g + b * j, a * h + b * k, a * i + b * m + c,
        d * g + e * j, d * h + e * k, d * i + e * m + f,
    )  # fmt: skip
