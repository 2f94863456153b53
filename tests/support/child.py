"""What a process becomes that does a command for a test: streams, a directory and an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn
from unittest.mock import patch

Finished = subprocess.CompletedProcess[str]


def zhika_with(arguments: Sequence[str | Path]) -> None:
    """The command with these arguments; leaves by `SystemExit`."""
    from producers.cli.main import main

    with patch.object(sys, "argv", ["zhika", *map(str, arguments)]):
        main()


def become(
    work: Callable[[], object], streams: Sequence[IO[bytes]], directory: Path, environment: Mapping[str, str]
) -> NoReturn:
    """Do the work as this process's last, with `streams` as stdin, stdout and stderr; code 1 and a trace if it raises."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate(("r", "w", "w")))
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - whatever it is must not reach the caller of this process's parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
