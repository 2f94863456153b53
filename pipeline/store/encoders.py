"""Encoders: what each station's process says of its readers, and what an operator wants of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, Text, bindparam, case, literal, select, true, update

from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Record

n = t.encoders.c
_TOLD = (
    Column("reader", Text),
    Column("state", Text),
    Column("application_id", Text),
    Column("cards", Integer),
    Column("good", Integer),
    Column("spoiled", Integer),
    Column("unknown", Integer),
    Column("cards_per_hour", Integer),
    Column("last_error", Text),
    Column("detail", Text),
)
_NOW = bindparam("now", type_=Instant)


def tell(tx: Tx, station: str, readers: Sequence[Mapping[str, Any]], *, now: datetime) -> dict[str, str]:
    """Write down all readers of a station in one statement; returns what is wanted of each.

    The last card was when a report first counted it.
    """
    rows = given(tx, *_TOLD)
    told = [column.name for column in _TOLD]
    source = select(
        bindparam("station", type_=Text),
        *(rows.c[name] for name in told),
        case((rows.c.cards > 0, _NOW)),
        _NOW,
        literal("run"),
    ).where(true())
    insertion = upserting(tx, t.encoders).from_select(
        ["station", *told, "last_card_at", "heartbeat_at", "wanted"], source
    )
    renewed: dict[str, Any] = {name: insertion.excluded[name] for name in (*told[1:], "heartbeat_at")}
    more = insertion.excluded.cards > n.cards
    renewed["last_card_at"] = case((more, insertion.excluded.heartbeat_at), else_=n.last_card_at)
    statement = insertion.on_conflict_do_update(index_elements=[n.station, n.reader], set_=renewed)
    values = {"given": params(readers), "station": station, "now": now}
    return {row.reader: row.wanted for row in tx.conn.execute(statement.returning(n.reader, n.wanted), values)}


def in_state(tx: Tx, station: str, state: str) -> frozenset[str]:
    """The readers of a station that were last said to be in this state."""
    rows = tx.conn.execute(select(n.reader).where(n.station == station, n.state == state))
    return frozenset(rows.scalars())


def want(tx: Tx, name: str, wanted: str) -> list[tuple[str, str]]:
    """Ask something of a reader (`station/reader`), or of all readers of a station. Returns those it was asked of."""
    statement = (
        update(t.encoders)
        .where((n.station == name) | (n.station + "/" + n.reader == name))
        .values(wanted=wanted)
        .returning(n.station, n.reader)
    )
    return sorted((row.station, row.reader) for row in tx.conn.execute(statement))


def listing(tx: Tx) -> list[Record]:
    """Every reader that was ever told of."""
    return list(tx.conn.execute(select(t.encoders).order_by(n.station, n.reader)).all())
