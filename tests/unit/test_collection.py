"""The collection stage: it answers for every clock that is due, and only as far as the status lets it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from config.policies import load_policies
from pipeline import deadlines
from pipeline.application import Application
from pipeline.calendar import ChineseCalendar
from pipeline.outcomes import Advance, Wait
from pipeline.person import Person
from pipeline.policy import Policy
from pipeline.stages.base import CardFact, Case, Decision, TimerFact
from pipeline.stages.collection import (
    COLLECT,
    RETURN,
    TELL,
    CollectBy,
    Collection,
    Emit,
    TimerFired,
    TimerSet,
    collecting,
)

RECEIVED = datetime(2026, 3, 2, 1, tzinfo=UTC)
NOW = datetime(2026, 4, 1, 1, tzinfo=UTC)
CALENDAR = ChineseCalendar()
STAGE = Collection(CALENDAR)
KINDS = ("arrived", "notice_overdue", "reminder", "collect_due", "storage_due")
STATUSES = ("delivered", "notified", "uncollected", "recalled", "returned", "reissued")
POLICIES = {policy.key: policy for policy in load_policies().cities()}
WUHAN = POLICIES["wuhan"]


def application(status: str, **changed: Any) -> Application:
    person = Person(
        name="张三", id_type="resident_id", id_number="999001198001010014", social_security_number="999001198001010014",
        sex="1", ethnic="01", birth_date=date(1980, 1, 1),
    )  # fmt: skip
    values: dict[str, Any] = {
        "id": "app_1", "version": 9, "status": status, "stage": "collection", "region": "420100", "policy_version": "v", "kind": "first",
        "priority": "normal", "lane": "normal", "category": "urban_employee", "district": "420106", "agency": "a", "window": "agency",
        "outlet": "out_1", "bank_code": "95533", "acceptance_no": "SL-1", "received_at": RECEIVED, "due_at": NOW, "person": person,
        "guardian": None, "proxy": None, "documents": (), "confirmed": True, "collect_by": "person", "person_id": "per_1",
        "photo_original": "", "photo_result": "x", "delivered_at": NOW,
    }  # fmt: skip
    return Application(**values | changed)


def decided(status: str, *kinds: str, policy: Policy = WUHAN, card: bool = True, **changed: Any) -> Decision:
    due = tuple(
        TimerFact(id=f"tmr_{kind}", kind=kind, due_at=NOW - timedelta(hours=len(kinds) - n))
        for n, kind in enumerate(kinds)
    )
    known = CardFact(id="card_1", serial="B1", custody="outlet", place="out_1") if card else None
    case = Case(application=application(status, **changed), facts={"card": known, "timers": due})
    return STAGE.prepare(case, policy, NOW)


def emitted(decision: Decision) -> list[str]:
    return [fact.event.type for fact in decision.facts if isinstance(fact, Emit)]


def fired(decision: Decision) -> set[str]:
    return {fact.id for fact in decision.facts if isinstance(fact, TimerFired)}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kinds", [c for n in range(len(KINDS) + 1) for c in combinations(KINDS, n)], ids="+".join)
def test_every_clock_that_is_due_is_answered_for(status: str, kinds: tuple[str, ...]) -> None:
    assert fired(decided(status, *kinds)) == {f"tmr_{kind}" for kind in kinds}


def test_an_arrived_card_is_told_to_its_outlet_and_its_notice_clock_starts() -> None:
    decision = decided("delivered", "arrived")
    assert emitted(decision) == ["card.ready"]
    by = deadlines.notify_by(WUHAN, delivered_at=NOW, calendar=CALENDAR).at
    assert TimerSet(application_id="app_1", kind="notice_overdue", due_at=by) in decision.facts
    assert decision.outcome == Wait(None, TELL)
    [event] = [fact.event for fact in decision.facts if isinstance(fact, Emit)]
    assert (event.subject, event.outlet, event.data["collect_by"]) == ("card_1", "out_1", None)


def test_where_the_clock_runs_from_acceptance_the_outlet_hears_the_date_at_once() -> None:
    decision = decided("delivered", "arrived", policy=POLICIES["shaoguan"])
    [event] = [fact.event for fact in decision.facts if isinstance(fact, Emit)]
    [collect] = [fact for fact in decision.facts if isinstance(fact, CollectBy)]
    assert event.data["collect_by"] == f"{collect.collect_by:%Y-%m-%dT%H:%M:%SZ}"
    assert "collect_due" in {fact.kind for fact in decision.facts if isinstance(fact, TimerSet)}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    ("kind", "event", "while_"),
    [
        ("arrived", "card.ready", ("delivered", "notified")),
        ("notice_overdue", "card.notice_overdue", ("delivered",)),
        ("reminder", "card.uncollected_reminder", ("delivered", "notified")),
        ("collect_due", "card.uncollected", ("delivered", "notified")),
    ],
)
def test_a_clock_speaks_only_while_it_means_something(
    status: str, kind: str, event: str, while_: tuple[str, ...]
) -> None:
    assert (event in emitted(decided(status, kind))) == (status in while_)


@pytest.mark.parametrize("status", ["delivered", "notified"])
def test_when_the_time_is_over_the_card_is_uncollected_and_then_called_back(status: str) -> None:
    assert decided(status, "collect_due").outcome == Advance("uncollected")
    recalled = decided("uncollected")
    assert (recalled.outcome, emitted(recalled)) == (Advance("recalled"), ["card.recalled"])


@pytest.mark.parametrize(
    ("status", "why"), [("delivered", TELL), ("notified", COLLECT), ("recalled", RETURN), ("returned", RETURN)]
)
def test_without_a_clock_nothing_happens(status: str, why: str) -> None:
    assert decided(status) == Decision(Wait(None, why))


def test_without_a_card_the_clocks_fall_silent() -> None:
    decision = decided("notified", *KINDS, card=False)
    assert emitted(decision) == []
    assert isinstance(decision.outcome, Wait)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("card", [True, False])
def test_the_end_of_storage_ends_only_an_application_that_has_no_card_to_destroy(status: str, card: bool) -> None:
    outcome = decided(status, "storage_due", card=card).outcome
    assert (outcome == Advance("destroyed")) == (status == "returned" and not card)


def test_what_leaves_the_system_names_no_person() -> None:
    for status in STATUSES:
        for fact in decided(status, *KINDS).facts:
            if isinstance(fact, Emit):
                body = fact.event.body("evt_1", NOW).decode()
                assert "张三" not in body
                assert "999001" not in body


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("notified", [None, NOW], ids=["not told", "told"])
def test_the_clocks_of_collection_are_the_regions(policy: Policy, notified: datetime | None) -> None:
    clocks = collecting(
        policy, case_id="app_1", accepted_at=RECEIVED, notified_at=notified, now=RECEIVED, calendar=CALENDAR
    )
    due = deadlines.collect_by(policy, accepted_at=RECEIVED, notified_at=notified, calendar=CALENDAR)
    if due is None:
        assert (notified, policy.collection.starts.value, clocks) == (None, "notice", [])
        return
    assert [clock.collect_by for clock in clocks if isinstance(clock, CollectBy)] == [due.at]
    timers = [clock for clock in clocks if isinstance(clock, TimerSet)]
    assert [clock.due_at for clock in timers if clock.kind == "collect_due"] == [due.at]
    reminders = [clock.due_at for clock in timers if clock.kind == "reminder"]
    assert len(reminders) == len(policy.collection.reminder_days.value)
    assert reminders == sorted(reminders)
    assert all(at < due.at for at in reminders)


def test_a_card_that_comes_late_is_not_reminded_of_what_is_past() -> None:
    policy = next(policy for policy in POLICIES.values() if policy.collection.starts.value == "acceptance")
    late = RECEIVED + timedelta(days=policy.collection.reminder_days.value[0] + 1)
    clocks = collecting(policy, case_id="app_1", accepted_at=RECEIVED, notified_at=None, now=late, calendar=CALENDAR)
    reminders = [clock.due_at for clock in clocks if isinstance(clock, TimerSet) and clock.kind == "reminder"]
    assert len(reminders) == len(policy.collection.reminder_days.value) - 1
    assert all(at > late for at in reminders)


@pytest.mark.parametrize("late_days", [-1, 1, 200])
def test_where_the_clock_runs_from_acceptance_a_card_that_comes_too_late_has_its_time_from_arrival(
    late_days: int,
) -> None:
    policy = POLICIES["shaoguan"]
    due = deadlines.collect_by(policy, accepted_at=RECEIVED, notified_at=None, calendar=CALENDAR)
    assert due is not None
    came = due.at + timedelta(days=late_days)
    clocks = collecting(
        policy, case_id="app_1", accepted_at=RECEIVED, notified_at=None, now=came, calendar=CALENDAR, delivered_at=came
    )
    [by] = [clock.collect_by for clock in clocks if isinstance(clock, CollectBy)]
    if late_days < 0:
        assert by == due.at
    else:
        within = policy.collection.within.value.count
        assert timedelta(days=within) <= by - came < timedelta(days=within + 1)
