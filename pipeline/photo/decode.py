"""Bytes of a known format to an upright RGB image. Pillow is told which decoder to use and is never left to guess.

Everything a hostile file can make a decoder raise ends here as a finding.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from PIL import Image, ImageChops, ImageCms, PngImagePlugin

from pipeline.photo.findings import Finding, find
from pipeline.photo.sniff import Format, Header, png_is_whole

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

_SIDEWAYS = frozenset({5, 6, 7, 8})

# Mode → why it is refused. `convert()` of the 16-bit ones would clip to white.
_REFUSED_MODES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("1", "L", "LA", "La", "I", "F"), "NOT_COLOUR"),
        **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "NOT_COLOUR"),
        "CMYK": "COLOUR_MODE_UNSUPPORTED",
    }
)

PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024  # Pillow's own bound, 64 MiB of characters, can be 256 MB of memory
_NEVER_DECODED = ((128, 128),) * 3  # every coefficient 0, in RGB
_ICC_KEPT_BYTES = 65536
_DRAFT_SCALES = (8, 4, 2, 1)
_PILLOW_NAMES: Mapping[Format, str] = MappingProxyType({"jpeg": "JPEG", "png": "PNG", "heic": "HEIF"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An upright RGB image, its colour profile (may be empty), and what was done to get it.

    `draft_scale` is how much smaller than the file the decoder made it; `orientation` the EXIF value that was honoured;
    `sideways` whether width and height have changed places since the header.
    """

    image: Image.Image
    icc: bytes
    draft_scale: int
    orientation: int
    sideways: bool


def draft_scale(header: Header, *, short_side_px: float) -> int:
    """The coarsest scale at which the decoder keeps a short side of `short_side_px`; 1 where it cannot shrink."""
    if header.format != "jpeg":
        return 1
    short = min(header.width_px, header.height_px)
    return next((scale for scale in _DRAFT_SCALES if short / scale >= short_side_px), 1)


def decode(data: bytes, header: Header, *, scale: int = 1) -> Decoded | Finding:
    """Decode what `sniff` accepted, a JPEG `scale` times smaller (1, 2, 4, 8)."""
    try:
        return _decode(data, header, scale=scale)
    except MemoryError:
        return find("PROCESSING_LIMIT")
    except Exception as problem:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, struct.error and more
        return find("FILE_TRUNCATED" if "truncated" in str(problem).lower() else "FILE_CORRUPT")


def _decode(data: bytes, header: Header, *, scale: int) -> Decoded | Finding:
    opened = _opened(data, header)
    if not _same_size(opened, header):
        return find("FILE_CORRUPT")
    if header.format == "png" and getattr(opened, "is_animated", False):
        return find("ANIMATED")
    if opened.mode in _REFUSED_MODES:
        return find(_REFUSED_MODES[opened.mode])
    icc = opened.info.get("icc_profile") or b""
    turned_by_decoder = opened.size != (header.width_px, header.height_px)
    if scale > 1:
        opened.draft("RGB", (header.width_px // scale, header.height_px // scale))
    opened.load()
    if _is_short(data, header, opened):
        return find("FILE_TRUNCATED")
    orientation = _orientation(opened)
    image = _on_white(opened)
    exact = (header.width_px // scale, header.height_px // scale)
    if scale > 1 and image.size != exact:  # the decoder rounds up; once turned, a part of a pixel would move all others
        image = image.crop((0, 0, *exact))
    del opened  # of a large PNG there is room for two copies, not for three
    sideways = turned_by_decoder != (orientation in _SIDEWAYS)
    upright = _upright(image, orientation)
    return Decoded(image=upright, icc=icc, draft_scale=scale, orientation=orientation, sideways=sideways)


def reads(kind: Format) -> bool:
    """Whether this installation can decode a format: HEIC needs the extra `heic`."""
    return kind != "heic" or importlib.util.find_spec("pi_heif") is not None


def _opened(data: bytes, header: Header) -> Image.Image:
    if header.format == "heic":
        import pi_heif

        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[header.format]])


def _same_size(image: Image.Image, header: Header) -> bool:
    """Two readers of one header must agree, or a limit was checked on the wrong size. A HEIC is turned as it is opened."""
    said, seen = (header.width_px, header.height_px), image.size
    return seen == said or (header.format == "heic" and seen == said[::-1])


def _is_short(data: bytes, header: Header, image: Image.Image) -> bool:
    """Whether a file with a proper end holds fewer rows than it claims: its last row is what the decoder began with."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    if header.format == "jpeg":
        return last.getextrema() == _NEVER_DECODED
    return header.format == "png" and last.getbbox(alpha_only=False) is None and not png_is_whole(data)


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
    layered.paste((255, 255, 255, 255), mask=ImageChops.invert(layered.getchannel("A")))
    return layered.convert("RGB")


def to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, Finding | None]:
    """The image in sRGB. A profile that cannot be read or is not for RGB is ignored, and that is a finding."""
    if not icc:
        return image, None
    try:
        transform = _transform if len(icc) <= _ICC_KEPT_BYTES else _transform.__wrapped__
        return ImageCms.applyTransform(image, transform(icc)) or image, None
    except Exception:  # noqa: BLE001 - LittleCMS reports a bad profile as OSError, PyCMSError or ValueError
        return image, find("ICC_IGNORED")


@lru_cache(maxsize=8)
def _transform(icc: bytes) -> ImageCms.ImageCmsTransform:
    """Cameras share a few profiles, and making a transform costs more than applying it to a small picture."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
