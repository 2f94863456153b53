"""Run a stage over a chunk of applications: claim, prepare, commit intents, act, settle.

    claim      one tx: what of the order is still to be done becomes ours, on a lease
    prepare    pure: requests, or decisions at once
    intend     one tx, only where a request will act on the world
    act        the port, outside any transaction
    settle     pure, then one tx: moves, facts, history, events; the next stage's rows are ready with it

A process that dies anywhere in between loses nothing: the lease ends, and what was intended is asked about, never repeated.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipeline import transitions
from pipeline.application import Application
from pipeline.errors import Defect, NotFound, TransientError
from pipeline.outcomes import Advance, Hold, Reason, Wait
from pipeline.policy import Policy
from pipeline.retry import Disposition, disposition, exhausted
from pipeline.services.context import Context
from pipeline.stages.base import Case, Decision, Stage
from pipeline.stages.personalisation import SHORTAGE
from pipeline.states import STATUSES
from pipeline.store import applications, facts
from pipeline.store.applications import Claimed
from pipeline.store.engine import Tx

log = logging.getLogger("zhika.run_stage")
TRIED_AGAIN = timedelta(hours=1)
"""When a row is tried again that failed for good but cannot be held."""


@dataclass(frozen=True, slots=True)
class Settled:
    """One application's step, for counters."""

    lane: str
    outcome: str


@dataclass(slots=True)
class Ran:
    """What one work order came to. `stale` counts ids that were not to be done any more."""

    stage: str
    stale: int = 0
    settled: list[Settled] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A row's way through one run."""

    claimed: Claimed
    case: Case
    policy: Policy | None


def run(context: Context, stage: Stage, ids: Sequence[str], *, worker: str) -> Ran:
    """Do what a work order asks for. Raises nothing that belongs to a single application.

    Raises:
        TransientError: the database is away; the order's rows come back when their leases end.
    """
    now = context.now()
    token = _token(worker)
    with context.store.transaction(hint=stage.reconciler == "none") as tx:
        claimed = applications.claim(tx, stage=stage.name, ids=ids, token=token, now=now, until=now + stage.lease)
        seen = _seen(tx, stage, claimed, now)
    ran = _run(context, stage, claimed, seen, token=token, worker=worker)
    ran.stale += len(ids) - len(claimed)
    return ran


def reconcile(context: Context, stage: Stage, *, worker: str, station: str, limit: int) -> Ran:
    """End what a former process of this station left open: the journal and the chip tell what became of it."""
    now = context.now()
    token = _token(worker)
    with context.store.transaction() as tx:
        claimed = applications.claim_for_station(
            tx, stage=stage.name, station=station, token=token, now=now, until=now + stage.lease, limit=limit
        )
        seen = _seen(tx, stage, claimed, now)
    return _run(context, stage, claimed, seen, token=token, worker=worker)


def _token(worker: str) -> str:
    return f"{worker}/{secrets.token_hex(8)}"


def _seen(tx: Tx, stage: Stage, claimed: Sequence[Claimed], now: datetime) -> Mapping[str, dict[str, Any]]:
    return facts.load(tx, [item.application.id for item in claimed], stage.needs, now=now) if claimed else {}


def _run(
    context: Context,
    stage: Stage,
    claimed: Sequence[Claimed],
    seen: Mapping[str, dict[str, Any]],
    *,
    token: str,
    worker: str,
) -> Ran:
    ran = Ran(stage.name)
    if not claimed:
        return ran
    steps = {item.application.id: _step(context, stage, item, seen[item.application.id]) for item in claimed}
    decisions: dict[str, Decision] = {}
    requests: dict[str, Any] = {}
    for i, step in steps.items():
        prepared = _guarded(context, stage, step, stage.prepare, step.case)
        if isinstance(prepared, Decision):
            decisions[i] = prepared
        else:
            requests[i] = prepared
    if requests:
        requests, refused = _intend(context, stage, requests, token=token)
        decisions |= refused
    if requests:
        decisions |= _acted(context, stage, steps, requests)
    ran.stale = len(steps) - len(decisions)
    ran.settled = _settle(context, stage, steps, decisions, token=token, worker=worker)
    return ran


def _step(context: Context, stage: Stage, item: Claimed, seen: dict[str, Any]) -> _Step:
    app = item.application
    try:
        policy = context.policies.of(app.region, app.policy_version)
    except NotFound:
        policy = None
    if "photo" in stage.needs:
        seen["photo"] = _photo(context, app.photo_original)
    return _Step(claimed=item, case=Case(application=app, facts=seen), policy=policy)


def _photo(context: Context, name: str) -> bytes:
    try:
        return context.objects.get(name) if name else b""
    except NotFound:
        return b""


def _policy(step: _Step) -> Policy:
    if step.policy is None:
        app = step.case.application
        raise Defect(f"policy {app.policy_version} of region {app.region} is not kept: restore its file")
    return step.policy


def _intend(
    context: Context, stage: Stage, requests: Mapping[str, Any], *, token: str
) -> tuple[dict[str, Any], dict[str, Decision]]:
    """Commit what will be done before it is done. A row acts with its grant only; one that is no longer ours is dropped."""
    intents = {i: getattr(request, "intent", None) for i, request in requests.items()}
    wanted = {i: intent for i, intent in intents.items() if intent is not None}
    if not wanted:
        return dict(requests), {}
    with context.store.transaction() as tx:
        ours = applications.still_ours(tx, list(wanted), token=token)
        grants = facts.intend(tx, {i: intent for i, intent in wanted.items() if i in ours}, now=context.now())
    going: dict[str, Any] = {}
    refused: dict[str, Decision] = {}
    for i, request in requests.items():
        if i not in wanted:
            going[i] = request
        elif i not in ours:
            continue
        elif isinstance(grant := grants.get(i), Wait):
            refused[i] = Decision(grant)
        elif grant is None:
            refused[i] = Decision(Hold(SHORTAGE))
        else:
            going[i] = request.granted(grant)
    if refused:
        log.warning("stage %s: %d rows held or waiting for want of stock", stage.name, len(refused))
    return going, refused


def _acted(
    context: Context, stage: Stage, steps: Mapping[str, _Step], requests: Mapping[str, Any]
) -> dict[str, Decision]:
    try:
        replies: Mapping[str, Any] = stage.act(requests)
    except Exception as error:  # noqa: BLE001 - whatever the port raised is every row's outcome
        replies = dict.fromkeys(requests, error)
    decisions = {}
    for i, request in requests.items():
        step = steps[i]
        reply = replies.get(i, Defect(f"stage {stage.name} gave no reply"))
        if isinstance(reply, BaseException):
            decisions[i] = _failed(context, stage, step, request, reply)
        else:
            decisions[i] = _guarded(context, stage, step, stage.settle, step.case, reply)
    return decisions


def _guarded(context: Context, stage: Stage, step: _Step, decide: Callable[..., Any], *told: Any) -> Any:
    """One row's pure step; its exception is its own outcome, so that a defect in one row does not fail its neighbours."""
    try:
        return decide(*told, _policy(step), context.now())
    except Exception as error:  # noqa: BLE001
        return Decision(_disposed(context, stage, step, error).outcome or Wait(context.now(), "stale"))


def _failed(context: Context, stage: Stage, step: _Step, request: Any, error: BaseException) -> Decision:
    told = stage.failed(step.case, request, error)
    outcome = _disposed(context, stage, step, error).outcome or Wait(context.now(), "stale")
    return Decision(outcome, told)


def _disposed(context: Context, stage: Stage, step: _Step, error: BaseException) -> Disposition:
    trace = secrets.token_hex(4)
    most = step.policy.max_attempts.value if step.policy else 1
    found = disposition(
        error, attempts=step.case.application.attempts, max_attempts=most, now=context.now(), trace=trace
    )
    frames = "".join(traceback.format_tb(error.__traceback__)) if found.kind == "defect" else ""
    log.log(
        logging.ERROR if found.kind == "defect" else logging.WARNING,
        "stage %s: %s -> %s (trace %s) %s",
        stage.name,
        type(error).__name__,
        found.kind,
        trace,
        frames,
    )
    return found


# ------------------------------------------------------------------------------------------------------------ settling


def _settle(
    context: Context,
    stage: Stage,
    steps: Mapping[str, _Step],
    decisions: Mapping[str, Decision],
    *,
    token: str,
    worker: str,
) -> list[Settled]:
    """Write a chunk's decisions in one transaction; if that fails, row by row, so that one bad row does not fail the others."""
    try:
        with context.store.transaction() as tx:
            done = _write(tx, context, stage, steps, decisions, token=token, worker=worker)
    except TransientError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one row's facts broke, the others' are good
        log.warning(
            "stage %s: settling %d rows failed (%s); row by row", stage.name, len(decisions), type(error).__name__
        )
        done = []
        for i, decision in decisions.items():
            done += _settle_alone(context, stage, steps[i], decision, token=token, worker=worker)
    return done


def _settle_alone(
    context: Context, stage: Stage, step: _Step, decision: Decision, *, token: str, worker: str
) -> list[Settled]:
    i = step.case.id
    with context.store.transaction() as tx:
        try:
            with tx.savepoint():
                return _write(tx, context, stage, {i: step}, {i: decision}, token=token, worker=worker)
        except Exception as error:  # noqa: BLE001 - a database that is away fails the next write too
            trace = secrets.token_hex(4)
            frames = "".join(traceback.format_tb(error.__traceback__))
            kind = type(error).__name__
            log.error("stage %s: a row cannot be settled (trace %s): %s %s", stage.name, trace, kind, frames)
            parked = Decision(Hold(exhausted(f"{type(error).__name__}, trace {trace}")))
            return _write(tx, context, stage, {i: step}, {i: parked}, token=token, worker=worker)


def _write(
    tx: Tx,
    context: Context,
    stage: Stage,
    steps: Mapping[str, _Step],
    decisions: Mapping[str, Decision],
    *,
    token: str,
    worker: str,
) -> list[Settled]:
    now = context.now()
    moves = {i: _move(stage, steps[i], decision, now) for i, decision in decisions.items()}
    fresh = frozenset(
        i
        for i, d in decisions.items()
        if isinstance(d.outcome, Advance) or (isinstance(d.outcome, Wait) and _calm(d.outcome))
    )
    ours = applications.settle(tx, moves, token=token, now=now, fresh=fresh)
    moved = [
        Moved(application=steps[i].case.application, decision=decisions[i], move=moves[i])
        for i in decisions
        if i in ours
    ]
    write_down(tx, moved, stage=stage.name, now=now, actor=worker)
    return [
        Settled(
            lane=steps[i].case.application.lane,
            outcome=type(decision.outcome).__name__.lower() if i in ours else "stale",
        )
        for i, decision in decisions.items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A row that a decision has moved; `application` as it stood before."""

    application: Application
    decision: Decision
    move: transitions.Move


def write_down(tx: Tx, moved: Sequence[Moved], *, stage: str, now: datetime, actor: str) -> None:
    """What goes with moves that are written: facts, history, and word to the relay. A person's decision is written down likewise."""
    facts.write(tx, [fact for one in moved for fact in one.decision.facts], now=now)
    applications.record(
        tx,
        [
            {
                "application_id": one.application.id,
                "frm": one.application.status,
                "to": one.move.status,
                "outcome": type(one.decision.outcome).__name__.lower(),
                "why": one.move.why,
                "attempt": one.application.attempts,
            }
            for one in sorted(moved, key=lambda one: one.application.id)
        ],
        stage=stage,
        now=now,
        actor=actor,
    )
    if any(one.move.work == "ready" for one in moved):
        tx.nudge()


def parking(status: str, reason: Reason, *, now: datetime) -> Hold | Wait:
    """Held, for an operator; but a card that lies at its outlet stays there for its holder, and its clocks are tried again later."""
    return Hold(reason) if "held" in STATUSES[status].to else Wait(now + TRIED_AGAIN, reason.code)


def _calm(wait: Wait) -> bool:
    """A wait that is no failure: its tries are not counted."""
    return not wait.why.startswith(("retry:", "unknown:", "blank."))


def _move(stage: Stage, step: _Step, decision: Decision, now: datetime) -> transitions.Move:
    """The move an outcome makes. A row whose chip may have been touched goes back to its station, not to the queue."""
    status, outcome = step.case.application.status, decision.outcome
    if isinstance(outcome, Hold):
        outcome = parking(status, outcome.reason, now=now)
    move = transitions.move(status, stage.name, outcome, now=now)
    unsettled = isinstance(outcome, Wait) and outcome.why.startswith(("retry:", "unknown:"))
    if stage.reconciler == "station" and unsettled and not decision.facts:
        return transitions.at_station(move)
    return move
