"""Bundles before they leave: filled, sealed and numbered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, Text, cast, func, insert, select, update

from pipeline.identifiers import new_id
from pipeline.stages.dispatch import Packed
from pipeline.store import tables as t
from pipeline.store.custody import mark_cards
from pipeline.store.engine import Tx, given, on_conflict_nothing, params
from pipeline.store.types import Record

_ID = Column("id", Text)
b = t.bundles.c
c = t.cards.c


def write_packed(tx: Tx, facts: Sequence[Packed], *, now: datetime) -> None:
    """Put cards into the open bundle of their outlet; a full one is sealed and the next one opened."""
    by_outlet: dict[str, list[Packed]] = defaultdict(list)
    for fact in facts:
        by_outlet[fact.outlet].append(fact)
    slots: list[dict[str, Any]] = []
    for outlet, waiting in sorted(by_outlet.items()):
        size = waiting[0].bundle_size
        bundle, filled, slot = _open_bundle(tx, outlet, waiting[0].region, now)
        for fact in waiting:
            if filled >= size:
                _place(tx, slots)
                slots = []
                seal(tx, [bundle], now=now)
                bundle, filled, slot = _open_bundle(tx, outlet, fact.region, now)
            filled, slot = filled + 1, slot + 1
            slots.append({"id": fact.card_id, "bundle": bundle, "slot": f"{slot:03d}"})
    _place(tx, slots)


def _place(tx: Tx, slots: Sequence[Mapping[str, Any]]) -> None:
    if not slots:
        return
    rows = given(tx, _ID, Column("bundle", Text), Column("slot", Text))
    tx.conn.execute(
        update(t.cards).where(c.id == rows.c.id).values(bundle_id=rows.c.bundle, slot=rows.c.slot),
        {"given": params(slots)},
    )


def _open_bundle(tx: Tx, outlet: str, region: str, now: datetime) -> tuple[str, int, int]:
    """The bundle being packed for an outlet, locked, how many cards lie in it, and its last slot: one that was left stays empty."""
    query = select(b.id).where(b.outlet == outlet, b.direction == "out", b.status == "packing").with_for_update()
    found = tx.conn.execute(query).scalar()
    while found is None:
        row = {"id": new_id("bun_", now=now, random=tx.random), "direction": "out", "outlet": outlet}
        tx.conn.execute(
            on_conflict_nothing(tx, t.bundles), {**row, "region": region, "status": "packing", "opened_at": now}
        )
        found = tx.conn.execute(query).scalar()
    last = func.coalesce(func.max(cast(c.slot, Integer)), 0)
    filled, slot = tx.conn.execute(select(func.count(), last).where(c.bundle_id == found)).one()
    return str(found), filled, slot


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
            .values(status="sealed", sealed_at=now, seal_no=_seal_no(bundle), manifest=manifest)
        )


def _seal_no(bundle_id: str) -> str:
    return f"S{bundle_id[-10:].upper()}"


def sealed_in(tx: Tx, card: Record) -> str | None:
    """The sealed bundle to an outlet in which a card lies, if it does."""
    query = select(b.id).where(b.id == card.bundle_id, b.direction == "out", b.status == "sealed")
    return tx.conn.execute(query).scalar()


def open_direct(tx: Tx, card: Record, *, outlet: str, region: str, application_id: str, now: datetime) -> str:
    """A sealed bundle with one card that lies at the wrong outlet, for its own one."""
    bundle_id = new_id("bun_", now=now, random=tx.random)
    row = {"id": bundle_id, "direction": "out", "outlet": outlet, "region": region}
    manifest = [{"card": card.id, "slot": "001", "serial": card.blank_serial, "application": application_id}]
    sealed = {"status": "sealed", "seal_no": _seal_no(bundle_id), "manifest": manifest}
    tx.conn.execute(insert(t.bundles), {**row, **sealed, "opened_at": now, "sealed_at": now})
    mark_cards(tx, [card.id], bundle_id=bundle_id, slot="001")
    return bundle_id


def open_back(
    tx: Tx,
    *,
    outlet: str,
    region: str,
    seal_no: str,
    carrier: str,
    carrier_ref: str | None,
    manifest: Any,
    now: datetime,
) -> str:
    """A bundle on its way back from an outlet."""
    bundle_id = new_id("bun_", now=now, random=tx.random)
    row = {"id": bundle_id, "direction": "back", "outlet": outlet, "region": region, "status": "shipped"}
    carried = {"seal_no": seal_no, "carrier": carrier, "carrier_ref": carrier_ref, "manifest": manifest}
    tx.conn.execute(insert(t.bundles), {**row, **carried, "opened_at": now, "sealed_at": now, "shipped_at": now})
    return bundle_id
