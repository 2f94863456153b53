"""Actors: one for each stage and lane, named like its queue. An actor runs its stage over the ids of one work order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import dramatiq
from dramatiq.broker import Broker

from config import metrics
from pipeline.application import LANES
from pipeline.errors import StaleMessage, TransientError
from pipeline.messages import WorkOrder, queue_name
from pipeline.services import run_stage
from pipeline.services.context import Context
from pipeline.services.run_stage import Ran
from pipeline.stages.base import Stage
from pipeline.states import STAGES

log = logging.getLogger("zhika.actors")
_PRIORITY = {"urgent": 0, "normal": 1, "bulk": 2}
PAUSE_S = 1.0


def declare(
    broker: Broker, run: Callable[[WorkOrder], None], stages: Mapping[str, Stage] | tuple[str, ...] = STAGES
) -> None:
    """Make the queues of stages known to a broker, and what is done with their messages."""
    for stage in stages:
        for lane in LANES:
            name = queue_name(stage, lane)

            def work(**body: Any) -> None:
                run(WorkOrder.parse(body))

            dramatiq.Actor(
                work,
                broker=broker,
                actor_name=name,
                queue_name=name,
                priority=_PRIORITY[lane],
                options={"max_retries": 0, "throws": (StaleMessage,)},
            )


def runner(context: Context, stages: Mapping[str, Stage], *, worker: str) -> Callable[[WorkOrder], None]:
    """What a worker does with a work order. Nothing it raises loses work: the rows come back when their leases end."""

    def run(order: WorkOrder) -> None:
        stage = stages[order.stage]
        started = time.perf_counter()
        try:
            count(run_stage.run(context, stage, order.ids, worker=worker))
        except TransientError as error:
            log.warning("work order of %s dropped (trace %s): %s", order.stage, order.trace, error)
            time.sleep(PAUSE_S)
        finally:
            metrics.RUN_SECONDS.labels(order.stage).observe(time.perf_counter() - started)

    return run


def count(ran: Ran) -> None:
    """Put what a run came to into the counters."""
    for settled in ran.settled:
        metrics.OUTCOMES.labels(ran.stage, settled.lane, settled.outcome).inc()
    if ran.stale:
        metrics.OUTCOMES.labels(ran.stage, "normal", "stale").inc(ran.stale)


def nothing(order: WorkOrder) -> None:
    """What a process that only publishes would do with a work order: it never gets one."""
    raise StaleMessage(f"a publisher got a work order of {order.stage}")
