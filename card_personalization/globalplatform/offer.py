"""What a card answers to INITIALIZE UPDATE, taken apart. Must not know keys or rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from card_personalization.errors import ChannelRefused
from card_personalization.globalplatform.rules import Option, Protocol

_KDD = 10
_SCP02 = 28
_SCP03_HEAD = 13
_SCP03_COUNTER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The card's side of a session to be begun.

    `option` is i, which only SCP03 tells; `counter` is the sequence counter (2 bytes, SCP03: 3, and only with a pseudo-random
    challenge).
    """

    protocol: Protocol
    kdd: bytes
    key_version: int
    option: int | None
    counter: bytes | None
    challenge: bytes
    cryptogram: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take an answer of exactly the length its protocol and i have (GlobalPlatform card specification E.5.1, amendment D 7.1.1).

        Raises:
            ChannelRefused: another length, or a protocol that is not known.
        """
        if len(body) == _SCP02 and body[11] == 0x02:
            return cls(
                protocol=Protocol.SCP02,
                kdd=body[:_KDD],
                key_version=body[10],
                option=None,
                counter=body[12:14],
                challenge=body[14:20],
                cryptogram=body[20:28],
            )
        if len(body) > _SCP03_HEAD and body[11] == 0x03:
            return cls._scp03(body)
        raise ChannelRefused(
            "the answer to INITIALIZE UPDATE is of no known protocol or length（安全通道应答格式不符）"
        )

    @classmethod
    def _scp03(cls, body: bytes) -> Self:
        option = body[12]
        size = 16 if option & Option.S16 else 8
        counted = _SCP03_COUNTER if option & Option.PSEUDO_RANDOM else 0
        if len(body) != _SCP03_HEAD + 2 * size + counted:
            raise ChannelRefused("the answer to INITIALIZE UPDATE has not the length of its i（安全通道应答长度不符）")
        challenge_end = _SCP03_HEAD + size
        return cls(
            protocol=Protocol.SCP03,
            kdd=body[:_KDD],
            key_version=body[10],
            option=option,
            counter=body[-counted:] if counted else None,
            challenge=body[_SCP03_HEAD:challenge_end],
            cryptogram=body[challenge_end : challenge_end + size],
        )
