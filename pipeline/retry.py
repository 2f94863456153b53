"""What follows an exception: the one place that maps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pipeline.errors import NeedsOperator, OutcomeUnknown, StaleMessage, TransientError
from pipeline.outcomes import Hold, Outcome, Reason, Wait

Kind = Literal["retry", "reconcile", "hold", "stale", "defect"]

# Seconds before the 2nd, 3rd, ... try. The last value repeats until `max_attempts`.
SCHEDULE_S: tuple[int, ...] = (5, 30, 120, 600, 1800, 3600)
# Before an unknown outcome is asked about again.
ASK_SCHEDULE_S: tuple[int, ...] = (30, 60, 180, 900)


@dataclass(frozen=True, slots=True)
class Disposition:
    """What the engine does with a row whose step raised."""

    kind: Kind
    outcome: Outcome | None


def exhausted(detail: str) -> Reason:
    """The reason of an application parked after its last try."""
    return Reason(
        code="technical.exhausted",
        zh=f"多次处理失败，已转人工：{detail}",
        en=f"Parked for an operator after the last try: {detail}",
    )


def _delay(schedule: tuple[int, ...], attempts: int) -> timedelta:
    return timedelta(seconds=schedule[min(max(attempts, 1), len(schedule)) - 1])


def disposition(error: BaseException, *, attempts: int, max_attempts: int, now: datetime, trace: str) -> Disposition:
    """Map an exception to what happens next.

    `attempts` counts this try; `trace` names the log entry that holds the traceback, since messages may carry personal data.
    """
    name = type(error).__name__
    match error:
        case StaleMessage():
            return Disposition("stale", None)
        case NeedsOperator():
            reason = Reason(code=error.reason, zh=error.zh, en=error.en)
            return Disposition("hold", Hold(reason))
        case OutcomeUnknown():
            return Disposition("reconcile", Wait(now + _delay(ASK_SCHEDULE_S, attempts), f"unknown:{name}"))
        case TransientError() if attempts < max_attempts:
            return Disposition("retry", Wait(now + _delay(SCHEDULE_S, attempts), f"retry:{name}"))
        case TransientError():
            return Disposition("hold", Hold(exhausted(f"{name} ({attempts}x)")))
        case _:
            return Disposition("defect", Hold(exhausted(f"{name}, trace {trace}")))
