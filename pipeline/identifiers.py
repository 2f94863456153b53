"""Ids we make, and numbers and names of people we are given: how they are written and when they are wrong.

Pure. Knows no policy and no database: sequences and randomness come from the caller. No message holds the value judged.
"""

from __future__ import annotations

import os
import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from pipeline.person import IdType, Sex

# ----------------------------------------------------------------------------------------------------------------- ids

OUTLET_ID = re.compile(r"out_[0-9A-Za-z_-]{1,40}")
"""What the regional systems call an outlet, behind our prefix."""
BLANK_SERIAL = re.compile(r"[0-9A-Z][0-9A-Z._/-]{0,39}")
"""What makers print on blanks and scanners read."""
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID_CHARS = 26
_RANDOM_BITS = 80


class _Last:
    """What this process made last, so that ids of one millisecond still sort in the order they were made."""

    lock = threading.Lock()
    ms = -1
    tail = 0


def new_id(prefix: str, *, now: datetime, random: Callable[[int], bytes] = os.urandom) -> str:
    """`prefix` and a ULID in 26 lower-case Crockford characters; later ids sort after earlier ones.

    Ids of the same millisecond count upwards within this process.

    Raises:
        ValueError: `now` has no time zone or lies outside what 48 bits of milliseconds hold.
    """
    if now.tzinfo is None:
        raise ValueError("an id needs an aware time")
    ms = int(now.astimezone(UTC).timestamp() * 1000)
    if not 0 <= ms < 1 << 48:
        raise ValueError("the time does not fit an id")
    with _Last.lock:
        # The top bit starts at zero, so counting up never runs over.
        _Last.tail = _Last.tail + 1 if ms == _Last.ms else int.from_bytes(random(10), "big") >> 1
        _Last.ms = ms
        value = ms << _RANDOM_BITS | _Last.tail
    return prefix + "".join(CROCKFORD[value >> 5 * place & 31] for place in reversed(range(_ULID_CHARS)))


def outlet_code(outlet: str) -> str:
    """The outlet's own code, as banks know it: its id without the prefix `out_`."""
    return outlet.removeprefix("out_")


def id_floor(prefix: str, at: datetime) -> str:
    """What sorts before every id of this prefix made at `at` or later, and after all made earlier, to the millisecond."""
    ms = int(at.timestamp() * 1000)
    places = range(_ULID_CHARS - 1, _RANDOM_BITS // 5 - 1, -1)
    return prefix + "".join(CROCKFORD[ms << _RANDOM_BITS >> 5 * place & 31] for place in places)


# ------------------------------------------------------------------------------------------------- numbers of citizens

NumberProblem = Literal["form", "date", "checksum"]
_GB11643_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_RESIDENT = re.compile(r"[1-9][0-9]{16}[0-9X]")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ResidentFacts:
    """What an 18-character number says of its bearer: region of first registration, birth date, sex."""

    region: str
    birth_date: date
    sex: Sex


def gb11643_check(first17: str) -> str:
    """The 18th character of a citizen number (GB 11643).

    Raises:
        ValueError: not 17 digits.
    """
    if not re.fullmatch(r"[0-9]{17}", first17):
        raise ValueError("17 digits are needed")
    total = sum(weight * int(digit) for weight, digit in zip(_GB11643_WEIGHTS, first17, strict=True))
    return "10X98765432"[total % 11]


def resident_id_problem(number: str) -> NumberProblem | None:
    """Why a number of the 18-character form (GB 11643) cannot be right, or None.

    Holds for citizens, for residence permits of Hong Kong, Macao and Taiwan (81, 82, 83) and for the 2023 permanent residence
    card of foreigners (starts with 9; assumed).
    """
    if not _RESIDENT.fullmatch(number):
        return "form"
    if _birth_date(number) is None:
        return "date"
    return None if gb11643_check(number[:17]) == number[17] else "checksum"


def resident_facts(number: str) -> ResidentFacts:
    """Region, birth date and sex of a good 18-character number; digit 17 is odd for men.

    Raises:
        ValueError: the number has a problem.
    """
    born = _birth_date(number)
    if born is None or resident_id_problem(number):
        raise ValueError("not a good 18-character number")
    return ResidentFacts(region=number[:6], birth_date=born, sex="1" if int(number[16]) % 2 else "2")


def _birth_date(number: str) -> date | None:
    if not 1800 <= int(number[6:10]) < 2200:
        return None
    try:
        return date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------- social security numbers

_HMT = re.compile(r"(HKG|MAC|TWN)[0-9]{9}")
_FOREIGN = re.compile(r"[A-Z]{3}0[0-9A-Z]{1,14}")
_FOREIGN_PR = re.compile(r"[A-Z]{3}([0-9]{12})")
_PERMIT = {"hk_permit": ("HKG", r"H([0-9]{8})([0-9]{2})?"), "mo_permit": ("MAC", r"M([0-9]{8})([0-9]{2})?"),
           "tw_permit": ("TWN", r"([0-9]{8})([0-9]{2}[0-9A-Z]?)?")}  # fmt: skip


def social_security_number_problem(number: str) -> NumberProblem | None:
    """Why this cannot be a 社会保障号码, or None. Never padded.

    Citizens: GB 11643. `HKG`, `MAC`, `TWN` and nine digits. Foreigners: ISO 3166 alpha-3, `0`, document number, at most 18.
    """
    if number[:1].isdigit():
        return resident_id_problem(number)
    form = _HMT if number[:3] in ("HKG", "MAC", "TWN") else _FOREIGN
    return None if form.fullmatch(number) else "form"


def social_security_number(id_type: IdType, id_number: str, *, nationality: str = "CHN") -> str | None:
    """The 社会保障号码 that follows from a document, or None where the document does not tell it.

    Officers' documents do not: those people have a citizen number of their own. The lifetime number of a travel permit leaves
    out its letter and its count of renewals.
    """
    if id_type in ("resident_id", "household_book", "hmt_residence") or (
        id_type == "foreigner_pr" and id_number[:1].isdigit()
    ):
        return id_number if resident_id_problem(id_number) is None else None
    if id_type in _PERMIT:
        country, form = _PERMIT[id_type]
        permit = re.fullmatch(form, id_number)
        return f"{country}0{permit[1]}" if permit else None
    if id_type in ("passport", "foreigner_pr"):
        old_card = _FOREIGN_PR.fullmatch(id_number) if id_type == "foreigner_pr" else None
        number = f"{nationality}0{old_card[1] if old_card else id_number}"
        return number if social_security_number_problem(number) is None else None
    return None


# ---------------------------------------------------------------------------------------------------- card numbers

_GB11714_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def gb11714_check(first8: str) -> str:
    """The ninth character of a 卡号 (algorithm of GB 11714).

    Raises:
        ValueError: not eight characters of 0-9 and A-Z.
    """
    if not re.fullmatch(r"[0-9A-Z]{8}", first8):
        raise ValueError("eight characters of 0-9 and A-Z are needed")
    total = sum(weight * _ALPHANUMERIC.index(char) for weight, char in zip(_GB11714_WEIGHTS, first8, strict=True))
    return "0123456789X0"[11 - total % 11]


def card_number(prefix: str, sequence: int) -> str:
    """The nine-character 卡号 of a region's prefix (one or two letters) and a sequence number.

    Raises:
        ValueError: another prefix, or the sequence is used up.
    """
    if not re.fullmatch(r"[A-Z]{1,2}", prefix):
        raise ValueError("a prefix is one or two letters A-Z")
    room = 8 - len(prefix)
    if not 0 <= sequence < 10**room:
        raise ValueError(f"the sequence of prefix {prefix} holds {room} digits")
    first8 = f"{prefix}{sequence:0{room}d}"
    return first8 + gb11714_check(first8)


def luhn_holds(number: str) -> bool:
    """Whether the last digit of a bank's card number checks the others (ISO/IEC 7812-1, annex B). `number` is digits only."""
    total = 0
    for place, digit in enumerate(map(int, reversed(number))):
        total += sum(divmod(2 * digit, 10)) if place % 2 else digit
    return total % 10 == 0


# ------------------------------------------------------------------------------------------------------------- names

NameProblem = Literal["empty", "characters", "length"]
SEPARATOR = "\u00b7"
NAME_BYTES = 30
EXTENSION_BYTES = 20
_FULL_WIDTH = {wide: wide - 0xFEE0 for wide in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_HALF = _FULL_WIDTH | {0xFF07: "'", 0xFF0D: "-", 0x2019: "'"}
_DOTS = dict.fromkeys((0x2022, 0x2027, 0x2219, 0x22C5, 0x30FB, 0xFF65, 0xFF0E), SEPARATOR)
_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_TIGHT = re.compile(f"(?<=[{_HAN}{SEPARATOR}]) | (?=[{_HAN}{SEPARATOR}])")
_DOT_BETWEEN_HAN = re.compile(rf"(?<=[{_HAN}])\.(?=[{_HAN}])")
_HAN_CHARACTER = re.compile(f"[{_HAN}]")


def normalise_name(name: str) -> str:
    """A name as the card spells it: NFC, separators U+00B7 and single, Latin half-width, no spaces in Chinese names.

    Raises:
        ValueError: a private-use code point: it shows differently on every system.
    """
    if any(unicodedata.category(char) == "Co" for char in name):
        raise ValueError("a private-use code point in a name")
    text = unicodedata.normalize("NFC", name.translate(_HALF | _DOTS))
    text = _TIGHT.sub("", re.sub(r"\s+", " ", text))
    text = _DOT_BETWEEN_HAN.sub(SEPARATOR, text)
    text = re.sub(f"{SEPARATOR}+", SEPARATOR, text).strip(f"{SEPARATOR} ")
    return unicodedata.normalize("NFC", text)


def split_name(name: str) -> tuple[bytes, bytes]:
    """The GB 18030 bytes of a name for tags 09 and 4E: whole characters up to 30 bytes, then the rest.

    Raises:
        UnicodeEncodeError: a lone surrogate.
    """
    head = b""
    for at, char in enumerate(name):
        coded = char.encode("gb18030")
        if len(head) + len(coded) > NAME_BYTES:
            return head, name[at:].encode("gb18030")
        head += coded
    return head, b""


def name_problem(name: str) -> NameProblem | None:
    """Why a name, already normalised, cannot go on a card, or None.

    `characters`: private use, digits, signs, a replacement character, or not in normal form. `length`: more than tags 09 and 4E
    hold; a name is refused, never cut.
    """
    if not name.strip():
        return "empty"
    if not all(_may_stand_in_a_name(char) for char in name) or normalise_name(name) != name:
        return "characters"
    return "length" if len(split_name(name)[1]) > EXTENSION_BYTES else None


def _may_stand_in_a_name(char: str) -> bool:
    if char in f"{SEPARATOR} -'.," or _HAN_CHARACTER.match(char):
        return True
    return unicodedata.category(char) in ("Lu", "Ll", "Lo", "Lm", "Mn")


def normalise_number(number: str) -> str:
    """A number as systems compare it: half-width, upper case, nothing around it."""
    return number.translate(_FULL_WIDTH).strip().upper()
