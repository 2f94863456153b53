"""Cards that came back: which lie in storage, which are listed to be destroyed, and what was destroyed under which receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Instant, Record

STORAGE = "storage_due"
"""The clock that ends a returned card's storage."""
WASTE = ("voided", "cancelled")
"""Statuses of cards that nobody will get any more."""

_ID = Column("id", Text)
_NOW = bindparam("now", type_=Instant)
a = t.applications.c
c = t.cards.c
m = t.timers.c
n = t.destructions.c
k = t.destruction_cards.c


def _until() -> ColumnElement[Any]:
    """When the storage of an application's card ends, if a clock of it runs or has rung."""
    return (
        select(func.max(m.due_at))
        .where(m.application_id == a.id, m.kind == STORAGE, m.cancelled_at.is_(None))
        .scalar_subquery()
    )


def stored(tx: Tx, *, now: datetime, card_ids: Sequence[str] | None = None, due: bool = False) -> list[Record]:
    """Cards at the centre that were returned, or that are waste; `due`: only those that may be destroyed and are not listed.

    Columns: card, serial, application, card_status, status, ending, reason, storage_until, due, listed. Waste is due at once, a
    returned card when its storage is over (WH-11, WH-12, SG-10).
    """
    until = _until()
    listed = exists(select(k.card_id).where(k.card_id == c.id, k.open))
    waste = c.status.in_(WASTE)
    over = and_(a.status == "returned", c.status == "produced", until <= _NOW)
    is_due = case((or_(waste, over), True), else_=False)
    query = (
        select(
            c.id.label("card"),
            c.blank_serial.label("serial"),
            c.application_id.label("application"),
            c.account_id.label("account"),
            c.status.label("card_status"),
            a.status,
            a.ending,
            c.return_reason.label("reason"),
            until.label("storage_until"),
            is_due.label("due"),
            case((listed, True), else_=False).label("listed"),
        )
        .join(t.applications, a.id == c.application_id)
        .where(c.custody == "centre", or_(waste, and_(a.status == "returned", c.status == "produced")))
        .order_by(c.id)
    )
    values: dict[str, Any] = {"now": now}
    if card_ids is not None:
        asked = given(tx, _ID)
        query = query.where(c.id.in_(select(asked.c.id)))
        values["given"] = params([{"id": i} for i in card_ids])
    if due:
        query = query.where(or_(waste, over), ~listed)
    return list(tx.conn.execute(query, values).all())


def open_list(tx: Tx, items: Sequence[Mapping[str, Any]], *, reason: str, by: str, now: datetime) -> str:
    """List cards to be destroyed. The database refuses a card that is on another open list."""
    destruction_id = new_id("dst_", now=now, random=tx.random)
    row = {"id": destruction_id, "state": "listed", "reason": reason, "items": list(items)}
    tx.conn.execute(insert(t.destructions), {**row, "listed_by": by, "listed_at": now})
    rows = given(tx, _ID)
    source = select(literal(destruction_id), rows.c.id, literal(True, Boolean))
    tx.conn.execute(
        insert(t.destruction_cards).from_select(["destruction_id", "card_id", "open"], source),
        {"given": params([{"id": item["card"]} for item in items])},
    )
    return destruction_id


def find(tx: Tx, destruction_id: str, *, lock: bool = False) -> Record | None:
    """A list, or what was destroyed by it."""
    query = select(t.destructions).where(n.id == destruction_id)
    return tx.conn.execute(query.with_for_update() if lock else query).first()


def find_receipt(tx: Tx, receipt_no: str) -> Record | None:
    """What was destroyed under a receipt."""
    return tx.conn.execute(select(t.destructions).where(n.receipt_no == receipt_no)).first()


def listing(tx: Tx, *, state: str | None, limit: int) -> list[Record]:
    """Lists, newest first."""
    query = select(t.destructions).order_by(n.id.desc()).limit(limit)
    return list(tx.conn.execute(query.where(n.state == state) if state else query).all())


def end(tx: Tx, destruction_id: str, *, state: str, now: datetime, **columns: Any) -> None:
    """A list was carried out or withdrawn: its cards are on no open list any more."""
    tx.conn.execute(update(t.destructions).where(n.id == destruction_id).values(state=state, settled_at=now, **columns))
    tx.conn.execute(update(t.destruction_cards).where(k.destruction_id == destruction_id).values(open=False))
