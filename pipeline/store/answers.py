"""Answers to commands, by who sent them and under which key: a command that comes again is answered, not done again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from pipeline.store import tables as t
from pipeline.store.engine import Tx

a = t.command_answers.c


def find(tx: Tx, source: str, key: str) -> tuple[bytes, Mapping[str, Any]] | None:
    """Digest of the command and its answer, if it was answered before."""
    row = tx.conn.execute(select(a.digest, a.answer).where(a.source == source, a.key == key)).first()
    return (bytes(row.digest), row.answer) if row else None


def keep(tx: Tx, source: str, key: str, *, digest: bytes, answer: Mapping[str, Any], now: datetime) -> None:
    """Keep an answer. The database refuses a second one to the same command."""
    row = {"source": source, "key": key, "digest": digest, "answer": dict(answer), "created_at": now}
    tx.conn.execute(insert(t.command_answers), row)


def forget(tx: Tx, *, before: datetime) -> int:
    """Drop answers older than that; returns how many."""
    return tx.conn.execute(delete(t.command_answers).where(a.created_at < before)).rowcount
