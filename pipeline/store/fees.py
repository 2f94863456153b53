"""The fee ledger: what is due, and how it was settled (KL-6, WH-13, WH-14, DL-18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx
from pipeline.store.types import Record

f = t.fees.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A fee that arises, in fen, by the rule that asks for it."""

    application_id: str
    kind: str
    amount_fen: int
    rule: str


def charge(tx: Tx, due: Sequence[Due], *, now: datetime) -> None:
    """Write fees that are due."""
    if due:
        rows = [
            {
                "id": new_id("fee_", now=now, random=tx.random),
                "application_id": d.application_id,
                "kind": d.kind,
                "amount_fen": d.amount_fen,
                "rule": d.rule,
                "status": "due",
                "created_at": now,
            }
            for d in due
        ]
        tx.conn.execute(insert(t.fees), rows)


def of(tx: Tx, application_id: str) -> list[Record]:
    """An application's fees, locked."""
    return list(
        tx.conn.execute(select(t.fees).where(f.application_id == application_id).order_by(f.id).with_for_update()).all()
    )


def pay(tx: Tx, fee_id: str, *, receipt_no: str, now: datetime) -> None:
    """A fee was paid, by this receipt."""
    tx.conn.execute(
        update(t.fees)
        .where(f.id == fee_id, f.status == "due")
        .values(status="paid", receipt_no=receipt_no, settled_at=now)
    )


def waive(tx: Tx, fee_id: str, *, ground: str, evidence: str, now: datetime) -> None:
    """A fee is not asked for, on this ground and evidence."""
    tx.conn.execute(
        update(t.fees)
        .where(f.id == fee_id, f.status == "due")
        .values(status="waived", ground=ground, evidence=evidence, settled_at=now)
    )
