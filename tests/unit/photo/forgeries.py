"""Files that lie, hide something, or cost too much: made by code from bytes."""

from __future__ import annotations

import struct
import zlib

_SOF0, _SOF2, _SOS = b"\xff\xc0", b"\xff\xc2", b"\xff\xda"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_IHDR_END = 33


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour_type: int = 2) -> bytes:
    """A PNG of compressed scan lines."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return PNG_MAGIC + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def blank_png(side: int) -> bytes:
    """A true square PNG without a single mark: thousands of pixels a byte."""
    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * (3 * side)
    return png(side, side, b"".join(packer.compress(row) for _ in range(side)) + packer.flush())


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one chunk more after its header."""
    return data[:_IHDR_END] + chunk(kind, body) + data[_IHDR_END:]


def claiming_png(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose header, with a right checksum, tells another size."""
    return PNG_MAGIC + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[_IHDR_END:]


def frame_at(data: bytes) -> int:
    """Where a JPEG's frame header begins."""
    return next(at for marker in (_SOF0, _SOF2) if (at := data.find(marker)) >= 0)


def claiming_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header tells another size."""
    at = frame_at(data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def framed_twice(data: bytes, width: int, height: int) -> bytes:
    """A JPEG with another frame header before its own."""
    at = frame_at(data)
    length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    forged = claiming_jpeg(data, width, height)[at : at + length]
    return data[:at] + forged + data[at:]


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    """A JPEG with one segment more behind its start."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def with_scans(data: bytes, scans: int) -> bytes:
    """A JPEG whose last scan is repeated until there are so many."""
    at, end = data.rindex(_SOS), data.rindex(b"\xff\xd9")
    missing = scans - data.count(_SOS)
    return data[:at] + data[at:end] * (missing + 1) + data[end:]
