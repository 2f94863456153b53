"""Batches of intake: one row per file, how far it was read, and what was wrong with its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, on_conflict_nothing
from pipeline.store.types import Record

b = t.batches.c


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """One thing wrong with one row; no value of the row in it."""

    row: int
    column: str
    code: str
    zh: str
    en: str


def begin(tx: Tx, *, source: str, file_sha256: str, rows: int, now: datetime) -> tuple[Record, bool]:
    """The batch of a file, locked, and whether it is new: the same file is the same batch."""
    values = {
        "id": new_id("bat_", now=now, random=tx.random),
        "source": source,
        "file_sha256": file_sha256,
        "status": "processing",
        "rows": rows,
        "next_row": 0,
        "accepted": 0,
        "rejected": 0,
        "duplicate": 0,
        "created_at": now,
    }
    new = tx.conn.execute(on_conflict_nothing(tx, t.batches).returning(b.id), values).scalar() is not None
    query = select(t.batches).where(b.source == source, b.file_sha256 == file_sha256).with_for_update()
    return tx.conn.execute(query).one(), new


def lock(tx: Tx, batch_id: str) -> Record:
    """A batch's row, locked."""
    return tx.conn.execute(select(t.batches).where(b.id == batch_id).with_for_update()).one()


def progress(
    tx: Tx, batch: Record, *, read: int, accepted: int, rejected: int, duplicate: int, faults: Sequence[RowFault]
) -> None:
    """Count a stretch of rows as read, in the transaction that accepted them."""
    tx.conn.execute(
        update(t.batches)
        .where(b.id == batch.id)
        .values(
            next_row=b.next_row + read,
            accepted=b.accepted + accepted,
            rejected=b.rejected + rejected,
            duplicate=b.duplicate + duplicate,
        )
    )
    counts: dict[int, int] = {}
    rows = []
    for fault in faults:
        counts[fault.row] = counts.get(fault.row, 0) + 1
        rows.append(
            {
                "batch_id": batch.id,
                "row": fault.row,
                "n": counts[fault.row],
                "column": fault.column,
                "code": fault.code,
                "zh": fault.zh,
                "en": fault.en,
            }
        )
    if rows:
        tx.conn.execute(insert(t.batch_errors), rows)


def complete(tx: Tx, batch_id: str, *, now: datetime) -> None:
    """Every row was read; the counts add up or the database refuses."""
    tx.conn.execute(
        update(t.batches).where(b.id == batch_id, b.status == "processing").values(status="completed", completed_at=now)
    )


def faults(tx: Tx, batch_id: str) -> list[Record]:
    """What was wrong, by row."""
    e = t.batch_errors.c
    return list(tx.conn.execute(select(t.batch_errors).where(e.batch_id == batch_id).order_by(e.row, e.n)).all())


def get(tx: Tx, batch_id: str) -> Record | None:
    """A batch's row."""
    return tx.conn.execute(select(t.batches).where(b.id == batch_id)).first()


def listing(tx: Tx, *, limit: int = 50) -> list[Record]:
    """The newest batches."""
    return list(tx.conn.execute(select(t.batches).order_by(b.id.desc()).limit(limit)).all())
