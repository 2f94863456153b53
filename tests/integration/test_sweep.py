"""The sweeper: what becomes of work whose holder is gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.application import Submission
from pipeline.services import operate, run_stage, sweep
from pipeline.services.sweep import CRASHES, fate
from pipeline.store import tables as t

from .conftest import Killed, StubEncoder, dies_after, dies_before

Make = Callable[..., Submission]


def killed(line: Any, stage: Any, ids: list[str]) -> None:
    """A worker dies over these rows, and their lease ends."""
    with pytest.raises(Killed):
        run_stage.run(line.context, stage, ids, worker="w-dead")


def leases_end(line: Any) -> None:
    line.clock.advance(timedelta(minutes=11))
    line.sweep()


def test_what_the_broker_lost_is_ready_again(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.lease("validation")
    line.sweep()
    assert line.row(i).work == "queued"
    leases_end(line)
    row = line.row(i)
    assert (row.work, row.crashes, row.solo) == ("ready", 0, False)


def test_rows_of_a_chunk_whose_worker_died_go_alone_and_none_is_blamed(line: Any, submission: Make) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.step("validation")
    killed(line, dies_before(line.stages["photo"]), line.lease("photo"))
    assert {line.row(i).work for i in ids} == {"running"}
    leases_end(line)
    assert {(r.work, r.solo, r.crashes) for r in map(line.row, ids)} == {("ready", True, 0)}
    line.step("photo")
    assert {(r.status, r.solo) for r in map(line.row, ids)} == {("account", False)}


def test_a_row_that_goes_alone_still_does_when_the_broker_lost_its_order(line: Any, submission: Make) -> None:
    ids = line.accept(submission(1), submission(2))
    line.step("validation")
    killed(line, dies_before(line.stages["photo"]), line.lease("photo"))
    leases_end(line)
    line.lease("photo")
    leases_end(line)
    assert {(r.work, r.solo) for r in map(line.row, ids)} == {("ready", True)}


def test_a_row_that_kills_its_worker_alone_is_parked_at_last_and_can_be_released(line: Any, submission: Make) -> None:
    poison, good = line.accept(submission(1), submission(2))
    line.step("validation")
    photo = line.stages["photo"]
    killed(line, dies_before(photo), line.lease("photo"))
    leases_end(line)
    run_stage.run(line.context, photo, [good], worker="w1")
    for crash in range(1, CRASHES):
        killed(line, dies_before(photo), [poison])
        leases_end(line)
        assert (line.row(poison).work, line.row(poison).crashes) == ("ready", crash)
    killed(line, dies_before(photo), [poison])
    leases_end(line)
    assert (line.status(poison), line.why(poison)) == ("held", "technical.exhausted")
    assert line.row(poison).held_from == "photo"
    operate.release(line.context, [poison], reason="mended", actor="op")
    line.step("photo")
    assert [line.status(i) for i in (poison, good)] == ["account", "account"]
    assert line.row(poison).crashes == 0


def test_a_waiting_card_whose_clock_kills_workers_does_not_stop_the_sweeper(line: Any, submission: Make) -> None:
    [i] = line.to_outlet(submission())
    line.notify(i)
    with line.context.store.transaction() as tx:
        gone = {"lease_token": "w", "lease_until": line.clock.now(), "lease_size": 1, "crashes": CRASHES - 1}
        tx.conn.execute(update(t.applications).values(work="running", **gone))
    line.clock.advance(timedelta(minutes=1))
    assert line.sweep().expired.total() == 1
    assert (line.status(i), line.why(i), line.row(i).work) == ("notified", "technical.exhausted", "waiting")


@pytest.mark.parametrize("dies", [dies_before, dies_after], ids=["before the bank", "after the bank"])
def test_a_worker_that_dies_around_the_bank_opens_one_account_by_one_key(
    line: Any, submission: Make, dies: Any
) -> None:
    [i] = line.accept(submission())
    line.until("account")
    killed(line, dies(line.stages["account"]), line.lease("account"))
    before = [account.key for account in line.ledger.accounts()]
    assert len(before) == (dies is dies_after)
    leases_end(line)
    assert line.row(i).work == "ready"
    line.run()
    for _ in range(3):
        line.later(minutes=2)
    assert "personalisation" in line.history(i)
    [account] = line.ledger.accounts()
    assert before in ([], [account.key])
    with line.context.store.transaction() as tx:
        [known] = tx.conn.execute(t.accounts.select()).all()
        [call] = tx.conn.execute(t.external_calls.select().where(t.external_calls.c.seq.is_(None))).all()
    assert (known.key, known.status) == (account.key, "open")
    assert (call.key, call.state) == (account.key, "done")


def test_an_instruction_that_may_still_be_on_its_way_is_not_given_again(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("account")
    killed(line, dies_before(line.stages["account"]), line.lease("account"))
    with line.context.store.transaction() as tx:  # the worker's end is known at once
        tx.conn.execute(update(t.applications).values(work="ready", lease_token=None, lease_until=None))
    line.step("account")
    assert line.ledger.accounts() == []
    assert (line.row(i).work, line.why(i)) == ("waiting", "bank.asked")


@pytest.mark.parametrize("dies", [dies_before, dies_after], ids=["before the chip", "after the chip"])
def test_a_worker_that_dies_with_a_blank_leaves_it_to_its_own_station(line: Any, submission: Make, dies: Any) -> None:
    [i] = line.accept(submission())
    line.until("personalisation")
    stage = line.stages["personalisation"]
    killed(line, dies(stage), line.lease("personalisation"))
    assert line.blanks() == {"stocked": 49, "reserved": 1}
    leases_end(line)
    assert line.row(i).work == "reconcile"
    assert line.lease("personalisation") == []
    assert run_stage.run(line.context, stage, [i], worker="w1").stale == 1
    others = run_stage.reconcile(line.context, stage, worker="w2", station="enc_2", limit=8)
    assert others.settled == []
    ours = run_stage.reconcile(line.context, stage, worker="w1", station="enc_1", limit=8)
    assert [settled.outcome for settled in ours.settled] == ["advance"]
    assert line.encoder.asked[-1] == ("recover", "BL0001")
    assert line.blanks() == {"stocked": 49, "bound": 1}
    assert line.status(i) == "dispatch"


def test_another_station_gives_back_a_row_whose_blank_it_does_not_hold(line: Any, submission: Make) -> None:
    from pipeline.stages.personalisation import Personalisation

    [i] = line.accept(submission())
    line.encoder.verdicts["BL0001"] = "unknown"
    line.until("personalisation")
    line.step("personalisation")
    operate.release(line.context, [i], reason="look again", actor="op")
    stranger = StubEncoder(station="enc_2")
    elsewhere = Personalisation(stranger, objects=line.context.objects)
    run_stage.run(line.context, elsewhere, [i], worker="w2")
    assert stranger.asked == []
    assert (line.row(i).work, line.why(i)) == ("waiting", "station.elsewhere")
    del line.encoder.verdicts["BL0001"]
    line.clock.advance(timedelta(minutes=2))
    line.sweep()
    line.step("personalisation")
    assert line.encoder.asked == [("make", "BL0001"), ("recover", "BL0001")]


def test_a_station_that_starts_takes_over_what_its_former_process_held(line: Any, submission: Make) -> None:
    ids = line.accept(submission(1), submission(2))
    line.until("personalisation")
    killed(line, dies_after(line.stages["personalisation"]), line.lease("personalisation"))
    assert sweep.take_over(line.context, "personalisation", "enc_2") == 0
    assert sweep.take_over(line.context, "personalisation", "enc_1") == 2
    run_stage.reconcile(line.context, line.stages["personalisation"], worker="w", station="enc_1", limit=8)
    assert [line.status(i) for i in ids] == ["dispatch", "dispatch"]
    assert len(line.encoder.asked) == 4


def test_a_worker_thought_dead_that_comes_back_changes_nothing(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("personalisation")
    stage = line.stages["personalisation"]

    from .conftest import Stand

    def act(requests: Any) -> Any:
        made = stage.act(requests)
        sweep.take_over(line.context, "personalisation", "enc_1")
        return made

    ran = run_stage.run(line.context, Stand(stage, act=act), [i], worker="w1")
    assert [settled.outcome for settled in ran.settled] == ["stale"]
    assert line.row(i).work == "reconcile"
    run_stage.reconcile(line.context, stage, worker="w1", station="enc_1", limit=8)
    assert line.status(i) == "dispatch"
    assert line.ledger_counts() == {"received": 50, "issued": 50, "taken": 1, "bound": 1}


def test_the_fate_of_a_row_never_repeats_an_act_on_a_chip_and_never_blames_a_neighbour() -> None:
    told = product(
        ("queued", "running"), (1, 2, 8), (True, False), range(4), (True, False), ("none", "worker", "station")
    )
    for held_by, size, solo, crashes, intent, reconciler in told:
        work, alone, counted = fate(
            held_by=held_by, size=size, solo=solo, crashes=crashes, intent=intent, reconciler=reconciler
        )
        ran = held_by == "running"
        assert counted - crashes == (ran and size == 1)
        assert alone == (ran or solo)
        if not ran:
            assert work == "ready"
        elif counted >= CRASHES:
            assert work == "held"
        else:
            assert work == ("reconcile" if intent and reconciler == "station" else "ready")


def test_a_card_that_kills_its_station_again_and_again_is_parked_with_its_blank(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.until("personalisation")
    dying = dies_before(line.stages["personalisation"])
    killed(line, dying, line.lease("personalisation"))
    for _ in range(CRASHES - 1):
        assert sweep.take_over(line.context, "personalisation", "enc_1") == 1
        assert line.row(i).work == "reconcile"
        with pytest.raises(Killed):
            run_stage.reconcile(line.context, dying, worker="w-dead", station="enc_1", limit=8)
    assert sweep.take_over(line.context, "personalisation", "enc_1") == 1
    assert line.status(i) == "held"
    assert line.why(i) == "technical.exhausted"
    assert line.blanks() == {"stocked": 49, "reserved": 1}
    operate.release(line.context, [i], reason="looked at", actor="test")
    line.run()
    assert line.status(i) == "dispatch"
    assert line.encoder.asked == [("recover", "BL0001")]
