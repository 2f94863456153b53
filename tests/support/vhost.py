"""A virtual host of RabbitMQ for one test, so that its queues are its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pika

from pipeline.application import LANES
from pipeline.messages import queue_name
from pipeline.states import STAGES
from tests.support.needs import lacking

_numbers = count(1)
_CTL = shutil.which("rabbitmqctl", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def virtual_host(url: str) -> Iterator[str]:
    """The URL of a fresh virtual host; who may not make one uses the given host, emptied."""
    if os.geteuid() != 0 or _CTL is None:
        with (Path(tempfile.gettempdir()) / f"zhika-vhost-{os.geteuid()}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests in several processes use it one after the other
            _empty(url)
            yield url
        return
    name = f"zhika-test-{os.getpid()}-{next(_numbers)}"
    ctl("add_vhost", name)
    try:
        ctl("set_permissions", "-p", name, urlsplit(url).username or "guest", ".*", ".*", ".*")
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        ctl("delete_vhost", name)


def administered() -> None:
    """Skip where RabbitMQ cannot be administered from here."""
    if os.geteuid() != 0 or _CTL is None:
        lacking("rabbitmqctl needs root on the machine of RabbitMQ")


def ctl(*arguments: str, told: bytes = b"") -> None:
    """Run `rabbitmqctl`; `told` is what it reads."""
    subprocess.run([str(_CTL), "-q", *arguments], input=told, check=True, capture_output=True, timeout=60)


def _empty(url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    for stage in STAGES:
        for lane in LANES:
            for name in (queue_name(stage, lane), queue_name(stage, lane) + ".XQ"):
                connection.channel().queue_delete(name)
    connection.close()
