"""kill -9 of real processes on real servers: every application ends where it should, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psycopg

from config.policies import load_policies
from pipeline.clock import SystemClock
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from producers.simulators.intake import make_sample
from tests.support.ports import free_port
from tests.support.vhost import virtual_host

KILLS = 24
APPLICATIONS = 150
ROLES = {
    "relay": ["run", "relay"],
    "timers": ["run", "timers"],
    "worker:front": ["run", "worker", "--stages", "validation,photo"],
    "worker:account": ["run", "worker", "--stages", "account"],
    "worker:personalisation": ["run", "worker", "--stages", "personalisation"],
    "worker:back": ["run", "worker", "--stages", "dispatch,collection"],
}
# Killed more often: the two that act on the world.
TARGETS = [*ROLES, "worker:account", "worker:personalisation", "worker:personalisation"]


@dataclass
class Machine:
    """The processes of one installation."""

    environment: dict[str, str]
    log: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def zhika(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "producers.cli.main", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)

    def start(self, role: str, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "producers.cli.main", *arguments]
        with self.log.open("ab") as log:
            self.processes[role] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def kill(self, role: str) -> None:
        process = self.processes[role]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def machine(postgres_url: str, amqp: str, directory: Path) -> Iterator[Machine]:
    bank = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "ZHIKA_ENV": "test",
        "ZHIKA_DATABASE__URL": postgres_url,
        "ZHIKA_BROKER__URL": amqp,
        "ZHIKA_DATA_DIR": str(directory / "data"),
        "ZHIKA_KEY_FILE": str(directory / "key"),
        "ZHIKA_BANKS__DEFAULT__URL": f"http://{bank}",
        "ZHIKA_ACCOUNTS__DEADLINE_S": "2",
        "ZHIKA_ACCOUNTS__SETTLE_AFTER_S": "4",
        "ZHIKA_WORKERS__LEASE_S": "5",
        "ZHIKA_WORKERS__ORDER_LEASE_S": "4",
        "ZHIKA_WORKERS__THREADS": "2",
        "ZHIKA_LOG_LEVEL": "warning",
    }
    (directory / "key").write_bytes(bytes(range(32)))
    made = Machine(environment, directory / "log")
    ledger = str(directory / "bank.db")
    try:
        made.start(
            "bank",
            [
                "simulate",
                "bank",
                "--bind",
                bank,
                "--ledger",
                ledger,
                "--faults",
                "late=0.05,late_s=1,drop_after_commit=0.05,error=0.05,duplicate=0.02",
            ],
        )
        for role, arguments in ROLES.items():
            made.start(role, arguments)
        yield made
    finally:
        made.end()


def _figures(url: str) -> dict[str, int]:
    queries = {
        "applications": "SELECT count(*) FROM applications",
        "done": "SELECT count(*) FROM applications WHERE status = 'dispatch' AND work = 'waiting'",
        "at_counter": "SELECT count(*) FROM applications WHERE status = 'personalisation' AND work = 'waiting'"
        " AND priority = 'urgent'",
        "sent_back": "SELECT count(*) FROM applications WHERE status IN ('awaiting_correction', 'rejected')",
        "held": "SELECT count(*) FROM applications WHERE status = 'held'",
        "accounts": "SELECT count(*) FROM accounts WHERE status = 'open'",
        "people_with_account": "SELECT count(DISTINCT (person_id, bank_code)) FROM accounts",
        "cards": "SELECT count(*) FROM cards",
        "applications_with_card": "SELECT count(DISTINCT application_id) FROM cards",
        "chips": "SELECT count(DISTINCT chip_id) FROM cards",
        "bound": "SELECT count(*) FROM blanks WHERE state = 'bound'",
        "spoiled": "SELECT count(*) FROM blanks WHERE state = 'spoiled'",
        "unsettled_blanks": "SELECT count(*) FROM blanks WHERE state IN ('reserved', 'encoding', 'quarantined')",
        "taken": "SELECT count(*) FROM blank_ledger WHERE event = 'taken'",
        "untouched": "SELECT count(*) FROM blank_ledger WHERE event = 'untouched'",
        "cards_by_ledger": "SELECT count(*) FROM blank_ledger WHERE event = 'bound'",
        "packed_twice": "SELECT count(*) FROM (SELECT application_id FROM transitions WHERE \"to\" = 'dispatch'"
        " AND frm = 'personalisation' GROUP BY 1 HAVING count(*) > 1) x",
    }
    with psycopg.connect(url) as conn:
        return {name: conn.execute(query).fetchone()[0] for name, query in queries.items()}  # type: ignore[index]


def _ledger(environment: dict[str, str]) -> dict[str, int]:
    with urllib.request.urlopen(environment["ZHIKA_BANKS__DEFAULT__URL"] + "/bank/v1/ledger", timeout=10) as answer:
        return dict(json.load(answer))


def test_killing_any_process_at_any_moment_loses_and_doubles_nothing(
    postgres_url: str, amqp_url: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("ZHIKA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"ZHIKA_TEST_SEED={seed}")
    chance = random.Random(seed)
    with virtual_host(amqp_url) as amqp, machine(postgres_url, amqp, tmp_path) as line:
        serials = tmp_path / "serials"
        serials.write_text("".join(f"K{n:05d}\n" for n in range(1, 2 * APPLICATIONS)))
        assert line.zhika("blank", "receive", str(serials), "--lot", "K").returncode == 0
        assert line.zhika("blank", "issue", str(serials), "--station", "enc_1").returncode == 0
        today = SystemClock().now().date()
        sample = make_sample(
            tmp_path / "intake", applications=APPLICATIONS, seed=7, policies=load_policies(), today=today
        )
        uploads = [
            subprocess.Popen(
                [sys.executable, "-m", "producers.cli.main", "batch", "upload", str(path), "--source", path.stem],
                env=line.environment,
                stdout=subprocess.DEVNULL,
            )
            for path in sample.files
        ]
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 1.2))
            role = chance.choice(TARGETS)
            line.kill(role)
            line.start(role, ROLES[role])
        assert {upload.wait(60) for upload in uploads} <= {0, 5}
        wanted = sample.expected["rows"] - sample.expected["rows_refused"] - sample.expected["duplicates"]
        until = time.monotonic() + 120
        while time.monotonic() < until:
            seen = _figures(postgres_url)
            if seen["done"] + seen["at_counter"] + seen["sent_back"] + seen["held"] == wanted:
                break
            time.sleep(0.5)
        seen = _figures(postgres_url)
        ledger = _ledger(line.environment)
    good = sample.expected["good"]
    told = f"seed {seed}: {seen}, ledger {ledger}\n{(tmp_path / 'log').read_text()[-3000:]}"
    assert seen["applications"] == wanted, told
    assert seen["held"] == sample.expected["doubtful_photo"], told
    assert seen["done"] + seen["at_counter"] == good, told
    assert seen["cards"] == seen["applications_with_card"] == seen["chips"] == good, told
    assert seen["accounts"] == seen["people_with_account"] == ledger["accounts"] == good, told
    assert seen["unsettled_blanks"] == 0, told
    assert seen["bound"] == seen["cards_by_ledger"] == good, told
    assert seen["taken"] == seen["bound"] + seen["spoiled"] + seen["untouched"], told
    assert seen["packed_twice"] == 0, told
    _every_chip_carries_its_own_person(postgres_url, tmp_path)


def _every_chip_carries_its_own_person(url: str, directory: Path) -> None:
    """Read every virtual card back, and compare it with the application it was made for."""
    from card_personalization.profiles import load_profile
    from pipeline.store import applications, views
    from tests.support.chips import read_chip

    profile = load_profile(Path("config/cards/ssc2.toml"))
    store = Store(url, Sealer((directory / "key").read_bytes())).open()
    try:
        with store.transaction() as tx:
            ids = views.application_ids(tx)
            people = applications.load(tx, ids)
            cards = {i: views.card_row(tx, i) for i in ids}
        checked = 0
        for i, card in cards.items():
            if card is None:
                continue
            found = read_chip(directory / "data" / "encoders" / "enc_1" / "cards", card.blank_serial, profile)
            person = people[i].application.person
            assert found["name"] == person.name
            assert found["social_security_number"] == person.social_security_number
            assert found["card_number"] == card.card_number
            assert date.fromisoformat(found["expires"]) == card.expires_on
            checked += 1
        assert checked > 0
    finally:
        store.close()
