"""The whole line in one process: relay, timers, bank desk, notifier and a worker over one database, without a server.

Nothing depends on the process's memory: after a kill, what was ready is found again at the next start.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from config.wiring import Installation
from pipeline.errors import Conflict
from pipeline.states import STAGES
from pipeline.store import applications, views
from producers.bank_desk import BankDesk
from producers.notifier import Notifier
from producers.relay import Relay
from producers.timers import Timers
from workers.app import worker
from workers.broker import InProcessBroker


@contextmanager
def embedded(
    installation: Installation, *, stages: Sequence[str] = STAGES, sweep_every_s: float = 1.0
) -> Iterator[None]:
    """Run the line for the length of the block.

    Raises:
        Conflict: another process runs the line on the same SQLite file.
    """
    settings = installation.settings
    with only_process(settings.database.url), worker(installation, stages, broker=InProcessBroker()) as running:
        relay = Relay(
            context=installation.context,
            broker=running.broker,
            chunks={name: stage.chunk for name, stage in running.stages.items()},
            window=settings.workers.window,
            lease=timedelta(seconds=settings.workers.order_lease_s),
        )
        timers = Timers(context=installation.context, every_s=sweep_every_s)
        with installation.store.transaction() as tx:
            applications.unqueue(tx)  # orders of a former process lie in no broker any more
        desk = BankDesk(
            context=installation.context, banks=installation.bank, patience=installation.patience, every_s=sweep_every_s
        )
        notifier = Notifier(
            context=installation.context,
            sender=installation.webhooks,
            connections=installation.settings.webhooks.connections,
        )
        stopping = threading.Event()
        roles = {"relay": relay.run, "timers": timers.run, "bank-desk": desk.run, "notifier": notifier.run}
        threads = [
            threading.Thread(target=run, args=(stopping,), name=name, daemon=True) for name, run in roles.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)


@contextmanager
def only_process(database_url: str) -> Iterator[None]:
    """Be the one engine process of a SQLite file; other databases take many.

    Raises:
        Conflict: there is one already.
    """
    if not database_url.startswith("sqlite:///"):
        yield
        return
    path = Path(database_url.removeprefix("sqlite:///") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                "另一个进程正在使用此 SQLite 数据库；请先停止它，或改用 PostgreSQL",
                "another process runs on this SQLite file: stop it (zhika down), or use PostgreSQL",
                code="database-in-use",
            ) from None
        yield


def wait_told(installation: Installation, *, timeout_s: float, every_s: float = 0.1) -> bool:
    """Wait until banks and outlets have been told all there is to tell; False when that takes longer than `timeout_s`."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with installation.store.transaction() as tx:
            if not views.untold(tx):
                return True
        time.sleep(every_s)
    return False


def wait_quiet(installation: Installation, *, timeout_s: float, every_s: float = 0.05) -> bool:
    """Wait until no row can go on by itself before time passes; False when that takes longer than `timeout_s`."""
    until = time.monotonic() + timeout_s
    calm = 0
    while time.monotonic() < until:
        with installation.store.transaction() as tx:
            busy = applications.moving(tx, now=installation.clock.now())
        calm = 0 if busy else calm + 1
        if calm == 2:
            return True
        time.sleep(every_s)
    return False
