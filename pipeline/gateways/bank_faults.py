"""The ways in which the simulated bank fails its callers: drawn by chance, or chosen by the people of the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from random import Random
from typing import Any, Self, cast

from pipeline.person import Person
from pipeline.ports import CloseAccount, Declined, Instruction, OpenAccount


class Mishap(StrEnum):
    """What goes wrong around an instruction, as the bank's own side sees it."""

    UNAVAILABLE = "error"
    """Turned away before anything was done."""
    SILENT = "timeout"
    """Taken and lost: nothing was done and no answer comes."""
    LATE = "late"
    """Done; the result can be asked for after `Faults.late_s`."""
    DROPPED = "drop_after_commit"
    """Done; the answer is lost on the way."""
    DUPLICATE = "duplicate"
    """Done; the answer is sent twice (on a wire; in process it changes nothing)."""
    WRONG_REPLY = "wrong_reply"
    """Done; the answer speaks of another key."""
    FAILED = "error_after_commit"
    """Done; the answer says that the bank failed."""
    CONFLICT = "conflict"
    """The key is known with other content. Never drawn: it is the caller's fault."""


ACCOUNT_EXISTS = Declined(code="account_exists", text="已有Ⅰ类户")
BALANCE_NOT_ZERO = Declined(code="balance_not_zero", text="账户余额不为零")

SCRIPT: Mapping[str, Declined | Mishap] = {
    # last four digits of the holder's phone → what the bank does; UNAVAILABLE and SILENT strike the first attempt only
    "0451": Declined(code="name_mismatch", text="姓名与证件号不符"),
    "0452": Declined(code="id_expired", text="证件过期"),
    "0453": Declined(code="phone_invalid", text="手机号无效"),
    "0454": Declined(code="nine_items_missing", text="九项信息不全"),
    "0455": ACCOUNT_EXISTS,
    "0456": Declined(code="rare_character", text="生僻字无法处理"),
    "0457": Declined(code="verification_unavailable", text="公安库网络异常"),
    "0458": Declined(code="listed", text="涉案名单"),
    "0459": Declined(code="unlisted_reason", text="请至网点核实"),
    "0461": Mishap.LATE,
    "0462": Mishap.DROPPED,
    "0463": Mishap.UNAVAILABLE,
    "0464": Mishap.SILENT,
    "0465": Mishap.DUPLICATE,
}
"""People of the sample files choose their fate by their phone number. `scripted=0` in a fault spec switches it off."""

RANDOM_REFUSALS = (SCRIPT["0451"], SCRIPT["0453"], SCRIPT["0454"])
"""What `decline=RATE` picks from, evenly."""

NOT_DONE = (Mishap.UNAVAILABLE, Mishap.SILENT)
"""What strikes before anything is done."""

# Added to at the end only: a seed has to bring the same bank back.
_DRAWN = (
    Mishap.UNAVAILABLE,
    Mishap.SILENT,
    Mishap.LATE,
    Mishap.DROPPED,
    Mishap.DUPLICATE,
    Mishap.WRONG_REPLY,
    Mishap.FAILED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often the bank misbehaves. Rates are shares of first-time instructions; at most one fault strikes each.

    `decline` is of those that open an account, `close_declined` of those that close one, the others are of all.
    `slow_ms` is added to every answer, `late_s` is how long a late result takes, `scripted` turns `SCRIPT` on.
    `decline_names` refuses people by name; it has no place in a spec, so no name is ever typed on a command line.

    Raises:
        ValueError: a rate outside 0..1, rates that add up to more than 1, or a negative time.
    """

    decline: float = 0.0
    timeout: float = 0.0
    late: float = 0.0
    drop_after_commit: float = 0.0
    error: float = 0.0
    duplicate: float = 0.0
    wrong_reply: float = 0.0
    error_after_commit: float = 0.0
    close_declined: float = 0.0
    slow_ms: float = 0.0
    late_s: float = 2.0
    scripted: float = 1.0
    decline_names: Mapping[str, Declined] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in (*_RATES, *_REFUSING, "scripted"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"fault {name}: a share is between 0 and 1")
        for name, day in (("slow_ms", 86_400_000.0), ("late_s", 86_400.0)):
            if not 0.0 <= getattr(self, name) <= day:
                raise ValueError(f"fault {name}: a time is between 0 and one day")
        if sum(getattr(self, name) for name in _RATES) + max(self.decline, self.close_declined) > 1.0 + 1e-9:
            raise ValueError("faults: the shares add up to more than 1")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read a spec such as `decline=0.02,late=0.05,slow_ms=20`; an empty one is a bank without faults.

        Raises:
            ValueError: an unknown or doubled name, something that is no number, or a value out of its range.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in spec.split(","))):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if name not in _SPEC_NAMES:
                raise ValueError(f"fault {name!r} is not known; known are {', '.join(_SPEC_NAMES)}")
            if name in values:
                raise ValueError(f"fault {name} is given twice")
            values[name] = _number(name, number if equals else "")
        return cls(**values)

    def draw(self, random: Random, kind: type[Instruction] = OpenAccount) -> Declined | Mishap | None:
        """What strikes one instruction; one number decides, so the same source of chance gives the same bank."""
        point = random.random()
        for mishap in _DRAWN:
            point -= getattr(self, mishap.value)
            if point < 0:
                return mishap
        if kind is OpenAccount and point < self.decline:
            return cast("Declined", random.choice(RANDOM_REFUSALS))
        return BALANCE_NOT_ZERO if kind is CloseAccount and point < self.close_declined else None

    def scripted_for(self, instruction: Instruction) -> Declined | Mishap | None:
        """What its holder has chosen; a refusal is chosen for the opening of an account only."""
        holder: Person | None = getattr(instruction, "holder", None)
        if holder is None:
            return None
        opening = isinstance(instruction, OpenAccount)
        if opening and (named := self.decline_names.get(holder.name)):
            return named
        fate = SCRIPT.get(holder.phone[-4:]) if self.scripted else None
        return fate if opening or isinstance(fate, Mishap) else None


_RATES = tuple(mishap.value for mishap in _DRAWN)
_REFUSING = ("decline", "close_declined")
_SPEC_NAMES = tuple(f.name for f in fields(Faults) if f.name != "decline_names")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"fault {name} needs a number, as in {name}=0.02") from None
