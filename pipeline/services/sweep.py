"""Sweep: what time does by itself. Every part is one short transaction and may run anywhere, any number of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pipeline import transitions
from pipeline.events import instant
from pipeline.retry import exhausted
from pipeline.services.acts import bundle_event
from pipeline.services.context import Context
from pipeline.services.run_stage import parking
from pipeline.stages.base import Reconciler
from pipeline.store import applications, audit, custody, outbox, packing, timers
from pipeline.store.applications import Expired
from pipeline.store.engine import Tx

CHUNK = 500
CRASHES = 3
"""A row that was alone with its worker when the worker died, this many times, is parked."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much each part did; `busy` when one of them may have more to do at once."""

    woken: int
    clocks: int
    expired: Counter[str]
    """Leases that ran out, by stage."""
    sealed_bundles: int
    overdue_bundles: int
    closed_bundles: int
    audited: int

    @property
    def busy(self) -> bool:
        return max(self.woken, self.clocks, self.expired.total(), self.closed_bundles, self.audited) >= CHUNK


def sweep(context: Context, reconcilers: Mapping[str, Reconciler]) -> Swept:
    """One round of everything that time does."""
    return Swept(
        woken=wake(context),
        clocks=ring(context),
        expired=end_leases(context, reconcilers),
        sealed_bundles=seal_bundles(context),
        overdue_bundles=tell_overdue_bundles(context),
        closed_bundles=close_bundles(context),
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
    outcome can be learnt: any worker asks the bank, only the station asks the chip. What kills its holder again and again is parked, its
    intent with it, for an operator.
    """
    if held_by == "queued":
        return "ready", solo, crashes
    crashes += size == 1
    if crashes >= CRASHES:
        return "held", True, crashes
    return "reconcile" if intent and reconciler == "station" else "ready", True, crashes


def end_leases(context: Context, reconcilers: Mapping[str, Reconciler]) -> Counter[str]:
    """Leases that ran out, by stage: their holder is dead, or too slow to be believed."""
    now = context.now()
    with context.store.transaction() as tx:
        rows = applications.expired(tx, now=now, limit=CHUNK)
        _end(tx, rows, reconcilers, now=now)
    return Counter(row.stage for row in rows)


def take_over(context: Context, stage: str, station: str) -> int:
    """At the start of a station: what its former process held when it died is settled now, not when its lease ends."""
    now = context.now()
    with context.store.transaction() as tx:
        rows = applications.held_by_station(tx, stage=stage, station=station)
        _end(tx, rows, {stage: "station"}, now=now)
    return len(rows)


def _end(tx: Tx, rows: Sequence[Expired], reconcilers: Mapping[str, Reconciler], *, now: datetime) -> None:
    """Give rows back whose holder is gone, or park those that have killed it too often."""
    if not rows:
        return
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
        _park(tx, parked, now=now)
    tx.nudge()


def _park(tx: Tx, rows: Mapping[str, Expired], *, now: datetime) -> None:
    reason = exhausted(f"worker died {CRASHES}x")
    moves = {
        i: transitions.move(row.status, row.stage, parking(row.status, reason, now=now), now=now)
        for i, row in rows.items()
    }
    applications.force(tx, moves, now=now)
    entries = [
        {"application_id": i, "frm": row.status, "to": moves[i].status, "outcome": "hold", "why": reason.code}
        for i, row in rows.items()
    ]
    applications.record(tx, entries, stage=None, now=now, actor="sweeper")


def seal_bundles(context: Context) -> int:
    """Open bundles that have waited long enough leave as they are."""
    now = context.now()
    before = {p.code: now - timedelta(minutes=p.seal_after_minutes.value) for p in context.policies.cities()}
    with context.store.transaction() as tx:
        ripe = packing.ripe(tx, opened_before=before)
        packing.seal(tx, ripe, now=now)
    return len(ripe)


def tell_overdue_bundles(context: Context) -> int:
    """Bundles of either direction that nobody has signed for in their region's time: both sides hear of it, once."""
    now = context.now()
    before = {p.code: now - timedelta(hours=p.receive_within_h.value) for p in context.policies.cities()}
    with context.store.transaction() as tx:
        late = custody.overdue(tx, shipped_before=before)
        for bundle in late:
            custody.mark(tx, bundle.id, alerted_at=now)
            told = {"direction": bundle.direction, "shipped_at": instant(bundle.shipped_at)}
            outbox.append(tx, [bundle_event("bundle.overdue", bundle, now, **told)], now=now)
            audit.append(tx, actor="sweeper", action="bundle.overdue", target=bundle.id, now=now, detail=told)
    return len(late)


def close_bundles(context: Context) -> int:
    """Bundles that were received without an open discrepancy are done with."""
    with context.store.transaction() as tx:
        return custody.close_received(tx, now=context.now(), limit=CHUNK)


def seal_audit(context: Context) -> int:
    """Chain new rows of the audit log. The leader's work."""
    with context.store.transaction() as tx:
        return audit.seal(tx, limit=CHUNK)


def place_events(context: Context) -> int:
    """Give committed events their place in the feed. The leader's work."""
    with context.store.transaction() as tx:
        return outbox.place(tx, limit=CHUNK)
