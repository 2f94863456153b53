"""Discrepancies: what a bundle held beyond or short of its packing list. While one is open, its bundle is disputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Text, bindparam, func, literal, select, true, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, on_conflict_nothing, params
from pipeline.store.types import Instant, Record

_ID = Column("id", Text)
d = t.discrepancies.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. `card_id` None: the seal, or a serial that is none of our cards'. `serial`: the blank's, or the seal's number."""

    kind: str
    serial: str
    card_id: str | None = None


def open_(tx: Tx, bundle_id: str, found: Sequence[Difference], *, by: str, now: datetime) -> tuple[str, ...]:
    """Open discrepancies of a bundle; one that is open already is left alone. Returns the new ones."""
    if not found:
        return ()
    rows = given(tx, _ID, Column("kind", Text), Column("card_id", Text), Column("serial", Text))
    names = ["id", "kind", "card_id", "serial", "bundle_id", "note", "state", "opened_by", "opened_at"]
    source = select(
        rows.c.id,
        rows.c.kind,
        rows.c.card_id,
        rows.c.serial,
        literal(bundle_id),
        literal(""),
        literal("open"),
        bindparam("by", type_=Text),
        bindparam("now", type_=Instant),
    ).where(true())
    values = [
        {
            "id": new_id("dis_", now=now, random=tx.random),
            "kind": item.kind,
            "card_id": item.card_id,
            "serial": item.serial,
        }
        for item in found
    ]
    opened = tx.conn.execute(
        on_conflict_nothing(tx, t.discrepancies).from_select(names, source).returning(d.id),
        {"given": params(values), "by": by, "now": now},
    )
    return tuple(sorted(opened.scalars()))


def find(tx: Tx, discrepancy_id: str) -> Record | None:
    """A discrepancy. Whoever settles it holds its bundle."""
    return tx.conn.execute(select(t.discrepancies).where(d.id == discrepancy_id)).first()


def still_missing(tx: Tx, bundle_id: str) -> set[str]:
    """Cards of a bundle that were told missing and have not been found."""
    query = select(d.card_id).where(d.bundle_id == bundle_id, d.kind == "missing", d.state == "open")
    return set(tx.conn.execute(query).scalars())


def listing(tx: Tx, *, bundle_id: str | None = None, state: str | None = None, limit: int = 1000) -> list[Record]:
    """Discrepancies, oldest first."""
    query = select(t.discrepancies).order_by(d.id).limit(limit)
    for column, value in ((d.bundle_id, bundle_id), (d.state, state)):
        if value is not None:
            query = query.where(column == value)
    return list(tx.conn.execute(query).all())


def count_open(tx: Tx, bundle_id: str) -> int:
    """How many are open."""
    query = select(func.count()).select_from(t.discrepancies).where(d.bundle_id == bundle_id, d.state == "open")
    return tx.conn.execute(query).scalar_one()


def settle(tx: Tx, discrepancy_id: str, *, resolution: str, note: str, by: str, now: datetime) -> None:
    """Settle one."""
    settled = {"state": "settled", "resolution": resolution, "note": note, "settled_by": by, "settled_at": now}
    tx.conn.execute(update(t.discrepancies).where(d.id == discrepancy_id).values(**settled))


def turned_up(tx: Tx, bundle_id: str, card_ids: Sequence[str], *, by: str, now: datetime) -> None:
    """Cards that were missing in a bundle have arrived after all."""
    asked = given(tx, _ID)
    tx.conn.execute(
        update(t.discrepancies)
        .where(d.bundle_id == bundle_id, d.kind == "missing", d.state == "open", d.card_id.in_(select(asked.c.id)))
        .values(state="settled", resolution="arrived", settled_by=by, settled_at=bindparam("now", type_=Instant)),
        {"given": params([{"id": i} for i in card_ids]), "now": now},
    )
