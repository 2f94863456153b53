"""The audit log: append-only, and chained by hash so that a change shows.

Rows are inserted unchained, so no transaction waits for another; one leader seals them afterwards, in the order it finds them
committed. `hash = SHA-256(prev_hash ‖ canonical JSON of the row)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx
from pipeline.store.types import Record, instant_text

u = t.audit.c
_GENESIS = bytes(32)


def append(
    tx: Tx, *, actor: str, action: str, target: str, now: datetime, detail: Mapping[str, Any] | None = None
) -> None:
    """Record who did what to what. No personal values, only pointers."""
    row = {
        "id": new_id("aud_", now=now, random=tx.random),
        "at": now,
        "actor": actor,
        "action": action,
        "target": target,
    }
    tx.conn.execute(insert(t.audit), {**row, "detail": dict(detail or {})})


def seal(tx: Tx, *, limit: int) -> int:
    """Chain rows that are committed. Only the leader may."""
    rows = tx.conn.execute(select(t.audit).where(u.seq.is_(None)).order_by(u.id).limit(limit)).all()
    if not rows:
        return 0
    head = tx.conn.execute(select(u.seq, u.hash).where(u.seq.is_not(None)).order_by(u.seq.desc()).limit(1)).first()
    seq, prev = (head.seq, bytes(head.hash)) if head else (0, _GENESIS)
    sealed = []
    for row in rows:
        seq += 1
        link = _link(prev, seq, row)
        sealed.append({"b_id": row.id, "b_seq": seq, "b_prev": prev, "b_hash": link})
        prev = link
    tx.conn.execute(
        update(t.audit)
        .where(u.id == bindparam("b_id"))
        .values(seq=bindparam("b_seq"), prev_hash=bindparam("b_prev"), hash=bindparam("b_hash")),
        sealed,
    )
    return len(sealed)


def _link(prev: bytes, seq: int, row: Record) -> bytes:
    content = {
        "seq": seq,
        "id": row.id,
        "at": instant_text(row.at),
        "actor": row.actor,
        "action": row.action,
        "target": row.target,
        "detail": row.detail,
    }
    return hashlib.sha256(
        prev + json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    ).digest()


@dataclass(frozen=True, slots=True)
class Verified:
    """How far the chain holds; `broken_at` is the first row that does not fit."""

    rows: int
    unsealed: int
    broken_at: int | None


def verify(tx: Tx) -> Verified:
    """Walk the chain from its first row."""
    prev, expected = _GENESIS, 0
    for row in tx.conn.execute(select(t.audit).where(u.seq.is_not(None)).order_by(u.seq)).yield_per(1000):
        expected += 1
        if row.seq != expected or bytes(row.prev_hash) != prev or bytes(row.hash) != _link(prev, row.seq, row):
            return Verified(expected - 1, 0, expected)
        prev = bytes(row.hash)
    unsealed = tx.conn.execute(select(func.count()).where(u.seq.is_(None))).scalar_one()
    return Verified(expected, unsealed, None)
