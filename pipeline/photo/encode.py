"""The picture's file: baseline JPEG, 4:2:0, no metadata, the wanted density, and a size inside the window.

The quality is the one nearest to the wanted whose file fits. It is written from bare pixels, so nothing of the upload's
EXIF, XMP, comments, thumbnails or trailing bytes can come along.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import FileWindow, Output, PhotoProfile
from pipeline.photo.sniff import jpeg_segments

_SOF0, _APP0, _COMMENT = 0xC0, 0xE0, 0xFE
_METADATA = frozenset({*range(0xE1, 0xF0), _COMMENT})
_SAMPLING_420 = b"\x22\x11\x11"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A finished file and the quality it needed; `encodes` counts the trials."""

    data: bytes
    quality: int
    encodes: int


def encode(image: Image.Image, *, profile: PhotoProfile) -> Encoded | Finding:
    """Encode an RGB image of the profile's size at the fitting quality nearest to the wanted one."""
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    trials: dict[int, bytes] = {}

    def at(quality: int) -> bytes:
        if quality not in trials:
            trials[quality] = _write(bare, quality, dpi=profile.output.dpi)
        return trials[quality]

    quality = nearest_quality(lambda q: len(at(q)), profile=profile)
    if quality is not None:
        return Encoded(data=at(quality), quality=quality, encodes=len(trials))
    floor = profile.jpeg.quality_floor
    if len(at(floor)) > profile.file.bytes_max:
        small = _write(bare, floor, dpi=profile.output.dpi, optimize=True)
        if _fits(len(small), profile.file):
            return Encoded(data=small, quality=floor, encodes=len(trials) + 1)
    return find(
        "SIZE_UNREACHABLE",
        measured=len(at(profile.jpeg.quality_start)),
        limit=f"{profile.file.bytes_min}-{profile.file.bytes_max} B",
    )


def nearest_quality(size_at: Callable[[int], int], *, profile: PhotoProfile) -> int | None:
    """The quality nearest to the wanted one whose size is inside the window, by binary search; None if there is none.

    Too large at the wanted quality: the highest lower one that is small enough. Too small: the lowest higher one that is
    large enough. Sizes are taken to grow with quality.
    """
    window, start = profile.file, profile.jpeg.quality_start
    size = size_at(start)
    if _fits(size, window):
        return start
    if size > window.bytes_max:
        low, high = profile.jpeg.quality_floor, start - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if size_at(middle) <= window.bytes_max else (low, middle - 1)
    else:
        low, high = start + 1, profile.jpeg.quality_ceiling
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if size_at(middle) >= window.bytes_min else (middle + 1, high)
    inside_range = profile.jpeg.quality_floor <= low <= profile.jpeg.quality_ceiling
    return low if inside_range and _fits(size_at(low), window) else None


def is_clean(data: bytes, *, output: Output) -> bool:
    """Whether a file is what `encode` promises: size, density, one baseline 4:2:0 scan, and nothing besides the picture."""
    segments = list(jpeg_segments(data))
    frames = [s.payload for s in segments if s.marker == _SOF0]
    heads = [s.payload for s in segments if s.marker == _APP0]
    if len(frames) != 1 or len(heads) != 1 or any(s.marker in _METADATA for s in segments):
        return False
    frame, density = frames[0], output.dpi.to_bytes(2, "big")
    size = output.height_px.to_bytes(2, "big") + output.width_px.to_bytes(2, "big")
    jfif = heads[0][:5] == b"JFIF\0" and heads[0][7:14] == b"\x01" + density + density + b"\0\0"
    whole = data.count(b"\xff\xda") == 1 and data.find(b"\xff\xd9") == len(data) - 2
    return jfif and whole and frame[1:5] == size and frame[7::3] == _SAMPLING_420


def _fits(size: int, window: FileWindow) -> bool:
    return window.bytes_min <= size <= window.bytes_max


def _write(image: Image.Image, quality: int, *, dpi: int, optimize: bool = False) -> bytes:
    out = io.BytesIO()
    image.save(
        out, "JPEG", quality=quality, subsampling="4:2:0", dpi=(dpi, dpi), optimize=optimize, progressive=False, comment=b""
    )  # fmt: skip
    return out.getvalue()
