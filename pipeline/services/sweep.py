"""Sweep: what time does by itself. Every part is one short transaction and may run anywhere, any number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pipeline import transitions
from pipeline.retry import exhausted
from pipeline.services.context import Context
from pipeline.services.run_stage import parking
from pipeline.stages.base import Reconciler
from pipeline.store import applications, audit, custody, outbox, timers

CHUNK = 500
CRASHES = 3
"""A row that was alone with its worker when the worker died, this many times, is parked."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much each part did; `busy` when one of them may have more to do at once."""

    woken: int
    clocks: int
    expired: int
    sealed_bundles: int
    audited: int

    @property
    def busy(self) -> bool:
        return max(self.woken, self.clocks, self.expired, self.audited) >= CHUNK


def sweep(context: Context, reconcilers: Mapping[str, Reconciler]) -> Swept:
    """One round of everything that time does."""
    return Swept(
        woken=wake(context),
        clocks=ring(context),
        expired=end_leases(context, reconcilers),
        sealed_bundles=seal_bundles(context),
        audited=seal_audit(context),
    )


def wake(context: Context) -> int:
    """Waits that are over."""
    with context.store.transaction() as tx:
        woken = applications.wake_due(tx, now=context.now(), limit=CHUNK)
        if woken:
            tx.nudge()
    return woken


def ring(context: Context) -> int:
    """Clocks of applications that are due: the stage answers for them."""
    with context.store.transaction() as tx:
        rung = timers.wake(tx, now=context.now(), limit=CHUNK)
        if rung:
            tx.nudge()
    return rung


Fate = Literal["ready", "reconcile", "held"]


def fate(
    *, held_by: str, size: int, solo: bool, crashes: int, intent: bool, reconciler: Reconciler
) -> tuple[Fate, bool, int]:
    """What becomes of a row whose lease ran out: (work, published alone from now on, crashes).

    A lease of the broker (`queued`) says nothing of the row. A worker that died with a row counts against it only when the row was
    alone; until then its neighbours are freed from it by publishing each alone. With an intent committed the row goes where the
    outcome can be learnt: any worker asks the bank, only the station asks the chip.
    """
    if held_by == "queued":
        return "ready", solo, crashes
    crashes += size == 1
    if intent and reconciler == "station":
        return "reconcile", True, crashes
    if crashes >= CRASHES:
        return "held", True, crashes
    return "ready", True, crashes


def end_leases(context: Context, reconcilers: Mapping[str, Reconciler]) -> int:
    """Leases that ran out: their holder is dead, or too slow to be believed."""
    now = context.now()
    with context.store.transaction() as tx:
        rows = applications.expired(tx, now=now, limit=CHUNK)
        if not rows:
            return 0
        intents = applications.with_intent(tx, [row.id for row in rows])
        entries, parked = [], {}
        for row in rows:
            work, solo, crashes = fate(
                held_by=row.held_by,
                size=row.size,
                solo=row.solo,
                crashes=row.crashes,
                intent=row.id in intents,
                reconciler=reconcilers[row.stage],
            )
            if work == "held":
                parked[row.id] = row
            else:
                entries.append({"id": row.id, "work": work, "solo": int(solo), "crashes": crashes})
        applications.release(tx, entries, now=now)
        if parked:
            reason = exhausted(f"worker died {CRASHES}x")
            moves = {
                i: transitions.move(row.status, row.stage, parking(row.status, reason, now=now), now=now)
                for i, row in parked.items()
            }
            applications.force(tx, moves, now=now)
            applications.record(
                tx,
                [
                    {"application_id": i, "frm": row.status, "to": moves[i].status, "outcome": "hold", "why": reason.code}
                    for i, row in parked.items()
                ],
                stage=None,
                now=now,
                actor="sweeper",
            )
        tx.nudge()
    return len(rows)


def seal_bundles(context: Context) -> int:
    """Open bundles that have waited long enough leave as they are."""
    now = context.now()
    before = {p.code: now - timedelta(minutes=p.seal_after_minutes.value) for p in context.policies.cities()}
    with context.store.transaction() as tx:
        ripe = custody.ripe(tx, opened_before=before)
        custody.seal(tx, ripe, now=now)
    return len(ripe)


def seal_audit(context: Context) -> int:
    """Chain new rows of the audit log. The leader's work."""
    with context.store.transaction() as tx:
        return audit.seal(tx, limit=CHUNK)


def place_events(context: Context) -> int:
    """Give committed events their place in the feed. The leader's work."""
    with context.store.transaction() as tx:
        return outbox.place(tx, limit=CHUNK)
