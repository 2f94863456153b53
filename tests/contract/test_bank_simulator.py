"""The simulated bank: its books outlive it, and its front says plainly what is wrong with a request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from pipeline.clock import SystemClock
from pipeline.errors import OutcomeUnknown, Refused
from pipeline.gateways.bank_http import BankHttp
from pipeline.gateways.bank_simulated import SCRIPT, Faults, Ledger, SimulatedBank
from pipeline.ports import Done
from producers.simulators.bank import BankServer
from tests.support.banks import BANK, all_about, opening

CLOCK = SystemClock()


def soon(seconds: float = 10.0) -> datetime:
    return CLOCK.now() + timedelta(seconds=seconds)


def _client(url: str) -> BankHttp:
    return BankHttp(url, bank_code=BANK, clock=CLOCK)


def test_the_books_hold_nobody_in_clear(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "bank.db")
    person = opening()
    SimulatedBank(ledger, faults=Faults(), clock=CLOCK, random=Random(1)).submit([person], deadline=soon())
    ledger.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (person.holder.name, person.holder.id_number, person.holder.phone, person.holder.address):
        assert secret.encode() not in stored


def test_the_books_outlive_the_bank_and_its_seed(tmp_path: Path) -> None:
    with BankServer(ledger_path=tmp_path / "bank.db", seed=1) as server, _client(server.url) as gateway:
        before = gateway.submit([opening()], deadline=soon())
    with BankServer(ledger_path=tmp_path / "bank.db", seed=2) as server, _client(server.url) as gateway:
        assert gateway.find(["oa-1-1"], deadline=soon()) == before
        assert gateway.submit([opening()], deadline=soon()) == before
        assert gateway.submit([opening(key="oa-1-2")], deadline=soon())["oa-1-2"] == SCRIPT["0455"]


class Process:
    """The simulated bank as a process of its own, which can be killed."""

    def __init__(self, ledger: Path, faults: str = "", *, seed: int = 1) -> None:
        code = (
            "import sys; from pathlib import Path; from producers.simulators.bank import serve;"
            "serve('127.0.0.1:0', Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(ledger), faults, str(seed)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert self.process.stderr is not None
        self.url = self.process.stderr.readline().split()[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_who_asks_after_a_kill_gets_the_first_answer_though_it_never_came(tmp_path: Path) -> None:
    bank = Process(tmp_path / "bank.db", "drop_after_commit=1")
    with _client(bank.url) as gateway:
        assert isinstance(gateway.submit([opening()], deadline=soon())["oa-1-1"], OutcomeUnknown)
    bank.kill()
    bank = Process(tmp_path / "bank.db", "drop_after_commit=1", seed=2)
    with _client(bank.url) as gateway:
        account = gateway.find(["oa-1-1"], deadline=soon())["oa-1-1"]
        assert isinstance(account, Done)
        told = all_about(account)
        for instruction in told:
            assert isinstance(gateway.submit([instruction], deadline=soon())[instruction.key], OutcomeUnknown)
    bank.kill()
    books = Ledger(tmp_path / "bank.db")
    first = {key: record.reply for key, record in books.find([i.key for i in told]).items()}
    books.close()
    bank = Process(tmp_path / "bank.db", seed=3)
    with _client(bank.url) as gateway:
        assert len(first) == len(told)
        assert gateway.find(list(first), deadline=soon()) == first
        assert gateway.submit(told, deadline=soon()) == first
    bank.process.send_signal(signal.SIGTERM)
    _, talk = bank.process.communicate(timeout=20)
    assert (bank.process.returncode, talk) == (0, "")


def test_books_of_another_release_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY)")
    old.close()
    with pytest.raises(Refused) as refused:
        Ledger(path)
    assert refused.value.reason_code == "bank-ledger-of-another-release"
    assert "CREATE TABLE accounts" in sqlite3.connect(path).execute("SELECT sql FROM sqlite_master").fetchone()[0]


def test_two_threads_with_one_person_open_one_account() -> None:
    bank = SimulatedBank(Ledger(), faults=Faults(), clock=CLOCK, random=Random(1))
    threads = [
        threading.Thread(target=bank.submit, args=([opening(key=f"oa-1-{n}")],), kwargs={"deadline": soon()})
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = bank.ledger.counts()
    assert (counts["accounts"], counts["declined"]) == (1, 7)


# ------------------------------------------------------------------------------------------------- the bank's own front


@pytest.fixture(scope="module")
def front() -> Iterator[BankServer]:
    with BankServer() as server:
        yield server


def _ask(
    server: BankServer, method: str, path: str, body: bytes | str | None = None, **headers: str
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=5)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


HOLDER = {
    "name": "李梅",
    "id_type": "resident_id",
    "id_number": "99900119491231002X",
    "sex": "2",
    "birth_date": "1949-12-31",
}
BODY = {"instruction": "open_account", "bank_code": BANK, "region": "420100", "holder": HOLDER, "guardian": None}
FREEZE = {
    "instruction": "freeze_financial",
    "bank_code": BANK,
    "account_ref": "1",
    "card_number": "6214670000000000000",
    "reason": "loss",
}
JSON = {"Content_Type": "application/json", "Idempotency_Key": "oa-7-1"}
INSTRUCTIONS = "/bank/v1/instructions"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (json.dumps(BODY), {"Content_Type": "application/json"}, 400, "invalid_key"),
        (json.dumps(BODY), {**JSON, "Idempotency_Key": "k" * 65}, 400, "invalid_key"),
        (json.dumps(BODY), {**JSON, "Content_Type": "text/xml"}, 415, "not_json"),
        (b" " * 70_000, JSON, 413, "too_large"),
        (b"{", JSON, 400, "invalid_json"),
        (b"\xff\xfe", JSON, 400, "invalid_json"),
        (b"[" * 60_000, JSON, 400, "invalid_json"),
        (b"[]", JSON, 400, "not_an_object"),
        (json.dumps({**BODY, "instruction": "lend_money"}), JSON, 400, "invalid_field"),
        (json.dumps({**BODY, "instruction": "bind_card"}), JSON, 400, "invalid_field"),
        (json.dumps({**FREEZE, "card_number": "62"}), JSON, 400, "invalid_field"),
        (json.dumps({**FREEZE, "branch": "42010601"}), JSON, 400, "unknown_field"),
        (json.dumps({**FREEZE, "reason": ""}), JSON, 400, "invalid_field"),
        (json.dumps({**BODY, "extra": 1}), JSON, 400, "unknown_field"),
        (json.dumps({**BODY, "holder": {**HOLDER, "extra": 1}}), JSON, 400, "unknown_field"),
        (json.dumps({**BODY, "holder": {**HOLDER, "birth_date": "1949-13-31"}}), JSON, 400, "invalid_field"),
        (json.dumps({**BODY, "holder": {**HOLDER, "id_type": ["resident_id"]}}), JSON, 400, "invalid_field"),
        (json.dumps({**BODY, "holder": {**HOLDER, "name": 7}}), JSON, 400, "invalid_field"),
        (json.dumps({**BODY, "holder": None}), JSON, 400, "not_an_object"),
    ],
)  # fmt: skip
def test_a_bad_instruction_gets_a_problem_that_quotes_nobody(
    front: BankServer, body: bytes | str, headers: dict[str, str], status: int, code: str
) -> None:
    got, problem = _ask(front, "POST", INSTRUCTIONS, body, **headers)
    assert (got, problem["status"], problem["code"]) == (status, status, code)
    assert "李" not in json.dumps(problem, ensure_ascii=False)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/bank/v1/instructions", 404),
        ("POST", "/bank/v1/ledger", 404),
        ("GET", f"{INSTRUCTIONS}/{'k' * 65}", 400),
        ("GET", f"{INSTRUCTIONS}/%00", 400),
        ("GET", "/bank/v1/statements/yesterday", 400),
        ("GET", "/bank/v1/statements/2026-11-23?cursor=x", 400),
        ("GET", "/bank/v1/statements/2026-11-23?cursor=9999999999999999999", 400),
        ("DELETE", INSTRUCTIONS, 501),
    ],
)
def test_a_bad_address_gets_a_problem(front: BankServer, method: str, path: str, status: int) -> None:
    got, problem = _ask(front, method, path)
    assert (got, problem["status"]) == (status, status)


@pytest.mark.parametrize(
    "request_head",
    [
        "no request at all\r\n\r\n",
        "GET http://[ HTTP/1.1\r\n\r\n",
        f"POST {INSTRUCTIONS} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST {INSTRUCTIONS} HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_a_request_that_cannot_be_read_gets_a_problem_and_the_line_is_closed(
    front: BankServer, request_head: str
) -> None:
    host, _, port = front.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request_head.encode())
        with connection.makefile("rb") as answer:
            told = answer.read()
    assert b" 400 " in told.splitlines()[0]
    assert b"application/problem+json" in told


def test_a_key_that_was_never_seen_is_a_404_and_health_is_good(front: BankServer) -> None:
    assert _ask(front, "GET", f"{INSTRUCTIONS}/oa-none-1")[0] == 404
    assert _ask(front, "GET", "/healthz") == (200, {"ok": True})


def test_the_dialect_is_spoken_to_the_letter(front: BankServer) -> None:
    status, reply = _ask(front, "POST", INSTRUCTIONS, json.dumps(BODY), **JSON)
    assert status == 200
    assert reply.keys() == {"status", "key", "account_ref", "card_number", "account_class", "frozen_until_activation"}
    assert _ask(front, "GET", f"{INSTRUCTIONS}/oa-7-1") == (200, reply)
    assert _ask(front, "POST", INSTRUCTIONS, json.dumps({**BODY, "region": "420101"}), **JSON)[0] == 409
    assert _ask(front, "GET", "/bank/v1/ledger") == (200, {"accounts": 1, "frozen": 0, "closed": 0, "declined": 0})
