"""Commands of outlets from RabbitMQ: one at a time, in order, acknowledged when they are answered."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika
from pika.exceptions import AMQPError, InvalidFieldTypeException
from pika.frame import Header
from pika.spec import FRAME_END_SIZE, FRAME_HEADER, FRAME_HEADER_SIZE, BasicProperties

from pipeline.errors import TransientError
from pipeline.gateways.amqp_topology import COMMANDS, topology
from pipeline.gateways.notify_amqp import declare, parameters
from pipeline.outlet_commands import CommandMessage

log = logging.getLogger("zhika.outlet_amqp")
LOOK_S = 0.5
"""How often a consumer without messages looks whether it is to end."""
AGAIN_S = 1.0
_UNDECODABLE = (ValueError, ArithmeticError, OSError, RecursionError, struct.error, InvalidFieldTypeException)
"""What decoding a table raises: for a time or number that Python has not, or for tables within tables without end."""
_UNDECODED: dict[str, Any] = {}
"""Stands, as this one object, for headers that could not be decoded."""


class CommandQueue:
    """The queue of all outlets' commands. One message is on its way at a time, so what the broker counts against it is its own doing."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, handle: Callable[[CommandMessage], None], stopping: threading.Event) -> None:
        """Hand over messages until told to stop; reconnects by itself. A message that cannot be handled now (`TransientError`) is kept
        and tried again; any other failure gives it back to the broker at once, which counts.
        """
        while not stopping.is_set():
            try:
                declare(self._url, topology(()))
                connection = pika.BlockingConnection(
                    parameters(self._url, "zhika outlet commands"), _impl_class=_Tolerant
                )
                try:
                    self._consume(connection, handle, stopping)
                finally:
                    with suppress(AMQPError):
                        connection.close()
            except (AMQPError, OSError, TransientError) as error:
                log.warning("commands of outlets: %s; again in a second", type(error).__name__)
                stopping.wait(AGAIN_S)
            except Exception as error:
                log.error("commands of outlets: %s", type(error).__name__, exc_info=True)
                stopping.wait(AGAIN_S)

    def _consume(self, connection: Any, handle: Callable[[CommandMessage], None], stopping: threading.Event) -> None:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        for method, properties, body in channel.consume(COMMANDS, inactivity_timeout=LOOK_S):
            if stopping.is_set():
                return  # what is not acknowledged is delivered to the next consumer
            if method is None:
                continue
            message = _message(method, properties, body)
            while not stopping.is_set():
                try:
                    handle(message)
                except TransientError as error:
                    log.warning("a command waits: %s", error)
                    connection.sleep(AGAIN_S)  # goes on answering heartbeats
                    continue
                except Exception as error:
                    log.error("a command failed: %s", type(error).__name__, exc_info=True)
                    channel.basic_nack(method.delivery_tag, requeue=True)
                    break
                channel.basic_ack(method.delivery_tag)
                break


class _Tolerant(pika.SelectConnection):  # type: ignore[misc] # the library has no types
    """Reads a message whose headers the library cannot decode, as a time after the year 9999, without them.

    By itself the library loses the connection at such a message, again and again, and all that stand behind it wait.
    """

    def _read_frame(self) -> Any:
        try:
            return super()._read_frame()
        except _UNDECODABLE as error:
            return _without_headers(self._frame_buffer, error)


def _without_headers(frame: bytes, error: Exception) -> tuple[int, Any]:
    """The frame that begins a message, less its table of headers (AMQP 0-9-1, 2.3.5.2), and how many bytes it takes.

    Raises:
        Exception: `error`; it is another frame, or has no such table.
    """
    kind, channel, size = struct.unpack_from(">BHL", frame)
    payload = frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + size]
    if kind != FRAME_HEADER:
        raise error
    _class_id, _weight, body_size, flags = struct.unpack_from(">HHQH", payload)
    if not flags & BasicProperties.FLAG_HEADERS:
        raise error
    first = table = struct.calcsize(">HHQH")
    for flag in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & flag:
            table += 1 + payload[table]
    (length,) = struct.unpack_from(">I", payload, table)
    rest = payload[first:table] + payload[table + 4 + length :]
    properties = BasicProperties().decode(struct.pack(">H", flags & ~BasicProperties.FLAG_HEADERS) + rest)
    properties.headers = _UNDECODED
    return FRAME_HEADER_SIZE + size + FRAME_END_SIZE, Header(channel, body_size, properties)


def _message(method: Any, properties: Any, body: bytes) -> CommandMessage:
    count = (properties.headers or {}).get("x-delivery-count")
    return CommandMessage(
        key=_text(properties.message_id),
        user=_text(properties.user_id),
        routing_key=_text(method.routing_key) or "",
        body=body,
        deliveries=count if isinstance(count, int) else 0,  # at first the header may be the sender's own
        intact=properties.headers is not _UNDECODED,
    )


def _text(value: str | bytes | None) -> str | None:
    """A short string of the protocol; what is no UTF-8 comes as bytes."""
    return value if isinstance(value, str) else None
