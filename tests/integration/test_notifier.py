"""The notifier as a role: it delivers by itself, stands by while another leads, and ends when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from config import metrics
from config.policies import load_policies
from pipeline.calendar import ChineseCalendar
from pipeline.clock import SystemClock
from pipeline.events import Event
from pipeline.gateways.addresses import AllowList
from pipeline.gateways.objects import ObjectMemory
from pipeline.gateways.webhook import WebhookPoster
from pipeline.services import endpoints
from pipeline.services.context import Context
from pipeline.store import outbox
from pipeline.store.engine import Store
from producers.notifier import Notifier
from producers.simulators.receiver import Receiver

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def context(store: Store) -> Context:
    policies, objects = load_policies(), ObjectMemory(key=bytes(32))
    return Context(store=store, clock=SystemClock(), policies=policies, calendar=ChineseCalendar(), objects=objects)


@contextmanager
def running(notifier: Notifier) -> Iterator[threading.Thread]:
    stopping = threading.Event()
    thread = threading.Thread(target=notifier.run, args=(stopping,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(20)
        assert not thread.is_alive()


def tell(store: Store, count: int) -> list[str]:
    told = [
        Event(type="card.ready", subject=f"card_{n}", region="420100", sequence=1, outlet="out_1") for n in range(count)
    ]
    with store.transaction() as tx:
        ids = outbox.append(tx, told, now=SystemClock().now())
    with store.transaction() as tx:
        outbox.place(tx, limit=1000)
    return ids


def test_events_reach_the_outlet_and_are_counted_and_two_notifiers_send_each_once(context: Context) -> None:
    before = metrics.WEBHOOK_ATTEMPTS.labels("delivered")._value.get()
    arrived = threading.Event()
    with (
        Receiver() as receiver,
        WebhookPoster(AllowList(allow=LOOPBACK, plain_http=LOOPBACK), clock=context.clock) as sender,
    ):
        endpoints.create(
            context, sender, outlet="out_1", region="420100", url=f"{receiver.url}/hook", max_rps=1000, actor="ada"
        )
        receiver.heard = lambda path: len(receiver.received[path]) == 20 and arrived.set()
        leader = Notifier(context=context, sender=sender)
        with running(leader):
            if context.store.postgres:  # on SQLite there is one process
                with (
                    WebhookPoster(AllowList(allow=LOOPBACK, plain_http=LOOPBACK), clock=context.clock) as second,
                    running(Notifier(context=context, sender=second)),
                ):
                    ids = tell(context.store, 20)
                    assert arrived.wait(30)
            else:
                ids = tell(context.store, 20)
                assert arrived.wait(30)
        assert receiver.received["/hook"] == dict.fromkeys(ids, 1)
    assert metrics.WEBHOOK_ATTEMPTS.labels("delivered")._value.get() == before + 20
