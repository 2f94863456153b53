"""What an upload is, told from its bytes before any pixel exists. Knows no image library.

Reads only what it must: magic bytes, PNG's IHDR, JPEG's markers up to the first scan, HEIC's image extents. Whatever would cost too much to decode
is refused here, in about a millisecond a megabyte.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import InputLimits

Format = Literal["jpeg", "png", "heic"]

_MAGIC: tuple[tuple[Format, bytes], ...] = (("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n"))

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"})  # ISO/IEC 23008-12, annex B
_EXTENTS_MAX = 4096
_SEGMENTS_MAX = 4096  # a 20 MB colour profile takes 320, a camera's file some thirty
_CHUNKS_MAX = 8192  # 20 MB in the 8 KB pieces of common writers are 2560
_FF_SHARE = 8  # entropy-coded data has an FF in a hundred bytes or fewer

# ITU-T T.81, table B.1
_END = b"\xff\xd9"
_SOS, _EOI = 0xDA, 0xD9
_PROGRESSIVE = 0xC2
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, third edition, table 8: samples a pixel by colour type
_INFLATE_BYTES = 1 << 20
_IHDR_END = 33  # PNG, third edition, 11.2.2: signature, then the IHDR chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the bytes say they are. `buffered`: a JPEG whose every coefficient is kept while it is decoded, since it comes in more
    than one scan."""

    format: Format
    width_px: int
    height_px: int
    buffered: bool = False


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
        return find(
            "FILE_TOO_LARGE", measured=math.ceil(10 * len(data) / mib) / 10, limit=f"{limits.bytes_max / mib:g}"
        )
    kind = _kind(data)
    if kind is None or kind not in limits.formats:
        return find("FORMAT_UNSUPPORTED")
    header = _jpeg(data, scans_max=limits.scans_max) if kind == "jpeg" else _png(data) if kind == "png" else _heic(data)
    return header if isinstance(header, Finding) else _too_large_or_small(header, limits) or header


def _kind(data: bytes) -> Format | None:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "heic"
    return next((name for name, magic in _MAGIC if data.startswith(magic)), None)


def _jpeg(data: bytes, *, scans_max: int) -> Header | Finding:
    """Walk the markers to the end of the image; what follows it (a motion photo's film) is nobody's business."""
    marks = _marks(data)
    if marks is None:
        return find("TOO_MANY_SCANS", limit=str(scans_max))
    frame, first_scan, scans, at = None, None, 0, 2
    for _ in range(_SEGMENTS_MAX):
        nth = int(np.searchsorted(marks, at))
        if nth == len(marks):
            return find("FILE_TRUNCATED")
        at = int(marks[nth])
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _EOI:
            return _jpeg_header(frame, first_scan)
        if marker in _STANDALONE:
            at += 2
            continue
        if length < 2 or at + 2 + length > len(data):
            return find("FILE_CORRUPT" if data.endswith(_END) else "FILE_TRUNCATED")
        segment = Segment(marker=marker, offset=at + 4, payload=data[at + 4 : at + 2 + length])
        if marker == _SOS:
            scans, first_scan = scans + 1, first_scan or segment
        elif marker in _FRAMES and first_scan is None:
            frame = segment
        if scans > scans_max:
            break
        at += 2 + length
    return find("TOO_MANY_SCANS", measured=data.count(b"\xff\xda"), limit=str(scans_max))


def _marks(data: bytes) -> NDArray[np.intp] | None:
    """Where an FF stands before something else than 00, another FF or a restart marker; None when FF is all there is.

    Inside a scan an FF of the picture is followed by 00, so these are the markers (ITU-T T.81, B.1.1.5).
    """
    values = np.frombuffer(data, np.uint8)
    full = values[:-1] == 0xFF
    if np.count_nonzero(full) > len(values) // _FF_SHARE + 1024:
        return None
    at = np.flatnonzero(full)
    following = values[at + 1]
    marks: NDArray[np.intp] = at[(following != 0) & (following != 0xFF) & ~((following >= 0xD0) & (following <= 0xD7))]
    return marks


def _jpeg_header(frame: Segment | None, scan: Segment | None) -> Header | Finding:
    if frame is None or len(frame.payload) < 6 or scan is None or not scan.payload:
        return find("FILE_CORRUPT")
    return Header(
        format="jpeg",
        width_px=int.from_bytes(frame.payload[3:5], "big"),
        height_px=int.from_bytes(frame.payload[1:3], "big"),
        buffered=frame.marker >= _PROGRESSIVE or scan.payload[0] < frame.payload[5],
    )


def _png(data: bytes) -> Header | Finding:
    if len(data) < _IHDR_END or data.rfind(b"IEND") < 0:
        return find("FILE_TRUNCATED")
    if data[12:16] != b"IHDR" or not _few_chunks(data):
        return find("FILE_CORRUPT")
    return Header(
        format="png",
        width_px=int.from_bytes(data[16:20], "big"),
        height_px=int.from_bytes(data[20:24], "big"),
    )


def _few_chunks(data: bytes) -> bool:
    """Whether a PNG has no more chunks than an ordinary one: a reader spends time on each."""
    at = 8
    for _ in range(_CHUNKS_MAX):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def png_is_whole(data: bytes) -> bool:
    """Whether a PNG holds all the rows it claims; an interlaced one is believed. Inflates the file: for a suspicion only."""
    depth, colour, interlaced = data[24], data[25], data[28]
    row = 1 + (int.from_bytes(data[16:20], "big") * depth * _SAMPLES.get(colour, 0) + 7) // 8
    missing = 0 if interlaced else row * int.from_bytes(data[20:24], "big")
    stream, at = zlib.decompressobj(), 8
    try:
        while missing > 0 and at + 8 <= len(data) and not stream.eof:
            length = int.from_bytes(data[at : at + 4], "big")
            more = data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
            while more and missing > 0 and not stream.eof:
                missing -= len(stream.decompress(more, _INFLATE_BYTES))
                more = stream.unconsumed_tail
            at += 12 + length
    except zlib.error:
        return False
    return missing <= 0


def _heic(data: bytes) -> Header | Finding:
    """The largest image extent the file declares: tiles and thumbnails are smaller than the picture."""
    sizes: list[tuple[int, int]] = []
    at = data.find(b"ispe")
    while at >= 0 and at + 16 <= len(data) and len(sizes) < _EXTENTS_MAX:
        sizes.append((int.from_bytes(data[at + 8 : at + 12], "big"), int.from_bytes(data[at + 12 : at + 16], "big")))
        at = data.find(b"ispe", at + 16)
    if not sizes or not _plain_items(data):
        return find("FILE_CORRUPT")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(format="heic", width_px=width, height_px=height)


def _plain_items(data: bytes) -> bool:
    """Whether all item types of the `meta` box are ASCII, as ISO/IEC 14496-12 has them: the decoder dies of one that is not."""
    meta = data.find(b"meta") - 4
    end = meta + int.from_bytes(data[max(0, meta) : meta + 4], "big")
    at = data.find(b"infe", max(0, meta), end)
    for _ in range(_EXTENTS_MAX):
        if at < 0:
            return True
        item_type = at + (14 if data[at + 4] >= 3 else 12)  # a version 3 entry numbers its item with two bytes more
        if not data[item_type : item_type + 4].isascii():
            return False
        at = data.find(b"infe", at + 4, end)
    return False


def _too_large_or_small(header: Header, limits: InputLimits) -> Finding | None:
    width, height = header.width_px, header.height_px
    bounded = header.format == "jpeg" and not header.buffered
    pixels_max = limits.pixels_max if bounded else limits.pixels_max_undraftable
    if width * height > pixels_max or max(width, height) > limits.side_max_px:
        return find("TOO_MANY_PIXELS", measured=round(width * height / 1e6, 1), limit=f"{pixels_max / 1e6:g}")
    if min(width, height) < limits.short_side_min_px:
        return find("IMAGE_TOO_SMALL", measured=min(width, height), limit=str(limits.short_side_min_px))
    return None
