"""Outlets' queues on the message broker: which are on, and how far each has surely been given the feed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import BigInteger, Column, Integer, Text, exists, func, or_, select, update

from pipeline.ports import OutgoingEvent
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Record

q = t.outlet_queues.c
_AHEAD = t.outbox.alias("ahead")
_PROGRESS = (
    Column("outlet", Text),
    Column("was", BigInteger),
    Column("position", BigInteger),
    Column("delivered", BigInteger),
    Column("tries", Integer),
    Column("next_try_at", Instant),
    Column("refused_since", Instant),
    Column("problem", Text),
)


def enable(tx: Tx, outlet: str, *, after: int | None, actor: str, now: datetime) -> int:
    """Switch a queue on and return the position it goes on from: `after`, else where it stood, else the end of the feed."""
    stood = tx.conn.execute(select(q.position).where(q.outlet == outlet)).scalar()
    if after is None and stood is None:
        after = tx.conn.execute(select(func.max(t.outbox.c.position))).scalar() or 0
    position = stood if after is None else after
    fresh = {"position": position, "tries": 0, "next_try_at": None, "refused_since": None, "problem": None}
    insert = upserting(tx, t.outlet_queues).values(
        outlet=outlet, state="enabled", created_at=now, created_by=actor, delivered=0, **fresh
    )
    tx.conn.execute(insert.on_conflict_do_update(index_elements=[q.outlet], set_={"state": "enabled", **fresh}))
    return int(position or 0)


def disable(tx: Tx, outlet: str) -> bool:
    """Switch a queue off; its position is kept. False when it was never on."""
    return tx.conn.execute(update(t.outlet_queues).where(q.outlet == outlet).values(state="disabled")).rowcount == 1


def enabled(tx: Tx) -> list[str]:
    """Outlets whose queue is on."""
    return list(tx.conn.execute(select(q.outlet).where(q.state == "enabled").order_by(q.outlet)).scalars())


def listing(tx: Tx) -> list[Record]:
    """Every queue with `behind`, the number of events it was not given yet."""
    behind = (
        select(func.count())
        .select_from(_AHEAD)
        .where(_AHEAD.c.outlet == q.outlet, _AHEAD.c.position > q.position)
        .scalar_subquery()
    )
    return list(tx.conn.execute(select(*q, behind.label("behind")).order_by(q.outlet)).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A queue and the events that come next for it, each with its position."""

    outlet: str
    position: int
    tries: int
    refused_since: datetime | None
    events: tuple[tuple[int, OutgoingEvent], ...]


def due(tx: Tx, *, now: datetime, queues: int, batch: int) -> list[Due]:
    """At most `queues` queues that are on, not backing off, and behind the feed, the furthest behind first; `batch` events of each."""
    mine = (_AHEAD.c.outlet == q.outlet, _AHEAD.c.position > q.position)
    end = (
        select(_AHEAD.c.position)
        .where(*mine)
        .order_by(_AHEAD.c.position)
        .offset(batch)
        .limit(1)
        .correlate(t.outlet_queues)
        .scalar_subquery()
    )
    chosen = (
        select(q.outlet, q.position, q.tries, q.refused_since, end.label("end"))
        .where(
            q.state == "enabled",
            or_(q.next_try_at.is_(None), q.next_try_at <= now),
            exists(select(_AHEAD.c.id).where(*mine).correlate(t.outlet_queues)),
        )
        .order_by(q.position, q.outlet)
        .limit(queues)
        .subquery("chosen")
    )
    o, c = t.outbox.c, chosen.c
    rows = tx.conn.execute(
        select(
            c.outlet, c.position, c.tries, c.refused_since, o.id, o.type, o.subject, o.body, o.position.label("place")
        )
        .join(t.outbox, (o.outlet == c.outlet) & (o.position > c.position))
        .where(or_(c.end.is_(None), o.position < c.end))
        .order_by(c.position, c.outlet, o.position)
    )
    found = []
    for _, group in groupby(rows, key=lambda row: row.outlet):
        members = list(group)
        first = members[0]
        events = tuple(
            (r.place, OutgoingEvent(id=r.id, type=r.type, subject=r.subject, outlet=r.outlet, body=r.body))
            for r in members
        )
        found.append(
            Due(
                outlet=first.outlet,
                position=first.position,
                tries=first.tries,
                refused_since=first.refused_since,
                events=events,
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What became of a queue's events: it stood at `was`, and `delivered` events bring it to `position`."""

    outlet: str
    was: int
    position: int
    delivered: int
    tries: int = 0
    next_try_at: datetime | None = None
    refused_since: datetime | None = None
    problem: str | None = None


def settle(tx: Tx, progress: Sequence[Progress]) -> None:
    """Write down how far the queues have come. One that was moved meanwhile, by a person or another leader, is left alone."""
    told = given(tx, *_PROGRESS)
    tx.conn.execute(
        update(t.outlet_queues)
        .where(q.outlet == told.c.outlet, q.position == told.c.was)
        .values(
            position=told.c.position,
            delivered=q.delivered + told.c.delivered,
            **{name: told.c[name] for name in ("tries", "next_try_at", "refused_since", "problem")},
        ),
        {"given": params([asdict(item) for item in progress])},
    )


def region_of(tx: Tx, outlet: str) -> str | None:
    """The region whose centre serves an outlet, by the newest bundle that travelled between them."""
    b = t.bundles.c
    return tx.conn.execute(select(b.region).where(b.outlet == outlet).order_by(b.id.desc()).limit(1)).scalar()
