"""Who may work and who does: paused stages, and the processes that hold a role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text, true

from pipeline.store import tables as t
from pipeline.store.engine import Store, Tx, reached, upserting

s = t.stage_control.c
r = t.roles.c


def set_paused(tx: Tx, stage: str, *, paused: bool, reason: str, actor: str, now: datetime) -> None:
    """Pause a stage, or let it go on."""
    values = {"paused": paused, "reason": reason, "actor": actor, "at": now}
    insert = upserting(tx, t.stage_control).values(stage=stage, **values)
    tx.conn.execute(insert.on_conflict_do_update(index_elements=[s.stage], set_=values))


def paused(tx: Tx) -> dict[str, str]:
    """Paused stages and why."""
    rows = tx.conn.execute(select(s.stage, s.reason).where(s.paused == true()))
    return {row.stage: row.reason for row in rows}


@dataclass(frozen=True, slots=True)
class Role:
    """A process of the installation."""

    role: str
    pid: int
    since: datetime
    beat_at: datetime


def beat(tx: Tx, role: str, *, pid: int, now: datetime) -> None:
    """Say that a process is alive."""
    insert = upserting(tx, t.roles).values(role=role, pid=pid, since=now, beat_at=now)
    tx.conn.execute(insert.on_conflict_do_update(index_elements=[r.role], set_={"pid": pid, "beat_at": now}))


def leave(tx: Tx, role: str) -> None:
    """Say that a process has ended."""
    tx.conn.execute(t.roles.delete().where(r.role == role))


def roles(tx: Tx) -> list[Role]:
    """Every process that said so."""
    return [
        Role(row.role, row.pid, row.since, row.beat_at) for row in tx.conn.execute(select(t.roles).order_by(r.role))
    ]


def restart(tx: Tx, role: str, *, pid: int, now: datetime) -> None:
    """A process takes a role: from now on it is this one."""
    insert = upserting(tx, t.roles).values(role=role, pid=pid, since=now, beat_at=now)
    tx.conn.execute(
        insert.on_conflict_do_update(index_elements=[r.role], set_={"pid": pid, "since": now, "beat_at": now})
    )


_LOCKS = {"relay": 7284, "timers": 7285, "bank-desk": 7286, "notify": 7288, "outlet-amqp": 7287}


@contextmanager
def leadership(store: Store, role: str) -> Iterator[Callable[[], bool] | None]:
    """Try to lead in `role` for the length of the block: None when another process does.

    Whoever leads asks now and then, by calling what is given, whether it still does: the lock goes with its connection. On SQLite
    there is one process, so it leads.
    """
    if not store.postgres:
        yield lambda: True
        return
    with reached(), store.engine.connect() as held:
        conn = held.execution_options(isolation_level="AUTOCOMMIT")
        if not conn.execute(text("SELECT pg_try_advisory_lock(:k)"), {"k": _LOCKS[role]}).scalar():
            yield None
            return
        try:
            yield lambda: bool(conn.execute(text("SELECT true")).scalar())
        finally:
            # Ending the connection gives the lock back, also when the connection is broken.
            conn.invalidate()
