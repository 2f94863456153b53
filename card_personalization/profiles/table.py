"""A TOML file read strictly: every complaint names file, line and key, and a key that nobody asked for is refused.

Knows TOML only; must not know what a profile means.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from card_personalization.errors import ProfileError

_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)

_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table", date: "a date"}
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_ITEM = re.compile(r"\s*[\[{]")
_SYNTAX_LINE = re.compile(r"\(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's content, and where each place of it stands: file and line."""

    data: dict[str, Any]
    lines: dict[str, tuple[str, int]]


def load_table(path: Path) -> Table:
    """The root table of a file. A file that `extends` another says what differs; what it `omit`s is left out.

    Raises:
        ProfileError: a file cannot be read, is not TOML, or extends one that extends another.
    """
    source = _read(path)
    base = source.data.pop("extends", None)
    omitted = source.data.pop("omit", [])
    if base is not None:
        source = _merged(_base(path, base, source.lines), source, omitted)
    return Table(str(path), "", source.data, source.lines)


def _base(path: Path, name: object, lines: Mapping[str, tuple[str, int]]) -> _Source:
    file = path.with_name(f"{name}.toml")
    if not isinstance(name, str) or not file.exists():
        raise ProfileError(str(path), "extends", f"names no profile beside this one: {name}", line=lines["extends"][1])
    base = _read(file)
    if "extends" in base.data:
        raise ProfileError(str(path), "extends", "names a profile that extends another", line=lines["extends"][1])
    return base


def _merged(base: _Source, own: _Source, omitted: Sequence[str]) -> _Source:
    """Tables are merged, everything else replaced."""

    def fresh(place: str) -> bool:
        return place.partition(".")[0].partition("[")[0] not in omitted

    data = {key: value for key, value in base.data.items() if fresh(key)}
    for key, value in own.data.items():
        there = data.get(key)
        data[key] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value
    lines = {place: where for place, where in base.lines.items() if fresh(place)}
    return _Source(data, {**lines, **own.lines})


def _read(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ProfileError(str(path), "file", "cannot be read") from error
    except UnicodeDecodeError as error:
        raise ProfileError(str(path), "file", "is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        place = _SYNTAX_LINE.search(str(error))
        raise ProfileError(str(path), "syntax", str(error), line=int(place[1]) if place else None) from error
    return _Source(data, {place: (str(path), line) for place, line in _lines(text).items()})


def _lines(text: str) -> dict[str, int]:
    """The line (from 1) of each table, key and element of a list of tables that begins a line of its own."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table, inside = "", ""
    for number, line in enumerate(text.splitlines(), start=1):
        if inside:
            if _ITEM.match(line):
                lines[f"{inside}[{counts[inside]}]"] = number
                counts[inside] += 1
            elif line.strip().startswith("]"):
                inside = ""
            continue
        if header := _HEADER.fullmatch(line):
            table = _indexed(header[2], counts, new=header[1] == "[[")
            lines[table] = number
        elif key := _KEY.match(line):
            place = f"{table}.{key[1]}".lstrip(".")
            lines[place] = number
            if line.partition("#")[0].rstrip().endswith("["):
                inside, counts[place] = place, 0
    return lines


def _indexed(name: str, counts: dict[str, int], *, new: bool) -> str:
    """A header's dotted name with the index of the element of each list of tables that it lies in."""
    place = ""
    parts = [part.strip().strip("\"'") for part in name.split(".")]
    for depth, part in enumerate(parts):
        place = f"{place}.{part}".lstrip(".")
        if new and depth == len(parts) - 1:
            counts[place] = counts.get(place, 0) + 1
        if place in counts:
            place = f"{place}[{counts[place] - 1}]"
    return place


class Table:
    """A TOML table that knows its file and place."""

    def __init__(self, file: str, place: str, data: dict[str, Any], lines: Mapping[str, tuple[str, int]]) -> None:
        self._file = file
        self._place = place
        self._data = data
        self._lines = lines
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def names(self) -> tuple[str, ...]:
        """The keys there are, in order of the file."""
        return tuple(self._data)

    def wrong(self, key: str, text: str) -> ProfileError:
        """The error for one key of this table."""
        place = self._at(key)
        file, line = self._where(place)
        return ProfileError(file, place, text, line=line)

    def take(self, key: str, kind: type[_T]) -> _T:
        """A required value of an exact type."""
        self._read.add(key)
        if key not in self._data:
            raise self.wrong(key, "is missing")
        value = self._data[key]
        if type(value) is not kind:
            raise self.wrong(key, f"must be {_KINDS.get(kind, kind.__name__)}")
        return value

    def number(self, key: str, *, least: int = 0, most: int = 1 << 16) -> int:
        """A whole number within bounds."""
        value = self.take(key, int)
        if not least <= value <= most:
            raise self.wrong(key, f"must lie between {least} and {most}")
        return value

    def digits(self, key: str, *, count: int | None = None, most: int = 1 << 16) -> str:
        """Decimal digits: `count` of them, or no more than `most`."""
        value = self.take(key, str)
        if not (value.isascii() and value.isdigit()) or (count is not None and len(value) != count):
            raise self.wrong(key, "must be digits" if count is None else f"must be {count} digits")
        if len(value) > most:
            raise self.wrong(key, f"must not be longer than {most} digits")
        return value

    def hexadecimal(self, key: str, *, size: int | None = None, most: int = 1 << 16) -> bytes:
        """Bytes written as hex digits."""
        try:
            value = bytes.fromhex(self.take(key, str))
        except ValueError as error:
            raise self.wrong(key, "must be hexadecimal") from error
        if size is not None and len(value) != size:
            raise self.wrong(key, f"must be {size} byte{'s' if size > 1 else ''}")
        if len(value) > most:
            raise self.wrong(key, f"must not be longer than {most} bytes")
        return value

    def choice(self, key: str, kind: type[_E]) -> _E:
        """One of the names of an enumeration."""
        try:
            return kind(self.take(key, str))
        except ValueError as error:
            raise self.wrong(key, "must be one of " + ", ".join(member.value for member in kind)) from error

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "must be a list of texts")
        return tuple(values)

    def octets(self, key: str) -> frozenset[int]:
        """A list, not empty, of single bytes written as hex digits."""
        try:
            values = [bytes.fromhex(text) for text in self.texts(key)]
        except ValueError as error:
            raise self.wrong(key, "must be hexadecimal") from error
        if not values or any(len(value) != 1 for value in values):
            raise self.wrong(key, "must be a list of single bytes, not empty")
        return frozenset(value[0] for value in values)

    def table(self, key: str) -> Table:
        """A table inside this one."""
        return Table(self._file, self._at(key), self.take(key, dict), self._lines)

    def tables(self, key: str) -> list[Table]:
        """A list of tables, not empty."""
        rows = self.take(key, list)
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise self.wrong(key, "must be a list of tables, not empty")
        place = self._at(key)
        return [Table(self._file, f"{place}[{index}]", row, self._lines) for index, row in enumerate(rows)]

    def done(self) -> None:
        """Refuse what nobody asked for: a misspelt key must not be silently ignored."""
        for key in self._data:
            if key not in self._read:
                raise self.wrong(key, "is not known")

    def _at(self, key: str) -> str:
        return f"{self._place}.{key}".lstrip(".")

    def _where(self, place: str) -> tuple[str, int]:
        """File and line of the place, else of the nearest thing that holds it."""
        while place not in self._lines:
            if "." not in place and "[" not in place:
                return self._file, 1
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self._lines[place]
