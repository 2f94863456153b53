"""Claim and settle: each row is run once, by who holds it, and fails alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.application import Submission
from pipeline.errors import NeedsOperator, OutcomeUnknown, TransientError
from pipeline.outcomes import Advance, Hold, Reason, Wait
from pipeline.retry import ASK_SCHEDULE_S, SCHEDULE_S
from pipeline.services import operate, run_stage
from pipeline.stages.base import Decision, Fact
from pipeline.stages.personalisation import CardProduced

from .conftest import Stand

Make = Callable[..., Submission]


def run(line: Any, stage: Any, ids: list[str], worker: str = "w1") -> run_stage.Ran:
    return run_stage.run(line.context, stage, ids, worker=worker)


def outcomes(ran: run_stage.Ran) -> list[str]:
    return sorted(settled.outcome for settled in ran.settled)


def raising(stage: Any, error: BaseException) -> Any:
    """The stage, with a port that answers every row with an error."""
    return Stand(stage, act=lambda requests: dict.fromkeys(requests, error))


def test_an_order_delivered_twice_at_once_is_run_once(line: Any, submission: Make) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 6)))
    line.step("validation")
    gate = threading.Barrier(3)

    def work() -> run_stage.Ran:
        gate.wait(10)
        return run(line, line.stages["photo"], ids)

    with ThreadPoolExecutor(3) as pool:
        told = [future.result(60) for future in [pool.submit(work) for _ in range(3)]]
    assert sum(len(ran.settled) for ran in told) == 5
    assert sum(ran.stale for ran in told) == 10
    assert [line.history(i).count("account") for i in ids] == [1] * 5


def test_an_order_of_work_that_was_done_does_nothing(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    version = line.row(i).version
    ran = run(line, line.stages["validation"], [i])
    assert (ran.stale, ran.settled) == (1, [])
    assert line.row(i).version == version


def test_ids_nobody_knows_are_stale(line: Any) -> None:
    assert run(line, line.stages["photo"], ["app_none"]).stale == 1


def test_who_lost_a_row_cannot_settle_it(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    photo = line.stages["photo"]

    def slow(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        line.clock.advance(photo.lease + timedelta(seconds=1))
        line.sweep()
        assert outcomes(run(line, photo, [i], "w2")) == ["advance"]
        return photo.act(requests)

    ran = run(line, Stand(photo, act=slow), [i], "w1")
    assert outcomes(ran) == ["stale"]
    assert line.status(i) == "account"
    assert line.history(i).count("account") == 1


def test_who_lost_a_row_before_the_intent_takes_no_blank(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("personalisation")
    stage = line.stages["personalisation"]

    def slow(*told: Any) -> Any:
        line.clock.advance(stage.lease + timedelta(seconds=1))
        line.sweep()
        assert outcomes(run(line, stage, [i], "w2")) == ["advance"]
        return stage.prepare(*told)

    ran = run(line, Stand(stage, prepare=slow), [i], "w1")
    assert (ran.stale, ran.settled) == (1, [])
    assert line.blanks() == {"stocked": 49, "bound": 1}
    assert [what for what, _ in line.encoder.asked] == ["make"]


def test_an_application_cancelled_under_way_binds_no_blank(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("personalisation")
    stage = line.stages["personalisation"]

    def meanwhile(*told: Any) -> Any:
        operate.cancel(line.context, i, reason="asked for", actor="op")
        return stage.prepare(*told)

    run(line, Stand(stage, prepare=meanwhile), [i])
    assert line.status(i) == "cancelled"
    assert line.blanks() == {"stocked": 50}
    assert line.encoder.asked == []


def test_a_paused_stage_begins_nothing_and_goes_on_when_resumed(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    queued = line.lease("photo")
    operate.pause(line.context, "photo", reason="new profile", actor="op")
    assert line.row(i).work == "ready"
    assert run(line, line.stages["photo"], queued).stale == 1
    operate.resume(line.context, "photo", actor="op")
    assert outcomes(line.step("photo")) == ["advance"]


def test_a_row_whose_facts_the_database_refuses_is_parked_and_its_neighbours_go_on(line: Any, submission: Make) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.until("personalisation")
    stage = line.stages["personalisation"]

    def settle(case: Any, *told: Any) -> Decision:
        decision = stage.settle(case, *told)
        if case.id != ids[1]:
            return decision
        [card] = decision.facts
        values = {name: getattr(card, name) for name in CardProduced.__dataclass_fields__}
        return Decision(Advance("dispatch"), (CardProduced(**values | {"serial": "no such blank"}),))

    run(line, Stand(stage, settle=settle), ids)
    assert [line.status(i) for i in ids] == ["dispatch", "held", "dispatch"]
    assert line.row(ids[1]).reasons[0]["code"] == "technical.exhausted"
    assert line.row(ids[1]).held_from == "personalisation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwritable(Fact):
    """A fact of a kind that nothing writes."""


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(Decision(Wait(datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))), "bank.pending")), id="OverflowError"),
        pytest.param(Decision(Hold(Reason(code="x\ud800", zh="", en=""))), id="UnicodeEncodeError"),
        pytest.param(Decision(Advance("photo"), (Unwritable(),)), id="no writer"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_written_for_any_reason_is_parked_with_a_trace_and_its_neighbours_go_on(
    line: Any, submission: Make, broken: Decision
) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    stage = line.stages["validation"]

    def prepare(case: Any, *told: Any) -> Decision:
        return broken if case.id == ids[1] else stage.prepare(case, *told)

    run(line, Stand(stage, prepare=prepare), ids)
    assert [line.status(i) for i in ids] == ["photo", "held", "photo"]
    [reason] = line.row(ids[1]).reasons
    assert reason["code"] == "technical.exhausted" and "trace" in reason["en"]


@pytest.mark.parametrize("where", ["prepare", "settle"])
def test_a_stage_that_fails_on_one_row_holds_only_that_row(line: Any, submission: Make, where: str) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.step("validation")
    stage = line.stages["photo"]

    def broken(case: Any, *told: Any) -> Any:
        if case.id == ids[1]:
            raise ZeroDivisionError("张小明")
        return getattr(stage, where)(case, *told)

    run(line, Stand(stage, **{where: broken}), ids)
    assert [line.status(i) for i in ids] == ["account", "held", "account"]
    [reason] = line.row(ids[1]).reasons
    assert reason["code"] == "technical.exhausted"
    assert "ZeroDivisionError" in reason["en"]
    assert "张小明" not in str(reason)


def test_a_port_that_fails_altogether_is_every_rows_own_outcome(line: Any, submission: Make) -> None:
    ids = line.accept(submission(1), submission(2))
    line.step("validation")

    def act(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        raise TransientError

    assert outcomes(run(line, Stand(line.stages["photo"], act=act), ids)) == ["wait", "wait"]
    assert [line.row(i).work for i in ids] == ["waiting", "waiting"]


def test_a_row_without_a_reply_is_a_defect_of_the_stage(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    run(line, Stand(line.stages["photo"], act=lambda requests: {}), [i])
    assert line.status(i) == "held"


def test_failures_that_pass_are_tried_by_schedule_and_then_held(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    broken = raising(line.stages["photo"], TransientError())
    most = line.context.policies.of("420100").max_attempts.value
    for attempt in range(1, most):
        run(line, broken, [i])
        row = line.row(i)
        assert (row.status, row.work, row.attempts) == ("photo", "waiting", attempt)
        left = (row.next_try_at - line.clock.now()).total_seconds()
        assert left == pytest.approx(SCHEDULE_S[attempt - 1], abs=3)
        line.clock.advance(timedelta(seconds=left - 1))
        line.sweep()
        assert line.row(i).work == "waiting"
        line.clock.advance(timedelta(seconds=2))
        line.sweep()
        assert line.row(i).work == "ready"
    run(line, broken, [i])
    assert line.status(i) == "held"
    assert line.row(i).reasons[0]["code"] == "technical.exhausted"
    operate.release(line.context, [i], reason="mended", actor="op")
    assert line.row(i).attempts == 0
    line.step("photo")
    assert line.status(i) == "account"


def test_a_step_that_succeeds_starts_the_count_again(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.step("validation")
    run(line, raising(line.stages["photo"], TransientError()), [i])
    assert line.row(i).attempts == 1
    line.clock.advance(timedelta(minutes=1))
    line.sweep()
    line.step("photo")
    assert line.row(i).attempts == 0


def test_an_unknown_outcome_is_asked_about_and_never_repeated(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("account")
    stage = line.stages["account"]

    def lost(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        stage.act(requests)
        return dict.fromkeys(requests, OutcomeUnknown())

    run(line, Stand(stage, act=lost), [i])
    row = line.row(i)
    assert row.work == "waiting"
    assert (row.next_try_at - line.clock.now()).total_seconds() == pytest.approx(ASK_SCHEDULE_S[0], abs=3)
    asked: list[bool] = []

    def watched(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.extend(request.ask_only for request in requests.values())
        return stage.act(requests)

    line.clock.advance(timedelta(seconds=31))
    line.sweep()
    run(line, Stand(stage, act=watched), [i])
    assert asked == [True]
    assert line.status(i) == "personalisation"
    assert len(line.ledger.accounts()) == 1


def test_what_needs_an_operator_is_held_with_its_own_reason(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("account")
    run(line, raising(line.stages["account"], NeedsOperator("bank.not_connected")), [i])
    assert (line.status(i), line.why(i)) == ("held", "bank.not_connected")


def test_a_policy_that_is_no_longer_kept_parks_its_applications(line: Any, submission: Make) -> None:
    from sqlalchemy import update

    from pipeline.store import tables as t

    [i] = line.accept(submission())
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.submissions).values(policy_version="lost+000000000000"))
    line.step("validation")
    assert (line.status(i), line.why(i)) == ("held", "technical.exhausted")


def test_a_card_at_its_outlet_is_never_taken_from_its_holder_by_a_fault_of_ours(line: Any, submission: Make) -> None:
    bad, good = line.to_outlet(submission(1), submission(2))
    line.notify(bad)
    line.notify(good)
    stage = line.stages["collection"]

    def broken(case: Any, *told: Any) -> Any:
        if case.id == bad:
            raise ZeroDivisionError
        return stage.prepare(case, *told)

    line.clock.advance(timedelta(days=31))
    line.sweep()
    run(line, Stand(stage, prepare=broken), [bad, good])
    assert line.events("card.uncollected_reminder") == 1
    assert (line.status(bad), line.why(bad)) == ("notified", "technical.exhausted")
    line.later(minutes=5)
    assert line.events("card.uncollected_reminder") == 1
    line.later(hours=1)
    assert line.events("card.uncollected_reminder") == 2
    line.hand_over(bad)
    assert line.status(bad) == "collected"


def test_the_urgent_go_first_and_then_who_is_due_first(line: Any, submission: Make) -> None:
    late, urgent = line.accept(
        submission(1),
        submission(2, priority="urgent", window="information_centre"),
    )
    line.clock.advance(timedelta(days=1))
    [later] = line.accept(submission(3))
    assert line.lease("validation") == [urgent, late, later]
