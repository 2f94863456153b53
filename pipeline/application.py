"""One requested card: what was applied for, and where it stands. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from pipeline.outcomes import Reason
from pipeline.person import Agent, Person

Kind = Literal["first", "replacement", "exchange"]
Priority = Literal["normal", "urgent"]
Lane = Literal["urgent", "normal", "bulk"]
LANES: tuple[Lane, ...] = ("urgent", "normal", "bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A paper handed in: its kind and where its image is kept, if it was scanned."""

    type: str
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What an intake system, an employer or a counter hands in.

    `region` is GB/T 2260 (six digits, a city or one of its districts), `district` the insured's. `category` and `window` (the kind
    of office at which it was handed in) are words of the region's policy. `photo` is the image as uploaded, any bytes.
    """

    external_ref: str
    source: str
    region: str
    agency: str
    window: str
    category: str
    district: str
    person: Person
    bank_code: str
    outlet: str
    kind: Kind = "first"
    priority: Priority = "normal"
    lane: Lane = "normal"
    unit_code: str = ""
    guardian: Agent | None = None
    proxy: Agent | None = None
    documents: tuple[Document, ...] = ()
    confirmed: bool = False
    collect_by: Literal["person", "unit", "proxy", "guardian"] = "person"
    photo: bytes = field(default=b"", repr=False)
    old_card: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An accepted application as a stage sees it."""

    id: str
    version: int
    status: str
    stage: str
    region: str
    policy_version: str
    kind: Kind
    priority: Priority
    lane: Lane
    category: str
    district: str
    agency: str
    window: str
    outlet: str
    bank_code: str
    acceptance_no: str
    received_at: datetime
    due_at: datetime
    person: Person
    guardian: Agent | None
    proxy: Agent | None
    documents: tuple[Document, ...]
    confirmed: bool
    collect_by: str
    person_id: str
    photo_original: str
    photo_result: str | None
    unit_code: str = ""
    attempts: int = 0
    notified_at: datetime | None = None
    delivered_at: datetime | None = None
    card_number: str | None = None
    issued_on: date | None = None
    reasons: tuple[Reason, ...] = ()
