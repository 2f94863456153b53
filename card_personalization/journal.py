"""What was done to which blank, durable before it is done: one append-only file per attempt, JSON lines.

The file of an attempt comes into being with the entry that a mutating step is about to be sent (or that the card
refused our key), and every such entry is on disk before the card hears of it; an acknowledgement is on disk before
the next thing happens to the card. So no file means an untouched blank. Holds ids, step names, status words and times;
never data, keys or PINs. Must not know plans or connections.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from card_personalization.errors import JournalConflict

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
    atr: bytes
    state: CardState


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
    def owner(self) -> Attempt | None:
        """The last attempt that touched the blank: only its order may write to it again."""
        return self.touched[-1] if self.touched else None


class Journal:
    """The journal of one station, in a directory of its own."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        directory.mkdir(parents=True, exist_ok=True)
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

    def begin(self, history: History, *, order_id: str, atr: bytes, plan_digest: str, mutations: int) -> "Recorder":
        """A recorder for the next attempt on a blank; nothing is written before the first durable entry."""
        number = len(history.attempts) + 1
        opened = {
            "format": _FORMAT,
            "event": "opened",
            "attempt": number,
            "order": order_id,
            "serial": history.serial,
            "atr": atr.hex(),
            "plan": plan_digest,
            "mutations": mutations,
        }
        return Recorder(self._path(history.serial, number), opened, clock=self._clock)

    def settle(self, attempt: Attempt, state: CardState) -> None:
        """Give an attempt found open its verdict; its own line, even behind one torn by a power cut."""
        with attempt.path.open("ab", buffering=0) as file:
            file.write(b"\n" + _line({"event": "ended", "state": state.value}, self._clock()))
            os.fsync(file.fileno())

    def _path(self, serial: str, number: int) -> Path:
        return self._directory / f"{quote(serial, safe='')}.{number}{_SUFFIX}"


class Recorder:
    """Writes one attempt. Not for several threads."""

    def __init__(self, path: Path, opened: dict[str, Any], *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._pending = _line(opened, clock())
        self._file: int | None = None
        self._touched = False

    @property
    def touched(self) -> bool:
        """Whether a mutating step was sent, acknowledged or not."""
        return self._touched

    def sending(self, step: str) -> None:
        """Durable before the mutating step is sent.

        Raises:
            JournalConflict: another attempt on the same blank began meanwhile.
        """
        self._note({"event": "sent", "step": step})
        self._flush()
        self._touched = True

    def answered(self, step: str, sw: int) -> None:
        """The card's answer; durable with the next entry, which comes before anything else happens to the card."""
        self._note({"event": "answered", "step": step, "sw": f"{sw:04X}"})

    def refused(self, step: str, sw: int) -> None:
        """Durable: the card refused our key, which cost it a try.

        Raises:
            JournalConflict: another attempt on the same blank began meanwhile.
        """
        self._note({"event": "refused", "step": step, "sw": f"{sw:04X}"})
        self._flush()

    def personalised(self) -> None:
        """Durable: every step was acknowledged; only the read-back is missing."""
        self._note({"event": "personalised"})
        self._flush()

    def ended(self, state: CardState) -> None:
        """Durable: the verdict. Without one the attempt stays open."""
        self._note({"event": "ended", "state": state.value})
        self._flush()

    def close(self) -> None:
        """Make noted answers durable and let the file go; an attempt that touched nothing leaves no file."""
        if self._file is None:
            return
        self._flush()
        os.close(self._file)
        self._file = None

    def _note(self, entry: dict[str, Any]) -> None:
        self._pending += _line(entry, self._clock())

    def _flush(self) -> None:
        created = self._file is None
        if self._file is None:
            self._file = self._create()
        if self._pending:
            os.write(self._file, self._pending)
            os.fdatasync(self._file)
            self._pending = b""
        if created:
            _sync_directory(self._path.parent)

    def _create(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError as error:
            raise JournalConflict("another attempt on this blank has begun") from error


def _line(entry: dict[str, Any], now: float) -> bytes:
    return json.dumps({**entry, "at": round(now, 3)}, ensure_ascii=True).encode() + b"\n"


def _read(path: Path) -> Attempt:
    """An attempt from its lines; a torn last line was never acted upon and is passed over."""
    entries = [entry for line in path.read_bytes().split(b"\n")[:-1] if (entry := _parse(line))]
    opened: dict[str, Any] = entries[0] if entries else {}
    return Attempt(
        path=path,
        order_id=opened.get("order", ""),
        serial=opened.get("serial", ""),
        atr=bytes.fromhex(opened.get("atr", "")),
        state=_state(opened.get("mutations", 0), entries),
    )


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _state(mutations: int, entries: list[dict[str, Any]]) -> CardState:
    events = [entry["event"] for entry in entries]
    if "ended" in events:
        return CardState(entries[-1]["state"])
    if "personalised" in events:
        return CardState.PERSONALISED
    if "sent" not in events:
        return CardState.UNTOUCHED
    unanswered = events.count("sent") == mutations and events[-1] == "sent"
    return CardState.UNKNOWN_END if unanswered else CardState.SUSPECT


def _number(path: Path) -> int:
    return int(path.name.removesuffix(_SUFFIX).rpartition(".")[2])


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
