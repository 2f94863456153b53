"""The card's side of a secure channel: SCP02 (GlobalPlatform Card Specification 2.3.1 E) and SCP03 (Amendment D 1.1.1).

Pure state: challenges and counters are handed in. A command that does not pass ends the session; who holds it forgets it.
Must not know commands beyond their bytes, applications or where keys are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Protocol

from card_personalization.simulator import ciphers
from card_personalization.simulator.ciphers import AES_BLOCK, DES_BLOCK
from card_personalization.simulator.command import NO_RIGHTS, WRONG_DATA, Command, Refused

C_MAC = 0x01
C_ENC = 0x02
R_MAC = 0x10
R_ENC = 0x20

SCP02 = 2
SCP03 = 3
SUPPORTED_I = {SCP02: (0x15, 0x55), SCP03: (0x00, 0x10, 0x60, 0x70, 0x01, 0x11, 0x61, 0x71)}
I_S16 = 0x01
I_PSEUDO_RANDOM = {SCP02: 0x40, SCP03: 0x10}
I_R_MAC = 0x20
I_R_ENC = 0x40

_SECURED_CLA = 0x04


def levels(scp: int, i: int) -> frozenset[int]:
    """The security levels that EXTERNAL AUTHENTICATE may ask of such a card."""
    offered = {0x00, 0x01, 0x03}
    if scp == SCP03 and i & I_R_MAC:
        offered |= {0x11, 0x13}
        if i & I_R_ENC:
            offered.add(0x33)
    return frozenset(offered)


def challenge_size(scp: int, i: int) -> int:
    """Bytes of the host's challenge and of a cryptogram."""
    return 16 if scp == SCP03 and i & I_S16 else 8


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """The three keys of a key set on the card."""

    enc: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    dek: bytes = field(repr=False)


class Session(Protocol):
    """One session from INITIALIZE UPDATE on. `level` counts once the host is authenticated."""

    level: int

    @property
    def mac_size(self) -> int:
        """Bytes of a MAC on the line."""

    @property
    def card_cryptogram(self) -> bytes:
        """The card's proof."""

    @property
    def host_cryptogram(self) -> bytes:
        """The proof expected of the host."""

    def verified(self, command: Command, *, check: bool = True) -> bytes:
        """The data of EXTERNAL AUTHENTICATE without its MAC; opens the chain of MACs.

        Raises:
            Refused: 6982, the MAC is missing or wrong.
        """

    def unwrap(self, command: Command, *, check: bool = True) -> Command:
        """The plain command.

        Raises:
            Refused: 6982, the MAC or the padding is wrong.
        """

    def wrap(self, body: bytes, sw: int) -> bytes:
        """The body to send with `sw`, which is no error."""

    def deciphered(self, data: bytes) -> bytes:
        """Sensitive data that came under the data encryption key.

        Raises:
            Refused: 6A80, not whole blocks.
        """


def _without_mac(command: Command, size: int) -> tuple[bytes, bytes]:
    if len(command.data) < size:
        raise Refused(NO_RIGHTS)
    return command.data[:-size], command.data[-size:]


def _checked(given: bytes, expected: bytes, *, check: bool) -> None:
    if check and not compare_digest(given, expected):
        raise Refused(NO_RIGHTS)


def _unpadded(data: bytes) -> bytes:
    try:
        return ciphers.unpad80(data)
    except Refused:
        raise Refused(NO_RIGHTS) from None


def _whole_blocks(data: bytes, block: int, sw: int) -> None:
    if len(data) % block:
        raise Refused(sw)


class Scp02:
    """SCP02 with i = 15 or 55: C-MAC on the unmodified command, ICV encryption, no R-MAC."""

    mac_size = 8

    def __init__(self, keys: StaticKeys, *, counter: int, host: bytes, card: bytes) -> None:
        number = counter.to_bytes(2, "big")
        self._enc = ciphers.triple_des_cbc(keys.enc, b"\x01\x82" + number + bytes(12))
        self._mac = scp02_mac_key(keys, counter)
        self._dek = ciphers.triple_des_cbc(keys.dek, b"\x01\x81" + number + bytes(12))
        self.card_cryptogram = self._cryptogram(host + number + card)
        self.host_cryptogram = self._cryptogram(number + card + host)
        self._icv = bytes(DES_BLOCK)
        self.level = 0

    def _cryptogram(self, data: bytes) -> bytes:
        return ciphers.triple_des_cbc(self._enc, ciphers.pad80(data, DES_BLOCK))[-DES_BLOCK:]

    def verified(self, command: Command, *, check: bool = True) -> bytes:
        data, mac = _without_mac(command, self.mac_size)
        header = bytes((command.cla | _SECURED_CLA, command.ins, command.p1, command.p2, len(data) + self.mac_size))
        expected = ciphers.retail_mac(self._mac, header + data, self._icv)
        _checked(mac, expected, check=check)
        self._icv = ciphers.triple_des(self._mac[:8], expected)
        return data

    def unwrap(self, command: Command, *, check: bool = True) -> Command:
        data, mac = _without_mac(command, self.mac_size)
        if self.level & C_ENC and data:
            _whole_blocks(data, DES_BLOCK, NO_RIGHTS)
            data = _unpadded(ciphers.triple_des_cbc_decrypted(self._enc, data))
        plain = self.verified(replace(command, data=data + mac), check=check)
        return replace(command, cla=command.cla & ~_SECURED_CLA, data=plain)

    def wrap(self, body: bytes, sw: int) -> bytes:
        return body

    def deciphered(self, data: bytes) -> bytes:
        _whole_blocks(data, DES_BLOCK, WRONG_DATA)
        return ciphers.triple_des_decrypted(self._dek, data)


def scp02_mac_key(keys: StaticKeys, counter: int) -> bytes:
    """The session key for C-MAC."""
    return ciphers.triple_des_cbc(keys.mac, b"\x01\x01" + counter.to_bytes(2, "big") + bytes(12))


def scp02_challenge(keys: StaticKeys, counter: int, aid: bytes) -> bytes:
    """The 6-byte card challenge of i = 55, which the host can foresee."""
    return ciphers.retail_mac(scp02_mac_key(keys, counter), aid)[:6]


class Scp03:
    """SCP03 with AES-128, -192 or -256 and MACs of 8 or 16 bytes."""

    def __init__(self, keys: StaticKeys, *, i: int, host: bytes, card: bytes) -> None:
        self.mac_size = 16 if i & I_S16 else 8
        context, bits = host + card, len(keys.enc) * 8
        self._enc = scp03_kdf(keys.enc, 0x04, bits, context)
        self._mac = scp03_kdf(keys.mac, 0x06, bits, context)
        self._rmac = scp03_kdf(keys.mac, 0x07, bits, context)
        self._dek = keys.dek
        self.card_cryptogram = scp03_kdf(self._mac, 0x00, self.mac_size * 8, context)
        self.host_cryptogram = scp03_kdf(self._mac, 0x01, self.mac_size * 8, context)
        self._chain = bytes(AES_BLOCK)
        self._counter = 0
        self.level = 0

    def verified(self, command: Command, *, check: bool = True) -> bytes:
        data, mac = _without_mac(command, self.mac_size)
        header = bytes((command.cla | _SECURED_CLA, command.ins, command.p1, command.p2, len(command.data)))
        chain = ciphers.aes_cmac(self._mac, self._chain + header + data)
        _checked(mac, chain[: self.mac_size], check=check)
        self._chain = chain
        return data

    def unwrap(self, command: Command, *, check: bool = True) -> Command:
        data = self.verified(command, check=check)
        self._counter += 1
        if self.level & C_ENC and data:
            _whole_blocks(data, AES_BLOCK, NO_RIGHTS)
            data = _unpadded(ciphers.aes_cbc_decrypted(self._enc, data, self._icv(response=False)))
        return replace(command, cla=command.cla & ~_SECURED_CLA, data=data)

    def wrap(self, body: bytes, sw: int) -> bytes:
        if not self.level & R_MAC:
            return body
        if self.level & R_ENC and body:
            body = ciphers.aes_cbc(self._enc, ciphers.pad80(body, AES_BLOCK), self._icv(response=True))
        mac = ciphers.aes_cmac(self._rmac, self._chain + body + sw.to_bytes(2, "big"))
        return body + mac[: self.mac_size]

    def deciphered(self, data: bytes) -> bytes:
        _whole_blocks(data, AES_BLOCK, WRONG_DATA)
        return ciphers.aes_cbc_decrypted(self._dek, data)

    def _icv(self, *, response: bool) -> bytes:
        counter = bytearray(self._counter.to_bytes(AES_BLOCK, "big"))
        counter[0] = 0x80 if response else 0x00
        return ciphers.aes(self._enc, bytes(counter))


def scp03_kdf(key: bytes, constant: int, bits: int, context: bytes) -> bytes:
    """Data derivation in counter mode (NIST SP 800-108) with CMAC."""
    size = bits // 8
    head, tail = bytes(11) + bytes((constant, 0)) + bits.to_bytes(2, "big"), context
    blocks = (ciphers.aes_cmac(key, head + bytes((n,)) + tail) for n in range(1, -(-size // AES_BLOCK) + 1))
    return b"".join(blocks)[:size]


def scp03_challenge(keys: StaticKeys, counter: int, aid: bytes, size: int) -> bytes:
    """The card challenge of `size` bytes that the host can foresee."""
    return scp03_kdf(keys.enc, 0x02, size * 8, counter.to_bytes(3, "big") + aid)
