"""The collected photos: each has the outcome, the reasons and the geometry written beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.photo.decode import reads
from pipeline.photo.profile import PhotoProfile
from tests.support.needs import lacking
from tests.unit.photo.conftest import Make
from tests.unit.photo.portraits import PHOTOS
from tests.unit.photo.verdicts import assert_kept, codes

MEASURES = {
    "face_px": "face_width_px", "top_px": "top_px", "eye_x_px": "eye_mid_x_px", "eye_bottom_px": "eye_to_bottom_px",
}  # fmt: skip


def rows() -> list[dict[str, str]]:
    with (PHOTOS / "MANIFEST.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.rule("DL-16(2)")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_a_sample_has_the_outcome_that_is_written_beside_it(
    row: dict[str, str], make: Make, profile: PhotoProfile
) -> None:
    if row["file"].endswith(".heic") and not reads("heic"):
        lacking("HEIC needs the extra `heic`")

    result = make((PHOTOS / row["file"]).read_bytes())

    assert_kept(result, profile)
    assert (result.picture is not None) == (row["outcome"] == "accept"), result.findings
    assert not row["any_of"] or codes(result) & set(row["any_of"].split("|")), result.findings
    for column, name in MEASURES.items():
        if row[column]:
            low, high = (float(bound) for bound in row[column].split("-"))
            assert low <= result.measures[name] <= high, name


def test_every_sample_names_where_it_comes_from_and_every_file_is_a_row() -> None:
    files = {path.relative_to(PHOTOS).as_posix() for path in PHOTOS.rglob("*") if path.is_file()}
    assert files - {"MANIFEST.tsv"} == {row["file"] for row in rows()}
    assert all(row["source"] and row["licence"] for row in rows())
    assert all(Path(row["file"]).suffix in {".jpg", ".png", ".heic"} for row in rows())
