"""Webhooks over HTTP: one POST an attempt, many attempts side by side in an event loop of their own thread.

A name is resolved once for an attempt; every address it has must be allowed, and the connection goes to the first of them: a kept
connection is used again only if it leads to that same address. So a name that changes between check and use changes nothing. The
name stays what the certificate and `Host` are about. A redirect is an answer like any other; no proxy is asked; of a body no
more than 2 KB is read.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import h11

from pipeline.clock import Clock
from pipeline.errors import Refused
from pipeline.gateways.addresses import AllowList, Target, parse_url, resolve
from pipeline.webhooks import RESPONSE_BYTES, Attempt, Post, Result

log = logging.getLogger("zhika.webhooks")
TIMEOUT_S = 15.0
KEEP_IDLE_S = 20.0
READ_BYTES = 16 * 1024
_LOOK_UPS = 64
_TOGETHER, _LINGER_S = 200, 0.05
_SHOWN_HEADERS, _SHOWN_CHARS = 20, 200
_FIXED = {"content-type": "application/cloudevents+json", "user-agent": "zhika", "accept-encoding": "identity"}

Resolve = Callable[[str, int], Sequence[str]]
_Route = tuple[str, str, int, str]


@dataclass(slots=True)
class _Connection:
    """An open connection to one address of a receiver."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection
    idle_since: float = 0.0

    @classmethod
    async def to(cls, address: str, target: Target, tls: ssl.SSLContext) -> _Connection:
        """Connect; over TLS the certificate must be for the name, which the address was found by.

        Raises:
            OSError: it cannot be reached (`ssl.SSLError`: it is not who it should be).
        """
        secure = target.scheme == "https"
        reader, writer = await asyncio.open_connection(
            address,
            target.port,
            limit=READ_BYTES,
            ssl=tls if secure else None,
            server_hostname=target.host if secure else None,
        )
        return cls(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES))

    @property
    def trusted(self) -> str | None:
        """The version of TLS, if it is one."""
        secured: ssl.SSLObject | None = self.writer.get_extra_info("ssl_object")
        return secured.version() if secured else None

    def stale(self, now: float) -> bool:
        """It was idle too long, or was closed at the other end."""
        return now - self.idle_since > KEEP_IDLE_S or self.reader.at_eof() or self.writer.is_closing()

    async def exchange(self, target: Target, body: bytes, course: _Course) -> bool:
        """Send a request and read the beginning of its answer; whether the connection can be used again.

        Raises:
            OSError, h11.RemoteProtocolError: it broke off, or what came is no HTTP.
        """
        headers = [(name.encode(), value.encode()) for name, value in course.sent.items()]
        request = h11.Request(method="POST", target=target.target, headers=headers)
        events: tuple[h11.Event, ...] = (request, h11.Data(data=body), h11.EndOfMessage())
        self.writer.write(b"".join(self.http.send(event) or b"" for event in events))
        while True:
            event = self.http.next_event()
            match event:
                case h11.NEED_DATA:
                    self.http.receive_data(await self.reader.read(READ_BYTES))
                case h11.Response():
                    course.status, course.headers = event.status_code, _headers(event.headers)
                case h11.Data():
                    course.body += bytes(event.data[: RESPONSE_BYTES - len(course.body)])
                    if len(course.body) == RESPONSE_BYTES:
                        return False
                case h11.EndOfMessage():
                    return self._begin_anew()
                case h11.ConnectionClosed():
                    raise ConnectionResetError

    def _begin_anew(self) -> bool:
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE or self.http.trailing_data[0]:
            return False
        self.http.start_next_cycle()
        return True

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass(slots=True)
class _Course:
    """How far an attempt has come, for its record: it is complete whenever the attempt ends."""

    began: float
    known: float | None = None
    asked: float | None = None
    address: str | None = None
    trusted: str | None = None
    status: int | None = None
    sent: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    phase: str = "resolution"


class WebhookPoster:
    """Sends webhooks for a deployment. Ends what is under way when it is closed.

    `ca` (PEM) says whom we trust instead of the system's authorities; `connections` bounds the connections that are kept.

    Raises:
        OSError: `ca` cannot be read (`ssl.SSLError` when it is no certificate).
    """

    def __init__(
        self,
        allowed: AllowList,
        *,
        clock: Clock,
        ca: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        connections: int = 512,
        resolve: Resolve = resolve,
    ) -> None:
        self._allowed = allowed
        self._clock = clock
        self._timeout_s = timeout_s
        self._connections = connections
        self._resolve = resolve
        self._tls = ssl.create_default_context(cafile=ca)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._look_ups = ThreadPoolExecutor(_LOOK_UPS, thread_name_prefix="webhook-dns")
        self._looking: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}
        self._idle: defaultdict[_Route, list[_Connection]] = defaultdict(list)
        self._kept_count = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended: list[Attempt] = []
        self._some_ended = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="webhooks", daemon=True)
        self._thread.start()
        self._reaping = asyncio.run_coroutine_threadsafe(self._reap(), self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Break off what is under way and drop the connections. It can be called twice."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._look_ups.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------- the port

    def check(self, url: str) -> None:
        """Refuse a URL that no attempt could use. A name that cannot be resolved now is let pass: its attempts will say so.

        Raises:
            Refused: `url-not-allowed`.
        """
        target = parse_url(url)
        try:
            addresses = self._resolve(target.host, target.port)
        except OSError:
            return
        self._allowed.refuse(addresses, scheme=target.scheme)

    def submit(self, posts: Sequence[Post]) -> None:
        """Begin to send these."""
        self._loop.call_soon_threadsafe(self._begin, posts)

    def take(self, timeout_s: float) -> Sequence[Attempt]:
        """All attempts that have ended since; waits for the first one, and a moment for others, since they are settled together."""
        with self._some_ended:
            if self._some_ended.wait_for(lambda: self._ended, timeout_s):
                self._some_ended.wait_for(lambda: len(self._ended) >= _TOGETHER or not self._under_way, _LINGER_S)
            ended, self._ended = self._ended, []
        return ended

    def send(self, post: Post) -> Attempt:
        """Send one, and wait for its end."""
        return asyncio.run_coroutine_threadsafe(self._attempt(post), self._loop).result()

    # ------------------------------------------------------------------------------------------------ within the loop

    def _begin(self, posts: Sequence[Post]) -> None:
        for post in posts:
            task = self._loop.create_task(self._run(post))
            self._under_way.add(task)
            task.add_done_callback(self._ended_one)

    def _ended_one(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not self._under_way:
            with self._some_ended:
                self._some_ended.notify()

    async def _run(self, post: Post) -> None:
        attempt = await self._attempt(post)
        with self._some_ended:
            self._ended.append(attempt)
            if len(self._ended) in (1, _TOGETHER):
                self._some_ended.notify()

    async def _attempt(self, post: Post) -> Attempt:
        at = self._clock.now().astimezone(UTC)
        course = _Course(time.perf_counter())
        result: Result
        problem: str | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                target = parse_url(post.url)
                course.sent = {
                    "host": target.host_header,
                    **_FIXED,
                    "content-length": str(len(post.body)),
                    **post.signer.headers(post.event_id, at, post.body),
                }
                address = await self._address(target)
                course.known, course.address, course.phase = time.perf_counter(), address, "connection"
                await self._exchange(target, address, post.body, course)
            delivered = course.status is not None and 200 <= course.status < 300
            result, problem = ("delivered", None) if delivered else ("answered", f"HTTP {course.status}")
        except Refused as error:
            result, problem = "not_allowed", error.en
        except TimeoutError:
            result, problem = "timeout", f"no {course.phase} within {self._timeout_s:g} s"
        except ssl.SSLError as error:
            result, problem = "untrusted", f"TLS: {error.reason or type(error).__name__}"
        except Exception as error:  # noqa: BLE001 - whatever broke, it is an attempt that failed; its text may quote the other side
            result, problem = "unreachable", f"{course.phase}: {type(error).__name__}"
        return _record(post, course, Attempt(
            delivery_id=post.delivery_id, endpoint_id=post.endpoint_id, at=at, result=result, problem=problem
        ))  # fmt: skip

    async def _address(self, target: Target) -> str:
        """The one address this attempt goes to.

        Raises:
            Refused: one of the name's addresses is not allowed.
            OSError: it has none.
        """
        try:
            addresses: Sequence[str] = (str(ip_address(target.host)),)
        except ValueError:
            addresses = await self._looked_up(target.host, target.port)
        self._allowed.refuse(addresses, scheme=target.scheme)
        return addresses[0]

    def _looked_up(self, host: str, port: int) -> Awaitable[Sequence[str]]:
        """Attempts that ask at the same time share the answer, so that a name server that hangs costs one thread a name."""
        key = host, port
        if key not in self._looking:
            self._looking[key] = asked = self._loop.run_in_executor(self._look_ups, self._resolve, host, port)
            asked.add_done_callback(lambda _: self._looking.pop(key))
        return asyncio.shield(self._looking[key])

    async def _exchange(self, target: Target, address: str, body: bytes, course: _Course) -> None:
        route = target.scheme, target.host, target.port, address
        connection = self._kept(route)
        if connection is None:
            connection = await _Connection.to(address, target, self._tls)
        course.phase, course.asked, course.trusted = "answer", time.perf_counter(), connection.trusted
        again = False
        try:
            again = await connection.exchange(target, body, course)
        finally:
            if again and self._kept_count < self._connections:
                connection.idle_since = time.perf_counter()
                self._idle[route].append(connection)
                self._kept_count += 1
            else:
                connection.close()

    def _kept(self, route: _Route) -> _Connection | None:
        """An idle connection that is still open; the newest, since the oldest are the next to be closed at the other end."""
        kept = self._idle.get(route)
        while kept:
            connection = kept.pop()
            self._kept_count -= 1
            if not connection.stale(time.perf_counter()):
                return connection
            connection.close()
        return None

    async def _reap(self) -> None:
        """Close what has been idle too long, so that endpoints gone quiet leave room for others."""
        while True:
            await asyncio.sleep(KEEP_IDLE_S / 4)
            now = time.perf_counter()
            for route, kept in list(self._idle.items()):
                stale = [connection for connection in kept if connection.stale(now)]
                for connection in stale:
                    kept.remove(connection)
                    connection.close()
                self._kept_count -= len(stale)
                if not kept:
                    del self._idle[route]

    async def _end(self) -> None:
        self._reaping.cancel()
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    shown = islice(raw, _SHOWN_HEADERS)
    return {name.decode("latin-1").lower(): value.decode("latin-1")[:_SHOWN_CHARS] for name, value in shown}


def _record(post: Post, course: _Course, attempt: Attempt) -> Attempt:
    """The attempt with what its course has left behind."""
    now = time.perf_counter()
    return replace(
        attempt,
        status=course.status,
        address=course.address,
        trusted=course.trusted,
        request_headers={name: value for name, value in course.sent.items() if name != "host"},
        response_headers=course.headers,
        response=course.body,
        dns_ms=_ms(course.began, course.known),
        connect_ms=_ms(course.known, course.asked),
        http_ms=_ms(course.asked, now if course.status is not None else None),
    )


def _ms(since: float | None, until: float | None) -> int | None:
    return None if since is None or until is None else round((until - since) * 1000)
