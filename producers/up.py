"""An installation on one machine: one process when it is embedded, supervised processes otherwise."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from config import metrics
from config.release import release
from config.settings import Bank, Settings
from config.wiring import Installation
from pipeline.errors import Conflict, Defect, Refused, TransientError
from pipeline.services import stock
from pipeline.states import STAGES
from pipeline.store import control
from pipeline.store.stock import balance
from producers.embedded import embedded, only_process
from producers.file_intake import Watcher
from producers.roles import alive, stop_on_signals
from producers.simulators.bank import BankServer
from producers.simulators.outlet import Outlets, broken, nine_in_ten, refuser
from producers.supervisor import Child, Supervisor, refuse_second, state_file, write_state

log = logging.getLogger("zhika.up")
READY_S = 120.0
BANK = "bank"


def up(
    settings: Settings,
    *,
    simulators: bool,
    outlets: bool,
    blanks: int,
    ready_file: Path | None,
    bank_bind: str,
    bank_faults: str,
) -> None:
    """Run until SIGTERM; prints one line of JSON once everything is ready.

    Raises:
        Conflict: it runs already, another process runs on the same SQLite file, or the bank's port is taken.
        Refused: `bank_bind` is not host:port.
        Defect: simulators are asked for in production, or the parts did not come up.
    """
    if settings.env == "production" and (simulators or outlets):
        raise Defect("simulators are refused in production: use --no-simulators")
    with only_process(settings.database.url), closing(Installation(settings)) as installation:
        _stock_up(installation, blanks if simulators else 0)
    refuse_second(state_file(settings.data_dir))
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    bank_url = f"http://{bank_bind}" if simulators and not settings.banks else None
    if bank_url is not None:
        _refuse_taken(bank_bind)
    line = {"ready": True, "api": None, "console": None, "outlet": None, "metrics": settings.metrics.bind or None}
    line |= {"bank": bank_url, "intake": str(settings.intake_dir), "mode": "embedded" if settings.embedded else "full"}
    if settings.embedded:
        _embedded(settings, bank_bind if bank_url else None, bank_faults, outlets, lambda: _announce(line, ready_file))
    else:
        _supervised(
            settings, bank_bind if bank_url else None, bank_faults, outlets, lambda: _announce(line, ready_file)
        )


def _stock_up(installation: Installation, count: int) -> None:
    """Virtual blanks for an installation that has none at all, issued to its station; real blanks are received by people."""
    if not installation.settings.encoders.virtual:
        return
    with installation.store.transaction() as tx:
        empty = not balance(tx)
    if empty and count:
        serials = [f"5A{n:06X}" for n in range(1, count + 1)]
        context, station = installation.context, installation.settings.encoders.station
        stock.receive(context, serials, blank_type="ssc2", lot="VIRTUAL-1", actor="zhika up")
        stock.issue(context, count, station=station, blank_type="ssc2", actor="zhika up")


def _refuse_taken(bind: str) -> None:
    """Make sure that the simulated bank can listen there: another's bank must not be taken for it."""
    host, _, port = bind.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (ValueError, OverflowError):
        raise Refused("--bank-bind 应写成 主机:端口", "--bank-bind is written host:port", code="bad-bind") from None
    except OSError:
        raise Conflict(
            f"{bind} 无法监听，可能已被占用；请用 --bank-bind 另选端口",
            f"cannot listen on {bind}, somebody may do so already: choose another port with --bank-bind",
            code="port-taken",
        ) from None


def _announce(line: Mapping[str, Any], ready_file: Path | None) -> None:
    text = json.dumps(line, ensure_ascii=False)
    print(text, flush=True)
    if ready_file is not None:
        part = ready_file.with_name(ready_file.name + ".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(ready_file)


def _embedded(
    settings: Settings, bank_bind: str | None, bank_faults: str, outlets: bool, ready: Callable[[], None]
) -> None:
    stopping = stop_on_signals()
    state = state_file(settings.data_dir)
    bank_url: str | None = None
    with ExitStack() as stack:
        stack.callback(lambda: state.unlink(missing_ok=True))  # last of all: who sees it gone may start anew
        if bank_bind is not None:
            books = settings.data_dir / "bank-ledger.db"
            bank = stack.enter_context(BankServer(bank_bind, ledger_path=books, faults=bank_faults))
            bank_url = bank.url
            settings = settings.model_copy(update={"banks": _banks(bank_url)})
        installation = Installation(settings)
        stack.callback(installation.close)
        stack.enter_context(embedded(installation))
        stack.enter_context(alive(installation, "embedded", stopping))
        watcher = Watcher(context=installation.context, policies=installation.policies, directory=settings.intake_dir)
        helpers = [threading.Thread(target=watcher.run, args=(stopping,), name="file-intake", daemon=True)]
        if outlets:
            helpers.append(threading.Thread(target=live, args=(installation, stopping), name="outlets", daemon=True))
        for helper in helpers:
            helper.start()
        write_state(state, children={}, bank=bank_url)
        metrics.BUILD.labels(release(), "embedded").set(1)
        if settings.metrics.bind:
            metrics.serve(settings.metrics.bind)
        ready()
        stopping.wait()
        for helper in helpers:
            helper.join(30)


def _banks(url: str) -> dict[str, Any]:
    return {"default": Bank(url=url)}


def _supervised(
    settings: Settings, bank_bind: str | None, bank_faults: str, outlets: bool, ready: Callable[[], None]
) -> None:
    shared = settings.data_dir.resolve() / "metrics"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    environment = {"ZHIKA_DATA_DIR": str(settings.data_dir.resolve()), metrics.SHARED: str(shared)}
    children = [Child(role, ["run", role]) for role in ("relay", "timers", "bank-desk", "notifier")]
    bank_url = None
    if bank_bind is not None:
        bank_url = f"http://{bank_bind}"
        books = str(settings.data_dir / "bank-ledger.db")
        arguments = ["simulate", "bank", "--bind", bank_bind, "--ledger", books, "--faults", bank_faults]
        children.append(Child(BANK, arguments))
        environment["ZHIKA_BANKS__DEFAULT__URL"] = bank_url
    children += [Child(f"worker:{stage}", ["run", "worker", "--stages", stage]) for stage in STAGES]
    children.append(Child("file-intake", ["run", "file-intake"]))
    if outlets:
        children.append(Child("outlets", ["simulate", "outlets"]))
    state = state_file(settings.data_dir)
    supervisor = Supervisor(children=children, environment=environment, state=state, bank=bank_url)
    supervisor.stopping = stop_on_signals()
    supervisor.start()
    missing: list[str] = []
    thread = threading.Thread(
        target=_announce_when_up, args=(settings, supervisor, bank_bind, ready, missing), daemon=True
    )
    thread.start()
    supervisor.watch()
    if missing:
        raise Defect(f"not up within {READY_S:.0f} s: {', '.join(missing)}; see the log")


def _announce_when_up(
    settings: Settings,
    supervisor: Supervisor,
    bank_bind: str | None,
    ready: Callable[[], None],
    missing: list[str],
) -> None:
    """Say so once every role has given a sign of life; when that takes too long, name the `missing` and stop."""
    installation = Installation(settings)
    until = time.monotonic() + READY_S
    silent: list[str] = []
    try:
        while time.monotonic() < until and not supervisor.stopping.is_set():
            now = installation.clock.now()
            try:
                with installation.store.transaction() as tx:
                    fresh = {r.pid for r in control.roles(tx) if (now - r.beat_at).total_seconds() < 5}
            except TransientError:
                fresh = set()
            silent = [
                child.role
                for child in supervisor.children
                if not (_answers(bank_bind) if child.role == BANK and bank_bind else _pid(child) in fresh)
            ]
            if not silent:
                ready()
                return
            time.sleep(0.2)
        if not supervisor.stopping.is_set():
            missing += silent
            supervisor.stopping.set()
    finally:
        installation.close()


def _pid(child: Child) -> int | None:
    return None if child.process is None else child.process.pid


def _answers(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def run_outlets(installation: Installation) -> None:
    """Be the people at the other end until told to stop."""
    stopping = stop_on_signals()
    with alive(installation, "outlets", stopping):
        live(installation, stopping)


def live(installation: Installation, stopping: threading.Event) -> None:
    """Fetch, sign, tell, collect and send back whatever there is, once a second. Bundles leave as full as they are."""
    people = Outlets(context=installation.context, comes=nine_in_ten, damaged=broken, refuses=refuser)
    while not stopping.wait(1.0):
        try:
            people.collect_at_centre()
            people.seal()
            people.ship()
            people.receive()
            people.collect()
            people.give_notices()
            people.refuse()
            people.send_back()
            people.destroy()
        except (TransientError, Refused) as error:
            log.warning("outlets: %s", error)
        except Exception as error:
            log.error("outlets: %s", type(error).__name__, exc_info=True)
