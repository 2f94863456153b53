"""What the database itself refuses, whatever the code above it believes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Table, insert, select, update

from pipeline.application import Submission
from pipeline.store import tables as t
from pipeline.store.engine import IntegrityError

from .conftest import START


@pytest.fixture
def collected(line: Any, submission: Callable[..., Submission]) -> Any:
    """A line on which one card was handed over."""
    [i] = line.to_outlet(submission())
    line.hand_over(i)
    return line


def copied(line: Any, table: Table, **changes: Any) -> None:
    """Insert a copy of a table's first row with some columns changed."""
    with line.context.store.transaction() as tx:
        row = tx.conn.execute(select(table).order_by(*table.primary_key.columns)).first()
        tx.conn.execute(insert(table), {**row._mapping, **changes})


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(IntegrityError):
        yield


def again(line: Any, n: int, **changes: Any) -> None:
    """A second application of the same person."""
    asked = {"id": f"app_{n}", "external_ref": f"T-{n}", "acceptance_no": f"SL-{n}"}
    copied(line, t.submissions, **asked)
    copied(line, t.applications, id=f"app_{n}", **changes)


def test_a_person_has_one_live_application(collected: Any) -> None:
    again(collected, 2, status="photo", stage="photo")
    with refused():
        again(collected, 3, status="received")
    again(collected, 4, status="cancelled")


def test_a_card_that_was_given_up_does_not_stand_in_the_way(collected: Any) -> None:
    again(collected, 2, status="returned", ending="abandoned")
    again(collected, 3, status="received")


def test_an_external_reference_is_used_once(collected: Any) -> None:
    with refused():
        copied(collected, t.submissions, id="app_2", acceptance_no="SL-2")


def test_an_acceptance_number_is_used_once(collected: Any) -> None:
    with refused():
        copied(collected, t.submissions, id="app_2", external_ref="T-2")


def test_a_person_has_one_open_account_at_a_bank(collected: Any) -> None:
    with refused():
        copied(collected, t.accounts, id="acc_2", key="k2")
    copied(collected, t.accounts, id="acc_3", key="k3", status="closed", closed_at=START)
    copied(collected, t.accounts, id="acc_4", key="k4", bank_code="95588")


def test_an_application_has_one_blank_at_a_time(collected: Any) -> None:
    for state in t.BLANK_BOUND:
        with refused():
            copied(collected, t.blanks, serial="X1", state=state)
    copied(collected, t.blanks, serial="X2", state="spoiled")


def test_a_blank_in_use_names_its_application(collected: Any) -> None:
    for state in ("reserved", "encoding", "bound"):
        with refused():
            copied(collected, t.blanks, serial="X1", state=state, application_id=None)
    for state in t.BLANK_BOUND:
        with refused():
            copied(collected, t.blanks, serial="X1", state=state, application_id=None, job_id=None)
    copied(collected, t.blanks, serial="X1", state="stocked", application_id=None)
    copied(collected, t.blanks, serial="X2", state="quarantined", application_id=None)


def test_a_blank_becomes_one_card(collected: Any) -> None:
    with refused():
        copied(collected, t.cards, id="card_2", card_number="Y", status="voided")


def test_an_application_has_one_card_that_is_not_voided(collected: Any) -> None:
    with refused():
        copied(collected, t.cards, id="card_2", blank_serial="BL0002", card_number="Y")
    copied(collected, t.cards, id="card_3", blank_serial="BL0003", card_number="Z", status="voided")


def test_a_card_number_is_used_once(collected: Any) -> None:
    with refused():
        copied(collected, t.cards, id="card_2", blank_serial="BL0002", status="voided")


def test_a_card_is_handed_over_once_unless_that_was_taken_back(collected: Any) -> None:
    with refused():
        copied(collected, t.hand_overs, id="hov_2")
    undone = {"reverted_at": collected.clock.now(), "reverted_by": "clerk", "revert_reason": "slip"}
    copied(collected, t.hand_overs, id="hov_3", **undone)


def test_a_batch_is_not_complete_before_its_rows_add_up(line: Any) -> None:
    batch = dict.fromkeys(("next_row", "accepted", "rejected", "duplicate"), 0) | {"source": "s", "rows": 2}
    row = {**batch, "created_at": line.clock.now(), "status": "completed"}
    with refused(), line.context.store.transaction() as tx:
        tx.conn.execute(insert(t.batches), {**row, "id": "bat_1", "file_sha256": "1", "accepted": 1})
    with line.context.store.transaction() as tx:
        tx.conn.execute(insert(t.batches), {**row, "id": "bat_2", "file_sha256": "2", "accepted": 1, "duplicate": 1})


def test_words_that_are_no_state_are_refused(collected: Any) -> None:
    fresh: list[tuple[Table, dict[str, Any], tuple[str, ...]]] = [
        (t.blanks, {"serial": "X1", "application_id": None, "state": "stocked"}, ("state",)),
        (
            t.cards,
            {"id": "card_2", "blank_serial": "BL0002", "card_number": "Y", "status": "voided"},
            ("status", "custody"),
        ),
    ]
    for table, row, columns in fresh:
        for column in columns:
            with refused():
                copied(collected, table, **{**row, column: "somewhere"})
        copied(collected, table, **row)
    for column in ("status", "work", "lane"):
        with refused(), collected.context.store.transaction() as tx:
            tx.conn.execute(update(t.applications).values({column: "somewhere"}))
