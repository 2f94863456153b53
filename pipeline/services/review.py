"""Review: a person looks at photos that the photo stage would not judge alone, and decides.

A photo waits for a person while its application is held from the photo stage, the newest run left it `review`, and it was made
from the application's present upload. Each decision locks the application, looks again whether that still holds, and writes
application, photo, history and audit in one transaction: of two people one wins, and the other is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import datetime

from pipeline import transitions
from pipeline.errors import Conflict, Defect, NotFound, Refused, ZhikaError
from pipeline.outcomes import Advance, Correct, Reason
from pipeline.photo import layout
from pipeline.photo.findings import CATALOGUE, Finding, as_reason, confirmed, find, worst_first
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised
from pipeline.ports import PhotoNormaliser
from pipeline.services.context import Context
from pipeline.services.run_stage import Moved, write_down
from pipeline.stages.base import Decision
from pipeline.stages.photo import NEXT, Photo, PhotoJudged
from pipeline.store import applications, audit, erasures, photos
from pipeline.store.applications import Claimed
from pipeline.store.engine import Tx
from pipeline.store.photos import KeptPhoto

PERSONS_CODES = tuple(code for code, entry in CATALOGUE.items() if entry.by == "person")
"""What only a person can find."""

_SCALE = (0.5, 2.0)
_ROLL_DEG = 45.0
"""What may be asked for. How far the head may lean in the picture is a finding of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A photo in the queue. `picture` names the candidate; `doubts` are its warnings; `since` is when it was run."""

    application_id: str
    acceptance_no: str
    region: str
    due_at: datetime
    since: datetime
    doubts: tuple[str, ...]
    background: str
    picture: str
    adjusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A photo before a person's eyes: the upload's bytes, and in `kept.made` the picture's with what was found and measured."""

    acceptance_no: str
    status: str
    original: bytes = field(repr=False)
    kept: KeptPhoto


def queue(context: Context, *, limit: int = 50, after: str | None = None) -> tuple[Waiting, ...]:
    """Photos that wait for a person, oldest application first, from the one that follows `after`."""
    with context.store.transaction() as tx:
        rows = photos.waiting(tx, limit=limit, after=after)
    return tuple(
        Waiting(
            application_id=row.application_id,
            acceptance_no=row.acceptance_no,
            region=row.region,
            due_at=row.due_at,
            since=row.run_at,
            doubts=tuple(finding["code"] for finding in row.findings if finding["level"] == "warn"),
            background=row.background,
            picture=row.picture,
            adjusted=row.adjust is not None,
        )
        for row in rows
    )


def look(context: Context, application_id: str, *, actor: str) -> Seen:
    """Show a person's face to `actor`; the audit log says so.

    Raises:
        NotFound: no such application, its photo was not run yet, or it was erased.
    """
    with context.store.transaction() as tx:
        claimed = _application(tx, application_id)
        kept = photos.of(tx, application_id)
        if kept is None:
            raise NotFound(
                f"申领 {application_id} 的照片尚未处理", f"the photo of {application_id} was not processed yet"
            )
        if not kept.original:
            raise NotFound(f"申领 {application_id} 的照片已删除", f"the photo of {application_id} was erased")
        audit.append(tx, actor=actor, action="photo.look", target=application_id, now=context.now())
    picture = None if kept.picture is None else context.objects.get(kept.picture)
    return Seen(
        acceptance_no=claimed.application.acceptance_no,
        status=claimed.application.status,
        original=context.objects.get(kept.original),
        kept=replace(kept, made=replace(kept.made, picture=picture)),
    )


# ----------------------------------------------------------------------------------------------------------- deciding


def approve(context: Context, application_id: str, *, actor: str, note: str, picture: str | None = None) -> None:
    """The candidate is the picture for the card, and the application goes on.

    `picture` names the candidate that was looked at: another one, made since, is not approved.

    Raises:
        NotFound: no such application.
        Conflict: its photo does not wait for a person, or has another picture by now.
        Refused: no reason.
    """
    note = _given(note)
    with context.store.transaction() as tx:
        claimed, kept = _in_review(tx, application_id, picture)
        _decide(
            context, tx, claimed, kept, Decision(Advance(NEXT)), findings=kept.made.findings, actor=actor, note=note
        )


def refuse(
    context: Context,
    application_id: str,
    codes: Sequence[str],
    *,
    actor: str,
    note: str,
    picture: str | None = None,
) -> tuple[Reason, ...]:
    """The photo goes back to be corrected, for all of `codes` at once; returns the reasons as the applicant reads them.

    A code is what only a person can find (`PERSONS_CODES`), or what this photo was found with.

    Raises:
        NotFound: no such application.
        Conflict: its photo does not wait for a person, or has another picture by now.
        Refused: no reason, no code, or one that is neither.
    """
    note = _given(note)
    with context.store.transaction() as tx:
        claimed, kept = _in_review(tx, application_id, picture)
        against = _against(kept, codes)
        reasons = tuple(as_reason(finding) for finding in against)
        others = [finding for finding in kept.made.findings if finding.code not in codes]
        found = worst_first([*against, *others])
        _decide(context, tx, claimed, kept, Decision(Correct(reasons)), findings=found, actor=actor, note=note)
    return reasons


def _decide(
    context: Context,
    tx: Tx,
    claimed: Claimed,
    kept: KeptPhoto,
    decision: Decision,
    *,
    findings: Sequence[Finding],
    actor: str,
    note: str,
) -> None:
    application, now = claimed.application, context.now()
    approved = isinstance(decision.outcome, Advance)
    photos.decide(
        tx,
        application.id,
        state="approved" if approved else "rejected",
        findings=findings,
        actor=actor,
        note=note,
        now=now,
    )
    move = transitions.move(application.status, Photo.name, decision.outcome, now=now)
    applications.force(tx, {application.id: move}, now=now)
    moved = Moved(application=application, decision=decision, move=move)
    write_down(tx, [moved], stage=Photo.name, now=now, actor=actor)
    detail = {
        "reason": note,
        "picture": kept.picture,
        "findings": [finding.code for finding in findings],
        "codes": [reason.code for reason in move.reasons],
        "adjust": None if kept.adjust is None else asdict(kept.adjust),
    }
    action = "photo.approve" if approved else "photo.refuse"
    audit.append(tx, actor=actor, action=action, target=application.id, now=now, detail=detail)


def _against(kept: KeptPhoto, codes: Sequence[str]) -> tuple[Finding, ...]:
    found = {finding.code: finding for finding in kept.made.findings}
    allowed = (*PERSONS_CODES, *found)
    if unknown := [code for code in codes if code not in allowed]:
        raise Refused(
            f"不能以 {'、'.join(unknown)} 退回，可用：{'、'.join(allowed)}",
            f"the photo cannot be sent back for {', '.join(unknown)}; there are {', '.join(allowed)}",
            code="photo.code",
        )
    if not codes:
        raise Refused("须写明退回的代码", "give the codes the photo is sent back for", code="required")
    chosen = dict.fromkeys(codes)
    return tuple(confirmed(found[code]) if code in found else find(code, by="person") for code in chosen)


# ----------------------------------------------------------------------------------------------------------- cropping


def recrop(
    context: Context,
    normaliser: PhotoNormaliser,
    application_id: str,
    adjust: Adjust,
    *,
    actor: str,
    profiles: Mapping[str, PhotoProfile],
    picture: str | None = None,
) -> KeptPhoto:
    """Move the automatic frame by `adjust`, and make the outcome the candidate; it still waits for a person.

    Raises:
        NotFound: no such application, or its upload was erased.
        Conflict: the photo does not wait for a person, somebody else has changed it meanwhile, or the picture would be refused or
            lie outside the profile's limits; the message gives what was measured.
        Refused: the frame cannot be moved so far.
        ZhikaError: the normaliser or the object store serves nobody at present.
    """
    with context.store.transaction() as tx:
        claimed, before = _in_review(tx, application_id, picture)
    application = claimed.application
    wanted = context.policies.of(application.region, application.policy_version).photo
    profile = profiles.get(wanted.profile.value)
    if profile is None:
        raise Defect(f"no photo profile {wanted.profile.value!r}: there are {', '.join(profiles)}")
    _check_adjust(adjust, profile)
    made = normaliser.normalise(
        {application_id: context.objects.get(before.original)},
        profile=profile.name,
        replace_background=wanted.replace_background.value,
        adjust=adjust,
    )[application_id]
    if isinstance(made, ZhikaError):
        raise made
    name = context.objects.put(_good(made, profile))
    with context.store.transaction() as tx:
        erasures.retire_unnamed(tx, application_id, name, now=context.now())
    candidate = PhotoJudged(
        application_id=application_id,
        state="review",
        original=before.original,
        object_name=name,
        profile=profile.name,
        profile_version=profile.version,
        normalised=made,
        adjust=adjust,
    )
    now = context.now()
    with context.store.transaction() as tx:
        _in_review(tx, application_id, before.picture)
        photos.write(tx, [candidate], now=now)
        detail = {
            "adjust": asdict(adjust),
            "picture": candidate.object_name,
            "before": before.picture,
            "findings": [finding.code for finding in made.findings],
        }
        audit.append(tx, actor=actor, action="photo.recrop", target=application_id, now=now, detail=detail)
        _, after = _in_review(tx, application_id, candidate.object_name)
    return after


def _check_adjust(adjust: Adjust, profile: PhotoProfile) -> None:
    low, high = _SCALE
    width, height = profile.output.width_px, profile.output.height_px
    within = (
        all(map(math.isfinite, astuple(adjust)))
        and abs(adjust.right_px) <= width
        and abs(adjust.down_px) <= height
        and low <= adjust.scale <= high
        and abs(adjust.roll_deg) <= _ROLL_DEG
    )
    if not within:
        raise Refused(
            f"取景移动超出范围：左右 {width}、上下 {height} 像素以内，缩放 {low:g} 至 {high:g}，旋转 {_ROLL_DEG:g} 度以内",
            f"the frame moves by at most {width} px sideways and {height} px up or down, is scaled by {low:g} to {high:g},"
            f" and turned by at most {_ROLL_DEG:g}°",
            code="photo.adjust",
        )


def _good(made: Normalised, profile: PhotoProfile) -> bytes:
    """The picture's bytes, if nothing rejects it and its lengths are within the profile's limits."""
    if made.rejections:
        raise Conflict(
            f"调整后的照片不合格：{''.join(finding.zh for finding in made.rejections)}",
            f"the photo would be refused: {' '.join(finding.en for finding in made.rejections)}",
            code="photo.recrop",
        )
    if made.picture is None:
        raise Defect("a photo that nothing rejects has no picture")
    if broken := layout.outside(made.measures, profile):
        measured = {name: f"{made.measures[name]:.0f} ({low:g}–{high:g})" for name, (low, high) in broken.items()}
        raise Conflict(
            f"调整后的照片超出规定（像素）：{'，'.join(f'{layout.NAMES[name]} {told}' for name, told in measured.items())}",
            f"the photo would lie outside its limits (px): {', '.join(f'{name} {told}' for name, told in measured.items())}",
            code="photo.recrop",
        )
    return made.picture


# ------------------------------------------------------------------------------------------------------------- shared


def _given(note: str) -> str:
    if not note.strip():
        raise Refused("须写明原因", "give the reason", code="required")
    return note.strip()


def _application(tx: Tx, application_id: str, *, lock: bool = False) -> Claimed:
    claimed = applications.load(tx, [application_id], lock=lock).get(application_id)
    if claimed is None:
        raise NotFound(f"没有申领 {application_id}", f"no such application: {application_id}")
    return claimed


def _in_review(tx: Tx, application_id: str, picture: str | None) -> tuple[Claimed, KeptPhoto]:
    """The application, locked until commit, and its photo, which waits for a person and has this picture, if one is named."""
    claimed = _application(tx, application_id, lock=True)
    kept = photos.in_review(tx, application_id)
    if kept is None:
        status = claimed.application.status
        raise Conflict(
            f"申领 {application_id} 的照片不在待核对之列（现为 {status}），可能已有人处理",
            f"the photo of {application_id} does not wait for review (it is {status}): somebody may have decided already",
        )
    if picture is not None and kept.picture != picture:
        raise Conflict(
            f"申领 {application_id} 的照片已被他人调整，请重新查看",
            f"the picture of {application_id} was changed meanwhile: look at it again",
            code="changed",
        )
    return claimed, kept
