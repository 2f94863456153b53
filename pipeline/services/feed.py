"""The pull feed: an outlet reads its events in order, from where it stopped, and may wait for the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.errors import Refused
from pipeline.ports import OutgoingEvent
from pipeline.services.context import Context
from pipeline.store import outbox
from pipeline.store.engine import Tx

KEPT = timedelta(days=30)
"""How long a cursor lives: what comes next for its reader is at most this old."""
WAIT_S = 30.0
"""The longest a reader waits for an event."""
LOOK_S = 0.5
"""Places in the feed are given without a word to the readers: a waiting one looks this often."""
_CHECK_BYTES = 4
_POSITION_BYTES = 8
_LAST = 2**63 - 1
"""The last place a database can count to."""


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the feed, and the cursor to go on from."""

    events: tuple[OutgoingEvent, ...]
    cursor: str


def cursor_of(position: int) -> str:
    """The cursor of a place in the feed. Whoever reads hands it back as it is; a mistyped one shows."""
    place = position.to_bytes(_POSITION_BYTES, "big")
    return base64.urlsafe_b64encode(place + _check(place)).decode()


def position_of(cursor: str) -> int:
    """The place that a cursor stands for.

    Raises:
        Refused: it is not one of ours (`bad-cursor`).
    """
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    place, check = raw[:_POSITION_BYTES], raw[_POSITION_BYTES:]
    if len(raw) != _POSITION_BYTES + _CHECK_BYTES or check != _check(place):
        raise _bad_cursor()
    return _countable(int.from_bytes(place, "big"))


def _countable(position: int) -> int:
    if not 0 <= position <= _LAST:
        raise _bad_cursor()
    return position


def _bad_cursor() -> Refused:
    return Refused(
        "游标无效：请原样使用上一次返回的游标，或不带游标从头读取",
        "this is no cursor of the feed: give back the last one as it was, or none to read from the beginning",
        code="bad-cursor",
    )


def _check(place: bytes) -> bytes:
    return hashlib.sha256(b"zhika/cursor/" + place).digest()[:_CHECK_BYTES]


def read(
    context: Context,
    *,
    outlet: str | None,
    after: str | int | None = None,
    types: Sequence[str] = (),
    limit: int = 100,
    wait_s: float = 0.0,
) -> Page:
    """Events after a cursor, in order: of one outlet or of all, of some types or of all.

    `after` None: from the oldest event that is kept for readers; an operator may give a position instead, which has no age. Without an
    event it waits for one, `wait_s` at most and never more than 30 s.

    Raises:
        Refused: no cursor of ours (`bad-cursor`), or it missed events that are too old by now (`cursor-too-old`); the message tells the
            oldest cursor there is.
    """
    until = time.monotonic() + min(wait_s, WAIT_S)
    with context.store.transaction() as tx:
        position = (
            _countable(after) if isinstance(after, int) else _start(context, tx, after, outlet=outlet, types=types)
        )
        found = outbox.feed(tx, after=position, limit=limit, outlet=outlet, types=types)
    if not found.events and wait_s > 0:
        with context.store.listening() as heard:
            while not found.events and (left := until - time.monotonic()) > 0:
                heard(min(left, LOOK_S))
                with context.store.transaction() as tx:
                    found = outbox.feed(tx, after=position, limit=limit, outlet=outlet, types=types)
    return Page(found.events, cursor_of(found.cursor))


def _start(context: Context, tx: Tx, cursor: str | None, *, outlet: str | None, types: Sequence[str]) -> int:
    """Where a reader begins."""
    after = None if cursor is None else position_of(cursor)
    oldest = outbox.last_before(tx, context.now() - KEPT)
    if after is None:
        return oldest
    if after < oldest:
        missed = outbox.feed(tx, after=after, limit=1, outlet=outlet, types=types)
        if missed.events and missed.cursor <= oldest:
            raise Refused(
                f"游标已过期（超过 {KEPT.days} 天），其后有事件未读取；请核对在途业务，再从最早的游标继续：{cursor_of(oldest)}",
                f"the cursor is more than {KEPT.days} days old and events after it were not read: check what is open, "
                f"then go on from the oldest cursor {cursor_of(oldest)}",
                code="cursor-too-old",
            )
    return after
