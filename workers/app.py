"""A worker: consumes work orders of some stages until it is told to stop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dramatiq import Worker

from config.wiring import Installation
from pipeline.application import LANES
from pipeline.errors import TransientError
from pipeline.messages import queue_name
from pipeline.services import run_stage, sweep
from pipeline.services.context import Context
from pipeline.stages.base import Stage
from workers import actors, heartbeat
from workers.broker import InProcessBroker, SafeRabbitmqBroker, make_broker

log = logging.getLogger("zhika.worker")
STOP_MS = 25_000
RECONCILE_EVERY_S = 3.0
RECONCILE_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Running:
    """A started worker."""

    broker: SafeRabbitmqBroker | InProcessBroker
    stages: dict[str, Stage]


@contextmanager
def worker(
    installation: Installation, stages: Sequence[str], *, broker: SafeRabbitmqBroker | InProcessBroker | None = None
) -> Iterator[Running]:
    """Work for the length of the block. Leaving it lets work in hand end; what was only prefetched goes back to the broker."""
    settings = installation.settings
    built = installation.stages(stages)
    used = broker or make_broker(settings.broker.url, quorum=settings.broker.quorum)
    name = f"w{os.getpid()}"
    actors.declare(used, actors.runner(installation.context, built, worker=name), tuple(stages))
    used.emit_after("process_boot")
    stopping = threading.Event()
    stations = [stage for stage in built.values() if stage.reconciler == "station"]
    for stage in stations:
        _take_over(installation, stage)
    loops = [
        threading.Thread(
            target=_reconcile_loop,
            args=(installation, stage, name, stopping),
            name=f"reconcile-{stage.name}",
            daemon=True,
        )
        for stage in stations
    ]
    if stations:
        loops.append(
            threading.Thread(target=heartbeat.run, args=(installation, stopping), name="heartbeat", daemon=True)
        )
    queues = {queue_name(stage, lane) for stage in stages for lane in LANES}
    engine = Worker(used, queues=queues, worker_threads=settings.workers.threads, worker_timeout=200)
    engine.queue_prefetch = settings.workers.threads
    engine.start()
    for loop in loops:
        loop.start()
    log.info("worker ready: %s, %d threads", ", ".join(stages), settings.workers.threads)
    try:
        yield Running(used, built)
    finally:
        stopping.set()
        engine.stop(timeout=STOP_MS)
        for loop in loops:
            loop.join(STOP_MS / 1000)
        if broker is None:
            used.close()


def _take_over(installation: Installation, stage: Stage) -> None:
    encoder = installation.encoder
    taken = sweep.take_over(installation.context, stage.name, encoder.station)
    if taken:
        log.warning("station %s: %d cards were under way when the former process ended", encoder.station, taken)
    log.info("station %s: %d cards were begun and have no end in the journal", encoder.station, encoder.open_attempts())
    if encoder.stopped is not None:
        log.warning("station %s has stopped: %s", encoder.station, encoder.stopped)


def _reconcile_loop(installation: Installation, stage: Stage, name: str, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            ran = reconcile_once(installation.context, stage, worker=name, station=installation.encoder.station)
        except TransientError as error:
            log.warning("reconciling %s: %s", stage.name, error)
            ran = 0
        if ran < RECONCILE_AT_ONCE:
            stopping.wait(RECONCILE_EVERY_S)


def reconcile_once(context: Context, stage: Stage, *, worker: str, station: str) -> int:
    """Settle some of what this station left open; returns how many."""
    ran = run_stage.reconcile(context, stage, worker=worker, station=station, limit=RECONCILE_AT_ONCE)
    actors.count(ran)
    return len(ran.settled)
