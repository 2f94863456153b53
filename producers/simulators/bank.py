"""The simulated bank as a real HTTP server, dialect `zhika-bank/1`.

    POST /bank/v1/instructions              one instruction, its key in `Idempotency-Key`
    GET  /bank/v1/instructions/{key}        what became of it; 404 when it was never seen
    GET  /bank/v1/statements/{date}?cursor= the day's instructions and their results, paged
    GET  /bank/v1/ledger                    how many accounts and refusals there are
    GET  /healthz

What the bank decides is `pipeline.gateways.bank_simulated`; this module only speaks HTTP, and breaks it where a fault says so.
It writes down no request: people's data passes through bodies and ends there.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from socketserver import TCPServer
from types import FrameType, TracebackType
from typing import Any, Self, cast, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.clock import Clock, SystemClock
from pipeline.gateways.bank_simulated import Faults, Ledger, Mishap, Record, SimulatedBank
from pipeline.person import Agent, IdType, Person, Sex
from pipeline.ports import BankReply, Declined, Done, Instruction, OpenAccount, Pending

MAX_BODY_BYTES = 64 * 1024
PAGE = 200
IDLE_S = 60.0
SILENCE_S = 30.0
"""How long an instruction that gets no answer keeps its connection open."""

logger = logging.getLogger(__name__)
_KEY = re.compile(r"[!-~]{1,64}")


class Problem(Exception):
    """The request cannot be served; `detail` names fields, never their values."""

    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


# ------------------------------------------------------------------------------------------------------------ reading


class _Fields:
    """A JSON object that is read field by field; whatever is left over is refused."""

    def __init__(self, value: object, pointer: str) -> None:
        if not isinstance(value, dict):
            raise _bad("not_an_object", f"{pointer or 'the body'} is not an object")
        self._left: dict[str, object] = dict(value)
        self._pointer = pointer

    def take(self, name: str) -> object:
        return self._left.pop(name, None)

    def text(self, name: str, *, at_most: int, pattern: str = "", required: bool = False) -> str:
        value = self.take(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or len(value) > at_most or (required and not value):
            raise _bad("invalid_field", f"{self._pointer}/{name} is not a text of at most {at_most} characters")
        if pattern and not re.fullmatch(pattern, value):
            raise _bad("invalid_field", f"{self._pointer}/{name} is not in its format")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.take(name)
        if value not in allowed:
            raise _bad("invalid_field", f"{self._pointer}/{name} is none of {', '.join(allowed)}")
        return str(value)

    def day(self, name: str) -> date | None:
        value = self.take(name)
        if value is None:
            return None
        try:
            return date.fromisoformat(cast("str", value))
        except (ValueError, TypeError):
            raise _bad("invalid_field", f"{self._pointer}/{name} is not a date") from None

    def end(self) -> None:
        if self._left:
            raise _bad("unknown_field", f"{self._pointer or 'the body'} has a field that is not known")


def read_instruction(key: str, body: bytes) -> Instruction:
    """The instruction in a body.

    Raises:
        Problem: it is not JSON, or not an instruction of this dialect.
    """
    try:
        document = _Fields(json.loads(body), "")
    except (ValueError, RecursionError):
        raise _bad("invalid_json", "the body is not JSON") from None
    document.choice("instruction", ("open_account",))
    instruction = OpenAccount(
        key=key,
        bank_code=document.text("bank_code", at_most=20, pattern=r"[0-9A-Za-z]+", required=True),
        branch=document.text("branch", at_most=20),
        region=document.text("region", at_most=6, pattern=r"\d{6}", required=True),
        holder=_person(_Fields(document.take("holder"), "/holder")),
        guardian=_guardian(document.take("guardian")),
    )
    document.end()
    return instruction


def _person(holder: _Fields) -> Person:
    birth_date = holder.day("birth_date")
    if birth_date is None:
        raise _bad("invalid_field", "/holder/birth_date is missing")
    person = Person(
        name=holder.text("name", at_most=50, required=True),
        id_type=cast("IdType", holder.choice("id_type", get_args(IdType))),
        id_number=holder.text("id_number", at_most=32, required=True),
        social_security_number="",
        sex=cast("Sex", holder.choice("sex", get_args(Sex))),
        ethnic=holder.text("ethnic", at_most=2),
        birth_date=birth_date,
        nationality=holder.text("nationality", at_most=3),
        phone=holder.text("phone", at_most=20),
        address=holder.text("address", at_most=200),
        occupation=holder.text("occupation", at_most=20),
        id_valid_from=holder.day("id_valid_from"),
        id_valid_to=holder.day("id_valid_to"),
    )
    holder.end()
    return person


def _guardian(value: object) -> Agent | None:
    if value is None:
        return None
    guardian = _Fields(value, "/guardian")
    agent = Agent(
        name=guardian.text("name", at_most=50, required=True),
        id_type=cast("IdType", guardian.choice("id_type", get_args(IdType))),
        id_number=guardian.text("id_number", at_most=32, required=True),
        relation=guardian.text("relation", at_most=20),
        phone=guardian.text("phone", at_most=20),
    )
    guardian.end()
    return agent


def _bad(code: str, detail: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, code, detail)


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise _bad("invalid_key", "a key is 1 to 64 printable ASCII characters")
    return text


# ------------------------------------------------------------------------------------------------------------ writing


def write_reply(key: str, reply: BankReply) -> Mapping[str, object]:
    """A reply as it goes over the wire."""
    match reply:
        case Done():
            return {
                "status": "done", "key": key, "account_ref": reply.account_ref, "card_number": reply.card_number,
                "account_class": reply.account_class, "frozen_until_activation": True,
            }  # fmt: skip
        case Declined():
            return {"status": "declined", "key": key, "code": reply.code, "text": reply.text}
        case Pending():
            return {"status": "pending", "key": key, "expected_by": _instant(reply.expected_by)}


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _status(reply: BankReply) -> HTTPStatus:
    return HTTPStatus.ACCEPTED if isinstance(reply, Pending) else HTTPStatus.OK


# ------------------------------------------------------------------------------------------------------------- server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], bank: SimulatedBank, silence_s: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.bank = bank
        self.silence_s = silence_s
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind would look our own name up, which can take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # an internet address

    def handle_error(self, request: object, client_address: object) -> None:
        # The default prints a traceback; a caller that hangs up is none of our faults.
        logger.debug("connection ended: %s", type(sys.exc_info()[1]).__name__)

    def opened(self, connection: socket.socket) -> None:
        with self._open_lock:
            self._open.add(connection)
        if self.stopping.is_set():
            _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._open_lock:
            self._open.discard(connection)

    def hang_up(self) -> None:
        """End every connection, idle or not."""
        self.stopping.set()
        with self._open_lock:
            for connection in self._open:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "zhika-bank"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = IDLE_S
    wbufsize = 64 * 1024  # an answer leaves in one piece
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_GET(self) -> None:
        self._serve(self._get)

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def _serve(self, route: Callable[[str, str], None]) -> None:
        try:
            try:
                url = urlsplit(self.path)
            except ValueError:
                self.close_connection = True  # where a body would end is not known either
                raise _bad("invalid_url", "the address cannot be read") from None
            route(url.path, url.query)
        except Problem as problem:
            self._problem(problem)
        except OSError:  # includes the other side hanging up
            raise
        except sqlite3.Error as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - a simulator's bug is an answer too, and quotes no request
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        logger.error("bank simulator failed: %s", type(error).__name__)
        self._problem(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the bank failed"))

    def _post(self, path: str, _query: str) -> None:
        if path != "/bank/v1/instructions":
            raise _no_such_page()
        body = self._body()
        instruction = read_instruction(_key(self.headers.get("Idempotency-Key", "")), body)
        answer = self.server.bank.answer([instruction])[instruction.key]
        self._wait(self.server.bank.faults.slow_ms / 1000)
        match answer.mishap:
            case Mishap.UNAVAILABLE:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the bank takes nothing now")
            case Mishap.CONFLICT:
                raise Problem(HTTPStatus.CONFLICT, "key_conflict", "this key is known with other content")
            case Mishap.SILENT:
                self._wait(self.server.silence_s)
                self._drop()
            case Mishap.DROPPED:
                self._drop()
            case mishap:
                reply = cast("BankReply", answer.reply)
                for _ in range(2 if mishap is Mishap.DUPLICATE else 1):
                    self._json(_status(reply), write_reply(instruction.key, reply))

    def _get(self, path: str, query: str) -> None:
        self._refuse_body()
        match path.split("/")[1:]:
            case ["healthz"]:
                self._json(HTTPStatus.OK, {"ok": True})
            case ["bank", "v1", "ledger"]:
                self._json(HTTPStatus.OK, self.server.bank.ledger.counts())
            case ["bank", "v1", "instructions", key]:
                self._wait(self.server.bank.faults.slow_ms / 1000)
                self._instruction(_key(unquote(key)))
            case ["bank", "v1", "statements", day]:
                self._statement(day, query)
            case _:
                raise _no_such_page()

    def _instruction(self, key: str) -> None:
        record = self.server.bank.ledger.find([key]).get(key)
        if record is None:
            raise Problem(HTTPStatus.NOT_FOUND, "never_seen", "this key was never seen")
        reply = record.reply_at(self.server.bank.clock.now())
        self._json(_status(reply), write_reply(key, reply))

    def _statement(self, text: str, query: str) -> None:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise _bad("invalid_date", "a statement is of a day, YYYY-MM-DD") from None
        cursor = parse_qs(query).get("cursor", ["0"])[0]
        if not re.fullmatch(r"[0-9]{1,18}", cursor):
            raise _bad("invalid_cursor", "this cursor was not given out here")
        page = self.server.bank.ledger.statement(day, after=int(cursor), limit=PAGE + 1)
        shown, now = page[:PAGE], self.server.bank.clock.now()
        self._json(HTTPStatus.OK, {
            "date": day.isoformat(),
            "items": [write_reply(record.key, record.reply_at(now)) for record in shown],
            "next_cursor": _cursor(shown[-1]) if len(page) > PAGE else None,
        })  # fmt: skip

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length) or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise _bad("invalid_length", "a body of a stated Content-Length is needed")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"a body has at most {MAX_BODY_BYTES} bytes"
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError
        if self.headers.get_content_type() != "application/json":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json", "a body is application/json")
        return body

    def _refuse_body(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise _bad("unexpected_body", "this request has no body")

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.server.stopping.wait(seconds)

    def _drop(self) -> None:
        self.close_connection = True
        _shut(self.connection)

    def _problem(self, problem: Problem) -> None:
        document = {
            "title": problem.status.phrase,
            "status": problem.status,
            "code": problem.code,
            "detail": problem.detail,
        }
        headers = {"Retry-After": "1"} if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        if problem.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED) and self.command == "POST":
            self.close_connection = True  # its body was not read
        self._json(problem.status, document, content_type="application/problem+json", headers=headers)

    def _json(
        self,
        status: HTTPStatus,
        document: Mapping[str, Any],
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong with a request, as a problem of our own."""
        self.close_connection = True
        # Of a line it cannot read the base class thinks HTTP/0.9, and would leave out status and headers.
        self.request_version = self.protocol_version
        self._problem(Problem(HTTPStatus(code), "bad_request", "this request cannot be served"))

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not written down."""


def _cursor(record: Record) -> str:
    return str(record.seq)


def _no_such_page() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "no_such_page", "there is nothing at this address")


class BankServer:
    """The bank on a port of its own, in threads of this process.

    `bind` is `host:port`, port 0 takes any free one; `ledger_path` None keeps the books in memory.

    Raises:
        ValueError: `bind` or the fault spec cannot be read.
        OSError: the port cannot be had.
        sqlite3.Error: the ledger cannot be opened.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        ledger_path: Path | None = None,
        faults: str | Faults = "",
        seed: int = 1,
        clock: Clock | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        address = _address(bind)
        drawn = Faults.parse(faults) if isinstance(faults, str) else faults
        self.ledger = Ledger(ledger_path)
        # Chance is for faults only, and a seed has to bring the same ones back.
        bank = SimulatedBank(self.ledger, faults=drawn, clock=clock or SystemClock(), random=Random(seed))
        try:
            self._server = _Server(address, bank, silence_s)
        except OSError:
            self.ledger.close()
            raise
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="bank-simulator", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens, from the start on."""
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def start(self) -> Self:
        """Begin to answer; connections made before wait in the queue."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Hang up on everybody and close the books. What was committed stays; it can be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _address(bind: str) -> tuple[str, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"bind is host:port, not {bind!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def serve(bind: str, ledger_path: Path, faults: str, seed: int) -> None:
    """Be a bank until SIGTERM or SIGINT; says where on stderr once it listens. For a process's main thread.

    Raises:
        ValueError: `bind` or the fault spec cannot be read, or this is not the main thread.
        OSError: the port cannot be had.
        sqlite3.Error: the ledger cannot be opened.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with BankServer(bind, ledger_path=ledger_path, faults=faults, seed=seed) as server:
            sys.stderr.write(f"bank simulator ready at {server.url}\n")
            sys.stderr.flush()
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
