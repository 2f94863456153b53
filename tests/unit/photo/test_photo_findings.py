"""One catalogue: every code the software can raise is in it, complete in both languages, at the levels it was given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.photo import findings
from pipeline.photo.findings import CATALOGUE, as_reason, confirmed, find, restored, worst_first

PACKAGE = Path(findings.__file__).parent

# R refuses, W warns, A is a remark; two letters: which one depends on the limit.
LEVELS = {
    "FILE_EMPTY": "R", "FILE_TOO_LARGE": "R", "FORMAT_UNSUPPORTED": "R", "FILE_CORRUPT": "R", "FILE_TRUNCATED": "R",
    "ANIMATED": "R", "TOO_MANY_PIXELS": "R", "TOO_MANY_SCANS": "R", "IMAGE_TOO_SMALL": "R",
    "COLOUR_MODE_UNSUPPORTED": "R", "NOT_COLOUR": "R", "PROCESSING_LIMIT": "R",
    "NO_FACE": "R", "SEVERAL_FACES": "R", "OTHER_FACE_BEHIND": "WA", "FACE_TOO_SMALL": "R", "FACE_UPSCALED": "W",
    "FACE_NOT_CLEAR": "R", "TILTED": "R", "NOT_FRONTAL": "RW", "HEAD_PITCHED": "A",
    "HEAD_CROPPED": "R", "SIDES_CROPPED": "R", "SHOULDERS_CROPPED": "R", "HAIR_CUT": "A",
    "BACKGROUND_NOT_PLAIN": "R", "BACKGROUND_NOT_WHITE": "R", "BACKGROUND_UNSEEN": "W", "BACKGROUND_WHITENED": "A",
    "BACKGROUND_REPLACED": "W",
    "BLURRED": "RW", "UNDER_EXPOSED": "RW", "OVER_EXPOSED": "RW", "UNEVEN_LIGHT": "RW", "SKIN_COLOUR_ODD": "W",
    "EYES_CLOSED": "WA", "MOUTH_OPEN": "W", "FACE_OCCLUDED": "W",
    "ROTATED": "A", "LEVELLED": "A", "ICC_IGNORED": "A", "QUALITY_CHANGED": "A", "SIZE_UNREACHABLE": "R",
    "HEAD_COVERED": "R", "GLARE_ON_GLASSES": "R", "UNIFORM": "R", "WRONG_PERSON": "R", "OUT_OF_DATE": "R",
    "RETOUCHED": "R",
}  # fmt: skip
BY_PEOPLE = {"HEAD_COVERED", "GLARE_ON_GLASSES", "UNIFORM", "WRONG_PERSON", "OUT_OF_DATE", "RETOUCHED"}

# What the texts say besides words.
FIELDS = {
    "FILE_TOO_LARGE": {"limit"}, "TOO_MANY_PIXELS": {"limit"}, "IMAGE_TOO_SMALL": {"limit"},
    "FACE_TOO_SMALL": {"measured"}, "TILTED": {"measured"}, "QUALITY_CHANGED": {"measured"}, "SIZE_UNREACHABLE": {"limit"},
}  # fmt: skip


def strings_in_code() -> Iterator[str]:
    """Every constant string of the package, outside the catalogue, that looks like a code."""
    for path in PACKAGE.glob("*.py"):
        if path.name == "findings.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CATALOGUE:
                yield node.value


def test_the_catalogue_is_the_published_one() -> None:
    letters = {"reject": "R", "warn": "W", "info": "A"}
    assert {code: "".join(letters[level] for level in entry.levels) for code, entry in CATALOGUE.items()} == LEVELS
    assert {code for code, entry in CATALOGUE.items() if entry.by == "person"} == BY_PEOPLE


def test_code_raises_what_is_open_to_code_and_all_of_it() -> None:
    assert set(strings_in_code()) == LEVELS.keys() - BY_PEOPLE


def test_no_code_is_raised_that_the_catalogue_does_not_have() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "find":
                first = node.args[0]
                assert not isinstance(first, ast.Constant) or first.value in CATALOGUE, path.name


@pytest.mark.parametrize("code", CATALOGUE)
def test_texts_are_whole_in_both_languages(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.search(r"[\u4e00-\u9fff]", entry.zh)
    assert not re.search(r"[\u4e00-\u9fff]", entry.en)
    assert entry.zh.endswith("。")
    assert entry.en.endswith(".")
    for text in (entry.zh, entry.en):
        assert set(re.findall(r"\{(\w*)\}", text)) == FIELDS.get(code, set())


def test_a_code_is_raised_by_its_own_side_and_at_its_own_levels_only() -> None:
    with pytest.raises(ValueError, match="HEAD_COVERED"):
        find("HEAD_COVERED")
    with pytest.raises(ValueError, match="FILE_EMPTY"):
        find("FILE_EMPTY", by="person")
    with pytest.raises(ValueError, match="FILE_EMPTY"):
        find("FILE_EMPTY", level="warn")
    with pytest.raises(KeyError):
        find("NO_SUCH_CODE")
    with pytest.raises(KeyError, match="measured"):
        find("TILTED")
    assert find("HEAD_COVERED", by="person").level == "reject"
    assert find("NOT_FRONTAL").level == "reject"
    assert find("NOT_FRONTAL", level="warn").level == "warn"


def test_a_finding_is_the_same_after_it_was_written_down() -> None:
    finding = find("FACE_TOO_SMALL", measured=92.0, limit=">= 110 px")
    assert restored(finding.code, finding.level, finding.measured, finding.limit) == finding
    assert finding.en == "The face is too small (92 px)."


def test_what_a_person_confirms_refuses() -> None:
    finding = find("EYES_CLOSED", level="warn", measured=0.05)
    assert confirmed(finding).level == "reject"
    assert (confirmed(finding).code, confirmed(finding).measured) == ("EYES_CLOSED", 0.05)


def test_findings_become_public_reasons_worst_first() -> None:
    remark, warning, refusal = find("ROTATED"), find("MOUTH_OPEN"), find("TILTED", measured=12.0)
    ordered = [as_reason(finding) for finding in worst_first((remark, warning, refusal))]
    assert [(reason.code, reason.level) for reason in ordered] == [
        ("photo.tilted", "reject"), ("photo.mouth_open", "warn"), ("photo.rotated", "info"),
    ]  # fmt: skip
    assert ordered[0].zh == "头部倾斜 12 度,请端正头部重拍。"
    assert ordered[0].pointer == "/photo"


def test_within_a_level_the_order_of_finding_stays() -> None:
    found = (find("MOUTH_OPEN"), find("ROTATED"), find("FACE_UPSCALED"), find("LEVELLED"))
    assert [finding.code for finding in worst_first(found)] == ["MOUTH_OPEN", "FACE_UPSCALED", "ROTATED", "LEVELLED"]
