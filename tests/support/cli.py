"""The command line as real processes: what it prints, how it ends, whom it leaves behind, and what it gives away."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from python_calamine import CalamineWorkbook

from tests.support.child import Finished, become, zhika_with

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "producers.cli.main")
_MARK = "ZHIKA_TEST_RUN"
_PERSONAL = ("姓名", "证件号码", "手机号码", "监护人姓名", "监护人证件号码", "监护人手机号码")

_PARENT = get_context("forkserver")
_PARENT.set_forkserver_preload(["tests.support.preloaded"])
_ONE_AT_A_TIME = threading.Lock()
"""The library asks for the ends of all its processes when it starts one, and an end can be read once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    """The command in a directory and with an environment of its own; every process started here can be found again.

    `heard` keeps all that finished commands said; `log` takes the stderr of those that were started to stay.
    """

    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: token_hex(8))
    heard: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.directory / "processes.log"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZHIKA_")}
        return {**inherited, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **self.settings, _MARK: self.mark}

    def run(
        self,
        *arguments: str | Path,
        stdin: str = "",
        timeout_s: float = 120,
        settings: Mapping[str, str] = MappingProxyType({}),
        fresh: bool = False,
    ) -> Finished:
        """Run a command to its end, in a process forked from one that has imported everything; `fresh` is a new interpreter."""
        do = _done_fresh if fresh else _done
        done = do(arguments, self.directory, {**self.environment, **settings}, stdin, timeout_s)
        self.heard.append(done.stdout + done.stderr)
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """What a command that ends with `code` prints as JSON."""
        done = self.run(*arguments)
        assert done.returncode == code, (arguments, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def lines(self, *arguments: str | Path) -> list[Any]:
        """What a command that ends well prints as JSON, line by line."""
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *arguments: str | Path, stdout: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command that stays."""
        with self.log.open("ab") as log, (stdout or self.log).open("ab") as out:
            return subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    def living(self) -> list[int]:
        """Process ids of all that was started here and still lives, children of children too."""
        return [pid for pid in _pids() if self._is_mine(pid)]

    def end(self) -> None:
        """Kill whatever is left."""
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)

    def said(self) -> str:
        """Everything that any process said."""
        return "\n".join([*self.heard, self.log.read_text(encoding="utf-8") if self.log.exists() else ""])

    def _is_mine(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"{_MARK}={self.mark}".encode() in environment.split(b"\0")


def _done(
    arguments: Sequence[str | Path], directory: Path, environment: Mapping[str, str], stdin: str, timeout_s: float
) -> Finished:
    with TemporaryDirectory(prefix="zhika-command-") as place:
        given, out, err = streams = tuple(Path(place) / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin, encoding="utf-8")
        process = _PARENT.Process(target=_command, args=(arguments, streams, directory, environment))
        with _ONE_AT_A_TIME:
            process.start()
        if not wait([process.sentinel], timeout_s):
            process.kill()
            raise subprocess.TimeoutExpired(list(map(str, arguments)), timeout_s)
        with _ONE_AT_A_TIME:
            code = process.exitcode
        assert code is not None
        return subprocess.CompletedProcess([], code, *(file.read_text("utf-8") for file in (out, err)))


def _done_fresh(
    arguments: Sequence[str | Path], directory: Path, environment: Mapping[str, str], stdin: str, timeout_s: float
) -> Finished:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=directory,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def _command(
    arguments: Sequence[str | Path], streams: tuple[Path, Path, Path], directory: Path, environment: Mapping[str, str]
) -> None:
    modes = ("rb", "wb", "wb")
    become(
        partial(zhika_with, arguments),
        [path.open(mode) for path, mode in zip(streams, modes, strict=True)],
        directory,
        environment,
    )


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


@contextmanager
def cli(directory: Path, **settings: str) -> Iterator[Cli]:
    """The command in a directory that is made for it; nothing that was started outlives the block."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Cli(directory=directory, settings=settings)
    try:
        yield made
    finally:
        made.end()


def wait_until(holds: Callable[[], bool], *, timeout_s: float, told: Callable[[], object] = lambda: "") -> None:
    """Wait for something to become true.

    Raises:
        AssertionError: it does not in time; with what `told` says.
    """
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"not within {timeout_s:.0f} s: {told()}"
        time.sleep(0.1)


def together(calls: Iterable[Callable[[], Finished]]) -> list[Finished]:
    """Run commands that have nothing to do with each other, two at a time; their ends in order."""
    with ThreadPoolExecutor(2) as pool:
        return [end.result() for end in [pool.submit(call) for call in calls]]


def start_up(zhika: Cli, bank: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `zhika up` with its simulated bank at an address."""
    out = zhika.directory / "up.out"
    out.unlink(missing_ok=True)
    return zhika.start("up", "--ready-file", "ready", "--bank-bind", bank, *arguments, stdout=out)


def ready_line(zhika: Cli, process: subprocess.Popen[bytes]) -> Any:
    """The ready line of what `start_up` started, which is all that it prints."""
    line = ready(zhika.directory / "ready", process, timeout_s=150, told=zhika.said)
    assert json.loads((zhika.directory / "up.out").read_text()) == line
    return line


def ready(
    file: Path, process: subprocess.Popen[bytes], *, timeout_s: float = 60, told: Callable[[], object] = lambda: ""
) -> Any:
    """The ready line of `zhika up`, once it is there."""
    wait_until(lambda: file.exists() or process.poll() is not None, timeout_s=timeout_s, told=told)
    assert process.poll() is None, told()
    return json.loads(file.read_text(encoding="utf-8"))


def personal_values(files: Iterable[Path]) -> frozenset[str]:
    """Names, document numbers and phone numbers of everybody in sample batch files."""
    return frozenset(row[column] for file in files for row in _rows(file) for column in _PERSONAL if row[column])


def _rows(file: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(file) as archive:
        [sheet] = [name for name in archive.namelist() if name.startswith("applications.")]
        data = archive.read(sheet)
    if sheet.endswith(".xlsx"):
        header, *rows = CalamineWorkbook.from_filelike(io.BytesIO(data)).get_sheet_by_index(0).to_python()
        return [dict(zip(map(str, header), map(str, row), strict=True)) for row in rows]
    encoding = "utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "gb18030"
    return list(csv.DictReader(io.StringIO(data.decode(encoding), newline="")))


def given_away(values: Iterable[str], text: str) -> int:
    """How many of the values stand in a text; a number, so that a failing test does not print them."""
    return sum(value in text for value in values)
