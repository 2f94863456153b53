"""Blanks, card numbers and cards. Every blank is accounted for: one row of its own, one ledger line for each thing that befell it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Date, Text, and_, bindparam, case, func, insert, literal, select, true, update

from pipeline.identifiers import card_number, new_id
from pipeline.stages.base import BlankFact, CardFact
from pipeline.stages.personalisation import (
    BlankGrant,
    BlankQuarantined,
    BlankReturned,
    BlankSpoiled,
    CardProduced,
    TakeBlank,
)
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, on_conflict_nothing, params, upserting
from pipeline.store.types import Instant

_ID = Column("id", Text)
_SERIAL = Column("serial", Text)
a = t.applications.c
b = t.blanks.c
c = t.cards.c


# ---------------------------------------------------------------------------------------------------------- numbers


def next_numbers(tx: Tx, name: str, count: int) -> range:
    """The next `count` numbers of a range, never given twice; a new range begins at 1."""
    n = t.number_ranges.c
    insertion = upserting(tx, t.number_ranges).values(name=name, next=1 + count)
    end = tx.conn.execute(
        insertion.on_conflict_do_update(index_elements=[n.name], set_={"next": n.next + count}).returning(n.next)
    ).scalar_one()
    return range(end - count, end)


# ------------------------------------------------------------------------------------------------------------ blanks


def receive(
    tx: Tx, serials: Sequence[str], *, blank_type: str, lot: str, location: str, now: datetime, actor: str
) -> tuple[str, ...]:
    """Put blanks into stock; serials known already are left alone. Returns the new ones."""
    rows = given(tx, _SERIAL)
    names = ["serial", "type", "lot", "location", "state", "received_at", "changed_at"]
    source = select(
        rows.c.serial,
        literal(blank_type),
        literal(lot),
        literal(location),
        literal("stocked"),
        bindparam("now", type_=Instant),
        bindparam("now", type_=Instant),
    ).where(true())
    added = tx.conn.execute(
        on_conflict_nothing(tx, t.blanks).from_select(names, source).returning(b.serial),
        {"given": params([{"serial": s} for s in serials]), "now": now},
    ).scalars()
    new = tuple(added)
    _ledger(tx, [{"serial": s} for s in new], event="received", now=now, actor=actor)
    return new


def reserved(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, BlankFact]:
    """By application: the blank that was taken for it and whose end is open, in quarantine or not."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(b.application_id, b.serial, b.station).where(
            b.application_id.in_(select(asked.c.id)), b.state.in_(("reserved", "encoding", "quarantined"))
        ),
        {"given": params([{"id": i} for i in application_ids])},
    )
    return {row.application_id: BlankFact(serial=row.serial, station=row.station or "") for row in rows}


def take(tx: Tx, wanted: Mapping[str, TakeBlank], *, now: datetime) -> Mapping[str, BlankGrant | None]:
    """Reserve a blank for each application, and fix its card number and date of issue; None where stock has run out."""
    grants: dict[str, BlankGrant | None] = dict.fromkeys(wanted)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i, intent in wanted.items():
        groups[intent.blank_type, intent.station].append(i)
    for (blank_type, station), ids in sorted(groups.items()):
        serials = tx.conn.execute(
            select(b.serial)
            .where(b.type == blank_type, b.state == "stocked")
            .order_by(b.serial)
            .limit(len(ids))
            .with_for_update(skip_locked=True)
        ).scalars()
        pairs = list(zip(ids, serials, strict=False))
        if not pairs:
            continue
        rows = given(tx, _ID, _SERIAL)
        values = params([{"id": i, "serial": s} for i, s in pairs])
        tx.conn.execute(
            update(t.blanks)
            .where(b.serial == rows.c.serial)
            .values(
                state="reserved", application_id=rows.c.id, station=station, changed_at=bindparam("now", type_=Instant)
            ),
            {"given": values, "now": now},
        )
        _ledger(
            tx,
            [{"serial": s, "application_id": i, "station": station} for i, s in pairs],
            event="taken",
            now=now,
            actor=station,
        )
        for i, grant in _fix(tx, dict(pairs), {i: wanted[i] for i, _ in pairs}).items():
            grants[i] = grant
    return grants


def _fix(tx: Tx, serials: Mapping[str, str], wanted: Mapping[str, TakeBlank]) -> dict[str, BlankGrant]:
    """Numbers and dates are given once and stay, however many blanks an application takes."""
    asked = given(tx, _ID)
    known = {
        row.id: row
        for row in tx.conn.execute(
            select(a.id, a.card_number, a.issued_on).where(a.id.in_(select(asked.c.id))),
            {"given": params([{"id": i} for i in serials])},
        )
    }
    fresh: dict[str, list[str]] = defaultdict(list)
    for i in serials:
        if known[i].card_number is None:
            fresh[wanted[i].number_prefix].append(i)
    numbers = {
        i: card_number(prefix, n)
        for prefix, ids in sorted(fresh.items())
        for i, n in zip(ids, next_numbers(tx, f"card/{prefix}", len(ids)), strict=True)
    }
    grants = {
        i: BlankGrant(
            serial=serial,
            card_number=known[i].card_number or numbers[i],
            issued_on=known[i].issued_on or wanted[i].issued_on,
        )
        for i, serial in serials.items()
    }
    rows = given(tx, _ID, _SERIAL, Column("station", Text), Column("card_number", Text), Column("issued_on", Date))
    values = [
        {
            "id": i,
            "serial": g.serial,
            "station": wanted[i].station,
            "card_number": g.card_number,
            "issued_on": g.issued_on,
        }
        for i, g in grants.items()
    ]
    tx.conn.execute(
        update(t.applications)
        .where(a.id == rows.c.id)
        .values(
            blank_serial=rows.c.serial,
            station=rows.c.station,
            card_number=rows.c.card_number,
            issued_on=rows.c.issued_on,
        ),
        {"given": params(values)},
    )
    return grants


def write_blanks(tx: Tx, facts: Sequence[BlankSpoiled | BlankReturned | BlankQuarantined], *, now: datetime) -> None:
    """What became of blanks that did not become cards."""
    rows = given(tx, _SERIAL, Column("state", Text), Column("problem", Text))
    values = [{"serial": f.serial, "state": _STATE[type(f)][0], "problem": getattr(f, "problem", None)} for f in facts]
    tx.conn.execute(
        update(t.blanks)
        .where(b.serial == rows.c.serial, b.state.in_(("reserved", "encoding", "quarantined")))
        .values(
            state=rows.c.state,
            problem=rows.c.problem,
            application_id=case((rows.c.state == "stocked", None), else_=b.application_id),
            changed_at=bindparam("now", type_=Instant),
        ),
        {"given": params(values), "now": now},
    )
    for kind, (_state, event) in _STATE.items():
        _ledger_of(tx, [f.serial for f in facts if type(f) is kind], event=event, now=now)


_STATE: Mapping[type, tuple[str, str]] = {
    BlankSpoiled: ("spoiled", "spoiled"),
    BlankReturned: ("stocked", "returned"),
    BlankQuarantined: ("quarantined", "quarantined"),
}


def _ledger_of(tx: Tx, serials: Sequence[str], *, event: str, now: datetime) -> None:
    """Ledger lines with the application and station the blank's own row names."""
    if not serials:
        return
    rows = given(tx, _SERIAL)
    source = select(
        b.serial,
        bindparam("now", type_=Instant),
        literal(event),
        b.application_id,
        b.station,
        func.coalesce(b.station, "engine"),
    ).where(b.serial.in_(select(rows.c.serial)))
    names = ["serial", "at", "event", "application_id", "station", "actor"]
    tx.conn.execute(
        insert(t.blank_ledger).from_select(names, source),
        {"given": params([{"serial": s} for s in serials]), "now": now},
    )


_LEDGER = (_SERIAL, Column("application_id", Text), Column("station", Text))


def _ledger(tx: Tx, lines: Sequence[Mapping[str, Any]], *, event: str, now: datetime, actor: str) -> None:
    if not lines:
        return
    rows = given(tx, *_LEDGER)
    source = select(
        rows.c.serial,
        bindparam("now", type_=Instant),
        literal(event),
        rows.c.application_id,
        rows.c.station,
        literal(actor),
    )
    names = ["serial", "at", "event", "application_id", "station", "actor"]
    tx.conn.execute(insert(t.blank_ledger).from_select(names, source), {"given": params(lines), "now": now})


# ------------------------------------------------------------------------------------------------------------- cards


def cards_of(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, CardFact]:
    """By application: its unvoided card."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(c.application_id, c.id, c.blank_serial, c.custody, c.place, c.bundle_id).where(
            c.application_id.in_(select(asked.c.id)), c.status != "voided"
        ),
        {"given": params([{"id": i} for i in application_ids])},
    )
    return {
        row.application_id: CardFact(
            id=row.id, serial=row.blank_serial, custody=row.custody, place=row.place, bundle_id=row.bundle_id
        )
        for row in rows
    }


def holders_with_card(tx: Tx, application_ids: Sequence[str]) -> frozenset[str]:
    """Applications whose person holds a card of another application that is in force."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(a.id)
        .join(t.cards, and_(c.person_id == a.person_id, c.card_type == a.card_type, c.application_id != a.id))
        .where(a.id.in_(select(asked.c.id)), c.status.in_(("produced", "issued", "active", "frozen"))),
        {"given": params([{"id": i} for i in application_ids])},
    ).scalars()
    return frozenset(rows)


def write_cards(tx: Tx, facts: Sequence[CardProduced], *, now: datetime) -> None:
    """A written and verified blank becomes a card, at the centre."""
    values = [
        {
            "id": new_id("card_", now=now, random=tx.random),
            "application_id": f.application_id,
            "person_id": f.person_id,
            "account_id": f.account_id,
            "serial": f.serial,
            "card_number": f.card_number,
            "chip_id": f.chip_id,
            "issued_on": f.issued_on,
            "expires_on": f.expires_on,
            "face": f.face,
        }
        for f in facts
    ]
    texts = ("id", "application_id", "person_id", "account_id", "serial", "card_number", "chip_id", "face")
    rows = given(tx, *(Column(n, Text) for n in texts), Column("issued_on", Date), Column("expires_on", Date))
    r = rows.c
    instant = bindparam("now", type_=Instant)
    source = {
        "id": r.id,
        "application_id": r.application_id,
        "person_id": r.person_id,
        "card_type": a.card_type,
        "account_id": r.account_id,
        "blank_serial": r.serial,
        "card_number": r.card_number,
        "chip_id": r.chip_id,
        "issued_on": r.issued_on,
        "expires_on": r.expires_on,
        "status": literal("produced"),
        "custody": literal("centre"),
        "place": literal("centre"),
        "face": r.face,
        "verified_at": instant,
        "changed_at": instant,
    }
    tx.conn.execute(
        insert(t.cards).from_select(
            list(source), select(*source.values()).select_from(rows.join(t.applications, a.id == r.application_id))
        ),
        {"given": params(values), "now": now},
    )
    serials = [f.serial for f in facts]
    asked = given(tx, _SERIAL)
    tx.conn.execute(
        update(t.blanks).where(b.serial.in_(select(asked.c.serial))).values(state="bound", changed_at=instant),
        {"given": params([{"serial": s} for s in serials]), "now": now},
    )
    _ledger_of(tx, serials, event="issued", now=now)


def balance(tx: Tx) -> dict[str, int]:
    """Blanks by state."""
    rows = tx.conn.execute(select(b.state, func.count().label("n")).group_by(b.state))
    return {row.state: row.n for row in rows}


def ledger_counts(tx: Tx) -> dict[str, int]:
    """How many blanks were received, taken, issued, spoiled, quarantined, returned, destroyed."""
    ledger = t.blank_ledger.c
    rows = tx.conn.execute(select(ledger.event, func.count().label("n")).group_by(ledger.event))
    return {row.event: row.n for row in rows}


def free(tx: Tx, blank_type: str) -> int:
    """Blanks of a type in stock."""
    return tx.conn.execute(
        select(func.count()).select_from(t.blanks).where(b.type == blank_type, b.state == "stocked")
    ).scalar_one()
