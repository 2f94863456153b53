"""The notifier: events of the feed go to outlets' webhooks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config import metrics
from pipeline.errors import TransientError
from pipeline.services import notify
from pipeline.services.context import Context
from pipeline.store import control, webhooks
from pipeline.webhooks import Attempt, WebhookSender

log = logging.getLogger("zhika.notifier")
POLL_S = 0.5
FAN_OUT_EVERY_S = 0.25
FIGURES_EVERY_S = 10.0
PRUNE_EVERY_S = 3600.0
GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    """Notifies for an installation. `connections` is how many attempts are under way at most."""

    context: Context
    sender: WebhookSender
    connections: int = 512

    def run(self, stopping: threading.Event) -> None:
        """Deliver until told to stop, as long as this process leads; others stand by."""
        while not stopping.is_set():
            try:
                with control.leadership(self.context.store, "notify") as leads:
                    if leads is not None:
                        log.info("notifier leads")
                        self._lead(stopping, leads)
                    else:
                        stopping.wait(2.0)
            except TransientError as error:
                log.warning("notifier: %s; again in a second", error)
                stopping.wait(1.0)
            except Exception as error:
                log.error("notifier: %s", type(error).__name__, exc_info=True)
                stopping.wait(1.0)

    def _lead(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        deliverer = notify.Deliverer(self.context, self.sender, connections=self.connections)
        fan_out, figures = _Every(FAN_OUT_EVERY_S), _Every(FIGURES_EVERY_S)
        pruning = _Every(PRUNE_EVERY_S)
        behind, old = True, False
        try:
            while not stopping.is_set() and leads():
                if fan_out.due() or behind:
                    behind = notify.fan_out(self.context).more
                _count(deliverer.step(FAN_OUT_EVERY_S))
                if figures.due():
                    self._figures()
                if pruning.due() or old:
                    old = notify.prune(self.context)
                if deliverer.idle and not behind:
                    stopping.wait(POLL_S)
        finally:
            _count(deliverer.close(grace_s=GRACE_S))

    def _figures(self) -> None:
        with self.context.store.transaction() as tx:
            owed = webhooks.owed(tx)
        metrics.WEBHOOK_BACKLOG.set(sum(owed.values()))


@dataclass(slots=True)
class _Every:
    """Something that is due now, and again so many seconds after it was."""

    seconds: float
    last: float = float("-inf")

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def _count(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        metrics.WEBHOOK_ATTEMPTS.labels(attempt.result).inc()
        took_ms = (attempt.dns_ms or 0) + (attempt.connect_ms or 0) + (attempt.http_ms or 0)
        metrics.WEBHOOK_SECONDS.observe(took_ms / 1000)
