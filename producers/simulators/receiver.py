"""An outlet's receiver of webhooks, simulated: it verifies signatures, de-duplicates by id, and fails as it is told to.

    POST any path      a delivery: 204 when it was taken, 401 when its signature does not fit
    GET /received      what was taken, as `{path: {webhook-id: times}}`
    PUT /script        `{"faults": {path: fault}, "keys": {path: [key, …]}}`: for these paths from now on

Keys are `whpk_…` or `whsec_…`. A path that has none of its own is held against those the receiver was started with; without any,
nothing is verified.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import struct
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from http import HTTPStatus
from random import Random
from types import FrameType, TracebackType
from typing import Any, Literal, Self, cast, get_args

from pipeline.clock import Clock, SystemClock
from pipeline.errors import Refused
from pipeline.webhook_signing import ID, verify

logger = logging.getLogger("zhika.simulators.outlet")
MAX_HEAD_BYTES, MAX_BODY_BYTES = 16 * 1024, 1024 * 1024
_BACKLOG = 1024

Fault = Literal["fail", "reset", "silent", "lost", "busy", "gone", "redirect"]
"""503; the connection is reset; no answer ever; taken, but the answer is lost; 429 for a second; 410; 302 to somewhere else."""

_ANSWERS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "fail": (503, {}),
    "busy": (429, {"Retry-After": "1"}),
    "gone": (410, {}),
    "redirect": (302, {"Location": "http://127.0.0.1:9/"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often a delivery meets a fault: shares between 0 and 1; at most one strikes each.

    Raises:
        ValueError: a share outside 0..1, or shares that add up to more than 1.
    """

    fail: float = 0.0
    reset: float = 0.0
    silent: float = 0.0
    lost: float = 0.0
    busy: float = 0.0
    gone: float = 0.0
    redirect: float = 0.0

    def __post_init__(self) -> None:
        shares = [getattr(self, field.name) for field in fields(self)]
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError("faults: shares are between 0 and 1, and add up to 1 at most")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read a spec such as `fail=0.3,reset=0.05`; an empty one is a receiver without faults.

        Raises:
            ValueError: an unknown name, something that is no number, or a share out of its range.
        """
        shares: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in spec.split(","))):
            name, _, number = part.partition("=")
            if name not in get_args(Fault):
                raise ValueError(f"fault {name!r} is not known; known are {', '.join(get_args(Fault))}")
            try:
                shares[name] = float(number)
            except ValueError:
                raise ValueError(f"fault {name} needs a number, as in {name}=0.02") from None
        return cls(**shares)

    def draw(self, random: Random) -> Fault | None:
        """What strikes one delivery."""
        point = random.random()
        for name in get_args(Fault):
            point -= getattr(self, name)
            if point < 0:
                return cast("Fault", name)
        return None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _Reset(Exception):
    """The connection is broken off without an answer."""


class Receiver:
    """A receiver on a port of its own, in a thread of this process. `bind` is `host:port`, port 0 takes any free one.

    Raises:
        ValueError: `bind`, a key or the fault spec cannot be read.
        OSError: the port cannot be had.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        keys: Sequence[str] = (),
        faults: str | Faults = "",
        seed: int = 1,
        clock: Clock | None = None,
    ) -> None:
        host, colon, port = bind.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"bind is host:port, not {bind!r}")
        for key in keys:
            _readable(key)
        self._keys = tuple(keys)
        self._own_keys: dict[str, tuple[str, ...]] = {}
        self._faults = Faults.parse(faults) if isinstance(faults, str) else faults
        self._script: dict[str, Fault] = {}
        self._random = Random(seed)
        self._clock = clock or SystemClock()
        self.received: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By path: how often each event was taken."""
        self.heard: Callable[[str], object] = lambda path: None
        """Called after each delivery that was taken, with its path."""
        self._socket = socket.create_server((host.strip("[]"), int(port)), backlog=_BACKLOG)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="outlet-receiver", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it listens, from the start on."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def script(self, faults: Mapping[str, Fault | None], keys: Mapping[str, Sequence[str]] | None = None) -> None:
        """From now on each of these paths meets this fault every time, or none, and is verified by these keys."""
        for path, fault in faults.items():
            if fault is None:
                self._script.pop(path, None)
            else:
                self._script[path] = fault
        self._own_keys |= {path: tuple(listed) for path, listed in (keys or {}).items()}

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------------------------------------------ within the loop

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket, limit=MAX_HEAD_BYTES)

    async def _hang_up(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                writer.write(await self._answer(request))
                await writer.drain()
        except _Reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            logger.debug("connection ended: %s", type(error).__name__)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, request: _Request) -> bytes:
        match request.method, request.path:
            case "GET", "/received":
                return _response(HTTPStatus.OK, {path: dict(ids) for path, ids in self.received.items()})
            case "PUT", "/script":
                told = json.loads(request.body)
                self.script(told.get("faults", {}), told.get("keys"))
                return _response(HTTPStatus.NO_CONTENT)
            case "POST", path:
                return await self._delivery(path, request)
        return _response(HTTPStatus.METHOD_NOT_ALLOWED)

    async def _delivery(self, path: str, request: _Request) -> bytes:
        fault = self._script.get(path) or self._faults.draw(self._random)
        if fault == "reset":
            raise _Reset
        if fault == "silent":
            await asyncio.Event().wait()
        if fault is not None and fault in _ANSWERS:
            status, headers = _ANSWERS[fault]
            return _response(HTTPStatus(status), headers=headers)
        try:
            self._verify(path, request)
        except Refused as refused:
            return _response(HTTPStatus.UNAUTHORIZED, {"code": refused.reason_code, "detail": refused.en})
        self.received[path][request.headers.get(ID, "")] += 1
        self.heard(path)
        if fault == "lost":
            raise _Reset
        return _response(HTTPStatus.NO_CONTENT)

    def _verify(self, path: str, request: _Request) -> None:
        if keys := self._own_keys.get(path, self._keys):
            verify(request.headers, request.body, keys, now=self._clock.now())


def _readable(key: str) -> None:
    try:
        verify(
            {ID: "x", "webhook-timestamp": "0", "webhook-signature": "x"},
            b"",
            [key],
            now=datetime.fromtimestamp(0, UTC),
        )
    except Refused:
        return


async def _read(reader: asyncio.StreamReader) -> _Request | None:
    """The next request, or None when there is none any more.

    Raises:
        ValueError: it is none, or its body is too large.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError("a body has at most 1 MiB")
    return _Request(method, path, headers, await reader.readexactly(length))


def _response(status: HTTPStatus, document: Any = None, *, headers: Mapping[str, str] | None = None) -> bytes:
    body = b"" if document is None else json.dumps(document).encode()
    told = {**(headers or {}), "Content-Length": str(len(body))}
    if body:
        told["Content-Type"] = "application/json"
    if status == HTTPStatus.NO_CONTENT:
        del told["Content-Length"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body


def serve(bind: str, keys: Sequence[str], faults: str, seed: int) -> None:
    """Be a receiver until SIGTERM or SIGINT; says where on stderr once it listens. For a process's main thread.

    Raises:
        ValueError: `bind`, a key or the fault spec cannot be read.
        OSError: the port cannot be had.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Receiver(bind, keys=keys, faults=faults, seed=seed) as receiver:
            sys.stderr.write(f"outlet simulator ready at {receiver.url}\n")
            sys.stderr.flush()
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
