"""Cards that `zhika card simulate` plays in a process of its own, as anybody who tries it has them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.cli import COMMAND, Cli


@contextmanager
def simulated(zhika: Cli, *arguments: str) -> Iterator[list[str]]:
    """Cards in their readers for the length of the block; what the command said before it was ready.

    Raises:
        AssertionError: it ended before it was ready, or badly afterwards.
    """
    process = subprocess.Popen(
        [*COMMAND, "card", "simulate", *arguments],
        cwd=zhika.directory,
        env=zhika.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr as stderr:
        heard: list[str] = []
        try:
            for line in stderr:
                heard.append(line.rstrip("\n"))
                if heard[-1] == "ready":
                    break
            assert heard[-1:] == ["ready"], heard
            yield heard
        finally:
            process.terminate()
    assert process.returncode == 0, heard
