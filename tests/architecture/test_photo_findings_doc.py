"""The findings of a photo as documented are those of the catalogue."""

from __future__ import annotations

from pathlib import Path

from pipeline.photo.findings import document

DOCUMENT = Path(__file__).parents[2] / "docs" / "photo-findings.md"


def test_the_document_is_what_the_catalogue_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `make docs`"
