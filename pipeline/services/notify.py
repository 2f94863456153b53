"""Outlets hear of what concerns them by webhook: events of the feed become deliveries, and deliveries are sent until they arrive.

Whoever sends leads (role `notify`). A delivery is leased before it is sent and settled afterwards; a sender that dies in between
leaves a lease that ends, and the event goes out again under the same id, with the same bytes.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import random
from typing import Any

from pipeline.errors import TransientError
from pipeline.events import Event, instant
from pipeline.services.context import Context
from pipeline.store import audit, outbox
from pipeline.store import webhooks as store
from pipeline.store.engine import Tx, reached
from pipeline.store.types import Record
from pipeline.store.webhooks import Claimed
from pipeline.webhook_signing import Signer, SigningKey
from pipeline.webhooks import (
    DISABLE_AFTER,
    GONE,
    Attempt,
    Post,
    WebhookSender,
    next_try,
    retry_after_s,
    slowed_until,
)

log = logging.getLogger("zhika.notifier")
ACTOR = "notify"
IN_FLIGHT = 8
"""Deliveries on their way to one endpoint at a time; one to an endpoint that fails."""

LEASE = timedelta(minutes=2)
"""Much longer than an attempt may take: all that is leased is sent at once."""

KEEP_ATTEMPTS = timedelta(days=90)
_PRUNE = 1000


@dataclass(frozen=True, slots=True)
class FannedOut:
    """How many deliveries were made, and whether some endpoint is still behind the feed."""

    deliveries: int
    more: bool


def fan_out(context: Context, *, each: int = 100) -> FannedOut:
    """Events of the feed become deliveries, at most `each` for an endpoint. Only the leader does it, though twice would do no harm.

    Raises:
        TransientError: the database is away.
    """
    now = context.now()
    with context.store.transaction() as tx:
        last = store.last_position(tx)
        behind = {row.id: row for row in store.enabled(tx) if row.position < last}
        if not behind:
            return FannedOut(0, False)
        seen = store.unseen(tx, list(behind.values()), last=last, each=each)
        wanted = [event for event in seen if wants(behind[event.endpoint].types, event.type)]
        made = store.owe(tx, wanted, now=now)
        counts = Counter(event.endpoint for event in seen)
        newest = {event.endpoint: event.position for event in seen}
        cut = {i for i, n in counts.items() if n == each}
        store.advance(tx, {i: newest[i] if i in cut else last for i in behind})
    return FannedOut(made, bool(cut))


def wants(types: Sequence[str], kind: str) -> bool:
    """Whether an endpoint asked for events of a type; one that named none asked for all."""
    return not types or kind in types


def prune(context: Context) -> bool:
    """Forget some attempts older than 90 days; whether there may be more."""
    with context.store.transaction() as tx:
        return store.prune(tx, before=context.now() - KEEP_ATTEMPTS, limit=_PRUNE) == _PRUNE


@dataclass(frozen=True, slots=True)
class _Keyed:
    """An endpoint as its deliveries need it, in one version of its row."""

    version: int
    url: str
    signer: Signer
    good_until: datetime | None


@dataclass(frozen=True, slots=True)
class _Health:
    """Since when an endpoint fails without a break, and until when nothing is sent to it."""

    failing_since: datetime | None
    not_before: datetime | None

    def after(self, attempt: Attempt, *, now: datetime) -> _Health:
        if attempt.delivered:
            return _Health(None, None)
        slowed = slowed_until(attempt, now=now)
        waits = [until for until in (self.not_before, slowed) if until is not None]
        return _Health(self.failing_since or attempt.at, max(waits, default=None))


class Deliverer:
    """Sends what is due, as long as `step` is called. One thread; `sender` does many at a time.

    No endpoint waits for another: each has its own room, and those that fail have one place each and half of all `connections`
    together. `draw` is chance, 0 to 1, for the jitter of the schedule.
    """

    def __init__(
        self, context: Context, sender: WebhookSender, *, connections: int = 512, draw: Callable[[], float] = random
    ) -> None:
        self._context = context
        self._sender = sender
        self._connections = connections
        self._draw = draw
        self._token = f"notify/{secrets.token_hex(8)}"
        self._under_way: dict[str, Claimed] = {}
        self._unsettled: list[Attempt] = []
        self._keyed: dict[str, _Keyed] = {}
        self._tokens: dict[str, tuple[float, datetime]] = {}
        self._busy: frozenset[str] = frozenset()

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not self._under_way

    def step(self, wait_s: float = 0.0, *, claiming: bool = True) -> Sequence[Attempt]:
        """Settle what has ended, waiting at most so long for the first, and send what is due; returns the attempts settled.

        Raises:
            TransientError: the database is away; what has ended is settled by the next step.
        """
        if self._under_way:
            # An earlier leader of this process may have left some under way; they are not ours to settle.
            self._unsettled += [one for one in self._sender.take(wait_s) if one.delivery_id in self._under_way]
        now = self._context.now()
        with self._context.store.transaction() as tx:
            endpoints = {row.id: row for row in store.enabled(tx)}
            health = self._settle(tx, endpoints, now)
            store.expire(tx, now=now)
            claimed = self._claim(tx, endpoints, health, now) if claiming else []
            self._learn_keys(tx, endpoints, {one.endpoint_id for one in claimed}, now)
        settled, self._unsettled = self._unsettled, []
        for attempt in settled:
            self._under_way.pop(attempt.delivery_id, None)
        self._under_way |= {one.id: one for one in claimed}
        self._busy = frozenset(one.endpoint_id for one in self._under_way.values())
        if claimed:
            self._sender.submit([self._post(one) for one in claimed])
        return settled

    def close(self, *, grace_s: float) -> Sequence[Attempt]:
        """Send nothing more, settle what ends within the time given, and give the rest back."""
        until = time.monotonic() + grace_s
        settled: list[Attempt] = []
        try:
            while self._under_way and (left_s := until - time.monotonic()) > 0:
                settled += self.step(left_s, claiming=False)
        finally:
            with self._context.store.transaction() as tx:
                store.release(tx, self._token, now=self._context.now())
        return settled

    # --------------------------------------------------------------------------------------------------------- settling

    def _settle(self, tx: Tx, endpoints: dict[str, Record], now: datetime) -> dict[str, _Health]:
        """Write what came of the attempts that have ended; endpoints that are given up leave `endpoints`.

        All at once. Where that fails one by one, and one that fails alone without what its receiver said: no answer holds up another's.
        """
        health = {i: _Health(row.failing_since, row.not_before) for i, row in endpoints.items()}
        if not self._unsettled:
            return health
        try:
            return self._write(tx, endpoints, health, self._unsettled, now)
        except TransientError:
            raise
        except Exception as error:
            log.error("deliveries are settled one by one: %s", type(error).__name__, exc_info=True)
        for attempt in self._unsettled:
            try:
                health = self._write(tx, endpoints, health, [attempt], now)
            except TransientError:
                raise
            except Exception as error:
                told = (attempt.delivery_id, type(error).__name__)
                log.error("delivery %s is settled without its answer: %s", *told, exc_info=True)
                unheard = replace(attempt, response_headers={}, response=b"")
                health = self._write(tx, endpoints, health, [unheard], now)
        return health

    def _write(
        self,
        tx: Tx,
        endpoints: dict[str, Record],
        before: Mapping[str, _Health],
        attempts: Sequence[Attempt],
        now: datetime,
    ) -> dict[str, _Health]:
        """Write what came of some attempts, of all or of none of them; returns the endpoints' health after them."""
        health, given_up = dict(before), dict[str, str]()
        rows = []
        for attempt in attempts:
            tries = self._under_way[attempt.delivery_id].tries + 1
            rows.append(self._verdict(attempt, tries, now))
            if attempt.endpoint_id in health:
                after = health[attempt.endpoint_id] = health[attempt.endpoint_id].after(attempt, now=now)
                if why := _given_up(attempt, tries, after):
                    given_up[attempt.endpoint_id] = why
        changed = {i: after for i, after in health.items() if after != before[i]}
        with reached(), tx.savepoint():
            store.tell_health(tx, {i: (after.failing_since, after.not_before) for i, after in changed.items()})
            self._disable(tx, given_up, health, now)
            # Endpoints before deliveries, as whoever removes one locks them.
            store.settle(tx, rows, token=self._token)
            store.log(tx, [_logged(attempt) for attempt in attempts])
        for i in given_up:
            endpoints.pop(i, None)
        return health

    def _verdict(self, attempt: Attempt, tries: int, now: datetime) -> dict[str, Any]:
        row = {"id": attempt.delivery_id, "tries": tries, "next_try_at": None, "settled_at": now}
        if attempt.delivered:
            return row | {"state": "delivered"}
        asked_s = retry_after_s(attempt.response_headers, now=now)
        at = next_try(tries, now=now, draw=self._draw(), retry_after_s=asked_s)
        if at is None:
            return row | {"state": "exhausted"}
        return row | {"state": "waiting", "next_try_at": at, "settled_at": None}

    def _disable(self, tx: Tx, why: Mapping[str, str], health: Mapping[str, _Health], now: datetime) -> None:
        """Endpoints that are given up; their outlets hear of it on their other channels."""
        events = []
        for row in store.disable(tx, why, now=now):
            since = health[row.id].failing_since
            told = {"endpoint_id": row.id, "outlet_id": row.outlet, "reason": row.disabled_why}
            audit.append(tx, actor=ACTOR, action="webhook.disable", target=row.id, now=now, detail=told)
            events.append(endpoint_event("endpoint.disabled", row, failing_since=since, **told))
        outbox.append(tx, events, now=now)

    # --------------------------------------------------------------------------------------------------------- sending

    def _claim(
        self, tx: Tx, endpoints: Mapping[str, Record], health: Mapping[str, _Health], now: datetime
    ) -> list[Claimed]:
        ended = {attempt.delivery_id for attempt in self._unsettled}
        flying = Counter(one.endpoint_id for i, one in self._under_way.items() if i not in ended)
        rooms = self._rooms(endpoints, health, flying, now)
        limit = self._connections - flying.total()
        claimed = store.claim(tx, rooms, limit=limit, token=self._token, now=now, until=now + LEASE)
        for i, n in Counter(one.endpoint_id for one in claimed).items():
            tokens, at = self._tokens[i]
            self._tokens[i] = tokens - n, at
        return claimed

    def _rooms(
        self,
        endpoints: Mapping[str, Record],
        health: Mapping[str, _Health],
        flying: Mapping[str, int],
        now: datetime,
    ) -> dict[str, int]:
        """How many more deliveries each endpoint may have under way."""
        share = max(1, min(IN_FLIGHT, self._connections // max(1, len(self._busy))))
        ill = {i for i in endpoints if health[i].failing_since is not None}
        room_for_ill = self._connections // 2 - sum(flying.get(i, 0) for i in ill)
        rooms = {}
        for i, row in endpoints.items():
            not_before = health[i].not_before
            if not_before is not None and not_before > now:
                continue
            room = min((1 if i in ill else share) - flying.get(i, 0), self._allowance(row, now))
            if i in ill and room > 0:
                room_for_ill -= 1
            if room > 0 and (i not in ill or room_for_ill >= 0):
                rooms[i] = room
        return rooms

    def _allowance(self, row: Record, now: datetime) -> int:
        """How many requests `max_rps` leaves an endpoint now: a bucket that holds those of one second."""
        tokens, at = self._tokens.get(row.id, (float(row.max_rps), now))
        tokens = min(row.max_rps, tokens + (now - at).total_seconds() * row.max_rps)
        self._tokens[row.id] = tokens, now
        return int(tokens)

    def _learn_keys(self, tx: Tx, endpoints: Mapping[str, Record], needed: set[str], now: datetime) -> None:
        """Read anew what has changed of the endpoints that are sent to."""
        self._keyed = {i: keyed for i, keyed in self._keyed.items() if i in endpoints or i in needed}
        stale = {i for i in needed if not self._is_good(i, endpoints[i].version, now)}
        for row in store.in_full(tx, stale) if stale else ():
            signer, good_until = signer_of(store.keys_of(tx, row), now=now)
            self._keyed[row.id] = _Keyed(row.version, row.url, signer, good_until)

    def _is_good(self, endpoint_id: str, version: int, now: datetime) -> bool:
        known = self._keyed.get(endpoint_id)
        return known is not None and known.version == version and (known.good_until is None or known.good_until > now)

    def _post(self, one: Claimed) -> Post:
        keyed = self._keyed[one.endpoint_id]
        return Post(
            delivery_id=one.id,
            endpoint_id=one.endpoint_id,
            url=keyed.url,
            event_id=one.event_id,
            body=one.body,
            signer=keyed.signer,
        )


def signer_of(keys: Sequence[Mapping[str, Any]], *, now: datetime) -> tuple[Signer, datetime | None]:
    """What signs for an endpoint now, and until when that is so: an old key dies a day after it was changed."""
    ends = [datetime.fromisoformat(key["until"]) if key["until"] else None for key in keys]
    live = [SigningKey.parse(key["key"]) for key, end in zip(keys, ends, strict=True) if end is None or end > now]
    return Signer(live), min((end for end in ends if end is not None and end > now), default=None)


def endpoint_event(kind: str, row: Record, **data: Any) -> Event:
    """An event about an endpoint itself."""
    return Event(
        type=kind, subject=row.id, region=row.region, sequence=row.version, outlet=row.outlet, data=_plain(data)
    )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: instant(value) if isinstance(value, datetime) else value for name, value in data.items()}


def _given_up(attempt: Attempt, tries: int, health: _Health) -> str | None:
    """Why an endpoint is disabled after this attempt. A first try after a long silence is not five days of failure."""
    if attempt.status == GONE:
        return "gone"
    since = health.failing_since
    if since is not None and tries > 1 and attempt.at - since >= DISABLE_AFTER:
        return "failing"
    return None


def _logged(attempt: Attempt) -> dict[str, Any]:
    return {
        "delivery_id": attempt.delivery_id,
        "endpoint_id": attempt.endpoint_id,
        "at": attempt.at,
        "result": attempt.result,
        "status_code": attempt.status,
        "problem": attempt.problem,
        "request_headers": dict(attempt.request_headers),
        "response_headers": dict(attempt.response_headers),
        # PostgreSQL's text has no NUL.
        "response": attempt.response.decode("utf-8", "replace").replace("\0", "\ufffd") or None,
        "dns_ms": attempt.dns_ms,
        "connect_ms": attempt.connect_ms,
        "http_ms": attempt.http_ms,
    }
