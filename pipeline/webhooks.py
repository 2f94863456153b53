"""Webhooks as values: what is sent, what came of it, when it is tried again, and when an endpoint is given up.

Pure. Whoever sends is behind `WebhookSender`; an attempt never raises, since every end of it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol

from pipeline.webhook_signing import Signer

SCHEDULE_S = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before the 1st, 2nd, … attempt, counted from the one before; after the last one a delivery is exhausted."""

JITTER = 0.2
DISABLE_AFTER = timedelta(days=5)
"""An endpoint that answers nothing with 2xx for so long is disabled."""

SLOWING = frozenset({429, 502, 504})
"""Answers that ask for less, whether they say for how long or not."""

SLOW_DOWN_S = 30
GONE = 410
MAX_RETRY_AFTER_S = SCHEDULE_S[-1]
RESPONSE_BYTES = 2048

Result = Literal["delivered", "answered", "timeout", "unreachable", "untrusted", "not_allowed"]
"""How an attempt ended: a 2xx; any other status; no answer in time; no connection, or one that broke; a certificate that does not
hold; an address that the deployment does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One delivery on its way: the event's bytes as they are stored, whatever number of times they are sent."""

    delivery_id: str
    endpoint_id: str
    url: str
    event_id: str
    body: bytes = field(repr=False)
    signer: Signer = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of sending a `Post`. `response` is at most 2 KB of the body; times are milliseconds, None for what was not reached.

    `problem` names what went wrong without any text of the other side's. `trusted`: TLS version of the connection, if it has one.
    """

    delivery_id: str
    endpoint_id: str
    at: datetime
    result: Result
    status: int | None = None
    problem: str | None = None
    address: str | None = None
    trusted: str | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)
    response: bytes = field(default=b"", repr=False)
    dns_ms: int | None = None
    connect_ms: int | None = None
    http_ms: int | None = None

    @property
    def delivered(self) -> bool:
        return self.result == "delivered"


class WebhookSender(Protocol):
    """Sends many at once. `submit` returns at once; `take` waits, at most so long, until something has ended and gives all that has.

    What was submitted and never taken may or may not have arrived: it is sent again, with the same id and bytes.
    """

    def check(self, url: str) -> None:
        """Raises: `Refused` (`url-not-allowed`) for an address that no attempt would be allowed to reach."""

    def submit(self, posts: Sequence[Post]) -> None: ...

    def take(self, timeout_s: float) -> Sequence[Attempt]: ...

    def send(self, post: Post) -> Attempt:
        """Send one, and wait for its end."""

    def close(self) -> None:
        """Break off what is under way."""


def next_try(tries: int, *, now: datetime, draw: float, retry_after_s: float = 0) -> datetime | None:
    """When a delivery that failed `tries` times is tried again; None when it is exhausted. `draw` is chance, 0 to 1."""
    if tries >= len(SCHEDULE_S):
        return None
    delay_s = SCHEDULE_S[tries] * (1 - JITTER + 2 * JITTER * draw)
    return now + timedelta(seconds=max(delay_s, retry_after_s))


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float:
    """Seconds that `Retry-After` asks for (RFC 9110 10.2.3), at most a day; 0 where it asks for nothing that can be read."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        return min(float(told[:9]), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(told)
        # An HTTP date is in GMT; one that says "-0000" is read as naive.
        wait_s = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, LookupError, OverflowError):  # what the parser says to a date that is none
        return 0
    return min(max(wait_s, 0), MAX_RETRY_AFTER_S)


def slowed_until(attempt: Attempt, *, now: datetime) -> datetime | None:
    """Until when nothing more is sent to the endpoint, if its answer asks for that."""
    if attempt.delivered:
        return None
    asked_s = retry_after_s(attempt.response_headers, now=now)
    if attempt.status in SLOWING:
        asked_s = max(asked_s, SLOW_DOWN_S)
    return now + timedelta(seconds=asked_s) if asked_s else None
