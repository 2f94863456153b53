"""A cooperating bank over HTTP, dialect `zhika-bank/1`.

Every key is one exchange, sent once and never again from here. What matters is to say precisely how an exchange ended:

    connection refused, connect timeout, no free connection, 503, 401, 403, 429 …   TransientError   certainly not done
    read timeout, reset or cut after sending, other 5xx, an answer that cannot
    be read or that speaks of another key                                           OutcomeUnknown   may have been done
    400, 409, 413, 415, 422                                                         Defect           the request is wrong

Personal data travels in bodies only: no URL, log line, exception or repr carries any.
"""

from __future__ import annotations

import json
import re
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
from pipeline.ports import BankFailure, BankReply, Declined, Done, Instruction, Key, Pending

_PATH = "/bank/v1/instructions"
_MAX_REPLY_BYTES = 64 * 1024
_MAX_TEXT = 200
# Shorter than any server should wait, so that an idle connection is seldom closed under a request.
_KEEPALIVE_S = 20.0
_ANSWERS = (200, 202)
_NEVER_SEEN = 404
_NOT_TAKEN = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429, 503})
_WRONG_REQUEST = frozenset({400, 409, 411, 413, 414, 415, 422, 431})
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

Result = BankReply | BankFailure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One exchange: what to send for a key. `content` None asks what became of it."""

    key: Key
    content: bytes | None = None


class BankHttp:
    """One cooperating bank at `base_url`; safe between threads, which share its `max_connections`.

    `timeout_s` bounds each step of an exchange (connect, send, read); the caller's deadline bounds the whole call. With `cert`
    and `cert_key` (PEM files) it proves who we are, `ca` (PEM) says whom we trust instead of the system's authorities.

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
            headers={"User-Agent": "zhika", "Accept": "application/json", "Accept-Encoding": "identity"},
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
        asks, results = [], dict[Key, Result]()
        for key, instruction in by_key.items():
            content = self._content(instruction)
            if content is None:
                results[key] = _defect("this instruction cannot be told to this bank")
            else:
                asks.append(_Ask(key=key, content=content))
        results |= self._exchange_all(asks, deadline)
        return {key: result for key, result in results.items() if result is not None}

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """Answer every key by the deadline; both kinds of failure mean that we still do not know.

        Raises:
            RuntimeError: the gateway is closed.
        """
        return self._exchange_all([_Ask(key=key) for key in dict.fromkeys(keys)], deadline)

    def _content(self, instruction: Instruction) -> bytes | None:
        if instruction.bank_code != self.bank_code or not _sendable(instruction.key):
            return None
        try:
            return json.dumps(_document(instruction), ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a lone surrogate in a text
            return None

    def _exchange_all(self, asks: Sequence[_Ask], deadline: datetime) -> dict[Key, Result]:
        left_s = (deadline - self._clock.now()).total_seconds()
        until = time.monotonic() + left_s
        if left_s <= 0:
            return {ask.key: _not_sent() for ask in asks}
        # The exchanges give up a little before we stop waiting for them, so that they can still say what happened.
        running = {ask.key: self._threads.submit(self._exchange, ask, until - min(0.05, left_s / 10)) for ask in asks}
        wait(running.values(), timeout=max(0.0, until - time.monotonic()))
        return {key: _outcome(future) for key, future in running.items()}

    def _exchange(self, ask: _Ask, until: float) -> Result:
        left_s = min(self._timeout_s, until - time.monotonic())
        if left_s <= 0:
            return _not_sent()
        if not _sendable(ask.key):
            return _defect("a key is at most 64 printable ASCII characters")
        try:
            return self._send(ask, timeout_s=left_s)
        except _NOT_SENT as error:
            return TransientError(f"the bank is out of reach: {type(error).__name__}")
        except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            return _defect(f"no request could be made: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - whatever broke, the bank may have it; its text may quote the request
            return OutcomeUnknown(f"the exchange with the bank broke off: {type(error).__name__}")

    def _send(self, ask: _Ask, *, timeout_s: float) -> Result:
        until = time.monotonic() + timeout_s
        with self._client.stream(**_request(ask), timeout=timeout_s) as response:
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


def _sendable(key: Key) -> bool:
    return re.fullmatch(r"[!-~]{1,64}", key) is not None


def _request(ask: _Ask) -> dict[str, Any]:
    if ask.content is None:
        return {"method": "GET", "url": f"{_PATH}/{quote(ask.key, safe='')}"}
    headers = {"Idempotency-Key": ask.key, "Content-Type": "application/json"}
    return {"method": "POST", "url": _PATH, "headers": headers, "content": ask.content}


def _document(instruction: Instruction) -> dict[str, object]:
    holder, guardian = instruction.holder, instruction.guardian
    return {
        "instruction": "open_account",
        "bank_code": instruction.bank_code,
        "branch": instruction.branch,
        "region": instruction.region,
        "holder": {
            "name": holder.name,
            "id_type": holder.id_type,
            "id_number": holder.id_number,
            "id_valid_from": _iso(holder.id_valid_from),
            "id_valid_to": _iso(holder.id_valid_to),
            "sex": holder.sex,
            "ethnic": holder.ethnic,
            "birth_date": _iso(holder.birth_date),
            "nationality": holder.nationality,
            "phone": holder.phone,
            "address": holder.address,
            "occupation": holder.occupation,
        },
        "guardian": guardian
        and {
            "name": guardian.name,
            "id_type": guardian.id_type,
            "id_number": guardian.id_number,
            "relation": guardian.relation,
            "phone": guardian.phone,
        },
    }


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _read(ask: _Ask, response: httpx2.Response, until: float) -> Result:
    status = response.status_code
    body = _body(response, until)
    if status in _ANSWERS:
        reply = None if body is None else _reply(ask.key, body)
        return reply or OutcomeUnknown("the bank's answer cannot be read, or is for another key")
    if status == _NEVER_SEEN and ask.content is None:
        return None
    if status in _WRONG_REQUEST:
        return _defect(f"the bank refuses the request: HTTP {status}")
    if status in _NOT_TAKEN:
        return TransientError(f"the bank did not take it: HTTP {status}")
    return OutcomeUnknown(f"the bank failed: HTTP {status}")


def _body(response: httpx2.Response, until: float) -> bytes | None:
    """The raw body, unless it is too long or trickles in too slowly.

    Read from the stream itself: `Response.iter_raw` would hand the connection back before we have judged the answer.
    """
    body = bytearray()
    for chunk in cast("httpx2.SyncByteStream", response.stream):
        body += chunk
        if len(body) > _MAX_REPLY_BYTES or time.monotonic() > until:
            return None
    return bytes(body)


def _reply(key: Key, body: bytes) -> BankReply | None:
    """The reply for `key`, or None when the body is none."""
    try:
        document = json.loads(body)
        if document["key"] != key:
            return None
        return _REPLIES[document["status"]](document)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _done(document: Mapping[str, Any]) -> Done:
    reference, number, account_class = document["account_ref"], document["card_number"], document["account_class"]
    if not re.fullmatch(r"[!-~]{1,64}", reference) or not re.fullmatch(r"[0-9]{12,19}", number):
        raise ValueError
    if account_class not in ("I", "II", "III"):
        raise ValueError
    return Done(account_ref=reference, card_number=number, account_class=account_class)


def _declined(document: Mapping[str, Any]) -> Declined:
    code, text = document["code"], document["text"]
    if not (isinstance(code, str) and code and isinstance(text, str)):
        raise ValueError
    return Declined(code=code[:_MAX_TEXT], text=text[:_MAX_TEXT])


def _pending(document: Mapping[str, Any]) -> Pending:
    expected_by = datetime.fromisoformat(document["expected_by"])
    if expected_by.tzinfo is None:
        raise ValueError
    return Pending(expected_by=expected_by)


_REPLIES: Mapping[str, Callable[[Mapping[str, Any]], BankReply]] = {
    "done": _done,
    "declined": _declined,
    "pending": _pending,
}


def _outcome(future: Future[Result]) -> Result:
    if future.cancel():
        return _not_sent()
    if not future.done():
        return OutcomeUnknown("the bank did not answer by the deadline")
    return future.result()


def _not_sent() -> TransientError:
    return TransientError("the deadline passed before anything was sent")


def _defect(message: str) -> BankFailure:
    # The port names the bank's failures only; a request that is wrong is ours, and neither a retry nor a question cures it.
    return cast("BankFailure", Defect(message))
