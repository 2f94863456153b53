"""The numbers a photo is judged by, taken from the finished picture's pixels and the face's points in it. Judges nothing.

The face's box reaches 0.41 face widths to both sides of the eyes, from 0.29 above them to 0.95 of the way to the chin.
The formulas for light and sharpness follow those of ISO/IEC 29794-5 as its reference implementation has them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.photo import pose as points
from pipeline.photo.pose import Pose
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.tally import spread, step_from, tally

Grey = NDArray[np.uint8]
"""height × width, luma 0 to 255."""
Box = tuple[int, int, int, int]

_SIDE, _UP, _DOWN = 0.41, 0.29, 0.95
_CHEEK = 0.06
_BAND = 0.06
_DARK, _BRIGHT, _EYE_DARK = 25, 247, 50
_LUMA_USUAL = 150
_OTHER_STEP = 40


def lengths(pose: Pose, *, crown_px: float, profile: PhotoProfile) -> dict[str, float]:
    """The four lengths of the national text and the room under the chin, in pixels of the picture."""
    eye_x, eye_y = pose.eye_mid
    return {
        "face_width_px": pose.width,
        "eye_mid_x_px": eye_x,
        "eye_to_bottom_px": profile.output.height_px - eye_y,
        "top_px": crown_px,
        "chin_to_bottom_px": profile.output.height_px - pose.at(points.CHIN)[1],
    }


def features(pose: Pose) -> dict[str, float]:
    """How head, eyes and mouth are held."""
    return {
        "yaw_deg": pose.yaw_deg,
        "pitch_ratio": pose.pitch_ratio,
        "eye_opening": pose.eye_opening,
        "mouth_opening": pose.mouth_opening,
    }


def light(picture: Image.Image, luma: Image.Image, pose: Pose) -> dict[str, float]:
    """Sharpness, exposure and colour of the face, and the darkness of the band across the eyes."""
    box = _face_box(pose, luma.size)
    grey = luma.crop(box)
    values = tally(grey)[0]
    left, right = (_cheek(picture, pose, pair) for pair in (points.CHEEK_LEFT, points.CHEEK_RIGHT))
    (light_left, a_left, b_left), (light_right, a_right, b_right) = lab(left), lab(right)
    return {
        "sharpness": _laplacian_variance(np.asarray(grey)) * (_LUMA_USUAL / max(values.mean, 1.0)) ** 2,
        "luma_mean": values.mean / 255,
        "dark_share": values.share(0, _DARK),
        "bright_share": values.share(_BRIGHT, 255),
        "side_light": abs(light_left - light_right),
        "colour": tally(spread(picture.crop(box)))[0].mean,
        "skin_a": (a_left + a_right) / 2,
        "skin_b": (b_left + b_right) / 2,
        "eye_band_dark": tally(luma.crop(_eye_band(pose, luma.size)))[0].share(0, _EYE_DARK - 1),
    }


def background(picture: Image.Image, luma: Image.Image, seen: Image.Image) -> dict[str, float]:
    """Luma, colour and structure of the pixels marked as background (mode L, 0 or 255); only their number when there are none."""
    values = tally(luma, seen)[0]
    measures = {"background_px": float(values.size)}
    if not values.size:
        return measures
    channels = tally(picture, seen)
    means = [channel.mean for channel in channels]
    step = step_from(picture, tuple(channel.percentile(0.5) for channel in channels))
    return measures | {
        "background_luma_mean": values.mean,
        "background_luma_sd": values.sd,
        "background_luma_p5": float(values.percentile(0.05)),
        "background_spread": max(means) - min(means),
        "background_edge": _sobel_mean(np.asarray(luma), np.asarray(seen) > 0),
        "background_rim": _rim(step, seen),
        "background_print": tally(step, seen)[0].share(_OTHER_STEP + 1, 255),
    }


def lab(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of an sRGB colour given from 0 to 255 (IEC 61966-2-1, CIE 15)."""
    red, green, blue = (c / 3294.6 if c <= 10.31475 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = (v ** (1 / 3) if v > 216 / 24389 else (v * 24389 / 27 + 16) / 116 for v in (x, y, z))
    return (116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz))


def _rim(step: Image.Image, seen: Image.Image) -> float:
    """The share of the pixels along the picture's edge that are not of the background's colour: at the top, or at a side down to the
    lowest background seen, whichever has most."""
    box = seen.getbbox()
    if box is None:
        return 0.0
    other = np.asarray(step)[: box[3]] > _OTHER_STEP
    return max(float(edge.mean()) for edge in (other[0], other[:, 0], other[:, -1]))


def _face_box(pose: Pose, size: tuple[int, int]) -> Box:
    x, y = pose.eye_mid
    half = _SIDE * pose.width
    return _box((x - half, y - _UP * pose.width, x + half, y + _DOWN * pose.length), size)


def _eye_band(pose: Pose, size: tuple[int, int]) -> Box:
    (x0, y0), (x1, y1) = pose.at(points.EYE_LEFT[0]), pose.at(points.EYE_RIGHT[1])
    half, middle = _BAND * pose.width, (y0 + y1) / 2
    return _box((x0, middle - half, x1, middle + half), size)


def _cheek(picture: Image.Image, pose: Pose, pair: tuple[int, int]) -> tuple[float, float, float]:
    half = _CHEEK * pose.width
    x, y = pose.between(pair)
    red, green, blue = tally(picture.crop(_box((x - half, y - half, x + half, y + half), picture.size)))
    return (red.mean, green.mean, blue.mean)


def _box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """Whole pixels inside the picture; at least three each way, whatever a wild mesh says."""
    left, top = (max(0, min(limit - 3, math.floor(at))) for at, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(limit, math.ceil(at)) for at, limit in zip(box[2:], size, strict=True))
    return (left, top, max(left + 3, right), max(top + 3, bottom))


def _laplacian_variance(grey: Grey) -> float:
    wide = grey.astype(np.int16)
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return float((4 * wide[1:-1, 1:-1] - around).astype(np.float32).var())


def _sobel_mean(luma: Grey, where: NDArray[np.bool_]) -> float:
    """The mean magnitude of the 3×3 Sobel gradient over the marked pixels that have all neighbours."""
    inner = where[1:-1, 1:-1]
    wide = luma.astype(np.int16)
    down = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    across = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    dx = (down[:, 2:] - down[:, :-2])[inner].astype(np.float32)
    dy = (across[2:] - across[:-2])[inner].astype(np.float32)
    return float(np.sqrt(dx * dx + dy * dy).mean()) if dx.size else 0.0
