"""What every bank gateway promises, proved on the simulated bank in process and on HTTP over loopback.

After the shared suite: what only a wire can do wrong, and what the simulated bank's front says to bad requests.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from pipeline.clock import SystemClock, VirtualClock, civil_date
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_http import BankHttp
from pipeline.gateways.bank_simulated import SCRIPT, Faults, Ledger, Mishap, SimulatedBank, luhn_digit
from pipeline.person import Agent, Person
from pipeline.ports import BankGateway, Declined, Done, OpenAccount, Pending
from producers.simulators.bank import BankServer

BANK = "95533"
CLOCK = SystemClock()


def instruction(number: int = 1, *, key: str | None = None, phone: str = "13800000000") -> OpenAccount:
    """The instruction for the sample person of that number."""
    person = Person(
        name=f"李梅{number}", id_type="resident_id", id_number=f"1101051949{number:08d}",
        social_security_number="", sex="2", ethnic="01", birth_date=date(1949, 12, 31), phone=phone,
        address="北京市朝阳区", occupation="80000", id_valid_from=date(2015, 1, 1), id_valid_to=date(9999, 12, 31),
    )  # fmt: skip
    return OpenAccount(key=key or f"oa-{number}-1", bank_code=BANK, branch="42010601", region="420100", holder=person)


def soon(seconds: float = 5.0) -> datetime:
    return CLOCK.now() + timedelta(seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A gateway with the books of the bank behind it and a switch for the bank."""

    gateway: BankGateway
    ledger: Ledger
    clock: VirtualClock
    go_down: Callable[[], None]

    def submit(self, *instructions: OpenAccount) -> dict[str, object]:
        return dict(self.gateway.submit(instructions, deadline=self.soon()))

    def find(self, *keys: str) -> dict[str, object]:
        return dict(self.gateway.find(keys, deadline=self.soon()))

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=5)


Bank = Callable[..., Rig]


@pytest.fixture(params=["simulated", "http"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """Makes the bank with the faults asked for."""
    closing: list[Callable[[], None]] = []

    def simulated(faults: Faults) -> Rig:
        clock, ledger = VirtualClock(CLOCK.now()), Ledger(tmp_path / "bank.db")
        closing.append(ledger.close)
        gateway = SimulatedBank(ledger, faults=faults, clock=clock, random=Random(1))

        def go_down() -> None:
            gateway.faults = Faults(error=1.0)

        return Rig(gateway=gateway, ledger=ledger, clock=clock, go_down=go_down)

    def over_http(faults: Faults) -> Rig:
        clock = VirtualClock(CLOCK.now())
        server = BankServer(ledger_path=tmp_path / "bank.db", faults=faults, clock=clock).start()
        gateway = BankHttp(server.url, bank_code=BANK, clock=clock, timeout_s=1.0)
        closing.extend([gateway.close, server.stop])
        return Rig(gateway=gateway, ledger=server.ledger, clock=clock, go_down=server.stop)

    build = simulated if request.param == "simulated" else over_http
    yield lambda **faults: build(Faults(**faults))
    for close in closing:
        close()


# --------------------------------------------------------------------------------------------- every gateway promises


def test_every_key_of_a_call_gets_an_account_of_its_own(bank: Bank) -> None:
    rig = bank()
    replies = rig.submit(*(instruction(n) for n in range(1, 21)))
    numbers = {reply.card_number for reply in replies.values() if isinstance(reply, Done)}
    assert set(replies) == {f"oa-{n}-1" for n in range(1, 21)}
    assert len(numbers) == 20
    assert all(len(n) == 19 and n.startswith("62") and luhn_digit(n[:-1]) == n[-1] for n in numbers)
    assert {account.card_number for account in rig.ledger.accounts()} == numbers


def test_an_empty_call_is_answered(bank: Bank) -> None:
    rig = bank()
    assert rig.submit() == {}
    assert rig.find() == {}


def test_the_same_key_gets_the_same_reply_and_no_second_account(bank: Bank) -> None:
    rig = bank()
    first, again = rig.submit(instruction()), rig.submit(instruction())
    assert first == again
    assert rig.ledger.counts() == {"accounts": 1, "declined": 0}


def test_an_instruction_given_twice_in_one_call_is_carried_out_once(bank: Bank) -> None:
    rig = bank()
    assert len(rig.submit(instruction(), instruction())) == 1
    assert rig.ledger.counts()["accounts"] == 1


def test_one_key_for_two_people_in_one_call_is_refused_before_anything_is_sent(bank: Bank) -> None:
    rig = bank()
    with pytest.raises(ValueError, match="two contents"):
        rig.submit(instruction(1, key="oa-x"), instruction(2, key="oa-x"))
    assert rig.ledger.counts()["accounts"] == 0


def test_a_refusal_is_a_value(bank: Bank) -> None:
    rig = bank()
    reply = rig.submit(instruction(phone="13800000451"))["oa-1-1"]
    assert reply == Declined(code="name_mismatch", text="姓名与证件号不符")
    assert rig.find("oa-1-1") == {"oa-1-1": reply}
    assert rig.ledger.counts() == {"accounts": 0, "declined": 1}


@pytest.mark.parametrize(("digits", "fate"), [(d, f) for d, f in SCRIPT.items() if isinstance(f, Declined)])
def test_a_phone_number_chooses_the_refusal(bank: Bank, digits: str, fate: Declined) -> None:
    assert bank().submit(instruction(phone=f"1380000{digits}")) == {"oa-1-1": fate}


def test_a_person_on_the_list_is_refused(bank: Bank) -> None:
    listed = Declined(code="listed", text="黑名单")
    rig = bank(decline_names={"李梅2": listed})
    replies = rig.submit(instruction(1), instruction(2))
    assert isinstance(replies["oa-1-1"], Done)
    assert replies["oa-2-1"] == listed


def test_a_person_has_one_account_at_a_bank(bank: Bank) -> None:
    rig = bank()
    rig.submit(instruction(key="oa-1-1"))
    assert rig.submit(instruction(key="oa-1-2")) == {"oa-1-2": Declined(code="account_exists", text="已有Ⅰ类户")}
    assert rig.ledger.counts() == {"accounts": 1, "declined": 1}


def test_a_known_key_with_other_content_is_a_defect_of_that_key_alone(bank: Bank) -> None:
    rig = bank()
    rig.submit(instruction(1))
    replies = rig.submit(instruction(2, key="oa-1-1"), instruction(3))
    assert isinstance(replies["oa-1-1"], Defect)
    assert isinstance(replies["oa-3-1"], Done)
    assert rig.ledger.counts()["accounts"] == 2


def test_a_guardian_is_part_of_the_content(bank: Bank) -> None:
    rig = bank()
    guarded = replace(instruction(), guardian=Agent(name="李父", id_type="resident_id", id_number="11010519200101001X"))
    assert isinstance(rig.submit(guarded)["oa-1-1"], Done)
    assert isinstance(rig.submit(instruction())["oa-1-1"], Defect)


def test_a_key_that_was_never_seen_is_not_found(bank: Bank) -> None:
    rig = bank()
    rig.submit(instruction(1))
    found = rig.find("oa-1-1", "oa-2-1")
    assert isinstance(found["oa-1-1"], Done)
    assert found["oa-2-1"] is None


def test_a_lost_answer_is_unknown_and_asking_brings_it_back(bank: Bank) -> None:
    rig = bank(drop_after_commit=1.0)
    assert isinstance(rig.submit(instruction())["oa-1-1"], OutcomeUnknown)
    found = rig.find("oa-1-1")["oa-1-1"]
    assert isinstance(found, Done)
    assert rig.submit(instruction()) == {"oa-1-1": found}
    assert rig.ledger.counts()["accounts"] == 1


def test_an_instruction_that_got_lost_at_the_bank_is_unknown_and_can_be_sent_again(bank: Bank) -> None:
    rig = bank()
    lost = instruction(phone="13800000464")
    assert isinstance(rig.submit(lost)["oa-1-1"], OutcomeUnknown)
    assert rig.find("oa-1-1") == {"oa-1-1": None}
    assert isinstance(rig.submit(lost)["oa-1-1"], Done)
    assert rig.ledger.counts()["accounts"] == 1


def test_a_bank_that_is_busy_has_certainly_not_taken_it(bank: Bank) -> None:
    rig = bank()
    busy = instruction(phone="13800000463")
    assert isinstance(rig.submit(busy)["oa-1-1"], TransientError)
    assert rig.find("oa-1-1") == {"oa-1-1": None}
    assert isinstance(rig.submit(busy)["oa-1-1"], Done)


def test_a_bank_that_is_down_is_transient_for_every_key(bank: Bank) -> None:
    rig = bank()
    rig.go_down()
    replies = rig.submit(instruction(1), instruction(2))
    assert [type(reply) for reply in replies.values()] == [TransientError, TransientError]


def test_a_late_result_is_pending_until_it_is_ready(bank: Bank) -> None:
    rig = bank(late=1.0, late_s=3600)
    pending = rig.submit(instruction())["oa-1-1"]
    assert isinstance(pending, Pending)
    assert pending.expected_by > rig.clock.now()
    assert rig.find("oa-1-1") == {"oa-1-1": pending}
    rig.clock.advance(timedelta(seconds=3601))
    assert isinstance(rig.find("oa-1-1")["oa-1-1"], Done)


def test_nothing_is_sent_once_the_deadline_has_passed(bank: Bank) -> None:
    rig = bank()
    past = rig.clock.now() - timedelta(seconds=1)
    assert isinstance(rig.gateway.submit([instruction()], deadline=past)["oa-1-1"], TransientError)
    assert isinstance(rig.gateway.find(["oa-1-1"], deadline=past)["oa-1-1"], TransientError)
    assert rig.ledger.counts()["accounts"] == 0


def test_a_slow_bank_is_unknown_at_the_deadline(bank: Bank) -> None:
    rig = bank(slow_ms=800)
    began = time.monotonic()
    replies = rig.gateway.submit([instruction()], deadline=rig.clock.now() + timedelta(seconds=0.3))
    assert time.monotonic() - began < 0.6
    assert isinstance(replies["oa-1-1"], OutcomeUnknown)


def test_what_goes_wrong_never_names_a_person(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rig = bank()
    rig.submit(instruction(1))
    replies = rig.submit(
        instruction(2, key="oa-1-1"), instruction(3, phone="13800000462"), instruction(4, phone="13800000463")
    )
    told = caplog.text + repr(replies) + repr(rig.gateway) + "".join(map(repr, rig.ledger.accounts()))
    assert len({type(reply) for reply in replies.values()}) == 3
    assert not any(secret in told for secret in ("李", "11010519", "1380000", "朝阳"))


def test_the_same_seed_strikes_the_same_people_whatever_the_order(bank: Bank) -> None:
    rig = bank(decline=0.3, error=0.2)
    people = [instruction(n) for n in range(1, 41)]
    replies = rig.submit(*people)
    other = SimulatedBank(Ledger(), faults=Faults(decline=0.3, error=0.2), clock=CLOCK, random=Random(1))
    expected = other.submit(people[::-1], deadline=soon())
    assert {key: _comparable(reply) for key, reply in replies.items()} == {
        key: _comparable(r) for key, r in expected.items()
    }
    assert {type(reply) for reply in replies.values()} == {Done, Declined, TransientError}


def _comparable(reply: object) -> object:
    return type(reply) if isinstance(reply, Exception) else reply


# ---------------------------------------------------------------------------------------------------- the bank's books


def test_the_books_hold_nobody_in_clear(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "bank.db")
    person = instruction()
    SimulatedBank(ledger, faults=Faults(), clock=CLOCK, random=Random(1)).submit([person], deadline=soon())
    ledger.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (person.holder.name, person.holder.id_number, person.holder.phone, person.holder.address):
        assert secret.encode() not in stored


def test_the_books_outlive_the_bank_and_its_seed(tmp_path: Path) -> None:
    with BankServer(ledger_path=tmp_path / "bank.db", seed=1) as server, _client(server.url) as gateway:
        before = gateway.submit([instruction()], deadline=soon())
    with BankServer(ledger_path=tmp_path / "bank.db", seed=2) as server, _client(server.url) as gateway:
        assert gateway.find(["oa-1-1"], deadline=soon()) == before
        assert gateway.submit([instruction()], deadline=soon()) == before
        assert gateway.submit([instruction(key="oa-1-2")], deadline=soon())["oa-1-2"] == SCRIPT["0455"]


def test_an_account_that_was_answered_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from producers.simulators.bank import serve;"
        "serve('127.0.0.1:0', Path(sys.argv[1]), '', 1)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bank.db")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        return process, process.stderr.readline().split()[-1]

    process, url = start()
    with _client(url) as gateway:
        before = gateway.submit([instruction(n) for n in range(1, 6)], deadline=soon())
    process.kill()
    process.communicate()
    process, url = start()
    with _client(url) as gateway:
        assert gateway.find(list(before), deadline=soon()) == before
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=5)
    assert (process.returncode, talk) == (0, "")


def test_two_threads_with_one_person_open_one_account() -> None:
    bank = SimulatedBank(Ledger(), faults=Faults(), clock=CLOCK, random=Random(1))
    threads = [
        threading.Thread(target=bank.submit, args=([instruction(key=f"oa-1-{n}")],), kwargs={"deadline": soon()})
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bank.ledger.counts() == {"accounts": 1, "declined": 7}


# -------------------------------------------------------------------------------------------- what a wire can do wrong


def _client(url: str, *, timeout_s: float = 1.0, max_connections: int = 8) -> BankHttp:
    return BankHttp(url, bank_code=BANK, clock=CLOCK, timeout_s=timeout_s, max_connections=max_connections)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A server that answers every request with the same bytes (None: never), and counts what it was sent."""

    url: str
    requests: list[bytes]
    connections: list[int]


@pytest.fixture
def wire() -> Iterator[Callable[[bytes | None], Wire]]:
    listeners: list[socket.socket] = []

    def serve(answer: bytes | None) -> Wire:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        told = Wire(url=f"http://127.0.0.1:{listener.getsockname()[1]}", requests=[], connections=[])
        threading.Thread(target=_accept, args=(listener, answer, told), daemon=True).start()
        return told

    yield serve
    for listener in listeners:
        listener.close()


def _accept(listener: socket.socket, answer: bytes | None, told: Wire) -> None:
    while True:
        try:
            connection, (_, port) = listener.accept()
        except OSError:
            return
        told.connections.append(port)
        threading.Thread(target=_speak, args=(connection, answer, told), daemon=True).start()


def _speak(connection: socket.socket, answer: bytes | None, told: Wire) -> None:
    with connection:
        while request := connection.recv(65536):
            while request.startswith(b"POST") and not request.endswith(b"}"):
                request += connection.recv(65536)
            told.requests.append(request)
            if answer is None:
                time.sleep(1.0)
            if not answer:
                return
            connection.sendall(answer)


def _http(status: str, body: bytes = b"", *, declared: int | None = None) -> bytes:
    length = len(body) if declared is None else declared
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + body


DONE = b'{"status":"done","key":"oa-1-1","account_ref":"1","card_number":"6214670000000000000","account_class":"I"}'
PENDING = b'{"status":"pending","key":"oa-1-1","expected_by":"2026-11-23T09:00:00Z"}'


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"", OutcomeUnknown, id="cut after the request"),
        pytest.param(None, OutcomeUnknown, id="no answer"),
        pytest.param(b"\x16\x03\x01 no http\r\n\r\n", OutcomeUnknown, id="not HTTP"),
        pytest.param(_http("200 OK", DONE), Done, id="done"),
        pytest.param(_http("200 OK", DONE[:-9], declared=len(DONE)), OutcomeUnknown, id="cut inside the body"),
        pytest.param(_http("200 OK", DONE.replace(b"oa-1-1", b"oa-2-1")), OutcomeUnknown, id="another key"),
        pytest.param(_http("200 OK", DONE.replace(b"6214", b"abcd")), OutcomeUnknown, id="not a card number"),
        pytest.param(_http("200 OK", DONE.replace(b'"done"', b'"paid"')), OutcomeUnknown, id="unknown status"),
        pytest.param(_http("200 OK", DONE.replace(b'"done"', b"[]")), OutcomeUnknown, id="status of another type"),
        pytest.param(_http("200 OK", b"<html>"), OutcomeUnknown, id="not JSON"),
        pytest.param(_http("200 OK", b"[]"), OutcomeUnknown, id="not an object"),
        pytest.param(_http("200 OK", b"[" * 60_000), OutcomeUnknown, id="nested without end"),
        pytest.param(_http("200 OK", b" " * 100_000 + DONE), OutcomeUnknown, id="too long"),
        pytest.param(_http("202 Accepted", PENDING.replace(b"Z", b"")), OutcomeUnknown, id="naive time"),
        pytest.param(_http("202 Accepted", PENDING), Pending, id="pending"),
        pytest.param(_http("302 Found"), OutcomeUnknown, id="redirect"),
        pytest.param(_http("500 Internal Server Error"), OutcomeUnknown, id="500"),
        pytest.param(_http("502 Bad Gateway"), OutcomeUnknown, id="502"),
        pytest.param(_http("504 Gateway Timeout"), OutcomeUnknown, id="504"),
        pytest.param(_http("503 Service Unavailable"), TransientError, id="503"),
        pytest.param(_http("429 Too Many Requests"), TransientError, id="429"),
        pytest.param(_http("401 Unauthorized"), TransientError, id="401"),
        pytest.param(_http("404 Not Found"), TransientError, id="404 to a new instruction"),
        pytest.param(_http("400 Bad Request"), Defect, id="400"),
        pytest.param(_http("409 Conflict"), Defect, id="409"),
    ],
)  # fmt: skip
def test_how_an_exchange_ended_is_told_precisely_and_it_is_sent_once(
    wire: Callable[[bytes | None], Wire], answer: bytes | None, kind: type
) -> None:
    bank = wire(answer)
    with _client(bank.url, timeout_s=0.3) as gateway:
        reply = gateway.submit([instruction()], deadline=soon())["oa-1-1"]
    assert type(reply) is kind
    assert len(bank.requests) == 1


def test_an_answer_that_trickles_in_does_not_outlast_the_deadline(wire: Callable[[bytes | None], Wire]) -> None:
    with _client(wire(_http("200 OK", b"{", declared=9)).url, timeout_s=30) as gateway:
        began = time.monotonic()
        reply = gateway.submit([instruction()], deadline=soon(0.3))["oa-1-1"]
    assert isinstance(reply, OutcomeUnknown)
    assert time.monotonic() - began < 0.6


def test_what_was_not_begun_by_the_deadline_is_transient(wire: Callable[[bytes | None], Wire]) -> None:
    bank = wire(None)
    with _client(bank.url, timeout_s=5, max_connections=2) as gateway:
        replies = gateway.submit([instruction(n) for n in range(1, 6)], deadline=soon(0.3)).values()
    assert sorted(type(reply).__name__ for reply in replies) == ["OutcomeUnknown"] * 2 + ["TransientError"] * 3
    assert len(bank.requests) == 2


def test_connections_are_kept_and_bounded() -> None:
    with BankServer() as server, _client(server.url, max_connections=3) as gateway:
        peers = set[object]()
        noticed = server._server.opened

        def opened(connection: socket.socket) -> None:
            peers.add(connection.getpeername())
            noticed(connection)

        server._server.opened = opened  # type: ignore[method-assign]
        for chunk in range(4):
            gateway.submit([instruction(n) for n in range(chunk * 20, chunk * 20 + 20)], deadline=soon())
        assert server.ledger.counts()["accounts"] == 80
    assert 1 <= len(peers) <= 3


def test_a_doubled_answer_never_passes_for_the_next_instruction() -> None:
    doubled = [instruction(n, phone="13800000465") for n in range(1, 11)]
    with BankServer() as server, _client(server.url, max_connections=1) as gateway:
        for person in doubled:
            reply = gateway.submit([person], deadline=soon())[person.key]
            found = gateway.find([person.key], deadline=soon())[person.key]
            assert isinstance(reply, Done | OutcomeUnknown)
            assert isinstance(found, Done | OutcomeUnknown)
        accounts = {account.key: account.card_number for account in server.ledger.accounts()}
        settled = {p.key: gateway.submit([p], deadline=soon())[p.key] for p in doubled}
    assert len(accounts) == 10
    assert all(not isinstance(r, Done) or r.card_number == accounts[key] for key, r in settled.items())


def test_an_instruction_for_another_bank_never_leaves() -> None:
    with BankServer() as server, _client(server.url) as gateway:
        strayed = replace(instruction(), bank_code="95588")
        spaced, unwritable = instruction(2, key="oa 2"), instruction(3)
        unwritable = replace(unwritable, holder=replace(unwritable.holder, name="\ud800"))
        replies = gateway.submit([strayed, spaced, unwritable], deadline=soon())
        assert [type(reply).__name__ for reply in replies.values()] == ["Defect"] * 3
        assert server.ledger.counts() == {"accounts": 0, "declined": 0}


@pytest.mark.parametrize("url", ["ftp://bank", "bank", "http://user:word@bank", "http://bank?x=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        _client(url)


def test_certificates_do_not_go_with_plain_http(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="https"):
        BankHttp("http://bank", bank_code=BANK, clock=CLOCK, ca=tmp_path / "ca.pem")


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
    "id_number": "11010519491231002X",
    "sex": "2",
    "birth_date": "1949-12-31",
}
BODY = {"instruction": "open_account", "bank_code": BANK, "region": "420100", "holder": HOLDER, "guardian": None}
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
        (json.dumps({**BODY, "instruction": "bind_card"}), JSON, 400, "invalid_field"),
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
    assert _ask(front, "GET", "/bank/v1/ledger") == (200, {"accounts": 1, "declined": 0})


def test_a_statement_lists_the_day_page_by_page() -> None:
    with BankServer() as server, _client(server.url) as gateway:
        today = civil_date(CLOCK.now())
        for start in range(0, 250, 50):
            gateway.submit([instruction(n) for n in range(start, start + 50)], deadline=soon())
        keys, cursor = list[str](), ""
        while cursor is not None:
            _, page = _ask(server, "GET", f"/bank/v1/statements/{today}" + (f"?cursor={cursor}" if cursor else ""))
            keys += [item["key"] for item in page["items"]]  # type: ignore[attr-defined] # a list by the dialect
            cursor = page["next_cursor"]  # type: ignore[assignment] # a text or null
        assert sorted(keys) == sorted(f"oa-{n}-1" for n in range(250))
        assert _ask(server, "GET", f"/bank/v1/statements/{today - timedelta(days=1)}")[1]["items"] == []


def test_a_fault_strikes_at_most_the_share_it_was_given() -> None:
    faults = Faults(decline=0.1, error=0.1, timeout=0.1, late=0.1, drop_after_commit=0.1)
    drawn = [faults.draw(Random(n)) for n in range(5000)]
    for mishap in (Mishap.UNAVAILABLE, Mishap.SILENT, Mishap.LATE, Mishap.DROPPED):
        assert drawn.count(mishap) / 5000 == pytest.approx(0.1, abs=0.02)
    assert sum(isinstance(strike, Declined) for strike in drawn) / 5000 == pytest.approx(0.1, abs=0.02)
    assert drawn.count(None) / 5000 == pytest.approx(0.5, abs=0.03)
