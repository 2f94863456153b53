"""Photos normalised by processes that may die of them: a photo that eats time or memory costs a process, nothing else.

Each process has one photo at a time and is used again for the next. It is started when it is first needed, and a new one takes its
place when it died, was killed for taking too long, said what cannot be true, met a fault of ours, or has made enough photos.
What a process says is checked as if an attacker had said it: `photo_process` tells how they talk.
"""

from __future__ import annotations

import logging
import math
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import LifoQueue
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

import pipeline
from pipeline.errors import Defect, TransientError
from pipeline.gateways import photo_process
from pipeline.gateways.photo_process import Frame, Limits
from pipeline.photo.encode import bare_jpeg, is_clean
from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised
from pipeline.photo.weights import FAULTS

log = logging.getLogger("zhika.photo_pool")

COMMAND = (sys.executable, "-P", "-m", photo_process.__name__)
START_S = 60.0
"""How long a process may take until its models are loaded: long, since the machine may have started with us."""

_HEAD_MAX, _BODY_MAX = 64 * 1024, 1024 * 1024
_TEXT = TypeAdapter(str)
_EXCEPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
_NORMALISED = TypeAdapter(Normalised)
_MEASURE = re.compile(r"[a-z0-9_]{1,40}")
_LIMIT = re.compile(r"[A-Za-z0-9 <>=.,*°-]{1,60}")
_QUALITY_MAX = 100
_TURNS = (0, 90, 180, 270)
_LENGTHS = frozenset({"face_width_px", "eye_mid_x_px", "eye_to_bottom_px", "top_px"})
_ONE_THREAD = ("OMP", "OPENBLAS", "MKL")

T = TypeVar("T")

_pools: weakref.WeakSet[PhotoPool] = weakref.WeakSet()


class PhotoPool:
    """`ports.PhotoNormaliser` by `processes` photo processes. Nothing is started before there is a photo."""

    def __init__(
        self,
        profiles: Mapping[str, PhotoProfile],
        *,
        processes: int,
        limits: Limits,
        recycle_after: int,
        start_s: float = START_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`limits` are one photo's, `recycle_after` is how many photos a process makes; `command` starts one."""
        self._profiles = dict(profiles)
        self._limits = limits
        self._recycle_after = recycle_after
        self._start_s = start_s
        self._command = tuple(command)
        self._processes = processes
        self._closing = threading.Lock()
        self._closed = False
        self._seats = self._empty_seats()
        _pools.add(self)

    def normalise(
        self,
        photos: Mapping[str, bytes],
        *,
        profile: str,
        replace_background: bool = False,
        adjust: Adjust | None = None,
    ) -> Mapping[str, Normalised | Defect]:
        """One reply an id: `Normalised`, or the `Defect` that is this photo's alone. Any thread may ask.

        Raises:
            Defect: the installation has no such profile, or a fault of ours keeps the processes from starting.
            TransientError: no process can be started, or the pool is closed.
        """
        chosen = self._profiles.get(profile)
        if chosen is None:
            raise Defect(f"no photo profile {profile!r}")
        if not photos:
            return {}
        head = {"profile": profile, "replace_background": replace_background, "adjust": adjust}
        allowed = photo_process.allowing(chosen, replace_background=replace_background)

        def one(data: bytes) -> Normalised | Defect:
            request = photo_process.frame(photo_process.PHOTO, head, data)
            made = self._asked(request, photo_process.MADE, lambda head, body: checked(head, body, allowed))
            return Normalised(picture=None, findings=(find("PROCESSING_LIMIT"),)) if made is None else made

        with ThreadPoolExecutor(min(self._processes, len(photos)), thread_name_prefix="photo") as threads:
            return dict(zip(photos, threads.map(one, photos.values()), strict=True))

    def thumbnail(self, upload: bytes, *, side_px: int) -> bytes | None:
        """An upload as a small upright JPEG that fits a square of `side_px`; None when there is nothing that can be shown.

        Raises:
            Defect: a fault of ours keeps the processes from starting.
            TransientError: no process can be started, or the pool is closed.
        """
        request = photo_process.frame(photo_process.THUMBNAIL, {"side_px": side_px}, upload)
        small = self._asked(request, photo_process.SMALL, lambda _, body: checked_thumbnail(body, side_px=side_px))
        return None if isinstance(small, Defect) else small

    def close(self) -> None:
        """End every process once the photo it has in hand is made; photos that still come are refused."""
        self._closed = True
        with self._closing:
            seats = [self._seats.get() for _ in range(self._processes)]
            for seat in seats:
                seat.clear()
                self._seats.put(seat)

    def forget(self) -> None:
        """In a forked process: the processes, and perhaps a lock that was held, are the parent's."""
        self._closing = threading.Lock()
        self._seats = self._empty_seats()

    def _empty_seats(self) -> LifoQueue[_Seat]:
        """The seat that was used last is taken first, so that few photos need few processes."""
        seats: LifoQueue[_Seat] = LifoQueue()
        for _ in range(self._processes):
            seats.put(_Seat())
        return seats

    @contextmanager
    def _seat(self) -> Iterator[_Seat]:
        seat = self._seats.get()
        try:
            yield seat
        finally:
            self._seats.put(seat)

    def _asked(
        self, request: tuple[bytes, bytes], wanted: bytes, read: Callable[[bytes, bytes], T]
    ) -> T | Defect | None:
        """What `read` makes of head and body of the wanted kind of answer; None when the upload has cost its process.

        A process that ended before it had the upload says nothing about it, the first time. One that met a fault, or the end of
        its memory, is not used again.
        """
        with self._seat() as seat:
            for last in (False, True):
                process = self._ready(seat)
                try:
                    kind, head, body = process.ask(request, wall_s=self._limits.wall_s)
                    if kind == photo_process.DEFECT:
                        raise _Faulty(_exception(head))
                    if kind != wanted:
                        raise Garbled("an answer of another kind")
                    made = read(head, body)
                except (Garbled, _Faulty) as problem:
                    seat.clear()
                    log.error("photo process: %s; a new one takes its place", problem)
                    return Defect(f"photo process: {problem}")
                except _Lost as lost:
                    seat.clear()
                    log.warning("photo process: %s%s", lost, "" if lost.taken or last else "; the photo is tried again")
                    if lost.taken:
                        break
                except BaseException:
                    seat.clear()  # the answer still on its way would pass for the next photo's
                    raise
                else:
                    if isinstance(made, Normalised) and any(f.code == "PROCESSING_LIMIT" for f in made.findings):
                        seat.clear()
                    return made
        return None

    def _ready(self, seat: _Seat) -> _Process:
        if self._closed:
            raise TransientError("the photo processes are being ended")
        process = seat.process
        if process is not None and process.made < self._recycle_after and process.is_quiet():
            return process
        seat.clear()
        told = {"profiles": self._profiles, "limits": self._limits}
        settings = photo_process.frame(photo_process.SETTINGS, told)
        seat.process = _Process(self._command, settings, start_s=self._start_s)
        return seat.process


class _Lost(Exception):
    """The process died or was killed for taking too long; `taken`: it had read the photo by then."""

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


class Garbled(Exception):
    """The process said what a sound one does not say. The message holds nothing of it."""


class _Faulty(Exception):
    """The process met a fault of ours; the message is an exception's name."""


class _Seat:
    """A place for one process."""

    def __init__(self) -> None:
        self.process: _Process | None = None

    def clear(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.end()


class _Process:
    """A photo process and the two pipes to it. One thread at a time."""

    def __init__(self, command: Sequence[str], settings: tuple[bytes, bytes], *, start_s: float) -> None:
        """Returns when it is ready.

        Raises:
            Defect: a fault of ours keeps it from starting.
            TransientError: it cannot be started.
        """
        self.made = 0
        try:
            self._popen = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as problem:
            raise TransientError(f"photo process: cannot be started: {problem.strerror}") from problem
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._to, self._from = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        try:
            deadline = time.monotonic() + start_s
            self._send(settings, deadline)
            kind, head, _ = self._receive(deadline)
            if kind == photo_process.FAILED:
                raise _not_ready(head)
            if kind != photo_process.READY:
                raise Garbled("something else than ready was said")
        except (_Lost, Garbled) as problem:
            self.end()
            raise TransientError(f"photo process: not ready: {problem}") from None
        except BaseException:
            self.end()
            raise

    def is_quiet(self) -> bool:
        """Whether it is there and says nothing unasked."""
        return not _poll(self._from, select.POLLIN, 0)

    def ask(self, request: tuple[bytes, bytes], *, wall_s: float) -> Frame:
        """What it answers.

        Raises:
            _Lost: it ended, or took longer.
            Garbled: that is no answer.
        """
        self.made += 1
        deadline = time.monotonic() + wall_s
        self._send(request, deadline)
        if self._receive(deadline)[0] != photo_process.TAKEN:
            raise Garbled("an answer before the photo was taken")
        try:
            return self._receive(deadline)
        except _Lost as lost:
            raise _Lost(str(lost), taken=True) from None

    def end(self) -> None:
        """Kill it and wait for its end."""
        self._popen.kill()
        with self._popen:
            pass

    def _send(self, parts: tuple[bytes, bytes], deadline: float) -> None:
        for part in parts:
            rest = memoryview(part)
            while rest:
                self._wait(self._to, select.POLLOUT, deadline)
                try:
                    rest = rest[os.write(self._to, rest) :]
                except BrokenPipeError:
                    raise self._ended() from None

    def _receive(self, deadline: float) -> Frame:
        header = self._bytes(photo_process.HEADER.size, deadline)
        kind, head_length, body_length = photo_process.HEADER.unpack(header)
        if head_length > _HEAD_MAX or body_length > _BODY_MAX:
            raise Garbled("an answer that is too long")
        return kind, self._bytes(head_length, deadline), self._bytes(body_length, deadline)

    def _bytes(self, count: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._wait(self._from, select.POLLIN, deadline)
            some = os.read(self._from, count - len(found))
            if not some:
                raise self._ended()
            found += some
        return bytes(found)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        if not _poll(descriptor, event, deadline - time.monotonic()):
            raise _Lost("killed: it took too long")

    def _ended(self) -> _Lost:
        self._popen.kill()
        return _Lost(f"ended with code {self._popen.wait()}")


def _poll(descriptor: int, event: int, seconds: float) -> bool:
    """Whether the descriptor is ready, hung up or broken within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0, math.ceil(seconds * 1000))))


def _environment() -> dict[str, str]:
    """All that a photo process is told by its environment: no key, password or address of ours; no word to anybody outside."""
    passed_on = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        **passed_on,
        **{f"{name}_NUM_THREADS": "1" for name in _ONE_THREAD},
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
    }


def _not_ready(head: bytes) -> Defect | TransientError:
    """Why a process did not start, in words of ours: a fault that is known, or an exception's name."""
    text = _text(head)
    if text in FAULTS:
        return Defect(text)
    name = _exception(head)
    return (Defect if name == Defect.__name__ else TransientError)(f"photo process: not ready: {name}")


def _exception(head: bytes) -> str:
    """The name of an exception."""
    name = _text(head)
    if not _EXCEPTION.fullmatch(name):
        raise Garbled("words that name no exception")
    return name


def _text(head: bytes) -> str:
    try:
        return _TEXT.validate_json(head, strict=True)
    except ValidationError:
        raise Garbled("words that are none") from None


def checked(head: bytes, body: bytes, profile: PhotoProfile) -> Normalised:
    """A result that could be honest: findings and words of the catalogue, finite numbers, a picture as the profile wants it.

    Raises:
        Garbled: it could not.
    """
    try:
        made = replace(_NORMALISED.validate_json(head, strict=True), picture=body or None)
    except ValidationError:
        raise Garbled("an answer that is no result") from None
    if not all(_of_catalogue(finding) for finding in made.findings):
        raise Garbled("a finding that the catalogue does not have")
    if not all(_MEASURE.fullmatch(name) for name in (*made.measures, *made.timings_ms)):
        raise Garbled("a measure without a proper name")
    if not all(map(math.isfinite, _numbers(made))):
        raise Garbled("a number that is not finite")
    if made.geometry is not None and made.geometry.turn_deg not in _TURNS:
        raise Garbled("a turn that is no quarter")
    if made.background == "replaced" and not profile.background.replace:
        raise Garbled("a background that was not to be replaced")
    if bool(made.rejections) is (made.picture is not None):
        raise Garbled("a picture that was refused, or none that was not")
    if made.picture is not None and not _fits(made, made.picture, profile):
        raise Garbled("a picture that is not as the profile wants it")
    return made


def _of_catalogue(finding: Finding) -> bool:
    if finding.limit is not None and not _LIMIT.fullmatch(finding.limit):
        return False
    try:
        same = find(finding.code, level=finding.level, measured=finding.measured, limit=finding.limit)
    except (KeyError, ValueError):
        return False
    return finding == same


def _numbers(made: Normalised) -> Iterator[float]:
    yield from made.measures.values()
    yield from made.timings_ms.values()
    yield from (finding.measured for finding in made.findings if finding.measured is not None)
    if (geometry := made.geometry) is not None:
        yield from geometry.matrix
        yield geometry.crown_px
        for point in (*geometry.eyes, *geometry.ears, geometry.chin):
            yield from point


def _fits(made: Normalised, picture: bytes, profile: PhotoProfile) -> bool:
    output, window = profile.output, profile.file
    return (
        (made.width_px, made.height_px) == (output.width_px, output.height_px)
        and made.quality is not None
        and 1 <= made.quality <= _QUALITY_MAX
        and window.bytes_min <= len(picture) <= window.bytes_max
        and made.geometry is not None
        and made.background is not None
        and made.measures.keys() >= _LENGTHS
        and is_clean(picture, output=output)
    )


def checked_thumbnail(body: bytes, *, side_px: int) -> bytes | None:
    """A small picture, or None where none was said.

    Raises:
        Garbled: it is no JPEG of that size.
    """
    if not body:
        return None
    bare = bare_jpeg(body)
    if bare is None or not all(1 <= side <= side_px for side in (bare.width_px, bare.height_px)):
        raise Garbled("a small picture that is none")
    return body


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
