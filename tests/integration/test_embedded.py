"""The line in one process: it is alone on its file, and brings an application to the end by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import load
from config.wiring import Installation
from pipeline.errors import Conflict
from pipeline.services.accept import Accepted, accept
from pipeline.store import views
from producers.embedded import embedded, only_process, wait_quiet

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from producers.embedded import only_process
with only_process(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(url: str) -> subprocess.Popen[str]:
    """Another process that runs on the file until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_on_one_sqlite_file_is_refused_until_the_first_has_ended(sqlite_url: str) -> None:
    first = holder(sqlite_url)
    with pytest.raises(Conflict) as told, only_process(sqlite_url):
        raise AssertionError("two processes run on one file")
    assert told.value.reason_code == "database-in-use"
    assert told.value.zh
    assert told.value.en
    first.communicate("", timeout=30)
    with only_process(sqlite_url):
        pass


def test_a_killed_process_leaves_the_file_free(sqlite_url: str) -> None:
    first = holder(sqlite_url)
    first.kill()
    first.communicate(timeout=30)
    with only_process(sqlite_url):
        pass


def test_postgresql_takes_many_processes() -> None:
    url = "postgresql://somewhere/zhika"
    with only_process(url), only_process(url):
        pass


def test_what_was_ready_before_the_process_began_is_brought_to_rest(
    sqlite_url: str, tmp_path: Path, submission: Callable[..., Any]
) -> None:
    installation = Installation(load(env="test", data_dir=tmp_path / "data", database={"url": sqlite_url}))
    try:
        people = [submission(n, photo=b"no picture" if n % 2 else b"") for n in range(1, 6)]
        answers = accept(installation.context, people, actor="test")
        assert all(isinstance(answer, Accepted) for answer in answers)
        with embedded(installation, sweep_every_s=0.2):
            assert wait_quiet(installation, timeout_s=60)
        with installation.store.transaction() as tx:
            assert views.by_status(tx) == {"awaiting_correction": 5}
    finally:
        installation.close()
