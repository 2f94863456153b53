"""The numbers a region may change: what comes in, what goes out. Data in `config/photo/<name>.toml`, each with its source.

A profile may say `extends = "<name>"` and give only what differs. Knows nothing of images.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.errors import Defect

_TABLES = ("output", "file", "jpeg", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The picture on the card: its size and the density written into its header."""

    width_px: int
    height_px: int
    dpi: int


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
    file: FileWindow
    jpeg: Jpeg
    input: InputLimits
    sources: Mapping[str, str]


def load_profile(path: Path) -> PhotoProfile:
    """Read and check a profile.

    Raises:
        Defect: a value is missing, unknown, of the wrong kind, without a source, or the limits contradict each other.
        OSError: the file, or one it extends, cannot be read.
    """
    raw = _with_base(path, seen=())
    try:
        profile = _build(raw)
    except (KeyError, TypeError, ValueError) as problem:
        raise Defect(f"photo profile {path.name}: {problem}") from problem
    return profile


def _with_base(path: Path, *, seen: tuple[str, ...]) -> dict[str, Any]:
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as problem:
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
    unknown = raw.keys() - {"name", "version", "sources", *_TABLES}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    origins: dict[str, str] = {}
    values = {table: _values(raw, table, origins) for table in _TABLES}
    values["input"]["formats"] = tuple(values["input"]["formats"])
    profile = PhotoProfile(
        name=raw["name"],
        version=raw["version"],
        output=Output(**values["output"]),
        file=FileWindow(**values["file"]),
        jpeg=Jpeg(**values["jpeg"]),
        input=InputLimits(**values["input"]),
        sources=MappingProxyType(origins),
    )
    _check(profile)
    return profile


def _values(raw: dict[str, Any], table: str, origins: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, cell in raw[table].items():
        source = raw["sources"][cell["source"]]
        origins[f"{table}.{key}"] = f"{source['text']} ({source['date']})"
        values[key] = cell["value"]
    return values


def _check(profile: PhotoProfile) -> None:
    for part in (profile.output, profile.file, profile.jpeg, profile.input):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name != "formats" and (type(value) is not int or value <= 0):
                raise ValueError(f"{field.name} must be a positive whole number")
    if not set(profile.input.formats) <= {"jpeg", "png"} or not profile.input.formats:
        raise ValueError("input.formats may name jpeg and png")
    if profile.file.bytes_min > profile.file.bytes_max:
        raise ValueError("file.bytes_min is above file.bytes_max")
    if not profile.jpeg.quality_floor <= profile.jpeg.quality_start <= profile.jpeg.quality_ceiling <= 100:
        raise ValueError("jpeg.quality_floor, start and ceiling must rise and stay within 100")
