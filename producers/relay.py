"""The relay: ready rows become work orders, committed events get their place in the feed. The only publisher there is.

It keeps a bounded number of orders in the broker for each queue, so that priority, pause and weight take effect at once. Losing what
it published loses nothing: the rows' leases end and they are published again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import dramatiq
from dramatiq.errors import BrokerError

from config import metrics
from pipeline.application import Lane
from pipeline.errors import TransientError
from pipeline.messages import WorkOrder, queue_name
from pipeline.services import sweep
from pipeline.services.context import Context
from pipeline.store import applications, control
from workers.broker import InProcessBroker, SafeRabbitmqBroker

log = logging.getLogger("zhika.relay")
POLL_S = 0.5
WEIGHT: Mapping[Lane, float] = {"urgent": 2.0, "normal": 1.0, "bulk": 0.25}
"""How much of the window each lane gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Publishes for an installation. `chunks` is how many ids an order of a stage carries; `window` how many orders of a queue."""

    context: Context
    broker: SafeRabbitmqBroker | InProcessBroker
    chunks: Mapping[str, int]
    window: int
    lease: timedelta

    def publish(self) -> int:
        """Publish what is ready and has room; returns the number of orders."""
        with self.context.store.transaction() as tx:
            found = applications.backlog(tx)
        orders = 0
        for (stage, lane), backlog in found.items():
            if stage not in self.chunks or backlog.paused or not backlog.ready:
                continue
            chunk = self.chunks[stage]
            room = max(1, round(self.window * WEIGHT[lane])) * chunk - backlog.queued
            # A last order that would be small waits for the others to be taken, unless nothing else is on its way.
            if room >= chunk or backlog.queued == 0:
                orders += self._publish(stage, lane, limit=max(room, chunk), chunk=chunk)
        return orders

    def _publish(self, stage: str, lane: Lane, *, limit: int, chunk: int) -> int:
        token = f"relay/{secrets.token_hex(8)}"
        now = self.context.now()
        with self.context.store.transaction(hint=True) as tx:
            rows = applications.lease_ready(
                tx, stage=stage, lane=lane, limit=limit, token=token, now=now, until=now + self.lease
            )
        orders = [
            WorkOrder(stage=stage, lane=lane, ids=tuple(ids), trace=token[6:14]) for ids in split(rows, chunk=chunk)
        ]
        for n, order in enumerate(orders):
            try:
                self._send(order)
            except Exception as error:
                left = [i for rest in orders[n:] for i in rest.ids]
                log.warning("the broker did not take %d rows of %s: %s", len(left), stage, type(error).__name__)
                metrics.PUBLISHED.labels("refused").inc(len(orders) - n)
                with self.context.store.transaction() as tx:
                    applications.unlease(tx, left, token=token)
                raise
        metrics.PUBLISHED.labels("taken").inc(len(orders))
        return len(orders)

    def _send(self, order: WorkOrder) -> None:
        name = queue_name(order.stage, order.lane)
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=name, actor_name=name, args=(), kwargs=order.as_dict(), options={}
        )
        self.broker.enqueue(message)

    def run(self, stopping: threading.Event) -> None:
        """Publish until told to stop, as long as this process leads; others stand by."""
        while not stopping.is_set():
            try:
                with control.leadership(self.context.store, "relay") as leads:
                    if leads is not None:
                        log.info("relay leads")
                        self._lead(stopping, leads)
                    else:
                        stopping.wait(2.0)
            except (TransientError, BrokerError) as error:
                log.warning("relay: %s; again in a second", error)
                stopping.wait(1.0)
            except Exception as error:
                log.error("relay: %s", type(error).__name__, exc_info=True)
                stopping.wait(1.0)

    def _lead(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        with self.context.store.listening() as heard:
            while not stopping.is_set() and leads():
                published = self.publish()
                sweep.place_events(self.context)
                self.broker.breathe()
                if not published:
                    heard(POLL_S)


def split(rows: Sequence[tuple[str, bool]], *, chunk: int) -> list[list[str]]:
    """Rows as orders of at most `chunk` ids; a row that killed a worker goes alone."""
    alone = [[i] for i, solo in rows if solo]
    together = [i for i, solo in rows if not solo]
    return [*(together[n : n + chunk] for n in range(0, len(together), chunk)), *alone]
