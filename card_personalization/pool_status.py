"""What the encoder pool tells: the state of a reader, what happened there, and where the time went. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a card that work was done on."""

    GOOD = "good"
    SPOILED = "spoiled"
    UNKNOWN = "unknown"


class ReaderState(StrEnum):
    """What a reader is doing."""

    EMPTY = "empty"
    LOADED = "loaded"
    WORKING = "working"
    WAITING_REMOVAL = "waiting-removal"
    BUSY = "busy"
    """Another program holds it."""
    HUNG = "hung"
    DOWN = "down"
    DRAINING = "draining"
    DRAINED = "drained"


class EventKind(StrEnum):
    """What a listener is told."""

    READER_UP = "reader-up"
    READER_DOWN = "reader-down"
    CARD_IN = "card-in"
    CARD_OUT = "card-out"
    RESULT = "result"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at a reader. `serial` is the chip's; `text` is for people, in both languages."""

    kind: EventKind
    reader: str
    at: float
    serial: str | None = None
    outcome: Outcome | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of the last card went besides the work, in milliseconds; None for what did not happen."""

    seen_to_first_apdu_ms: float | None
    worked_ms: float | None
    """From the first command to the last answer."""
    last_answer_to_eject_ms: float | None
    change_ms: float | None
    """From the eject of the card before until this one was seen: the operator's or feeder's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatus:
    """One reader at one moment. `since` is when its state began, in seconds since 1970."""

    reader: str
    state: ReaderState
    since: float
    serial: str | None
    cards: int
    good: int
    spoiled: int
    unknown: int
    cards_per_hour: float | None
    last_error: str | None
    last_card: Timings | None

    @property
    def good_share(self) -> float | None:
        """The yield: good cards of all cards, 0..1."""
        return self.good / self.cards if self.cards else None
