"""Blanks, card numbers and cards. Every blank is accounted for: one row of its own, one ledger line for each thing that befell it.

A blank is in stock at a location until it is issued to a station under a production job (制卡批次); only there can the line take it.
What befell the blanks of a job is counted from the ledger, what is still out from the blanks' own rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Date,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    select,
    true,
    update,
)

from pipeline.identifiers import card_number, new_id
from pipeline.outcomes import Wait
from pipeline.stages.base import BlankFact, CardFact
from pipeline.stages.personalisation import (
    ELSEWHERE_AGAIN,
    NO_CARD_AGAIN,
    BlankGrant,
    BlankQuarantined,
    BlankReturned,
    BlankSpoiled,
    CardProduced,
    TakeBlank,
)
from pipeline.store import bank_desk
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, on_conflict_nothing, params, upserting
from pipeline.store.types import Instant, Record

_ID = Column("id", Text)
_SERIAL = Column("serial", Text)
_PROBLEM = Column("problem", Text)
_NOW = bindparam("now", type_=Instant)
_SINCE = bindparam("since", type_=Instant)
a = t.applications.c
b = t.blanks.c
c = t.cards.c
j = t.production_jobs.c
e = t.blank_ledger.c

IN_FORCE = ("produced", "issued", "active", "frozen")
"""Statuses of cards that their person has or will get."""
UNSETTLED = ("reserved", "encoding", "quarantined")
"""Bound to an application, and the end is open."""


# ---------------------------------------------------------------------------------------------------------- numbers


def next_numbers(tx: Tx, name: str, count: int) -> range:
    """The next `count` numbers of a range, never given twice; a new range begins at 1."""
    n = t.number_ranges.c
    insertion = upserting(tx, t.number_ranges).values(name=name, next=1 + count)
    end = tx.conn.execute(
        insertion.on_conflict_do_update(index_elements=[n.name], set_={"next": n.next + count}).returning(n.next)
    ).scalar_one()
    return range(end - count, end)


# ------------------------------------------------------------------------------------------------------------ ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a ledger line says of a move: who, when, and for a person's act with whom, why and under which document.

    Without an actor the line names the blank's station.
    """

    at: datetime
    actor: str | None = None
    witness: str | None = None
    reason: str | None = None
    document: str | None = None


def _write_down(
    tx: Tx,
    serials: Sequence[str],
    event: str,
    act: Act,
    *,
    states: Sequence[str] = (),
    problems: Mapping[str, str | None] = MappingProxyType({}),
) -> None:
    """A ledger line for each blank, with the application, station and job that its row names at this moment.

    So what ends a tie is written down before the row changes, and what makes one, after. `states`: only blanks in one of these.
    `problems` are reasons of single blanks.
    """
    if not serials:
        return
    rows = given(tx, _SERIAL, _PROBLEM)
    source = select(
        b.serial,
        _NOW,
        literal(event),
        b.application_id,
        b.station,
        b.job_id,
        func.coalesce(bindparam("actor", type_=Text), b.station, "engine"),
        bindparam("witness", type_=Text),
        func.coalesce(rows.c.problem, bindparam("reason", type_=Text)),
        bindparam("document", type_=Text),
    ).join(rows, rows.c.serial == b.serial)
    if states:
        source = source.where(b.state.in_(states))
    names = ["serial", "at", "event", "application_id", "station", "job_id", "actor", "witness", "reason", "document"]
    said = {"actor": act.actor, "witness": act.witness, "reason": act.reason, "document": act.document}
    tx.conn.execute(
        insert(t.blank_ledger).from_select(names, source),
        {"given": params([{"serial": s, "problem": problems.get(s)} for s in serials]), "now": act.at, **said},
    )


def _change(tx: Tx, serials: Sequence[str], *, now: datetime, **columns: Any) -> None:
    rows = given(tx, _SERIAL)
    tx.conn.execute(
        update(t.blanks).where(b.serial.in_(select(rows.c.serial))).values(changed_at=_NOW, **columns),
        {"given": params([{"serial": s} for s in serials]), "now": now},
    )


def lines(tx: Tx, serial: str) -> list[Record]:
    """What befell a blank, oldest first."""
    return list(tx.conn.execute(select(t.blank_ledger).where(e.serial == serial).order_by(e.seq)).all())


def ledger_counts(tx: Tx) -> dict[str, int]:
    """Ledger lines by event."""
    rows = tx.conn.execute(select(e.event, func.count().label("n")).group_by(e.event))
    return {row.event: row.n for row in rows}


def used_since(tx: Tx, since: datetime) -> dict[tuple[str, str], int]:
    """Blanks that became cards or were spoiled since then, by type and by the station that used them."""
    rows = tx.conn.execute(
        select(b.type, e.station, func.count().label("n"))
        .join(t.blanks, b.serial == e.serial)
        .where(e.event.in_(("bound", "spoiled")), e.at >= _SINCE, e.station.is_not(None))
        .group_by(b.type, e.station),
        {"since": since},
    )
    return {(row.type, row.station): row.n for row in rows}


def cards_since(tx: Tx, since: datetime) -> dict[str, int]:
    """Cards made since then, by station."""
    rows = tx.conn.execute(
        select(e.station, func.count().label("n")).where(e.event == "bound", e.at >= _SINCE).group_by(e.station),
        {"since": since},
    )
    return {row.station: row.n for row in rows}


def certificate_known(tx: Tx, document: str) -> bool:
    """Whether blanks were destroyed under this certificate before."""
    query = select(exists(select(e.seq).where(e.event == "destroyed", e.document == document)))
    return bool(tx.conn.execute(query).scalar())


# The state a blank is in after each event.
_AFTER: Mapping[str, str] = {
    "received": "stocked",
    "issued": "stocked",
    "taken": "reserved",
    "untouched": "stocked",
    "quarantined": "quarantined",
    "bound": "bound",
    "voided": "voided",
    "spoiled": "spoiled",
    "returned": "stocked",
    "missing": "missing",
    "found": "spoiled",
    "destroyed": "destroyed",
}


def balance(tx: Tx) -> dict[str, int]:
    """Blanks by state."""
    rows = tx.conn.execute(select(b.state, func.count().label("n")).group_by(b.state))
    return {row.state: row.n for row in rows}


def ledger_balance(tx: Tx) -> dict[str, int]:
    """Blanks by the state that their last ledger line left them in; it must be what `balance` says."""
    last = select(func.max(e.seq).label("seq")).group_by(e.serial).subquery()
    state = case(_AFTER, value=e.event)
    rows = tx.conn.execute(
        select(state.label("state"), func.count().label("n")).join(last, last.c.seq == e.seq).group_by(state)
    )
    return {row.state: row.n for row in rows}


# ------------------------------------------------------------------------------------------------- what people move


def receive(tx: Tx, serials: Sequence[str], *, blank_type: str, lot: str, location: str, act: Act) -> tuple[str, ...]:
    """Put blanks into stock; serials known already are left alone. Returns the new ones."""
    rows = given(tx, _SERIAL)
    names = ["serial", "type", "lot", "location", "state", "received_at", "changed_at"]
    source = select(
        rows.c.serial,
        literal(blank_type),
        literal(lot),
        literal(location),
        literal("stocked"),
        _NOW,
        _NOW,
    ).where(true())
    added = tx.conn.execute(
        on_conflict_nothing(tx, t.blanks).from_select(names, source).returning(b.serial),
        {"given": params([{"serial": s} for s in serials]), "now": act.at},
    ).scalars()
    new = tuple(added)
    _write_down(tx, new, "received", act)
    return new


def find(tx: Tx, serials: Sequence[str], *, lock: bool = False) -> dict[str, Record]:
    """Blanks by serial."""
    rows = given(tx, _SERIAL)
    query = select(t.blanks).where(b.serial.in_(select(rows.c.serial))).order_by(b.serial)
    found = tx.conn.execute(
        query.with_for_update() if lock else query, {"given": params([{"serial": s} for s in serials])}
    )
    return {row.serial: row for row in found}


def listing(
    tx: Tx, *, state: str | None, blank_type: str | None, location: str | None, job_id: str | None, limit: int
) -> list[Record]:
    """Blanks, by serial."""
    query = select(t.blanks).order_by(b.serial).limit(limit)
    for column, value in ((b.state, state), (b.type, blank_type), (b.location, location), (b.job_id, job_id)):
        if value is not None:
            query = query.where(column == value)
    return list(tx.conn.execute(query).all())


def pick(tx: Tx, *, blank_type: str, location: str, count: int) -> list[str]:
    """The first blanks of a type that lie in stock and are issued to nobody, locked; fewer where there are not so many.

    Those that a station handed back with a problem come last.
    """
    query = (
        select(b.serial)
        .where(b.type == blank_type, b.state == "stocked", b.station.is_(None), b.location == location)
        .order_by(b.problem.is_not(None), b.serial)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    return list(tx.conn.execute(query).scalars())


def issue(tx: Tx, serials: Sequence[str], *, job_id: str, station: str, act: Act) -> None:
    """Blanks go from stock to a station, under a job."""
    _change(tx, serials, now=act.at, job_id=job_id, station=station, location=station)
    _write_down(tx, serials, "issued", act)


def give_back(tx: Tx, serials: Sequence[str], *, location: str, act: Act) -> None:
    """Unused blanks go from their station back into stock."""
    _write_down(tx, serials, "returned", act)
    _change(tx, serials, now=act.at, job_id=None, station=None, location=location)


def write_off(tx: Tx, serials: Sequence[str], event: str, act: Act) -> None:
    """Blanks that will not become cards, or whose card is no longer one: `spoiled`, `missing`, `found`, `voided`, `destroyed`.

    The problem is why the first time.
    """
    _write_down(tx, serials, event, act)
    _change(tx, serials, now=act.at, state=_AFTER[event], problem=func.coalesce(b.problem, act.reason))


def put_back(tx: Tx, serials: Sequence[str], act: Act) -> None:
    """Blanks that were set aside can be taken again."""
    _write_down(tx, serials, "untouched", act)
    _change(tx, serials, now=act.at, state="stocked", problem=None)


# ----------------------------------------------------------------------------------------------------- production jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """The blanks of a production job: where each one issued has gone, or still is."""

    issued: int = 0
    good: int = 0
    spoiled: int = 0
    returned: int = 0
    missing: int = 0
    unused: int = 0
    in_hand: int = 0
    quarantined: int = 0

    @property
    def unaccounted(self) -> int:
        """How many blanks the job's figures do not explain."""
        gone = self.good + self.spoiled + self.returned + self.missing
        return self.issued - gone - self.unused - self.in_hand - self.quarantined

    @property
    def balanced(self) -> bool:
        """Nothing is out any more, and every blank issued is explained."""
        return not (self.unused or self.in_hand or self.quarantined or self.unaccounted)


_GONE = {"issued": "issued", "bound": "good", "spoiled": "spoiled", "returned": "returned", "missing": "missing"}
_OUT = {"stocked": "unused", "reserved": "in_hand", "encoding": "in_hand", "quarantined": "quarantined"}


def figures(tx: Tx, job_ids: Sequence[str]) -> dict[str, JobFigures]:
    """The figures of jobs."""
    asked = given(tx, _ID)
    values = {"given": params([{"id": i} for i in job_ids])}
    counted: dict[str, dict[str, int]] = {i: defaultdict(int) for i in job_ids}
    gone = (
        select(e.job_id, e.event, func.count().label("n"))
        .where(e.job_id.in_(select(asked.c.id)), e.event.in_(tuple(_GONE)))
        .group_by(e.job_id, e.event)
    )
    for row in tx.conn.execute(gone, values):
        counted[row.job_id][_GONE[row.event]] += row.n
    out = (
        select(b.job_id, b.state, func.count().label("n"))
        .where(b.job_id.in_(select(asked.c.id)), b.state.in_(tuple(_OUT)))
        .group_by(b.job_id, b.state)
    )
    for row in tx.conn.execute(out, values):
        counted[row.job_id][_OUT[row.state]] += row.n
    return {i: JobFigures(**found) for i, found in counted.items()}


def open_job(tx: Tx, *, blank_type: str, station: str, actor: str, now: datetime) -> str:
    """A new production job."""
    job_id = new_id("job_", now=now, random=tx.random)
    row = {"id": job_id, "type": blank_type, "station": station, "state": "open", "opened_by": actor, "opened_at": now}
    tx.conn.execute(insert(t.production_jobs), row)
    return job_id


def job(tx: Tx, job_id: str) -> Record | None:
    """A production job, locked: nothing is issued under it, given back or closed meanwhile."""
    return tx.conn.execute(select(t.production_jobs).where(j.id == job_id).with_for_update()).first()


def jobs(tx: Tx, *, state: str | None, station: str | None, limit: int) -> list[Record]:
    """Production jobs, newest first."""
    query = select(t.production_jobs).order_by(j.id.desc()).limit(limit)
    for column, value in ((j.state, state), (j.station, station)):
        if value is not None:
            query = query.where(column == value)
    return list(tx.conn.execute(query).all())


def unused(tx: Tx, job_id: str) -> list[str]:
    """Blanks of a job that nothing was done with, locked."""
    query = select(b.serial).where(b.job_id == job_id, b.state == "stocked").order_by(b.serial).with_for_update()
    return list(tx.conn.execute(query).scalars())


def close_job(tx: Tx, job_id: str, closing: JobFigures, *, actor: str, now: datetime) -> None:
    """Sign a balanced job; the database refuses one that is not, and the signature of who opened it."""
    tx.conn.execute(
        update(t.production_jobs)
        .where(j.id == job_id)
        .values(
            state="closed",
            closed_by=actor,
            closed_at=now,
            issued=closing.issued,
            good=closing.good,
            spoiled=closing.spoiled,
            returned=closing.returned,
            missing=closing.missing,
        )
    )


# --------------------------------------------------------------------------------------------------- what the line does


def reserved(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, BlankFact]:
    """By application: the blank that was taken for it and whose end is open, in quarantine or not."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(b.application_id, b.serial, b.station).where(
            b.application_id.in_(select(asked.c.id)), b.state.in_(UNSETTLED)
        ),
        {"given": params([{"id": i} for i in application_ids])},
    )
    return {row.application_id: BlankFact(serial=row.serial, station=row.station or "") for row in rows}


def take(tx: Tx, wanted: Mapping[str, TakeBlank], *, now: datetime) -> Mapping[str, BlankGrant | Wait | None]:
    """Reserve a blank for each application, and fix its card number and date of issue.

    Only blanks issued to the station are taken, and of those only what lies in its readers where the intent names them. Where
    there is none, the application waits for a card in a reader, or a while for another station; None where no station has one.
    """
    grants: dict[str, BlankGrant | Wait | None] = dict.fromkeys(wanted)
    groups: dict[tuple[str, str, tuple[str, ...] | None], list[str]] = defaultdict(list)
    for i, intent in wanted.items():
        groups[intent.blank_type, intent.station, intent.serials].append(i)
    for (blank_type, station, loaded), ids in sorted(
        groups.items(), key=lambda group: (*group[0][:2], group[0][2] or ())
    ):
        pairs = list(zip(ids, _free(tx, blank_type, station, loaded, len(ids)), strict=False))
        if pairs:
            _reserve(tx, pairs, now=now)
            grants |= _fix(tx, dict(pairs), {i: wanted[i] for i, _ in pairs})
        if short := ids[len(pairs) :]:
            grants |= dict.fromkeys(short, _put_off(tx, blank_type, station, loaded, now))
    return grants


def _reserve(tx: Tx, pairs: Sequence[tuple[str, str]], *, now: datetime) -> None:
    rows = given(tx, _ID, _SERIAL)
    tx.conn.execute(
        update(t.blanks)
        .where(b.serial == rows.c.serial)
        .values(state="reserved", application_id=rows.c.id, changed_at=_NOW),
        {"given": params([{"id": i, "serial": s} for i, s in pairs]), "now": now},
    )
    _write_down(tx, [s for _, s in pairs], "taken", Act(at=now))


def _free(tx: Tx, blank_type: str, station: str, loaded: tuple[str, ...] | None, count: int) -> list[str]:
    """Up to `count` blanks that a station may write on, locked; those it handed back with a problem come last."""
    query = (
        select(b.serial)
        .where(b.type == blank_type, b.station == station, b.job_id.is_not(None), b.state == "stocked")
        .order_by(b.serial)
        .with_for_update(skip_locked=True)
    )
    values: dict[str, Any] = {}
    if loaded is not None:
        query = query.where(b.serial.in_(select(given(tx, _SERIAL).c.serial)))
        values = {"given": params([{"serial": s} for s in loaded])}
    found: list[str] = []
    for kind in (b.problem.is_(None), b.problem.is_not(None)):  # two questions, since the index has no problems
        if len(found) < count:
            found += tx.conn.execute(query.where(kind).limit(count - len(found)), values).scalars()
    return found


def _put_off(tx: Tx, blank_type: str, station: str, loaded: tuple[str, ...] | None, now: datetime) -> Wait | None:
    """What an application that got no blank waits for: a card to be put in, or a station that has blanks; None when none has."""
    unused = select(b.serial).where(b.type == blank_type, b.state == "stocked")
    here = select(exists(unused.where(b.station == station)))
    if loaded is not None and tx.conn.execute(here).scalar():
        return Wait(now + NO_CARD_AGAIN, "station.no_card")
    anywhere = select(exists(unused.where(b.station.is_not(None))))
    return Wait(now + ELSEWHERE_AGAIN, "station.no_blanks") if tx.conn.execute(anywhere).scalar() else None


def _fix(tx: Tx, serials: Mapping[str, str], wanted: Mapping[str, TakeBlank]) -> dict[str, BlankGrant]:
    """Numbers and dates are given once and stay, however many blanks an application takes."""
    asked = given(tx, _ID)
    known = {
        row.id: row
        for row in tx.conn.execute(
            select(a.id, a.card_number, a.issued_on).where(a.id.in_(select(asked.c.id))),
            {"given": params([{"id": i} for i in serials])},
        )
    }
    fresh: dict[str, list[str]] = defaultdict(list)
    for i in serials:
        if known[i].card_number is None:
            fresh[wanted[i].number_prefix].append(i)
    numbers = {
        i: card_number(prefix, n)
        for prefix, ids in sorted(fresh.items())
        for i, n in zip(ids, next_numbers(tx, f"card/{prefix}", len(ids)), strict=True)
    }
    grants = {
        i: BlankGrant(
            serial=serial,
            card_number=known[i].card_number or numbers[i],
            issued_on=known[i].issued_on or wanted[i].issued_on,
        )
        for i, serial in serials.items()
    }
    rows = given(tx, _ID, _SERIAL, Column("station", Text), Column("card_number", Text), Column("issued_on", Date))
    values = [
        {
            "id": i,
            "serial": g.serial,
            "station": wanted[i].station,
            "card_number": g.card_number,
            "issued_on": g.issued_on,
        }
        for i, g in grants.items()
    ]
    tx.conn.execute(
        update(t.applications)
        .where(a.id == rows.c.id)
        .values(
            blank_serial=rows.c.serial,
            station=rows.c.station,
            card_number=rows.c.card_number,
            issued_on=rows.c.issued_on,
        ),
        {"given": params(values)},
    )
    return grants


def write_blanks(tx: Tx, facts: Sequence[BlankSpoiled | BlankReturned | BlankQuarantined], *, now: datetime) -> None:
    """What became of blanks that did not become cards.

    A blank that was handed back with a problem before is now set aside: in quarantine, and no application's.
    """
    problems = {f.serial: f.problem for f in facts}
    returned = [f.serial for f in facts if isinstance(f, BlankReturned)]
    aside = _known_faulty(tx, [serial for serial in returned if problems[serial] is not None])
    events = {f.serial: "quarantined" if f.serial in aside else _EVENT[type(f)] for f in facts}
    for event in sorted(set(events.values())):
        told = [serial for serial, befell in events.items() if befell == event]
        _write_down(tx, told, event, Act(at=now), states=UNSETTLED, problems=problems)
    rows = given(tx, _SERIAL, Column("state", Text), _PROBLEM, Column("freed", Boolean))
    values = [
        {"serial": serial, "state": _AFTER[event], "problem": problems[serial], "freed": serial in returned}
        for serial, event in events.items()
    ]
    tx.conn.execute(
        update(t.blanks)
        .where(b.serial == rows.c.serial, b.state.in_(UNSETTLED))
        .values(
            state=rows.c.state,
            problem=func.coalesce(rows.c.problem, b.problem),
            application_id=case((rows.c.freed, None), else_=b.application_id),
            changed_at=_NOW,
        ),
        {"given": params(values), "now": now},
    )


def _known_faulty(tx: Tx, serials: Sequence[str]) -> frozenset[str]:
    """Those of the blanks that a problem is known of."""
    found = find(tx, serials) if serials else {}
    return frozenset(serial for serial, row in found.items() if row.problem is not None)


_EVENT: Mapping[type, str] = {BlankSpoiled: "spoiled", BlankReturned: "untouched", BlankQuarantined: "quarantined"}


# ------------------------------------------------------------------------------------------------------------- cards


def cards_of(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, CardFact]:
    """By application: its card, if that is neither voided nor destroyed."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(c.application_id, c.id, c.blank_serial, c.custody, c.place, c.bundle_id).where(
            c.application_id.in_(select(asked.c.id)), c.status.not_in(("voided", "destroyed"))
        ),
        {"given": params([{"id": i} for i in application_ids])},
    )
    return {
        row.application_id: CardFact(
            id=row.id, serial=row.blank_serial, custody=row.custody, place=row.place, bundle_id=row.bundle_id
        )
        for row in rows
    }


def holders_with_card(tx: Tx, application_ids: Sequence[str]) -> frozenset[str]:
    """Applications whose person holds a card of another application that is in force, and that was not given up (SG-10)."""
    asked = given(tx, _ID)
    other = t.applications.alias("other")
    rows = tx.conn.execute(
        select(a.id)
        .join(t.cards, and_(c.person_id == a.person_id, c.card_type == a.card_type, c.application_id != a.id))
        .join(other, other.c.id == c.application_id)
        .where(
            a.id.in_(select(asked.c.id)),
            c.status.in_(IN_FORCE),
            func.coalesce(other.c.ending, "") != "abandoned",
        ),
        {"given": params([{"id": i} for i in application_ids])},
    ).scalars()
    return frozenset(rows)


def newer_card(tx: Tx, card: Record) -> bool:
    """Whether the person of a card has another one in force that was made later."""
    later = select(c.id).where(
        c.person_id == card.person_id,
        c.card_type == card.card_type,
        c.application_id != card.application_id,
        c.id > card.id,
        c.status.in_(IN_FORCE),
    )
    return bool(tx.conn.execute(select(exists(later))).scalar())


def write_cards(tx: Tx, facts: Sequence[CardProduced], *, now: datetime) -> None:
    """A written and verified blank becomes a card, at the centre."""
    values = [
        {
            "id": new_id("card_", now=now, random=tx.random),
            "application_id": f.application_id,
            "person_id": f.person_id,
            "account_id": f.account_id,
            "serial": f.serial,
            "card_number": f.card_number,
            "chip_id": f.chip_id,
            "issued_on": f.issued_on,
            "expires_on": f.expires_on,
            "face": f.face,
        }
        for f in facts
    ]
    texts = ("id", "application_id", "person_id", "account_id", "serial", "card_number", "chip_id", "face")
    rows = given(tx, *(Column(n, Text) for n in texts), Column("issued_on", Date), Column("expires_on", Date))
    r = rows.c
    source = {
        "id": r.id,
        "application_id": r.application_id,
        "person_id": r.person_id,
        "card_type": a.card_type,
        "account_id": r.account_id,
        "blank_serial": r.serial,
        "card_number": r.card_number,
        "chip_id": r.chip_id,
        "issued_on": r.issued_on,
        "expires_on": r.expires_on,
        "status": literal("produced"),
        "custody": literal("centre"),
        "place": literal("centre"),
        "face": r.face,
        "verified_at": _NOW,
        "changed_at": _NOW,
    }
    tx.conn.execute(
        insert(t.cards).from_select(
            list(source), select(*source.values()).select_from(rows.join(t.applications, a.id == r.application_id))
        ),
        {"given": params(values), "now": now},
    )
    _keep_bank_numbers(tx, {str(card["id"]): f.bank_card_number for card, f in zip(values, facts, strict=True)})
    bank_desk.tell_produced(tx, [str(card["id"]) for card in values], now=now)
    serials = [f.serial for f in facts]
    _change(tx, serials, now=now, state="bound", problem=None)
    _write_down(tx, serials, "bound", Act(at=now))


def _keep_bank_numbers(tx: Tx, numbers: Mapping[str, str | None]) -> None:
    """The bank card number stays with the card: that of its account is another one as soon as the next card is bound."""
    values = [
        {"b_id": i, "b_sealed": tx.sealer.seal({"bank_card_number": number}, bound_to=f"cards/{i}")}
        for i, number in numbers.items()
        if number is not None
    ]
    if values:
        tx.conn.execute(update(t.cards).where(c.id == bindparam("b_id")).values(sealed=bindparam("b_sealed")), values)
