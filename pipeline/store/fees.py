"""The fee ledger: what is due, how it was settled, and what an agency accounts for (KL-6, WH-13, WH-14, DL-18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx
from pipeline.store.types import Record

f = t.fees.c
s = t.submissions.c


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


def get(tx: Tx, fee_id: str) -> Record | None:
    """A fee's row, locked."""
    return tx.conn.execute(select(t.fees).where(f.id == fee_id).with_for_update()).first()


def pay(
    tx: Tx, fee_ids: Sequence[str], *, receipt_no: str, actor: str, now: datetime, method: str | None = None
) -> None:
    """Fees were paid, by this receipt. `method` None: the receipt was shown at the counter and does not say."""
    tx.conn.execute(
        update(t.fees)
        .where(f.id.in_(fee_ids), f.status == "due")
        .values(status="paid", method=method, receipt_no=receipt_no, settled_at=now, settled_by=actor)
    )


def waive(tx: Tx, fee_id: str, *, ground: str, evidence: str, actor: str, now: datetime) -> None:
    """A fee is not asked for, on this ground and evidence."""
    tx.conn.execute(
        update(t.fees)
        .where(f.id == fee_id, f.status == "due")
        .values(status="waived", ground=ground, evidence=evidence, settled_at=now, settled_by=actor)
    )


def refund(tx: Tx, fee_id: str, *, refund_no: str, actor: str, now: datetime) -> None:
    """A paid fee was given back; its receipt stays, so that the month it was paid in stays what it was."""
    tx.conn.execute(
        update(t.fees)
        .where(f.id == fee_id, f.status == "paid")
        .values(status="refunded", refund_no=refund_no, refunded_at=now, refunded_by=actor)
    )


@dataclass(frozen=True, slots=True)
class Total:
    """Fees counted, and their sum in fen."""

    fees: int
    fen: int


def totals(tx: Tx, agency: str, *, since: datetime, until: datetime) -> dict[str, Total]:
    """An agency's fees from `since` to before `until`: charged, paid, waived, refunded; and `due`, what was open at the end.

    A month that is over never changes: what comes later is counted in its own month.
    """
    settled = and_(f.settled_at >= since, f.settled_at < until)
    parts: dict[str, ColumnElement[bool]] = {
        "charged": f.created_at >= since,
        "paid": and_(f.status.in_(("paid", "refunded")), settled),
        "waived": and_(f.status == "waived", settled),
        "refunded": and_(f.refunded_at >= since, f.refunded_at < until),
        "due": or_(f.settled_at.is_(None), f.settled_at >= until),
    }
    columns = []
    for name, holds in parts.items():
        columns.append(func.count(case((holds, 1))).label(f"{name}_fees"))
        columns.append(func.coalesce(func.sum(case((holds, f.amount_fen))), 0).label(f"{name}_fen"))
    row = tx.conn.execute(
        select(*columns).join(t.submissions, s.id == f.application_id).where(s.agency == agency, f.created_at < until)
    ).one()
    return {name: Total(int(row._mapping[f"{name}_fees"]), int(row._mapping[f"{name}_fen"])) for name in parts}


def waivers(tx: Tx, agency: str, *, since: datetime, until: datetime) -> list[Record]:
    """An agency's waivers of a time, for approval (WH-14): fee, application, ground, evidence, fen, when and by whom."""
    return list(
        tx.conn.execute(
            select(f.id, f.application_id, f.ground, f.evidence, f.amount_fen, f.settled_at, f.settled_by)
            .join(t.submissions, s.id == f.application_id)
            .where(s.agency == agency, f.status == "waived", f.settled_at >= since, f.settled_at < until)
            .order_by(f.settled_at, f.id)
        ).all()
    )


def knows_agency(tx: Tx, agency: str) -> bool:
    """Whether anything was ever handed in at this agency."""
    return tx.conn.execute(select(s.id).where(s.agency == agency).limit(1)).first() is not None
