"""Commands of outlets from RabbitMQ: one at a time, in order, acknowledged when they are answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika
from pika.exceptions import AMQPError

from pipeline.errors import TransientError
from pipeline.gateways.amqp_topology import COMMANDS, topology
from pipeline.gateways.notify_amqp import declare, parameters
from pipeline.outlet_commands import CommandMessage

log = logging.getLogger("zhika.outlet_amqp")
LOOK_S = 0.5
"""How often a consumer without messages looks whether it is to end."""
AGAIN_S = 1.0


class CommandQueue:
    """The queue of all outlets' commands. One message is on its way at a time, so what the broker counts against it is its own doing."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, handle: Callable[[CommandMessage], bool], stopping: threading.Event) -> None:
        """Hand over messages until told to stop; reconnects by itself. `handle` says whether a message could be read: one that could
        not is put aside in `outlet.commands.dead`. One whose handling cannot be done now is kept and tried again; any other failure gives
        it back to the broker, which counts.
        """
        while not stopping.is_set():
            try:
                declare(self._url, topology(()))
                connection = pika.BlockingConnection(parameters(self._url, "zhika outlet commands"))
                try:
                    self._consume(connection, handle, stopping)
                finally:
                    with suppress(AMQPError):
                        connection.close()
            except (AMQPError, OSError, TransientError) as error:
                log.warning("commands of outlets: %s; again in a second", type(error).__name__)
                stopping.wait(AGAIN_S)

    def _consume(self, connection: Any, handle: Callable[[CommandMessage], bool], stopping: threading.Event) -> None:
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
                    readable = handle(message)
                except TransientError as error:
                    log.warning("a command waits: %s", error)
                    connection.sleep(AGAIN_S)  # goes on answering heartbeats
                    continue
                except Exception as error:
                    log.error("a command failed: %s", type(error).__name__, exc_info=True)
                    connection.sleep(AGAIN_S)
                    channel.basic_nack(method.delivery_tag, requeue=True)
                    break
                if readable:
                    channel.basic_ack(method.delivery_tag)
                else:
                    log.error("a command could not be read and was put aside")
                    channel.basic_nack(method.delivery_tag, requeue=False)
                break


def _message(method: Any, properties: Any, body: bytes) -> CommandMessage:
    headers = properties.headers or {}
    return CommandMessage(
        key=properties.message_id,
        user=properties.user_id,
        routing_key=method.routing_key,
        body=body,
        deliveries=int(headers.get("x-delivery-count", 0)),
    )
