"""Faults of a virtual card as data: which command, the how-manyth, and what happens instead.

A fault has a line of text: KIND[=VALUE]@COMMAND[:NTH][xTIMES], for example `tear_after@STORE DATA:3`,
`sw=6A84@UPDATE RECORD:2`, `mute=2.5@SELECT`, `swap=00000002@STORE DATA:4`, `short@*:7x2`, `sw=6581@B2:1x*`.
Must not know what a command does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

COMMANDS = {
    0x20: "VERIFY",
    0x24: "PIN UNBLOCK",
    0x50: "INITIALIZE UPDATE",
    0x5E: "CHANGE PIN",
    0x82: "EXTERNAL AUTHENTICATE",
    0x84: "GET CHALLENGE",
    0x88: "INTERNAL AUTHENTICATE",
    0xA4: "SELECT",
    0xA8: "GET PROCESSING OPTIONS",
    0xB0: "READ BINARY",
    0xB2: "READ RECORD",
    0xC0: "GET RESPONSE",
    0xCA: "GET DATA",
    0xD6: "UPDATE BINARY",
    0xD8: "PUT KEY",
    0xDC: "UPDATE RECORD",
    0xE2: "STORE DATA",
    0xE4: "DELETE",
    0xE6: "INSTALL",
    0xF0: "SET STATUS",
    0xF2: "GET STATUS",
}
ANY = "*"
RESET = "RESET"

FOR_EVER = "*"
_INS = re.compile(r"[0-9A-F]{2}", re.ASCII)
_TEXT = re.compile(
    r"(?P<kind>\w+)(=(?P<value>[^@]+))?@(?P<at>[^:x]+)(:(?P<nth>[0-9]+))?(x(?P<times>[0-9]+|\*))?", re.ASCII
)
_EVERY_TIME = 1 << 30
_MEMORY_FAILURE = 0x6581


class FaultKind(StrEnum):
    """What happens at the command."""

    TEAR_BEFORE = "tear_before"
    """The card is pulled; the command is not carried out."""
    TEAR_AFTER = "tear_after"
    """The command is carried out and the card pulled before its answer."""
    MUTE = "mute"
    """The card does not carry it out and stays silent until it is powered anew; with seconds, it answers after them."""
    SLOW = "slow"
    """It answers after the given seconds."""
    SW = "sw"
    """It answers the given status word (default 6581) and does nothing."""
    ANNOUNCED = "announced"
    """It carries the command out and announces the answer with 61xx, wanted or not."""
    WRONG_LE = "wrong_le"
    """It carries the command out, answers 6Cxx and gives the answer when the same command comes again with that Le."""
    CMAC_UNCHECKED = "cmac_unchecked"
    """It takes any C-MAC for right."""
    CMAC_REFUSED = "cmac_refused"
    """It gets the command with its last byte flipped: a right C-MAC is wrong for it."""
    RMAC_CORRUPTED = "rmac_corrupted"
    """The last byte of its answer is flipped."""
    RMAC_STRIPPED = "rmac_stripped"
    """The MAC is missing from its answer."""
    FLIPPED = "flipped"
    """The first byte of its answer is flipped."""
    SHORT = "short"
    """The last byte of its answer is missing."""
    WRONG_CRYPTOGRAM = "wrong_cryptogram"
    """INITIALIZE UPDATE proves nothing."""
    COUNTER_STUCK = "counter_stuck"
    """EXTERNAL AUTHENTICATE succeeds and the sequence counter stays."""
    SWAP = "swap"
    """The card is pulled before the command; another one (of the given serial) is there after the next reset."""
    SWAP_SILENT = "swap_silent"
    """Another card gets this command and all that follow; nobody saw it happen."""
    DEAD_ATR = "dead_atr"
    """No answer to reset. Only at RESET."""


_SECONDS = frozenset({FaultKind.MUTE, FaultKind.SLOW})
_SWAPS = frozenset({FaultKind.SWAP, FaultKind.SWAP_SILENT})
_VALUES = {
    FaultKind.SW: re.compile(r"[0-9A-Fa-f]{4}", re.ASCII),
    **dict.fromkeys(_SECONDS, re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)),
    **dict.fromkeys(_SWAPS, re.compile(r".+")),
}


def _any(_: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Fault:
    """Strikes at the `nth` command called `at` for which `when` holds, counted over the life of the store.

    `at` is a command's name, its INS as two hex digits, `*` for any, or RESET (the first is the insertion). `times` is how
    often it strikes from then on; None means the kind's own way: an error status for ever (broken memory does not heal),
    everything else once. `seconds` is for `mute` and `slow`, `other` the serial of the card swapped in.
    """

    at: str
    nth: int
    kind: str
    sw: int = _MEMORY_FAILURE
    times: int | None = None
    seconds: float | None = None
    other: str | None = None
    when: Callable[[bytes], bool] = _any

    def __post_init__(self) -> None:
        named = self.at in COMMANDS.values() or self.at in (ANY, RESET) or _INS.fullmatch(self.at)
        if not named or self.nth < 1:
            raise ValueError(f"没有这样的命令可供设置故障 | no such command to fail at: {self.at} {self.nth}")
        kind = FaultKind(self.kind)
        if (kind is FaultKind.DEAD_ATR) != (self.at == RESET):
            raise ValueError(
                "dead_atr 只能用于 RESET，RESET 也只能用 dead_atr | dead_atr is for RESET, and RESET for dead_atr"
            )
        if kind is FaultKind.SLOW and self.seconds is None:
            raise ValueError("slow 需要秒数，例如 slow=0.5@SELECT | slow needs seconds, as in slow=0.5@SELECT")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault of a line of text.

        Raises:
            ValueError: it means no fault; the message says what is expected.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None or match["kind"] not in [*FaultKind]:
            raise ValueError(_not_a_fault(text))
        kind, times, value = FaultKind(match["kind"]), match["times"], match["value"]
        if value is not None and not (kind in _VALUES and _VALUES[kind].fullmatch(value)):
            raise ValueError(_not_a_fault(text))
        return cls(
            at=match["at"].strip(),
            nth=int(match["nth"] or 1),
            kind=kind,
            times=None if times is None else _EVERY_TIME if times == FOR_EVER else int(times),
            sw=int(value, 16) if value and kind is FaultKind.SW else _MEMORY_FAILURE,
            seconds=float(value) if value and kind in _SECONDS else None,
            other=value if kind in _SWAPS else None,
        )

    def strikes(self, count: int) -> bool:
        """Whether the `count`-th such command is struck."""
        times = self.times
        if times is None and not (self.kind == FaultKind.SW and self.sw >> 8 not in (0x61, 0x6C)):
            times = 1
        return count >= self.nth and (times is None or count < self.nth + times)

    def concerns(self, raw: bytes) -> bool:
        """Whether a command is one that this fault counts."""
        ins = raw[1] if len(raw) > 1 else None
        named = self.at == ANY or (ins is not None and self.at in (COMMANDS.get(ins), f"{ins:02X}"))
        return named and self.when(raw)


@dataclass(slots=True)
class FaultPlan:
    """The faults of one blank and how many commands each has counted; `seen` counts commands by name."""

    faults: tuple[Fault, ...]
    seen: dict[str, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def next(self, raw: bytes) -> Fault | None:
        """Count one command; the fault that strikes it, if any."""
        if len(raw) > 1 and raw[1] in COMMANDS:
            name = COMMANDS[raw[1]]
            self.seen[name] = self.seen.get(name, 0) + 1
        return self._first(lambda fault: fault.concerns(raw))

    def next_reset(self) -> Fault | None:
        """Count one reset; the fault that strikes it, if any."""
        return self._first(lambda fault: fault.at == RESET)

    def _first(self, concerned: Callable[[Fault], bool]) -> Fault | None:
        striking = None
        for number, fault in enumerate(self.faults):
            if concerned(fault):
                self.counts[number] = self.counts.get(number, 0) + 1
                if striking is None and fault.strikes(self.counts[number]):
                    striking = fault
        return striking


def _not_a_fault(text: str) -> str:
    return (
        f"不是故障描述：{text!r}；格式为 种类[=值]@命令[:第几次][x次数]，种类有 {'、'.join(FaultKind)} | "
        f"not a fault: {text!r}; expected KIND[=VALUE]@COMMAND[:NTH][xTIMES], KIND one of {', '.join(FaultKind)}"
    )
