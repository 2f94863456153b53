"""Which chip is in the reader: its ATR and its CPLC, asked for before anything is written and again after every reset.

An ATR alone is a hint; the CPLC (GlobalPlatform, tag 9F7F) carries the chip maker's serial. Must not know journals or plans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from card_personalization.apdu import SW_DATA_NOT_FOUND, SW_FILE_NOT_FOUND, SW_INS, SW_OK, Channel
from card_personalization.errors import ApduError, UnknownCard
from card_personalization.globalplatform.commands import get_data, select
from card_personalization.transport.base import CardConnection

ISSUER_SECURITY_DOMAIN = bytes.fromhex("A000000151000000")
_CPLC = 0x9F7F
_CPLC_HEAD = bytes.fromhex("9F7F2A")
_CPLC_ANSWER = 45
"""Tag, length and 42 bytes."""
_SERIAL = 4
_NONE_THERE = frozenset({SW_FILE_NOT_FOUND, SW_DATA_NOT_FOUND, SW_INS})


@dataclass(frozen=True, slots=True)
class Identity:
    """A chip. `cplc` is empty where it was not asked for or the chip has none; then the ATR alone tells chips apart."""

    atr: bytes
    cplc: bytes = b""

    @property
    def serial(self) -> str:
        """The chip's serial, 8 upper-case hex digits: the end of the historical bytes (LD/T 32)."""
        return self.atr[-_SERIAL:].hex().upper()

    def __str__(self) -> str:
        return f"{self.atr.hex()}/{self.cplc.hex()}"


def by_atr(connection: CardConnection) -> Identity:
    """The chip by what it said at its reset; nothing is sent."""
    return Identity(connection.atr)


def identify(connection: CardConnection, *, security_domain: bytes = ISSUER_SECURITY_DOMAIN) -> Identity:
    """The chip by ATR and CPLC; the security domain is selected afterwards, where there is one.

    Raises:
        ApduError: it refuses for another reason than that it has no such thing.
        UnknownCard: its answer is no CPLC; a garbled one must not be taken for another chip's later.
        CardLost: no answer.
    """
    channel = Channel(connection)
    cplc = b""
    for apdu in (select(security_domain), replace(get_data(_CPLC), le=_CPLC_ANSWER)):
        cplc, sw = channel.exchange(apdu)
        if sw in _NONE_THERE:
            return Identity(connection.atr)
        if sw != SW_OK:
            raise ApduError(cplc, sw)
    if len(cplc) != _CPLC_ANSWER or not cplc.startswith(_CPLC_HEAD):
        raise UnknownCard("the card's production data cannot be read（卡片生产数据无法识别）")
    return Identity(connection.atr, cplc)
