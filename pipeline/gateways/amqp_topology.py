"""What stands on the message broker for outlets, as values: exchanges, queues, bindings, and who may do what.

Pure: `notify_amqp` declares it, `definitions` writes it in the broker's own JSON, for `rabbitmqctl import_definitions`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EVENTS = "outlet"
"""Topic exchange; an event's key is `outlet.<outlet id>.<event type>`."""
COMMANDS = "outlet.commands"
"""Topic exchange, and the queue of all outlets' commands; a command's key is the outlet's id."""
DEAD = "outlet.commands.dead"
"""Commands that the broker gave up, since they ended whoever took them. They may say something of a person: kept for a week."""
MAX_LENGTH = 10_000
"""Events in one outlet's queue: the next one is refused and stays with us, none is dropped from the head."""
DELIVERY_LIMIT = 10
_DEAD_TTL_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages of a topic exchange whose key matches go into a queue."""

    exchange: str
    key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that is declared; every exchange is a durable topic exchange."""

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


def topology(outlets: Sequence[str], *, max_length: int = MAX_LENGTH) -> Topology:
    """What is shared, and the queues of some outlets."""
    quorum = {"x-queue-type": "quorum"}
    commands = {
        **quorum,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD,
    }
    dead = {**quorum, "x-message-ttl": _DEAD_TTL_MS}
    events = {**quorum, "x-max-length": max_length, "x-overflow": "reject-publish"}
    names = [(queue_of(outlet), f"{queue_of(outlet)}.#") for outlet in outlets]
    return Topology(
        exchanges=(EVENTS, COMMANDS),
        queues=(Queue(COMMANDS, commands), Queue(DEAD, dead), *(Queue(name, events) for name, _ in names)),
        bindings=(Binding(COMMANDS, "#", COMMANDS), *(Binding(EVENTS, key, name) for name, key in names)),
    )


def queue_of(outlet: str) -> str:
    """The name of an outlet's queue; its user is called the same."""
    return f"outlet.{outlet}"


def event_key(outlet: str, kind: str) -> str:
    """The routing key of an event."""
    return f"{queue_of(outlet)}.{kind}"


def outlet_of(user: str) -> str | None:
    """The outlet whose user this is."""
    return user.removeprefix("outlet.") if user.startswith("outlet.out_") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletUser:
    """The user an outlet's program comes as."""

    outlet: str
    password: str = field(repr=False)


def definitions(
    users: Sequence[OutletUser], *, vhost: str, salt: bytes, max_length: int = MAX_LENGTH
) -> dict[str, Any]:
    """The broker's definitions for some outlets: an outlet's user reads its own queue and writes commands under its own key, no more.

    `salt` is 4 random bytes for each user.

    Raises:
        ValueError: the salt has another length.
    """
    if len(salt) != 4 * len(users):
        raise ValueError("4 bytes of salt for each user")
    stands = topology([user.outlet for user in users], max_length=max_length)
    return {
        "users": [
            {
                "name": queue_of(user.outlet),
                "password_hash": password_hash(user.password, salt[4 * n : 4 * n + 4]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
                "limits": {},
            }
            for n, user in enumerate(users)
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [
            {
                "user": queue_of(user.outlet),
                "vhost": vhost,
                "configure": "^$",
                "write": f"^{re.escape(COMMANDS)}$",
                "read": f"^{re.escape(queue_of(user.outlet))}$",
            }
            for user in users
        ],
        "topic_permissions": [
            {
                "user": queue_of(user.outlet),
                "vhost": vhost,
                "exchange": COMMANDS,
                "write": f"^{re.escape(user.outlet)}$",
                "read": "^$",
            }
            for user in users
        ],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name in stands.exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "type": "quorum",
                "durable": True,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in stands.queues
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for binding in stands.bindings
        ],
    }


def password_hash(password: str, salt: bytes) -> str:
    """A password as the broker keeps it: base64 of salt and SHA-256 over salt and password."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
