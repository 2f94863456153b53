"""The PNG files of card faces (ISO/IEC 15948): 8-bit RGB, not interlaced, one compressed stream, nothing but the picture.

No time, name or text goes in, so the same picture is always the same file. Must not know what the picture shows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

UP = 2
"""The filter type "Up": each byte is the difference to the one above it, modulo 256."""

CHANNELS = 3
BITS = 8

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR = 2
_PER_METRE = 1
_INCHES_PER_METRE = 1 / 0.0254
_LEVEL = 1  # after the filter a higher level costs twice the time for five per cent of the size


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Png:
    """A file taken apart: its size, its density, and the compressed scanlines as they stand in it."""

    width_px: int
    height_px: int
    dpi: float
    stream: bytes

    def __repr__(self) -> str:
        return f"Png({self.width_px}x{self.height_px}, {self.dpi:.0f} dpi)"


def encode(scanlines: Iterable[bytes], *, width_px: int, height_px: int, dpi: int) -> bytes:
    """A file of scanlines, in pieces of any length; each line is a filter-type byte and `3 * width_px` filtered bytes.

    Raises:
        ValueError: the scanlines are not as many bytes as the size asks.
    """
    compressor, length, stream = zlib.compressobj(_LEVEL), 0, []
    for piece in scanlines:
        length += len(piece)
        stream.append(compressor.compress(piece))
    if length != height_px * (CHANNELS * width_px + 1):
        raise ValueError(f"scanlines of {width_px}x{height_px} RGB cannot be {length} bytes")
    density = round(dpi * _INCHES_PER_METRE)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, BITS, _TRUECOLOUR, 0, 0, 0)),
            _chunk(b"pHYs", struct.pack(">IIB", density, density, _PER_METRE)),
            _chunk(b"IDAT", b"".join((*stream, compressor.flush()))),
            _chunk(b"IEND", b""),
        )
    )


def parse(data: bytes) -> Png:
    """Take a file apart that `encode` could have made; its scanlines stay compressed.

    Raises:
        ValueError: no PNG, of another kind, without a density, or damaged.
    """
    chunks = _chunks(data)
    try:
        width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        density_x, density_y, unit = struct.unpack(">IIB", chunks[b"pHYs"])
        stream = chunks[b"IDAT"]
    except (KeyError, struct.error) as error:
        raise ValueError("a PNG without a header, a density or a picture") from error
    if kind != [BITS, _TRUECOLOUR, 0, 0, 0] or not width or not height:
        raise ValueError("not an 8-bit RGB picture without interlacing")
    if unit != _PER_METRE or density_x != density_y or not density_x:
        raise ValueError("a PNG without a density in pixels per metre")
    return Png(width_px=width, height_px=height, dpi=density_x / _INCHES_PER_METRE, stream=stream)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks by kind; those of one kind joined, which is what several IDAT mean."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    chunks: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    while b"IEND" not in chunks:
        head = data[at : at + 8]
        if len(head) < 8:
            raise ValueError("the PNG is cut short")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(check) < 4 or zlib.crc32(kind + body) != int.from_bytes(check, "big"):
            raise ValueError("the PNG is damaged")
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + length
    return chunks
