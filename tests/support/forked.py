"""A command in a process that is forked from this one: a real process, with nothing to import.

Must not be used where this process holds what a fork cannot share: an open PKCS#11 module, a thread in the middle of something.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from tests.support.child import Finished, become


def forked(
    work: Callable[[], object],
    *,
    directory: Path,
    environment: Mapping[str, str],
    stdin: str = "",
    timeout_s: float = 120,
) -> Finished:
    """Do work in a child of this process, in a directory and with an environment of its own; code 1 and a trace if it raises."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            become(work, (given, out, err), directory, environment)
        code = _end_of(pid, timeout_s)
        return subprocess.CompletedProcess([], code, _all_of(out), _all_of(err))


def _end_of(pid: int, timeout_s: float) -> int:
    descriptor = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], timeout_s)
    finally:
        os.close(descriptor)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert ended, f"not within {timeout_s:.0f} s"
    return os.waitstatus_to_exitcode(status)


def _all_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()
