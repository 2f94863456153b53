"""Accept: submissions become applications. Whatever the face, a submission is one application, once.

The natural key (source, external reference) holds for ever: the same content is the same application, other content is a
conflict. One live application per person and card type: the database has the last word.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from operator import itemgetter
from typing import Any

from pipeline import deadlines
from pipeline.application import Submission
from pipeline.clock import civil_date
from pipeline.errors import NotFound
from pipeline.identifiers import new_id
from pipeline.policy import Policy
from pipeline.services.context import Context
from pipeline.store import applications, fees, stock
from pipeline.store.engine import Tx

CARD_TYPE = "ssc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A new application."""

    id: str
    acceptance_no: str
    due_at: datetime
    provisional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The same submission again: the application that exists."""

    id: str
    acceptance_no: str
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """Not taken in; `code` as every face names it. `id`: the application it collides with."""

    code: str
    zh: str
    en: str
    pointer: str
    id: str | None = None

    @property
    def duplicate(self) -> bool:
        return self.code == "duplicate-active-application"


Answer = Accepted | Replayed | Declined


def accept(context: Context, submissions: Sequence[Submission], *, actor: str) -> list[Answer]:
    """Take in submissions, in one transaction; one answer each, in order."""
    photos = keep_photos(context, submissions)
    with context.store.transaction() as tx:
        return take_in(context, tx, submissions, photos=photos, actor=actor)


def keep_photos(context: Context, submissions: Sequence[Submission]) -> list[str]:
    """Keep the uploads before the transaction that will name them; a picture without an application is swept later."""
    return [context.objects.put(submission.photo) if submission.photo else "" for submission in submissions]


def take_in(
    context: Context,
    tx: Tx,
    submissions: Sequence[Submission],
    *,
    photos: Sequence[str],
    actor: str,
    batch: tuple[str, Sequence[int]] | None = None,
) -> list[Answer]:
    """Take in submissions within the caller's transaction. `batch` is its id and the row number of each submission."""
    now = context.now()
    answers: list[Answer | None] = [None] * len(submissions)
    policies: dict[int, Policy] = {}
    for n, submission in enumerate(submissions):
        try:
            policies[n] = context.policies.of(submission.region)
        except NotFound as error:
            answers[n] = Declined(code=error.reason_code, zh=error.zh, en=error.en, pointer="#/region")
    digests = {n: tx.sealer.digest(_canonical(submissions[n], photos[n])) for n in policies}
    known = applications.same_refs(tx, [(submissions[n].source, submissions[n].external_ref) for n in policies])
    first: dict[tuple[str, str], int] = {}
    again: dict[int, int] = {}
    for n in policies:
        ref = (submissions[n].source, submissions[n].external_ref)
        if ref in known:
            answers[n] = _again(known[ref], digests[n])
        elif ref not in first:
            first[ref] = n
        elif digests[n] == digests[first[ref]]:
            again[n] = first[ref]
        else:
            answers[n] = _conflict(None)
    wanted = sorted(first.values())
    people = applications.know_persons(tx, [submissions[n].person for n in wanted], now=now) if wanted else {}
    numbers = _acceptance_numbers(tx, {n: submissions[n] for n in wanted}, civil_date(now))
    rows: dict[int, dict[str, Any]] = {}
    provisional: dict[int, bool] = {}
    for n in wanted:
        submission, policy = submissions[n], policies[n]
        person = submission.person
        person_id = people[tx.sealer.blind_index(person.id_type, person.id_number)]
        due = deadlines.due_at(
            policy, kind=submission.kind, priority=submission.priority, received_at=now, calendar=context.calendar
        )
        provisional[n] = due.provisional
        rows[n] = {
            **_row(tx, submission, policy, now),
            "content_digest": digests[n],
            "person_id": person_id,
            "photo_original": photos[n],
            "acceptance_no": numbers[n],
            "due_at": due.at,
            "batch_id": batch[0] if batch else None,
            "batch_row": batch[1][n] if batch else None,
        }
    in_order = sorted(
        rows.values(), key=itemgetter("person_id")
    )  # two callers with the same people never wait crosswise
    taken = applications.insert_received(tx, in_order, now=now, actor=actor)
    entered = [n for n in wanted if rows[n]["id"] in taken]
    applications.redeclare_persons(tx, {rows[n]["person_id"]: submissions[n].person for n in entered})
    _fees(tx, {rows[n]["id"]: (policies[n], submissions[n]) for n in entered}, now=now)
    refused = [rows[n]["person_id"] for n in wanted if rows[n]["id"] not in taken]
    live = applications.live_of(tx, refused, card_type=CARD_TYPE) if refused else {}
    for n in wanted:
        row = rows[n]
        if row["id"] in taken:
            answers[n] = Accepted(
                id=row["id"], acceptance_no=row["acceptance_no"], due_at=row["due_at"], provisional=provisional[n]
            )
        else:
            answers[n] = Declined(
                code="duplicate-active-application",
                zh="该人员已有办理中的申领，不能重复申领；如需更改请补正原申领",
                en="This person has a live application already; correct that one instead",
                pointer="#/person/id_number",
                id=live.get(row["person_id"]),
            )
    for n, original in again.items():
        told = answers[original]
        answers[n] = (
            Replayed(id=told.id, acceptance_no=told.acceptance_no, due_at=told.due_at)
            if isinstance(told, Accepted)
            else told
        )
    if taken:
        tx.nudge()
    return [answer for answer in answers if answer is not None]


def _row(tx: Tx, submission: Submission, policy: Policy, now: datetime) -> dict[str, Any]:
    application_id = new_id("app_", now=now, random=tx.random)
    sealed = {
        "guardian": asdict(submission.guardian) if submission.guardian else None,
        "proxy": asdict(submission.proxy) if submission.proxy else None,
        "documents": [asdict(document) for document in submission.documents],
    }
    return {
        "id": application_id,
        "version": 1,
        "source": submission.source,
        "external_ref": submission.external_ref,
        "card_type": CARD_TYPE,
        "region": submission.region,
        "policy_version": policy.version,
        "kind": submission.kind,
        "priority": submission.priority,
        "lane": "urgent" if submission.priority == "urgent" else submission.lane,
        "category": submission.category,
        "district": submission.district,
        "unit_code": submission.unit_code,
        "agency": submission.agency,
        "window": submission.window,
        "outlet": submission.outlet,
        "bank_code": submission.bank_code,
        "collector": submission.collect_by,
        "confirmed": submission.confirmed,
        "sealed": tx.sealer.seal(sealed, bound_to=f"applications/{application_id}"),
        "status": "received",
        "stage": "validation",
        "reasons": [],
        "received_at": now,
        "updated_at": now,
        "work": "ready",
        "lease_size": 0,
        "solo": False,
        "attempts": 0,
        "crashes": 0,
    }


def _acceptance_numbers(tx: Tx, submissions: Mapping[int, Submission], day: date) -> dict[int, str]:
    """`SL-<district>-<date>-<number>`, counted by district and day."""
    groups: dict[str, list[int]] = defaultdict(list)
    for n, submission in submissions.items():
        groups[submission.district or submission.region].append(n)
    numbers: dict[int, str] = {}
    for district, members in sorted(groups.items()):
        stem = f"{district}-{day:%Y%m%d}"
        for n, number in zip(members, stock.next_numbers(tx, f"acceptance/{stem}", len(members)), strict=True):
            numbers[n] = f"SL-{stem}-{number:05d}"
    return numbers


def _fees(tx: Tx, taken: Mapping[str, tuple[Policy, Submission]], *, now: datetime) -> None:
    due = []
    for application_id, (policy, submission) in taken.items():
        fee = policy.fee(submission.kind)
        if fee.value > 0:
            due.append(
                fees.Due(
                    application_id=application_id,
                    kind=submission.kind,
                    amount_fen=fee.value,
                    rule=fee.rule or "default",
                )
            )
    fees.charge(tx, due, now=now)


def _again(row: Any, digest: bytes) -> Answer:
    if bytes(row.content_digest) == digest:
        return Replayed(id=row.id, acceptance_no=row.acceptance_no, due_at=row.due_at)
    return _conflict(row.id)


def _conflict(application_id: str | None) -> Declined:
    return Declined(
        code="external-ref-conflict",
        zh="外部编号已被另一份内容不同的申领使用，请更换编号或提交补正",
        en="This external reference belongs to another application with other content; use a new one, or send a correction",
        pointer="#/external_ref",
        id=application_id,
    )


def _canonical(submission: Submission, photo: str) -> bytes:
    """The submission's content as bytes that are the same for the same content."""
    content = asdict(submission)
    content["photo"] = photo or hashlib.sha256(submission.photo).hexdigest()
    return json.dumps(content, default=str, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
