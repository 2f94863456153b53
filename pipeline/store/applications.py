"""Applications: accepted, found ready, claimed, settled. Whole chunks at a time, one statement each.

The stage column is the queue. `work` says whose turn it is: `ready` (the relay's), `queued` (the broker's, on a lease), `running`
(a worker's, on a lease), `reconcile` (only the station that can learn what became of the chip), `waiting` (the timers'), `none`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    CompoundSelect,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    delete,
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
from sqlalchemy.sql.dml import ReturningUpdate

from pipeline.application import LANES, Application, Document, Lane
from pipeline.identifiers import new_id
from pipeline.outcomes import Reason
from pipeline.person import Agent, Person
from pipeline.states import LIVE, STAGES
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Json, Record
from pipeline.transitions import Move

_ID = Column("id", Text)
a = t.applications.c
s = t.submissions.c


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


def application_of(tx: Tx, row: Record, *, claimed: bool = False) -> Application:
    """The value of a row of `_EVERY`; `claimed`: as the claim that follows the reading leaves it."""
    sealed = tx.sealer.open(row.sealed, bound_to=f"applications/{row.id}")
    return Application(
        id=row.id,
        version=row.version + claimed,
        status="validation" if claimed and row.status == "received" else row.status,
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
        person=person_from_json(tx.sealer.open(row.person_sealed, bound_to=f"persons/{row.person_id}")),
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
        attempts=row.attempts + claimed,
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
        select(s.id, s.source, s.external_ref, s.content_digest, s.acceptance_no, a.due_at)
        .join(rows, and_(s.source == rows.c.source, s.external_ref == rows.c.ref))
        .join(t.applications, a.id == s.id),
        {"given": params([{"source": source, "ref": ref} for source, ref in refs])},
    )
    return {(row.source, row.external_ref): row for row in found}


def live_of(tx: Tx, person_ids: Sequence[str], *, card_type: str) -> dict[str, str]:
    """By person: the application that is live."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(a.person_id, a.id).where(
            a.person_id.in_(select(asked.c.id)),
            a.card_type == card_type,
            a.status.in_(LIVE),
            or_(a.ending.is_(None), a.ending != "abandoned"),
        ),
        {"given": params([{"id": i} for i in person_ids])},
    )
    return {row.person_id: row.id for row in rows}


_ASKED = frozenset(column.name for column in t.submissions.c)
_LIVED = frozenset(column.name for column in t.applications.c)


def insert_received(tx: Tx, rows: Sequence[Mapping[str, Any]], *, now: datetime, actor: str) -> frozenset[str]:
    """Write accepted applications, ready for validation; returns the ids that the database let in.

    A row that meets another live application of the same person, or the same reference, is left out.
    """
    if not rows:
        return frozenset()
    asked = [{name: value for name, value in row.items() if name in _ASKED} for row in rows]
    kept = upserting(tx, t.submissions).on_conflict_do_nothing().returning(s.id)
    new = frozenset(tx.conn.execute(kept, asked).scalars())
    lived = [{name: value for name, value in row.items() if name in _LIVED} for row in rows if row["id"] in new]
    if not lived:
        return frozenset()
    begun = upserting(tx, t.applications).on_conflict_do_nothing().returning(a.id)
    taken = frozenset(tx.conn.execute(begun, lived).scalars())
    if refused := sorted(new - taken):
        tx.conn.execute(delete(t.submissions).where(s.id.in_(refused)))
    entries = [{"application_id": i, "frm": "", "to": "received", "outcome": "accept"} for i in sorted(taken)]
    record(tx, entries, stage=None, now=now, actor=actor)
    return taken


# ------------------------------------------------------------------------------------------------------------- claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A row a worker holds until `lease_until`: the value, and the row's own columns that are not the stage's business."""

    application: Application
    row: Record


_EVERY = (
    *t.applications.c,
    *(column for column in t.submissions.c if column.name != "id"),
    t.persons.c.sealed.label("person_sealed"),
)
_WHOLE = t.applications.join(t.submissions, s.id == a.id).join(t.persons, t.persons.c.id == a.person_id)


@cache
def _claimable(postgres: bool) -> Select[Any]:
    not_paused = ~exists(
        select(literal(1)).where(t.stage_control.c.stage == a.stage, t.stage_control.c.paused == true())
    )
    asked = given(postgres, _ID)
    return (
        select(*_EVERY)
        .select_from(_WHOLE)
        .where(
            a.id.in_(select(asked.c.id)),
            a.stage == bindparam("stage", type_=Text),
            a.work.in_(("ready", "queued")),
            not_paused,
        )
        .order_by(a.id)
        .with_for_update(skip_locked=True, of=t.applications)
    )


@cache
def _left_to_station() -> Select[Any]:
    return (
        select(*_EVERY)
        .select_from(_WHOLE)
        .where(
            a.stage == bindparam("stage", type_=Text),
            a.work == "reconcile",
            a.station == bindparam("station", type_=Text),
            or_(a.next_try_at.is_(None), a.next_try_at <= bindparam("now", type_=Instant)),
        )
        .order_by(a.crashes, a.id)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True, of=t.applications)
    )


@cache
def _claiming(postgres: bool) -> Update:
    rows = given(postgres, _ID)
    return (
        update(t.applications)
        .where(a.id.in_(select(rows.c.id)))
        .values(
            work="running",
            status=case((a.status == "received", "validation"), else_=a.status),
            lease_token=bindparam("token", type_=Text),
            lease_until=bindparam("until", type_=Instant),
            lease_size=bindparam("size", type_=Integer),
            next_try_at=None,
            attempts=a.attempts + 1,
            version=a.version + 1,
            updated_at=bindparam("now", type_=Instant),
        )
    )


def claim(tx: Tx, *, stage: str, ids: Sequence[str], token: str, now: datetime, until: datetime) -> list[Claimed]:
    """Take what of `ids` is still this stage's to do; the others are stale and left alone."""
    values = {"given": params([{"id": i} for i in ids]), "stage": stage}
    taken = tx.conn.execute(_claimable(tx.postgres), values).all()
    return _take(tx, stage, taken, token=token, now=now, until=until)


def claim_for_station(
    tx: Tx, *, stage: str, station: str, token: str, now: datetime, until: datetime, limit: int
) -> list[Claimed]:
    """Take rows whose outcome only this station can tell; one that killed the station before goes alone."""
    values = {"stage": stage, "station": station, "now": now, "most": limit}
    found = tx.conn.execute(_left_to_station(), values).all()
    calm = [row for row in found if not row.crashes]
    return _take(tx, stage, calm or found[:1], token=token, now=now, until=until)


def _take(tx: Tx, stage: str, taken: Sequence[Record], *, token: str, now: datetime, until: datetime) -> list[Claimed]:
    """Write the claim of rows that were just read and are locked."""
    if not taken:
        return []
    given_ids = params([{"id": row.id} for row in taken])
    values = {"given": given_ids, "until": until, "now": now, "token": token, "size": len(taken)}
    tx.conn.execute(_claiming(tx.postgres), values)
    entering = [
        {"application_id": row.id, "frm": "received", "to": "validation", "outcome": "claim", "attempt": 1}
        for row in taken
        if row.status == "received"
    ]
    record(tx, entering, stage=stage, now=now, actor="engine")
    return [Claimed(application=application_of(tx, row, claimed=True), row=row) for row in taken]


def still_ours(tx: Tx, ids: Sequence[str], *, token: str) -> frozenset[str]:
    """Which rows the holder of this lease still holds; nobody takes them away before commit."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(a.id)
        .where(a.id.in_(select(asked.c.id)), a.work == "running", a.lease_token == token)
        .order_by(a.id)
        .with_for_update(),
        {"given": params([{"id": i} for i in ids])},
    ).scalars()
    return frozenset(rows)


@cache
def _by_id(postgres: bool, lock: bool) -> Select[Any]:
    asked = given(postgres, _ID)
    query = select(*_EVERY).select_from(_WHOLE).where(a.id.in_(select(asked.c.id))).order_by(a.id)
    return query.with_for_update(of=t.applications) if lock else query


def load(tx: Tx, ids: Sequence[str], *, lock: bool = False) -> dict[str, Claimed]:
    """Applications by id, whoever's turn it is; `lock` keeps others from moving them until commit."""
    rows = tx.conn.execute(_by_id(tx.postgres, lock), {"given": params([{"id": i} for i in ids])}).all()
    return {row.id: Claimed(application=application_of(tx, row), row=row) for row in rows}


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


@cache
def _settling(postgres: bool) -> ReturningUpdate[Any]:
    rows = given(postgres, *_MOVE)
    return (
        update(t.applications)
        .where(a.id == rows.c.id, a.lease_token == bindparam("token", type_=Text), a.work == "running")
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


def settle(tx: Tx, moves: Mapping[str, Move], *, token: str, now: datetime, fresh: frozenset[str]) -> frozenset[str]:
    """Write the outcome of a chunk; returns the ids that were still ours.

    Attempts start again at 0 for the rows in `fresh` (they moved on, or wait without fault).
    """
    values = [{**_move_row(i, m), "attempts": 0 if i in fresh else 1} for i, m in moves.items()]
    done = tx.conn.execute(_settling(tx.postgres), {"given": params(values), "now": now, "token": token})
    return frozenset(done.scalars())


def _move_row(application_id: str, move: Move) -> dict[str, Any]:
    return {
        "id": application_id,
        "status": move.status,
        "stage": move.stage,
        "held_from": move.held_from,
        "work": move.work,
        "next_try_at": move.next_try_at,
        "reasons": reasons_to_json(move.reasons),
    }


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
    values = [_move_row(i, m) for i, m in moves.items()]
    tx.conn.execute(statement, {"given": params(values), "now": now})


POLLING = "station."
"""How a reason begins for which an application asks its station every few seconds."""

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


@cache
def _recording(postgres: bool) -> Insert:
    rows = given(postgres, *_HISTORY)
    names = [c.name for c in _HISTORY]
    h = t.transitions.c
    last = select(h.why).where(h.application_id == rows.c.application_id).order_by(h.seq.desc()).limit(1)
    polling = rows.c.why.like(f"{POLLING}%") & (func.coalesce(last.scalar_subquery(), "") == rows.c.why)
    return insert(t.transitions).from_select(names, select(*(rows.c[name] for name in names)).where(~polling))


def record(tx: Tx, entries: Sequence[Mapping[str, Any]], *, stage: str | None, now: datetime, actor: str) -> None:
    """Append to the history; one statement for the chunk. Waiting at a station is told once, however often it is asked again."""
    if entries:
        base = {"at": now, "stage": stage, "why": "", "attempt": 0, "actor": actor}
        tx.conn.execute(_recording(tx.postgres), {"given": params([{**base, **entry} for entry in entries])})


# ------------------------------------------------------------------------------------------------- relay and sweeping


@cache
def _leasing() -> ReturningUpdate[Any]:
    due = (
        select(a.id)
        .where(
            a.stage == bindparam("of_stage", type_=Text), a.lane == bindparam("of_lane", type_=Text), a.work == "ready"
        )
        .order_by(a.due_at, a.id)
        .limit(bindparam("most", type_=Integer))
    )
    picked = due.with_for_update(skip_locked=True).cte("picked")
    return (
        update(t.applications)
        .where(a.id.in_(select(picked.c.id)))
        .values(
            work="queued",
            lease_token=bindparam("token", type_=Text),
            lease_until=bindparam("until", type_=Instant),
        )
        .returning(a.id, a.solo, a.due_at)
    )


def lease_ready(
    tx: Tx, *, stage: str, lane: str, limit: int, token: str, now: datetime, until: datetime
) -> list[tuple[str, bool]]:
    """Hand up to `limit` ready rows to the broker, most urgent first: (id, must go alone)."""
    values = {"of_stage": stage, "of_lane": lane, "most": limit, "token": token, "until": until}
    rows = tx.conn.execute(_leasing(), values).all()
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


_LINES: tuple[tuple[str, Lane], ...] = tuple((stage, lane) for lane in LANES for stage in reversed(STAGES))


@cache
def _ready_lines() -> CompoundSelect[Any]:
    return union_all(
        *(
            select(literal(stage).label("stage"), literal(lane).label("lane")).where(
                exists(select(a.id).where(a.work == "ready", a.stage == stage, a.lane == lane))
            )
            for stage, lane in _LINES
        )
    )


@cache
def _queued_lines() -> Select[Any]:
    return select(a.stage, a.lane, func.count().label("n")).where(a.work == "queued").group_by(a.stage, a.lane)


def backlog(tx: Tx) -> dict[tuple[str, Lane], Backlog]:
    """Every stage and lane, in the order of publishing: urgent before normal before bulk, late stages before early ones."""
    ready = {(row.stage, row.lane) for row in tx.conn.execute(_ready_lines())}
    if not ready:
        return {}
    queued = {(row.stage, row.lane): int(row.n) for row in tx.conn.execute(_queued_lines())}
    stopped = set(tx.conn.execute(select(t.stage_control.c.stage).where(t.stage_control.c.paused == true())).scalars())
    return {
        (stage, lane): Backlog((stage, lane) in ready, queued.get((stage, lane), 0), stage in stopped)
        for stage, lane in _LINES
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
    solo: bool
    crashes: int


def expired(tx: Tx, *, now: datetime, limit: int) -> list[Expired]:
    """Leases that ran out, locked until commit."""
    rows = tx.conn.execute(
        select(a.id, a.status, a.stage, a.work, a.lease_size, a.solo, a.crashes)
        .where(a.work.in_(("queued", "running")), a.lease_until <= bindparam("now", type_=Instant))
        .order_by(a.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True),
        {"now": now},
    )
    return [_expired(row) for row in rows]


def _expired(row: Record) -> Expired:
    return Expired(row.id, row.status, row.stage, row.work, row.lease_size, bool(row.solo), row.crashes)


def with_intent(tx: Tx, ids: Sequence[str]) -> frozenset[str]:
    """Which of these have an intent to act on the world committed and not settled."""
    asked = given(tx, _ID)
    wanted = select(asked.c.id)
    calls = select(t.external_calls.c.application_id).where(
        t.external_calls.c.application_id.in_(wanted),
        t.external_calls.c.state.in_(("intent", "unknown", "pending")),
        t.external_calls.c.seq.is_(None),  # what the bank desk gives holds no application up
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


def held_by_station(tx: Tx, *, stage: str, station: str) -> list[Expired]:
    """Rows that a process of this station holds with a blank in its hands, locked until commit."""
    b = t.blanks.c
    in_hand = exists(
        select(b.serial).where(
            b.application_id == a.id, b.state.in_(("reserved", "encoding")), b.station == literal(station)
        )
    )
    rows = tx.conn.execute(
        select(a.id, a.status, a.stage, a.work, a.lease_size, a.solo, a.crashes)
        .where(a.stage == stage, a.work == "running", in_hand)
        .order_by(a.id)
        .with_for_update(of=t.applications)
    )
    return [_expired(row) for row in rows]


def unqueue(tx: Tx, stage: str | None = None) -> None:
    """What lies in the broker, of a stage or of all of them, is nobody's any more."""
    statement = update(t.applications).where(a.work == "queued")
    if stage is not None:
        statement = statement.where(a.stage == stage)
    tx.conn.execute(statement.values(work="ready", lease_token=None, lease_until=None))


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
    over = or_(a.next_try_at <= bindparam("now", type_=Instant), and_(a.next_try_at.is_(None), rings))
    waits = and_(a.work == "waiting", over)
    busy = or_(a.work.in_(("ready", "queued", "running", "reconcile")), waits)
    return tx.conn.execute(select(func.count()).select_from(t.applications).where(busy), {"now": now}).scalar_one()
