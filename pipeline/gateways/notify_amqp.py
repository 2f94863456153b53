"""Events into outlets' queues on RabbitMQ: declared, and published with confirms, many at a time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from typing import Any, Literal

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPError, ChannelClosedByBroker

from pipeline.errors import TransientError
from pipeline.gateways.amqp_topology import EVENTS, MAX_LENGTH, Queue, Topology, event_key, queue_of, topology
from pipeline.ports import OutgoingEvent, Publishing

log = logging.getLogger("zhika.outlet_amqp")
CONTENT_TYPE = "application/cloudevents+json"
PATIENCE_S = 30.0
"""How long the broker may take to confirm a flight of events, or to open a connection."""
_PERSISTENT = 2
_EASY = 0.8
"""Below this part of its limit a queue takes events again after it was full."""
_NOT_FOUND, _OTHER_ARGUMENTS = 404, 406

Standing = Literal["ok", "missing", "different"]


def parameters(url: str, name: str) -> Any:
    """Connection parameters with limits where the URL has none; the broker's operators see `name`."""
    made = pika.URLParameters(url)
    made.client_properties = {"connection_name": name}
    made.blocked_connection_timeout = made.blocked_connection_timeout or PATIENCE_S
    return made


@contextmanager
def reached() -> Iterator[None]:
    """The broker's own trouble as an error that is tried again."""
    try:
        yield
    except (AMQPError, OSError) as error:
        raise TransientError(f"broker: {type(error).__name__}") from error


def declare(url: str, wanted: Topology) -> dict[str, Standing]:
    """Make what is not there yet; how each exchange and queue stands now, by name. One with other arguments is left as it is.

    Raises:
        TransientError: the broker cannot be reached.
    """
    with reached(), _connected(url, "zhika declare") as connection:
        found = {name: _exchange(connection, name) for name in wanted.exchanges}
        found |= {queue.name: _queue(connection, queue) for queue in wanted.queues}
        for binding in wanted.bindings:
            _attempt(connection, "queue_bind", binding.queue, binding.exchange, binding.key)
    for name, standing in found.items():
        if standing == "different":
            log.warning("%s stands on the broker with other arguments than ours", name)
    return found


def check(url: str, wanted: Topology) -> dict[str, Standing]:
    """How each exchange and queue stands, by name; makes nothing.

    Raises:
        TransientError: the broker cannot be reached.
    """
    found: dict[str, Standing] = {}
    with reached(), _connected(url, "zhika check") as connection:
        # Declaring what is there makes nothing: the broker compares.
        for name in wanted.exchanges:
            there = _attempt(connection, "exchange_declare", name, passive=True)
            found[name] = _exchange(connection, name) if there == "ok" else there
        for queue in wanted.queues:
            there = _attempt(connection, "queue_declare", queue.name, passive=True)
            found[queue.name] = _queue(connection, queue) if there == "ok" else there
    return found


@contextmanager
def _connected(url: str, name: str) -> Iterator[Any]:
    connection = pika.BlockingConnection(parameters(url, name))
    try:
        yield connection
    finally:
        with suppress(AMQPError):
            connection.close()


def _exchange(connection: Any, name: str) -> Standing:
    return _attempt(connection, "exchange_declare", name, "topic", durable=True)


def _queue(connection: Any, queue: Queue) -> Standing:
    return _attempt(connection, "queue_declare", queue.name, durable=True, arguments=dict(queue.arguments))


def _attempt(connection: Any, method: str, *arguments: Any, **named: Any) -> Standing:
    """One call on a channel of its own: the broker closes the channel of what it refuses."""
    channel = connection.channel()
    try:
        getattr(channel, method)(*arguments, **named)
    except ChannelClosedByBroker as error:
        if error.reply_code not in (_NOT_FOUND, _OTHER_ARGUMENTS):
            raise
        return "missing" if error.reply_code == _NOT_FOUND else "different"
    channel.close()
    return "ok"


class AmqpNotifier:
    """Publishes from one thread. A connection that is lost is made anew by the next `publish`; queues are declared when first met.

    No event of an outlet overtakes one that its queue refused. A full queue refuses, and takes events again once a fifth of it was
    read; were many on their way by then, the last of them could be taken after the first were refused. So an outlet's first event
    goes alone, to see whether its queue takes any, and the others go at once only where all of them fit far below the limit, else
    one after the other.
    """

    def __init__(self, url: str, *, max_length: int = MAX_LENGTH, patience_s: float = PATIENCE_S) -> None:
        self._url = url
        self._max_length = max_length
        self._patience_s = patience_s
        self._loop: Any = None
        self._connection: Any = None
        self._channel: Any = None
        self._looking: Any = None
        self._declared: set[str] = set()
        self._lanes: dict[str, deque[OutgoingEvent]] = {}
        self._lying: dict[str, int] = {}
        self._waiting: dict[int, OutgoingEvent] = {}
        self._answers: dict[str, Publishing] = {}
        self._sent = 0

    def publish(self, events: Sequence[OutgoingEvent]) -> dict[str, Publishing]:
        """Send events, in order for each outlet, up to the first that its queue refuses; returns what the broker said, by event id.

        An event that is missing in the answer was not sent, or may have been taken.

        Raises:
            TransientError: the broker cannot be reached; nothing was sent.
        """
        self._open()
        self._answers = {}
        self._lanes = {}
        for event in events:
            self._lanes.setdefault(str(event.outlet), deque()).append(event)
        self._declare(self._lanes.keys() - self._declared)
        self._look()
        for lane in self._lanes.values():
            self._send(lane.popleft())
        self._run(lambda: not self._waiting)
        if self._waiting:
            log.warning("%d events were not confirmed within %d s", len(self._waiting), self._patience_s)
            self.close()
        for event in events:
            if self._answers.get(event.id) == "no_queue":
                self._declared.discard(str(event.outlet))
        return self._answers

    def breathe(self) -> None:
        """Answer the broker's heartbeats while there is nothing to publish."""
        if self._channel is not None:
            self._run(lambda: False, limit_s=0.0)

    def close(self) -> None:
        """Give the connection up; what was not confirmed stays unanswered."""
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()
            self._run(lambda: False, limit_s=5.0)
        self._connection = None
        self._lose_channel()
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def _declare(self, outlets: Set[str]) -> None:
        if outlets:
            declare(self._url, topology(sorted(outlets), max_length=self._max_length))
            self._declared |= outlets

    def _look(self) -> None:
        """How many events lie in each queue; one that is not answered counts as full."""
        self._lying = {}
        if self._looking is None:
            self._connection.channel(on_open_callback=self._on_looking)
            self._run(lambda: self._looking is not None)
        for outlet in self._lanes if self._looking is not None else ():
            counted = partial(self._on_counted, outlet)
            self._looking.queue_declare(queue_of(outlet), passive=True, callback=counted)
        self._run(lambda: self._looking is None or len(self._lying) == len(self._lanes))

    def _send(self, event: OutgoingEvent) -> None:
        if self._channel is None:  # lost meanwhile: the rest stays unanswered
            return
        self._sent += 1
        self._waiting[self._sent] = event
        properties = pika.BasicProperties(
            content_type=CONTENT_TYPE, delivery_mode=_PERSISTENT, message_id=event.id, type=event.type
        )
        key = event_key(str(event.outlet), event.type)
        self._channel.basic_publish(EVENTS, key, event.body, properties, mandatory=True)

    def _go_on(self, outlet: str) -> None:
        """The queue took an event: the next one, or all that are left where they surely fit."""
        lane = self._lanes[outlet]
        easy = self._lying.get(outlet, self._max_length) + len(lane) < _EASY * self._max_length
        for _ in range(len(lane) if easy else min(1, len(lane))):
            self._send(lane.popleft())

    # ----------------------------------------------------------------------------------------------------- connection

    def _open(self) -> None:
        if self._channel is not None:
            return
        self.close()
        self._loop = IOLoop()
        self._loop.activate_poller()
        self._connection = pika.SelectConnection(
            parameters(self._url, "zhika outlets"),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_connection_closed,
            on_close_callback=self._on_connection_closed,
            custom_ioloop=self._loop,
        )
        self._run(lambda: self._channel is not None)
        if self._channel is None:
            self.close()
            raise TransientError("broker: no connection")

    def _on_channel(self, channel: Any) -> None:
        def confirming(_frame: Any) -> None:
            self._channel, self._sent = channel, 0

        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, confirming)

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        # The broker returns a message before it confirms it.
        self._answers[properties.message_id] = "no_queue"

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        answer: Publishing = "taken" if isinstance(method, pika.spec.Basic.Ack) else "full"
        tags = [method.delivery_tag]
        if method.multiple:
            tags = list(takewhile(lambda tag: tag <= method.delivery_tag, self._waiting))
        for tag in tags:
            event = self._waiting.pop(tag)
            if self._answers.setdefault(event.id, answer) == "taken":
                self._go_on(str(event.outlet))

    def _on_looking(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_looking_closed)
        self._looking = channel

    def _on_looking_closed(self, _channel: Any, _error: Any) -> None:
        # A queue that is not there ends the channel that asked for it.
        self._looking = None

    def _on_counted(self, outlet: str, frame: Any) -> None:
        self._lying[outlet] = frame.method.message_count

    def _on_channel_closed(self, _channel: Any, error: Any) -> None:
        log.info("the broker's channel ended: %s", type(error).__name__)
        self._lose_channel()

    def _on_connection_closed(self, _connection: Any, error: Any) -> None:
        """A connection has ended: by the broker, by us, or before it was open."""
        log.info("the connection to the broker ended: %s", type(error).__name__)
        self._connection = None
        self._lose_channel()

    def _lose_channel(self) -> None:
        self._channel = self._looking = None
        self._waiting.clear()
        self._declared.clear()

    def _run(self, until: Callable[[], bool], *, limit_s: float | None = None) -> None:
        """Let the connection work until something holds, or it ends, or the time is over; once at least."""
        ends = time.monotonic() + (self._patience_s if limit_s is None else limit_s)
        while self._connection is not None:
            alarm = self._loop.call_later(max(0.0, ends - time.monotonic()), lambda: None)
            self._loop.poll()
            self._loop.process_timeouts()
            self._loop.remove_timeout(alarm)
            if until() or time.monotonic() >= ends:
                break
