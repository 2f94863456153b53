"""What a card profile demands of a secure channel, and how much a command can carry in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum

from card_personalization.apdu import MAX_SHORT
from card_personalization.keys.base import Diversification, KeyRef


class Protocol(StrEnum):
    """The secure channel protocols there are."""

    SCP02 = "scp02"
    SCP03 = "scp03"


class Level(IntFlag):
    """The security level, as in P1 of EXTERNAL AUTHENTICATE (GlobalPlatform card specification, amendment D)."""

    NONE = 0x00
    C_MAC = 0x01
    C_DECRYPTION = 0x02
    R_MAC = 0x10
    R_ENCRYPTION = 0x20


class Option(IntFlag):
    """The bits of i that SCP03 defines (amendment D 5.1)."""

    S16 = 0x01
    """Challenges, cryptograms and MACs of 16 bytes."""
    PSEUDO_RANDOM = 0x10
    """The card challenge follows from a counter."""
    R_MAC = 0x20
    R_ENCRYPTION = 0x40


class ChallengeCheck(StrEnum):
    """What is done about a card challenge that should be predictable and is not what was predicted."""

    OFF = "off"
    WARN = "warn"
    REQUIRE = "require"


SCP02_LEVELS = frozenset({0x00, 0x01, 0x03})
SCP03_LEVELS = frozenset({0x00, 0x01, 0x03, 0x11, 0x13, 0x33})

SCP02_RANDOM = 0x15
SCP02_PSEUDO_RANDOM = 0x55

_SCP03_BITS = Option.S16 | Option.PSEUDO_RANDOM | Option.R_MAC | Option.R_ENCRYPTION


def largest_data(level: Level, *, mac: int, block: int) -> int:
    """Bytes of plain data that fit a short command with a MAC of `mac` bytes and a cipher of `block` bytes."""
    if not level & Level.C_MAC:
        return MAX_SHORT
    room = MAX_SHORT - mac
    return room // block * block - 1 if level & Level.C_DECRYPTION else room


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRules:
    """The protocol, the i values, the key versions and the level; a card that offers anything else is refused (no downgrade).

    `options` are the allowed i values; `key_versions` the allowed KVNs in the card's answer; `key` and `method` lead to its keys.
    An answer of SCP02 does not tell i, so there is exactly one. Those of SCP03 agree about S16, which the host chooses first.
    """

    protocol: Protocol
    options: frozenset[int]
    key_versions: frozenset[int]
    level: Level
    key: KeyRef
    method: Diversification
    challenge: ChallengeCheck = ChallengeCheck.WARN

    def __post_init__(self) -> None:
        """Raises:
        ValueError: the rules contradict each other or the protocol; nothing is sent by such rules.
        """
        if not self.options or not self.key_versions:
            raise ValueError("no option or no key version is allowed")
        if self.protocol is Protocol.SCP02:
            self._check_scp02()
        else:
            self._check_scp03()
        if self.challenge is ChallengeCheck.REQUIRE and not all(map(self.predictable, self.options)):
            raise ValueError("a challenge is checked, but an allowed option makes it random")

    @property
    def s16(self) -> bool:
        """Whether challenges, cryptograms and MACs have 16 bytes."""
        return self.protocol is Protocol.SCP03 and any(option & Option.S16 for option in self.options)

    @property
    def dek_block(self) -> int:
        """The block in bytes of the cipher, and so of the session's DEK."""
        return 8 if self.protocol is Protocol.SCP02 else 16

    @property
    def max_data(self) -> int:
        """Bytes of plain data a command can carry in this channel."""
        return largest_data(self.level, mac=16 if self.s16 else 8, block=self.dek_block)

    def predictable(self, option: int) -> bool:
        """Whether a card of this i value makes its challenge from a counter."""
        return option == SCP02_PSEUDO_RANDOM if self.protocol is Protocol.SCP02 else bool(option & Option.PSEUDO_RANDOM)

    def _check_scp02(self) -> None:
        if self.level not in SCP02_LEVELS:
            raise ValueError(f"SCP02 has no level {self.level:02X}")
        if len(self.options) > 1 or not self.options <= {SCP02_RANDOM, SCP02_PSEUDO_RANDOM}:
            raise ValueError("SCP02 is supported with i = 15 or i = 55, one of them")

    def _check_scp03(self) -> None:
        if self.level not in SCP03_LEVELS:
            raise ValueError(f"SCP03 has no level {self.level:02X}")
        if any(option & ~_SCP03_BITS for option in self.options):
            raise ValueError("SCP03 has no such i")
        if len({option & Option.S16 for option in self.options}) > 1:
            raise ValueError("S8 and S16 cannot be allowed together")
        needed = (Option.R_MAC if self.level & Level.R_MAC else 0) | (
            Option.R_ENCRYPTION if self.level & Level.R_ENCRYPTION else 0
        )
        if any(option & needed != needed for option in self.options):
            raise ValueError(f"an allowed option does not offer level {self.level:02X}")
