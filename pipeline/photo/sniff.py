"""What an upload is, told from its bytes before any pixel exists. Knows no image library.

Reads only what it must: magic bytes, PNG's IHDR, JPEG's markers up to the first scan. Whatever would cost too much to decode
is refused here, in about a millisecond a megabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import InputLimits

Format = Literal["jpeg", "png"]

_MAGIC: tuple[tuple[Format, bytes], ...] = (("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n"))

# ITU-T T.81, table B.1
_END = b"\xff\xd9"
_SOS = 0xDA
_PROGRESSIVE = 0xC2
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})

_IHDR_END = 33  # PNG, third edition, 11.2.2: signature, then the IHDR chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the bytes say they are. `draftable`: the decoder can shrink it on the way (a JPEG that is not progressive)."""

    format: Format
    width_px: int
    height_px: int
    draftable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One JPEG marker segment: its marker's second byte, where its payload starts and the payload."""

    marker: int
    offset: int
    payload: bytes


def sniff(data: bytes, *, limits: InputLimits) -> Header | Finding:
    """The header of an acceptable upload, or the one reason why it is not decoded at all."""
    if not data:
        return find("FILE_EMPTY")
    if len(data) > limits.bytes_max:
        mib = 1024 * 1024
        return find("FILE_TOO_LARGE", measured=round(len(data) / mib, 1), limit=f"{limits.bytes_max / mib:g}")
    kind = next((name for name, magic in _MAGIC if data.startswith(magic)), None)
    if kind is None or kind not in limits.formats:
        return find("FORMAT_UNSUPPORTED")
    header = _jpeg(data, scans_max=limits.scans_max) if kind == "jpeg" else _png(data)
    return header if isinstance(header, Finding) else _too_large_or_small(header, limits) or header


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The marker segments of a JPEG up to and including its first start of scan.

    Ends early, without an exception, where the bytes end or stop being marker segments.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            return
        yield Segment(marker=marker, offset=at + 4, payload=data[at + 4 : at + 2 + length])
        if marker == _SOS:
            return
        at += 2 + length


def _jpeg(data: bytes, *, scans_max: int) -> Header | Finding:
    scans = data.count(b"\xff\xda")
    if scans > scans_max:
        return find("TOO_MANY_SCANS", measured=scans, limit=str(scans_max))
    frame: Segment | None = None
    for segment in jpeg_segments(data):
        if segment.marker in _FRAMES:
            frame = segment
        if segment.marker == _SOS:
            return _jpeg_header(data, frame, scan_at=segment.offset)
    return find("FILE_CORRUPT" if data.endswith(_END) else "FILE_TRUNCATED")


def _jpeg_header(data: bytes, frame: Segment | None, *, scan_at: int) -> Header | Finding:
    if frame is None or len(frame.payload) < 6:
        return find("FILE_CORRUPT")
    # Inside a scan FF is always followed by 00 or a restart marker, so the first FF D9 after it is the real end.
    if data.find(_END, scan_at) < 0:
        return find("FILE_TRUNCATED")
    return Header(
        format="jpeg",
        width_px=int.from_bytes(frame.payload[3:5], "big"),
        height_px=int.from_bytes(frame.payload[1:3], "big"),
        draftable=frame.marker < _PROGRESSIVE,
    )


def _png(data: bytes) -> Header | Finding:
    if len(data) < _IHDR_END or data.rfind(b"IEND") < 0:
        return find("FILE_TRUNCATED")
    if data[12:16] != b"IHDR":
        return find("FILE_CORRUPT")
    return Header(
        format="png",
        width_px=int.from_bytes(data[16:20], "big"),
        height_px=int.from_bytes(data[20:24], "big"),
    )


def _too_large_or_small(header: Header, limits: InputLimits) -> Finding | None:
    width, height = header.width_px, header.height_px
    pixels_max = limits.pixels_max if header.draftable else limits.pixels_max_undraftable
    if width * height > pixels_max or max(width, height) > limits.side_max_px:
        return find("TOO_MANY_PIXELS", measured=round(width * height / 1e6, 1), limit=f"{pixels_max / 1e6:g}")
    if min(width, height) < limits.short_side_min_px:
        return find("IMAGE_TOO_SMALL", measured=min(width, height), limit=str(limits.short_side_min_px))
    return None
