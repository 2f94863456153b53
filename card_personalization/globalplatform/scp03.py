"""SCP03, S8 and S16, AES-128 to AES-256: the host's side of one session as pure state (GlobalPlatform amendment D 1.1.1).

Bytes in, bytes out. Must not know where keys come from or how bytes reach a card.
"""

from __future__ import annotations

from dataclasses import dataclass

from card_personalization.apdu import CLA_SECURED, SW_OK, Apdu, Ins
from card_personalization.errors import ChannelBroken, KeyCheckFailed
from card_personalization.globalplatform.messaging import CLOSED, ENDING, WRONG_CRYPTOGRAM
from card_personalization.globalplatform.offer import Offer
from card_personalization.globalplatform.rules import SCP03_LEVELS, Level, largest_data
from card_personalization.keys.base import Scp03Keys
from card_personalization.keys.primitives import Aes, pad80, same, unpad80

BLOCK = 16
_CARD_CRYPTOGRAM = 0x00
_HOST_CRYPTOGRAM = 0x01
_WARNINGS = (0x62, 0x63)
_ANSWER = 0x80 << 120
_FORGED = "the card's answer fails its MAC: the secure channel is closed（应答校验失败，安全通道已关闭）"


@dataclass(slots=True, repr=False)
class _Session:
    enc: Aes
    mac: Aes
    rmac: Aes
    chain: bytes = bytes(BLOCK)
    commands: int = 0


class Scp03:
    """One session with a card whose cryptogram was right, on the basic logical channel."""

    __slots__ = ("_level", "_session", "_size", "authentication", "max_data")

    def __init__(self, keys: Scp03Keys, *, level: Level, host_challenge: bytes, offer: Offer) -> None:
        """Check the card's cryptogram and make EXTERNAL AUTHENTICATE for `level`. Challenges and MACs are as long as the card's.

        Raises:
            KeyCheckFailed: the cryptogram is wrong.
            ValueError: SCP03 has no such level.
        """
        if level not in SCP03_LEVELS:
            raise ValueError(f"SCP03 has no level {level:02X}")
        mac = Aes(keys.s_mac)
        context = host_challenge + offer.challenge
        bits = len(offer.cryptogram) * 8
        if not same(mac.derive(_CARD_CRYPTOGRAM, bits=bits, context=context), offer.cryptogram):
            raise KeyCheckFailed(WRONG_CRYPTOGRAM)
        session = _Session(Aes(keys.s_enc), mac, Aes(keys.s_rmac))
        self._session: _Session | None = session
        self._level = level
        self._size = len(offer.cryptogram)
        self.max_data = largest_data(level, mac=self._size, block=BLOCK)
        host_cryptogram = mac.derive(_HOST_CRYPTOGRAM, bits=bits, context=context)
        self.authentication = self._secured(
            session, Apdu(0x80, Ins.EXTERNAL_AUTHENTICATE, level, 0), data=host_cryptogram
        )

    def wrap(self, apdu: Apdu) -> Apdu:
        """The command with enciphered data (levels 03, 13, 33) and then its MAC; without data nothing is enciphered.

        Raises:
            ChannelBroken: the session is over.
            ValueError: more than `max_data` bytes.
        """
        session = self._open()
        if len(apdu.data) > self.max_data:
            raise ValueError(f"{len(apdu.data)} bytes do not fit a command of this channel")
        if not self._level & Level.C_MAC:
            return apdu
        session.commands += 1
        data = apdu.data
        if data and self._level & Level.C_DECRYPTION:
            data = session.enc.encrypt_cbc(pad80(data, BLOCK), _iv(session))
        return self._secured(session, apdu, data=data)

    def unwrap(self, body: bytes, sw: int) -> bytes:
        """The plain body. Once negotiated, R-MAC is on 9000, 62xx and 63xx also without data, and on nothing else.

        Raises:
            ChannelBroken: R-MAC wrong, missing, or data where none can be; padding wrong; the session is over.
        """
        session = self._open()
        if self._level & Level.R_MAC:
            try:
                body = self._verified(session, body, sw)
            except ValueError:
                self.close()
                raise ChannelBroken(_FORGED) from None
        if sw in ENDING:
            self.close()
        return body

    def close(self) -> None:
        """Drop the keys; may be called twice."""
        self._session = None

    def _open(self) -> _Session:
        if self._session is None:
            raise ChannelBroken(CLOSED)
        return self._session

    def _secured(self, session: _Session, apdu: Apdu, *, data: bytes) -> Apdu:
        cla = apdu.cla | CLA_SECURED
        header = bytes((cla, apdu.ins, apdu.p1, apdu.p2, len(data) + self._size))
        session.chain = session.mac.mac(session.chain + header + data)
        return Apdu(cla, apdu.ins, apdu.p1, apdu.p2, data + session.chain[: self._size], apdu.le)

    def _verified(self, session: _Session, body: bytes, sw: int) -> bytes:
        if sw != SW_OK and sw >> 8 not in _WARNINGS:
            if body:
                raise ValueError("data with an error")
            return body
        data, mac = body[: -self._size], body[-self._size :]
        if not same(session.rmac.mac(session.chain + data + sw.to_bytes(2, "big"))[: self._size], mac):
            raise ValueError("the MAC is wrong")
        if data and self._level & Level.R_ENCRYPTION:
            return unpad80(session.enc.decrypt_cbc(data, _iv(session, _ANSWER)))
        return data

    def __repr__(self) -> str:
        return f"Scp03(level={self._level:02X}, open={self._session is not None})"


def _iv(session: _Session, direction: int = 0) -> bytes:
    return session.enc.encrypt((direction | session.commands).to_bytes(BLOCK, "big"))
