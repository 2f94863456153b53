"""Calls of the account stage that no application asks about any more, since the one that gave them has ended or has moved on.

Whatever the bank did then, nobody would learn of it: the desk asks (`services.unclaimed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Text, and_, bindparam, exists, false, literal_column, or_, select

from pipeline.ports import Key
from pipeline.store import tables as t
from pipeline.store.accounts import lease
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Instant, Record

_KEY = Column("key", Text)
_NOW = bindparam("now", type_=Instant)
e = t.external_calls.c
a = t.applications.c

# Written into the statement word for word: a partial index is used only where its own condition stands.
_OPEN = [literal_column(f"'{state}'", Text) for state in ("intent", "unknown", "pending")]


def left() -> ColumnElement[bool]:
    """Whether a call of the account stage is open, and no application stands in that stage, or is held there, that asks about it."""
    stands = or_(a.status == "account", and_(a.status == "held", a.held_from == "account"))
    asks = or_(e.operation == "open_account", a.id == e.application_id)
    asking = exists(select(a.id).where(a.person_id == e.person_id, a.bank_code == e.system, asks, stands))
    return and_(e.seq.is_(None), e.state.in_(_OPEN), ~asking)


def is_left(tx: Tx, key: Key) -> bool:
    """Whether a call is one of these."""
    return tx.conn.execute(select(e.key).where(e.key == key, left())).first() is not None


def claim(
    tx: Tx, *, token: str, now: datetime, until: datetime, given_before: datetime, limit: int
) -> Sequence[Record]:
    """Take those that are due, on a lease, of what was given long enough ago; whole rows."""
    due = or_(e.next_try_at.is_(None), e.next_try_at <= _NOW)
    free = or_(e.lease_until.is_(None), e.lease_until <= _NOW)
    ripe = e.created_at <= bindparam("given_before", type_=Instant)
    rows = tx.conn.execute(
        select(t.external_calls)
        .where(left(), e.held == false(), ripe, due, free)
        .order_by(e.created_at, e.key)
        .limit(limit)
        .with_for_update(skip_locked=True, of=t.external_calls),
        {"now": now, "given_before": given_before},
    ).all()
    lease(tx, [row.key for row in rows], token=token, until=until)
    return rows


def outlived(tx: Tx, keys: Sequence[Key]) -> frozenset[Key]:
    """Those of the bindings after which another one to the same person's account was given and done: their numbers are past."""
    asked = given(tx, _KEY)
    newer = t.external_calls.alias("newer").c
    later = exists(
        select(newer.key).where(
            newer.person_id == e.person_id,
            newer.system == e.system,
            newer.operation == "bind_card",
            newer.state == "done",
            newer.created_at > e.created_at,
        )
    )
    rows = tx.conn.execute(
        select(e.key).where(e.key.in_(select(asked.c.key)), later), {"given": params([{"key": key} for key in keys])}
    )
    return frozenset(rows.scalars())
