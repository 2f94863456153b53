"""What one process of an installation does: a role of `zhika run`. Each says in the database that it is alive."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from config import metrics
from config.release import release
from config.settings import BadConfiguration
from config.wiring import Installation
from pipeline.errors import TransientError
from pipeline.stages.registry import CHUNKS
from pipeline.states import STAGES
from pipeline.store import control
from producers.bank_desk import BankDesk
from producers.file_intake import Watcher
from producers.notifier import Notifier
from producers.outlet_amqp import OutletAmqp
from producers.relay import Relay
from producers.supervisor import end_with_supervisor
from producers.timers import Timers
from workers import actors
from workers.app import worker
from workers.broker import make_broker

log = logging.getLogger("zhika.roles")
BEAT_S = 2.0


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, or the end of the supervisor."""
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    end_with_supervisor(stopping.set)
    return stopping


@contextmanager
def alive(installation: Installation, role: str, stopping: threading.Event) -> Iterator[None]:
    """Say that this role is up, again and again, for the length of the block."""
    store, clock = installation.store, installation.clock
    with store.transaction() as tx:
        control.restart(tx, role, pid=os.getpid(), now=clock.now())

    def beat() -> None:
        while not stopping.wait(BEAT_S):
            try:
                with store.transaction() as tx:
                    control.beat(tx, role, pid=os.getpid(), now=clock.now())
            except TransientError as error:
                log.warning("no sign of life could be given: %s", error)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(5)
        try:
            with store.transaction() as tx:
                control.leave(tx, role)
        except TransientError:
            log.warning("%s ends without saying so: the database is away", role)


def _needs_broker(installation: Installation) -> None:
    """A role of its own process talks to the others through a broker.

    Raises:
        BadConfiguration: there is none.
    """
    if installation.settings.embedded:
        raise BadConfiguration(
            [
                "ZHIKA_BROKER__URL: a role of its own needs RabbitMQ (amqp://…); without a broker use `zhika up`, which is one process"
            ]
        )


def run_relay(installation: Installation) -> None:
    """Be the relay until told to stop."""
    _needs_broker(installation)
    stopping = stop_on_signals()
    settings = installation.settings
    broker = make_broker(settings.broker.url, quorum=settings.broker.quorum)
    actors.declare(broker, actors.nothing)
    relay = Relay(
        context=installation.context,
        broker=broker,
        chunks=CHUNKS,
        window=settings.workers.window,
        lease=timedelta(seconds=settings.workers.order_lease_s),
    )
    with alive(installation, "relay", stopping):
        relay.run(stopping)
    broker.close()


def run_timers(installation: Installation) -> None:
    """Be the timers until told to stop; serves the metrics that only the database knows."""
    _needs_broker(installation)
    stopping = stop_on_signals()
    metrics.BUILD.labels(release(), "full").set(1)
    if installation.settings.metrics.bind:
        metrics.serve(installation.settings.metrics.bind)
    with alive(installation, "timers", stopping):
        Timers(context=installation.context).run(stopping)


def run_bank_desk(installation: Installation) -> None:
    """Be the bank desk until told to stop."""
    _needs_broker(installation)
    stopping = stop_on_signals()
    desk = BankDesk(context=installation.context, banks=installation.bank, patience=installation.patience)
    with alive(installation, "bank-desk", stopping):
        desk.run(stopping)


def run_notifier(installation: Installation) -> None:
    """Tell outlets, by webhooks and by their queues, and take their commands, until told to stop."""
    _needs_broker(installation)
    stopping = stop_on_signals()
    settings = installation.settings
    notifier = Notifier(
        context=installation.context, sender=installation.webhooks, connections=settings.webhooks.connections
    )
    queues = OutletAmqp(context=installation.context, url=settings.broker.url)
    beside = threading.Thread(target=queues.run, args=(stopping,), name="outlet-amqp", daemon=True)
    with alive(installation, "notifier", stopping):
        beside.start()
        notifier.run(stopping)
        beside.join(30)


def run_worker(installation: Installation, stages: Sequence[str]) -> None:
    """Be a worker of some stages until told to stop."""
    _needs_broker(installation)
    stopping = stop_on_signals()
    role = "worker:" + ("all" if tuple(stages) == STAGES else "+".join(stages))
    if "personalisation" in stages:
        role = f"{role}@{installation.settings.encoders.station}"
    with alive(installation, role, stopping), worker(installation, stages):
        stopping.wait()


def run_file_intake(installation: Installation) -> None:
    """Take in files until told to stop."""
    stopping = stop_on_signals()
    watcher = Watcher(
        context=installation.context, policies=installation.policies, directory=installation.settings.intake_dir
    )
    with alive(installation, "file-intake", stopping):
        watcher.run(stopping)
