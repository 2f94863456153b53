"""Which move an outcome makes. Pure; the store writes what is decided here and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.errors import Defect
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reason, Reject, Wait
from pipeline.states import STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The row's next standing: status, owner of the next step, and when it may be taken.

    `work` is `ready`, `waiting` (for `next_try_at`, or for something outside when that is None), `reconcile` (for the station that
    touched the chip) or `none` (no stage's turn).
    `held_from` remembers the stage a held application goes back to.
    """

    status: str
    stage: str | None
    work: str
    next_try_at: datetime | None = None
    held_from: str | None = None
    reasons: tuple[Reason, ...] = ()
    why: str = ""


def check(frm: str, to: str) -> None:
    """Refuse a move that the table of states does not know.

    Raises:
        Defect: there is no such transition.
    """
    if frm != to and to not in STATUSES[frm].to:
        raise Defect(f"no transition {frm} -> {to}")


def by_hand(move: Move) -> Move:
    """The same move made by a person's act: no stage is due before a clock says so."""
    return replace(move, work="waiting" if move.stage else "none")


def at_station(move: Move) -> Move:
    """The same move, but only the station that touched the chip may take the row up again."""
    return replace(move, work="reconcile")


def move(status: str, stage: str, outcome: Outcome, *, now: datetime) -> Move:
    """Where `outcome` of `stage` takes an application that stands at `status`.

    Raises:
        Defect: the outcome leads where the table does not go.
    """
    match outcome:
        case Advance(to):
            check(status, to)
            next_stage = STATUSES[to].stage
            return Move(status=to, stage=next_stage, work="ready" if next_stage else "none")
        case Wait(until, why):
            if until is not None and until <= now:
                return Move(status=status, stage=stage, work="ready", why=why)
            return Move(status=status, stage=stage, work="waiting", next_try_at=until, why=why)
        case Hold(reason):
            check(status, "held")
            return Move(status="held", stage=None, work="none", held_from=stage, reasons=(reason,), why=reason.code)
        case Correct(reasons):
            check(status, "awaiting_correction")
            return Move(status="awaiting_correction", stage=None, work="none", reasons=reasons, why=reasons[0].code)
        case Reject(reasons):
            check(status, "rejected")
            return Move(status="rejected", stage=None, work="none", reasons=reasons, why=reasons[0].code)
