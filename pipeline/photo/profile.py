"""The numbers a region may change: what comes in, what is measured, what goes out. Data in `config/photo/<name>.toml`.

Every number names its source there. A profile may say `extends = "<name>"` and give only what differs. Knows nothing of images.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from pipeline.errors import Defect

FORMATS = frozenset({"jpeg", "png", "heic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The picture on the card: its size and the density written into its header."""

    width_px: int
    height_px: int
    dpi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How wide the face is in the picture: from cheek-and-ear join to cheek-and-ear join."""

    width_min_px: int
    width_target_px: int
    width_max_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far the top of the hair lies under the picture's upper edge."""

    top_min_px: int
    top_target_px: int
    top_max_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eye:
    """Where the midpoint between the eyes lies: from the left edge, and how far above the lower edge at least."""

    x_min_px: int
    x_target_px: int
    x_max_px: int
    bottom_min_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`margin_px` is kept inside every limit; `collar_min_px` shows under the chin; up to `keep_roll_deg` a photo that already
    is a picture keeps its frame."""

    margin_px: int
    collar_min_px: int
    keep_roll_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What counts as plain, white and nearly white, on the picture in 8-bit sRGB, and whether another colour is replaced.

    Plain: the standard deviation of luma, the mean 3×3 Sobel magnitude, and the shares of pixels of another colour
    along one edge (a border) and anywhere (a date, a mark) are at most these. White: plain, and the 5th
    percentile of luma and the spread (max − min) of the mean colour are inside these. Near white likewise, by its mean.
    """

    replace: bool
    guard_px: int
    seen_min_px: int
    plain_luma_sd_max: float
    plain_edge_max: float
    plain_rim_max: float
    plain_print_max: float
    white_luma_p5_min: float
    white_spread_max: float
    near_luma_mean_min: float
    near_spread_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a measure becomes a remark (`note`; a head that is noted for its roll is levelled), a warning (`warn`) or a refusal (`reject`); `pipeline.photo.measure` says how
    each is measured. Widths are source pixels, angles degrees, exposures and shares 0 to 1."""

    face_px_warn: float
    face_px_reject: float
    presence_none: float
    presence_clear: float
    other_face_ratio: float
    roll_note_deg: float
    roll_reject_deg: float
    yaw_warn_deg: float
    yaw_reject_deg: float
    pitch_note_min: float
    pitch_note_max: float
    sharpness_warn: float
    sharpness_reject: float
    dark_mean_warn: float
    dark_mean_reject: float
    dark_share_warn: float
    dark_share_reject: float
    bright_mean_warn: float
    bright_mean_reject: float
    bright_share_warn: float
    bright_share_reject: float
    side_light_warn: float
    side_light_reject: float
    colour_reject: float
    skin_a_min: float
    skin_a_max: float
    skin_b_min: float
    skin_b_max: float
    eye_opening_warn: float
    eye_opening_note: float
    eye_band_warn: float
    mouth_warn: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWindow:
    """How many bytes the picture's file may have, both ends included."""

    bytes_min: int
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """JPEG qualities (libjpeg's scale, 1 to 100): the wanted one and how far the search may go from it."""

    quality_floor: int
    quality_start: int
    quality_ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """What an upload may be, checked before any pixel exists.

    `pixels_max` holds for a baseline JPEG, which the decoder can shrink on the way; `pixels_max_undraftable` for all others.
    """

    formats: tuple[str, ...]
    bytes_max: int
    pixels_max: int
    pixels_max_undraftable: int
    side_max_px: int
    short_side_min_px: int
    scans_max: int
    draft_short_side_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoProfile:
    """One region's picture. `sources` says for every number (`output.dpi`) where it comes from."""

    name: str
    version: str
    output: Output
    face: Face
    head: Head
    eye: Eye
    layout: Layout
    background: Background
    limits: Limits
    file: FileWindow
    jpeg: Jpeg
    input: InputLimits
    sources: Mapping[str, str]


_TABLES: Mapping[str, type] = MappingProxyType({
    "output": Output, "face": Face, "head": Head, "eye": Eye, "layout": Layout, "background": Background,
    "limits": Limits, "file": FileWindow, "jpeg": Jpeg, "input": InputLimits,
})  # fmt: skip


def load_profile(path: Path) -> PhotoProfile:
    """Read and check a profile.

    Raises:
        Defect: a value is missing, unknown, of the wrong kind, without a source, or the limits contradict each other.
        OSError: the file, or one it extends, cannot be read.
    """
    raw = _with_base(path, seen=())
    try:
        return _build(raw)
    except KeyError as problem:
        raise Defect(f"photo profile {path.name}: {problem.args[0]} is missing") from problem
    except (AttributeError, TypeError, ValueError) as problem:
        raise Defect(f"photo profile {path.name}: {problem}") from problem


def load_profiles(directory: Path) -> dict[str, PhotoProfile]:
    """Every profile of a directory, by name.

    Raises:
        Defect: a profile is wrong, or its name is not its file's.
    """
    profiles = {path.stem: load_profile(path) for path in sorted(directory.glob("*.toml"))}
    for stem, profile in profiles.items():
        if stem != profile.name:
            raise Defect(f"photo profile {stem}.toml names itself {profile.name!r}")
    return profiles


def _with_base(path: Path, *, seen: tuple[str, ...]) -> dict[str, Any]:
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise Defect(f"photo profile {path.name}: {problem}") from problem
    base_name = own.pop("extends", None)
    if base_name is None:
        return own
    if path.stem in seen:
        raise Defect(f"photo profile {path.name} extends itself")
    base = _with_base(path.with_name(f"{base_name}.toml"), seen=(*seen, path.stem))
    tables = {key: {**base.get(key, {}), **own.get(key, {})} for key in (*_TABLES, "sources")}
    return {**base, **own, **tables}


def _build(raw: dict[str, Any]) -> PhotoProfile:
    if unknown := raw.keys() - {"name", "version", "sources", *_TABLES}:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    origins: dict[str, str] = {}
    tables = {table: kind(**_values(raw, table, kind, origins)) for table, kind in _TABLES.items()}
    profile = PhotoProfile(name=raw["name"], version=raw["version"], sources=MappingProxyType(origins), **tables)
    _check(profile)
    return profile


def _values(raw: dict[str, Any], table: str, kind: type, origins: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    kinds = get_type_hints(kind)
    for key, cell in raw[table].items():
        source = raw["sources"][cell["source"]]
        origins[f"{table}.{key}"] = f"{source['text']} ({source['date']})"
        values[key] = _typed(f"{table}.{key}", cell["value"], kinds.get(key))
    return values


def _typed(name: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and (type(value) is not int or value < 0):
        raise ValueError(f"{name} must be a whole number, not below 0")
    if kind is float or (kind is bool and type(value) is not bool):
        raise ValueError(f"{name} must be {'a number' if kind is float else 'true or false'}")
    return tuple(value) if isinstance(value, list) else value


def _check(profile: PhotoProfile) -> None:
    for part in (profile.output, profile.file, profile.jpeg, profile.input):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name != "formats" and value <= 0:
                raise ValueError(f"{field.name} must be a positive whole number")
    if not set(profile.input.formats) <= FORMATS or not profile.input.formats:
        raise ValueError(f"input.formats may name {', '.join(sorted(FORMATS))}")
    if profile.file.bytes_min > profile.file.bytes_max:
        raise ValueError("file.bytes_min is above file.bytes_max")
    if not profile.jpeg.quality_floor <= profile.jpeg.quality_start <= profile.jpeg.quality_ceiling <= 100:
        raise ValueError("jpeg.quality_floor, start and ceiling must rise and stay within 100")
    _check_geometry(profile)


def _check_geometry(profile: PhotoProfile) -> None:
    face, head, eye, margin = profile.face, profile.head, profile.eye, profile.layout.margin_px
    spans = {
        "face.width": (face.width_min_px, face.width_target_px, face.width_max_px),
        "head.top": (head.top_min_px, head.top_target_px, head.top_max_px),
        "eye.x": (eye.x_min_px, eye.x_target_px, eye.x_max_px),
    }
    for name, (low, target, high) in spans.items():
        if not low + margin <= target <= high - margin:
            raise ValueError(f"{name}: the target must lie {margin} px (layout.margin_px) inside its limits")
    if eye.x_max_px >= profile.output.width_px or eye.bottom_min_px + head.top_max_px >= profile.output.height_px:
        raise ValueError("eye: the limits do not fit the picture")
