"""SCP02, i = 15 and 55: the host's side of one session as pure state (GlobalPlatform card specification 2.3.1, appendix E).

Bytes in, bytes out. R-MAC is not offered. Must not know where keys come from or how bytes reach a card.
"""

from __future__ import annotations

from typing import NamedTuple

from card_personalization.apdu import CLA_SECURED, Apdu, Ins
from card_personalization.errors import ChannelBroken, KeyCheckFailed
from card_personalization.globalplatform.messaging import CLOSED, ENDING, WRONG_CRYPTOGRAM
from card_personalization.globalplatform.offer import Offer
from card_personalization.globalplatform.rules import SCP02_LEVELS, Level, largest_data
from card_personalization.keys.base import Scp02Keys
from card_personalization.keys.primitives import TripleDes, pad80, retail_mac, same

MAC = 8
BLOCK = 8
_CARD_CHALLENGE = 6


class _Keys(NamedTuple):
    enc: TripleDes
    mac: TripleDes


class Scp02:
    """One session with a card whose cryptogram was right, on the basic logical channel."""

    __slots__ = ("_icv", "_keys", "_level", "authentication", "max_data")

    def __init__(self, keys: Scp02Keys, *, level: Level, host_challenge: bytes, offer: Offer) -> None:
        """Check the card's cryptogram and make EXTERNAL AUTHENTICATE for `level`.

        Raises:
            KeyCheckFailed: the cryptogram is wrong.
            ValueError: SCP02 has no such level.
        """
        if level not in SCP02_LEVELS:
            raise ValueError(f"SCP02 has no level {level:02X}")
        enc = TripleDes(keys.s_enc)
        card = (offer.counter or b"") + offer.challenge
        if not same(_cryptogram(enc, host_challenge + card), offer.cryptogram):
            raise KeyCheckFailed(WRONG_CRYPTOGRAM)
        self._keys: _Keys | None = _Keys(enc, TripleDes(keys.c_mac))
        self._icv = bytes(BLOCK)
        self._level = level
        self.max_data = largest_data(level, mac=MAC, block=BLOCK)
        host_cryptogram = _cryptogram(enc, card + host_challenge)
        plain = Apdu(0x80, Ins.EXTERNAL_AUTHENTICATE, level, 0, host_cryptogram)
        self.authentication = self._secured(self._keys, plain, encrypted=False)

    def wrap(self, apdu: Apdu) -> Apdu:
        """The command with its MAC, over plain data, and then enciphered data (level 03).

        Raises:
            ChannelBroken: the session is over.
            ValueError: more than `max_data` bytes.
        """
        keys = self._open()
        if len(apdu.data) > self.max_data:
            raise ValueError(f"{len(apdu.data)} bytes do not fit a command of this channel")
        if not self._level & Level.C_MAC:
            return apdu
        return self._secured(keys, apdu, encrypted=bool(self._level & Level.C_DECRYPTION))

    def unwrap(self, body: bytes, sw: int) -> bytes:
        """The body as it is: SCP02 without R-MAC does not protect answers.

        Raises:
            ChannelBroken: the session is over.
        """
        self._open()
        if sw in ENDING:
            self.close()
        return body

    def close(self) -> None:
        """Drop the keys; may be called twice."""
        self._keys = None

    def _open(self) -> _Keys:
        if self._keys is None:
            raise ChannelBroken(CLOSED)
        return self._keys

    def _secured(self, keys: _Keys, apdu: Apdu, *, encrypted: bool) -> Apdu:
        cla, data = apdu.cla | CLA_SECURED, apdu.data
        tag = keys.mac.mac(bytes((cla, apdu.ins, apdu.p1, apdu.p2, len(data) + MAC)) + data, self._icv)
        self._icv = keys.mac.encrypt_single(tag)
        if data and encrypted:
            data = keys.enc.encrypt_cbc(pad80(data, BLOCK))
        return Apdu(cla, apdu.ins, apdu.p1, apdu.p2, data + tag, apdu.le)

    def __repr__(self) -> str:
        return f"Scp02(level={self._level:02X}, open={self._keys is not None})"


def predicted_challenge(keys: Scp02Keys, aid: bytes) -> bytes:
    """The card challenge of i = 55 in a session with these keys, for the selected application `aid` (E.3.4)."""
    return retail_mac(keys.c_mac, aid)[:_CARD_CHALLENGE]


def _cryptogram(enc: TripleDes, data: bytes) -> bytes:
    return enc.encrypt_cbc(pad80(data, BLOCK))[-BLOCK:]
