"""One catalogue: every code the software can raise is in it, complete in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.photo import findings
from pipeline.photo.findings import CATALOGUE, as_reason, find, worst_first

PACKAGE = Path(findings.__file__).parent


def raised_in_code() -> set[str]:
    text = "".join(path.read_text() for path in PACKAGE.glob("*.py") if path.name != "findings.py")
    return set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+|ANIMATED|BLURRED|TILTED)"', text)) - {"JPEG", "RGB"}


def test_every_raised_code_is_in_the_catalogue_and_open_to_code() -> None:
    assert raised_in_code() >= {"FILE_EMPTY", "TOO_MANY_SCANS", "SIZE_UNREACHABLE", "ANIMATED"}
    assert all(CATALOGUE[code].by == "code" for code in raised_in_code())


@pytest.mark.parametrize("code", CATALOGUE)
def test_texts_are_whole_in_both_languages(code: str) -> None:
    entry = CATALOGUE[code]
    assert entry.levels
    assert re.search(r"[\u4e00-\u9fff]", entry.zh)
    assert not re.search(r"[\u4e00-\u9fff]", entry.en)
    fields = [set(re.findall(r"\{(\w+)\}", text)) for text in (entry.zh, entry.en)]
    assert fields[0] >= fields[1]
    assert set().union(*fields) <= {"measured", "limit"}


def test_a_code_for_people_cannot_be_raised() -> None:
    with pytest.raises(ValueError, match="HEAD_COVERED"):
        find("HEAD_COVERED")
    with pytest.raises(ValueError, match="FILE_EMPTY"):
        find("FILE_EMPTY", level="warn")


def test_findings_become_public_reasons_worst_first() -> None:
    remark, warning, refusal = find("ROTATED"), find("MOUTH_OPEN"), find("TILTED", measured=12.0)
    ordered = [as_reason(finding) for finding in worst_first((remark, warning, refusal))]
    assert [(reason.code, reason.level) for reason in ordered] == [
        ("photo.tilted", "reject"), ("photo.mouth_open", "warn"), ("photo.rotated", "info"),
    ]  # fmt: skip
    assert ordered[0].zh == "头部倾斜 12 度,请端正头部重拍。"
    assert ordered[0].pointer == "/photo"
