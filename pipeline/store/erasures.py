"""Photos whose time is over: who has them still, and which objects are to be removed.

An object is *retired* first: in one transaction its application lets go of it, and a row of `objects_retired` names it until it is
off the disk. Whatever dies in between, that row is there. The picture of a person's crop is retired before it is named, since it may
never be. Knows every column that names an object; whoever adds one adds it to `_HOLDERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Select,
    Text,
    bindparam,
    delete,
    distinct,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union,
    update,
)

from pipeline.states import LIVE, STATUSES
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant

ENDED = tuple(name for name in STATUSES if name not in LIVE)
a = t.applications.c
s = t.submissions.c
p = t.photos.c
c = t.cards.c
r = t.objects_retired.c

# The application of a row, and the columns that name objects, each with what it holds when it names none.
_HOLDERS: tuple[tuple[Column[Any], Mapping[Column[Any], str | None]], ...] = (
    (s.id, {s.photo_original: "", s.photo_result: None}),
    (p.application_id, {p.original: "", p.picture: None}),
    (c.application_id, {c.face: None}),
)
_ID = Column("id", Text)
_RETIRED = (Column("application_id", Text), Column("object", Text), Column("retired_at", Instant))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An application that has a photo. Its row was written last at `updated_at`: when it has ended, that is its end."""

    id: str
    original: str
    region: str
    version: str
    ended: bool
    updated_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.original, self.id


@dataclass(frozen=True, slots=True)
class Retired:
    """An object that its application has let go of. `named`: a row names it still or again; `own`: one of that application."""

    application_id: str
    name: str
    at: datetime
    named: bool
    own: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.application_id, self.name


def _names(column: Column[Any], empty: str | None) -> ColumnElement[bool]:
    """As the partial indexes say it: a parameter would hide it from SQLite's planner."""
    return column.is_not(None) if empty is None else column != literal_column("''")


def holding(tx: Tx, *, after: tuple[str, str], limit: int) -> list[Holding]:
    """Applications that have photos, by `Holding.key`, from the one that follows `after`.

    So many rows of the index are read and no more, however few of the applications have ended.
    """
    page = (
        select(s.id, s.photo_original, s.policy_version)
        .where(_names(s.photo_original, ""), tuple_(s.photo_original, s.id) > tuple_(*after))
        .order_by(s.photo_original, s.id)
        .limit(limit)
        .subquery("page")
    )
    query = (
        select(a.id, page.c.photo_original, page.c.policy_version, a.region, a.status, a.updated_at)
        .join_from(page, t.applications, a.id == page.c.id)
        .order_by(page.c.photo_original, a.id)
    )
    return [
        Holding(
            id=row.id,
            original=row.photo_original,
            region=row.region,
            version=row.policy_version,
            ended=row.status in ENDED,
            updated_at=row.updated_at,
        )
        for row in tx.conn.execute(query)
    ]


def _naming() -> Iterator[tuple[Column[Any], Column[Any], ColumnElement[bool]]]:
    """The application, the object's name, and whether there is one: for each column that names objects."""
    for owner, columns in _HOLDERS:
        for column, empty in columns.items():
            yield owner, column, _names(column, empty)


def _objects_of(ids: Select[Any]) -> CompoundSelect[Any]:
    return union(
        *(
            select(owner.label("application_id"), column.label("object")).where(owner.in_(ids), some)
            for owner, column, some in _naming()
        )
    )


def objects(tx: Tx, applications: Sequence[Holding]) -> int:
    """How many objects these applications name."""
    names = _objects_of(select(given(tx, _ID).c.id)).subquery()
    told = {"given": params([{"id": x.id} for x in applications])}
    return tx.conn.execute(select(func.count(distinct(names.c.object))), told).scalar_one()


def retire(tx: Tx, applications: Sequence[Holding], *, now: datetime) -> int:
    """Let applications go of all their objects, if they have still ended and nobody moves them now; returns how many did."""
    ids = select(given(tx, _ID).c.id)
    ended = select(a.id).where(a.id.in_(ids), a.status.in_(ENDED)).with_for_update(skip_locked=True)
    read = params([{"id": x.id} for x in applications])
    found = tx.conn.execute(ended, {"given": read}).scalars().all()
    chosen = {"given": params([{"id": i} for i in found])}
    names = _objects_of(ids).subquery()
    source = select(names.c.application_id, names.c.object, bindparam("now", type_=Instant)).where(true())
    remember(tx, source, {**chosen, "now": now})
    for owner, columns in _HOLDERS:
        some = or_(*(_names(column, empty) for column, empty in columns.items()))
        emptied = {column.name: empty for column, empty in columns.items()}
        tx.conn.execute(update(owner.table).where(owner.in_(ids), some).values(emptied), chosen)
    return len(found)


def remember(tx: Tx, source: Select[Any], told: Mapping[str, Any]) -> None:
    """Retire the objects that `source` selects with the parameters `told`: application, object, time.

    What is remembered already is retired anew, so that `forget` leaves it to whoever has not seen that.
    """
    insertion = upserting(tx, t.objects_retired).from_select([column.name for column in _RETIRED], source)
    anew = {"retired_at": insertion.excluded.retired_at}
    tx.conn.execute(insertion.on_conflict_do_update(index_elements=[r.application_id, r.object], set_=anew), told)


def retire_unnamed(tx: Tx, application_id: str, name: str, *, now: datetime) -> None:
    """Retire an object that was put and that the application is about to name: should it never do so, the object is erased."""
    rows = given(tx, *_RETIRED)
    source = select(*rows.c).where(true())
    row = {"application_id": application_id, "object": name, "retired_at": now}
    remember(tx, source, {"given": params([row])})


def retired(tx: Tx, *, after: tuple[str, str], limit: int) -> list[Retired]:
    """Objects that were let go of, by `Retired.key`, from the one that follows `after`."""
    page = (
        select(r.application_id, r.object, r.retired_at)
        .where(tuple_(r.application_id, r.object) > tuple_(*after))
        .order_by(r.application_id, r.object)
        .limit(limit)
    )
    found = tx.conn.execute(page).all()
    asked = given(tx, *_RETIRED[:2])
    told = {"given": params([{"application_id": row.application_id, "object": row.object} for row in found])}
    named = union(*(select(column).where(column.in_(select(asked.c.object)), some) for _, column, some in _naming()))
    pairs = select(asked.c.application_id, asked.c.object)
    own = union(*(select(i, column).where(tuple_(i, column).in_(pairs), some) for i, column, some in _naming()))
    names = frozenset(tx.conn.execute(named, told).scalars())
    keys = frozenset((i, name) for i, name in tx.conn.execute(own, told))
    return [
        Retired(row.application_id, row.object, row.retired_at, row.object in names, (row[0], row[1]) in keys)
        for row in found
    ]


def forget(tx: Tx, gone: Sequence[Retired]) -> frozenset[tuple[str, str]]:
    """Objects that are off the disk, or needed after all. Returns the keys that were remembered until now.

    One that was retired anew since it was read is remembered still.
    """
    if not gone:
        return frozenset()
    rows = given(tx, *_RETIRED)
    statement = (
        delete(t.objects_retired)
        .where(tuple_(r.application_id, r.object, r.retired_at).in_(select(*rows.c)))
        .returning(r.application_id, r.object)
    )
    told = params([{"application_id": x.application_id, "object": x.name, "retired_at": x.at} for x in gone])
    return frozenset((row.application_id, row.object) for row in tx.conn.execute(statement, {"given": told}))


def waiting(tx: Tx) -> int:
    """Objects that were let go of and are still remembered."""
    return tx.conn.execute(select(func.count()).select_from(t.objects_retired)).scalar_one()
