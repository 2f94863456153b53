"""Events on their way out. They commit with what they tell of; their place in the feed is given later, by one leader, in commit order.

A position given at insert would be skipped by a reader when an older transaction commits late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, update

from pipeline.events import Event
from pipeline.identifiers import id_floor, new_id
from pipeline.ports import OutgoingEvent
from pipeline.store import tables as t
from pipeline.store.engine import Tx

o = t.outbox.c


def append(tx: Tx, events: Sequence[Event], *, now: datetime) -> list[str]:
    """Add events to the running transaction; returns their ids."""
    rows = []
    ids = []
    for event in events:
        event_id = new_id("evt_", now=now, random=tx.random)
        ids.append(event_id)
        rows.append(
            {
                "id": event_id,
                "type": event.type,
                "subject": event.subject,
                "outlet": event.outlet,
                "body": event.body(event_id, now),
                "created_at": now,
            }
        )
    if rows:
        tx.conn.execute(insert(t.outbox), rows)
    return ids


def place(tx: Tx, *, limit: int) -> int:
    """Give committed events their place in the feed. Only the leader may: two of them would give the same place."""
    last = tx.conn.execute(select(func.max(o.position))).scalar() or 0
    numbered = (
        select(o.id, func.row_number().over(order_by=o.id).label("n"))
        .where(o.position.is_(None))
        .order_by(o.id)
        .limit(limit)
        .subquery()
    )
    done = tx.conn.execute(
        update(t.outbox).where(o.id == numbered.c.id).values(position=numbered.c.n + last).returning(o.id)
    )
    return len(done.all())


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the feed and the cursor to go on from."""

    events: tuple[OutgoingEvent, ...]
    cursor: int


def feed(tx: Tx, *, after: int, limit: int, outlet: str | None = None, types: Sequence[str] = ()) -> Page:
    """Events after a position, in order; for one outlet, or all."""
    query = select(t.outbox).where(o.position > after).order_by(o.position).limit(limit)
    if outlet is not None:
        query = query.where(o.outlet == outlet)
    if types:
        query = query.where(o.type.in_(types))
    rows = tx.conn.execute(query).all()
    events = tuple(OutgoingEvent(id=r.id, type=r.type, subject=r.subject, outlet=r.outlet, body=r.body) for r in rows)
    return Page(events, rows[-1].position if rows else after)


def last_before(tx: Tx, at: datetime) -> int:
    """The position of the newest event made before a time; 0 when there is none."""
    row = select(o.position).where(o.id < id_floor("evt_", at), o.position.is_not(None)).order_by(o.id.desc()).limit(1)
    return tx.conn.execute(row).scalar() or 0


def waiting(tx: Tx) -> tuple[int, datetime | None]:
    """How many events have no place yet, and since when."""
    row = tx.conn.execute(select(func.count(), func.min(o.created_at)).where(o.position.is_(None))).one()
    return int(row[0]), row[1]


def ids(tx: Tx) -> set[str]:
    """Every event that concerns an outlet."""
    return set(tx.conn.execute(select(o.id).where(o.outlet.is_not(None))).scalars())


def count(tx: Tx, kind: str) -> int:
    """Events of a type, ever."""
    return tx.conn.execute(select(func.count()).select_from(t.outbox).where(o.type == kind)).scalar_one()
