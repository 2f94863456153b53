"""Applications: accepted, found ready, claimed, settled. Whole chunks at a time, one statement each.

The stage column is the queue. `work` says whose turn it is: `ready` (the relay's), `queued` (the broker's, on a lease), `running`
(a worker's, on a lease), `reconcile` (only the station that can learn what became of the chip), `waiting` (the timers'), `none`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)

from pipeline.application import LANES, Application, Document, Lane
from pipeline.identifiers import new_id
from pipeline.outcomes import Reason
from pipeline.person import Agent, Person
from pipeline.states import STAGES
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Json, Record
from pipeline.transitions import Move

_ID = Column("id", Text)
a = t.applications.c


# ------------------------------------------------------------------------------------------------------- (de)sealing


def person_to_json(person: Person) -> dict[str, Any]:
    """A person as sealed JSON; dates as text."""
    return {key: value.isoformat() if isinstance(value, date) else value for key, value in asdict(person).items()}


def person_from_json(raw: Mapping[str, Any]) -> Person:
    values = dict(raw)
    for name in ("birth_date", "id_valid_from", "id_valid_to"):
        if values.get(name):
            values[name] = date.fromisoformat(values[name])
    return Person(**values)


def _agent(raw: Mapping[str, Any] | None) -> Agent | None:
    return Agent(**raw) if raw else None


def reasons_to_json(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(reason).items() if v is not None} for reason in reasons]


def reasons_from_json(raw: Iterable[Mapping[str, Any]]) -> tuple[Reason, ...]:
    return tuple(Reason(**item) for item in raw)


def application_of(tx: Tx, row: Record, person: Person) -> Application:
    """The value of a row and its person."""
    sealed = tx.sealer.open(row.sealed, bound_to=f"applications/{row.id}")
    return Application(
        id=row.id,
        version=row.version,
        status=row.status,
        stage=row.stage or "",
        region=row.region,
        policy_version=row.policy_version,
        kind=row.kind,
        priority=row.priority,
        lane=row.lane,
        category=row.category,
        district=row.district,
        agency=row.agency,
        window=row.window,
        outlet=row.outlet,
        bank_code=row.bank_code,
        acceptance_no=row.acceptance_no,
        received_at=row.received_at,
        due_at=row.due_at,
        person=person,
        guardian=_agent(sealed.get("guardian")),
        proxy=_agent(sealed.get("proxy")),
        documents=tuple(Document(**item) for item in sealed.get("documents", ())),
        confirmed=bool(row.confirmed),
        collect_by=row.collector,
        person_id=row.person_id,
        photo_original=row.photo_original,
        photo_result=row.photo_result,
        card_number=row.card_number,
        issued_on=row.issued_on,
        unit_code=row.unit_code,
        attempts=row.attempts,
        notified_at=row.notified_at,
        delivered_at=row.delivered_at,
        reasons=reasons_from_json(row.reasons),
    )


# ----------------------------------------------------------------------------------------------------------- accepting


def know_persons(tx: Tx, people: Sequence[Person], *, now: datetime) -> dict[bytes, str]:
    """The ids of people by blind index; who is new is written, who is known is left as he is."""
    p = t.persons.c
    by_index = {tx.sealer.blind_index(person.id_type, person.id_number): person for person in people}
    query = select(p.id, p.blind_index).where(p.blind_index.in_(by_index))
    known = {bytes(row.blind_index): str(row.id) for row in tx.conn.execute(query)}
    fresh = []
    for index, person in sorted(by_index.items()):
        if index not in known:
            person_id = new_id("per_", now=now, random=tx.random)
            sealed = tx.sealer.seal(person_to_json(person), bound_to=f"persons/{person_id}")
            fresh.append({"id": person_id, "blind_index": index, "sealed": sealed, "created_at": now})
    if not fresh:
        return known
    tx.conn.execute(upserting(tx, t.persons).on_conflict_do_nothing(index_elements=["blind_index"]), fresh)
    return {bytes(row.blind_index): str(row.id) for row in tx.conn.execute(query)}


def redeclare_persons(tx: Tx, people: Mapping[str, Person]) -> None:
    """What people's newest accepted application says of them, by person id."""
    p = t.persons.c
    rows = [
        {"b_id": i, "b_sealed": tx.sealer.seal(person_to_json(person), bound_to=f"persons/{i}")}
        for i, person in people.items()
    ]
    if rows:
        tx.conn.execute(update(t.persons).where(p.id == bindparam("b_id")).values(sealed=bindparam("b_sealed")), rows)


def same_refs(tx: Tx, refs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Record]:
    """Applications by (source, external reference): id, content digest, acceptance number, due date."""
    rows = given(tx, Column("source", Text), Column("ref", Text))
    found = tx.conn.execute(
        select(a.id, a.source, a.external_ref, a.content_digest, a.acceptance_no, a.due_at).join(
            rows, and_(a.source == rows.c.source, a.external_ref == rows.c.ref)
        ),
        {"given": params([{"source": source, "ref": ref} for source, ref in refs])},
    )
    return {(row.source, row.external_ref): row for row in found}


def insert_received(tx: Tx, rows: Sequence[Mapping[str, Any]], *, now: datetime, actor: str) -> frozenset[str]:
    """Write accepted applications, ready for validation; returns the ids that the database let in.

    A row that meets another live application of the same person, or the same reference, is left out.
    """
    if not rows:
        return frozenset()
    statement = upserting(tx, t.applications).on_conflict_do_nothing().returning(a.id)
    taken = frozenset(tx.conn.execute(statement, list(rows)).scalars())
    entries = [{"application_id": i, "frm": "", "to": "received", "outcome": "accept"} for i in sorted(taken)]
    record(tx, entries, stage=None, now=now, actor=actor)
    return taken


# ------------------------------------------------------------------------------------------------------------- claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A row a worker holds until `lease_until`: the value, and the row's own columns that are not the stage's business."""

    application: Application
    row: Record
    was: str
    """`work` before the claim: `reconcile` rows are asked about, never repeated."""


def claim(
    tx: Tx,
    *,
    stage: str,
    ids: Sequence[str],
    token: str,
    now: datetime,
    until: datetime,
) -> list[Claimed]:
    """Take what of `ids` is still this stage's to do; the others are stale and left alone."""
    not_paused = ~exists(
        select(literal(1)).where(t.stage_control.c.stage == stage, t.stage_control.c.paused == true())
    )
    asked = given(tx, _ID)
    picked = (
        select(a.id, a.work.label("was"), a.status.label("frm"))
        .where(a.id.in_(select(asked.c.id)), a.stage == stage, a.work.in_(("ready", "queued")), not_paused)
        .order_by(a.id)
        .with_for_update(skip_locked=True)
    )
    taken = tx.conn.execute(picked, {"given": params([{"id": i} for i in ids])}).all()
    return _take(tx, stage, taken, token=token, now=now, until=until)


def claim_for_station(
    tx: Tx, *, stage: str, station: str, token: str, now: datetime, until: datetime, limit: int
) -> list[Claimed]:
    """Take rows whose outcome only this station can tell."""
    picked = (
        select(a.id, a.work.label("was"), a.status.label("frm"))
        .where(
            a.stage == stage,
            a.work == "reconcile",
            a.station == station,
            or_(a.next_try_at.is_(None), a.next_try_at <= bindparam("now", type_=Instant)),
        )
        .order_by(a.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _take(tx, stage, tx.conn.execute(picked, {"now": now}).all(), token=token, now=now, until=until)


def _take(
    tx: Tx, stage: str, taken: Sequence[Record], *, token: str, now: datetime, until: datetime
) -> list[Claimed]:
    if not taken:
        return []
    was = {row.id: row.was for row in taken}
    entering = [row.id for row in taken if row.frm == "received"]
    rows = given(tx, _ID)
    statement = (
        update(t.applications)
        .where(a.id.in_(select(rows.c.id)))
        .values(
            work="running",
            status=case((a.status == "received", "validation"), else_=a.status),
            lease_token=token,
            lease_until=bindparam("until", type_=Instant),
            lease_size=len(taken),
            next_try_at=None,
            attempts=a.attempts + 1,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
        )
        .returning(*t.applications.c)
    )
    values = {"given": params([{"id": i} for i in was]), "until": until, "now": now}
    claimed = tx.conn.execute(statement, values).all()
    if entering:
        record(
            tx,
            [
                {"application_id": i, "frm": "received", "to": "validation", "outcome": "claim", "attempt": 1}
                for i in entering
            ],
            stage=stage,
            now=now,
            actor="engine",
        )
    people = _people(tx, {row.person_id for row in claimed})
    return [
        Claimed(application=application_of(tx, row, people[row.person_id]), row=row, was=was[row.id])
        for row in sorted(claimed, key=lambda row: row.id)
    ]


def _people(tx: Tx, ids: Iterable[str]) -> dict[str, Person]:
    wanted = given(tx, _ID)
    rows = tx.conn.execute(
        select(t.persons.c.id, t.persons.c.sealed).where(t.persons.c.id.in_(select(wanted.c.id))),
        {"given": params([{"id": i} for i in ids])},
    )
    return {row.id: person_from_json(tx.sealer.open(row.sealed, bound_to=f"persons/{row.id}")) for row in rows}


def load(tx: Tx, ids: Sequence[str], *, lock: bool = False) -> dict[str, Claimed]:
    """Applications by id, whoever's turn it is; `lock` keeps others from moving them until commit."""
    asked = given(tx, _ID)
    statement = select(t.applications).where(a.id.in_(select(asked.c.id))).order_by(a.id)
    if lock:
        statement = statement.with_for_update()
    rows = tx.conn.execute(statement, {"given": params([{"id": i} for i in ids])}).all()
    people = _people(tx, {row.person_id for row in rows})
    return {
        row.id: Claimed(application=application_of(tx, row, people[row.person_id]), row=row, was=row.work) for row in rows
    }


# ------------------------------------------------------------------------------------------------------------ settle

_MOVE = (
    _ID,
    Column("status", Text),
    Column("stage", Text),
    Column("held_from", Text),
    Column("work", Text),
    Column("next_try_at", Instant),
    Column("reasons", Json),
    Column("attempts", Integer),
)


def settle(tx: Tx, moves: Mapping[str, Move], *, token: str, now: datetime, fresh: frozenset[str]) -> frozenset[str]:
    """Write the outcome of a chunk; returns the ids that were still ours.

    Attempts start again at 0 for the rows in `fresh` (they moved on, or wait without fault).
    """
    rows = given(tx, *_MOVE)
    statement = (
        update(t.applications)
        .where(a.id == rows.c.id, a.lease_token == token, a.work == "running")
        .values(
            status=rows.c.status,
            stage=rows.c.stage,
            held_from=rows.c.held_from,
            work=rows.c.work,
            next_try_at=rows.c.next_try_at,
            reasons=rows.c.reasons,
            attempts=case((rows.c.attempts == 0, 0), else_=a.attempts),
            crashes=case((rows.c.attempts == 0, 0), else_=a.crashes),
            solo=false(),
            lease_token=None,
            lease_until=None,
            lease_size=0,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
        )
        .returning(a.id)
    )
    values = [
        {
            "id": i,
            "status": m.status,
            "stage": m.stage,
            "held_from": m.held_from,
            "work": m.work,
            "next_try_at": m.next_try_at,
            "reasons": reasons_to_json(m.reasons),
            "attempts": 0 if i in fresh else 1,
        }
        for i, m in moves.items()
    ]
    return frozenset(tx.conn.execute(statement, {"given": params(values), "now": now}).scalars())


def force(tx: Tx, moves: Mapping[str, Move], *, now: datetime, **columns: Any) -> None:
    """Write a move that a command or a clock made, on rows the caller has locked (`load(lock=True)`)."""
    rows = given(tx, *_MOVE)
    statement = (
        update(t.applications)
        .where(a.id == rows.c.id)
        .values(
            status=rows.c.status,
            stage=rows.c.stage,
            held_from=rows.c.held_from,
            work=rows.c.work,
            next_try_at=rows.c.next_try_at,
            reasons=rows.c.reasons,
            attempts=0,
            crashes=0,
            lease_token=None,
            lease_until=None,
            lease_size=0,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
            **columns,
        )
    )
    values = [
        {
            "id": i,
            "status": m.status,
            "stage": m.stage,
            "held_from": m.held_from,
            "work": m.work,
            "next_try_at": m.next_try_at,
            "reasons": reasons_to_json(m.reasons),
        }
        for i, m in moves.items()
    ]
    tx.conn.execute(statement, {"given": params(values), "now": now})


_HISTORY = tuple(
    Column(name, type_)
    for name, type_ in (
        ("application_id", Text),
        ("at", Instant),
        ("frm", Text),
        ("to", Text),
        ("stage", Text),
        ("outcome", Text),
        ("why", Text),
        ("attempt", Integer),
        ("actor", Text),
    )
)


def record(tx: Tx, entries: Sequence[Mapping[str, Any]], *, stage: str | None, now: datetime, actor: str) -> None:
    """Append to the history; one statement for the chunk."""
    if not entries:
        return
    base = {"at": now, "stage": stage, "why": "", "attempt": 0, "actor": actor}
    rows = given(tx, *_HISTORY)
    names = [c.name for c in _HISTORY]
    tx.conn.execute(
        insert(t.transitions).from_select(names, select(*(rows.c[name] for name in names))),
        {"given": params([{**base, **entry} for entry in entries])},
    )


# ------------------------------------------------------------------------------------------------- relay and sweeping


def lease_ready(
    tx: Tx, *, stage: str, lane: str, limit: int, token: str, now: datetime, until: datetime
) -> list[tuple[str, bool]]:
    """Hand up to `limit` ready rows to the broker, most urgent first: (id, must go alone)."""
    due = select(a.id).where(a.stage == stage, a.lane == lane, a.work == "ready").order_by(a.due_at, a.id).limit(limit)
    picked = due.with_for_update(skip_locked=True).cte("picked")
    statement = (
        update(t.applications)
        .where(a.id.in_(select(picked.c.id)))
        .values(work="queued", lease_token=token, lease_until=bindparam("until", type_=Instant))
        .returning(a.id, a.solo, a.due_at)
    )
    rows = tx.conn.execute(statement, {"until": until}).all()
    return [(row.id, bool(row.solo)) for row in sorted(rows, key=lambda row: (row.due_at, row.id))]


def unlease(tx: Tx, ids: Sequence[str], *, token: str) -> None:
    """Take back what the broker did not take."""
    rows = given(tx, _ID)
    tx.conn.execute(
        update(t.applications)
        .where(a.id.in_(select(rows.c.id)), a.work == "queued", a.lease_token == token)
        .values(work="ready", lease_token=None, lease_until=None),
        {"given": params([{"id": i} for i in ids])},
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """One stage and lane as the relay sees it: whether rows are ready, how many the broker holds, and whether it is paused."""

    ready: bool
    queued: int
    paused: bool


def backlog(tx: Tx) -> dict[tuple[str, Lane], Backlog]:
    """Every stage and lane, in the order of publishing: urgent before normal before bulk, late stages before early ones."""
    lines = [(stage, lane) for lane in LANES for stage in reversed(STAGES)]
    waiting = union_all(
        *(
            select(literal(stage).label("stage"), literal(lane).label("lane")).where(
                exists(select(a.id).where(a.work == "ready", a.stage == stage, a.lane == lane))
            )
            for stage, lane in lines
        )
    )
    ready = {(row.stage, row.lane) for row in tx.conn.execute(waiting)}
    if not ready:
        return {}
    queued = {
        (row.stage, row.lane): int(row.n)
        for row in tx.conn.execute(
            select(a.stage, a.lane, func.count().label("n")).where(a.work == "queued").group_by(a.stage, a.lane)
        )
    }
    stopped = set(tx.conn.execute(select(t.stage_control.c.stage).where(t.stage_control.c.paused == true())).scalars())
    return {
        (stage, lane): Backlog((stage, lane) in ready, queued.get((stage, lane), 0), stage in stopped)
        for stage, lane in lines
    }


def wake_due(tx: Tx, *, now: datetime, limit: int) -> int:
    """Rows whose wait is over become ready."""
    due = (
        select(a.id)
        .where(a.work == "waiting", a.next_try_at <= bindparam("now", type_=Instant))
        .order_by(a.next_try_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    picked = due.cte("picked")
    statement = (
        update(t.applications)
        .where(a.id.in_(select(picked.c.id)))
        .values(work="ready", next_try_at=None)
        .returning(a.id)
    )
    return len(tx.conn.execute(statement, {"now": now}).all())


@dataclass(frozen=True, slots=True)
class Expired:
    """A lease that ran out unsettled."""

    id: str
    status: str
    stage: str
    held_by: str
    size: int
    crashes: int


def expired(tx: Tx, *, now: datetime, limit: int) -> list[Expired]:
    """Leases that ran out, locked until commit."""
    rows = tx.conn.execute(
        select(a.id, a.status, a.stage, a.work, a.lease_size, a.crashes)
        .where(a.work.in_(("queued", "running")), a.lease_until <= bindparam("now", type_=Instant))
        .order_by(a.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True),
        {"now": now},
    )
    return [Expired(row.id, row.status, row.stage, row.work, row.lease_size, row.crashes) for row in rows]


def with_intent(tx: Tx, ids: Sequence[str]) -> frozenset[str]:
    """Which of these have an intent to act on the world committed and not settled."""
    asked = given(tx, _ID)
    wanted = select(asked.c.id)
    calls = select(t.external_calls.c.application_id).where(
        t.external_calls.c.application_id.in_(wanted), t.external_calls.c.state.in_(("intent", "unknown", "pending"))
    )
    blanks = select(t.blanks.c.application_id).where(
        t.blanks.c.application_id.in_(wanted), t.blanks.c.state.in_(("reserved", "encoding"))
    )
    return frozenset(
        i for i in tx.conn.execute(calls.union(blanks), {"given": params([{"id": i} for i in ids])}).scalars() if i
    )


def release(tx: Tx, entries: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Give back rows whose lease ran out: each with its `work`, `solo` and `crashes`."""
    rows = given(tx, _ID, Column("work", Text), Column("solo", Integer), Column("crashes", Integer))
    tx.conn.execute(
        update(t.applications)
        .where(a.id == rows.c.id)
        .values(
            work=rows.c.work,
            solo=rows.c.solo == 1,
            crashes=rows.c.crashes,
            lease_token=None,
            lease_until=None,
            lease_size=0,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
        ),
        {"given": params(entries), "now": now},
    )


def take_over(tx: Tx, *, stage: str, station: str, now: datetime) -> int:
    """At the start of a station: what its former process held is reconciled now, not when its lease ends."""
    mine = exists(
        select(literal(1)).where(
            t.blanks.c.application_id == a.id,
            t.blanks.c.state.in_(("reserved", "encoding")),
            t.blanks.c.station == station,
        )
    )
    statement = (
        update(t.applications)
        .where(a.stage == stage, a.work == "running", mine)
        .values(
            work="reconcile",
            lease_token=None,
            lease_until=None,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
        )
        .returning(a.id)
    )
    return len(tx.conn.execute(statement, {"now": now}).all())


def unqueue_stage(tx: Tx, stage: str) -> None:
    """A paused stage: what lies in the broker is nobody's any more."""
    tx.conn.execute(
        update(t.applications)
        .where(a.stage == stage, a.work == "queued")
        .values(work="ready", lease_token=None, lease_until=None)
    )


def count_status(tx: Tx, status: str) -> int:
    """Applications of one status."""
    return tx.conn.execute(select(func.count()).select_from(t.applications).where(a.status == status)).scalar_one()


def moving(tx: Tx, *, now: datetime) -> int:
    """Applications that go on by themselves, now: somebody's turn, a wait that is over, or a clock that is due."""
    m = t.timers.c
    rings = exists(
        select(m.id).where(
            m.application_id == a.id,
            m.due_at <= bindparam("now", type_=Instant),
            m.fired_at.is_(None),
            m.cancelled_at.is_(None),
        )
    )
    waits = and_(a.work == "waiting", or_(a.next_try_at <= bindparam("now", type_=Instant), rings))
    busy = or_(a.work.in_(("ready", "queued", "running", "reconcile")), waits)
    return tx.conn.execute(select(func.count()).select_from(t.applications).where(busy), {"now": now}).scalar_one()
