"""A box of virtual blanks on disk and the connection to one of them in a reader.

Each blank is one file that every command which changes it is added to before it is answered, so that a killed host leaves
the card as a real one would be left. A card is in one reader: inserting it anew pulls it out of the former connection.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from card_personalization.errors import CardLost
from card_personalization.simulator.card import VirtualCard
from card_personalization.simulator.configuration import DEMO_MASTERS, Blank, CardManager
from card_personalization.simulator.faults import Fault, FaultKind, FaultPlan
from card_personalization.simulator.inspection import Inspection, inspected
from card_personalization.simulator.memory import CardFile, Cells, Memory, read_cells
from card_personalization.simulator.pace import Pace
from card_personalization.simulator.security import PIN_TRIES, Method

__all__ = ["DEMO_MASTERS", "CardStore", "Fault", "Silent", "VirtualConnection"]

_CHIP_SERIAL = re.compile(r"[0-9A-F]{8}", re.ASCII)


class Silent(CardLost):
    """The card is in the reader and does not answer: mute, or dead at reset."""


class CardStore:
    """Blanks by serial. An unknown serial is a new blank of the kind that the arguments describe.

    A serial of 8 upper-case hex digits is the chip's own serial in its ATR; any other text gets one derived from it.
    `durable` also survives a power cut of the host, for the price of a disk flush per command. `pace` makes the line of
    each insertion; `sleep` is how a slow card waits. `faults` go by serial and count over all insertions.
    """

    def __init__(
        self,
        directory: Path,
        *,
        faults: Mapping[str, Iterable[Fault]] | None = None,
        city: str = "420100",
        version: str = "2.00",
        method: Method = "process-key",
        masters: Mapping[int, bytes] | None = None,
        pin_tries: int = PIN_TRIES,
        manager: CardManager | None = None,
        financial: bool = True,
        strict_t0: bool = True,
        durable: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        pace: Callable[[], Pace] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._faults = {serial: FaultPlan(tuple(plan)) for serial, plan in (faults or {}).items()}
        self._blank = Blank(
            city=city,
            version=version,
            method=method,
            masters=masters or DEMO_MASTERS,
            pin_tries=pin_tries,
            manager=manager or CardManager(),
            financial=financial,
            strict_t0=strict_t0,
        )
        self._durable = durable
        self._random = random
        self._pace = pace
        self._sleep = sleep

    def insert(self, serial: str) -> VirtualConnection:
        """Put the blank into a reader and power it."""
        return VirtualConnection(
            self._powered(serial),
            self._faults.get(serial, FaultPlan(())),
            other=lambda other: self._powered(other or f"{serial}-other"),
            pace=None if self._pace is None else self._pace(),
            sleep=self._sleep,
        )

    def inspect(self, serial: str) -> Inspection:
        """The persistent state of a card, for tests."""
        return inspected(read_cells(self._path(serial)) or self._fresh(serial))

    def _powered(self, serial: str) -> PoweredCard:
        file = CardFile(self._path(serial), lambda: self._fresh(serial), durable=self._durable)
        return PoweredCard(file, self._random)

    def _fresh(self, serial: str) -> Cells:
        return self._blank.cells(chip_serial(serial))

    def _path(self, serial: str) -> Path:
        return self._directory / f"{quote(serial, safe='')}.card"


class PoweredCard:
    """A chip with power and the file it is kept in."""

    def __init__(self, file: CardFile, random: Callable[[int], bytes]) -> None:
        self._file = file
        self._chip = VirtualCard(Memory(file.cells, file.append), random=random)

    def reset(self) -> bytes:
        """The ATR.

        Raises:
            CardLost: another reader has the card.
        """
        self._need()
        return self._chip.reset()

    def process(self, apdu: bytes, fault: FaultKind | None = None) -> tuple[bytes, int]:
        """Carry out one command.

        Raises:
            CardLost: another reader has the card.
        """
        self._need()
        return self._chip.process(apdu, fault)

    def close(self) -> None:
        """No power."""
        self._file.close()

    def _need(self) -> None:
        if self._file.taken:
            raise CardLost("the card is in another reader")


class VirtualConnection:
    """The port to a virtual card, with its faults and its pace."""

    def __init__(
        self,
        card: PoweredCard,
        faults: FaultPlan,
        *,
        other: Callable[[str | None], PoweredCard],
        pace: Pace | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._card: PoweredCard | None = card
        self._faults = faults
        self._other = other
        self._next: PoweredCard | None = None
        self._pace = pace
        self._sleep = sleep
        self._silent = False
        self._atr = self._reset(card)

    @property
    def atr(self) -> bytes:
        """The answer to the last reset; empty when there was none."""
        return self._atr

    @property
    def wire_s(self) -> float:
        """Seconds that what passed took on the line alone; 0 without a pace."""
        return 0.0 if self._pace is None else self._pace.wire_s

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """Carry out a command, or what its fault says.

        Raises:
            CardLost: pulled, closed or silent.
        """
        if self._pace is None:
            return self._transmitted(apdu)
        begun = self._pace.begun()
        body, sw = self._transmitted(apdu)
        self._pace.finish(begun, apdu, body)
        return body, sw

    def reset(self) -> None:
        """Cold reset.

        Raises:
            CardLost: pulled or closed, or no answer to reset.
        """
        if self._next is not None:
            self._card, self._next = self._next, None
        self._silent = False
        self._atr = self._reset(self._inserted())
        if self._silent:
            raise Silent("no answer to reset")

    def close(self) -> None:
        """Power off."""
        for card in (self._card, self._next):
            if card is not None:
                card.close()
        self._card = self._next = None

    def _reset(self, card: PoweredCard) -> bytes:
        atr = card.reset()
        if self._faults.next_reset() is None:
            return atr
        self._silent = True
        return b""

    def _inserted(self) -> PoweredCard:
        if self._card is None:
            raise CardLost("the card is not in the reader")
        return self._card

    def _transmitted(self, apdu: bytes) -> tuple[bytes, int]:
        card = self._inserted()
        if self._silent:
            raise Silent("the card is mute")
        fault = self._faults.next(apdu)
        return card.process(apdu) if fault is None else self._strike(fault, card, apdu)

    def _strike(self, fault: Fault, card: PoweredCard, apdu: bytes) -> tuple[bytes, int]:
        kind = FaultKind(fault.kind)
        match kind:
            case FaultKind.SW:
                return b"", fault.sw
            case FaultKind.MUTE if fault.seconds is None:
                self._silent = True
                raise Silent("the card is mute")
            case FaultKind.MUTE | FaultKind.SLOW:
                self._sleep(fault.seconds or 0.0)
                return card.process(apdu)
            case FaultKind.SWAP_SILENT:
                self._card = self._other(fault.other)
                card.close()
                return self._card.process(apdu)
            case FaultKind.TEAR_BEFORE | FaultKind.TEAR_AFTER | FaultKind.SWAP:
                self._pull(fault, card, apdu)
                raise CardLost("the card was pulled")
        return card.process(apdu, kind)

    def _pull(self, fault: Fault, card: PoweredCard, apdu: bytes) -> None:
        if fault.kind == FaultKind.TEAR_AFTER:
            card.process(apdu)
        if fault.kind == FaultKind.SWAP:
            self._next = self._other(fault.other)
        card.close()
        self._card = None


def chip_serial(serial: str) -> bytes:
    """4 bytes for the ATR of the blank `serial`."""
    if _CHIP_SERIAL.fullmatch(serial):
        return bytes.fromhex(serial)
    return hashlib.sha256(serial.encode()).digest()[:4]
