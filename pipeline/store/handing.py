"""Notices and hand-overs: who was told, and who took the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Text, and_, bindparam, func, insert, or_, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Instant, Record

_ID = Column("id", Text)
h = t.hand_overs.c


def cards(tx: Tx, card_ids: Sequence[str]) -> dict[str, Record]:
    """Cards by id. Whoever moves them holds their applications."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(t.cards).where(t.cards.c.id.in_(select(asked.c.id))).order_by(t.cards.c.id),
        {"given": params([{"id": i} for i in card_ids])},
    )
    return {row.id: row for row in rows}


def application_of(tx: Tx, card_id: str, *, lock: bool = False) -> str | None:
    """The application a card was made for; `lock` keeps others from moving it until commit."""
    query = select(t.applications.c.id).join(t.cards, t.cards.c.application_id == t.applications.c.id)
    query = query.where(t.cards.c.id == card_id)
    return tx.conn.execute(query.with_for_update(of=t.applications) if lock else query).scalar()


# ------------------------------------------------------------------------------------------------------------ notices


def add_notice(tx: Tx, *, application_id: str, method: str, actor: str, notified_at: datetime, now: datetime) -> None:
    """The applicant was told."""
    row = {"id": new_id("ntc_", now=now, random=tx.random), "application_id": application_id, "method": method}
    tx.conn.execute(insert(t.notices), {**row, "notified_at": notified_at, "actor": actor})


def untold(tx: Tx, *, outlet: str | None = None, due_before: datetime | None = None) -> list[Record]:
    """Cards whose holders were not told yet, by outlet, the most urgent first.

    Rows of outlet, card, application, acceptance_no, blank_serial, delivered_at, notify_by (WH-10). `outlet` None: all of them;
    `due_before`: only those whose time is over by then.
    """
    a, c, m = t.applications.c, t.cards.c, t.timers.c
    of_this_delivery = (m.application_id == a.id, m.kind == "notice_overdue", m.due_at >= a.delivered_at)
    notify_by = select(func.max(m.due_at)).where(*of_this_delivery).scalar_subquery()
    query = (
        select(
            c.place.label("outlet"),
            c.id.label("card"),
            a.id.label("application"),
            t.submissions.c.acceptance_no,
            c.blank_serial,
            a.delivered_at,
            notify_by.label("notify_by"),
        )
        .join(t.applications, a.id == c.application_id)
        .join(t.submissions, t.submissions.c.id == a.id)
        .where(c.custody == "outlet", c.status == "produced", a.status == "delivered")
        .order_by(c.place, a.delivered_at, c.id)
    )
    values: dict[str, Any] = {}
    if outlet is not None:
        query = query.where(c.place == outlet)
    if due_before is not None:
        query = query.where(notify_by <= bindparam("before", type_=Instant))
        values["before"] = due_before
    return list(tx.conn.execute(query, values).all())


def going_back(tx: Tx) -> list[Record]:
    """Cards at outlets that wait for a bundle back: called back, or set aside for a reason. Rows of outlet and card."""
    a, c = t.applications.c, t.cards.c
    called_back = and_(a.status == "recalled", c.status == "produced")
    query = (
        select(c.place.label("outlet"), c.id.label("card"))
        .join(t.applications, a.id == c.application_id)
        .where(c.custody == "outlet", or_(c.return_reason.is_not(None), called_back))
        .order_by(c.place, c.id)
    )
    return list(tx.conn.execute(query).all())


# --------------------------------------------------------------------------------------------------------- hand-overs


def add_hand_over(
    tx: Tx,
    *,
    card_id: str,
    application_id: str,
    taken_by: str,
    document_type: str,
    shown: Mapping[str, Any],
    actor: str,
    key: str | None,
    status_before: str,
    now: datetime,
) -> str:
    """The card was taken; what was shown is sealed. The database refuses a second standing hand-over of a card, and a key twice."""
    handing_id = new_id("hov_", now=now, random=tx.random)
    tx.conn.execute(
        insert(t.hand_overs),
        {
            "id": handing_id,
            "card_id": card_id,
            "application_id": application_id,
            "taken_by": taken_by,
            "document_type": document_type,
            "sealed": tx.sealer.seal(shown, bound_to=f"hand_overs/{handing_id}"),
            "collected_at": now,
            "actor": actor,
            "key": key,
            "status_before": status_before,
        },
    )
    return handing_id


def hand_over(tx: Tx, handing_id: str) -> Record | None:
    """A hand-over's row. Whoever changes it holds its application."""
    return tx.conn.execute(select(t.hand_overs).where(h.id == handing_id)).first()


def by_key(tx: Tx, key: str) -> Record | None:
    """The hand-over that was told under an idempotency key."""
    return tx.conn.execute(select(t.hand_overs).where(h.key == key)).first()


def what_was_shown(tx: Tx, row: Record) -> dict[str, Any]:
    """What a hand-over's collector showed, opened."""
    return tx.sealer.open(row.sealed, bound_to=f"hand_overs/{row.id}")


def take_back(tx: Tx, handing_id: str, *, actor: str, reason: str, now: datetime) -> None:
    """A hand-over does not stand any more."""
    tx.conn.execute(
        update(t.hand_overs)
        .where(h.id == handing_id, h.reverted_at.is_(None))
        .values(reverted_at=now, reverted_by=actor, revert_reason=reason)
    )


def last_place(tx: Tx, card_id: str) -> tuple[str, str] | None:
    """Who gave the card to its holder: custody and place."""
    e = t.custody_events.c
    row = tx.conn.execute(
        select(e.giver, e.giver_place).where(e.card_id == card_id, e.taker == "holder").order_by(e.id.desc()).limit(1)
    ).first()
    return (row.giver, row.giver_place) if row else None
