"""Webhooks of outlets: endpoints, what each is owed, and every attempt. Whole chunks at a time, one statement each.

Endpoints are locked before their deliveries. A delivery is `waiting` until its time has come, `sending` on a lease, then `delivered` or `exhausted`. There is one for each event and
endpoint, so whatever is done twice here is done once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    FromClause,
    Insert,
    Integer,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate, Update

from pipeline.identifiers import new_id
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, on_conflict_nothing, params
from pipeline.store.types import Instant, Record

w = t.webhook_endpoints.c
d = t.deliveries.c
o = t.outbox.c
x = t.delivery_attempts.c
_ID = Column("id", Text)
_NOW = bindparam("now", type_=Instant)


# ----------------------------------------------------------------------------------------------------------- endpoints


def add(tx: Tx, *, keys: Sequence[Mapping[str, Any]], now: datetime, **columns: Any) -> str:
    """A new endpoint, enabled, that is owed every event placed from now on. Returns its id."""
    endpoint_id = new_id("wh_", now=now, random=tx.random)
    row = {
        "id": endpoint_id,
        "state": "enabled",
        "sealed": _sealed(tx, endpoint_id, keys),
        "position": last_position(tx),
        "created_at": now,
    }
    tx.conn.execute(insert(t.webhook_endpoints), row | columns)
    return endpoint_id


def endpoint(tx: Tx, endpoint_id: str) -> Record | None:
    """An endpoint's row, locked; also one that was deleted."""
    return tx.conn.execute(select(t.webhook_endpoints).where(w.id == endpoint_id).with_for_update()).first()


def endpoints(tx: Tx, *, outlet: str | None = None) -> list[Record]:
    """Endpoints that were not deleted, by outlet and age."""
    query = select(t.webhook_endpoints).where(w.state != "deleted").order_by(w.outlet, w.id)
    return list(tx.conn.execute(query if outlet is None else query.where(w.outlet == outlet)).all())


def change(tx: Tx, endpoint_id: str, **columns: Any) -> None:
    """Change an endpoint the caller has locked; whoever sends reads it anew."""
    tx.conn.execute(update(t.webhook_endpoints).where(w.id == endpoint_id).values(version=w.version + 1, **columns))


def keys_of(tx: Tx, row: Record) -> list[dict[str, Any]]:
    """An endpoint's keys, newest first: `key` as text, `until` the instant it dies or None."""
    opened: list[dict[str, Any]] = tx.sealer.open(row.sealed, bound_to=f"webhook_endpoints/{row.id}")["keys"]
    return opened


def set_keys(tx: Tx, endpoint_id: str, keys: Sequence[Mapping[str, Any]]) -> None:
    """Give a locked endpoint other keys."""
    change(tx, endpoint_id, sealed=_sealed(tx, endpoint_id, keys))


def _sealed(tx: Tx, endpoint_id: str, keys: Sequence[Mapping[str, Any]]) -> bytes:
    return tx.sealer.seal({"keys": list(keys)}, bound_to=f"webhook_endpoints/{endpoint_id}")


_ENABLED = select(
    w.id, w.version, w.outlet, w.types, w.position, w.max_rps, w.failing_since, w.not_before
).where(w.state == "enabled")  # fmt: skip


def enabled(tx: Tx) -> list[Record]:
    """Endpoints that are sent to, without their keys."""
    return list(tx.conn.execute(_ENABLED).all())


def in_full(tx: Tx, ids: Iterable[str]) -> list[Record]:
    """Endpoints by id, with their keys."""
    asked = given(tx, _ID)
    query = select(t.webhook_endpoints).where(w.id.in_(select(asked.c.id)))
    return list(tx.conn.execute(query, {"given": params([{"id": i} for i in ids])}).all())


def tell_health(tx: Tx, health: Mapping[str, tuple[datetime | None, datetime | None]]) -> None:
    """By endpoint: since when it fails, and until when nothing is sent."""
    rows = given(tx, _ID, Column("failing_since", Instant), Column("not_before", Instant))
    statement = (
        update(t.webhook_endpoints)
        .where(w.id == rows.c.id, w.state == "enabled")
        .values(failing_since=rows.c.failing_since, not_before=rows.c.not_before)
    )
    told = [{"id": i, "failing_since": since, "not_before": until} for i, (since, until) in health.items()]
    if told:
        tx.conn.execute(statement, {"given": params(told)})


def disable(tx: Tx, why: Mapping[str, str], *, now: datetime) -> list[Record]:
    """Send nothing more to these endpoints; returns the rows of those that were enabled."""
    rows = given(tx, _ID, Column("why", Text))
    statement = (
        update(t.webhook_endpoints)
        .where(w.id == rows.c.id, w.state == "enabled")
        .values(state="disabled", disabled_at=_NOW, disabled_why=rows.c.why, version=w.version + 1)
        .returning(w.id, w.outlet, w.region, w.version, w.disabled_why)
    )
    told = [{"id": i, "why": reason} for i, reason in why.items()]
    return list(tx.conn.execute(statement, {"given": params(told), "now": now}).all()) if told else []


# ---------------------------------------------------------------------------------------------- from the feed to endpoints


def last_position(tx: Tx) -> int:
    """The newest place in the feed."""
    return int(tx.conn.execute(select(func.max(o.position))).scalar() or 0)


@cache
def _unseen(postgres: bool) -> Select[Any]:
    per = given(postgres, Column("endpoint", Text), Column("outlet", Text), Column("after", BigInteger))
    y = t.outbox.alias("y")
    firsts = (
        select(y.c.id)
        .where(y.c.outlet == per.c.outlet, y.c.position > per.c.after, y.c.position <= bindparam("last"))
        .order_by(y.c.position)
        .limit(bindparam("each"))
    )
    return (
        select(per.c.endpoint, o.id, o.type, o.position)
        .select_from(_firsts_of(postgres, per, firsts, t.outbox))
        .order_by(o.position)
    )


def unseen(tx: Tx, rows: Sequence[Record], *, last: int, each: int) -> list[Record]:
    """The first `each` events of every endpoint's outlet after its position, up to `last`: `endpoint`, `id`, `type`, `position`."""
    asked = [{"endpoint": row.id, "outlet": row.outlet, "after": row.position} for row in rows]
    return list(tx.conn.execute(_unseen(tx.postgres), {"given": params(asked), "last": last, "each": each}).all())


def _firsts_of(postgres: bool, per: Subquery, firsts: Select[Any], table: FromClause) -> FromClause:
    """The rows of `table` that `firsts` names for each row of `per`; SQLite has no LATERAL, and reads `IN` in the same way."""
    if postgres:
        first = firsts.lateral("first")
        return per.join(first, true()).join(table, table.c.id == first.c.id)
    return per.join(table, table.c.id.in_(firsts.correlate(per)))


def owe(tx: Tx, events: Sequence[Record], *, now: datetime) -> int:
    """Events become deliveries, due now: rows of `endpoint`, `id`, `position`. What is owed already stays as it is."""
    if not events:
        return 0
    rows = given(
        tx, _ID, Column("endpoint_id", Text), Column("event_id", Text), Column("position", BigInteger), name="owed"
    )
    source = select(
        rows.c.id, rows.c.endpoint_id, rows.c.event_id, rows.c.position, bindparam("waiting", "waiting"),
        bindparam("tries", 0), _NOW, _NOW,
    ).where(true())  # fmt: skip
    names = ["id", "endpoint_id", "event_id", "position", "state", "tries", "next_try_at", "created_at"]
    statement = on_conflict_nothing(tx, t.deliveries).from_select(names, source).returning(d.id)
    owed = [
        {
            "id": new_id("dlv_", now=now, random=tx.random),
            "endpoint_id": event.endpoint,
            "event_id": event.id,
            "position": event.position,
        }
        for event in events
    ]
    return len(tx.conn.execute(statement, {"owed": params(owed), "now": now}).all())


def advance(tx: Tx, positions: Mapping[str, int]) -> None:
    """Events up to here have become deliveries, by endpoint. A position never goes back."""
    rows = given(tx, _ID, Column("position", BigInteger))
    statement = (
        update(t.webhook_endpoints)
        .where(w.id == rows.c.id, w.position < rows.c.position)
        .values(position=rows.c.position)
    )
    if positions:
        moved = [{"id": i, "position": position} for i, position in positions.items()]
        tx.conn.execute(statement, {"given": params(moved)})


# ------------------------------------------------------------------------------------------------------------- sending


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery on our lease, with the event's bytes."""

    id: str
    endpoint_id: str
    event_id: str
    tries: int
    body: bytes = field(repr=False)


@cache
def _claiming(postgres: bool) -> ReturningUpdate[Any]:
    per = given(postgres, Column("endpoint", Text), Column("room", Integer))
    q, y = t.deliveries.alias("q"), t.deliveries.alias("y")
    firsts = (
        select(y.c.id)
        .where(y.c.endpoint_id == per.c.endpoint, y.c.state == "waiting", y.c.next_try_at <= _NOW)
        .order_by(y.c.next_try_at, y.c.position)
        .limit(bindparam("each"))
    )
    place = func.row_number().over(partition_by=per.c.endpoint, order_by=(q.c.next_try_at, q.c.position))
    ranked = select(q.c.id, per.c.room, place.label("n")).select_from(_firsts_of(postgres, per, firsts, q)).subquery()
    fair = select(ranked.c.id).where(ranked.c.n <= ranked.c.room).order_by(ranked.c.n).limit(bindparam("limit"))
    return (
        update(t.deliveries)
        .where(d.id.in_(fair), d.state == "waiting")
        .values(
            state="sending",
            next_try_at=None,
            lease_token=bindparam("token", type_=Text),
            lease_until=bindparam("until", type_=Instant),
        )
        .returning(d.id, d.endpoint_id, d.event_id, d.tries)
    )


def claim(tx: Tx, rooms: Mapping[str, int], *, limit: int, token: str, now: datetime, until: datetime) -> list[Claimed]:
    """Lease what is due: at most so many of each endpoint as it has room for, every endpoint's first before anyone's second."""
    roomy = {i: room for i, room in rooms.items() if room > 0}
    if not roomy or limit <= 0:
        return []
    asked = [{"endpoint": i, "room": room} for i, room in roomy.items()]
    values = {"given": params(asked), "each": max(roomy.values()), "limit": limit}
    rows = tx.conn.execute(_claiming(tx.postgres), {**values, "token": token, "now": now, "until": until}).all()
    bodies = _bodies(tx, {row.event_id for row in rows})
    return [
        Claimed(
            id=row.id, endpoint_id=row.endpoint_id, event_id=row.event_id, tries=row.tries, body=bodies[row.event_id]
        )
        for row in rows
    ]


def _bodies(tx: Tx, event_ids: Iterable[str]) -> dict[str, bytes]:
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(o.id, o.body).where(o.id.in_(select(asked.c.id))),
        {"given": params([{"id": i} for i in sorted(event_ids)])},
    )
    return {row.id: bytes(row.body) for row in rows}


def _given_back(**among: Any) -> Update:
    return (
        update(t.deliveries)
        .filter_by(state="sending", **among)
        .values(state="waiting", next_try_at=_NOW, lease_token=None, lease_until=None)
    )


def expire(tx: Tx, *, now: datetime) -> int:
    """Deliveries whose sender is gone wait again. They may have arrived: they are sent again under the same id."""
    return len(tx.conn.execute(_given_back().where(d.lease_until <= _NOW).returning(d.id), {"now": now}).all())


def release(tx: Tx, token: str, *, now: datetime) -> None:
    """Give back what is on our lease."""
    tx.conn.execute(_given_back(lease_token=token), {"now": now})


@cache
def _settling(postgres: bool) -> ReturningUpdate[Any]:
    rows = given(
        postgres, _ID, Column("state", Text), Column("tries", Integer), Column("next_try_at", Instant),
        Column("settled_at", Instant),
    )  # fmt: skip
    return (
        update(t.deliveries)
        .where(d.id == rows.c.id, d.lease_token == bindparam("token", type_=Text), d.state == "sending")
        .values(
            state=rows.c.state,
            tries=rows.c.tries,
            next_try_at=rows.c.next_try_at,
            settled_at=rows.c.settled_at,
            lease_token=None,
            lease_until=None,
        )
        .returning(d.id)
    )


def settle(tx: Tx, rows: Sequence[Mapping[str, Any]], *, token: str) -> frozenset[str]:
    """Write what became of deliveries: `id`, `state`, `tries`, `next_try_at`, `settled_at`. Returns those that were still ours."""
    if not rows:
        return frozenset()
    done = tx.conn.execute(_settling(tx.postgres), {"given": params(rows), "token": token})
    return frozenset(done.scalars())


_LOGGED = tuple(column for column in t.delivery_attempts.c if column.name != "seq")


@cache
def _logging(postgres: bool) -> Insert:
    rows = given(postgres, *_LOGGED)
    return insert(t.delivery_attempts).from_select([column.name for column in _LOGGED], select(rows))


def log(tx: Tx, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Keep attempts: rows of `delivery_attempts`, without `seq`."""
    if attempts:
        tx.conn.execute(_logging(tx.postgres), {"given": params(attempts)})


# ---------------------------------------------------------------------------------------------------- people and figures


def delivery(tx: Tx, delivery_id: str) -> Record | None:
    """A delivery's row. Whoever changes it locks its endpoint first."""
    return tx.conn.execute(select(t.deliveries).where(d.id == delivery_id)).first()


_AGAIN: Mapping[str, Any] = {
    "state": "waiting",
    "tries": 0,
    "next_try_at": _NOW,
    "settled_at": None,
    "lease_token": None,
    "lease_until": None,
}


def again(tx: Tx, delivery_id: str, *, now: datetime) -> None:
    """A delivery waits once more, due now, with the whole schedule before it."""
    tx.conn.execute(update(t.deliveries).where(d.id == delivery_id).values(**_AGAIN), {"now": now})


def hasten(tx: Tx, endpoint_id: str, *, now: datetime) -> int:
    """What waits for its next try is due now."""
    statement = (
        update(t.deliveries)
        .where(d.endpoint_id == endpoint_id, d.state == "waiting", d.next_try_at > _NOW)
        .values(next_try_at=_NOW)
    )
    return len(tx.conn.execute(statement.returning(d.id), {"now": now}).all())


def give_up(tx: Tx, endpoint_id: str, *, now: datetime) -> None:
    """Nothing more is owed to an endpoint."""
    statement = (
        update(t.deliveries)
        .where(d.endpoint_id == endpoint_id, d.state.in_(("waiting", "sending")))
        .values(state="exhausted", settled_at=_NOW, next_try_at=None, lease_token=None, lease_until=None)
    )
    tx.conn.execute(statement, {"now": now})


def requeue_failed(tx: Tx, endpoint_id: str, *, since: datetime, until: datetime, now: datetime) -> int:
    """Deliveries of events of that time that failed wait again, due now: exhausted ones, and those between two tries."""
    events = select(o.id).where(o.id == d.event_id, o.created_at >= since, o.created_at < until)
    failed = or_(d.state == "exhausted", and_(d.state == "waiting", d.tries > 0))
    statement = update(t.deliveries).where(d.endpoint_id == endpoint_id, failed, exists(events)).values(**_AGAIN)
    return len(tx.conn.execute(statement.returning(d.id), {"now": now}).all())


def missing(tx: Tx, row: Record, *, since: datetime, until: datetime, after: int, limit: int) -> list[Record]:
    """Events of that time of an endpoint's outlet that never became a delivery to it, though its position has passed them."""
    known = select(d.id).where(d.endpoint_id == row.id, d.event_id == o.id)
    query = (
        select(bindparam("endpoint", row.id, type_=Text).label("endpoint"), o.id, o.type, o.position)
        .where(
            o.outlet == row.outlet,
            o.position > after,
            o.position <= row.position,
            o.created_at >= since,
            o.created_at < until,
            ~exists(known),
        )
        .order_by(o.position)
        .limit(limit)
    )
    return list(tx.conn.execute(query).all())


def deliveries(tx: Tx, endpoint_id: str, *, state: str | None = None, limit: int) -> list[Record]:
    """What an endpoint is or was owed, newest event first, with the event's type and subject."""
    query = (
        select(t.deliveries, o.type, o.subject)
        .join(t.outbox, o.id == d.event_id)
        .where(d.endpoint_id == endpoint_id)
        .order_by(d.event_id.desc())
        .limit(limit)
    )
    return list(tx.conn.execute(query if state is None else query.where(d.state == state)).all())


def attempts(tx: Tx, delivery_ids: Iterable[str]) -> list[Record]:
    """Every attempt of these deliveries that is kept, oldest first."""
    asked = given(tx, _ID)
    query = select(t.delivery_attempts).where(x.delivery_id.in_(select(asked.c.id))).order_by(x.seq)
    return list(tx.conn.execute(query, {"given": params([{"id": i} for i in delivery_ids])}).all())


def owed(tx: Tx) -> dict[str, int]:
    """By endpoint that is enabled: how many deliveries have not ended."""
    query = (
        select(d.endpoint_id, func.count().label("n"))
        .join(t.webhook_endpoints, w.id == d.endpoint_id)
        .where(w.state == "enabled", d.state.in_(("waiting", "sending")))
        .group_by(d.endpoint_id)
    )
    return {row.endpoint_id: row.n for row in tx.conn.execute(query)}


def prune(tx: Tx, *, before: datetime, limit: int) -> int:
    """Forget attempts made before then, oldest first; returns how many."""
    old = select(x.seq).where(x.at < before).order_by(x.at).limit(limit)
    return len(tx.conn.execute(delete(t.delivery_attempts).where(x.seq.in_(old)).returning(x.seq)).all())
