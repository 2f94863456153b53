"""Outlets over the message broker: their events into their queues, their commands out of the common one.

One process of an installation leads. Losing the broker, the database or this process loses nothing: what was not confirmed is sent
again with the same id, what was not acknowledged is delivered again and answered as before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from config import metrics
from pipeline.errors import TransientError
from pipeline.gateways.amqp_topology import MAX_LENGTH
from pipeline.gateways.command_amqp import CommandQueue
from pipeline.gateways.notify_amqp import AmqpNotifier
from pipeline.services import commands, queues
from pipeline.services.context import Context
from pipeline.store import control

log = logging.getLogger("zhika.outlet_amqp")
POLL_S = 0.5
FORGET_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletAmqp:
    """Serves the outlets of an installation on the broker at `url` (`amqp://…`). `max_length` bounds queues that it declares."""

    context: Context
    url: str
    max_length: int = MAX_LENGTH

    def run(self, stopping: threading.Event) -> None:
        """Publish and consume until told to stop, as long as this process leads; others stand by."""
        while not stopping.is_set():
            try:
                with control.leadership(self.context.store, "outlet-amqp") as leads:
                    if leads is not None:
                        log.info("outlet-amqp leads")
                        self._lead(stopping, leads)
                    else:
                        stopping.wait(2.0)
            except TransientError as error:
                log.warning("outlet-amqp: %s; again in a second", error)
                stopping.wait(1.0)
            except Exception as error:
                log.error("outlet-amqp: %s", type(error).__name__, exc_info=True)
                stopping.wait(1.0)

    def _lead(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        ending = threading.Event()
        handle = partial(commands.handle, self.context)
        consumer = threading.Thread(
            target=CommandQueue(self.url).run, args=(handle, ending), name="outlet-commands", daemon=True
        )
        consumer.start()
        try:
            self._publish(stopping, lambda: consumer.is_alive() and leads())
        finally:
            ending.set()
            consumer.join(30)

    def _publish(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        forgot = time.monotonic()
        with (
            closing(AmqpNotifier(self.url, max_length=self.max_length)) as notifier,
            self.context.store.listening() as heard,
        ):
            while not stopping.is_set() and leads():
                done = queues.publish(self.context, notifier)
                metrics.OUTLET_REFUSALS.inc(done.refused)
                notifier.breathe()
                if time.monotonic() - forgot > FORGET_EVERY_S:
                    forgot = time.monotonic()
                    commands.forget(self.context)
                if not done.taken:
                    heard(POLL_S)
