"""Collection: the clocks that run while a card waits at its outlet (WH-10, WH-11, SG-10).

What people do (telling the applicant, handing over, sending back) are verbs of `services.counter` and `services.returns`; this stage does what time does.
It is woken by timers and answers for those that are due:

    arrived         the outlet signed for the card: tell it that the card is ready, start its clocks
    notice_overdue  the applicant was not told in time (WH-10)
    reminder        the card has waited for some while
    collect_due     the time to collect is over: uncollected, then recalled
    storage_due     the time in the centre's store is over: people may destroy the card (`services.destruction`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pipeline import deadlines
from pipeline.application import Application
from pipeline.calendar import WorkingCalendar
from pipeline.events import Event, instant
from pipeline.outcomes import Advance, Outcome, Wait
from pipeline.policy import Policy
from pipeline.stages.base import CardFact, Case, Decision, Fact, Need, Reconciler, Thinking, TimerFact

TELL, COLLECT, RETURN = "collection.notice", "collection.person", "collection.return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit(Fact):
    """An event leaves the system with the settling transaction."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSet(Fact):
    """A clock starts. The same clock set twice is one clock."""

    application_id: str
    kind: str
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Fact):
    """A clock has done its work."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectBy(Fact):
    """The date until which the card may be collected."""

    application_id: str
    collect_by: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUnused(Fact):
    """An application ends without a card: the account of its last one is closed, if its person has no other use for it."""

    application_id: str
    reason: str


class Collection(Thinking):
    """`stages.base.Stage` for the clocks of waiting cards."""

    name: ClassVar[str] = "collection"
    chunk: int = 200
    needs: ClassVar[frozenset[Need]] = frozenset({"card", "timers"})
    reconciler: ClassVar[Reconciler] = "none"
    lease: timedelta = timedelta(seconds=60)

    def __init__(self, calendar: WorkingCalendar) -> None:
        self._calendar = calendar

    def prepare(self, case: Case, policy: Policy, now: datetime) -> Decision:
        """Answer for every clock that is due."""
        card: CardFact | None = case.facts["card"]
        due: Sequence[TimerFact] = case.facts["timers"]
        facts: list[Fact] = [TimerFired(id=timer.id) for timer in due]
        outcome: Outcome = Wait(None, _waits_for(case.application.status))
        if card is None:
            # Lost on its way back and not made again: when its storage would be over, there is nothing to destroy.
            over = case.application.status == "returned" and any(timer.kind == "storage_due" for timer in due)
            if over and policy.returned.close_account.value != "never":
                facts.append(AccountUnused(application_id=case.id, reason="lost"))
            return Decision(Advance("destroyed") if over else outcome, tuple(facts))
        for timer in sorted(due, key=lambda timer: timer.due_at):
            facts += self._on(timer.kind, case, card, policy, now)
            if timer.kind == "collect_due" and case.application.status in ("delivered", "notified"):
                outcome = Advance("uncollected")
        if case.application.status == "uncollected":
            outcome = Advance("recalled")
            facts.append(_emit("card.recalled", case, card))
        return Decision(outcome, tuple(facts))

    def _on(self, kind: str, case: Case, card: CardFact, policy: Policy, now: datetime) -> list[Fact]:
        app = case.application
        waiting = app.status in ("delivered", "notified")
        match kind:
            case "arrived" if waiting:
                delivered = app.delivered_at or now
                notify_by = deadlines.notify_by(policy, delivered_at=delivered, calendar=self._calendar).at
                clocks = collecting(
                    policy,
                    case_id=app.id,
                    accepted_at=app.received_at,
                    notified_at=app.notified_at,
                    now=now,
                    calendar=self._calendar,
                    delivered_at=delivered,
                )
                ready = _emit("card.ready", case, card, notify_by=instant(notify_by), collect_by=_collect_by(clocks))
                told = TimerSet(application_id=app.id, kind="notice_overdue", due_at=notify_by)
                return [ready, told, *clocks]
            case "notice_overdue" if app.status == "delivered":
                return [_emit("card.notice_overdue", case, card)]
            case "reminder" if waiting:
                return [_emit("card.uncollected_reminder", case, card)]
            case "collect_due" if waiting:
                return [_emit("card.uncollected", case, card)]
        return []


def collecting(
    policy: Policy,
    *,
    case_id: str,
    accepted_at: datetime,
    notified_at: datetime | None,
    now: datetime,
    calendar: WorkingCalendar,
    delivered_at: datetime | None = None,
) -> list[Fact]:
    """The clocks of collection and its reminders; none before the region's clock begins (WH-11 notice, SG-10 acceptance).

    A reminder whose time is past when the clock is set is left out: the card has only just come. A card that comes when its time
    is over already, since it was made late or goes out again, waits as long from its arrival (assumed: SG-10 has it there in time).
    """
    due = deadlines.collect_by(policy, accepted_at=accepted_at, notified_at=notified_at, calendar=calendar)
    if due is not None and delivered_at is not None and due.at <= delivered_at:
        accepted_at = delivered_at
        due = deadlines.collect_by(policy, accepted_at=accepted_at, notified_at=notified_at, calendar=calendar)
    if due is None:
        return []
    reminders = deadlines.reminders(policy, accepted_at=accepted_at, notified_at=notified_at)
    return [
        CollectBy(application_id=case_id, collect_by=due.at),
        TimerSet(application_id=case_id, kind="collect_due", due_at=due.at),
        *(TimerSet(application_id=case_id, kind="reminder", due_at=at) for at in reminders if now < at < due.at),
    ]


def _collect_by(clocks: Sequence[Fact]) -> str | None:
    return next((instant(clock.collect_by) for clock in clocks if isinstance(clock, CollectBy)), None)


def _waits_for(status: str) -> str:
    return {"delivered": TELL, "notified": COLLECT}.get(status, RETURN)


def _emit(kind: str, case: Case, card: CardFact, **data: Any) -> Emit:
    return Emit(event=card_event(kind, case.application, card.id, card.bundle_id, **data))


def card_event(kind: str, app: Application, card_id: str, bundle_id: str | None, **data: Any) -> Event:
    """An event about an application's card, as outlets get it: ids and dates, nothing of the person."""
    shared = {
        "card_id": card_id,
        "application_id": app.id,
        "kind": app.kind,
        "region": app.region,
        "outlet_id": app.outlet,
        "bundle_id": bundle_id,
    }
    return Event(
        type=kind, subject=card_id, region=app.region, sequence=app.version, outlet=app.outlet, data={**shared, **data}
    )
