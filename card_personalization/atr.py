"""What the answer to reset says about a second-generation card: who made it and its serial (LD/T 32).

An ATR is a hint, not proof of identity; it is checked together with what the card holds.
"""

from dataclasses import dataclass
from typing import Self

from card_personalization.errors import UnknownCard

_PREFIX = bytes.fromhex("3B6D0000")
_HISTORICAL = 13
_FACTOR = 8


@dataclass(frozen=True, slots=True)
class Atr:
    """The 17 bytes of a T=0 contact card: `3B6D0000`, then chip maker 2, COS 3, card maker 2, city 2, serial 4."""

    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """An ATR of the expected form.

        Raises:
            UnknownCard: any other ATR.
        """
        if len(raw) != len(_PREFIX) + _HISTORICAL or not raw.startswith(_PREFIX):
            raise UnknownCard("the ATR is not that of a second-generation social security card")
        return cls(raw)

    @property
    def serial(self) -> bytes:
        """4 bytes: the chip serial that the 识别码 repeats."""
        return self.raw[-4:]

    @property
    def factor(self) -> bytes:
        """8 bytes for 密钥分散: card maker, city and serial, different on every card."""
        return self.raw[-_FACTOR:]
