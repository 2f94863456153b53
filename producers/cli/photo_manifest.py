"""A list of what should become of photos, and how far what became of them agrees with it.

A table with tabs between its columns: `file` as it is named in its folder; `outcome`, accept or reject; `any_of`, codes with | between
them of which one must have been found; `alt`, what would be right as well: further codes, or the other outcome; and ranges like
194-220 for `face_px`, `top_px`, `eye_x_px` and `eye_bottom_px`. Empty columns ask nothing, further ones are for people.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pipeline.photo.findings import CATALOGUE
from pipeline.photo.result import Normalised

OUTCOMES = ("accept", "reject")
RANGES: Mapping[str, str] = MappingProxyType({
    "face_px": "face_width_px", "top_px": "top_px", "eye_x_px": "eye_mid_x_px", "eye_bottom_px": "eye_to_bottom_px",
})  # fmt: skip
"""Columns of ranges, and the measures they are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One row: the outcomes that are right, the codes of which one must be found (none: any), ranges by measure."""

    file: str
    outcomes: frozenset[str]
    any_of: frozenset[str]
    ranges: Mapping[str, tuple[float, float]]


def read_manifest(path: Path) -> Mapping[str, Expected]:
    """The rows by their file.

    Raises:
        OSError: the list cannot be read.
        ValueError: it is no such list; the message says where.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [name for name in ("file", "outcome") if name not in (table.fieldnames or ())]:
                raise ValueError(f"缺少列 column missing: {', '.join(missing)}")
            rows = [_row(row, number) for number, row in enumerate(table, start=2)]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"不是制表符分隔的 UTF-8 文本 no UTF-8 text with tabs: {problem}") from None
    found = {row.file: row for row in rows}
    if len(found) < len(rows):
        raise ValueError("同一文件出现两次 a file is named twice")
    return found


def _row(row: Mapping[str | None, str | None], number: int) -> Expected:
    cells = {
        name: (value or "").strip() for name, value in row.items() if isinstance(name, str) and isinstance(value, str)
    }
    alternatives = _words(cells.get("alt", ""))
    codes = _words(cells.get("any_of", "")) | (alternatives - set(OUTCOMES))
    outcome = cells.get("outcome", "")
    if outcome not in OUTCOMES or (unknown := codes - set(CATALOGUE)):
        wrong = outcome if outcome not in OUTCOMES else ", ".join(sorted(unknown))
        raise ValueError(f"第 {number} 行 row {number}: {wrong!r}")
    try:
        ranges = {measure: _range(cells[name]) for name, measure in RANGES.items() if cells.get(name)}
    except ValueError as problem:
        raise ValueError(f"第 {number} 行 row {number}: {problem}") from None
    return Expected(
        file=cells["file"], outcomes=frozenset({outcome, *(alternatives & set(OUTCOMES))}), any_of=codes, ranges=ranges
    )


def _words(cell: str) -> frozenset[str]:
    return frozenset(word.strip() for word in cell.split("|") if word.strip())


def _range(cell: str) -> tuple[float, float]:
    low, dash, high = cell.partition("-")
    if not dash:
        raise ValueError(f"{cell!r} 应为 low-high must be low-high")
    return float(low), float(high)


def differences(expected: Expected, made: Normalised | None) -> tuple[str, ...]:
    """What does not agree, as short lines; none when all does. `made` is None for a file that could not be opened."""
    return ("not opened",) if made is None else tuple(_differences(expected, made))


def _differences(expected: Expected, made: Normalised) -> Iterator[str]:
    outcome = "reject" if made.rejections else "accept"
    if outcome not in expected.outcomes:
        yield f"{outcome}, not {' or '.join(sorted(expected.outcomes))}"
    if expected.any_of and not any(finding.code in expected.any_of for finding in made.findings):
        yield f"none of {' '.join(sorted(expected.any_of))}"
    for measure, (low, high) in expected.ranges.items():
        value = made.measures.get(measure)
        if value is None or not low <= value <= high:
            yield f"{measure} {'not measured' if value is None else f'{value:.1f}'}, not {low:g}-{high:g}"
