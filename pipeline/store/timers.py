"""Clocks of applications. A due clock makes its application ready; the stage answers for it and marks it fired, in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Text, bindparam, exists, select, true, update

from pipeline.identifiers import new_id
from pipeline.stages.base import TimerFact
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant

m = t.timers.c
a = t.applications.c
_ID = Column("id", Text)
_ROW = (_ID, Column("application_id", Text), Column("kind", Text), Column("due_at", Instant))
_LIVE = (m.fired_at.is_(None), m.cancelled_at.is_(None))


def start(tx: Tx, clocks: Sequence[tuple[str, str, datetime]], *, now: datetime) -> None:
    """Start clocks: (application, kind, due). One that runs already, or has fired, is left alone; one that was stopped goes on."""
    if not clocks:
        return
    rows = given(tx, *_ROW)
    values = [
        {"id": new_id("tmr_", now=now, random=tx.random), "application_id": i, "kind": kind, "due_at": due}
        for i, kind, due in dict.fromkeys(clocks)  # PostgreSQL does not touch a row twice in one statement
    ]
    names = [column.name for column in _ROW]
    source = select(*(rows.c[name] for name in names)).where(true())
    statement = upserting(tx, t.timers).from_select(names, source)
    tx.conn.execute(
        statement.on_conflict_do_update(
            index_elements=[m.application_id, m.kind, m.due_at],
            set_={"cancelled_at": None},
            where=m.cancelled_at.is_not(None),
        ),
        {"given": params(values)},
    )


def due_for(tx: Tx, ids: Sequence[str], *, now: datetime) -> Mapping[str, tuple[TimerFact, ...]]:
    """The due clocks of applications."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(m.id, m.application_id, m.kind, m.due_at)
        .where(m.application_id.in_(select(asked.c.id)), m.due_at <= bindparam("now", type_=Instant), *_LIVE)
        .order_by(m.due_at, m.id),
        {"given": params([{"id": i} for i in ids]), "now": now},
    )
    found: dict[str, tuple[TimerFact, ...]] = {}
    for row in rows:
        fact = TimerFact(id=row.id, kind=row.kind, due_at=row.due_at)
        found[row.application_id] = (*found.get(row.application_id, ()), fact)
    return found


def fire(tx: Tx, ids: Sequence[str], *, now: datetime) -> None:
    """Clocks that have done their work."""
    asked = given(tx, _ID)
    tx.conn.execute(
        update(t.timers).where(m.id.in_(select(asked.c.id)), *_LIVE).values(fired_at=bindparam("now", type_=Instant)),
        {"given": params([{"id": i} for i in ids]), "now": now},
    )


def cancel(tx: Tx, application_ids: Sequence[str], *, now: datetime, kinds: Sequence[str] = ()) -> None:
    """Stop clocks that have lost their meaning: all of an application, or some kinds."""
    asked = given(tx, _ID)
    statement = update(t.timers).where(m.application_id.in_(select(asked.c.id)), *_LIVE)
    if kinds:
        statement = statement.where(m.kind.in_(kinds))
    tx.conn.execute(
        statement.values(cancelled_at=bindparam("now", type_=Instant)),
        {"given": params([{"id": i} for i in application_ids]), "now": now},
    )


def resume(tx: Tx, application_id: str, *, cancelled_at: datetime) -> None:
    """Clocks that an act stopped, and that was taken back, run again with their old due dates."""
    tx.conn.execute(
        update(t.timers)
        .where(m.application_id == application_id, m.cancelled_at == cancelled_at, m.fired_at.is_(None))
        .values(cancelled_at=None)
    )


def wake(tx: Tx, *, now: datetime, limit: int) -> int:
    """Make applications ready whose clocks are due, unless they wait for a time of their own."""
    ripe = (
        select(a.id)
        .where(
            a.work == "waiting",
            a.next_try_at.is_(None),
            exists(select(m.id).where(m.application_id == a.id, m.due_at <= bindparam("now", type_=Instant), *_LIVE)),
        )
        .limit(limit)
        .with_for_update(skip_locked=True, of=t.applications)
    )
    due = (
        select(m.application_id)
        .where(m.due_at <= bindparam("now", type_=Instant), *_LIVE)
        .order_by(m.due_at)
        .limit(limit)
    )
    picked = ripe.where(a.id.in_(due)).cte("picked")
    statement = (
        update(t.applications)
        .where(a.id.in_(select(picked.c.id)))
        .values(work="ready", next_try_at=None)
        .returning(a.id)
    )
    return len(tx.conn.execute(statement, {"now": now}).all())


def overdue(tx: Tx, *, now: datetime) -> datetime | None:
    """When the oldest clock that should have done its work was due, or None."""
    row: Any = tx.conn.execute(select(m.due_at).where(m.due_at <= now, *_LIVE).order_by(m.due_at).limit(1)).scalar()
    return row if isinstance(row, datetime) else None
