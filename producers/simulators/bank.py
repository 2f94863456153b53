"""The simulated bank as a real HTTP server, dialect `zhika-bank/1`.

    POST /bank/v1/instructions              one instruction, its key in `Idempotency-Key`
    GET  /bank/v1/instructions/{key}        what became of it; 404 when it was never seen
    GET  /bank/v1/statements/{date}?cursor= the day's instructions and their results, paged
    GET  /bank/v1/ledger                    how many accounts and refusals there are
    GET  /healthz

What the bank decides is `pipeline.gateways.bank_simulated`, what it reads and writes `bank_documents`; this module only speaks
HTTP, and breaks it where a fault says so. One server is every cooperating bank: a statement is of the bank that the request's
`Bank-Code` names. It writes down no request: people's data passes through bodies and ends there.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sqlite3
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from socketserver import TCPServer
from types import FrameType, TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.clock import Clock, SystemClock
from pipeline.gateways.bank_simulated import Faults, Ledger, Mishap, Record, SimulatedBank
from pipeline.ports import BankReply, Pending
from producers.simulators.bank_documents import Problem, bad_request, read_instruction, read_key, write_reply

MAX_BODY_BYTES = 64 * 1024
PAGE = 200
IDLE_S = 60.0
SILENCE_S = 30.0
"""How long an instruction that gets no answer keeps its connection open."""
ANOTHER_KEY = "an-other-instructions-key"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: who the bank is, and whose clients it lets in; with `client_ca` None it asks for no certificate."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What connections are secured with.

        Raises:
            OSError: a file cannot be read (`ssl.SSLError` when it is no certificate or key).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _status(reply: BankReply) -> HTTPStatus:
    return HTTPStatus.ACCEPTED if isinstance(reply, Pending) else HTTPStatus.OK


# ------------------------------------------------------------------------------------------------------------- server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], bank: SimulatedBank, silence_s: float, tls: ssl.SSLContext | None
    ) -> None:
        self.tls = tls
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

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Here and not where connections are accepted: this is the connection's own thread, so one that says nothing delays nobody.
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_S)
        with self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            try:
                secured.do_handshake()
                super().finish_request(secured, client_address)
            finally:
                self._part(secured)

    def _part(self, connection: ssl.SSLSocket) -> None:
        """End our side and hear the other's out: bytes left unread would reset the line, and our last word with it."""
        try:
            socket.socket.shutdown(connection, socket.SHUT_WR)
            connection.settimeout(1.0)
            while socket.socket.recv(connection, 65536):
                pass
        except OSError:
            return

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
                raise bad_request("invalid_url", "the address cannot be read") from None
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
        instruction = read_instruction(read_key(self.headers.get("Idempotency-Key", "")), body)
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
            case Mishap.FAILED:
                raise Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the bank failed")
            case mishap:
                reply = cast("BankReply", answer.reply)
                key = ANOTHER_KEY if mishap is Mishap.WRONG_REPLY else instruction.key
                for _ in range(2 if mishap is Mishap.DUPLICATE else 1):
                    self._json(_status(reply), write_reply(key, reply))

    def _get(self, path: str, query: str) -> None:
        self._refuse_body()
        match path.split("/")[1:]:
            case ["healthz"]:
                self._json(HTTPStatus.OK, {"ok": True})
            case ["bank", "v1", "ledger"]:
                self._json(HTTPStatus.OK, self.server.bank.ledger.counts())
            case ["bank", "v1", "instructions", key]:
                self._wait(self.server.bank.faults.slow_ms / 1000)
                self._instruction(read_key(unquote(key)))
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
            raise bad_request("invalid_date", "a statement is of a day, YYYY-MM-DD") from None
        cursor = parse_qs(query).get("cursor", ["0"])[0]
        if not re.fullmatch(r"[0-9]{1,18}", cursor):
            raise bad_request("invalid_cursor", "this cursor was not given out here")
        bank_code = self.headers.get("Bank-Code", "")
        page = self.server.bank.ledger.statement(day, bank_code=bank_code, after=int(cursor), limit=PAGE + 1)
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
            raise bad_request("invalid_length", "a body of a stated Content-Length is needed")
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
            raise bad_request("unexpected_body", "this request has no body")

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

    `bind` is `host:port`, port 0 takes any free one; `ledger_path` None keeps the books in memory; `tls` None speaks in clear.

    Raises:
        ValueError: `bind` or the fault spec cannot be read.
        OSError: the port cannot be had, or a certificate cannot be read.
        Refused: the ledger is of another release.
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
        tls: Tls | None = None,
    ) -> None:
        address = _address(bind)
        context = None if tls is None else tls.context()
        drawn = Faults.parse(faults) if isinstance(faults, str) else faults
        self.ledger = Ledger(ledger_path)
        # Chance is for faults only, and a seed has to bring the same ones back.
        bank = SimulatedBank(self.ledger, faults=drawn, clock=clock or SystemClock(), random=Random(seed))
        try:
            self._server = _Server(address, bank, silence_s, context)
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
        scheme = "http" if self._server.tls is None else "https"
        return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"

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


def serve(bind: str, ledger_path: Path, faults: str, seed: int, tls: Tls | None = None) -> None:
    """Be a bank until SIGTERM or SIGINT; says where on stderr once it listens. For a process's main thread.

    Raises:
        ValueError: `bind` or the fault spec cannot be read, or this is not the main thread.
        OSError: the port cannot be had, or a certificate cannot be read.
        Refused: the ledger is of another release.
        sqlite3.Error: the ledger cannot be opened.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with BankServer(bind, ledger_path=ledger_path, faults=faults, seed=seed, tls=tls) as server:
            sys.stderr.write(f"bank simulator ready at {server.url}\n")
            sys.stderr.flush()
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
