"""Deliveries per second of the whole webhook engine, against plain posting of the same bodies, in one run.

The engine fans events out, claims, signs, sends, logs and settles, on PostgreSQL and on SQLite. Plain posting is what one would write
without any of that: httpx2 with connections kept, once with an event loop and once with threads; the faster of the two is what the
engine is measured against. Both send to the same receiver processes, which take everything and verify nothing, so their
cost is the same for both. Rounds alternate and the best of each counts. Writes `out/bench/outlets.json`.

    python -m benchmarks.outlets [--deliveries N] [--outlets N] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from benchmarks.flow import database
from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.events import Event
from pipeline.services import endpoints, notify
from pipeline.store import outbox

RECEIVERS = 2
CONCURRENCY = 64
THREADS = 16
GOAL = 0.6
LOOPBACK = "127.0.0.0/8"
Bodies = Sequence[tuple[str, bytes]]


@contextmanager
def receiver() -> Iterator[str]:
    """A process that takes webhooks; where it listens."""
    command = [sys.executable, "-m", "producers.cli.main", "simulate", "outlet", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            yield child.stderr.readline().split()[-1]
        finally:
            child.terminate()


def event(n: int, outlet: str) -> Event:
    """A card that is ready, as outlets hear of it."""
    card = f"card_{n:026d}"
    data = {
        "card_id": card,
        "application_id": f"app_{n:026d}",
        "external_ref": f"WH-2026-{n:06d}",
        "kind": "first",
        "region": "420100",
        "outlet_id": outlet,
        "bundle_id": f"bun_{n // 200:026d}",
        "slot": f"B-{n % 200:03d}",
        "fee": "waived",
        "notify_by": "2026-12-18T15:59:59Z",
        "links": {"self": f"/v1/cards/{card}"},
    }
    return Event(type="card.ready", subject=card, region="420100", sequence=n, outlet=outlet, data=data)


def outlets_of(installation: Installation, urls: Sequence[str], count: int) -> list[str]:
    """Outlets with an endpoint each; their ids."""
    made = []
    for n in range(count):
        outlet = f"out_420100{n:03d}"
        endpoints.create(
            installation.context,
            installation.webhooks,
            outlet=outlet,
            region="420100",
            url=f"{urls[n % len(urls)]}/hooks/{outlet}",
            max_rps=endpoints.MAX_RPS,
            actor="bench",
        )
        made.append(outlet)
    return made


def engine(installation: Installation, outlets: Sequence[str], deliveries: int) -> float:
    """Deliveries per second, from events in the feed to deliveries settled."""
    context = installation.context
    with context.store.transaction() as tx:
        told = [event(n, outlets[n % len(outlets)]) for n in range(deliveries)]
        outbox.append(tx, told, now=context.now())
    with context.store.transaction() as tx:
        outbox.place(tx, limit=deliveries)
    deliverer = notify.Deliverer(context, installation.webhooks)
    began = time.perf_counter()
    delivered, more = 0, True
    while delivered < deliveries:
        if more:
            more = notify.fan_out(context).more
        settled = deliverer.step(0.2)
        if any(not attempt.delivered for attempt in settled):
            raise SystemExit("a delivery failed; the figures would mean nothing")
        delivered += len(settled)
    return deliveries / (time.perf_counter() - began)


def bodies(urls: Sequence[str], outlets: int, deliveries: int) -> Bodies:
    """The same bodies as the engine sends, and where to."""
    made = []
    for n in range(deliveries):
        outlet = f"out_420100{n % outlets:03d}"
        body = event(n, outlet).body(f"evt_{n:026d}", datetime.now(UTC))
        made.append((f"{urls[n % outlets % len(urls)]}/hooks/{outlet}", body))
    return made


_HEADERS = {"content-type": "application/cloudevents+json"}


def plain_loop(posts: Bodies) -> float:
    """Posts per second of an event loop."""

    async def run() -> float:
        limits = httpx2.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
        async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=15) as client:
            places = asyncio.Semaphore(CONCURRENCY)

            async def post(url: str, body: bytes) -> None:
                async with places:
                    (await client.post(url, content=body, headers=_HEADERS)).raise_for_status()

            began = time.perf_counter()
            await asyncio.gather(*(post(url, body) for url, body in posts))
            return len(posts) / (time.perf_counter() - began)

    return asyncio.run(run())


def plain_threads(posts: Bodies) -> float:
    """Posts per second of threads that share a client."""
    limits = httpx2.Limits(max_connections=THREADS, max_keepalive_connections=THREADS)
    with httpx2.Client(trust_env=False, limits=limits, timeout=15) as client, ThreadPoolExecutor(THREADS) as pool:

        def post(to: tuple[str, bytes]) -> None:
            client.post(to[0], content=to[1], headers=_HEADERS).raise_for_status()

        began = time.perf_counter()
        for _ in pool.map(post, posts):
            continue
        return len(posts) / (time.perf_counter() - began)


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=4000)
    parser.add_argument("--outlets", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench/outlets.json"))
    given = parser.parse_args()
    with ExitStack() as stack:
        urls = [stack.enter_context(receiver()) for _ in range(RECEIVERS)]
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs: dict[str, Callable[[], float]] = {}
        places = {"postgresql": stack.enter_context(database()), "sqlite": f"sqlite:///{work / 'zhika.db'}"}
        for name, url in places.items():
            webhooks = {"allow": [LOOPBACK], "plain_http": [LOOPBACK]}
            installation = Installation(
                load(OnlyGiven, env="test", data_dir=work / name, database={"url": url}, webhooks=webhooks)
            )
            stack.callback(installation.close)
            outlets = outlets_of(installation, urls, given.outlets)
            runs[name] = lambda i=installation, o=outlets: engine(i, o, given.deliveries)
        posts = bodies(urls, given.outlets, given.deliveries)
        runs |= {"plain_loop": lambda: plain_loop(posts), "plain_threads": lambda: plain_threads(posts)}
        best = dict.fromkeys(runs, 0.0)
        for n in range(given.rounds):
            for name, run in runs.items():
                best[name] = max(best[name], run())
                sys.stderr.write(f"round {n + 1} {name}: {best[name]:.0f}/s\n")
    plain = max(best["plain_loop"], best["plain_threads"])
    figures = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": os.cpu_count(),
        "deliveries": given.deliveries,
        "outlets": given.outlets,
        "per_s": {name: round(rate, 1) for name, rate in best.items()},
        "ratio": {name: round(best[name] / plain, 2) for name in places},
        "goal": GOAL,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
