"""Bundles and custody: every card is in one place, and each change of place is a row that names who gave and who took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Text, bindparam, exists, func, insert, select, update

from pipeline.identifiers import new_id
from pipeline.stages.dispatch import Packed
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, on_conflict_nothing, params
from pipeline.store.types import Instant, Record, instant_text

_ID = Column("id", Text)
b = t.bundles.c
c = t.cards.c
e = t.custody_events.c


@dataclass(frozen=True, slots=True)
class Place:
    """Where a card is: whose custody (`tables.PLACES`), and which one."""

    custody: str
    place: str


CENTRE = Place("centre", "centre")


# ----------------------------------------------------------------------------------------------------------- packing


def write_packed(tx: Tx, facts: Sequence[Packed], *, now: datetime) -> None:
    """Put cards into the open bundle of their outlet; a full one is sealed and the next one opened."""
    by_outlet: dict[str, list[Packed]] = defaultdict(list)
    for fact in facts:
        by_outlet[fact.outlet].append(fact)
    slots: list[dict[str, Any]] = []
    for outlet, waiting in sorted(by_outlet.items()):
        size = waiting[0].bundle_size
        bundle, filled = _open_bundle(tx, outlet, waiting[0].region, now)
        for fact in waiting:
            if filled >= size:
                _place(tx, slots)
                slots = []
                seal(tx, [bundle], now=now)
                bundle, filled = _open_bundle(tx, outlet, fact.region, now)
            filled += 1
            slots.append({"id": fact.card_id, "bundle": bundle, "slot": f"{filled:03d}"})
    _place(tx, slots)


def _place(tx: Tx, slots: Sequence[Mapping[str, Any]]) -> None:
    if not slots:
        return
    rows = given(tx, _ID, Column("bundle", Text), Column("slot", Text))
    tx.conn.execute(
        update(t.cards).where(c.id == rows.c.id).values(bundle_id=rows.c.bundle, slot=rows.c.slot),
        {"given": params(slots)},
    )


def _open_bundle(tx: Tx, outlet: str, region: str, now: datetime) -> tuple[str, int]:
    """The bundle being packed for an outlet, locked, and how many cards lie in it."""
    query = select(b.id).where(b.outlet == outlet, b.direction == "out", b.status == "packing").with_for_update()
    found = tx.conn.execute(query).scalar()
    while found is None:
        row = {"id": new_id("bun_", now=now, random=tx.random), "direction": "out", "outlet": outlet}
        tx.conn.execute(
            on_conflict_nothing(tx, t.bundles), {**row, "region": region, "status": "packing", "opened_at": now}
        )
        found = tx.conn.execute(query).scalar()
    filled = tx.conn.execute(select(func.count()).select_from(t.cards).where(c.bundle_id == found)).scalar_one()
    return str(found), filled


def ripe(tx: Tx, *, opened_before: Mapping[str, datetime], limit: int = 200) -> list[str]:
    """Bundles that were opened before their region's time for sealing; locked."""
    found: list[str] = []
    for region, before in opened_before.items():
        rows = tx.conn.execute(
            select(b.id)
            .where(b.status == "packing", b.direction == "out", b.region == region, b.opened_at <= before)
            .order_by(b.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).scalars()
        found += rows
    return found


def seal(tx: Tx, bundle_ids: Sequence[str], *, now: datetime) -> None:
    """Close bundles: number the seal and write the packing list."""
    for bundle in bundle_ids:
        cards = tx.conn.execute(
            select(c.id, c.slot, c.blank_serial, c.application_id).where(c.bundle_id == bundle).order_by(c.slot)
        ).all()
        manifest = [
            {"card": r.id, "slot": r.slot, "serial": r.blank_serial, "application": r.application_id} for r in cards
        ]
        tx.conn.execute(
            update(t.bundles)
            .where(b.id == bundle, b.status == "packing")
            .values(status="sealed", sealed_at=now, seal_no=f"S{bundle[-10:].upper()}", manifest=manifest)
        )


# ---------------------------------------------------------------------------------------------------------- custody


def bundle(tx: Tx, bundle_id: str) -> Record | None:
    """A bundle's row, locked."""
    return tx.conn.execute(select(t.bundles).where(b.id == bundle_id).with_for_update()).first()


def bundles(tx: Tx, *, status: str, direction: str | None = None, outlet: str | None = None) -> list[Record]:
    """Bundles by status, oldest first."""
    query = select(t.bundles).where(b.status == status).order_by(b.id)
    if direction:
        query = query.where(b.direction == direction)
    if outlet:
        query = query.where(b.outlet == outlet)
    return list(tx.conn.execute(query).all())


def cards_in(tx: Tx, bundle_id: str) -> list[Record]:
    """The cards of a bundle, by slot. Whoever moves them holds the bundle."""
    return list(tx.conn.execute(select(t.cards).where(c.bundle_id == bundle_id).order_by(c.slot, c.id)).all())


def mark(tx: Tx, bundle_id: str, **columns: Any) -> None:
    """Change a bundle the caller has locked."""
    tx.conn.execute(update(t.bundles).where(b.id == bundle_id).values(**columns))


def open_back(tx: Tx, *, outlet: str, region: str, seal_no: str, carrier: str, manifest: Any, now: datetime) -> str:
    """A bundle on its way back from an outlet."""
    bundle_id = new_id("bun_", now=now, random=tx.random)
    tx.conn.execute(
        insert(t.bundles),
        {
            "id": bundle_id,
            "direction": "back",
            "outlet": outlet,
            "region": region,
            "status": "shipped",
            "seal_no": seal_no,
            "carrier": carrier,
            "manifest": manifest,
            "opened_at": now,
            "sealed_at": now,
            "shipped_at": now,
        },
    )
    return bundle_id


def card(tx: Tx, card_id: str) -> Record | None:
    """A card's row, locked."""
    return tx.conn.execute(select(t.cards).where(c.id == card_id).with_for_update()).first()


def hand_on(
    tx: Tx,
    cards: Sequence[Record],
    *,
    taker: Place,
    now: datetime,
    given_by: str,
    taken_by: str,
    bundle_id: str | None = None,
    seal_no: str | None = None,
    into: str | None = None,
    **columns: Any,
) -> None:
    """Locked cards change hands: their place, and for each a custody event, signed and chained to the card's last one.

    `given_by` and `taken_by` are the two people; the database refuses one person as both. `into` is the bundle the cards lie in
    from now on; `columns` are further columns of the cards.
    """
    if not cards:
        return
    asked = given(tx, _ID)
    previous = _last_events(tx, [row.id for row in cards])
    events = []
    for row in cards:
        event = {
            "id": new_id("cst_", now=now, random=tx.random),
            "card_id": row.id,
            "at": now,
            "giver": row.custody,
            "giver_place": row.place,
            "taker": taker.custody,
            "taker_place": taker.place,
            "bundle_id": bundle_id,
            "seal_no": seal_no,
            "given_by": given_by,
            "taken_by": taken_by,
            "previous": previous.get(row.id),
        }
        events.append({**event, "signature": tx.sealer.sign(_signed_part(event))})
    tx.conn.execute(insert(t.custody_events), events)
    if into is not None:
        columns["bundle_id"] = into
    tx.conn.execute(
        update(t.cards)
        .where(c.id.in_(select(asked.c.id)))
        .values(custody=taker.custody, place=taker.place, changed_at=bindparam("now", type_=Instant), **columns),
        {"given": params([{"id": row.id} for row in cards]), "now": now},
    )


def _signed_part(event: Mapping[str, Any]) -> dict[str, Any]:
    """A custody event as it is signed."""
    return {**event, "at": instant_text(event["at"])}


def _last_events(tx: Tx, card_ids: Sequence[str]) -> dict[str, str]:
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(e.card_id, e.id).where(e.card_id.in_(select(asked.c.id)), _is_last()),
        {"given": params([{"id": i} for i in card_ids])},
    )
    return {row.card_id: row.id for row in rows}


def _is_last() -> ColumnElement[bool]:
    """That no later event follows an event of `e`."""
    later = t.custody_events.alias("later")
    return ~exists(select(later.c.id).where(later.c.card_id == e.card_id, later.c.previous == e.id))


def history(tx: Tx, card_id: str) -> list[Record]:
    """A card's way, oldest first."""
    return list(tx.conn.execute(select(t.custody_events).where(e.card_id == card_id).order_by(e.at, e.id)).all())


def balance(tx: Tx) -> tuple[dict[str, int], dict[str, int]]:
    """Cards by place, once by their own rows and once by the last custody event (a card without one is at the centre)."""
    by_row = {
        row.custody: row.n for row in tx.conn.execute(select(c.custody, func.count().label("n")).group_by(c.custody))
    }
    moved = select(e.card_id, e.taker).where(_is_last()).subquery()
    place = func.coalesce(moved.c.taker, "centre")
    rows = tx.conn.execute(
        select(place.label("custody"), func.count().label("n"))
        .select_from(t.cards.outerjoin(moved, moved.c.card_id == c.id))
        .group_by(place)
    )
    return by_row, {row.custody: row.n for row in rows}
