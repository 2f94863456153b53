"""A small picture of any upload, for people to look at: decoded as safely as the photo stage does."""

from __future__ import annotations

import io

from pipeline.photo.decode import decode, draft_scale
from pipeline.photo.findings import Finding
from pipeline.photo.profile import InputLimits
from pipeline.photo.sniff import sniff

QUALITY = 82
LIMITS = InputLimits(
    formats=("jpeg", "png", "heic"),
    bytes_max=20_971_520,
    pixels_max=64_000_000,
    pixels_max_undraftable=25_000_000,
    side_max_px=12_000,
    short_side_min_px=1,
    scans_max=64,
    draft_short_side_px=1,
)
"""What is shown to people: whatever the decoder can open within these bounds, which are those of the national profile."""


def thumbnail(data: bytes, *, side_px: int) -> bytes | None:
    """A JPEG that fits a square of `side_px`, or None when the bytes are no picture we decode.

    Raises:
        MemoryError: there is not enough for it.
    """
    header = sniff(data, limits=LIMITS)
    if isinstance(header, Finding):
        return None
    decoded = decode(data, header, scale=draft_scale(header, short_side_px=side_px))
    if isinstance(decoded, Finding):
        if decoded.code == "PROCESSING_LIMIT":
            raise MemoryError
        return None
    small = decoded.image
    small.thumbnail((side_px, side_px))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, comment=b"")  # or the comment of the upload comes along
    return out.getvalue()
