"""What a card profile demands of a secure channel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum

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


class ChallengeCheck(StrEnum):
    """What is done about a card challenge that should be predictable and is not what was predicted."""

    OFF = "off"
    WARN = "warn"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRules:
    """The protocol, the i values, the key versions and the level; a card that offers anything else is refused (no downgrade).

    `options` are the allowed i values; `key_versions` the allowed KVNs in the card's answer; `key` and `method` lead to its keys.
    """

    protocol: Protocol
    options: frozenset[int]
    key_versions: frozenset[int]
    level: Level
    key: KeyRef
    method: Diversification
    challenge: ChallengeCheck = ChallengeCheck.WARN
