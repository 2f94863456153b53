"""The bank desk's decisions: what an answer makes of a call, what would be told twice, which books agree, which night it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.ports import CloseAccount, Declined, Done, Pending
from pipeline.services.accounts import said_already
from pipeline.services.bank_desk import Differences, compare, judged
from pipeline.stages.bank_calls import NotYet, StillUnknown
from pipeline.store.bank_desk import Due, Settled
from producers.bank_desk import Night, tell

NOW = datetime(2026, 11, 27, 18, 30, tzinfo=UTC)  # half past two of the 28th in China
DONE = Done(account_ref="ref", card_number="6200000000000000018")


def due(state: str = "intent", *, asked: bool = False, tries: int = 0, **changed: Any) -> Due:
    told: dict[str, Any] = {
        "key": "ca-1", "bank_code": "95533", "account_id": "acc_1", "operation": "close_account", "state": state,
        "asked": asked, "since": None, "expected_by": None, "tries": tries, "account_ref": "ref",
        "instruction": CloseAccount(key="ca-1", bank_code="95533", account_ref="ref", reason="ended"),
    }  # fmt: skip
    return Due(**(told | changed))


# -------------------------------------------------------------------------------------------------------------- answers


def test_what_the_bank_did_is_done_and_what_it_declined_is_for_a_person() -> None:
    assert judged(due(), DONE, NOW) == Settled(key="ca-1", state="done")
    declined = judged(due(), Declined(code="E1", text="账户余额不为零"), NOW)
    assert declined == Settled(key="ca-1", state="declined", held=True, code="E1")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Done(account_ref="another", card_number="1"), "bank.wrong_reply"),
        (StillUnknown(), "bank.unknown"),
        (Defect("other content"), "bank.defect"),
    ],
)
def test_what_leaves_open_what_the_bank_did_is_held_as_unknown(answer: Any, code: str) -> None:
    settled = judged(due("pending", asked=True), answer, NOW)
    assert (settled.state, settled.held, settled.code) == ("unknown", True, code)


def test_a_call_that_cannot_be_made_up_any_more_is_for_a_person_and_holds_nobody_else_up() -> None:
    settled = judged(due(instruction=None), None, NOW)
    assert (settled.held, settled.code) == (True, "bank.no_data")


@pytest.mark.parametrize(
    ("call", "answer", "state"),
    [
        (due("intent"), TransientError(), "not_received"),
        (due("not_received"), TransientError(), "not_received"),
        (due("intent"), OutcomeUnknown(), "unknown"),
        (due("intent"), None, "intent"),  # no gateway was called
        (due("not_received"), None, "not_received"),
        (due("intent", asked=True), None, "unknown"),  # deserted by a dead process
        (due("intent", asked=True), TransientError(), "unknown"),
        (due("unknown", asked=True), OutcomeUnknown(), "unknown"),
        (due("pending", asked=True), TransientError(), "pending"),
    ],
)
def test_only_what_was_surely_not_received_may_be_given_without_asking(call: Due, answer: Any, state: str) -> None:
    settled = judged(call, answer, NOW)
    assert (settled.state, settled.held, settled.tries) == (state, False, 1)
    assert settled.next_try_at == NOW + timedelta(seconds=30)


def test_a_bank_out_of_reach_is_tried_ever_more_seldom_and_never_given_up() -> None:
    pauses, call = [], due()
    for _ in range(7):
        settled = judged(call, TransientError(), NOW)
        assert settled.next_try_at is not None
        pauses.append((settled.next_try_at - NOW).total_seconds())
        call = due(settled.state, tries=settled.tries)
    assert pauses == [30, 60, 120, 300, 900, 900, 900]


def test_a_bank_that_answers_later_is_asked_at_its_own_hour_but_not_without_a_pause() -> None:
    for late, until in ((timedelta(days=2), timedelta(days=2)), (timedelta(0), timedelta(seconds=30))):
        settled = judged(due(), Pending(expected_by=NOW + late), NOW)
        assert (settled.state, settled.expected_by, settled.next_try_at) == ("pending", NOW + late, NOW + until)


def test_what_may_still_be_on_its_way_is_asked_about_when_it_cannot_be_any_more() -> None:
    until = NOW + timedelta(seconds=40)
    assert judged(due(asked=True), NotYet(until=until), NOW) == Settled(key="ca-1", state="unknown", next_try_at=until)


# ------------------------------------------------------------------------------------------------------------ told twice


def told(*operations: str) -> Any:
    return [SimpleNamespace(operation=operation, card_id="card_1") for operation in operations]


FREEZE, RELEASE, CLOSE, ACTIVATE, UPDATE = (
    "freeze_financial", "release_financial", "close_account", "activate_financial", "update_holder",
)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "operation", "said"),
    [
        ((), FREEZE, False),
        ((FREEZE,), FREEZE, True),
        ((FREEZE, ACTIVATE, UPDATE), FREEZE, True),
        ((FREEZE, RELEASE), FREEZE, False),
        ((), RELEASE, True),
        ((FREEZE,), RELEASE, False),
        ((FREEZE, RELEASE), RELEASE, True),
        ((FREEZE,), CLOSE, False),
        ((CLOSE, FREEZE), CLOSE, True),
        ((ACTIVATE,), ACTIVATE, True),
        ((UPDATE,), UPDATE, False),
    ],
)
def test_a_bank_is_told_what_is_new_to_it(before: tuple[str, ...], operation: str, said: bool) -> None:
    assert said_already(told(*before), operation, "card_1") is said


def test_another_card_of_the_account_is_activated_too() -> None:
    assert not said_already(told(ACTIVATE), ACTIVATE, "card_2")


@given(st.lists(st.sampled_from([FREEZE, RELEASE]), max_size=12))
def test_freezes_and_releases_that_are_told_take_turns(wanted: list[str]) -> None:
    given_: list[str] = []
    for operation in wanted:
        if not said_already(told(*given_), operation, None):
            given_.append(operation)
    assert given_ == [FREEZE, RELEASE] * (len(given_) // 2) + [FREEZE] * (len(given_) % 2)


# ----------------------------------------------------------------------------------------------------------------- books

REPLIES = st.sampled_from([DONE, Declined(code="E", text=""), Pending(expected_by=NOW), None])
STATES = st.tuples(st.sampled_from(["done", "declined", "unknown", "pending"]), st.sampled_from([None, "ref", "other"]))
KEYS = st.sampled_from([f"k{n}" for n in range(8)])


@given(st.dictionaries(KEYS, STATES), st.dictionaries(KEYS, REPLIES))
def test_every_key_of_either_side_agrees_or_is_told_of_once(ours: Any, theirs: Any) -> None:
    found = compare("95533", date(2026, 11, 27), ours, theirs)
    told_of = [*found.ours_only, *found.theirs_only, *found.different]
    seen = {key for key, reply in theirs.items() if reply is not None}
    assert len(set(told_of)) == len(told_of) == found.count
    assert found.agreed + found.count == len(ours.keys() | seen)
    assert set(found.ours_only) == ours.keys() - seen
    assert set(found.theirs_only) == seen - ours.keys()


@pytest.mark.parametrize(
    ("state", "ref", "reply", "agree"),
    [
        ("done", "ref", DONE, True),
        ("done", None, DONE, True),
        ("done", "other", DONE, False),
        ("unknown", "ref", DONE, False),
        ("declined", "ref", DONE, False),
        ("declined", "ref", Declined(code="E", text=""), True),
        ("done", "ref", Declined(code="E", text=""), False),
        ("pending", "ref", Pending(expected_by=NOW), True),
        ("done", "ref", Pending(expected_by=NOW), False),
    ],
)
def test_the_same_end_about_the_same_account_agrees(state: str, ref: str | None, reply: Any, agree: bool) -> None:
    found = compare("95533", date(2026, 11, 27), {"k": (state, ref)}, {"k": reply})
    assert (found.agreed, found.different) == ((1, ()) if agree else (0, ("k",)))


# ----------------------------------------------------------------------------------------------------------------- night


def test_yesterdays_books_are_compared_once_when_they_are_closed_and_again_where_a_bank_did_not_answer() -> None:
    night, day = Night(), date(2026, 11, 27)
    assert night.due(NOW - timedelta(hours=1)) is None
    assert night.due(NOW) == day
    night.compared(day, complete=False, now=NOW)
    assert night.due(NOW + timedelta(minutes=59)) is None
    assert night.due(NOW + timedelta(hours=1)) == day
    night.compared(day, complete=True, now=NOW)
    assert night.due(NOW + timedelta(hours=2)) is None
    assert night.due(NOW + timedelta(days=1)) == date(2026, 11, 28)


def test_differences_are_an_error_in_the_log_and_a_bank_not_asked_makes_the_night_incomplete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    day = date(2026, 11, 27)
    differ = Differences(bank_code="95533", day=day, theirs_only=("k",))
    assert tell((differ,))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert not tell((Differences(bank_code="95588", day=day, asked=False),))
