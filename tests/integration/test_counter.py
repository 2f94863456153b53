"""At the counter: who is told and when, who gets a card and who does not, and what a hand-over that is taken back leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from pipeline.application import Document, Submission
from pipeline.clock import end_of_day
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.person import Agent
from pipeline.services import counter
from pipeline.store import handing
from pipeline.store import tables as t
from pipeline.store.engine import Store

from .conftest import Line, number

Make = Callable[..., Submission]
OUTLET = "out_42010601"
HISTORY = {"transitions", "custody_events", "hand_overs", "outbox", "audit"}
STAMPS = {"version", "updated_at", "changed_at"}


def agent(n: int, relation: str = "配偶") -> Agent:
    return Agent(name="王样例", id_type="resident_id", id_number=number(n), relation=relation, phone="13800009999")


def everything(store: Store, *, but_history: bool = False) -> dict[str, list[Any]]:
    """Every row of every table; without what only tells what happened, if that is left out."""
    found = {}
    with store.transaction() as tx:
        for table in t.metadata.sorted_tables:
            if but_history and table.name in HISTORY:
                continue
            rows = [dict(row._mapping) for row in tx.conn.execute(select(table).order_by(*table.primary_key.columns))]
            found[table.name] = [{k: v for k, v in row.items() if not (but_history and k in STAMPS)} for row in rows]
    return found


@contextmanager
def changes_nothing(line: Any, code: str, kind: type[Refused] = Refused) -> Iterator[pytest.ExceptionInfo[Refused]]:
    before = everything(line.context.store)
    with pytest.raises(kind) as told:
        yield told
    assert (told.value.reason_code, bool(told.value.zh), bool(told.value.en)) == (code, True, True)
    assert everything(line.context.store) == before


def card_is(line: Any, status: str) -> None:
    """Every card of the line gets a status that no act here gives it."""
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.cards).values(status=status))


@pytest.fixture
def delivered(line: Any, submission: Make) -> tuple[Any, str]:
    """A line, and an application whose card has just come to its outlet."""
    [i] = line.to_outlet(submission())
    return line, i


@pytest.fixture
def waiting(delivered: tuple[Any, str]) -> tuple[Any, str]:
    """The same after the notice."""
    line, i = delivered
    line.notify(i)
    return line, i


# ------------------------------------------------------------------------------------------------------------ notices


def notices(line: Any, i: str) -> list[tuple[Any, ...]]:
    n = t.notices.c
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(select(n.method, n.notified_at, n.actor).where(n.application_id == i).order_by(n.id))
        return [tuple(row) for row in rows]


def tell(line: Any, i: str, **told: Any) -> Any:
    return counter.give_notice(
        line.context, line.card(i).id, **({"outlet": OUTLET, "method": "sms", "actor": "li"} | told)
    )


@pytest.mark.rule("WH-10")
@pytest.mark.rule("WH-11")
def test_the_first_notice_starts_the_clock_from_when_it_was_given_and_later_ones_are_kept(delivered: Any) -> None:
    line, i = delivered
    at = line.clock.now() + timedelta(hours=2)
    line.later(days=3)
    due = tell(line, i, method="phone", notified_at=at)
    assert due == end_of_day(date(2026, 9, 2))
    assert tell(line, i, method="letter", actor="wang") == due
    assert (line.status(i), line.row(i).notified_at, line.row(i).collect_by) == ("notified", at, due)
    first, second = notices(line, i)
    assert first == ("phone", at, "li")
    assert (second[0], second[2]) == ("letter", "wang")
    assert second[1] > at


def test_a_notice_to_come_or_from_before_the_card_was_there_is_refused(delivered: Any) -> None:
    line, i = delivered
    now = line.clock.now()
    with changes_nothing(line, "in-the-future"):
        tell(line, i, notified_at=now + timedelta(hours=1))
    with changes_nothing(line, "before-delivery"):
        tell(line, i, notified_at=now - timedelta(hours=1))
    tell(line, i, notified_at=now + timedelta(seconds=20))
    assert line.row(i).notified_at <= line.clock.now()


def test_only_a_card_that_waits_here_is_told_of(delivered: Any, submission: Make) -> None:
    line, i = delivered
    [packed] = line.accept(submission(2))
    line.run()
    with changes_nothing(line, "not-found", NotFound):
        tell(line, packed)
    with changes_nothing(line, "not-found", NotFound):
        tell(line, i, outlet="out_42010699")
    line.hand_over(i)
    with changes_nothing(line, "already-collected", Conflict):
        tell(line, i)


@pytest.mark.rule("WH-10")
def test_a_notice_that_is_overdue_is_listed_until_it_is_given(delivered: Any) -> None:
    line, i = delivered

    def listed(*, overdue: bool, outlet: str | None = OUTLET) -> list[str]:
        with line.context.store.transaction() as tx:
            before = line.clock.now() if overdue else None
            return [row.application for row in handing.untold(tx, outlet=outlet, due_before=before)]

    assert (listed(overdue=False), listed(overdue=True)) == ([i], [])
    line.later(days=30)
    assert listed(overdue=True) == listed(overdue=True, outlet=None) == [i]
    assert listed(overdue=True, outlet="out_42010699") == []
    assert line.events("card.notice_overdue") == 1
    tell(line, i)
    assert listed(overdue=False) == []


# --------------------------------------------------------------------------------------------------------- hand-overs

NEW_PROXY = {"taken_by": "proxy", "document_number": number(77), "agent": agent(77), "papers": {"mandate": "M-1"}}
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"serial": "BL0002"}, "serial-mismatch"),
    ({"fee_receipt": None}, "fee-due"),
    ({"fee_receipt": " "}, "fee-due"),
    ({"outlet": "out_42010699"}, "not-found"),
    ({"outlet": None}, "not-found"),
    ({"document_number": number(78)}, "not-the-holder"),
    ({"document_number": " "}, "required"),
    ({"document_type": "passport"}, "not-the-holder"),
    ({"document_valid_to": date(2026, 3, 1)}, "document-expired"),
    ({"taken_by": "guardian"}, "not-the-holder"),
    ({"taken_by": "proxy"}, "papers-missing"),
    (NEW_PROXY | {"papers": {"mandate": " "}}, "papers-missing"),
    (NEW_PROXY | {"agent": None}, "agent-missing"),
    (NEW_PROXY | {"agent": agent(77, relation="")}, "agent-missing"),
    (NEW_PROXY | {"agent": agent(76)}, "not-the-agent"),
    ({"taken_by": "unit", "document_number": number(77), "agent": agent(77)}, "papers-missing"),
    ({"taken_by": "unit", "document_number": number(77), "papers": {"mandate": "L-1"}}, "agent-missing"),
]


@pytest.mark.rule("KL-19")
@pytest.mark.rule("DL-12")
@pytest.mark.rule("WH-24")
def test_what_may_not_be_is_refused_and_changes_nothing(waiting: Any) -> None:
    line, i = waiting
    for change, code in REFUSALS:
        with changes_nothing(line, code):
            line.hand_over(i, **change)
    assert line.hand_over(i).startswith("hov_")


def test_a_card_that_is_blocked_stays_at_the_counter(waiting: Any) -> None:
    line, i = waiting
    for status, code in (("frozen", "card-frozen"), ("cancelled", "card-void")):
        card_is(line, status)
        with changes_nothing(line, code, Conflict):
            line.hand_over(i)


@pytest.mark.rule("WH-11")
def test_an_agents_papers_are_kept_and_sealed(waiting: Any) -> None:
    line, i = waiting
    handed = line.hand_over(i, **NEW_PROXY)
    with line.context.store.transaction() as tx:
        row = handing.hand_over(tx, handed)
        assert row is not None
        shown = handing.what_was_shown(tx, row)
    assert shown == {"document_number": number(77), "agent": asdict(agent(77)), "papers": {"mandate": "M-1"}}
    told = repr([value for value in row._mapping.values() if not isinstance(value, bytes)])
    assert number(77) not in told
    assert "王样例" not in told
    assert number(77).encode() not in row.sealed


def test_a_guardian_and_a_proxy_on_record_need_no_more_than_their_own_document(line: Any, submission: Make) -> None:
    papers = (Document(type="application_form"), Document(type="mandate"))
    child, absent = line.to_outlet(
        submission(1, guardian=agent(81, "父亲")), submission(2, proxy=agent(82), documents=papers)
    )
    with changes_nothing(line, "not-the-holder"):
        line.hand_over(child, taken_by="guardian", document_number=number(82))
    line.hand_over(child, taken_by="guardian", document_number=number(81), document_type="household_book")
    line.hand_over(absent, taken_by="proxy", document_number=number(82), papers={"mandate": "M-2"})
    assert line.balanced() == {"holder": 2}


def test_the_same_hand_over_told_again_is_the_same_one(waiting: Any) -> None:
    line, i = waiting
    outlet, act = line.card(i).place, {**NEW_PROXY, "key": "k-1"}
    with ThreadPoolExecutor(2) as pool:
        told = {future.result(30) for future in [pool.submit(line.hand_over, i, outlet=outlet, **act) for _ in "12"]}
    assert len(told) == 1
    before = everything(line.context.store)
    assert line.hand_over(i, outlet=outlet, **act) == told.pop()
    assert everything(line.context.store) == before
    with changes_nothing(line, "idempotency-key-reused"):
        line.hand_over(i, outlet=outlet, key="k-1")
    with changes_nothing(line, "already-collected", Conflict):
        line.hand_over(i, outlet=outlet, **act | {"key": "k-2"})
    assert (line.events("card.collected"), line.balanced()) == (1, {"holder": 1})


# --------------------------------------------------------------------------------------------------------------- undo


def test_of_two_hand_overs_under_one_key_at_once_the_second_is_told_so(
    waiting: Any, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, i = waiting
    [other] = line.to_outlet(submission(2))
    line.hand_over(i, key="k-1")
    looked: list[str] = []
    by_key = handing.by_key

    def before_the_first_committed(tx: Any, key: str) -> Any:
        looked.append(key)
        return by_key(tx, key) if len(looked) > 1 else None

    monkeypatch.setattr(handing, "by_key", before_the_first_committed)
    with changes_nothing(line, "idempotency-key-reused"):
        line.hand_over(other, key="k-1")
    assert line.status(other) == "delivered"


@pytest.mark.parametrize("told", [{"fee_receipt": number(9)}, {"papers": {"mandate": "138-0000-1234"}}])
def test_somebodys_number_is_no_receipt_and_no_papers_place(waiting: Any, told: dict[str, Any]) -> None:
    line, i = waiting
    with changes_nothing(line, "looks-personal") as refused:
        line.hand_over(i, **told)
    assert number(9) not in str(refused.value)


def revert(line: Any, handed: str, **told: Any) -> None:
    counter.revert(line.context, handed, **({"outlet": OUTLET, "actor": "li", "reason": "wrong person"} | told))


def uncollected(line: Any, i: str) -> None:
    """The moment between a card's time being over and its being called back."""
    line.notify(i)
    line.clock.advance(timedelta(days=200))
    line.sweep()
    line.step("collection")
    assert line.status(i) == "uncollected"


def recalled(line: Any, i: str) -> None:
    line.notify(i)
    line.later(days=200)
    assert line.status(i) == "recalled"


def test_a_hand_over_that_is_taken_back_leaves_everything_as_it_was(line: Any, submission: Make) -> None:
    ids = line.to_outlet(*(submission(n) for n in range(1, 5)))
    with line.context.store.transaction() as tx:
        tx.conn.execute(  # the fee is no part of the hand-over: what is paid stays paid
            update(t.fees).values(status="paid", receipt_no="R1", settled_at=line.clock.now(), settled_by="li")
        )
    ways = {
        "delivered": lambda line, i: None,
        "notified": Line.notify,
        "uncollected": uncollected,
        "recalled": recalled,
    }
    for i, (status, so_far) in zip(ids, ways.items(), strict=True):
        so_far(line, i)
        before = everything(line.context.store, but_history=True)
        handed = line.hand_over(i)
        line.clock.advance(timedelta(minutes=4))
        revert(line, handed)
        assert everything(line.context.store, but_history=True) == before
        assert (line.status(i), line.history(i)[-2:]) == (status, ["collected", status])
        with line.context.store.transaction() as tx:
            row = handing.hand_over(tx, handed)
        assert row is not None
        assert (row.status_before, row.reverted_by, row.revert_reason) == (status, "li", "wrong person")
        line.run()
        assert line.status(i) == ("recalled" if status == "uncollected" else status)
        assert line.hand_over(i) != handed
    assert (line.events("card.collection_reverted"), line.balanced()) == (4, {"holder": 4})


def test_a_card_from_the_centres_counter_goes_back_to_it(line: Any, submission: Make) -> None:
    [i] = line.accept(submission(priority="urgent", window="information_centre"))
    line.run()
    handed = line.hand_over(i, outlet=None)
    with changes_nothing(line, "not-found", NotFound):
        revert(line, handed)
    revert(line, handed, outlet=None)
    line.later(hours=1)
    assert (line.status(i), line.why(i), line.balanced()) == ("personalisation", "reverted", {"centre": 1})
    line.hand_over(i, outlet=None)
    assert line.balanced() == {"holder": 1}


def test_clocks_that_stopped_with_the_hand_over_strike_at_their_old_time(waiting: Any) -> None:
    line, i = waiting
    due = line.row(i).collect_by
    revert(line, line.hand_over(i))
    line.clock.advance(due - line.clock.now() - timedelta(minutes=1))
    line.sweep()
    line.run()
    assert (line.status(i), line.events("card.uncollected_reminder")) == ("notified", 3)
    line.later(minutes=2)
    assert (line.status(i), line.events("card.recalled")) == ("recalled", 1)


def test_what_is_taken_back_is_taken_back_in_time_in_its_place_with_a_reason_and_once(waiting: Any) -> None:
    line, i = waiting
    handed = line.hand_over(i)
    with changes_nothing(line, "required"):
        revert(line, handed, reason=" ")
    for there in ({"outlet": "out_42010699"}, {"outlet": None}):
        with changes_nothing(line, "not-found", NotFound):
            revert(line, handed, **there)
    with changes_nothing(line, "not-found", NotFound):
        revert(line, "hov_none")
    card_is(line, "active")
    with changes_nothing(line, "wrong-state", Conflict):
        revert(line, handed)
    card_is(line, "issued")
    line.clock.advance(counter.UNDO_WITHIN + timedelta(seconds=1))
    with changes_nothing(line, "too-late", Conflict):
        revert(line, handed)
    assert line.balanced() == {"holder": 1}


def test_of_two_who_take_the_same_back_one_does(waiting: Any) -> None:
    line, i = waiting
    handed = line.hand_over(i, key="k-1")

    def clerk() -> str:
        try:
            revert(line, handed)
        except Conflict as error:
            return error.reason_code
        return "done"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(f.result(30) for f in [pool.submit(clerk) for _ in "12"]) == ["already-reverted", "done"]
    with changes_nothing(line, "already-reverted", Conflict):
        line.hand_over(i, key="k-1")
    line.hand_over(i, key="k-2")
    with changes_nothing(line, "already-reverted", Conflict):
        revert(line, handed)


def test_a_holder_who_has_applied_anew_keeps_the_card(waiting: Any, submission: Make) -> None:
    line, i = waiting
    handed = line.hand_over(i)
    line.accept(submission(1, external_ref="T-anew"))
    with changes_nothing(line, "newer-application", Conflict):
        revert(line, handed)


ACTS = st.lists(st.sampled_from(["notice", "hand_over", "undo", "minutes", "month", "half_year"]), max_size=8)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_in_whatever_order_people_act_a_card_is_in_one_place_and_taken_once(line: Any, submission: Make) -> None:
    """A model beside the line: where the card is, since when it is with its holder, and which hand-over stands."""
    line.supply(*(f"MO{n:05d}" for n in range(400)))
    people = iter(range(100, 1000))

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(acts=ACTS)
    def follows_the_model(acts: list[str]) -> None:
        [i] = line.to_outlet(submission(next(people)))
        status, due, standing, taken, undone = "delivered", None, None, 0, 0
        for act in acts:
            now, refused = line.clock.now(), True
            with suppress(Refused):
                match act:
                    case "notice":
                        due = tell(line, i)
                        status = "notified"
                    case "hand_over":
                        before = status
                        standing = (line.hand_over(i, outlet=OUTLET), now, before)
                        status, taken = "collected", taken + 1
                    case "undo" if standing is not None:
                        revert(line, standing[0])
                        assert line.clock.now() - standing[1] <= counter.UNDO_WITHIN + timedelta(seconds=30)
                        status, standing, undone = standing[2], None, undone + 1
                    case "minutes":
                        line.later(minutes=2)
                    case "month":
                        line.later(days=30)
                    case "half_year":
                        line.later(days=200)
                refused = False
            if status == "notified" and line.clock.now() > due:
                status = "recalled"
            if refused:
                assert act in ("notice", "hand_over", "undo")
                if act == "undo":
                    assert standing is not None
                    assert line.clock.now() - standing[1] > counter.UNDO_WITHIN - timedelta(seconds=30)
                assert act != "hand_over" or status == "collected"
                assert act != "notice" or status in ("collected", "recalled")
            assert line.status(i) == status
            assert line.card(i).custody == ("holder" if status == "collected" else "outlet")
            line.balanced()
            with line.context.store.transaction() as tx:
                h = t.hand_overs.c
                rows = tx.conn.execute(select(h.id, h.reverted_at).where(h.application_id == i)).all()
                events = tx.conn.execute(
                    select(func.count()).where(t.custody_events.c.card_id == line_card(tx, i))
                ).scalar_one()
            assert [row.id for row in rows if row.reverted_at is None] == ([standing[0]] if standing else [])
            assert (len(rows), events) == (taken, 2 + taken + undone)

    def line_card(tx: Any, i: str) -> str:
        return str(tx.conn.execute(select(t.cards.c.id).where(t.cards.c.application_id == i)).scalar_one())

    follows_the_model()
