"""A worker of `benchmarks.flow`: the engine as it is, over stages that ask nothing of the world.

The stages keep the states, the chunk-wise claim, the pure step and the settling transaction; only port calls, and the facts that
would come from them, are left out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dramatiq import Worker

from config.settings import load
from config.wiring import Installation
from pipeline.outcomes import Advance
from pipeline.policy import Policy
from pipeline.stages.base import Case, Decision, Need, Reconciler, Thinking
from pipeline.stages.validation import Validation
from workers import actors
from workers.broker import make_broker


@dataclass
class Through(Thinking):
    """Advances; its port is asked and does nothing."""

    name: str
    to: str
    needs: frozenset[Need] = frozenset()
    chunk: int = 200
    reconciler: Reconciler = "none"
    lease: timedelta = timedelta(minutes=2)

    def prepare(self, case: Case, policy: Policy, now: datetime) -> str:
        return case.id

    def act(self, requests: Mapping[str, str]) -> Mapping[str, str]:
        return dict(requests)

    def settle(self, case: Case, reply: str, policy: Policy, now: datetime) -> Decision:
        return Decision(Advance(self.to))


def main() -> None:
    """Work until SIGTERM."""
    settings = load()
    installation = Installation(settings)
    stages = {
        "validation": Validation(),
        "photo": Through("photo", "account"),
        "account": Through("account", "personalisation"),
        "personalisation": Through("personalisation", "dispatch"),
        "dispatch": Through("dispatch", "delivered"),
        "collection": Through("collection", "collected"),
    }
    broker = make_broker(settings.broker.url)
    actors.declare(broker, actors.runner(installation.context, stages, worker=f"w{os.getpid()}"))  # type: ignore[arg-type]
    broker.emit_after("process_boot")
    worker = Worker(broker, worker_threads=settings.workers.threads, worker_timeout=200)
    worker.queue_prefetch = settings.workers.threads
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    worker.start()
    print("ready", flush=True)
    ended.wait()
    worker.stop(timeout=10_000)
    installation.close()


if __name__ == "__main__":
    main()
