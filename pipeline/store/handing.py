"""Notices and hand-overs: who was told, and who took the card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Column, Text, insert, select

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Record

_ID = Column("id", Text)


def cards(tx: Tx, card_ids: Sequence[str]) -> dict[str, Record]:
    """Cards by id. Whoever moves them holds their applications."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(t.cards).where(t.cards.c.id.in_(select(asked.c.id))).order_by(t.cards.c.id),
        {"given": params([{"id": i} for i in card_ids])},
    )
    return {row.id: row for row in rows}


def application_of(tx: Tx, card_id: str) -> str | None:
    """The application a card was made for."""
    return tx.conn.execute(select(t.cards.c.application_id).where(t.cards.c.id == card_id)).scalar()


def add_notice(tx: Tx, *, application_id: str, method: str, actor: str, now: datetime) -> None:
    """The applicant was told."""
    row = {"id": new_id("ntc_", now=now, random=tx.random), "application_id": application_id, "method": method}
    tx.conn.execute(insert(t.notices), {**row, "notified_at": now, "actor": actor})


def add_hand_over(
    tx: Tx,
    *,
    card_id: str,
    application_id: str,
    taken_by: str,
    document_type: str,
    document_number: str,
    actor: str,
    status_before: str,
    now: datetime,
) -> str:
    """The card was taken; the document's number is sealed. The database refuses a second standing hand-over of a card."""
    handing_id = new_id("hov_", now=now, random=tx.random)
    sealed = tx.sealer.seal({"document_number": document_number}, bound_to=f"hand_overs/{handing_id}")
    tx.conn.execute(
        insert(t.hand_overs),
        {
            "id": handing_id,
            "card_id": card_id,
            "application_id": application_id,
            "taken_by": taken_by,
            "document_type": document_type,
            "sealed": sealed,
            "collected_at": now,
            "actor": actor,
            "status_before": status_before,
        },
    )
    return handing_id


def last_place(tx: Tx, card_id: str) -> tuple[str, str] | None:
    """Who gave the card to its holder: custody and place."""
    e = t.custody_events.c
    row = tx.conn.execute(
        select(e.giver, e.giver_place).where(e.card_id == card_id, e.taker == "holder").order_by(e.id.desc()).limit(1)
    ).first()
    return (row.giver, row.giver_place) if row else None
