"""What may have become of a blank and its order after a fault, judged from the chip alone.

The reader here knows nothing of the host: it sends plain bytes and decodes by the standards. `essence` is what a fault must not
change behind our back: all that is on the chip but counters and tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from card_personalization.plan import CardOrder
from card_personalization.simulator.inspection import ApplicationView, FileView, Inspection

Transmit = Callable[[bytes], tuple[bytes, int]]

_SOCIAL = "00A404000F7378312E73682EC9E7BBE1B1A3D5CF"
_DEBIT = "00A4040008A000000333010101"
_EF06 = (20, 32, 22, 3, 3, 5, 6)
"""Bytes of its records, tag and length included."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a card is, once as the social security application says it and once as the bank's."""

    name: str
    number: str
    card_number: str
    born: date
    bank_card_number: str


@dataclass(frozen=True, slots=True)
class Essence:
    """A chip without its counters and tries."""

    files: Mapping[int, FileView]
    applications: Mapping[bytes, ApplicationView]
    domain_state: int


def essence(card: Inspection) -> Essence:
    """All of a chip that must not change by itself."""
    return Essence(card.files, card.applications, card.domain.state)


def failed_authentications(card: Inspection, before: Inspection) -> int:
    """Tries that the keys of the chip have lost since."""
    lost = sum(before.keys[number].left - key.left for number, key in card.keys.items())
    return lost + card.domain.failures - before.domain.failures


def holder_of(transmit: Transmit) -> Holder:
    """Read a card as a counter and a bank terminal would.

    Raises:
        AssertionError: it is not a complete card, or its two applications are not of one person.
    """
    ask = _asking(transmit)
    ask(_SOCIAL)
    ask("00A4000002EF05")
    card_number = ask("00B207040B")[2:].decode("ascii")
    ask("00A4000002EF06")
    number, name, more, _, _, _, born = (ask(f"00B2{n:02X}04{le:02X}")[2:] for n, le in enumerate(_EF06, start=1))
    debit = _tags(_record(ask, 1, 1)) | _tags(_record(ask, 3, 1))
    holder = Holder(
        name=(name.rstrip(b"\0") + more.rstrip(b"\0")).decode("gb18030"),
        number=number.rstrip(b"\0").decode("ascii"),
        card_number=card_number,
        born=date.fromisoformat(born.hex()),
        bank_card_number=debit[0x5A].hex().upper().rstrip("F"),
    )
    assert debit[0x57].hex().upper().split("D")[0] == holder.bank_card_number
    assert debit[0x9F61].decode("ascii") == holder.number
    assert debit[0x5F20].decode("gb18030") == holder.name
    return holder


def same_holder(found: Holder, order: CardOrder) -> bool:
    """Whether a card is this order's."""
    holder = order.holder
    return found == Holder(
        holder.name, holder.social_security_number, order.card_number, holder.birth_date, str(order.bank_card_number)
    )


def _asking(transmit: Transmit) -> Callable[[str], bytes]:
    def ask(command: str) -> bytes:
        apdu = bytes.fromhex(command)
        body, sw = transmit(apdu)
        if sw >> 8 == 0x6C:
            body, sw = transmit(apdu[:4] + bytes((sw & 0xFF,)))
        if sw >> 8 == 0x61:
            body, sw = transmit(bytes((0x00, 0xC0, 0x00, 0x00, sw & 0xFF)))
        assert sw == 0x9000, f"{command}: {sw:04X}"
        return body

    return ask


def _record(ask: Callable[[str], bytes], sfi: int, number: int) -> bytes:
    """A record of the debit application, selected anew; it answers only once it is personalised."""
    ask(_DEBIT)
    return ask(f"00B2{number:02X}{sfi << 3 | 4:02X}00")


def _tags(record: bytes) -> dict[int, bytes]:
    assert record[0] == 0x70
    return dict(_objects(record[2:] if record[1] < 0x80 else record[3:]))


def _objects(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size = 2 if data[0] & 0x1F == 0x1F else 1
        length = data[size]
        yield int.from_bytes(data[:size], "big"), data[size + 1 : size + 1 + length]
        data = data[size + 1 + length :]
