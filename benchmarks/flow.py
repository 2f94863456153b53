"""The engine's own cost: applications per second through all six stages, by chunks and one id a message, in one run.

Port calls are replaced by no-ops; everything else is the engine as it runs: RabbitMQ, PostgreSQL, the relay with publisher confirms,
worker processes, claims, leases, history. Both runs use the same processes and the same code; only the number of ids in a
work order differs. Writes `out/bench/flow.json`.

    python -m benchmarks.flow [--chunked N] [--single N] [--workers N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from config.settings import load
from config.wiring import Installation
from pipeline.application import Document, Submission
from pipeline.identifiers import gb11643_check
from pipeline.person import Person
from pipeline.services.accept import accept
from pipeline.stages.registry import CHUNKS
from pipeline.states import STAGES
from pipeline.store import applications
from producers.relay import Relay
from workers import actors
from workers.broker import SafeRabbitmqBroker, make_broker

POSTGRES = os.environ.get("ZHIKA_TEST_POSTGRES", "postgresql://zhika:zhika@127.0.0.1:5432/zhika")
AMQP = os.environ.get("ZHIKA_TEST_AMQP", "amqp://zhika:zhika@127.0.0.1:5672/zhika")
CHUNK = 200
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run."""

    applications: int
    seconds: float
    cpu_ms: Mapping[str, float]
    """CPU milliseconds per application of `workers`, `relay`, `database`, `broker`."""

    @property
    def per_s(self) -> float:
        return self.applications / self.seconds


def submissions(count: int, start: int) -> list[Submission]:
    """Plain submissions of fictitious people."""
    made = []
    for n in range(start, start + count):
        first17 = f"999{n // 1000:03d}19800101{n % 1000:03d}"
        number = first17 + gb11643_check(first17)
        person = Person(
            name="测试",
            id_type="resident_id",
            id_number=number,
            social_security_number=number,
            sex="1" if n % 2 else "2",
            ethnic="01",
            birth_date=date(1980, 1, 1),
            phone="13800000000",
            address="样例路1号",
        )
        made.append(
            Submission(
                external_ref=f"B-{n}",
                source="bench",
                region="420100",
                agency="ag_42010601",
                window="agency",
                category="urban_employee",
                district="420106",
                person=person,
                bank_code="95533",
                outlet="out_42010601",
                documents=(Document(type="application_form"),),
                confirmed=True,
            )
        )
    return made


@contextmanager
def database() -> Iterator[str]:
    """A database of its own."""
    name = f"zhika_bench_{os.getpid()}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def purge(broker: SafeRabbitmqBroker) -> None:
    """Empty queues, made if they are not there."""
    for name in sorted(broker.get_declared_queues()):
        broker.declare_queue(name, ensure=True)
        broker.channel.queue_purge(name)


def cpu_of(pids: list[int]) -> float:
    """CPU seconds of processes, so far."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / TICKS


def pids_named(*names: str) -> list[int]:
    """Processes by their name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip().startswith(names):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def run(
    url: str, *, count: int, chunks: Mapping[str, int], start: int, workers: int, threads: int, label: str
) -> Measured:
    """Move `count` applications from accepted to the end of the line, and measure."""
    settings = load(
        env="test",
        data_dir=Path("out/bench/data"),
        database={"url": url},
        broker={"url": AMQP},
        workers={"threads": threads},
    )
    installation = Installation(settings)
    context = installation.context
    broker = make_broker(AMQP)
    assert isinstance(broker, SafeRabbitmqBroker)
    actors.declare(broker, actors.nothing)
    purge(broker)
    for n in range(start, start + count, 500):
        accept(context, submissions(min(500, start + count - n), n), actor="bench")
    with installation.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("VACUUM ANALYZE")
    environment = {**os.environ, "ZHIKA_DATABASE__URL": url, "ZHIKA_BROKER__URL": AMQP, "ZHIKA_ENV": "test"}
    environment |= {"ZHIKA_DATA_DIR": "out/bench/data", "ZHIKA_WORKERS__THREADS": str(threads)}
    children = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.flow_worker"], env=environment, stdout=subprocess.PIPE)
        for _ in range(workers)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    relay = Relay(context=context, broker=broker, chunks=chunks, window=16, lease=timedelta(minutes=10))
    stopping = threading.Event()
    groups = {
        "workers": [child.pid for child in children],
        "relay": [os.getpid()],
        "database": pids_named("postgres"),
        "broker": pids_named("beam.smp", "erl_child_setup"),
    }
    before = {name: cpu_of(pids) for name, pids in groups.items()}
    began = time.perf_counter()
    thread = threading.Thread(target=relay.run, args=(stopping,), daemon=True)
    thread.start()
    try:
        done = 0
        while done < count:
            time.sleep(0.2)
            done = finished(installation)
            sys.stderr.write(f"\r{label}: {done}/{count}")
            if time.perf_counter() - began > 600:
                raise SystemExit(f"{label}: {done} of {count} after 10 minutes")
        seconds = time.perf_counter() - began
        sys.stderr.write("\n")
        groups["database"] = pids_named("postgres")
        after = {name: cpu_of(pids) for name, pids in groups.items()}
    finally:
        stopping.set()
        thread.join()
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        installation.close()
        broker.close()
    cpu = {name: round((after[name] - before[name]) * 1000 / count, 3) for name in groups}
    return Measured(count, seconds, cpu)


def finished(installation: Installation) -> int:
    """Applications that are through."""
    with installation.store.transaction() as tx:
        return applications.count_status(tx, "collected")


def main() -> None:
    """Run both ways and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunked", type=int, default=8000)
    parser.add_argument("--single", type=int, default=600)
    parser.add_argument("--production", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out/bench/flow.json"))
    given = parser.parse_args()
    ids = iter(range(0, 10**6, 100_000))
    plan = {
        "warm_up": (400, dict.fromkeys(STAGES, CHUNK)),
        "chunked": (given.chunked, dict.fromkeys(STAGES, CHUNK)),
        "single": (given.single, dict.fromkeys(STAGES, 1)),
        "production": (given.production, CHUNKS),
    }
    results: dict[str, Measured] = {}
    for label, (count, chunks) in plan.items():
        with database() as url:
            results[label] = run(
                url,
                count=count,
                chunks=chunks,
                start=next(ids),
                workers=given.workers,
                threads=given.threads,
                label=label,
            )
    chunked, single, production = results["chunked"], results["single"], results["production"]
    figures = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": os.cpu_count(),
        "workers": given.workers,
        "threads": given.threads,
        "chunk": CHUNK,
        "chunked_per_s": round(chunked.per_s, 1),
        "single_per_s": round(single.per_s, 1),
        "ratio": round(chunked.per_s / single.per_s, 2),
        "production_chunks": dict(CHUNKS),
        "production_per_s": round(production.per_s, 1),
        "cpu_ms_per_application": {name: dict(results[name].cpu_ms) for name in ("chunked", "single", "production")},
        "applications": {name: results[name].applications for name in ("chunked", "single", "production")},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
