"""A cooperating bank over HTTP, dialect `zhika-bank/1` (`bank_wire` has its documents).

Every key is one exchange, sent once and never again from here. What matters is to say precisely how an exchange ended:

    no free connection by the deadline                                               NotTried         certainly not done
    connection refused, no TLS, connect timeout, our certificate refused,
    503, 401, 403, 429 …                                                             TransientError   certainly not done
    read timeout, reset or cut after sending, other 5xx, an answer that cannot
    be read, or that speaks of another key, account or card                          OutcomeUnknown   may have been done
    400, 409, 413, 415, 422                                                          Defect           the request is wrong

Personal data travels in bodies only: no URL, log line, exception or repr carries any.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx2

from pipeline.clock import Clock
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_wire import StatementPage, document, read_reply, read_statement, sendable
from pipeline.ports import BankFailure, BankReply, Instruction, Key, LateReplies, NotTried

_INSTRUCTIONS = "/bank/v1/instructions"
_STATEMENTS = "/bank/v1/statements"
_MAX_REPLY_BYTES = 64 * 1024
_MAX_PAGE_BYTES = 4 * 1024 * 1024
_MAX_PAGES = 10_000
# Shorter than any server should wait, so that an idle connection is seldom closed under a request.
_KEEPALIVE_S = 20.0
_LEAST_S = 1.0
"""What an exchange has left to be answered in when it leaves, where the call has four times as much."""
_ANSWERS = (200, 202)
_NEVER_SEEN = 404
_NOT_TAKEN = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429, 503})
_WRONG_REQUEST = frozenset({400, 409, 411, 413, 414, 415, 422, 431})
# TLS 1.3 tells a client that its certificate will not do only after the client has begun to send; a server hands nothing
# of that on. The alert is encrypted, so nobody on the way can have made it up.
_CERTIFICATE_REFUSED = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)

Result = BankReply | BankFailure | StatementPage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One exchange. `content` None asks and tells the bank nothing; `read` makes of an answer's body what it says, if anything."""

    url: str
    read: Callable[[bytes], BankReply | StatementPage | None]
    key: Key | None = None
    content: bytes | None = None
    most_bytes: int = _MAX_REPLY_BYTES


class _TooLate(Exception):
    """The deadline came while there was no connection yet."""


class _Leaving:
    """Watches for the moment in which an exchange begins to leave, and forbids it once its time is over."""

    def __init__(self, until: float) -> None:
        self._until = until
        self.begun = False

    def __call__(self, event: str, _details: Mapping[str, object]) -> None:
        if event == "http11.send_request_headers.started":
            if time.monotonic() >= self._until:
                raise _TooLate
            self.begun = True


class BankHttp:
    """One cooperating bank at `base_url`; safe between threads, which share its `max_connections`.

    An exchange leaves within `timeout_s` or not at all, and each step of it takes as long at most; the caller's deadline bounds
    the whole call. Who finds every connection taken waits until the deadline and no longer. With `cert` and `cert_key` (PEM
    files) it proves who we are, `ca` (PEM) says whom we trust instead of the system's authorities.

    Raises:
        ValueError: `base_url` is not http(s), carries a user or a query, or a certificate is given for plain http.
        OSError: a certificate file cannot be read (`ssl.SSLError` when it is not one).
    """

    def __init__(
        self,
        base_url: str,
        *,
        bank_code: str,
        clock: Clock,
        timeout_s: float = 10.0,
        max_connections: int = 8,
        cert: Path | None = None,
        cert_key: Path | None = None,
        ca: Path | None = None,
    ) -> None:
        url = _base(base_url, secure=cert is not None or ca is not None)
        self.bank_code = bank_code
        self._url = url
        self._clock = clock
        self._timeout_s = timeout_s
        self._client = httpx2.Client(
            base_url=url,
            verify=_tls(cert, cert_key, ca),
            trust_env=False,
            headers={
                "User-Agent": "zhika",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Bank-Code": bank_code,  # an endpoint that serves several banks tells them apart by it
            },
            limits=httpx2.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=_KEEPALIVE_S,
            ),
        )
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix=f"bank-{bank_code}")

    def __repr__(self) -> str:
        return f"BankHttp({self.bank_code} at {self._url})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections. Exchanges under way end by themselves, within `timeout_s`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        """Answer every key by the deadline; a bank that is down is a `TransientError` for each.

        Raises:
            ValueError: one key with two contents in the same call.
            RuntimeError: the gateway is closed.
        """
        by_key: dict[Key, Instruction] = {}
        for instruction in instructions:
            if by_key.setdefault(instruction.key, instruction) != instruction:
                raise ValueError("one key with two contents in one call")
        now = self._clock.now()
        asks = {key: self._telling(instruction, now) for key, instruction in by_key.items()}
        results = self._exchange_all(asks, deadline)
        return {key: cast("BankReply | BankFailure", result) for key, result in results.items()}

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """Answer every key by the deadline; both kinds of failure mean that we still do not know.

        Raises:
            RuntimeError: the gateway is closed.
        """
        now = self._clock.now()
        results = self._exchange_all({key: _asking(key, now) for key in keys}, deadline)
        return {key: cast("BankReply | BankFailure | None", result) for key, result in results.items()}

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        """Nothing: this bank answers at once, and what is `Pending` is asked about."""
        return LateReplies(cursor=after)

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]:
        """The bank's whole list of the day, read page by page.

        Raises:
            TransientError: it was not read to its end by the deadline, or cannot be read.
            Defect: the bank refuses the request.
            RuntimeError: the gateway is closed.
        """
        replies: dict[Key, BankReply] = {}
        cursor, now = "", self._clock.now()
        for _ in range(_MAX_PAGES):
            page = self._exchange_all({cursor: _paging(day, cursor, now)}, deadline)[cursor]
            if isinstance(page, OutcomeUnknown):  # reading does nothing, so nothing is in doubt
                raise TransientError(f"the statement was not read: {page}")
            if not isinstance(page, StatementPage):
                raise cast("TransientError", page)
            if replies.keys() & page.replies.keys():
                raise TransientError("the bank's statement names a key twice")
            replies |= page.replies
            if page.next_cursor is None:
                return replies
            cursor = page.next_cursor
        raise TransientError("the bank's statement does not end")

    def _telling(self, instruction: Instruction, now: datetime) -> _Ask | Defect:
        key = instruction.key
        if instruction.bank_code != self.bank_code or not sendable(key):
            return Defect("this instruction cannot be told to this bank")
        try:
            content = json.dumps(document(instruction), ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a lone surrogate in a text
            return Defect("this instruction cannot be told to this bank")
        return _Ask(
            url=_INSTRUCTIONS,
            key=key,
            content=content,
            read=lambda body: read_reply(body, key, instruction, now=now),
        )

    def _exchange_all(self, asks: Mapping[Key, _Ask | Defect], deadline: datetime) -> dict[Key, Result]:
        left_s = (deadline - self._clock.now()).total_seconds()
        until = time.monotonic() + left_s
        # The exchanges give up a little before we stop waiting for them, so that they can still say what happened; what would
        # have hardly any time to be answered is not begun, or a bank with too many callers leaves them all in doubt.
        end = until - min(0.05, left_s / 10)
        leave_by = until - min(_LEAST_S, left_s / 4)
        running: dict[Key, Future[Result]] = {}
        for key, ask in asks.items():
            if isinstance(ask, _Ask) and left_s > 0:
                running[key] = self._threads.submit(self._exchange, ask, leave_by, end)
        wait(running.values(), timeout=max(0.0, until - time.monotonic()))
        results: dict[Key, Result] = {}
        for key, ask in asks.items():
            if isinstance(ask, Defect):
                results[key] = _not_the_banks(ask)
            else:
                results[key] = _outcome(running[key]) if key in running else _not_sent()
        return results

    def _exchange(self, ask: _Ask, leave_by: float, until: float) -> Result:
        now = time.monotonic()
        if now >= leave_by:
            return _not_sent()
        until = min(until, now + self._timeout_s)
        leaving = _Leaving(min(leave_by, until))
        try:
            return self._send(ask, leaving, until)
        except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            return _not_the_banks(Defect(f"no request could be made: {type(error).__name__}"))
        except Exception as error:  # noqa: BLE001 - whatever broke, the bank may have it; its text may quote the request
            if not leaving.begun:
                return TransientError(f"the bank is out of reach: {type(error).__name__}")
            if _certificate_refused(error):
                return TransientError("the bank refuses our certificate")
            return OutcomeUnknown(f"the exchange with the bank broke off: {type(error).__name__}")

    def _send(self, ask: _Ask, leaving: _Leaving, until: float) -> Result:
        timeout_s = max(0.001, until - time.monotonic())
        with self._client.stream(**_request(ask), timeout=timeout_s, extensions={"trace": leaving}) as response:
            result = _read(ask, response, until)
            if isinstance(result, OutcomeUnknown):
                # After an answer we cannot trust, the next one on this connection may belong to another request too.
                response.extensions["network_stream"].close()
            return result


def _base(url: str, *, secure: bool) -> str:
    parsed = httpx2.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("a bank's address is http(s)://host[:port]")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError("a bank's address carries neither a user nor a query")
    if secure and parsed.scheme != "https":
        raise ValueError("certificates need an https address")
    return str(parsed).rstrip("/")


def _tls(cert: Path | None, cert_key: Path | None, ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        context.load_cert_chain(cert, cert_key)
    return context


def _asking(key: Key, now: datetime) -> _Ask | Defect:
    if not sendable(key):
        return Defect("a key is at most 64 printable ASCII characters")
    return _Ask(url=f"{_INSTRUCTIONS}/{quote(key, safe='')}", key=key, read=lambda body: read_reply(body, key, now=now))


def _paging(day: date, cursor: str, now: datetime) -> _Ask:
    query = f"?cursor={quote(cursor, safe='')}" if cursor else ""
    return _Ask(
        url=f"{_STATEMENTS}/{day.isoformat()}{query}",
        read=lambda body: read_statement(body, day, now=now),
        most_bytes=_MAX_PAGE_BYTES,
    )


def _request(ask: _Ask) -> dict[str, Any]:
    if ask.content is None:
        return {"method": "GET", "url": ask.url}
    headers = {"Idempotency-Key": ask.key, "Content-Type": "application/json"}
    return {"method": "POST", "url": ask.url, "headers": headers, "content": ask.content}


def _read(ask: _Ask, response: httpx2.Response, until: float) -> Result:
    status = response.status_code
    body = _body(response, until, ask.most_bytes)
    if status in _ANSWERS:
        told = None if body is None else ask.read(body)
        return told or OutcomeUnknown("the bank's answer cannot be read, or is about something else")
    if status == _NEVER_SEEN and ask.content is None and ask.key is not None:
        return None
    if status in _WRONG_REQUEST:
        return _not_the_banks(Defect(f"the bank refuses the request: HTTP {status}"))
    if status in _NOT_TAKEN:
        return TransientError(f"the bank did not take it: HTTP {status}")
    return OutcomeUnknown(f"the bank failed: HTTP {status}")


def _body(response: httpx2.Response, until: float, most_bytes: int) -> bytes | None:
    """The raw body, unless it is too long or trickles in too slowly.

    Read from the stream itself: `Response.iter_raw` would hand the connection back before we have judged the answer.
    """
    body = bytearray()
    for chunk in cast("httpx2.SyncByteStream", response.stream):
        body += chunk
        if len(body) > most_bytes or time.monotonic() > until:
            return None
    return bytes(body)


def _certificate_refused(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and cause.reason in _CERTIFICATE_REFUSED:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _outcome(future: Future[Result]) -> Result:
    if future.cancel():
        return _not_sent()
    if not future.done():
        return OutcomeUnknown("the bank did not answer by the deadline")
    return future.result()


def _not_sent() -> NotTried:
    return NotTried("the deadline passed before anything was sent")


def _not_the_banks(defect: Defect) -> BankFailure:
    # The port names the bank's failures only; a request that is wrong is ours, and neither a retry nor a question cures it.
    return cast("BankFailure", defect)
