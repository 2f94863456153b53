"""The cryptography a virtual card has in silicon: 3DES, AES, SM4, their MACs, paddings and key check values.

Written from the standards (ISO/IEC 9797-1, NIST SP 800-38B, GlobalPlatform Card Specification B) beside the host's own,
so that one mistake cannot cancel another. Must not know keys, sessions or commands.
"""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.cmac import CMAC

from card_personalization.simulator.command import WRONG_DATA, Refused

DES_BLOCK = 8
AES_BLOCK = 16

_Mode = modes.ECB | modes.CBC


def _des(key: bytes) -> TripleDES:
    return TripleDES((key * 3)[:24] if len(key) <= 8 else key + key[:8])


def _encrypted(cipher: Cipher[_Mode], data: bytes) -> bytes:
    machine = cipher.encryptor()
    return machine.update(data) + machine.finalize()


def _decrypted(cipher: Cipher[_Mode], data: bytes) -> bytes:
    machine = cipher.decryptor()
    return machine.update(data) + machine.finalize()


def triple_des(key: bytes, data: bytes) -> bytes:
    """ECB encipherment with a double-length key; with 8 bytes of key it is single DES."""
    return _encrypted(Cipher(_des(key), modes.ECB()), data)


def triple_des_decrypted(key: bytes, data: bytes) -> bytes:
    """ECB decipherment with a double-length key."""
    return _decrypted(Cipher(_des(key), modes.ECB()), data)


def triple_des_cbc(key: bytes, data: bytes, iv: bytes = bytes(DES_BLOCK)) -> bytes:
    """CBC encipherment."""
    return _encrypted(Cipher(_des(key), modes.CBC(iv)), data)


def triple_des_cbc_decrypted(key: bytes, data: bytes, iv: bytes = bytes(DES_BLOCK)) -> bytes:
    """CBC decipherment."""
    return _decrypted(Cipher(_des(key), modes.CBC(iv)), data)


def aes(key: bytes, data: bytes) -> bytes:
    """ECB encipherment."""
    return _encrypted(Cipher(AES(key), modes.ECB()), data)


def aes_cbc(key: bytes, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
    """CBC encipherment."""
    return _encrypted(Cipher(AES(key), modes.CBC(iv)), data)


def aes_cbc_decrypted(key: bytes, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
    """CBC decipherment."""
    return _decrypted(Cipher(AES(key), modes.CBC(iv)), data)


def aes_cmac(key: bytes, data: bytes) -> bytes:
    """CMAC, all 16 bytes."""
    machine = CMAC(AES(key))
    machine.update(data)
    return machine.finalize()


def retail_mac(key: bytes, data: bytes, icv: bytes = bytes(DES_BLOCK)) -> bytes:
    """ISO/IEC 9797-1 MAC algorithm 3 with padding method 2, all 8 bytes."""
    padded = pad80(data, DES_BLOCK)
    head, last = padded[:-DES_BLOCK], padded[-DES_BLOCK:]
    chained = triple_des_cbc(key[:8], head, icv)[-DES_BLOCK:] if head else icv
    return triple_des(key, bytes(a ^ b for a, b in zip(chained, last, strict=True)))


def pad80(data: bytes, block: int) -> bytes:
    """ISO/IEC 9797-1 padding method 2: always at least one byte."""
    return data + b"\x80" + bytes(-(len(data) + 1) % block)


def unpad80(data: bytes) -> bytes:
    """What was padded.

    Raises:
        Refused: 6A80, there is no such padding.
    """
    stripped = data.rstrip(b"\x00")
    if not stripped.endswith(b"\x80"):
        raise Refused(WRONG_DATA)
    return stripped[:-1]


def des_kcv(key: bytes) -> bytes:
    """3 bytes: 3DES of zeros."""
    return triple_des(key, bytes(DES_BLOCK))[:3]


def aes_kcv(key: bytes) -> bytes:
    """3 bytes: AES of 16 bytes 01."""
    return aes(key, b"\x01" * AES_BLOCK)[:3]


def sm4_kcv(key: bytes) -> bytes:
    """3 bytes: SM4 of zeros."""
    return _encrypted(Cipher(SM4(key), modes.ECB()), bytes(16))[:3]
