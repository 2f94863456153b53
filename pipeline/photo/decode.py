"""Bytes of a known format to an upright RGB image. Pillow is told which decoder to use and is never left to guess.

Everything a hostile file can make a decoder raise ends here as a finding.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image, ImageCms

from pipeline.photo.findings import Finding, find
from pipeline.photo.sniff import Header

_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4

# EXIF orientation → what makes it upright; 1 and all invalid values leave the image alone.
_UPRIGHT: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)

# Mode → why it is refused. `convert()` of the 16-bit ones would clip to white.
_REFUSED_MODES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("1", "L", "LA", "La", "I", "F"), "NOT_COLOUR"),
        **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "NOT_COLOUR"),
        "CMYK": "COLOUR_MODE_UNSUPPORTED",
    }
)

_DRAFT_SCALES = (8, 4, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An upright RGB image of at least the asked size, its colour profile (may be empty), and what was done to get it.

    `draft_scale` is how much smaller than the file the decoder made it; `orientation` the EXIF value that was honoured.
    """

    image: Image.Image
    icc: bytes
    draft_scale: int
    orientation: int


def decode(data: bytes, header: Header, *, short_side_px: int) -> Decoded | Finding:
    """Decode what `sniff` accepted; a JPEG at the coarsest scale that keeps a short side of `short_side_px`."""
    try:
        return _decode(data, header, short_side_px=short_side_px)
    except MemoryError:
        return find("PROCESSING_LIMIT")
    except Image.DecompressionBombError:
        return find("TOO_MANY_PIXELS", limit="89")
    except Exception as problem:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, struct.error and more
        return find("FILE_TRUNCATED" if "truncated" in str(problem).lower() else "FILE_CORRUPT")


def _decode(data: bytes, header: Header, *, short_side_px: int) -> Decoded | Finding:
    with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as image:
        if image.size != (header.width_px, header.height_px):
            return find(
                "FILE_CORRUPT"
            )  # two readers of one header must agree, or a limit was checked on the wrong size
        if header.format == "png" and getattr(image, "is_animated", False):
            return find("ANIMATED")
        if image.mode in _REFUSED_MODES:
            return find(_REFUSED_MODES[image.mode])
        icc = image.info.get("icc_profile") or b""
        scale = _draft(image, header, short_side_px=short_side_px)
        image.load()
        orientation = _orientation(image)
        upright = _upright(_on_white(image), orientation)
    return Decoded(image=upright, icc=icc, draft_scale=scale, orientation=orientation)


def _draft(image: Image.Image, header: Header, *, short_side_px: int) -> int:
    if header.format != "jpeg":
        return 1
    short = min(header.width_px, header.height_px)
    scale = next((s for s in _DRAFT_SCALES if short // s >= short_side_px), 1)
    image.draft("RGB", (header.width_px // scale, header.height_px // scale))
    return scale


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken EXIF is no reason to refuse a photo
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    operation = _UPRIGHT.get(orientation)
    return image if operation is None else image.transpose(operation)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", layered.size, (255, 255, 255))
    white.paste(layered, mask=layered.getchannel("A"))
    return white


def to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, Finding | None]:
    """The image in sRGB. A profile that cannot be read or is not for RGB is ignored, and that is a finding."""
    if not icc:
        return image, None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # noqa: BLE001 - LittleCMS reports a bad profile as OSError, PyCMSError or ValueError
        return image, find("ICC_IGNORED")
    return (image, find("ICC_IGNORED")) if converted is None else (converted, None)
