"""Operate: what an operator does with a stage or an application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pipeline import transitions
from pipeline.errors import Conflict, NotFound
from pipeline.services.context import Context
from pipeline.states import STAGES, STATUSES
from pipeline.store import applications, audit, control, stock, timers
from pipeline.store.applications import Claimed
from pipeline.store.engine import Tx
from pipeline.transitions import Move


def pause(context: Context, stage: str, *, reason: str, actor: str) -> None:
    """Nothing of a stage is begun any more; what runs, ends. What lies in the broker becomes stale.

    Raises:
        NotFound: no such stage.
    """
    _known(stage)
    now = context.now()
    with context.store.transaction() as tx:
        control.set_paused(tx, stage, paused=True, reason=reason, actor=actor, now=now)
        applications.unqueue(tx, stage)
        audit.append(tx, actor=actor, action="stage.pause", target=stage, now=now, detail={"reason": reason})


def resume(context: Context, stage: str, *, actor: str) -> None:
    """A paused stage goes on.

    Raises:
        NotFound: no such stage.
    """
    _known(stage)
    now = context.now()
    with context.store.transaction() as tx:
        control.set_paused(tx, stage, paused=False, reason="", actor=actor, now=now)
        audit.append(tx, actor=actor, action="stage.resume", target=stage, now=now)
        tx.nudge()


def release(context: Context, application_ids: Sequence[str], *, reason: str, actor: str) -> int:
    """Held applications go back to the stage they left. Returns how many.

    Raises:
        NotFound: one of them does not exist.
        Conflict: one of them is not held.
    """
    with context.store.transaction() as tx:
        return let_go(tx, application_ids, reason=reason, actor=actor, now=context.now())


def let_go(tx: Tx, application_ids: Sequence[str], *, reason: str, actor: str, now: datetime) -> int:
    """`release` as a part of another act.

    Raises:
        NotFound: one of them does not exist.
        Conflict: one of them is not held.
    """
    rows = applications.load(tx, application_ids, lock=True)
    moves = {}
    for i in application_ids:
        claimed = rows.get(i)
        if claimed is None:
            raise NotFound(f"没有申领 {i}", f"no such application: {i}")
        if claimed.application.status != "held":
            raise Conflict(f"申领 {i} 未被挂起", f"application {i} is not held")
        stage = claimed.row.held_from
        transitions.check("held", stage)
        moves[i] = Move(status=stage, stage=stage, work="ready")
    _write(tx, rows, moves, now=now, actor=actor, why=reason, action="application.release")
    return len(moves)


def cancel(context: Context, application_id: str, *, reason: str, actor: str) -> None:
    """Withdraw an application, as long as no blank is bound to it.

    Raises:
        NotFound: no such application.
        Conflict: too late, or it has ended.
    """
    now = context.now()
    with context.store.transaction() as tx:
        rows = applications.load(tx, [application_id], lock=True)
        claimed = rows.get(application_id)
        if claimed is None:
            raise NotFound(f"没有申领 {application_id}", f"no such application: {application_id}")
        status = claimed.application.status
        bound = stock.reserved(tx, [application_id]) or stock.cards_of(tx, [application_id])
        if "cancelled" not in STATUSES[status].to or bound:
            raise Conflict(
                "制卡已开始或申领已结束，不能撤销",
                "the card is being made, or the application has ended",
                code="too-late",
            )
        moves = {application_id: Move(status="cancelled", stage=None, work="none", why=reason)}
        timers.cancel(tx, [application_id], now=now)
        _write(tx, rows, moves, now=now, actor=actor, why=reason, action="application.cancel")


def _known(stage: str) -> None:
    if stage not in STAGES:
        raise NotFound(
            f"没有环节 {stage}，可用：{'、'.join(STAGES)}", f"no such stage: {stage}; there are {', '.join(STAGES)}"
        )


def _write(
    tx: Tx, rows: Mapping[str, Claimed], moves: Mapping[str, Move], *, now: datetime, actor: str, why: str, action: str
) -> None:
    applications.force(tx, moves, now=now)
    entries = [
        {"application_id": i, "frm": rows[i].application.status, "to": m.status, "outcome": "act", "why": why}
        for i, m in moves.items()
    ]
    applications.record(tx, entries, stage=None, now=now, actor=actor)
    for i in moves:
        audit.append(tx, actor=actor, action=action, target=i, now=now, detail={"reason": why})
    tx.nudge()
