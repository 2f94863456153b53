"""What a wire can do wrong, and how precisely the HTTP gateway tells it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.clock import SystemClock, civil_date
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_http import BankHttp
from pipeline.ports import Declined, Done, Instruction, NotTried, Pending
from producers.simulators.bank import BankServer
from tests.support.banks import BANK, binding, closing, freezing, opening

CLOCK = SystemClock()


def soon(seconds: float = 5.0) -> datetime:
    return CLOCK.now() + timedelta(seconds=seconds)


def _client(url: str, *, bank_code: str = BANK, timeout_s: float = 5.0, max_connections: int = 8) -> BankHttp:
    return BankHttp(url, bank_code=bank_code, clock=CLOCK, timeout_s=timeout_s, max_connections=max_connections)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A server that answers every request with the same bytes (None: never), and counts what it was sent."""

    url: str
    requests: list[bytes]
    over: threading.Event


@pytest.fixture
def wire() -> Iterator[Callable[[bytes | None], Wire]]:
    listeners: list[socket.socket] = []
    over = threading.Event()

    def serve(answer: bytes | None) -> Wire:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        told = Wire(url=f"http://127.0.0.1:{listener.getsockname()[1]}", requests=[], over=over)
        threading.Thread(target=_accept, args=(listener, answer, told), daemon=True).start()
        return told

    yield serve
    over.set()
    for listener in listeners:
        listener.close()


def _accept(listener: socket.socket, answer: bytes | None, told: Wire) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_speak, args=(connection, answer, told), daemon=True).start()


def _speak(connection: socket.socket, answer: bytes | None, told: Wire) -> None:
    with connection, suppress(OSError):
        while request := connection.recv(65536):
            while request.startswith(b"POST") and not request.endswith(b"}"):
                request += connection.recv(65536)
            told.requests.append(request)
            if answer is None:
                told.over.wait(30)
            if not answer:
                return
            connection.sendall(answer)


def _http(status: str, body: bytes = b"", *, declared: int | None = None) -> bytes:
    length = len(body) if declared is None else declared
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + body


ACCOUNT = Done(account_ref="1", card_number="6214670000000000000")
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
        pytest.param(_http("200 OK", DONE.replace(b"00000\"", b"00001\"")), OutcomeUnknown, id="a wrong check digit"),
        pytest.param(_http("200 OK", DONE.replace(b'"done"', b'"paid"')), OutcomeUnknown, id="unknown status"),
        pytest.param(_http("200 OK", DONE.replace(b'"done"', b"[]")), OutcomeUnknown, id="status of another type"),
        pytest.param(_http("200 OK", b"<html>"), OutcomeUnknown, id="not JSON"),
        pytest.param(_http("200 OK", b"[]"), OutcomeUnknown, id="not an object"),
        pytest.param(_http("200 OK", b"[" * 60_000), OutcomeUnknown, id="nested without end"),
        pytest.param(_http("200 OK", b" " * 100_000 + DONE), OutcomeUnknown, id="too long"),
        pytest.param(_http("202 Accepted", PENDING.replace(b"Z", b"")), OutcomeUnknown, id="naive time"),
        pytest.param(_http("202 Accepted", PENDING), Pending, id="pending"),
        pytest.param(_http("202 Accepted", PENDING.replace(b"2026", b"9999")), OutcomeUnknown, id="pending for ages"),
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
        reply = gateway.submit([opening()], deadline=soon())["oa-1-1"]
    assert type(reply) is kind
    assert len(bank.requests) == 1


@pytest.mark.parametrize(
    ("told", "changes", "kind"),
    [
        pytest.param(freezing(ACCOUNT, key="k-1"), {}, Done, id="the account and card that were named"),
        pytest.param(freezing(ACCOUNT, key="k-1"), {"account_ref": "2"}, OutcomeUnknown, id="another account"),
        pytest.param(freezing(ACCOUNT, key="k-1"), {"card_number": "6214670000000000018"}, OutcomeUnknown, id="another card"),
        pytest.param(binding(ACCOUNT, key="k-1"), {"card_number": "6214670000000000018"}, Done, id="a new card"),
        pytest.param(binding(ACCOUNT, key="k-1"), {"account_ref": "2"}, OutcomeUnknown, id="a new card of another account"),
        pytest.param(closing(ACCOUNT, key="k-1"), {"account_ref": "2"}, OutcomeUnknown, id="another account closed"),
        pytest.param(closing(ACCOUNT, key="k-1"), {"status": "declined", "code": "c", "text": "t"}, Declined, id="refused"),
    ],
)  # fmt: skip
def test_an_answer_about_something_else_is_never_believed(
    wire: Callable[[bytes | None], Wire], told: Instruction, changes: Mapping[str, str], kind: type
) -> None:
    answer = json.dumps({**json.loads(DONE), "key": "k-1", **changes}).encode()
    with _client(wire(_http("200 OK", answer)).url) as gateway:
        assert type(gateway.submit([told], deadline=soon())["k-1"]) is kind


def test_an_answer_that_trickles_in_does_not_outlast_the_deadline(wire: Callable[[bytes | None], Wire]) -> None:
    with _client(wire(_http("200 OK", b"{", declared=9)).url, timeout_s=30) as gateway:
        began = time.monotonic()
        reply = gateway.submit([opening()], deadline=soon(0.3))["oa-1-1"]
    assert isinstance(reply, OutcomeUnknown)
    assert time.monotonic() - began < 20


def test_more_callers_than_connections_wait_until_their_deadline_and_nothing_of_theirs_is_sent(
    wire: Callable[[bytes | None], Wire],
) -> None:
    bank = wire(None)
    with _client(bank.url, timeout_s=5, max_connections=2) as gateway, ThreadPoolExecutor(12) as callers:
        calls = [callers.submit(gateway.submit, [opening(n)], deadline=soon(0.5)) for n in range(12)]
        replies = [reply for call in calls for reply in call.result(timeout=30).values()]
    assert Counter(type(reply) for reply in replies) == {OutcomeUnknown: 2, NotTried: 10}
    assert len(bank.requests) == 2


def test_what_was_not_begun_by_the_deadline_is_transient(wire: Callable[[bytes | None], Wire]) -> None:
    bank = wire(None)
    with _client(bank.url, timeout_s=5, max_connections=2) as gateway:
        replies = gateway.submit([opening(n) for n in range(1, 6)], deadline=soon(0.3)).values()
    assert Counter(type(reply) for reply in replies) == {OutcomeUnknown: 2, NotTried: 3}
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
            gateway.submit([opening(n) for n in range(chunk * 20, chunk * 20 + 20)], deadline=soon())
        assert server.ledger.counts()["accounts"] == 80
    assert 1 <= len(peers) <= 3


def test_a_doubled_answer_never_passes_for_the_next_opening() -> None:
    doubled = [opening(n, phone="13800000465") for n in range(1, 11)]
    with BankServer() as server, _client(server.url, max_connections=1) as gateway:
        for person in doubled:
            reply = gateway.submit([person], deadline=soon())[person.key]
            found = gateway.find([person.key], deadline=soon())[person.key]
            assert isinstance(reply, Done | OutcomeUnknown)
            # Who asks at once may be faster than an instruction that is on its way: that is what SETTLE_AFTER_S is for.
            assert isinstance(found, Done | OutcomeUnknown) or (found is None and isinstance(reply, OutcomeUnknown))
        accounts = {account.key: account.card_number for account in server.ledger.accounts()}
        settled = {p.key: gateway.submit([p], deadline=soon())[p.key] for p in doubled}
    assert len(accounts) == 10
    assert all(not isinstance(r, Done) or r.card_number == accounts[key] for key, r in settled.items())


def test_an_instruction_for_another_bank_never_leaves() -> None:
    with BankServer() as server, _client(server.url) as gateway:
        strayed = replace(opening(), bank_code="95588")
        spaced, unwritable = opening(2, key="oa 2"), opening(3)
        unwritable = replace(unwritable, holder=replace(unwritable.holder, name="\ud800"))
        replies = gateway.submit([strayed, spaced, unwritable], deadline=soon())
        assert [type(reply).__name__ for reply in replies.values()] == ["Defect"] * 3
        assert server.ledger.counts()["accounts"] == 0


@pytest.mark.parametrize("url", ["ftp://bank", "bank", "http://user:word@bank", "http://bank?x=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        _client(url)


def test_certificates_do_not_go_with_plain_http(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="https"):
        BankHttp("http://bank", bank_code=BANK, clock=CLOCK, ca=tmp_path / "ca.pem")


# ------------------------------------------------------------------------------------------------------------ statement

TODAY = civil_date(CLOCK.now())


def _page(**changes: object) -> bytes:
    page = {"date": TODAY.isoformat(), "items": [json.loads(DONE)], "next_cursor": None}
    return _http("200 OK", json.dumps(page | changes).encode())


def test_a_statement_is_read_to_its_last_page_and_is_of_one_bank() -> None:
    with BankServer() as server, _client(server.url) as gateway, _client(server.url, bank_code="95588") as other:
        for start in range(0, 450, 50):
            gateway.submit([opening(n) for n in range(start, start + 50)], deadline=soon())
        elsewhere = replace(opening(1, key="oa-other"), bank_code="95588")
        told = other.submit([elsewhere], deadline=soon())
        statement = gateway.statement(TODAY, deadline=soon(20))
        assert statement == gateway.find([f"oa-{n}-1" for n in range(450)], deadline=soon(20))
        assert other.statement(TODAY, deadline=soon()) == told
        assert gateway.statement(TODAY - timedelta(days=1), deadline=soon()) == {}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(_page(next_cursor="1"), TransientError, id="the same page again and again"),
        pytest.param(_page(date="2001-01-01"), TransientError, id="another day"),
        pytest.param(_page(items=[json.loads(DONE)] * 2), TransientError, id="a key twice"),
        pytest.param(_page(items=[{"key": "oa-1-1"}]), TransientError, id="an item that is none"),
        pytest.param(_page(items=None), TransientError, id="no items"),
        pytest.param(_page(next_cursor=7), TransientError, id="a cursor that is none"),
        pytest.param(_http("500 Internal Server Error"), TransientError, id="500"),
        pytest.param(_http("404 Not Found"), TransientError, id="404"),
        pytest.param(_http("400 Bad Request"), Defect, id="400"),
        pytest.param(b"", TransientError, id="cut"),
    ],
)
def test_half_a_statement_is_none(wire: Callable[[bytes | None], Wire], answer: bytes, kind: type[Exception]) -> None:
    bank = wire(answer)
    with _client(bank.url) as gateway, pytest.raises(kind):
        gateway.statement(TODAY, deadline=soon())
    assert len(bank.requests) <= 2


def test_a_statement_that_takes_too_long_is_given_up(wire: Callable[[bytes | None], Wire]) -> None:
    with _client(wire(None).url, timeout_s=30) as gateway, pytest.raises(TransientError):
        gateway.statement(TODAY, deadline=soon(0.3))
