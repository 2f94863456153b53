"""Which move an outcome makes: every status, every outcome, and nothing the table does not know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import Defect
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reason, Reject, Wait
from pipeline.states import STATUSES
from pipeline.transitions import Move, at_station, by_hand, check, move

NOW = datetime(2026, 3, 2, tzinfo=UTC)
REASON = Reason(code="some.code", zh="原因", en="a reason")
STOPS: list[tuple[str, Outcome]] = [
    ("held", Hold(REASON)),
    ("awaiting_correction", Correct((REASON,))),
    ("rejected", Reject((REASON,))),
]


def made(status: str, outcome: Outcome) -> Move:
    return move(status, STATUSES[status].stage or "", outcome, now=NOW)


@pytest.mark.parametrize("frm", STATUSES)
@pytest.mark.parametrize("to", STATUSES)
def test_an_advance_goes_where_the_table_goes_and_nowhere_else(frm: str, to: str) -> None:
    if frm == to or to in STATUSES[frm].to:
        went = made(frm, Advance(to))
        stage = STATUSES[to].stage
        assert (went.status, went.stage, went.work) == (to, stage, "ready" if stage else "none")
    else:
        with pytest.raises(Defect):
            made(frm, Advance(to))


@pytest.mark.parametrize("frm", STATUSES)
@pytest.mark.parametrize(("to", "outcome"), STOPS, ids=[to for to, _ in STOPS])
def test_a_stop_is_a_stop_only_where_the_table_has_it(frm: str, to: str, outcome: Outcome) -> None:
    if frm == to or to in STATUSES[frm].to:
        stopped = made(frm, outcome)
        assert (stopped.status, stopped.stage, stopped.work, stopped.next_try_at) == (to, None, "none", None)
        assert (stopped.reasons, stopped.why) == ((REASON,), "some.code")
        assert stopped.held_from == (STATUSES[frm].stage or "" if to == "held" else None)
    else:
        with pytest.raises(Defect):
            made(frm, outcome)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    ("until", "work", "next_try_at"),
    [
        (None, "waiting", None),
        (NOW + timedelta(seconds=1), "waiting", NOW + timedelta(seconds=1)),
        (NOW, "ready", None),
        (NOW - timedelta(days=1), "ready", None),
    ],
    ids=["until woken", "until later", "until now", "until before"],
)
def test_a_wait_keeps_the_status(status: str, until: datetime | None, work: str, next_try_at: datetime | None) -> None:
    waits = made(status, Wait(until, "why"))
    assert (waits.status, waits.stage, waits.work, waits.next_try_at) == (
        status, STATUSES[status].stage or "", work, next_try_at,
    )  # fmt: skip
    assert waits.why == "why"


def test_a_held_application_can_go_back_to_every_stage_it_can_be_held_from() -> None:
    for status, known in STATUSES.items():
        if "held" in known.to:
            went = made(status, Hold(REASON))
            check("held", str(went.held_from))


def test_staying_is_no_transition_and_always_allowed() -> None:
    for status in STATUSES:
        check(status, status)


def test_a_move_by_hand_waits_for_a_clock_and_an_end_is_nobodys_turn() -> None:
    assert by_hand(made("dispatch", Advance("delivered"))).work == "waiting"
    assert by_hand(made("notified", Advance("collected"))).work == "none"


def test_a_move_at_the_station_is_the_stations_to_take_up() -> None:
    waits = made("personalisation", Wait(NOW + timedelta(minutes=1), "unknown:X"))
    kept = at_station(waits)
    assert (kept.work, kept.next_try_at) == ("reconcile", waits.next_try_at)
