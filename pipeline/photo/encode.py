"""The picture's file: baseline JPEG, 4:2:0, no metadata, the wanted density, and a size inside the window.

The quality is the one nearest to the wanted whose file fits. It is written from bare pixels, so nothing of the upload's
EXIF, XMP, comments, thumbnails or trailing bytes can come along.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import FileWindow, Output, PhotoProfile
from pipeline.photo.sniff import Segment

# ITU-T T.81, B.1 and B.2
_START, _END = b"\xff\xd8", b"\xff\xd9"
_APP0, _DQT, _SOF0, _DHT, _SOS = 0xE0, 0xDB, 0xC0, 0xC4, 0xDA
_ORDER = re.compile(rb"\xe0\xdb+\xc0\xc4+\xda")
_STRAY = re.compile(rb"\xff(?!\x00)")  # in a scan without restarts nothing else follows FF
_WHOLE_SPECTRUM = b"\x00\x3f\x00"
_HUFFMAN = [0x00, 0x01, 0x10, 0x11]
_NO_TABLE = 0xFF
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
    bare = bare_jpeg(data)
    if bare is None:
        return False
    density = output.dpi.to_bytes(2, "big")
    return (
        (bare.width_px, bare.height_px) == (output.width_px, output.height_px)
        and bare.density == b"\x01" + density + density
        and bare.sampling == _SAMPLING_420
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BareJpeg:
    """The header of a JPEG with nothing in it besides a colour picture: its size, JFIF's unit and densities, and the sampling of
    the three components."""

    width_px: int
    height_px: int
    density: bytes
    sampling: bytes


def bare_jpeg(data: bytes) -> BareJpeg | None:
    """The header of a file that is one JFIF head, the tables, one baseline frame of three components and its one scan, byte after
    byte; None when anything is missing, doubled, out of order or more than that. Decodes nothing."""
    segments = list(_segments(data))
    if not (data.startswith(_START) and data.endswith(_END) and _ORDER.fullmatch(bytes(s.marker for s in segments))):
        return None
    found: dict[int, list[bytes]] = {}
    for segment in segments:
        found.setdefault(segment.marker, []).append(segment.payload)
    at = segments[-1].offset + len(segments[-1].payload)
    if at >= len(data) - 2 or _STRAY.search(data, at, len(data) - 2):
        return None
    head, frame, scan = (found[marker][0] for marker in (_APP0, _SOF0, _SOS))
    jfif = head[:7] == b"JFIF\0\x01\x01" and head[12:] == b"\0\0"  # 14 bytes, no thumbnail
    colour = len(frame) == 15 and frame[:1] == b"\x08" and frame[5:6] == b"\x03"
    single = len(scan) == 10 and scan[:1] == b"\x03" and scan[7:] == _WHOLE_SPECTRUM
    tables = _tables(found[_DQT], lambda _: 65) == [0, 1] and _tables(found[_DHT], _huffman_length) == _HUFFMAN
    if not (jfif and colour and single and tables):
        return None
    return BareJpeg(
        width_px=int.from_bytes(frame[3:5], "big"),
        height_px=int.from_bytes(frame[1:3], "big"),
        density=head[7:12],
        sampling=frame[7::3],
    )


def _segments(data: bytes) -> Iterator[Segment]:
    """The marker segments that follow the start one upon the other, to the first start of scan or to where they stop doing so."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            return
        yield Segment(marker=marker, offset=at + 4, payload=data[at + 4 : at + 2 + length])
        if marker == _SOS:
            return
        at += 2 + length


def _tables(payloads: list[bytes], length: Callable[[bytes], int]) -> list[int]:
    """The sorted numbers of the tables in segments of one kind; a number no table can have where one is cut off."""
    numbers = []
    for payload in payloads:
        rest = payload
        while rest:
            numbers.append(rest[0] if len(rest) >= length(rest) else _NO_TABLE)
            rest = rest[length(rest) :]
    return sorted(numbers)


def _huffman_length(table: bytes) -> int:
    """A byte for class and number, sixteen counts, and as many symbols as they say."""
    return 17 + sum(table[1:17])


def _fits(size: int, window: FileWindow) -> bool:
    return window.bytes_min <= size <= window.bytes_max


def _write(image: Image.Image, quality: int, *, dpi: int, optimize: bool = False) -> bytes:
    out = io.BytesIO()
    image.save(
        out, "JPEG", quality=quality, subsampling="4:2:0", dpi=(dpi, dpi), optimize=optimize, progressive=False, comment=b""
    )  # fmt: skip
    return out.getvalue()
