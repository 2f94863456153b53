"""Outlets' queues: a person switches them on, and the feed's events go into them in order, until one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.errors import NotFound, Refused
from pipeline.identifiers import OUTLET_ID
from pipeline.ports import Notifier, Publishing
from pipeline.services.context import Context
from pipeline.services.feed import cursor_of, position_of
from pipeline.store import audit, outlet_queues
from pipeline.store.outlet_queues import Due, Progress

BATCH = 100
"""Events of one queue that are given to the broker at once."""
QUEUES = 20
"""Queues that are served at once."""
BACK_OFF_S = (5, 30, 60, 300)
"""Seconds before a queue that refused is tried again; the last value repeats."""
PROBLEMS: Mapping[Publishing, str] = {"full": "queue-full", "no_queue": "no-queue"}


def enable(context: Context, outlet: str, *, actor: str, after: str | None = None) -> str:
    """Switch an outlet's queue on. It goes on from the cursor `after`, else from where it stood, else with the next event.

    Returns the cursor it goes on from.

    Raises:
        Refused: not an outlet's id, or no cursor.
    """
    outlet = named(outlet)
    position = None if after is None else position_of(after)
    now = context.now()
    with context.store.transaction() as tx:
        begins = outlet_queues.enable(tx, outlet, after=position, actor=actor, now=now)
        detail = {"position": begins}
        audit.append(tx, actor=actor, action="outlet.queue_enable", target=outlet, now=now, detail=detail)
        tx.nudge()
    return cursor_of(begins)


def named(outlet: str) -> str:
    """An outlet's id, which is a word of routing keys and user names.

    Raises:
        Refused: it is none.
    """
    if not OUTLET_ID.fullmatch(outlet):
        raise Refused(
            "网点编号应为 out_ 加字母、数字、- 或 _",
            "an outlet's id is out_ and letters, digits, - or _",
            code="format",
        )
    return outlet


def disable(context: Context, outlet: str, *, actor: str) -> None:
    """Switch an outlet's queue off; its place in the feed is kept.

    Raises:
        NotFound: it was never on.
    """
    now = context.now()
    with context.store.transaction() as tx:
        if not outlet_queues.disable(tx, outlet):
            raise NotFound(f"网点 {outlet} 没有队列", f"outlet {outlet} has no queue")
        audit.append(tx, actor=actor, action="outlet.queue_disable", target=outlet, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Events that the broker took, and queues that refused one."""

    taken: int = 0
    refused: int = 0


def publish(context: Context, notifier: Notifier, *, queues: int = QUEUES, batch: int = BATCH) -> Published:
    """Give the queues that are on what comes next for them. Killed at any point, it sends some again with the same ids.

    Raises:
        TransientError: the broker, or the database, is away.
    """
    with context.store.transaction() as tx:
        due = outlet_queues.due(tx, now=context.now(), queues=queues, batch=batch)
    if not due:
        return Published()
    answers = notifier.publish([event for item in due for _, event in item.events])
    now = context.now()
    progress = [done for item in due if (done := _progress(item, answers, now)) is not None]
    with context.store.transaction() as tx:
        outlet_queues.settle(tx, progress)
    return Published(
        taken=sum(item.delivered for item in progress),
        refused=sum(item.problem is not None for item in progress),
    )


def _progress(item: Due, answers: Mapping[str, Publishing], now: datetime) -> Progress | None:
    """A queue has come as far as the unbroken run of what was taken: what was taken beyond it is sent again. None: nothing is known."""
    position, taken = item.position, 0
    for place, event in item.events:
        answer = answers.get(event.id)
        if answer == "taken":
            position, taken = place, taken + 1
            continue
        if answer is None:
            break
        tries = 1 if taken else item.tries + 1
        return Progress(
            outlet=item.outlet,
            was=item.position,
            position=position,
            delivered=taken,
            tries=tries,
            next_try_at=now + timedelta(seconds=BACK_OFF_S[min(tries, len(BACK_OFF_S)) - 1]),
            refused_since=(None if taken else item.refused_since) or now,
            problem=PROBLEMS[answer],
        )
    if not taken:
        return None
    return Progress(outlet=item.outlet, was=item.position, position=position, delivered=taken)
