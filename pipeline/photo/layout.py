"""Which part of a photo becomes the picture: the face's size and place, using the whole permitted range before refusing.

Pure arithmetic. The source is measured in face widths (fw) from the point between the eyes, along the eye line and across it;
everything else is pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.photo.profile import PhotoProfile

_SEAM_PX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the source offers: where the hair ends above the eyes, where the chin is, how far the source goes on below and to the
    sides, and on which sides it cuts the person."""

    crown: float
    chin: float
    below: float
    left: float
    right: float
    cut_left: bool = False
    cut_right: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The picture's frame: its size, how wide the face is in it, and where the midpoint between the eyes lies (from the left and
    from the top). `short_below`: the source ends above the frame's lower edge, or too little shows under the chin.
    `hair_cut`: the hair comes too near the upper edge, or is cut by it, so that the eye line keeps its place."""

    width_px: int
    height_px: int
    face_px: float
    eye_x: float
    eye_y: float
    short_below: bool = False
    hair_cut: bool = False


def place(room: Room, profile: PhotoProfile) -> Frame:
    """The frame: the target face width where it can be had, else the nearest; the hair's distance gives way before the width."""
    face, head, eye, margin = profile.face, profile.head, profile.eye, profile.layout.margin_px
    width, height = profile.output.width_px, profile.output.height_px
    lowest_eye_y = height - eye.bottom_min_px - margin
    crown = max(room.crown, 1e-3)
    eye_x = _eye_x(room, profile)
    at_least = max(
        (height - head.top_target_px) / (room.below + crown),
        eye_x / max(room.left, 1e-3) if room.cut_left else 0.0,
        (width - eye_x) / max(room.right, 1e-3) if room.cut_right else 0.0,
    )
    at_most = (lowest_eye_y - head.top_min_px - margin) / crown
    wanted = max(min(float(face.width_target_px), at_most), at_least)
    face_px = max(face.width_min_px + margin, min(wanted, face.width_max_px - margin))
    top = max(head.top_min_px + margin, min(float(head.top_target_px), lowest_eye_y - crown * face_px))
    eye_y = min(top + crown * face_px, float(lowest_eye_y))
    return framed(room, profile, face_px=face_px, eye_x=_nudged(eye_x, face_px, room, profile), eye_y=eye_y)


def framed(room: Room, profile: PhotoProfile, *, face_px: float, eye_x: float, eye_y: float) -> Frame:
    """The frame with a face so wide and the eyes there, whatever that costs."""
    height = profile.output.height_px
    missing = height - eye_y - room.below * face_px
    under_chin = height - eye_y - room.chin * face_px
    return Frame(
        width_px=profile.output.width_px,
        height_px=height,
        face_px=face_px,
        eye_x=eye_x,
        eye_y=eye_y,
        short_below=missing > 1 or under_chin < profile.layout.collar_min_px,
        hair_cut=eye_y - room.crown * face_px < profile.head.top_min_px,
    )


def _eye_x(room: Room, profile: PhotoProfile) -> float:
    """The target, unless the source cuts the person on one side: then towards that side, as far as it helps."""
    eye, margin = profile.eye, profile.layout.margin_px
    target, wide = float(eye.x_target_px), float(profile.face.width_target_px)
    if room.cut_left and not room.cut_right:
        return max(eye.x_min_px + margin, min(target, room.left * wide))
    if room.cut_right and not room.cut_left:
        return min(eye.x_max_px - margin, max(target, profile.output.width_px - room.right * wide))
    return target


def _nudged(eye_x: float, face_px: float, room: Room, profile: PhotoProfile) -> float:
    """The eyes' place moved by the few pixels by which the frame would leave the source at one side: no white seam at a shoulder."""
    eye, margin = profile.eye, profile.layout.margin_px
    over_left = eye_x - room.left * face_px
    over_right = profile.output.width_px - eye_x - room.right * face_px
    if 0 < over_left <= _SEAM_PX and over_right < 0:
        return max(eye.x_min_px + margin, eye_x - over_left)
    if 0 < over_right <= _SEAM_PX and over_left < 0:
        return min(eye.x_max_px - margin, eye_x + over_right)
    return eye_x


NAMES: Mapping[str, str] = MappingProxyType({
    "face_width_px": "脸部宽", "eye_mid_x_px": "双眼中点", "eye_to_bottom_px": "眼睛至下沿", "top_px": "头顶至上沿",
})  # fmt: skip
"""The four lengths of the national text, by the name of their measure."""


def limits(profile: PhotoProfile) -> Mapping[str, tuple[float, float]]:
    """Lower and upper limit of each length in `NAMES`, in pixels of the picture."""
    face, head, eye = profile.face, profile.head, profile.eye
    return {
        "face_width_px": (face.width_min_px, face.width_max_px),
        "eye_mid_x_px": (eye.x_min_px, eye.x_max_px),
        "eye_to_bottom_px": (eye.bottom_min_px, profile.output.height_px),
        "top_px": (head.top_min_px, head.top_max_px),
    }


def outside(measures: Mapping[str, float], profile: PhotoProfile) -> Mapping[str, tuple[float, float]]:
    """The limits that a picture's lengths break. Hair may be cut where the eye line is as low as it may be: it has priority."""
    allowed = limits(profile)
    broken = {name: span for name, span in allowed.items() if not span[0] <= measures[name] <= span[1]}
    low_eyes = measures["eye_to_bottom_px"] <= profile.eye.bottom_min_px + 2 * profile.layout.margin_px
    if low_eyes and measures["top_px"] < profile.head.top_min_px:
        broken.pop("top_px", None)
    return broken
