"""The person a card is for, and those who act for them. Frozen values; personal data never shows in a repr."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from typing import Literal

Sex = Literal["1", "2", "9"]
IdType = Literal[
    "resident_id", "household_book", "military_id", "police_id", "hk_permit", "mo_permit", "tw_permit",
    "hmt_residence", "foreigner_pr", "passport",
]  # fmt: skip


def mask_name(name: str) -> str:
    """`张三` → `张*`, `张小明` → `张*明`."""
    if len(name) <= 1:
        return "*"
    return name[0] + "*" * max(1, len(name) - 2) + (name[-1] if len(name) > 2 else "")


def mask_number(number: str, *, head: int = 4, tail: int = 4) -> str:
    """Keep the first `head` and last `tail` characters; short numbers are hidden whole."""
    if len(number) <= head + tail:
        return "*" * len(number)
    return number[:head] + "*" * (len(number) - head - tail) + number[-tail:]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Person:
    """An applicant as declared and confirmed.

    `sex` is GB/T 2261.1, `ethnic` GB/T 3304 (two digits), `nationality` ISO 3166 alpha-3, `birth_place` GB/T 2260 (six digits).
    `id_valid_to` is 9999-12-31 for a document without end.
    """

    name: str
    id_type: IdType
    id_number: str
    social_security_number: str
    sex: Sex
    ethnic: str
    birth_date: date
    birth_place: str = "000000"
    nationality: str = "CHN"
    phone: str = ""
    address: str = ""
    occupation: str = ""
    id_valid_from: date | None = None
    id_valid_to: date | None = None

    def __repr__(self) -> str:
        return f"Person({mask_name(self.name)}, {self.id_type}, {mask_number(self.id_number)})"

    def age_on(self, day: date) -> int:
        """Whole years of age on a civil day."""
        before = (day.month, day.day) < (self.birth_date.month, self.birth_date.day)
        return day.year - self.birth_date.year - before


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Agent:
    """A guardian (监护人) or one who acts with a mandate (代办人)."""

    name: str
    id_type: IdType
    id_number: str
    relation: str = ""
    phone: str = ""
    document: str = ""

    def __repr__(self) -> str:
        return f"Agent({mask_name(self.name)}, {self.id_type}, {mask_number(self.id_number)})"


PERSON_FIELDS = tuple(f.name for f in fields(Person))
