"""Brokers that keep the promises the engine needs.

Dramatiq's RabbitMQ broker, as it comes, publishes without confirms, acks by a delivery tag that may belong to a connection that is
gone, and opens a consumer on a delay queue for every queue. Here: confirms always; an ack is bound to the consumer that delivered
the message; no delay queues, since due work lives in the database.
"""

from __future__ import annotations

from queue import Queue
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name

_CONNECTION = {"heartbeat": "60", "blocked_connection_timeout": "30", "connection_attempts": "5", "retry_delay": "1"}


class BoundConsumer(_RabbitmqConsumer):
    """Acks only what this very consumer delivered.

    After a reconnect the broker counts delivery tags from 1 again: a task that began before it would ack another message. The
    broker redelivers what was not acked, so letting the old ack fall loses nothing.
    """

    def __next__(self) -> Any:
        message = super().__next__()
        if message is not None:
            message.delivered_by = self
        return message

    def ack(self, message: Any) -> None:
        if self._mine(message):
            super().ack(message)

    def nack(self, message: Any) -> None:
        if self._mine(message):
            super().nack(message)

    def _mine(self, message: Any) -> bool:
        if getattr(message, "delivered_by", None) is self:
            return True
        self.logger.info("An ack of a former connection is dropped; the broker delivers the message again.")
        return False


class SafeRabbitmqBroker(RabbitmqBroker):
    """RabbitMQ with publisher confirms and bound acks. `quorum` makes replicated queues, for a cluster."""

    def __init__(self, url: str, *, quorum: bool = False) -> None:
        super().__init__(url=_patient(url), confirm_delivery=True, middleware=[])
        self._quorum = quorum

    @property
    def consumer_class(self) -> type[BoundConsumer]:
        return BoundConsumer

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Declare a queue and its dead-letter queue, without a delay queue."""
        name = q_name(queue_name)
        if name not in self.queues:
            self.emit_before("declare_queue", name)
            self.queues.add(name)
            self.queues_pending.add(name)
            self.emit_after("declare_queue", name)
        if ensure:
            self._ensure_queue(name)

    def _declare_dq_queue(self, queue_name: str) -> None:
        """No delay queues: a delayed message would wait in a worker's memory, unacked."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_queue_arguments(queue_name)
        return arguments | {"x-queue-type": "quorum"} if self._quorum else arguments

    def breathe(self) -> None:
        """Answer the broker's heartbeats on a connection that only publishes."""
        connection = getattr(self.state, "connection", None)
        if connection is not None:
            try:
                connection.process_data_events(0)
            except Exception:  # noqa: BLE001 - the next publish opens a new one
                del self.connection


class InProcessBroker(StubBroker):
    """Work orders within one process. It forgets everything with the process: the ready rows are found again at the next start."""

    def __init__(self) -> None:
        super().__init__(middleware=[])

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, without a delay queue."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = Queue()
            self.emit_after("declare_queue", queue_name)

    def breathe(self) -> None:
        """Nothing to keep alive."""


def make_broker(url: str, *, quorum: bool = False) -> SafeRabbitmqBroker | InProcessBroker:
    """The broker of a URL: `inprocess://` or `amqp://`."""
    return InProcessBroker() if url == "inprocess://" else SafeRabbitmqBroker(url, quorum=quorum)


def _patient(url: str) -> str:
    """The URL with the connection's time limits, unless it has its own."""
    parts = urlsplit(url)
    query = {**_CONNECTION, **dict(parse_qsl(parts.query))}
    return parts._replace(query=urlencode(query)).geturl()
