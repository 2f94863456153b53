"""Blanks and cards: every blank is accounted for, whatever the station says of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound
from pipeline.services import operate, run_stage
from pipeline.store import tables as t

Make = Callable[..., Submission]


def begun(line: Any, *submissions: Submission) -> list[str]:
    ids = line.accept(*submissions)
    line.until("personalisation")
    return ids


def used_up(line: Any) -> None:
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.blanks).values(state="test"))


def test_a_spoiled_blank_is_written_off_and_the_card_is_made_on_the_next(line: Any, submission: Make) -> None:
    [i] = begun(line, submission())
    line.encoder.verdicts["BL0001"] = "spoiled"
    line.step("personalisation")
    first = line.row(i)
    assert (first.status, first.work, first.blank_serial) == ("personalisation", "ready", "BL0001")
    line.step("personalisation")
    assert line.status(i) == "dispatch"
    assert line.card(i).blank_serial == "BL0002"
    assert line.card(i).card_number == first.card_number
    assert line.blanks() == {"spoiled": 1, "bound": 1, "stocked": 48}
    assert line.ledger_counts() == {"received": 50, "issued": 50, "taken": 2, "spoiled": 1, "bound": 1}


def test_blanks_that_spoil_one_after_the_other_stop_at_the_limit(line: Any, submission: Make) -> None:
    [i] = begun(line, submission())
    most = line.context.policies.of("420100").max_attempts.value
    line.encoder.verdicts |= {f"BL{n:04d}": "spoiled" for n in range(1, most + 1)}
    for _ in range(most):
        line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "technical.exhausted")
    assert line.blanks() == {"spoiled": most, "stocked": 50 - most}
    operate.release(line.context, [i], reason="reader mended", actor="op")
    line.step("personalisation")
    assert line.status(i) == "dispatch"
    assert line.ledger_counts() == {"received": 50, "issued": 50, "taken": most + 1, "spoiled": most, "bound": 1}


def test_an_untouched_blank_stays_at_its_station_and_the_card_is_tried_again_later(line: Any, submission: Make) -> None:
    [i] = begun(line, submission())
    line.encoder.verdicts["BL0001"] = "untouched"
    line.step("personalisation")
    assert line.row(i).work == "waiting"
    assert line.blanks() == {"stocked": 50}
    del line.encoder.verdicts["BL0001"]
    line.clock.advance(timedelta(minutes=1))
    line.sweep()
    line.step("personalisation")
    assert line.status(i) == "dispatch"
    assert line.ledger_counts() == {"received": 50, "issued": 50, "taken": 2, "untouched": 1, "bound": 1}


def refuse(line: Any, *serials: str) -> None:
    """The station finds these blanks of another kind and writes nothing to them."""
    line.encoder.verdicts |= dict.fromkeys(serials, "untouched")
    line.encoder.problems |= dict.fromkeys(serials, "not of this kind")


def test_a_blank_that_cannot_be_written_comes_last_and_its_application_takes_another_without_losing_a_try(
    line: Any, submission: Make
) -> None:
    first, second = begun(line, submission(1), submission(2))
    refuse(line, "BL0001")
    run_stage.run(line.context, line.stages["personalisation"], [first], worker="w")
    assert (line.row(first).work, line.why(first), line.row(first).attempts) == ("ready", "station.blank_refused", 0)
    assert line.blanks() == {"stocked": 50}
    run_stage.run(line.context, line.stages["personalisation"], [first, second], worker="w")
    assert {line.card(i).blank_serial for i in (first, second)} == {"BL0002", "BL0003"}
    assert line.encoder.asked == [("make", f"BL000{n}") for n in (1, 2, 3)]


def test_a_blank_that_no_station_could_write_is_set_aside_for_people_and_no_application_is_held_by_it(
    line: Any, submission: Make
) -> None:
    used_up(line)
    line.supply("N1", "N2")
    refuse(line, "N1")
    ids = begun(line, submission(1), submission(2))
    for _ in range(3):
        line.step("personalisation")
    assert sorted(line.status(i) for i in ids) == ["dispatch", "held"]
    assert {line.why(i) for i in ids if line.status(i) == "held"} == {"blank.shortage"}
    assert line.blanks() == {"test": 50, "bound": 1, "quarantined": 1}
    with line.context.store.transaction() as tx:
        aside = tx.conn.execute(t.blanks.select().where(t.blanks.c.serial == "N1")).one()
    assert (aside.state, aside.problem, aside.application_id) == ("quarantined", "not of this kind", None)
    assert aside.station == "enc_1"


def test_a_good_card_forgets_the_trouble_its_blank_gave(line: Any, submission: Make) -> None:
    used_up(line)
    line.supply("N1")
    refuse(line, "N1")
    [i] = begun(line, submission())
    line.step("personalisation")
    line.encoder.verdicts.clear()
    line.encoder.problems.clear()
    line.step("personalisation")
    assert line.card(i).blank_serial == "N1"
    with line.context.store.transaction() as tx:
        blank = tx.conn.execute(t.blanks.select().where(t.blanks.c.serial == "N1")).one()
    assert (blank.state, blank.problem) == ("bound", None)


def test_while_a_station_has_stopped_applications_wait_without_blanks_and_without_losing_tries(
    line: Any, submission: Make
) -> None:
    ids = begun(line, *(submission(n) for n in range(1, 13)))
    line.encoder.stopped = True
    for _ in range(2 * line.context.policies.of("420100").max_attempts.value):
        line.step("personalisation")
        line.later(minutes=1)
    assert {(line.status(i), line.row(i).attempts) for i in ids} == {("personalisation", 0)}
    assert line.blanks() == {"stocked": 50}
    line.encoder.stopped = False
    line.later(minutes=1)
    line.run()
    assert {line.status(i) for i in ids} == {"dispatch"}


def test_a_station_that_stops_in_the_middle_keeps_no_blank_that_it_did_not_touch(line: Any, submission: Make) -> None:
    known, new = begun(line, submission(1), submission(2))
    line.encoder.verdicts["BL0001"] = "unknown"
    run_stage.run(line.context, line.stages["personalisation"], [known], worker="w")
    operate.release(line.context, [known], reason="read it", actor="op")
    line.encoder.loaded = lambda: None  # it stops after the blanks were taken
    line.encoder.stopped = True
    line.step("personalisation")
    assert {line.why(i) for i in (known, new)} == {"station.stopped"}
    assert {line.row(i).attempts for i in (known, new)} == {0}
    assert line.blanks() == {"quarantined": 1, "stocked": 49}


def test_a_chip_nobody_knows_is_kept_apart_and_only_asked_about(line: Any, submission: Make) -> None:
    [i] = begun(line, submission())
    line.encoder.verdicts["BL0001"] = "unknown"
    line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "chip.unknown")
    assert line.blanks() == {"quarantined": 1, "stocked": 49}
    operate.release(line.context, [i], reason="read by hand", actor="op")
    line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "chip.unknown")
    line.encoder.verdicts["BL0001"] = "verified"
    operate.release(line.context, [i], reason="read by hand", actor="op")
    line.step("personalisation")
    assert line.encoder.asked == [("make", "BL0001"), ("recover", "BL0001"), ("recover", "BL0001")]
    assert line.status(i) == "dispatch"
    assert line.blanks() == {"bound": 1, "stocked": 49}


@pytest.mark.parametrize(("verdict", "state"), [("spoiled", "spoiled"), ("untouched", "stocked")])
def test_a_blank_in_quarantine_is_freed_by_what_the_station_finds(
    line: Any, submission: Make, verdict: str, state: str
) -> None:
    [i] = begun(line, submission())
    line.encoder.verdicts["BL0001"] = "unknown"
    line.step("personalisation")
    line.encoder.verdicts["BL0001"] = verdict
    operate.release(line.context, [i], reason="look again", actor="op")
    line.step("personalisation")
    with line.context.store.transaction() as tx:
        query = t.blanks.select().where(t.blanks.c.serial == "BL0001")
        assert tx.conn.execute(query).one().state == state


def test_without_blanks_applications_wait_and_nothing_is_lost(line: Any, submission: Make) -> None:
    used_up(line)
    line.supply("N1", "N2")
    ids = begun(line, *(submission(n) for n in range(1, 6)))
    line.run()
    assert sorted(line.status(i) for i in ids) == ["dispatch", "dispatch", "held", "held", "held"]
    held = [i for i in ids if line.status(i) == "held"]
    assert {line.why(i) for i in held} == {"blank.shortage"}
    line.supply("N3", "N4", "N5")
    assert operate.release(line.context, held, reason="blanks came", actor="op") == 3
    line.run()
    assert {line.status(i) for i in ids} == {"dispatch"}
    assert len({line.card(i).card_number for i in ids}) == 5


def test_blanks_of_another_type_are_not_taken(line: Any, submission: Make) -> None:
    used_up(line)
    line.supply("N1", blank_type="other")
    [i] = begun(line, submission())
    line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "blank.shortage")


def test_two_workers_never_take_the_same_blank(line: Any, submission: Make) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ids = begun(line, *(submission(n) for n in range(1, 13)))
    stage = line.stages["personalisation"]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run_stage.run, line.context, stage, ids[k::3], worker=f"w{k}") for k in range(3)]
        settled = [s.outcome for future in runs for s in future.result(60).settled]
    assert settled == ["advance"] * 12
    assert len({line.card(i).blank_serial for i in ids}) == len({line.card(i).card_number for i in ids}) == 12
    assert line.blanks() == {"bound": 12, "stocked": 38}


def test_a_card_that_exists_is_not_made_again(line: Any, submission: Make) -> None:
    [i] = begun(line, submission())
    line.step("personalisation")
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.applications).values(status="personalisation", stage="personalisation", work="ready"))
    line.step("personalisation")
    assert line.status(i) == "dispatch"
    assert len(line.encoder.asked) == 1


def test_a_card_can_be_stopped_until_a_blank_is_bound(line: Any, submission: Make) -> None:
    bound, free = begun(line, submission(1), submission(2))
    line.encoder.verdicts["BL0001"] = "unknown"
    run_stage.run(line.context, line.stages["personalisation"], [bound], worker="w1")
    with pytest.raises(Conflict) as told:
        operate.cancel(line.context, bound, reason="asked for", actor="op")
    assert told.value.reason_code == "too-late"
    operate.cancel(line.context, free, reason="asked for", actor="op")
    assert line.status(free) == "cancelled"


def test_only_held_applications_are_released(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    with pytest.raises(Conflict):
        operate.release(line.context, [i], reason="r", actor="op")
    with pytest.raises(NotFound):
        operate.release(line.context, ["app_none"], reason="r", actor="op")
    with pytest.raises(NotFound):
        operate.pause(line.context, "printing", reason="r", actor="op")
