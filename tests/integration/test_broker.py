"""RabbitMQ as the engine uses it: confirmed publishing, and acks that cannot hit another message."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer
from dramatiq.errors import ConnectionClosed

from workers.broker import BoundConsumer, SafeRabbitmqBroker

PATIENCE_S = 20.0


@pytest.fixture
def broker(amqp_url: str) -> Iterator[SafeRabbitmqBroker]:
    made = SafeRabbitmqBroker(amqp_url)
    yield made
    for queue in made.queues:
        made.channel.queue_delete(queue)
        made.channel.queue_delete(f"{queue}.XQ")
    made.close()


@pytest.fixture
def queue(broker: SafeRabbitmqBroker) -> str:
    name = f"test-{uuid4().hex}"
    broker.declare_queue(name, ensure=True)
    return name


def send(broker: SafeRabbitmqBroker, queue: str, *words: str) -> None:
    for word in words:
        broker.enqueue(dramatiq.Message(queue_name=queue, actor_name=queue, args=(word,), kwargs={}, options={}))


def receive(consumer: Any) -> Any:
    """The next message, waited for."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if (message := next(consumer)) is not None:
            return message
    raise AssertionError("no message came")


def left(broker: SafeRabbitmqBroker, queue: str, *, expected: int) -> list[str]:
    """What lies in a queue once nobody holds any of it; the messages stay there."""
    consumer = broker.consume(queue, prefetch=10, timeout=300)
    words = []
    for _ in range(expected):
        words.append(receive(consumer).args[0])
    assert next(consumer) is None
    consumer.close()
    return sorted(words)


def test_an_ack_takes_a_message_off_the_queue(broker: SafeRabbitmqBroker, queue: str) -> None:
    send(broker, queue, "a", "b")
    consumer = broker.consume(queue, prefetch=1, timeout=300)
    message = receive(consumer)
    consumer.ack(message)
    consumer.close()
    assert left(broker, queue, expected=1) == ["b"]


@pytest.mark.parametrize("verb", ["ack", "nack"])
def test_an_ack_of_a_lost_connection_never_hits_another_message(
    broker: SafeRabbitmqBroker, queue: str, verb: str
) -> None:
    send(broker, queue, "a")
    before = broker.consume(queue, prefetch=1, timeout=300)
    running = receive(before)
    before.connection.close()
    after = broker.consume(queue, prefetch=1, timeout=300)
    redelivered = receive(after)
    assert redelivered._tag == running._tag  # the broker counts from 1 again: without the binding this ack would count
    getattr(after, verb)(running)
    after.close()
    assert left(broker, queue, expected=1) == ["a"]


def test_the_library_as_it_comes_would_ack_another_message(broker: SafeRabbitmqBroker, queue: str) -> None:
    """Why `BoundConsumer` exists: should this fail one day, it may go."""
    send(broker, queue, "a")
    before = _RabbitmqConsumer(broker, queue, 1, 300)
    running = receive(before)
    before.connection.close()
    after = _RabbitmqConsumer(broker, queue, 1, 300)
    receive(after)
    after.ack(running)
    after.close()
    assert left(broker, queue, expected=0) == []


def test_a_task_whose_connection_was_lost_is_run_again_and_no_other_is_lost(amqp_url: str) -> None:
    broker = SafeRabbitmqBroker(amqp_url)
    name = f"test-{uuid4().hex}"
    ran: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(word: str) -> None:
        ran.append(word)
        if word == "slow" and ran.count("slow") == 1:
            begun.set()
            go_on.wait(PATIENCE_S)

    dramatiq.Actor(work, broker=broker, actor_name=name, queue_name=name, priority=0, options={"max_retries": 0})
    send(broker, name, "slow", "b", "c", "d")
    worker = Worker(broker, queues={name}, worker_threads=1, worker_timeout=200)
    worker.queue_prefetch = 1
    worker.start()
    try:
        assert begun.wait(PATIENCE_S)
        consumer = worker.consumers[name].consumer
        assert isinstance(consumer, BoundConsumer)
        consumer.connection.add_callback_threadsafe(consumer.connection.close)
        reconnected(worker, name, consumer)
        go_on.set()
        finished(lambda: set(ran) == {"slow", "b", "c", "d"} and ran.count("slow") == 2)
    finally:
        go_on.set()
        worker.stop()
    assert left(broker, name, expected=0) == []
    broker.channel.queue_delete(name)
    broker.channel.queue_delete(f"{name}.XQ")
    broker.close()


def reconnected(worker: Worker, queue: str, former: Any) -> None:
    finished(lambda: worker.consumers[queue].consumer not in (None, former))


def finished(condition: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came to this"
        time.sleep(0.02)


def test_a_message_the_broker_does_not_keep_is_an_error_of_the_publisher(amqp_url: str) -> None:
    class Small(SafeRabbitmqBroker):
        def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
            kept = super()._build_queue_arguments(queue_name)
            return kept | {"x-max-length": 1, "x-overflow": "reject-publish"}

    broker = Small(amqp_url)
    name = f"test-{uuid4().hex}"
    try:
        send(broker, name, "a")
        with pytest.raises(ConnectionClosed):
            send(broker, name, "b")
        assert left(broker, name, expected=1) == ["a"]
    finally:
        broker.channel.queue_delete(name)
        broker.channel.queue_delete(f"{name}.XQ")
        broker.close()


def test_a_queue_comes_without_a_delay_queue(broker: SafeRabbitmqBroker, queue: str) -> None:
    import pika.exceptions

    probe = pika.BlockingConnection(broker.parameters[0] if isinstance(broker.parameters, list) else broker.parameters)
    channel = probe.channel()
    channel.queue_declare(f"{queue}.XQ", passive=True)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        channel.queue_declare(f"{queue}.DQ", passive=True)
    probe.close()
