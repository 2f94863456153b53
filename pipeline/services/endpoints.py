"""Webhook endpoints (webhook 接收端): outlets' people set them up, change their keys, try them, and get back what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipeline.errors import Conflict, NotFound, Refused
from pipeline.events import TYPES
from pipeline.identifiers import OUTLET_ID, new_id
from pipeline.services.context import Context
from pipeline.services.notify import endpoint_event, signer_of, wants
from pipeline.store import audit
from pipeline.store import webhooks as store
from pipeline.store.engine import Tx
from pipeline.store.types import Record, instant_text
from pipeline.webhook_signing import Kind, SigningKey
from pipeline.webhooks import Attempt, Post, WebhookSender

OLD_KEY_LIVES = timedelta(hours=24)
MAX_PER_OUTLET = 10
DEFAULT_RPS = 10
MAX_RPS = 1000
_RECOVER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """An endpoint and what its receiver verifies with: `whpk_…`, or `whsec_…`, which is shown this once."""

    id: str
    signature: Kind
    key: str = field(repr=False)
    old_key_until: datetime | None = None


def create(
    context: Context,
    sender: WebhookSender,
    *,
    outlet: str,
    region: str,
    url: str,
    actor: str,
    types: Sequence[str] = (),
    signature: Kind = "ed25519",
    max_rps: int = DEFAULT_RPS,
    description: str = "",
) -> Keyed:
    """A new endpoint of an outlet, which is told of every event from now on; of those `types` only, if any are named.

    Raises:
        Refused: the URL is not allowed (`url-not-allowed`), or another value cannot be used.
        NotFound: no such region.
        Conflict: the outlet has ten already.
    """
    if not OUTLET_ID.fullmatch(outlet):
        raise Refused("网点代码须为 out_ 开头", "an outlet's id begins with out_", code="format")
    if unknown := sorted(set(types) - TYPES):
        known = ", ".join(sorted(TYPES))
        raise Refused(
            f"没有事件类型 {unknown[0]}，应为 {known}",
            f"no such type of event: {unknown[0]}; there are {known}",
            code="format",
        )
    if not 1 <= max_rps <= MAX_RPS:
        raise Refused(f"每秒上限须为 1 至 {MAX_RPS}", f"max_rps is 1 to {MAX_RPS}", code="format")
    policy = context.policies.of(region)
    sender.check(url)
    now = context.now()
    with context.store.transaction() as tx:
        if len(store.endpoints(tx, outlet=outlet)) >= MAX_PER_OUTLET:
            raise Conflict(
                f"该网点已有 {MAX_PER_OUTLET} 个接收端，请先删除不用的",
                f"this outlet has {MAX_PER_OUTLET} endpoints: delete one that is not used",
            )
        key = SigningKey.new(signature, random=tx.random)
        endpoint_id = store.add(
            tx,
            keys=[{"key": key.text, "until": None}],
            now=now,
            outlet=outlet,
            region=policy.code,
            url=url,
            types=sorted(set(types)),
            signature=signature,
            max_rps=max_rps,
            description=description,
            created_by=actor,
        )
        told = {"outlet": outlet, "signature": signature}
        audit.append(tx, actor=actor, action="webhook.create", target=endpoint_id, now=now, detail=told)
    return Keyed(id=endpoint_id, signature=signature, key=key.receiver_text)


def rotate(context: Context, endpoint_id: str, *, actor: str) -> Keyed:
    """A new key; for 24 hours deliveries are signed with both. A third one, from a change before, dies at once.

    Raises:
        NotFound: no such endpoint.
    """
    now = context.now()
    until = now + OLD_KEY_LIVES
    with context.store.transaction() as tx:
        row = _of(tx, endpoint_id)
        key = SigningKey.new(row.signature, random=tx.random)
        old = store.keys_of(tx, row)[0]
        store.set_keys(
            tx, endpoint_id, [{"key": key.text, "until": None}, {"key": old["key"], "until": instant_text(until)}]
        )
        audit.append(tx, actor=actor, action="webhook.rotate", target=endpoint_id, now=now)
    return Keyed(id=endpoint_id, signature=row.signature, key=key.receiver_text, old_key_until=until)


def disable(context: Context, endpoint_id: str, *, reason: str, actor: str) -> None:
    """Send nothing more until it is enabled; what comes meanwhile is kept for it.

    Raises:
        NotFound: no such endpoint.
        Refused: no reason.
    """
    if not reason.strip():
        raise Refused("须写明原因", "give the reason", code="required")
    now = context.now()
    with context.store.transaction() as tx:
        _of(tx, endpoint_id)
        if store.disable(tx, {endpoint_id: reason.strip()}, now=now):
            detail = {"reason": reason.strip()}
            audit.append(tx, actor=actor, action="webhook.disable", target=endpoint_id, now=now, detail=detail)


def enable(context: Context, endpoint_id: str, *, actor: str) -> None:
    """Send again, at once: what waited, and every event since it was disabled. What was exhausted comes by `recover`.

    Raises:
        NotFound: no such endpoint.
    """
    now = context.now()
    with context.store.transaction() as tx:
        _of(tx, endpoint_id)
        store.change(
            tx,
            endpoint_id,
            state="enabled",
            disabled_at=None,
            disabled_why=None,
            failing_since=None,
            not_before=None,
        )
        store.hasten(tx, endpoint_id, now=now)
        audit.append(tx, actor=actor, action="webhook.enable", target=endpoint_id, now=now)


def remove(context: Context, endpoint_id: str, *, actor: str) -> None:
    """The endpoint is no more: nothing is owed to it, its log is kept for its 90 days.

    Raises:
        NotFound: no such endpoint.
    """
    now = context.now()
    with context.store.transaction() as tx:
        _of(tx, endpoint_id)
        store.change(tx, endpoint_id, state="deleted")
        store.give_up(tx, endpoint_id, now=now)
        audit.append(tx, actor=actor, action="webhook.delete", target=endpoint_id, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a trial: `resolution`, `connection` (with TLS, over https) or `answer`; `ok` None where it was not reached."""

    step: str
    ok: bool | None
    detail: str
    ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a test event fared."""

    event_id: str
    delivered: bool
    steps: tuple[Step, ...]


def test(context: Context, sender: WebhookSender, endpoint_id: str, *, actor: str) -> Trial:
    """Send `endpoint.test` now, to a disabled endpoint too; it is in no feed, and no other endpoint hears of it.

    Raises:
        NotFound: no such endpoint.
    """
    now = context.now()
    with context.store.transaction() as tx:
        row = _of(tx, endpoint_id)
        signer, _ = signer_of(store.keys_of(tx, row), now=now)
        event_id = new_id("evt_", now=now, random=tx.random)
    event = endpoint_event("endpoint.test", row, endpoint_id=row.id, outlet_id=row.outlet)
    attempt = sender.send(
        Post(
            delivery_id="",
            endpoint_id=row.id,
            url=row.url,
            event_id=event_id,
            body=event.body(event_id, now),
            signer=signer,
        )
    )
    with context.store.transaction() as tx:
        detail = {"event": event_id, "result": attempt.result, "status": attempt.status}
        audit.append(tx, actor=actor, action="webhook.test", target=endpoint_id, now=now, detail=detail)
    return Trial(event_id=event_id, delivered=attempt.delivered, steps=_steps(attempt))


def _steps(attempt: Attempt) -> tuple[Step, ...]:
    """An attempt told step by step; the first that did not end well has the problem."""
    reached = (
        ("resolution", attempt.address, attempt.dns_ms),
        ("connection", attempt.connect_ms is not None and (attempt.trusted or "http"), attempt.connect_ms),
        ("answer", attempt.status is not None and f"HTTP {attempt.status}", attempt.http_ms),
    )
    steps: list[Step] = []
    for name, detail, ms in reached:
        broken = bool(steps) and not steps[-1].ok
        well = bool(detail) and (name != "answer" or attempt.delivered)
        told = "" if broken else str(detail) if detail else attempt.problem or ""
        steps.append(Step(step=name, ok=None if broken else well, detail=told, ms=ms))
    return tuple(steps)


def resend(context: Context, delivery_id: str, *, actor: str) -> None:
    """Send a delivery once more, whatever became of it: the same id and the same bytes.

    Raises:
        NotFound: no such delivery.
        Conflict: its endpoint is not enabled.
    """
    now = context.now()
    with context.store.transaction() as tx:
        row = store.delivery(tx, delivery_id)
        if row is None:
            raise NotFound(f"没有投递 {delivery_id}", f"no such delivery: {delivery_id}")
        _enabled(_of(tx, row.endpoint_id))
        store.again(tx, delivery_id, now=now)
        audit.append(tx, actor=actor, action="webhook.resend", target=delivery_id, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """How many deliveries that had failed go out again, and how many are new."""

    requeued: int
    created: int


def recover(context: Context, endpoint_id: str, *, since: datetime, until: datetime, actor: str) -> Recovered:
    """All of that time that has not arrived goes out again: what failed, and events that never became a delivery.

    Raises:
        NotFound: no such endpoint.
        Refused: the time is empty.
        Conflict: the endpoint is not enabled.
    """
    if since >= until:
        raise Refused("起始时间须早于结束时间", "the time must begin before it ends", code="format")
    now = context.now()
    with context.store.transaction() as tx:
        row = _enabled(_of(tx, endpoint_id))
        requeued = store.requeue_failed(tx, endpoint_id, since=since, until=until, now=now)
        detail: dict[str, Any] = {"since": instant_text(since), "until": instant_text(until), "requeued": requeued}
        audit.append(tx, actor=actor, action="webhook.recover", target=endpoint_id, now=now, detail=detail)
    created, after = 0, 0
    while True:
        with context.store.transaction() as tx:
            found = store.missing(tx, row, since=since, until=until, after=after, limit=_RECOVER)
            created += store.owe(tx, [event for event in found if wants(row.types, event.type)], now=now)
        if len(found) < _RECOVER:
            return Recovered(requeued=requeued, created=created)
        after = found[-1].position


def _of(tx: Tx, endpoint_id: str) -> Record:
    row = store.endpoint(tx, endpoint_id)
    if row is None or row.state == "deleted":
        raise NotFound(f"没有接收端 {endpoint_id}", f"no such endpoint: {endpoint_id}")
    return row


def _enabled(row: Record) -> Record:
    if row.state != "enabled":
        raise Conflict(f"接收端 {row.id} 已停用，请先启用", f"endpoint {row.id} is disabled: enable it first")
    return row
