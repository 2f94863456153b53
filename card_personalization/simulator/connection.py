"""A box of virtual blanks on disk and the in-process connection to one of them.

Each blank is one file, replaced atomically by every command that changes it, so that a killed host leaves the card as
a real one would be left. A card is in one reader: inserting it anew pulls it out of the former connection.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

from card_personalization.errors import CardLost
from card_personalization.simulator.card import DEMO_MASTERS, Eeprom, VirtualCard, blank
from card_personalization.simulator.faults import Fault, FaultKind, FaultPlan
from card_personalization.simulator.filesystem import RecordFile
from card_personalization.simulator.security import Method, Secret

__all__ = ["CardStore", "Fault", "VirtualConnection"]

_CHIP_SERIAL = re.compile(r"[0-9A-F]{8}", re.ASCII)


class CardStore:
    """Blanks by serial. An unknown serial is a new blank with keys derived from the demonstration masters.

    A serial of 8 upper-case hex digits is the chip's own serial in its ATR; any other text gets one derived from it.
    `durable` also survives a power cut of the host, for the price of a disk flush per command.
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
        durable: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._faults = {serial: FaultPlan(tuple(plan)) for serial, plan in (faults or {}).items()}
        self._city = city
        self._version = version
        self._method = method
        self._masters = dict(masters or DEMO_MASTERS)
        self._durable = durable
        self._random = random
        self._inserted: WeakValueDictionary[str, VirtualConnection] = WeakValueDictionary()

    def insert(self, serial: str) -> "VirtualConnection":
        """Put the blank into a reader and power it."""
        if (former := self._inserted.get(serial)) is not None:
            former.close()
        card = VirtualCard(self.inspect(serial), lambda state: self._save(serial, state), self._random)
        connection = VirtualConnection(card, self._faults.get(serial, FaultPlan(())))
        self._inserted[serial] = connection
        return connection

    def inspect(self, serial: str) -> Eeprom:
        """The persistent state of a card, for tests."""
        path = self._path(serial)
        if path.exists():
            return _load(path.read_text(encoding="ascii"))
        return blank(
            chip_serial=chip_serial(serial),
            city=self._city,
            masters=self._masters,
            version=self._version,
            method=self._method,
        )

    def _path(self, serial: str) -> Path:
        return self._directory / f"{quote(serial, safe='')}.card"

    def _save(self, serial: str, state: Eeprom) -> None:
        path = self._path(serial)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("w", encoding="ascii") as file:
            file.write(_dump(state))
            if self._durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)


class VirtualConnection:
    """The port to a virtual card, with its faults."""

    def __init__(self, card: VirtualCard, faults: FaultPlan) -> None:
        self._card: VirtualCard | None = card
        self._faults = faults
        self._mute = False
        self._atr = card.reset()

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """Carry out a command, or what its fault says.

        Raises:
            CardLost: pulled, closed or mute.
        """
        card = self._present()
        fault = self._faults.next(apdu[1]) if len(apdu) > 1 else None
        if fault is None:
            return card.process(apdu)
        return self._strike(fault, card, apdu)

    def reset(self) -> None:
        """Cold reset.

        Raises:
            CardLost: pulled or closed.
        """
        if self._card is None:
            raise CardLost("the card is not in the reader")
        self._mute = False
        self._atr = self._card.reset()

    def close(self) -> None:
        """Power off."""
        self._card = None

    def _present(self) -> VirtualCard:
        if self._card is None:
            raise CardLost("the card is not in the reader")
        if self._mute:
            raise CardLost("the card is mute")
        return self._card

    def _strike(self, fault: Fault, card: VirtualCard, apdu: bytes) -> tuple[bytes, int]:
        match FaultKind(fault.kind):
            case FaultKind.SW:
                return b"", fault.sw
            case FaultKind.MUTE:
                self._mute = True
                raise CardLost("the card is mute")
            case FaultKind.TEAR_AFTER:
                card.process(apdu)
        self._card = None
        raise CardLost("the card was pulled")


def chip_serial(serial: str) -> bytes:
    """4 bytes for the ATR of the blank `serial`."""
    if _CHIP_SERIAL.fullmatch(serial):
        return bytes.fromhex(serial)
    return hashlib.sha256(serial.encode()).digest()[:4]


def _dump(state: Eeprom) -> str:
    return json.dumps(
        {
            "atr": state.atr.hex(),
            "method": state.method,
            "files": {f"{name:04X}": [record.hex() for record in file.records] for name, file in state.files.items()},
            "keys": {str(number): _dump_secret(secret) for number, secret in state.keys.items()},
            "pin": _dump_secret(state.pin),
        }
    )


def _load(text: str) -> Eeprom:
    data = json.loads(text)
    return Eeprom(
        atr=bytes.fromhex(data["atr"]),
        files={int(name, 16): RecordFile(list(map(bytes.fromhex, rows))) for name, rows in data["files"].items()},
        keys={int(number): _load_secret(secret) for number, secret in data["keys"].items()},
        pin=_load_secret(data["pin"]),
        method=data["method"],
    )


def _dump_secret(secret: Secret) -> list[str | int]:
    return [secret.value.hex(), secret.limit, secret.left]


def _load_secret(data: list[str | int]) -> Secret:
    return Secret(bytes.fromhex(str(data[0])), int(data[1]), int(data[2]))
