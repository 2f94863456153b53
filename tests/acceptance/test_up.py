"""`zhika up` and `zhika down`: one process when embedded, supervised processes otherwise; what is killed comes back and nothing doubles."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.clock import SystemClock, civil_date
from producers.simulators.outlet import refuser
from tests.support.cli import Cli, cli, given_away, personal_values, ready_line, start_up, wait_until
from tests.support.ports import free_port
from tests.support.vhost import virtual_host

IMPATIENT = {
    "ZHIKA_ENV": "test",
    "ZHIKA_WORKERS__THREADS": "2",
    "ZHIKA_WORKERS__LEASE_S": "3",
    "ZHIKA_WORKERS__ORDER_LEASE_S": "3",
    "ZHIKA_ACCOUNTS__DEADLINE_S": "1",
    "ZHIKA_ACCOUNTS__SETTLE_AFTER_S": "2",
}
FIGURES = {
    "applications": "SELECT count(*) FROM applications",
    "moving": "SELECT count(*) FROM applications WHERE work IN ('ready', 'queued', 'running', 'reconcile')"
    " OR (work = 'waiting' AND stage IN ('validation', 'photo', 'account', 'personalisation')"
    " AND id NOT IN (SELECT application_id FROM cards))",
    "held": "SELECT count(*) FROM applications WHERE status = 'held'",
    "made": "SELECT count(*) FROM applications WHERE status IN ('dispatch', 'delivered', 'notified', 'collected')"
    " OR (status = 'personalisation' AND work = 'waiting')",
    "collected": "SELECT count(*) FROM applications WHERE status = 'collected'",
    "returned": "SELECT count(*) FROM applications WHERE status IN ('returned', 'destroyed')",
    "accounts": "SELECT count(*) FROM accounts WHERE status = 'open'",
    "holders": "SELECT count(*) FROM (SELECT DISTINCT person_id, bank_code FROM accounts) x",
    "cards": "SELECT count(*) FROM cards",
    "carded": "SELECT count(DISTINCT application_id) FROM cards",
    "bound": "SELECT count(*) FROM blanks WHERE state = 'bound'",
    "loose": "SELECT count(*) FROM blanks WHERE state IN ('reserved', 'encoding', 'quarantined')",
}


@dataclass(slots=True, kw_only=True)
class Machine:
    """One `zhika up` and what belongs to it."""

    zhika: Cli
    data: Path
    bank: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    line: Any = None

    def again(self) -> None:
        """Start it once more."""
        (self.zhika.directory / "ready").unlink(missing_ok=True)
        self.process = start_up(self.zhika, self.bank, "--blanks", "100", *self.arguments)
        self.line = ready_line(self.zhika, self.process)

    def drop(self, client: str, *, applications: int, seed: int, region: str) -> Path:
        """A batch file as a client lays it down, still for long enough; returns where its result will lie."""
        made = self.zhika.run(
            "simulate",
            "intake",
            "samples",
            "--applications",
            str(applications),
            "--seed",
            str(seed),
            "--region",
            region,
        )
        file = self.zhika.directory / made.stdout.strip()
        inbox = self.data / "intake" / client / "in"
        inbox.mkdir(parents=True, exist_ok=True)
        there = inbox / file.name
        part = inbox / f".{file.name}"
        part.write_bytes(file.read_bytes())
        still = time.time() - 60
        os.utime(part, (still, still))
        part.rename(there)
        return inbox.parent / "done" / f"{file.name}.result.json"

    def ledger(self) -> Any:
        """The bank's books."""
        with urllib.request.urlopen(self.line["bank"] + "/bank/v1/ledger", timeout=10) as answer:
            return json.load(answer)


@contextmanager
def machine(directory: Path, *arguments: str, **settings: str) -> Iterator[Machine]:
    data = directory / "data"
    bank = f"127.0.0.1:{free_port()}"
    with cli(directory, **IMPATIENT, **settings, ZHIKA_DATA_DIR=str(data)) as zhika:
        (directory / "ready").write_text("left over from a machine that was switched off\n")
        process = start_up(zhika, bank, "--blanks", "100", *arguments)
        wait_until(
            lambda: not (directory / "ready").exists() or _is_json(directory / "ready"), timeout_s=60, told=zhika.said
        )
        made = Machine(zhika=zhika, data=data, bank=bank, arguments=arguments, process=process)
        made.line = ready_line(zhika, process)
        yield made


def _is_json(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False


def _result(path: Path, told: Cli) -> Any:
    wait_until(path.exists, timeout_s=40, told=told.said)
    return json.loads(path.read_text(encoding="utf-8"))


def _sqlite(data: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{data / 'zhika.db'}?mode=ro", uri=True, timeout=10)) as conn:
        return {name: conn.execute(query).fetchone()[0] for name, query in FIGURES.items()}


def _postgres(url: str) -> dict[str, int]:
    with psycopg.connect(url) as conn:
        return {name: conn.execute(query).fetchone()[0] for name, query in FIGURES.items()}  # type: ignore[index]


def _all_once(seen: dict[str, int], ledger: Any, good: int) -> None:
    """Every good application has one account and one card, no blank lies about, and only the doubtful photo is held."""
    assert seen["held"] == 1, seen
    assert seen["loose"] == seen["moving"] == 0, seen
    assert seen["made"] == seen["cards"] == seen["carded"] == seen["bound"] == good, seen
    assert seen["accounts"] == seen["holders"] == ledger["accounts"] == good, (seen, ledger)


def _books_agree(zhika: Cli) -> None:
    """The commands find the simulated bank that this machine was started with, though nobody has configured one."""
    told = zhika.json("bank", "reconcile", str(civil_date(SystemClock().now())), "-o", "json")
    assert told["ok"] and sum(bank["agreed"] for bank in told["banks"]) > 0


# ------------------------------------------------------------------------------------------------------------- embedded


def test_one_process_takes_files_in_makes_cards_and_ends_cleanly(tmp_path: Path) -> None:
    with machine(tmp_path, "--no-outlets") as up:
        zhika = up.zhika
        assert (up.line["ready"], up.line["mode"], up.line["bank"]) == (True, "embedded", f"http://{up.bank}")
        assert Path(up.line["intake"]) == up.data / "intake"
        result = up.drop("wuhan", applications=6, seed=1, region="wuhan")
        told = _result(result, zhika)

        assert told["rows"] == told["accepted"] + told["rejected"] + told["duplicate"]
        assert told["faults"]
        assert {path.name for path in result.parent.iterdir()} == {
            result.name, result.name.removesuffix(".result.json"), result.name.replace(".result.json", ".errors.xlsx"),
        }  # fmt: skip
        assert list((up.data / "intake" / "wuhan" / "in").iterdir()) == []
        wait_until(lambda: _sqlite(up.data)["moving"] == 0, timeout_s=40, told=zhika.said)
        seen = _sqlite(up.data)
        assert seen["applications"] == told["accepted"]
        _all_once(seen, up.ledger(), 6)
        (up.data / "intake" / "wuhan" / "in" / "letter.zip").write_bytes(b"not a batch")
        os.utime(up.data / "intake" / "wuhan" / "in" / "letter.zip", (0, 0))
        refused = _result(up.data / "intake" / "wuhan" / "errors" / "letter.zip.result.json", zhika)
        assert {"code", "zh", "en"} <= set(refused)
        assert zhika.run("status").returncode == 0
        _books_agree(zhika)

        assert zhika.run("down").returncode == 0
        assert up.process.wait(1) == 0
        assert not (up.data / "up.json").exists()
        assert zhika.living() == []
        alone = zhika.run("bank", "reconcile", str(civil_date(SystemClock().now())))
        assert alone.returncode == 5 and "no bank is configured for 95" in alone.stdout
        told = zhika.json("status", "--json", code=69)
        assert (told["ready"], told["roles"]) == (False, [])
        again = zhika.run("down")
        assert (again.returncode, again.stdout) == (3, "")
        assert "not-running" in again.stderr

        up.again()
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0
        assert _sqlite(up.data) == seen


def test_killed_in_the_middle_of_work_it_goes_on_and_everything_ends_once(tmp_path: Path) -> None:
    good = 40
    with machine(tmp_path, "--no-outlets") as up:
        result = up.drop("dalian", applications=good, seed=5, region="dalian")
        for what, count in (("accounts", 3), ("cards", good // 2)):
            wait_until(lambda w=what, n=count: _sqlite(up.data)[w] >= n, timeout_s=40, told=up.zhika.said)  # type: ignore[misc]
            up.process.send_signal(signal.SIGKILL)
            up.process.wait()
            assert _sqlite(up.data)["cards"] < good, "killed too late to show anything"
            assert up.zhika.living() == []
            up.again()
        told = _result(result, up.zhika)
        wait_until(
            lambda: _sqlite(up.data)["moving"] == 0, timeout_s=60, told=lambda: (_sqlite(up.data), up.zhika.said())
        )

        seen = _sqlite(up.data)
        assert seen["applications"] == told["accepted"]
        _all_once(seen, up.ledger(), good)
        assert up.zhika.json("audit", "verify")["ok"]
        assert up.zhika.json("custody", "balance", "--json")["total"] == good
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0


def test_what_cannot_start_says_so_and_leaves_nobody_behind(tmp_path: Path) -> None:
    with cli(tmp_path, ZHIKA_ENV="production", ZHIKA_DATA_DIR=str(tmp_path / "data")) as zhika:
        done = zhika.run("up", "--ready-file", "ready")

        assert (done.returncode, done.stdout) == (1, "")
        assert "--no-simulators" in done.stderr
        assert zhika.living() == []
        assert not (tmp_path / "ready").exists()


def test_a_port_that_somebody_has_is_named_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, cli(tmp_path, **IMPATIENT) as zhika:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        done = zhika.run("up", "--data", "data", "--bank-bind", bind)

        assert (done.returncode, done.stdout) == (4, "")
        assert bind in done.stderr
        assert "--bank-bind" in done.stderr
        assert zhika.living() == []
        assert zhika.run("status", "--data", "data").returncode == 69
        assert {path.name for path in tmp_path.iterdir()} == {"data"}  # the database too lies in the data directory


# ----------------------------------------------------------------------------------------------------------------- full


@pytest.fixture
def full(postgres_url: str, amqp_url: str, tmp_path: Path) -> Iterator[Machine]:
    """Supervised processes on servers of their own data."""
    (tmp_path / "key").write_bytes(bytes(range(32)))
    with (
        virtual_host(amqp_url) as amqp,
        machine(
            tmp_path,
            "--outlets",
            ZHIKA_DATABASE__URL=postgres_url,
            ZHIKA_BROKER__URL=amqp,
            ZHIKA_KEY_FILE=str(tmp_path / "key"),
        ) as up,
    ):
        yield up


def _children(up: Machine) -> dict[str, int]:
    return dict(json.loads((up.data / "up.json").read_text())["children"])


def test_processes_are_kept_alive_carry_cards_to_their_holders_and_end_together(
    full: Machine, postgres_url: str
) -> None:
    zhika = full.zhika
    assert (full.line["ready"], full.line["mode"]) == (True, "full")
    told = zhika.json("status", "-o", "json")
    roles = {role["role"].split("@")[0] for role in told["roles"]}
    assert told["mode"] == "full"
    assert all(role["up"] for role in told["roles"])
    assert roles | {"bank"} == set(_children(full))
    assert {role["pid"] for role in told["roles"]} < set(_children(full).values())
    twice = zhika.run("up", "--bank-bind", f"127.0.0.1:{free_port()}")
    assert (twice.returncode, twice.stdout) == (4, "")
    assert "zhika down" in twice.stderr

    result = full.drop("karamay", applications=20, seed=4, region="karamay")
    wait_until(lambda: _postgres(postgres_url)["applications"] >= 20, timeout_s=60, told=zhika.said)
    killed = {role: _children(full)[role] for role in ("worker:account", "bank")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not set(killed.values()) & set(_children(full).values()) and set(killed) <= set(_children(full)),
        timeout_s=20,
        told=lambda: _children(full),
    )
    told = _result(result, zhika)
    wait_until(
        lambda: _postgres(postgres_url)["moving"] == 0,
        timeout_s=60,
        told=lambda: (_postgres(postgres_url), zhika.said()),
    )
    seen = _postgres(postgres_url)
    assert (seen["applications"], seen["carded"], seen["accounts"]) == (told["accepted"], 20, 20)
    assert full.ledger()["accounts"] == 20

    wait_until(lambda: _postgres(postgres_url)["collected"] >= 10, timeout_s=60, told=lambda: _postgres(postgres_url))
    with psycopg.connect(postgres_url) as conn:
        delivered = conn.execute(
            "SELECT acceptance_no FROM submissions s JOIN applications a USING (id) WHERE a.delivered_at IS NOT NULL"
        )
        unwilling = sum(refuser(acceptance_no) for (acceptance_no,) in delivered)
    wait_until(
        lambda: _postgres(postgres_url)["returned"] >= unwilling, timeout_s=60, told=lambda: _postgres(postgres_url)
    )
    told = zhika.json("status", "-o", "json")
    assert {row["direction"] for row in told["bundles"]} >= ({"out", "back"} if unwilling else {"out"})
    assert told["counter"]["hand_overs"] >= 10
    assert zhika.json("custody", "balance", "--json")["balanced"]
    assert zhika.json("custody", "verify", "--json")["faults"] == 0
    _books_agree(zhika)

    assert zhika.run("down").returncode == 0
    assert full.process.wait(1) == 0
    assert zhika.living() == []
    assert not (full.data / "up.json").exists()
    assert zhika.run("status").returncode == 69
    assert given_away(personal_values((zhika.directory / "samples").glob("*.zip")), zhika.said()) == 0


def test_a_killed_supervisor_leaves_nobody_behind(full: Machine) -> None:
    assert len(full.zhika.living()) >= len(_children(full)) + 1
    full.process.send_signal(signal.SIGKILL)
    full.process.wait()

    wait_until(lambda: full.zhika.living() == [], timeout_s=10, told=lambda: (_children(full), full.zhika.living()))
