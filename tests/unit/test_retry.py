"""What follows an exception, for every kind there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Conflict, Defect, NeedsOperator, NotFound, OutcomeUnknown, StaleMessage, TransientError
from pipeline.outcomes import Hold, Wait
from pipeline.retry import ASK_SCHEDULE_S, SCHEDULE_S, disposition

NOW = datetime(2026, 3, 2, tzinfo=UTC)
SECRET = "999001198001010014"


def disposed(error: BaseException, *, attempts: int = 1, most: int = 5):  # type: ignore[no-untyped-def]
    return disposition(error, attempts=attempts, max_attempts=most, now=NOW, trace="abcd")


@pytest.mark.parametrize(("attempts", "seconds"), list(enumerate(SCHEDULE_S, start=1)))
def test_what_certainly_was_not_done_is_tried_again_by_schedule(attempts: int, seconds: int) -> None:
    found = disposed(TransientError(), attempts=attempts, most=99)
    assert (found.kind, found.outcome) == ("retry", Wait(NOW + timedelta(seconds=seconds), "retry:TransientError"))


@given(st.integers(1, 1000))
def test_the_wait_never_shrinks_and_its_last_value_repeats(attempts: int) -> None:
    def wait(n: int) -> timedelta:
        outcome = disposed(TransientError(), attempts=n, most=10_000).outcome
        assert outcome.until is not None
        return outcome.until - NOW  # type: ignore[no-any-return]

    assert wait(attempts) <= wait(attempts + 1) <= timedelta(seconds=SCHEDULE_S[-1])


@given(most=st.integers(1, 20), attempts=st.integers(1, 40))
def test_the_last_try_is_held_and_no_earlier_one(most: int, attempts: int) -> None:
    found = disposed(TransientError(), attempts=attempts, most=most)
    assert isinstance(found.outcome, Hold) == (attempts >= most)
    if isinstance(found.outcome, Hold):
        assert found.outcome.reason.code == "technical.exhausted"


@given(st.integers(1, 1000))
def test_an_unknown_outcome_is_asked_about_for_ever_and_never_held_by_count(attempts: int) -> None:
    found = disposed(OutcomeUnknown(), attempts=attempts, most=1)
    assert found.kind == "reconcile"
    assert isinstance(found.outcome, Wait)
    delay = (found.outcome.until - NOW).total_seconds()  # type: ignore[operator]
    assert delay == ASK_SCHEDULE_S[min(attempts, len(ASK_SCHEDULE_S)) - 1]


def test_what_needs_an_operator_is_held_with_its_reason() -> None:
    found = disposed(NeedsOperator("bank.not_connected"))
    assert (found.kind, found.outcome.reason.code) == ("hold", "bank.not_connected")


def test_a_stale_message_has_no_outcome() -> None:
    found = disposed(StaleMessage())
    assert (found.kind, found.outcome) == ("stale", None)


@pytest.mark.parametrize(
    "error",
    [Defect(SECRET), ZeroDivisionError(SECRET), NotFound(SECRET, SECRET), Conflict(SECRET, SECRET), KeyError(SECRET)],
    ids=lambda error: type(error).__name__,
)
def test_everything_else_is_a_defect_of_ours_held_with_its_trace_and_without_its_message(error: Exception) -> None:
    found = disposed(error)
    assert found.kind == "defect"
    reason = found.outcome.reason
    assert reason.code == "technical.exhausted"
    assert "trace abcd" in reason.en and "trace abcd" in reason.zh
    assert SECRET not in repr(found)


@pytest.mark.parametrize("error", [TransientError(SECRET), OutcomeUnknown(SECRET), NeedsOperator("code", SECRET)])
def test_no_outcome_repeats_a_message(error: Exception) -> None:
    assert SECRET not in repr(disposed(error))
    assert SECRET not in repr(disposed(error, attempts=9))
