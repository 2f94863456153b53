"""What is kept of every application's photo: its objects, what was found and measured, and what a person decided.

One row an application, of the newest run. What a later stage reads, `submissions.photo_result`, is set from here and only while
the photo is normalised or approved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Integer, Text, and_, bindparam, case, null, select, true, update

from pipeline.photo.findings import Finding, restored
from pipeline.photo.result import Adjust, Geometry, Normalised
from pipeline.stages.base import PictureFact
from pipeline.stages.photo import PhotoJudged
from pipeline.store import audit, erasures
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Json, Record

a = t.applications.c
s = t.submissions.c
p = t.photos.c
_ID = Column("id", Text)

State = Literal["normalised", "review", "approved", "rejected"]

_RUN = (
    Column("application_id", Text),
    Column("state", Text),
    Column("original", Text),
    Column("picture", Text),
    Column("profile", Text),
    Column("profile_version", Text),
    Column("background", Text),
    Column("width_px", Integer),
    Column("height_px", Integer),
    Column("quality", Integer),
    Column("bytes", Integer),
    Column("findings", Json),
    Column("measures", Json),
    Column("geometry", Json),
    Column("adjust", Json),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPhoto:
    """A photo as it is kept. `original` and `picture` name objects, and are empty and None once those were erased.

    `made` is what the run said; its picture's bytes are in the object store. `adjust`: how a person moved the frame.
    """

    application_id: str
    state: State
    original: str
    picture: str | None
    profile: str
    profile_version: str
    made: Normalised
    adjust: Adjust | None
    run_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    note: str | None


# ------------------------------------------------------------------------------------------------------------ writing


def write(tx: Tx, facts: Sequence[PhotoJudged], *, now: datetime) -> None:
    """Keep what runs made of photos; what a person decided about an earlier picture is over.

    A background that was replaced stands in the audit log, since it alters the photo.
    """
    values = {"given": params([_run(fact) for fact in facts]), "now": now}
    _remember_replaced(tx, values)
    rows = given(tx, *_RUN)
    names = [column.name for column in _RUN]
    source = select(*(rows.c[name] for name in names), bindparam("now", type_=Instant)).where(true())
    insertion = upserting(tx, t.photos).from_select([*names, "run_at"], source)
    renewed: dict[str, Any] = {name: insertion.excluded[name] for name in (*names[1:], "run_at")}
    undecided = dict.fromkeys(("decided_by", "decided_at", "note"), null())
    tx.conn.execute(
        insertion.on_conflict_do_update(index_elements=[p.application_id], set_=renewed | undecided), values
    )
    tx.conn.execute(
        update(t.submissions)
        .where(s.id == rows.c.application_id)
        .values(photo_result=case((rows.c.state == "normalised", rows.c.picture))),
        values,
    )
    for fact in facts:
        if fact.object_name is not None and fact.normalised.background == "replaced":
            detail = {"profile": fact.profile, "picture": fact.object_name}
            audit.append(
                tx,
                actor="engine",
                action="photo.background_replaced",
                target=fact.application_id,
                now=now,
                detail=detail,
            )


def _remember_replaced(tx: Tx, values: Mapping[str, Any]) -> None:
    rows = given(tx, *_RUN)
    source = (
        select(p.application_id, p.picture, bindparam("now", type_=Instant))
        .join(rows, rows.c.application_id == p.application_id)
        .where(p.picture.is_not(None), p.picture.is_distinct_from(rows.c.picture))
    )
    erasures.remember(tx, source, values)


def _run(fact: PhotoJudged) -> dict[str, Any]:
    made = fact.normalised
    return {
        "application_id": fact.application_id,
        "state": fact.state,
        "original": fact.original,
        "picture": fact.object_name,
        "profile": fact.profile,
        "profile_version": fact.profile_version,
        "background": made.background,
        "width_px": made.width_px,
        "height_px": made.height_px,
        "quality": made.quality,
        "bytes": None if made.picture is None else len(made.picture),
        "findings": findings_to_json(made.findings),
        "measures": dict(made.measures),
        "geometry": None if made.geometry is None else asdict(made.geometry),
        "adjust": None if fact.adjust is None else asdict(fact.adjust),
    }


def decide(
    tx: Tx,
    application_id: str,
    *,
    state: Literal["approved", "rejected"],
    findings: Iterable[Finding],
    actor: str,
    note: str,
    now: datetime,
) -> None:
    """Write a person's decision about a photo that `in_review` has locked; an approved picture is the one later stages read."""
    tx.conn.execute(
        update(t.photos)
        .where(p.application_id == application_id)
        .values(state=state, findings=findings_to_json(findings), decided_by=actor, decided_at=now, note=note)
    )
    if state == "approved":
        picture = select(p.picture).where(p.application_id == application_id).scalar_subquery()
        tx.conn.execute(update(t.submissions).where(s.id == application_id).values(photo_result=picture))


# ------------------------------------------------------------------------------------------------------------ reading

_IN_REVIEW = and_(p.state == "review", a.status == "held", a.held_from == "photo", s.photo_original == p.original)
_TOGETHER = t.photos.join(t.applications, a.id == p.application_id).join(t.submissions, s.id == p.application_id)


def waiting(tx: Tx, *, limit: int, after: str | None = None) -> list[Record]:
    """Photos that wait for a person, oldest application first, from the one that follows `after`.

    Columns: application_id, acceptance_no, region, due_at, run_at, findings, background, picture, adjust.
    """
    columns = (
        p.application_id,
        s.acceptance_no,
        a.region,
        a.due_at,
        p.run_at,
        p.findings,
        p.background,
        p.picture,
        p.adjust,
    )
    query = select(*columns).select_from(_TOGETHER).where(_IN_REVIEW).order_by(p.application_id).limit(limit)
    if after is not None:
        query = query.where(p.application_id > after)
    return list(tx.conn.execute(query).all())


def in_review(tx: Tx, application_id: str) -> KeptPhoto | None:
    """The photo, if it waits for a person now. The caller has locked the application."""
    query = select(t.photos).select_from(_TOGETHER).where(_IN_REVIEW, p.application_id == application_id)
    row = tx.conn.execute(query).first()
    return None if row is None else _kept(row)


def of(tx: Tx, application_id: str) -> KeptPhoto | None:
    """What is kept of an application's photo; None before it was run."""
    row = tx.conn.execute(select(t.photos).where(p.application_id == application_id)).first()
    return None if row is None else _kept(row)


def approved(tx: Tx, ids: Sequence[str]) -> Mapping[str, PictureFact]:
    """The pictures that a person approved, by application."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(p.application_id, p.picture, p.original).where(
            p.application_id.in_(select(asked.c.id)), p.state == "approved", p.picture.is_not(None)
        ),
        {"given": params([{"id": i} for i in ids])},
    )
    return {row.application_id: PictureFact(name=row.picture, original=row.original) for row in rows}


def _kept(row: Record) -> KeptPhoto:
    made = Normalised(
        picture=None,
        findings=findings_from_json(row.findings),
        width_px=row.width_px,
        height_px=row.height_px,
        quality=row.quality,
        background=row.background,
        geometry=None if row.geometry is None else _geometry(row.geometry),
        measures=row.measures,
    )
    return KeptPhoto(
        application_id=row.application_id,
        state=row.state,
        original=row.original,
        picture=row.picture,
        profile=row.profile,
        profile_version=row.profile_version,
        made=made,
        adjust=None if row.adjust is None else Adjust(**row.adjust),
        run_at=row.run_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        note=row.note,
    )


def _geometry(raw: Mapping[str, Any]) -> Geometry:
    return Geometry(**{name: _frozen(value) for name, value in raw.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def findings_to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings without their texts, which the catalogue keeps."""
    return [{"code": f.code, "level": f.level, "measured": f.measured, "limit": f.limit} for f in findings]


def findings_from_json(raw: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    return tuple(restored(**item) for item in raw)
