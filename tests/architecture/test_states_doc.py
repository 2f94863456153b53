"""The states as documented are the states as they are, and each of them can be reached and left."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.states import LIVE, STAGES, STATUSES, diagram, public_status

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"


def test_the_document_is_what_the_table_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == diagram(), "run `make docs`"


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_goes_only_where_there_is_one(status: str) -> None:
    assert STATUSES[status].to <= set(STATUSES)
    assert status not in STATUSES[status].to


def test_every_status_can_be_reached() -> None:
    reached, new = {"received"}, {"received"}
    while new:
        new = {to for status in new for to in STATUSES[status].to} - reached
        reached |= new
    assert reached == set(STATUSES)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_can_come_to_an_end(status: str) -> None:
    seen, new = {status}, {status}
    while new:
        new = {to for one in new for to in STATUSES[one].to} - seen
        seen |= new
    assert seen & {"collected", "destroyed", "rejected", "cancelled"}


def test_every_stage_has_a_status_and_every_status_a_stage_that_is_one() -> None:
    assert {status.stage for status in STATUSES.values()} - {None} == set(STAGES)


def test_who_has_a_card_or_none_coming_may_apply_again() -> None:
    assert set(STATUSES) - set(LIVE) == {"collected", "destroyed", "rejected", "cancelled"}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_public_wording_in_both_languages(status: str) -> None:
    for held_from in (None, *STAGES):
        for bundle in (None, "packing", "sealed", "shipped", "received"):
            code, zh, en = public_status(status, held_from=held_from, bundle=bundle, ending="abandoned")
            assert code.isidentifier()
            assert zh
            assert en
