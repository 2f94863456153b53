"""Instructions to banks as people look at them, and as they are compared with the bank's own books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Text, and_, bindparam, or_, select, true

from pipeline.ports import Key
from pipeline.states import LIVE
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Instant, Record

e = t.external_calls.c
k = t.accounts.c
a = t.applications.c

# Whatever it is about: what the account stage gives is counted with what the desk gives.
_OVER = ("done", "declined", "closed")
_SHOWN = (
    e.key, e.system.label("bank"), e.operation, e.state, e.held, e.code, e.account_id, e.card_id, e.application_id, e.seq,
    e.tries, e.created_at, e.settled_at, e.next_try_at, e.expected_by, e.reason, e.actor,
)  # fmt: skip


def listing(tx: Tx, *, bank_code: str | None, held: bool, limit: int) -> Sequence[Record]:
    """Calls that are not settled, oldest first; only those that wait for a person when `held`."""
    query = select(*_SHOWN).where(or_(e.state.not_in(_OVER), e.held == true()))
    if bank_code is not None:
        query = query.where(e.system == bank_code)
    if held:
        query = query.where(e.held == true())
    return tx.conn.execute(query.order_by(e.created_at, e.key).limit(limit)).all()


def find(tx: Tx, key: Key) -> Record | None:
    """A call."""
    return tx.conn.execute(select(*_SHOWN, e.lease_token).where(e.key == key)).first()


def held_up(tx: Tx, key: Key) -> Sequence[str]:
    """Applications that are held in the account stage over this call."""
    query = (
        select(a.id)
        .join(t.external_calls, and_(e.person_id == a.person_id, e.system == a.bank_code))
        .where(e.key == key, or_(e.operation == "open_account", e.application_id == a.id))
        .where(a.status == "held", a.held_from == "account")
        .order_by(a.id)
    )
    return tx.conn.execute(query).scalars().all()


def account_of_card(tx: Tx, card_id: str) -> Record | None:
    """The card's account: `id` (None: it has none), `status`, `frozen_at`. None: there is no such card."""
    c = t.cards.c
    query = select(k.id, k.status, k.frozen_at).select_from(t.cards.outerjoin(t.accounts, k.id == c.account_id))
    return tx.conn.execute(query.where(c.id == card_id)).first()


def to_be_collected(tx: Tx, account_id: str) -> str | None:
    """A card of the account that its holder has still to collect, or None. Locks the applications of the account's cards."""
    c = t.cards.c
    rows = tx.conn.execute(
        select(c.id, c.status, a.status.label("application"))
        .join(t.applications, a.id == c.application_id)
        .where(c.account_id == account_id)
        .order_by(a.id, c.id)
        .with_for_update(of=t.applications)
    ).all()
    for row in rows:
        if row.status == "produced" and row.application in LIVE and row.application != "returned":
            return str(row.id)
    return None


def bank_codes(tx: Tx) -> frozenset[str]:
    """Banks that accounts are kept at."""
    return frozenset(tx.conn.execute(select(k.bank_code).distinct()).scalars())


def standing(tx: Tx, bank_code: str, keys: Sequence[Key]) -> Mapping[Key, tuple[str, str | None]]:
    """By key: the state of a call to this bank, and the bank's name for the account it is about, where we know that."""
    asked = given(tx, Column("key", Text))
    return _standing(tx, bank_code, e.key.in_(select(asked.c.key)), {"given": params([{"key": key} for key in keys])})


def elsewhere(tx: Tx, bank_code: str, keys: Sequence[Key]) -> frozenset[Key]:
    """Those of the keys that are another bank's: several may be behind one gateway, and its list is of all of them."""
    asked = given(tx, Column("key", Text))
    query = select(e.key).where(e.key.in_(select(asked.c.key)), e.system != bank_code)
    return frozenset(tx.conn.execute(query, {"given": params([{"key": key} for key in keys])}).scalars())


def settled_between(tx: Tx, bank_code: str, begin: datetime, end: datetime) -> Mapping[Key, tuple[str, str | None]]:
    """As `standing`: the calls that we learnt the end of in this time."""
    within = and_(e.settled_at >= bindparam("begin", type_=Instant), e.settled_at < bindparam("end", type_=Instant))
    over = e.state.in_(("done", "declined"))
    return _standing(tx, bank_code, and_(within, over), {"begin": begin, "end": end})


def _standing(
    tx: Tx, bank_code: str, which: ColumnElement[bool], values: Mapping[str, Any]
) -> Mapping[Key, tuple[str, str | None]]:
    about = or_(k.id == e.account_id, k.key == e.key)
    query = select(e.key, e.state, k.id, k.sealed).select_from(t.external_calls.outerjoin(t.accounts, about))
    rows = tx.conn.execute(query.where(e.system == bank_code, which), dict(values)).all()
    found = {}
    for row in rows:
        ref = None if row.id is None else tx.sealer.open(row.sealed, bound_to=f"accounts/{row.id}")["account_ref"]
        found[row.key] = (row.state, ref)
    return found
