"""Blanks in people's hands: every one is accounted for by its serial, and a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.outcomes import Wait
from pipeline.services import operate, run_stage, stock
from pipeline.stages.personalisation import Personalisation, TakeBlank
from pipeline.store import audit
from pipeline.store import stock as books
from pipeline.store import tables as t
from pipeline.store.engine import IntegrityError
from pipeline.store.stock import JobFigures

from .conftest import Line, StubEncoder

Make = Callable[..., Submission]
TWO = {"actor": "li", "witness": "wang"}


def state_of(line: Line, serial: str) -> str:
    with line.context.store.transaction() as tx:
        return str(books.find(tx, [serial])[serial].state)


def lines_of(line: Line, serial: str) -> list[Any]:
    return stock.history(line.context, serial)


def events_of(line: Line, serial: str) -> list[str]:
    return [row.event for row in lines_of(line, serial)]


def job_of(line: Line) -> str:
    """The production job of the fixture's blanks."""
    with line.context.store.transaction() as tx:
        return str(books.find(tx, ["BL0050"])["BL0050"].job_id)


def figures_of(line: Line, job_id: str) -> JobFigures:
    with line.context.store.transaction() as tx:
        return books.figures(tx, [job_id])[job_id]


def everything(line: Line) -> list[Any]:
    """Blanks, ledger, jobs and the number of audit rows: what a refusal must leave as it is."""
    with line.context.store.transaction() as tx:
        tables = (t.blanks, t.blank_ledger, t.production_jobs, t.applications, t.audit)
        return [sorted(map(repr, tx.conn.execute(select(table)))) for table in tables]


def refused(line: Line, act: Callable[[], Any], kind: type[Refused], code: str) -> Refused:
    """The act is refused so, in both languages, and has changed nothing."""
    before = everything(line)
    with pytest.raises(kind) as told:
        act()
    assert told.value.reason_code == code
    assert any("\u4e00" <= char <= "\u9fff" for char in told.value.zh)
    assert told.value.en.isascii()
    assert everything(line) == before
    return told.value


def station(line: Line, name: str) -> Personalisation:
    """The stage of another station."""
    return Personalisation(StubEncoder(station=name), objects=line.context.objects)


def begun(line: Line, *submissions: Submission) -> list[str]:
    ids = line.accept(*submissions)
    line.until("personalisation")
    return ids


def quarantined(line: Line, submission: Submission) -> str:
    """An application that is held because the station cannot tell what BL0001 holds."""
    [i] = begun(line, submission)
    line.encoder.verdicts["BL0001"] = "unknown"
    line.step("personalisation")
    assert (line.status(i), state_of(line, "BL0001")) == ("held", "quarantined")
    return i


# ----------------------------------------------------------------------------------------------------------- receiving


@pytest.mark.parametrize(
    ("lines", "code", "named"),
    [
        ([], "required", ""),
        (["N1", " ", "N3"], "blank.serial", "line 2:"),
        (["N1", "N2", "张三", "x" * 41], "blank.serial", "line 3, 4:"),
        (["N1", "N2", "n1 "], "blank.duplicate", "line 3:"),
        (["N1", "BL0001", "BL0002"], "blank.known", "line 2, 3:"),
        (["BL0001", *(f"BL{n:04d}" for n in range(2, 20))], "blank.known", "line 1, 2, 3, 4, 5 and 14 more:"),
    ],
)
def test_a_delivery_with_a_fault_is_refused_whole_and_names_the_lines(
    line: Line, lines: list[str], code: str, named: str
) -> None:
    told = refused(
        line, lambda: stock.receive(line.context, lines, blank_type="ssc2", lot="L2", actor="keeper"), Refused, code
    )
    assert named in told.en
    assert "张三" not in str(told)


def test_a_serial_is_kept_as_machines_read_it_and_the_delivery_note_with_it(line: Line) -> None:
    assert stock.receive(line.context, ["ｎ1 "], blank_type="ssc2", lot="L2", note="D-7", actor="keeper") == 1
    [first] = lines_of(line, "n1")
    assert (first.serial, first.event, first.actor, first.document) == ("N1", "received", "keeper", "D-7")


# ------------------------------------------------------------------------------------------------------------- issuing


def test_the_ledger_tells_a_blanks_way_from_the_delivery_to_the_card(line: Line, submission: Make) -> None:
    [i] = begun(line, submission())
    line.step("personalisation")
    job = job_of(line)
    told = [(row.event, row.application_id, row.station, row.job_id, row.actor) for row in lines_of(line, "BL0001")]
    assert told == [
        ("received", None, None, None, "keeper"),
        ("issued", None, "enc_1", job, "keeper"),
        ("taken", i, "enc_1", job, "enc_1"),
        ("bound", i, "enc_1", job, "enc_1"),
    ]
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(select(t.audit.c.action, t.audit.c.target).where(t.audit.c.action.like("blank.%")))
        assert {tuple(row) for row in rows} == {("blank.receive", "L1"), ("blank.issue", job)}
    assert job.startswith("job_")


def test_an_untouched_blank_leaves_a_line_that_names_whom_it_was_for(line: Line, submission: Make) -> None:
    [i] = begun(line, submission())
    line.encoder.verdicts["BL0001"] = "untouched"
    line.step("personalisation")
    assert [(row.event, row.application_id) for row in lines_of(line, "BL0001")][2:] == [("taken", i), ("untouched", i)]
    assert figures_of(line, job_of(line)) == JobFigures(issued=50, unused=50)


def test_blanks_in_stock_are_not_taken_until_they_are_issued(line: Line, submission: Make) -> None:
    stock.give_back(line.context, job_of(line), 50, actor="keeper")
    [i] = begun(line, submission())
    line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "blank.shortage")
    stock.issue(line.context, 1, station="enc_1", blank_type="ssc2", actor="keeper")
    operate.release(line.context, [i], reason="blanks came", actor="op")
    line.step("personalisation")
    assert line.status(i) == "dispatch"


def test_each_station_takes_its_own_blanks_and_one_that_has_none_leaves_the_work_to_others(
    line: Line, submission: Make
) -> None:
    line.supply("E2-1", "E2-2", station="enc_2")
    ids = begun(line, *(submission(n) for n in range(1, 5)))
    run_stage.run(line.context, station(line, "enc_2"), ids[:3], worker="w2")
    made = [i for i in ids if line.status(i) == "dispatch"]
    assert {line.card(i).blank_serial for i in made} == {"E2-1", "E2-2"}
    [waiting] = set(ids[:3]) - set(made)
    assert (line.status(waiting), line.row(waiting).work, line.why(waiting)) == (
        "personalisation",
        "waiting",
        "station.no_blanks",
    )
    assert line.row(waiting).attempts == 0
    line.later(minutes=1)
    assert line.status(waiting) == "dispatch"
    assert line.card(waiting).blank_serial.startswith("BL")


def test_of_a_stations_blanks_only_those_in_its_readers_are_taken(line: Line, submission: Make) -> None:
    one, two, three = begun(line, *(submission(n) for n in range(1, 4)))
    line.supply("OTHER", station="enc_2")

    def wanted(*loaded: str) -> TakeBlank:
        return TakeBlank(
            blank_type="ssc2", number_prefix="A", issued_on=date(2026, 3, 2), station="enc_1", serials=loaded
        )

    with line.context.store.transaction() as tx:
        now = line.clock.now()
        taken = books.take(tx, {one: wanted("BL0007"), two: wanted("OTHER", "NONE"), three: wanted()}, now=now)
    assert taken[one].serial == "BL0007"  # type: ignore[union-attr]
    for dry in (two, three):
        assert taken[dry] == Wait(now + timedelta(seconds=2), "station.no_card")
    assert state_of(line, "OTHER") == "stocked"


def test_what_is_not_free_in_stock_is_not_issued(line: Line, submission: Make) -> None:
    quarantined(line, submission())
    stock.receive(line.context, ["N1"], blank_type="other", lot="L2", actor="keeper")
    stock.receive(line.context, ["N2"], blank_type="ssc2", lot="L2", actor="keeper")

    def issue(wanted: Any, **told: Any) -> Callable[[], Any]:
        base: dict[str, Any] = {"station": "enc_2", "blank_type": "ssc2", "actor": "keeper"}
        return lambda: stock.issue(line.context, wanted, **(base | told))

    refused(line, issue(["N2", "NOBODY"]), NotFound, "blank.unknown")
    assert "BL0001 (quarantined" in refused(line, issue(["BL0001"]), Conflict, "blank.wrong-state").en
    assert "BL0002 (stocked, enc_1)" in refused(line, issue(["BL0002", "N2"]), Conflict, "blank.wrong-state").en
    refused(line, issue(["N1"]), Conflict, "blank.wrong-state")
    assert "1 blanks" in refused(line, issue(2), Conflict, "blank.shortage").en
    refused(line, issue(0), Refused, "required")
    refused(line, issue(["N2"], job_id=job_of(line)), Conflict, "wrong-state")
    refused(line, issue(["N2"], job_id="job_none"), NotFound, "not-found")


def test_a_blank_of_another_station_is_not_given_back_under_this_ones_job(line: Line) -> None:
    line.supply("E2", station="enc_2")
    job = job_of(line)
    refused(
        line, lambda: stock.give_back(line.context, job, ["BL0001", "E2"], actor="k"), Conflict, "blank.wrong-state"
    )


def test_issues_at_the_same_moment_never_share_a_blank(line: Line) -> None:
    stock.receive(line.context, [f"N{n}" for n in range(40)], blank_type="ssc2", lot="L2", actor="keeper")

    def issue(name: str) -> tuple[str, ...]:
        return stock.issue(line.context, 10, station=name, blank_type="ssc2", actor="keeper").serials

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(issue, ("e1", "e2", "e3", "e4")))
    assert len({serial for share in shares for serial in share}) == 40


# ----------------------------------------------------------------------------------------------------- production jobs


def test_a_job_closes_when_good_spoiled_and_returned_are_what_was_issued(line: Line, submission: Make) -> None:
    job = job_of(line)
    ids = begun(line, *(submission(n) for n in range(1, 4)))
    line.encoder.verdicts["BL0002"] = "spoiled"
    line.run()
    assert {line.status(i) for i in ids} == {"dispatch"}
    told = refused(line, lambda: stock.close_job(line.context, job, actor="wang"), Conflict, "blank.unbalanced")
    for number in ("issued 50", "good 3", "spoiled 1", "46 unused"):
        assert number in told.en
    assert stock.spoil(line.context, ["BL0050"], reason="bent", actor="li") == 1
    assert stock.give_back(line.context, job, ["BL0049"], actor="keeper") == 1
    refused(line, lambda: stock.give_back(line.context, job, 43, actor="keeper"), Conflict, "blank.count-differs")
    assert stock.give_back(line.context, job, 44, actor="keeper") == 44
    refused(line, lambda: stock.close_job(line.context, job, actor=" Keeper"), Refused, "same-person")
    closed = stock.close_job(line.context, job, actor="wang")
    assert closed == JobFigures(issued=50, good=3, spoiled=2, returned=45)
    with line.context.store.transaction() as tx:
        row = books.job(tx, job)
        assert row is not None
        assert (row.state, row.opened_by, row.closed_by, row.issued, row.good) == ("closed", "keeper", "wang", 50, 3)
    for again in (
        lambda: stock.close_job(line.context, job, actor="wang"),
        lambda: stock.give_back(line.context, job, 0, actor="keeper"),
        lambda: stock.issue(line.context, 1, station="enc_1", blank_type="ssc2", job_id=job, actor="keeper"),
    ):
        refused(line, again, Conflict, "wrong-state")


def test_what_was_given_back_can_be_issued_again_and_counts_for_the_new_job_only(line: Line) -> None:
    job = job_of(line)
    stock.give_back(line.context, job, 50, actor="keeper")
    again = stock.issue(line.context, 50, station="enc_2", blank_type="ssc2", actor="keeper").job_id
    assert figures_of(line, job) == JobFigures(issued=50, returned=50)
    assert figures_of(line, again) == JobFigures(issued=50, unused=50)
    assert events_of(line, "BL0001") == ["received", "issued", "returned", "issued"]


def test_a_job_with_a_blank_in_hand_or_in_quarantine_does_not_close(line: Line, submission: Make) -> None:
    quarantined(line, submission())
    job = job_of(line)
    stock.give_back(line.context, job, 49, actor="keeper")
    told = refused(line, lambda: stock.close_job(line.context, job, actor="wang"), Conflict, "blank.unbalanced")
    assert "1 in quarantine" in told.en


def test_a_missing_blank_is_put_on_the_books_by_two_people_and_scrap_when_it_is_found(line: Line) -> None:
    job = job_of(line)
    adjust: dict[str, Any] = {"as_": "missing", "reason": "box was short"}
    one = {"actor": "li", "witness": "LI "}
    refused(line, lambda: stock.adjust(line.context, ["BL0009"], **adjust, **one), Refused, "same-person")
    refused(
        line, lambda: stock.adjust(line.context, ["BL0009"], **adjust | {"reason": " "}, **TWO), Refused, "required"
    )
    stock.adjust(line.context, ["BL0009"], **adjust, **TWO)
    stock.give_back(line.context, job, 49, actor="keeper")
    assert stock.close_job(line.context, job, actor="wang") == JobFigures(issued=50, returned=49, missing=1)
    refused(line, lambda: stock.adjust(line.context, ["BL0009"], **adjust, **TWO), Conflict, "blank.wrong-state")
    stock.adjust(line.context, ["BL0009"], as_="found", reason="behind the reader", **TWO)
    assert state_of(line, "BL0009") == "spoiled"
    last = lines_of(line, "BL0009")[-1]
    assert (last.event, last.actor, last.witness, last.reason) == ("found", "li", "wang", "behind the reader")


# ------------------------------------------------------------------------------------------------------------ settling


@pytest.mark.rule("KL-22")
def test_a_blank_that_two_people_call_spoiled_gives_way_to_another_and_there_is_one_card(
    line: Line, submission: Make
) -> None:
    i = quarantined(line, submission())
    number = line.row(i).card_number
    told = {"as_": "spoiled", "reason": "chip is dead"}
    one = {"actor": "li", "witness": "li"}
    refused(line, lambda: stock.settle(line.context, "BL0001", **told, **one), Refused, "same-person")  # type: ignore[arg-type]
    assert stock.settle(line.context, "BL0001", **told, **TWO) == i  # type: ignore[arg-type]
    line.run()
    card = line.card(i)
    assert (line.status(i), card.blank_serial, card.card_number) == ("dispatch", "BL0002", number)
    assert events_of(line, "BL0001") == ["received", "issued", "taken", "quarantined", "spoiled"]
    assert line.encoder.asked == [("make", "BL0001"), ("make", "BL0002")]
    refused(line, lambda: stock.settle(line.context, "BL0001", **told, **TWO), Conflict, "wrong-state")  # type: ignore[arg-type]
    refused(line, lambda: stock.settle(line.context, "BL0002", **told, **TWO), Conflict, "wrong-state")  # type: ignore[arg-type]


def test_a_blank_that_is_to_be_read_again_stays_bound_to_its_application(line: Line, submission: Make) -> None:
    i = quarantined(line, submission())
    line.encoder.verdicts["BL0001"] = "verified"
    stock.settle(line.context, "BL0001", as_="read-again", reason="contacts cleaned", **TWO)
    line.run()
    assert (line.status(i), line.card(i).blank_serial) == ("dispatch", "BL0001")
    assert line.encoder.asked == [("make", "BL0001"), ("recover", "BL0001")]


def test_a_blank_is_not_settled_while_its_station_works_on_it(line: Line, submission: Make) -> None:
    i = quarantined(line, submission())
    operate.release(line.context, [i], reason="read it", actor="op")
    for serial, kind, code in (
        ("BL0001", Conflict, "wrong-state"),
        ("BL0002", Conflict, "wrong-state"),
        ("NOBODY", NotFound, "blank.unknown"),
    ):
        settle = partial(stock.settle, line.context, serial, as_="spoiled", reason="r", **TWO)
        refused(line, settle, kind, code)


def test_a_blank_that_a_parked_application_still_holds_is_settled_too(line: Line, submission: Make) -> None:
    [i] = begun(line, submission())
    from .conftest import Killed, dies_before

    for _ in range(3):
        with pytest.raises(Killed):
            if line.row(i).work == "reconcile":
                run_stage.reconcile(
                    line.context, dies_before(line.stages["personalisation"]), worker="w", station="enc_1", limit=8
                )
            else:
                run_stage.run(line.context, dies_before(line.stages["personalisation"]), [i], worker="w")
        line.clock.advance(timedelta(minutes=10))
        line.sweep()
    assert (line.status(i), state_of(line, "BL0001")) == ("held", "reserved")
    stock.settle(line.context, "BL0001", as_="spoiled", reason="it stops the reader", **TWO)
    line.run()
    assert (line.status(i), line.card(i).blank_serial) == ("dispatch", "BL0002")


def set_aside(line: Line, submission: Submission) -> str:
    """An application that got its card after BL0001, which its station refused twice, was set aside."""
    [i] = begun(line, submission)
    stock.give_back(line.context, job_of(line), [f"BL{n:04d}" for n in range(2, 51)], actor="keeper")
    line.encoder.verdicts["BL0001"] = "untouched"
    line.encoder.problems["BL0001"] = "the card cannot be read"
    line.step("personalisation")
    line.step("personalisation")
    assert state_of(line, "BL0001") == "quarantined"
    return i


def test_what_a_station_found_wrong_with_a_blank_stands_in_its_row_and_in_its_ledger(
    line: Line, submission: Make
) -> None:
    i = set_aside(line, submission())
    told = [(row.event, row.application_id, row.reason) for row in lines_of(line, "BL0001")][2:]
    problem = "the card cannot be read"
    assert told == [("taken", i, None), ("untouched", i, problem), ("taken", i, None), ("quarantined", i, problem)]
    with line.context.store.transaction() as tx:
        [row] = books.listing(tx, state="quarantined", blank_type=None, location=None, job_id=None, limit=9)
        assert books.balance(tx) == books.ledger_balance(tx)
    assert (row.serial, row.problem, row.application_id) == ("BL0001", problem, None)
    with line.context.store.transaction() as tx:
        job = row.job_id
        assert (books.figures(tx, [job])[job].quarantined, books.figures(tx, [job])[job].balanced) == (1, False)


def test_a_blank_that_was_set_aside_is_written_off_or_tried_again_when_two_people_say_so(
    line: Line, submission: Make
) -> None:
    i = set_aside(line, submission())
    assert (line.status(i), line.why(i)) == ("personalisation", "station.blank_refused")
    assert stock.settle(line.context, "BL0001", as_="read-again", reason="contacts cleaned", **TWO) is None
    last = lines_of(line, "BL0001")[-1]
    assert (last.event, last.actor, last.witness, last.reason) == ("untouched", "li", "wang", "contacts cleaned")
    line.step("personalisation")
    assert state_of(line, "BL0001") == "stocked"  # once more is not yet twice
    line.step("personalisation")
    assert state_of(line, "BL0001") == "quarantined"
    assert stock.settle(line.context, "BL0001", as_="spoiled", reason="dead", **TWO) is None
    assert state_of(line, "BL0001") == "spoiled"
    with line.context.store.transaction() as tx:
        assert books.balance(tx) == books.ledger_balance(tx)
    line.step("personalisation")
    assert (line.status(i), line.why(i)) == ("held", "blank.shortage")


def test_blanks_that_gave_trouble_are_issued_last(line: Line, submission: Make) -> None:
    begun(line, submission())
    line.encoder.verdicts["BL0001"] = "untouched"
    line.encoder.problems["BL0001"] = "the card cannot be read"
    line.step("personalisation")
    stock.give_back(line.context, job_of(line), 50, actor="keeper")
    issued = stock.issue(line.context, 49, station="enc_1", blank_type="ssc2", actor="keeper")
    assert "BL0001" not in issued.serials


# ---------------------------------------------------------------------------------------------------------- destroying


@pytest.mark.rule("DL-25")
def test_spoiled_blanks_are_destroyed_by_two_people_under_a_certificate(line: Line, submission: Make) -> None:
    begun(line, submission())
    line.encoder.verdicts["BL0001"] = "spoiled"
    line.run()
    stock.spoil(line.context, ["BL0050"], reason="bent", actor="li")

    def destroy(*serials: str, **told: Any) -> Callable[[], Mapping[str, str]]:
        base: dict[str, Any] = {"certificate": "C-1", "reason": "shredded", **TWO}
        return lambda: stock.destroy(line.context, serials, **(base | told))

    refused(line, destroy("BL0001", "BL0002"), Conflict, "blank.wrong-state")
    refused(line, destroy("BL0001", "BL0003"), Conflict, "blank.wrong-state")
    refused(line, destroy("BL0001", "NOBODY"), NotFound, "blank.unknown")
    refused(line, destroy("BL0001", certificate=" "), Refused, "required")
    refused(line, destroy("BL0001", witness="li"), Refused, "same-person")
    refused(line, destroy("BL0001", witness=""), Refused, "required")
    assert destroy("BL0001", "BL0050")() == {"BL0001": "spoiled", "BL0050": "bent"}
    last = lines_of(line, "BL0050")[-1]
    assert (last.event, last.actor, last.witness, last.document) == ("destroyed", "li", "wang", "C-1")
    stock.spoil(line.context, ["BL0049"], reason="bent", actor="li")
    refused(line, destroy("BL0049"), Conflict, "blank.certificate-used")
    refused(line, destroy("BL0050", certificate="C-2"), Conflict, "blank.wrong-state")
    line.sweep()
    with line.context.store.transaction() as tx:
        assert audit.verify(tx).broken_at is None
        query = select(t.audit.c.detail).where(t.audit.c.action == "blank.destroy")
        assert tx.conn.execute(query).scalar_one()["blanks"] == {"BL0001": "spoiled", "BL0050": "bent"}


# ------------------------------------------------------------------------------------------------- whatever people do

_examples = count(1)
_ACTS = st.tuples(
    st.sampled_from(("issue", "back", "spoil", "missing", "found", "destroy", "close")), st.integers(0, 7)
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(_ACTS, max_size=25))
def test_whatever_people_do_the_ledger_explains_every_blank_and_a_closed_job_balances(
    line: Line, acts: list[tuple[str, int]]
) -> None:
    example, context = next(_examples), line.context
    serials = [f"P{example}-{n}" for n in range(8)]
    stock.receive(context, serials, blank_type="other", lot="P", actor="keeper")
    jobs = [
        stock.issue(context, [serial], station="enc_9", blank_type="other", actor="keeper").job_id
        for serial in serials[:2]
    ]
    for n, (what, k) in enumerate(acts):
        serial, job = serials[k], jobs[k % 2]
        with suppress(Refused):
            match what:
                case "issue":
                    stock.issue(context, [serial], station="enc_9", blank_type="other", job_id=job, actor="keeper")
                case "back":
                    stock.give_back(context, job, [serial], actor="keeper")
                case "spoil":
                    stock.spoil(context, [serial], reason="r", actor="li")
                case "missing" | "found":
                    stock.adjust(context, [serial], as_=what, reason="r", **TWO)  # type: ignore[arg-type]
                case "destroy":
                    stock.destroy(context, [serial], certificate=f"C{example}-{n}", reason="r", **TWO)
                case "close":
                    stock.close_job(context, job, actor="wang")
    with context.store.transaction() as tx:
        assert books.balance(tx) == books.ledger_balance(tx)
        for job, told in books.figures(tx, jobs).items():
            row = books.job(tx, job)
            assert told.unaccounted == 0
            assert row is not None
            assert row.state == "open" or (told.balanced and row.issued == told.issued)


def test_the_database_itself_refuses_one_signature_and_a_job_that_does_not_balance(line: Line) -> None:
    job = job_of(line)
    ledger = {"serial": "BL0001", "at": line.clock.now(), "actor": "li", "reason": "r", "document": "C"}
    closing = {"state": "closed", "issued": 2, "returned": 2, "closed_by": "wang"}
    wrong = [
        (t.production_jobs, closing | {"closed_by": "keeper"}),
        (t.production_jobs, closing | {"closed_by": None}),
        (t.production_jobs, closing | {"returned": 1}),
        (t.blank_ledger, ledger | {"event": "destroyed"}),
        (t.blank_ledger, ledger | {"event": "destroyed", "witness": "li"}),
        (t.blank_ledger, ledger | {"event": "destroyed", "witness": "wang", "document": None}),
        (t.blank_ledger, ledger | {"event": "missing"}),
        (t.blank_ledger, ledger | {"event": "spoiled", "witness": "li"}),
    ]
    for table, values in wrong:
        with pytest.raises(IntegrityError), line.context.store.transaction() as tx:
            if table is t.production_jobs:
                tx.conn.execute(update(table).where(table.c.id == job).values(values))
            else:
                tx.conn.execute(insert(table), values)
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.production_jobs).where(t.production_jobs.c.id == job).values(closing))
        tx.conn.execute(insert(t.blank_ledger), ledger | {"event": "destroyed", "witness": "wang"})
