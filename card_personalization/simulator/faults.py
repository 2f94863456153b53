"""Faults of a virtual card as data: which command, the how-manyth, and what happens instead."""

from dataclasses import dataclass, field
from enum import StrEnum

COMMANDS = {
    0x20: "VERIFY",
    0x5E: "CHANGE PIN",
    0x82: "EXTERNAL AUTHENTICATE",
    0x84: "GET CHALLENGE",
    0xA4: "SELECT",
    0xB2: "READ RECORD",
    0xC0: "GET RESPONSE",
    0xDC: "UPDATE RECORD",
}


class FaultKind(StrEnum):
    """What happens at the command."""

    TEAR_BEFORE = "tear_before"
    """The card is pulled; the command is not carried out."""
    TEAR_AFTER = "tear_after"
    """The command is carried out and the card pulled before its answer."""
    MUTE = "mute"
    """The card does not carry it out and stays silent until it is powered anew."""
    SW = "sw"
    """It answers `sw` and does nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Strikes at the `nth` command called `at`, counted over the life of the store.

    `times` is how often it strikes from then on; None means the kind's own way: a status word for ever (broken memory
    does not heal), everything else once.
    """

    at: str
    nth: int
    kind: str
    sw: int = 0x6581
    times: int | None = None

    def __post_init__(self) -> None:
        if self.at not in COMMANDS.values() or self.nth < 1:
            raise ValueError(f"no such command to fail at: {self.at} {self.nth}")
        FaultKind(self.kind)

    def strikes(self, count: int) -> bool:
        """Whether the `count`-th such command is struck."""
        times = self.times
        if times is None and self.kind != FaultKind.SW:
            times = 1
        return count >= self.nth and (times is None or count < self.nth + times)


@dataclass(slots=True)
class FaultPlan:
    """The faults of one blank and how many commands of each name it has seen."""

    faults: tuple[Fault, ...]
    seen: dict[str, int] = field(default_factory=dict)

    def next(self, ins: int) -> Fault | None:
        """Count one command; the fault that strikes it, if any."""
        name = COMMANDS.get(ins)
        if name is None:
            return None
        self.seen[name] = self.seen.get(name, 0) + 1
        return next((fault for fault in self.faults if fault.at == name and fault.strikes(self.seen[name])), None)
