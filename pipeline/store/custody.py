"""Bundles and custody: every card is in one place, and each change of place is a row that names who gave and who took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Column, ColumnElement, Text, bindparam, exists, func, insert, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
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
LOST = Place("lost", "lost")


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


def overdue(tx: Tx, *, shipped_before: Mapping[str, datetime], limit: int = 200) -> list[Record]:
    """Bundles that were shipped before their region's time and that nobody has signed for or been told of; locked."""
    found: list[Record] = []
    for region, before in shipped_before.items():
        found += tx.conn.execute(
            select(t.bundles)
            .where(b.status == "shipped", b.alerted_at.is_(None), b.region == region, b.shipped_at <= before)
            .order_by(b.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
    return found


def close_received(tx: Tx, *, now: datetime, limit: int) -> int:
    """Close bundles that were received and have no open discrepancy (those are disputed). Returns how many."""
    done = select(b.id).where(b.status == "received").order_by(b.id).limit(limit).with_for_update(skip_locked=True)
    picked = done.cte("picked")
    closed = update(t.bundles).where(b.id.in_(select(picked.c.id))).values(status="closed", closed_at=now)
    return len(tx.conn.execute(closed.returning(b.id)).all())


def cards_by_serial(tx: Tx, serials: Sequence[str]) -> dict[str, Record]:
    """Cards by the serial of their blank. Whoever moves them holds their applications."""
    asked = given(tx, Column("serial", Text))
    rows = tx.conn.execute(
        select(t.cards).where(c.blank_serial.in_(select(asked.c.serial))).order_by(c.id),
        {"given": params([{"serial": serial} for serial in serials])},
    )
    return {row.blank_serial: row for row in rows}


def mark_cards(tx: Tx, card_ids: Sequence[str], **columns: Any) -> None:
    """Change cards whose applications the caller has locked, all in the same way."""
    if card_ids:
        asked = given(tx, _ID)
        tx.conn.execute(
            update(t.cards).where(c.id.in_(select(asked.c.id))).values(**columns),
            {"given": params([{"id": i} for i in card_ids])},
        )


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


def taken_from(tx: Tx, bundle_id: str, taker: Place) -> list[Record]:
    """What this place took out of a bundle: the events, each with its card's `blank_serial`, oldest first."""
    query = (
        select(t.custody_events, c.blank_serial)
        .join(t.cards, c.id == e.card_id)
        .where(e.bundle_id == bundle_id, e.taker == taker.custody, e.taker_place == taker.place)
        .order_by(e.id)
    )
    return list(tx.conn.execute(query).all())


def balance(tx: Tx, *, by_place: bool = False) -> tuple[dict[str, int], dict[str, int]]:
    """Cards by custody, once by their own rows and once by the last custody event (a card without one is at the centre).

    `by_place`: by which centre, courier, outlet too, as `outlet/<id>`.
    """
    rows = tx.conn.execute(select(c.custody, c.place, func.count().label("n")).group_by(c.custody, c.place))
    moved = select(e.card_id, e.taker, e.taker_place).where(_is_last()).subquery()
    custody = func.coalesce(moved.c.taker, CENTRE.custody).label("custody")
    place = func.coalesce(moved.c.taker_place, CENTRE.place).label("place")
    last = select(custody, place).select_from(t.cards.outerjoin(moved, moved.c.card_id == c.id)).subquery()
    by_event = tx.conn.execute(
        select(last.c.custody, last.c.place, func.count().label("n")).group_by(last.c.custody, last.c.place)
    )
    return _summed(rows, by_place), _summed(by_event, by_place)


def _summed(rows: Iterable[Record], by_place: bool) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for row in rows:
        sums[f"{row.custody}/{row.place}" if by_place else row.custody] += row.n
    return dict(sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a walk along every card's events found; `broken` names the first cards at fault and what is wrong with them."""

    cards: int
    events: int
    faults: int
    broken: tuple[tuple[str, str], ...]


def verify(tx: Tx, *, named: int = 20) -> Verified:
    """Walk every card's chain: signed by this installation, unbroken, each giver the former taker, the last taker the row's place."""
    names = ("id", "at", "giver", "giver_place", "taker", "taker_place", "bundle_id", "seal_no", "given_by", "taken_by")
    columns = [e[name] for name in (*names, "previous", "signature")]
    query = (
        select(c.id.label("card_id"), c.custody, c.place, *columns)
        .select_from(t.cards.outerjoin(t.custody_events, e.card_id == c.id))
        .order_by(c.id, e.id)
    )
    cards = events = faults = 0
    broken: list[tuple[str, str]] = []
    for card_id, rows in groupby(tx.conn.execute(query).yield_per(1000), key=lambda row: row.card_id):
        steps = list(rows)
        cards += 1
        events += sum(step.id is not None for step in steps)
        if (problem := _broken(tx, steps)) is not None:
            faults += 1
            broken += [(card_id, problem)] if len(broken) < named else []
    return Verified(cards=cards, events=events, faults=faults, broken=tuple(broken))


def _broken(tx: Tx, steps: Sequence[Record]) -> str | None:
    """What is wrong with a card's events, or None."""
    after = {step.previous: step for step in steps if step.id is not None}
    at, last, walked = CENTRE, None, 0
    for step in _chained(after):
        if (step.giver, step.giver_place) != (at.custody, at.place):
            return f"giver of {step.id} is not the former taker"
        event = {name: value for name, value in step._asdict().items() if name not in ("custody", "place", "signature")}
        if not tx.sealer.signed(_signed_part(event), bytes(step.signature)):
            return f"signature of {step.id}"
        at, last, walked = Place(step.taker, step.taker_place), step, walked + 1
    if walked != sum(step.id is not None for step in steps):
        return f"chain ends at {last.id if last is not None else 'its beginning'}"
    row = steps[0]
    return None if (row.custody, row.place) == (at.custody, at.place) else "card is not where its last event took it"


def _chained(after: Mapping[str | None, Record]) -> Iterator[Record]:
    """Events in their order: each names the one before; the first names none."""
    step = after.get(None)
    for _ in after:
        if step is None:
            return
        yield step
        step = after.get(step.id)
