"""What a stage can say about an application. Expected refusals are values here, never exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Level = Literal["reject", "warn", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason, as every face shows it. Texts carry no personal data.

    `code` never changes once published; `rule` is the regulation's rule id; `pointer` the field at fault (JSON Pointer
    fragment of the application).
    """

    code: str
    zh: str
    en: str
    rule: str | None = None
    pointer: str | None = None
    level: Level = "reject"
    measured: float | None = None
    limit: str | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Advance:
    """The stage is done; the application goes to status `to`."""

    to: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: until something outside wakes the application)."""

    until: datetime | None
    why: str


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator decides."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Correct:
    """The intake system can put it right and send it again; all findings at once."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Reject:
    """The rules say no."""

    reasons: tuple[Reason, ...]


Outcome = Advance | Wait | Hold | Correct | Reject
