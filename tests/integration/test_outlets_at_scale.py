"""Ready cards told to 200 outlets while a third of the receivers fail and the sender is killed: none is lost, and ids tell doubles."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from config.policies import load_policies
from pipeline.calendar import ChineseCalendar
from pipeline.clock import SystemClock, VirtualClock
from pipeline.events import Event
from pipeline.gateways.addresses import AllowList
from pipeline.gateways.objects import ObjectMemory
from pipeline.gateways.webhook import WebhookPoster
from pipeline.services import endpoints, notify
from pipeline.services.context import Context
from pipeline.services.notify import Deliverer
from pipeline.store import outbox, webhooks
from pipeline.store.engine import Store

OUTLETS = 200
FAULTS = ("fail", "reset", "lost", "busy")
LOOPBACK = (ip_network("127.0.0.0/8"),)


@contextmanager
def receivers() -> Iterator[str]:
    """A process that is every outlet's receiver, each under its own path; where it listens."""
    command = [sys.executable, "-m", "producers.cli.main", "simulate", "outlet", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            yield child.stderr.readline().split()[-1]
        finally:
            child.terminate()


def ask(method: str, url: str, document: Any = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        said = response.read()
    return json.loads(said) if said else None


def owed(store: Store) -> dict[str, int]:
    with store.transaction() as tx:
        return webhooks.owed(tx)


def poster() -> WebhookPoster:
    # The receivers' process has the machine's clock, and signatures must not be older than five minutes there.
    return WebhookPoster(AllowList(allow=LOOPBACK, plain_http=LOOPBACK), clock=SystemClock(), timeout_s=2)


def test_every_outlet_hears_of_every_card(store: Store) -> None:
    events = 2_000 if store.postgres else 10_000
    clock = VirtualClock(datetime.now(UTC))
    policies, objects = load_policies(), ObjectMemory(key=bytes(32))
    context = Context(store=store, clock=clock, policies=policies, calendar=ChineseCalendar(), objects=objects)
    with receivers() as url, poster() as sender:
        paths, keys = {}, {}
        for n in range(OUTLETS):
            made = endpoints.create(
                context, sender, outlet=f"out_{n}", region="420100", url=f"{url}/{n}", max_rps=1000, actor="ada"
            )
            paths[made.id], keys[f"/{n}"] = f"/{n}", [made.key]
        sick = {f"/{n}": FAULTS[n // 3 % len(FAULTS)] for n in range(0, OUTLETS, 3)} | {"/0": "silent"}
        ask("PUT", f"{url}/script", {"keys": keys, "faults": sick})
        told = [
            Event(type="card.ready", subject=f"card_{n}", region="420100", sequence=1, outlet=f"out_{n % OUTLETS}")
            for n in range(events)
        ]
        with store.transaction() as tx:
            ids = outbox.append(tx, told, now=clock.now())
        with store.transaction() as tx:
            outbox.place(tx, limit=events)
        while notify.fan_out(context).more:
            continue

        # The well are not kept waiting by the sick. Half-way the sender dies, having sent what it will never settle.
        doomed = Deliverer(context, sender)
        done = 0
        while done < events // 3:
            done += sum(attempt.delivered for attempt in doomed.step(5))
        assert sender.take(5)
        assert not doomed.idle
        sender.close()
        clock.advance(timedelta(minutes=3))

        with poster() as sender:
            deliverer = Deliverer(context, sender)
            well = {i for i, path in paths.items() if path not in sick}
            left = sum(n for i, n in owed(store).items() if i in well)
            while left:
                left -= sum(attempt.delivered and attempt.endpoint_id in well for attempt in deliverer.step(5))
            assert set(owed(store)) == paths.keys() - well

            ask("PUT", f"{url}/script", {"faults": dict.fromkeys(sick)})
            for _ in range(20):
                clock.advance(timedelta(hours=3))
                deliverer.step()
                while not deliverer.idle:
                    deliverer.step(5)
                if not owed(store):
                    break
            assert owed(store) == {}

        received = ask("GET", f"{url}/received")
    expected = {f"/{n}": set(ids[n::OUTLETS]) for n in range(OUTLETS)}
    assert {path: set(counted) for path, counted in received.items()} == expected
    with store.transaction() as tx:
        rows = [row for i in paths for row in webhooks.deliveries(tx, i, limit=events)]
    assert len(rows) == events
    assert {row.state for row in rows} == {"delivered"}
    doubled = [n for counted in received.values() for n in counted.values() if n > 1]
    assert doubled, "the killed sender and the lost answers must have brought some twice"


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's proxies have no say in how this test asks."""
    monkeypatch.setenv("no_proxy", "*")
