"""What was done to which blank, durable before it is done: one append-only file per attempt, JSON lines.

The file of an attempt comes into being with the entry that a mutating step is about to be sent (or that the card
refused our key), and every such entry is on disk before the card hears of it. So no file means an untouched blank. While a card
works on one step the entry of the next is brought to disk, so that the disk costs the line no time: after a crash the journal may
know of one step more than the card, never of one less. Holds ids, step names, status words and times; never data, keys or PINs.
Must not know plans or connections.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from card_personalization.errors import CardSwapped, CounterAlarm, JournalConflict

Key = tuple[str, str]
"""What a sequence counter belongs to: key diversification data and application id, in hex."""

_FORMAT = 1
_SUFFIX = ".jsonl"


class CardState(StrEnum):
    """What the journal knows of a blank."""

    UNTOUCHED = "untouched"
    SUSPECT = "suspect"
    UNKNOWN_END = "unknown-end"
    PERSONALISED = "personalised"
    VERIFIED = "verified"
    SPOILED = "spoiled"


_FINAL = frozenset({CardState.VERIFIED, CardState.SPOILED})


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """A blank that was touched and has no verdict: it belongs to this order until somebody settles it."""

    order_id: str
    serial: str
    state: CardState


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as its file tells it."""

    path: Path
    order_id: str
    serial: str
    chip: str
    state: CardState
    channels: tuple[tuple[Key, int], ...]
    """The secure channels that had a sequence counter, in order."""
    kdd: str | None
    """The key diversification data, in hex, of the chip that answered in its secure channels; None when it opened none."""


@dataclass(frozen=True, slots=True)
class History:
    """All attempts on one blank, oldest first."""

    serial: str
    attempts: tuple[Attempt, ...]

    @property
    def touched(self) -> tuple[Attempt, ...]:
        """The attempts that sent a mutating step."""
        return tuple(attempt for attempt in self.attempts if attempt.state is not CardState.UNTOUCHED)

    @property
    def counters(self) -> dict[Key, int]:
        """The highest sequence counter that a secure channel had."""
        highest: dict[Key, int] = {}
        for attempt in self.attempts:
            for key, counter in attempt.channels:
                highest[key] = max(counter, highest.get(key, counter))
        return highest

    @property
    def kdd(self) -> str | None:
        """The key diversification data of the chip that was written to; None when no secure channel has told it."""
        return next((attempt.kdd for attempt in self.touched if attempt.kdd is not None), None)

    @property
    def owner(self) -> Attempt | None:
        """The last attempt that touched the blank: only its order may write to it again."""
        return self.touched[-1] if self.touched else None


class Journal:
    """The journal of one station, in a directory of its own."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._clock = clock

    def history(self, serial: str) -> History:
        """What was done to the blank `serial`; looked up on disk, whatever the number of blanks."""
        attempts: list[Attempt] = []
        while (path := self._path(serial, len(attempts) + 1)).exists():
            attempts.append(_read(path))
        return History(serial, tuple(attempts))

    def open_attempts(self) -> tuple[OpenAttempt, ...]:
        """Every touched blank without a verdict, in order of serial. Reads the whole directory: for the start."""
        last: dict[str, Attempt] = {}
        for path in self._directory.glob("*" + _SUFFIX):
            attempt = _read(path)
            known = last.get(attempt.serial)
            if attempt.state is not CardState.UNTOUCHED and (known is None or _number(path) > _number(known.path)):
                last[attempt.serial] = attempt
        return tuple(
            OpenAttempt(attempt.order_id, serial, attempt.state)
            for serial, attempt in sorted(last.items())
            if attempt.state not in _FINAL
        )

    def begin(self, history: History, *, order_id: str, chip: str, plan_digest: str) -> Recorder:
        """A recorder for the next attempt on a blank; nothing is written before the first durable entry.

        `chip` tells the chip from every other.
        """
        number = len(history.attempts) + 1
        opened = {
            "format": _FORMAT,
            "event": "opened",
            "attempt": number,
            "order": order_id,
            "serial": history.serial,
            "chip": chip,
            "plan": plan_digest,
        }
        return Recorder(
            self._path(history.serial, number),
            opened,
            counters=history.counters,
            kdd=history.kdd,
            clock=self._clock,
        )

    def settle(self, attempt: Attempt, state: CardState) -> None:
        """Give an attempt found open its verdict; its own line, even behind one torn by a power cut."""
        with attempt.path.open("ab", buffering=0) as file:
            file.write(b"\n" + _line({"event": "ended", "state": state.value}, self._clock()))
            os.fsync(file.fileno())

    def _path(self, serial: str, number: int) -> Path:
        return self._directory / f"{quote(serial, safe='')}.{number}{_SUFFIX}"


class Recorder:
    """Writes one attempt. Not for several threads."""

    def __init__(
        self,
        path: Path,
        opened: dict[str, Any],
        *,
        counters: dict[Key, int],
        kdd: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._kdd = kdd
        self._path = path
        self._clock = clock
        self._pending = _line(opened, clock())
        self._file: int | None = None
        self._touched = False
        self._ahead: str | None = None
        self._disk: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    @property
    def touched(self) -> bool:
        """Whether a mutating step was sent, acknowledged or not."""
        return self._touched

    def sending(self, step: str, *, last: bool = False) -> None:
        """Durable before the mutating step is sent; `last` is the one that completes the card.

        Raises:
            JournalConflict: another attempt on the same blank began meanwhile.
        """
        if last or step != self._ahead:
            self._note({"event": "sent", "step": step, **({"last": True} if last else {})})
            self._flush()
        else:
            self._settled()
        self._ahead = None
        self._touched = True

    def coming(self, step: str) -> None:
        """Bring the entry of the mutating step after the one that is about to be sent to disk meanwhile."""
        if self._touched:
            self._note({"event": "sent", "step": step})
            self._ahead = step
            self._flush_meanwhile()

    def answered(self, step: str, sw: int) -> None:
        """The card's answer; durable with the next entry, which comes before anything else happens to the card."""
        self._note({"event": "answered", "step": step, "sw": f"{sw:04X}"})

    def opened_channel(self, aid: bytes, counter: int | None, *, kdd: bytes, warnings: tuple[str, ...] = ()) -> None:
        """A secure channel was opened, to a chip that tells its key diversification data.

        These are one for a chip and a master key (EMV CPS, KEYDATA), so all channels to a blank have the same; the counter, where
        the protocol has one, must have risen since the last channel (GlobalPlatform E.4).

        Raises:
            CardSwapped: another chip answered than the one this blank was begun on.
            CounterAlarm: the counter has not risen: another chip answers in this one's name, or its memory failed.
        """
        key = kdd.hex(), aid.hex()
        if self._kdd not in (None, kdd.hex()):
            raise CardSwapped("another chip answered in the secure channel（安全通道中应答的是另一张卡）")
        self._kdd = kdd.hex()
        self._note({"event": "channel", "aid": aid.hex(), "kdd": kdd.hex(), "counter": counter, "warnings": warnings})
        if counter is None:
            return
        if counter <= self._counters.get(key, -1):
            raise CounterAlarm(
                "the sequence counter of the chip has not risen: it may be another chip（芯片计数器未递增，可能不是同一芯片）"
            )
        self._counters[key] = counter

    def refused(self, step: str, sw: int) -> None:
        """Durable: the card refused our key, which cost it a try.

        Raises:
            JournalConflict: another attempt on the same blank began meanwhile.
        """
        self._note({"event": "refused", "step": step, "sw": f"{sw:04X}"})
        self._flush()

    def personalised(self) -> None:
        """Every step was acknowledged; only the read-back, during which this comes to disk, is missing."""
        self._note({"event": "personalised"})
        self._flush_meanwhile()

    def ended(self, state: CardState) -> None:
        """Durable: the verdict. Without one the attempt stays open."""
        self._note({"event": "ended", "state": state.value})
        self._flush()

    def close(self) -> None:
        """Make noted answers durable and let the file go; an attempt that touched nothing leaves no file."""
        try:
            if self._file is not None:
                self._flush()
        finally:
            if self._disk is not None:
                self._disk.shutdown()
            if self._file is not None:
                os.close(self._file)
            self._disk = self._file = None

    def _note(self, entry: dict[str, Any]) -> None:
        self._pending += _line(entry, self._clock())

    def _flush(self) -> None:
        self._settled()
        created = self._file is None
        if self._file is None:
            self._file = self._create()
        if self._pending:
            pending, self._pending = self._pending, b""
            _append(self._file, pending)
        if created:
            _sync_directory(self._path.parent)

    def _flush_meanwhile(self) -> None:
        """In a thread of its own, after what is being written already."""
        if self._file is None:
            self._flush()
            return
        if self._disk is None:
            self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        pending, self._pending = self._pending, b""
        self._writing = self._disk.submit(_append, self._file, pending)

    def _settled(self) -> None:
        """Wait until what was written meanwhile is on disk.

        Raises:
            OSError: it is not.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _create(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError as error:
            raise JournalConflict("another attempt on this blank has begun") from error


def _append(file: int, data: bytes) -> None:
    """All of it; a full disk takes a part and says so only by its length."""
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, "the journal could not grow")
    os.fdatasync(file)


def _line(entry: dict[str, Any], now: float) -> bytes:
    return json.dumps({**entry, "at": round(now, 3)}, ensure_ascii=True).encode() + b"\n"


def _read(path: Path) -> Attempt:
    """An attempt from its lines; a torn last line was never acted upon and is passed over."""
    entries = [entry for line in path.read_bytes().split(b"\n")[:-1] if (entry := _parse(line))]
    opened: dict[str, Any] = entries[0] if entries else {}
    channels = [entry for entry in entries if entry["event"] == "channel"]
    return Attempt(
        path=path,
        order_id=opened.get("order", ""),
        serial=opened.get("serial", ""),
        chip=opened.get("chip", ""),
        state=_state(entries),
        channels=tuple(((e["kdd"], e["aid"]), e["counter"]) for e in channels if e["counter"] is not None),
        kdd=channels[0]["kdd"] if channels else None,
    )


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _state(entries: list[dict[str, Any]]) -> CardState:
    events = [entry["event"] for entry in entries]
    if ended := [entry for entry in entries if entry["event"] == "ended"]:
        return CardState(ended[-1]["state"])
    if "personalised" in events:
        return CardState.PERSONALISED
    if "sent" not in events:
        return CardState.UNTOUCHED
    unanswered = events[-1] == "sent" and entries[-1].get("last", False)
    return CardState.UNKNOWN_END if unanswered else CardState.SUSPECT


def _number(path: Path) -> int:
    return int(path.name.removesuffix(_SUFFIX).rpartition(".")[2])


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
