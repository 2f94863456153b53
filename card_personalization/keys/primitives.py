"""The cryptography of card keys as pure functions: ciphers, MACs, check values, diversification, session keys.

Two ciphers are made ready once and used often (`TripleDes`, `Aes`); everything else is a function of bytes. Must not know where
a key comes from, what it may be used for, or what a command looks like. A key is never shown: the ciphers mask their repr.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.cmac import CMAC

from card_personalization.keys.base import Algorithm, Diversification

DES_BLOCK = 8
AES_BLOCK = 16
KCV_BYTES = 3
PIN_DIGITS = 6
"""As on every Chinese bank card; EMV book 3 6.5.12 allows 4 to 12."""
_PAD = b"\x80"
_COMPLEMENT = bytes(byte ^ 0xFF for byte in range(256))
_ODD = bytes(byte ^ (byte.bit_count() + 1 & 1) for byte in range(256))
_LABEL_BYTES = 11


class StaticKeys(NamedTuple):
    """The three GlobalPlatform keys of one card: encryption, MAC, data encryption."""

    enc: bytes
    mac: bytes
    dek: bytes

    def __repr__(self) -> str:
        return "StaticKeys(...)"


class Scp02Material(NamedTuple):
    """Session keys of SCP02, 16 bytes each."""

    s_enc: bytes
    c_mac: bytes
    s_dek: bytes

    def __repr__(self) -> str:
        return "Scp02Material(...)"


class Scp03Material(NamedTuple):
    """Session keys of SCP03, as long as the static keys."""

    s_enc: bytes
    s_mac: bytes
    s_rmac: bytes

    def __repr__(self) -> str:
        return "Scp03Material(...)"


class TripleDes:
    """3DES with a 16-byte key, made ready. For one thread."""

    __slots__ = ("_algorithm", "_first", "_whole")

    def __init__(self, key: bytes) -> None:
        """Raises:
        ValueError: the key is not 16 bytes.
        """
        if len(key) != 2 * DES_BLOCK:
            raise ValueError("a 3DES key has 16 bytes")
        first = key[:DES_BLOCK]
        self._algorithm = TripleDES(key + first)
        self._first = TripleDES(first * 3)
        self._whole = Cipher(self._algorithm, modes.ECB()).encryptor()

    def encrypt(self, data: bytes) -> bytes:
        """Whole blocks in ECB.

        Raises:
            ValueError: not whole blocks.
        """
        return self._whole.update(_whole(data, DES_BLOCK))

    def encrypt_cbc(self, data: bytes, iv: bytes = bytes(DES_BLOCK)) -> bytes:
        """Whole blocks in CBC.

        Raises:
            ValueError: not whole blocks.
        """
        return Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(_whole(data, DES_BLOCK))

    def encrypt_single(self, block: bytes) -> bytes:
        """One block by single DES with the first half of the key."""
        return Cipher(self._first, modes.ECB()).encryptor().update(_whole(block, DES_BLOCK))

    def mac(self, data: bytes, iv: bytes = bytes(DES_BLOCK)) -> bytes:
        """Retail MAC, 8 bytes (ISO/IEC 9797-1 algorithm 3, padding method 2): single DES chaining, 3DES for the last block."""
        padded = pad80(data, DES_BLOCK)
        chain = iv
        if body := padded[:-DES_BLOCK]:
            chain = Cipher(self._first, modes.CBC(iv)).encryptor().update(body)[-DES_BLOCK:]
        return self._whole.update(_xor(chain, padded[-DES_BLOCK:]))

    def __repr__(self) -> str:
        return "TripleDes(...)"


class Aes:
    """AES with a key of 16, 24 or 32 bytes, made ready. For one thread."""

    __slots__ = ("_algorithm", "_cmac", "_whole", "bits")

    def __init__(self, key: bytes) -> None:
        """Raises:
        ValueError: no AES key has that many bytes.
        """
        self._algorithm = AES(key)
        self._whole = Cipher(self._algorithm, modes.ECB()).encryptor()
        self._cmac = CMAC(self._algorithm)
        self.bits = len(key) * 8

    def encrypt(self, data: bytes) -> bytes:
        """Whole blocks in ECB.

        Raises:
            ValueError: not whole blocks.
        """
        return self._whole.update(_whole(data, AES_BLOCK))

    def encrypt_cbc(self, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
        """Whole blocks in CBC.

        Raises:
            ValueError: not whole blocks.
        """
        return Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(_whole(data, AES_BLOCK))

    def decrypt_cbc(self, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
        """Whole blocks in CBC, deciphered.

        Raises:
            ValueError: not whole blocks.
        """
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(_whole(data, AES_BLOCK))

    def mac(self, data: bytes) -> bytes:
        """AES-CMAC, 16 bytes (NIST SP 800-38B)."""
        context = self._cmac.copy()
        context.update(data)
        return context.finalize()

    def derive(self, constant: int, *, bits: int, context: bytes) -> bytes:
        """The KDF of SCP03 (NIST SP 800-108 in counter mode, GlobalPlatform amendment D 4.1.5); `constant` says what is derived."""
        label = bytes(_LABEL_BYTES) + bytes((constant, 0)) + bits.to_bytes(2, "big")
        size = bits // 8
        blocks = range(1, -(-size // AES_BLOCK) + 1)
        return b"".join(self.mac(label + bytes((count,)) + context) for count in blocks)[:size]

    def __repr__(self) -> str:
        return "Aes(...)"


def pad80(data: bytes, block: int) -> bytes:
    """`80`, then `00` up to whole blocks; always, also when `data` is aligned (ISO/IEC 9797-1 padding method 2)."""
    padded = data + _PAD
    return padded + bytes(-len(padded) % block)


def unpad80(data: bytes) -> bytes:
    """What `pad80` was given.

    Raises:
        ValueError: no such padding.
    """
    stripped = data.rstrip(b"\x00")
    if not stripped.endswith(_PAD):
        raise ValueError("the padding is wrong")
    return stripped[:-1]


def same(left: bytes, right: bytes) -> bool:
    """Whether two secrets are equal, in constant time."""
    return hmac.compare_digest(left, right)


def retail_mac(key: bytes, data: bytes) -> bytes:
    """Retail MAC with IV zero, 8 bytes (see `TripleDes.mac`)."""
    return TripleDes(key).mac(data)


def sm4(key: bytes, data: bytes) -> bytes:
    """Whole blocks by SM4 in ECB (GB/T 32907).

    Raises:
        ValueError: not a 16-byte key, or not whole blocks.
    """
    return Cipher(SM4(key), modes.ECB()).encryptor().update(_whole(data, AES_BLOCK))


def check_value(algorithm: Algorithm, key: bytes) -> bytes:
    """KCV, 3 bytes: a block of `00` enciphered (3DES), a block of `01` (AES; GlobalPlatform card specification B.5, B.6)."""
    if algorithm is Algorithm.AES:
        return Aes(key).encrypt(b"\x01" * AES_BLOCK)[:KCV_BYTES]
    return TripleDes(key).encrypt(bytes(DES_BLOCK))[:KCV_BYTES]


def sm4_check_value(key: bytes) -> bytes:
    """KCV of an SM4 key, 3 bytes: a block of `00` enciphered."""
    return sm4(key, bytes(AES_BLOCK))[:KCV_BYTES]


def diversify(master: bytes, factor: bytes) -> bytes:
    """One level of 密钥分散 by 3DES (JR/T 0025): the 8-byte factor and its complement enciphered; no parity adjustment.

    Raises:
        ValueError: the factor is not 8 bytes.
    """
    return TripleDes(master).encrypt(_with_complement(factor))


def diversify_sm4(master: bytes, factor: bytes) -> bytes:
    """One level of 密钥分散 by SM4: the 8-byte factor and its complement are one block.

    Raises:
        ValueError: the factor is not 8 bytes.
    """
    return sm4(master, _with_complement(factor))


def offline_pin_block(digits: str, block: int) -> bytes:
    """`2N PIN FF..`, 8 bytes (EMV book 3 6.5.12, format 2 of ISO 9564-1), padded with 80 00.. where `block` is longer."""
    plain = bytes.fromhex(f"2{len(digits):X}{digits}".ljust(2 * DES_BLOCK, "F"))
    return plain if block == DES_BLOCK else pad80(plain, block)


def odd_parity(key: bytes) -> bytes:
    """The key with the low bit of every byte set so that it has an odd number of ones."""
    return key.translate(_ODD)


def icc_master_key(issuer_master: bytes, factor: bytes) -> bytes:
    """A card's application key (UDK) by EMV book 2 A1.4.1, option A: diversified, then odd parity."""
    return odd_parity(diversify(issuer_master, factor))


def card_manager_keys(master: bytes, *, method: Diversification, kdd: bytes) -> StaticKeys:
    """A card's three GlobalPlatform keys from the KMC and its 10 bytes of key diversification data.

    `emv` (EMV CPS 1.1) and `visa2` take a 3DES master, `kdf3` an AES master.

    Raises:
        ValueError: the master does not fit the method, or `kdd` is not 10 bytes.
    """
    if len(kdd) != 10:
        raise ValueError("key diversification data has 10 bytes")
    if method is Diversification.NONE:
        return StaticKeys(master, master, master)
    if method is Diversification.KDF3:
        aes = Aes(master)
        return StaticKeys(*(_kdf3(aes, number, kdd) for number in (1, 2, 3)))
    factor = kdd[4:10] if method is Diversification.EMV else kdd[0:2] + kdd[4:8]
    des = TripleDes(master)
    return StaticKeys(
        *(des.encrypt(factor + bytes((0xF0, number)) + factor + bytes((0x0F, number))) for number in (1, 2, 3))
    )


def scp02_material(static: StaticKeys, counter: bytes) -> Scp02Material:
    """Session keys for sequence counter `counter`, 2 bytes (GlobalPlatform card specification E.4.1)."""
    return Scp02Material(
        s_enc=_scp02_key(static.enc, 0x0182, counter),
        c_mac=_scp02_key(static.mac, 0x0101, counter),
        s_dek=_scp02_key(static.dek, 0x0181, counter),
    )


def scp03_material(static: StaticKeys, *, host_challenge: bytes, card_challenge: bytes) -> Scp03Material:
    """Session keys for two challenges (GlobalPlatform amendment D 6.2.1)."""
    context = host_challenge + card_challenge
    enc, mac = Aes(static.enc), Aes(static.mac)
    return Scp03Material(
        s_enc=enc.derive(0x04, bits=enc.bits, context=context),
        s_mac=mac.derive(0x06, bits=mac.bits, context=context),
        s_rmac=mac.derive(0x07, bits=mac.bits, context=context),
    )


def scp03_challenge(static: StaticKeys, *, counter: bytes, aid: bytes, size: int) -> bytes:
    """The pseudo-random card challenge of `size` bytes (GlobalPlatform amendment D 6.2.2.1)."""
    return Aes(static.enc).derive(0x02, bits=size * 8, context=counter + aid)


def _with_complement(factor: bytes) -> bytes:
    if len(factor) != DES_BLOCK:
        raise ValueError("a factor of 密钥分散 has 8 bytes")
    return factor + factor.translate(_COMPLEMENT)


def _kdf3(aes: Aes, number: int, kdd: bytes) -> bytes:
    size = aes.bits // 8
    tail = bytes((0, 0, 0, number, 0)) + kdd
    return (aes.mac(b"\x01" + tail) + aes.mac(b"\x02" + tail))[:size]


def _scp02_key(key: bytes, constant: int, counter: bytes) -> bytes:
    return TripleDes(key).encrypt_cbc(constant.to_bytes(2, "big") + counter + bytes(12))


def _whole(data: bytes, block: int) -> bytes:
    if len(data) % block:
        raise ValueError(f"the data is not whole blocks of {block} bytes")
    return data


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
