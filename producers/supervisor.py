"""`zhika up`: every process of an installation on one machine, kept alive until told to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import Conflict, NotFound

log = logging.getLogger("zhika.supervisor")
GRACE_S = 30.0
RESTART_S = 1.0
STEADY_S = 30.0


@dataclass(slots=True)
class Child:
    """A process to keep alive."""

    role: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_s: float = RESTART_S
    not_before: float = 0.0
    restarts: int = 0


@dataclass(slots=True)
class Supervisor:
    """Starts children, restarts what dies, and ends them all. `state` is the file that says who runs, for `zhika down`.

    `bank`: the address of the simulated bank among the children.
    """

    children: list[Child]
    environment: Mapping[str, str]
    state: Path
    bank: str | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start every child."""
        for child in self.children:
            self._spawn(child)
        self._write()

    def watch(self) -> None:
        """Keep the children alive until told to stop, then end them."""
        try:
            while not self.stopping.wait(0.2):
                for child in self.children:
                    self._look_after(child)
        finally:
            self.stop()

    def stop(self) -> None:
        """End every child: work in hand is finished; who does not end in time is killed."""
        for child in self.children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        for child in self.children:
            if child.process is not None:
                try:
                    child.process.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.error("%s did not end within %d s and is killed", child.role, GRACE_S)
                    child.process.kill()
                    child.process.wait()
        self.state.unlink(missing_ok=True)

    def _look_after(self, child: Child) -> None:
        process = child.process
        now = time.monotonic()
        if process is not None and process.poll() is not None:
            steady = now - child.started > STEADY_S
            child.wait_s = RESTART_S if steady else min(child.wait_s * 2, 30.0)
            child.not_before = now + child.wait_s
            child.process = None
            log.warning("%s ended with %s; again in %.0f s", child.role, process.returncode, child.wait_s)
        elif process is None and now >= child.not_before:
            child.restarts += 1
            self._spawn(child)
            self._write()

    def _spawn(self, child: Child) -> None:
        command = [sys.executable, "-m", "producers.cli.main", *child.arguments]
        environment = {**os.environ, **self.environment, "ZHIKA_SUPERVISOR": str(os.getpid())}
        child.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        child.started = time.monotonic()

    def _write(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        running = {c.role: c.process.pid for c in self.children if c.process is not None}
        write_state(self.state, children=running, bank=self.bank)

    @staticmethod
    def running(state: Path) -> int | None:
        """The supervisor that wrote `state`, if it lives."""
        try:
            pid = int(json.loads(state.read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if _is_ours(pid) else None


def state_file(data_dir: Path) -> Path:
    """Says who runs on a data directory, and where the simulated bank listens that was started with it."""
    return data_dir / "up.json"


def write_state(state: Path, *, children: Mapping[str, int], bank: str | None) -> None:
    """This process runs, with these children; whoever reads meanwhile finds the old state or the new one."""
    part = state.with_suffix(".part")
    part.write_text(json.dumps({"pid": os.getpid(), "children": children, "bank": bank}) + "\n")
    part.replace(state)


def simulated_bank(state: Path) -> str | None:
    """The address of the simulated bank that whoever wrote `state` has started; None: they have none, or live no more."""
    if Supervisor.running(state) is None:
        return None
    try:
        bank = json.loads(state.read_text()).get("bank")
    except (OSError, ValueError):  # it has just ended
        return None
    return bank if isinstance(bank, str) else None


def refuse_second(state: Path) -> None:
    """Make sure that nothing runs here.

    Raises:
        Conflict: an installation runs here already.
    """
    if (running := Supervisor.running(state)) is not None:
        raise Conflict(
            f"此数据目录已有运行中的实例（进程 {running}），请先执行 zhika down",
            f"an installation runs on this data directory already (process {running}): zhika down first",
            code="already-up",
        )


def _is_ours(pid: int) -> bool:
    """Whether a process lives and is one of zhika's; one that has ended and waits for its parent is not."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"zhika" in command or b"producers.cli" in command


def down(state: Path, *, timeout_s: float = GRACE_S + 10) -> None:
    """Stop what `zhika up` started, and wait until it has ended.

    Raises:
        NotFound: nothing runs.
        Conflict: it did not end in time.
    """
    pid = Supervisor.running(state)
    if pid is None:
        raise NotFound("没有运行中的实例", "nothing is running on this data directory", code="not-running")
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not _is_ours(pid):
            return
        time.sleep(0.1)
    raise Conflict(
        f"进程 {pid} 未在规定时间内结束", f"process {pid} did not end within {timeout_s:.0f} s", code="not-stopped"
    )


def end_with_supervisor(end: Callable[[], object]) -> None:
    """In a child: call `end` when the supervisor is gone, so that a killed supervisor leaves nobody behind."""
    given = os.environ.get("ZHIKA_SUPERVISOR")
    if given is None:
        return
    parent = int(given)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        log.warning("the supervisor is gone; ending")
        end()

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
