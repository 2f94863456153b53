"""The timers: what time does by itself, once a second, and the figures that only the database knows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from config import metrics
from pipeline.errors import TransientError
from pipeline.services import encoders, erase, sweep
from pipeline.services.context import Context
from pipeline.stages.registry import RECONCILERS
from pipeline.store import control, outbox, timers, views

log = logging.getLogger("zhika.timers")
EVERY_S = 1.0
FIGURES_EVERY = 10
ERASE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Sweeps an installation."""

    context: Context
    every_s: float = EVERY_S

    def run(self, stopping: threading.Event) -> None:
        """Sweep until told to stop, as long as this process leads; others stand by."""
        while not stopping.is_set():
            try:
                with control.leadership(self.context.store, "timers") as leads:
                    if leads is not None:
                        log.info("timers lead")
                        self._lead(stopping, leads)
                    else:
                        stopping.wait(2.0)
            except TransientError as error:
                log.warning("timers: %s; again in a second", error)
                stopping.wait(1.0)
            except Exception as error:
                log.error("timers: %s", type(error).__name__, exc_info=True)
                stopping.wait(1.0)

    def _lead(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        rounds = 0
        erasing = self._erasing()
        while not stopping.is_set() and leads():
            swept = sweep.sweep(self.context, RECONCILERS)
            for stage, count in swept.expired.items():
                metrics.EXPIRED.labels(stage).inc(count)
            if rounds % FIGURES_EVERY == 0:
                self._figures()
            next(erasing)
            rounds += 1
            if not swept.busy:
                stopping.wait(self.every_s)

    def _erasing(self) -> Iterator[None]:
        """Every hour all that is due for erasure, one small batch a round, so that nothing else waits for the disk."""
        while True:
            began = time.monotonic()
            overdue = 0
            for done in erase.erase(self.context, actor="sweeper"):
                overdue += done.overdue
                yield
            metrics.ERASURE_OVERDUE.set(overdue)
            while time.monotonic() - began < ERASE_EVERY_S:
                yield

    def _figures(self) -> None:
        now = self.context.now()
        with self.context.store.transaction() as tx:
            rows, since = outbox.waiting(tx)
            overdue = timers.overdue(tx, now=now)
            stages = views.stages(tx)
            blanks = views.blanks(tx)
            readers = encoders.listing(tx, now=now)
        metrics.OUTBOX_ROWS.set(rows)
        metrics.OUTBOX_LAG.set((now - since).total_seconds() if since else 0)
        metrics.TIMER_LAG.set((now - overdue).total_seconds() if overdue else 0)
        for row in stages:
            for state in ("ready", "running", "waiting", "held"):
                metrics.STAGE_ITEMS.labels(row.stage, row.lane, state).set(getattr(row, state))
            metrics.STAGE_OLDEST.labels(row.stage, row.lane).set(
                (now - row.oldest).total_seconds() if row.oldest else 0
            )
            metrics.STAGE_PAUSED.labels(row.stage).set(row.paused)
        for blank in blanks:
            metrics.BLANKS.labels(blank.type, blank.location, blank.state).set(blank.n)
        for reader in readers:
            for state in encoders.STATES:
                metrics.ENCODER_STATE.labels(reader.id, state).set(reader.state == state)
