"""A key store in process memory, for demonstrations and for installations without a security module.

Card keys are derived on demand by 密钥分散 (pboc-3des): 3DES(MK, F) and 3DES(MK, ~F), no parity adjustment, once a
level. Must not know where masters come from or what cards they open.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Self

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Factors
from card_personalization.keys.published import PUBLISHED_KCVS

BLOCK = 8
KEY_BYTES = 16
_DIGEST_KEY_BYTES = 32
_ZERO_IV = bytes(BLOCK)


class SoftwareKeys:
    """Named 3DES masters. Its repr shows the names only."""

    def __init__(self, masters: Mapping[str, bytes], *, digest_key: bytes, demo: bool = False) -> None:
        """Take masters by name, each 16 bytes.

        Raises:
            KeyRefused: a key of the wrong size, a published test key outside a demonstration, or any other key
                inside one.
        """
        for name, key in masters.items():
            _admit(name, key, demo=demo)
        if len(digest_key) != _DIGEST_KEY_BYTES:
            raise KeyRefused(f"the digest key is not {_DIGEST_KEY_BYTES} bytes")
        self._masters = dict(masters)
        self._digest_key = digest_key
        self._demo = demo

    @classmethod
    def demo(cls) -> Self:
        """Published test masters for virtual cards; what they make is marked DEMO."""
        masters = {"IRK": bytes(range(0x40, 0x50)), "UKSSSE": bytes(range(0x50, 0x60))}
        return cls(masters, digest_key=sha256(b"zhika demonstration").digest(), demo=True)

    @property
    def is_demo(self) -> bool:
        """Whether these are published test keys."""
        return self._demo

    def mac(self, name: str, *, factors: Factors, data: bytes) -> bytes:
        """Retail MAC, 8 bytes.

        Raises:
            KeyRefused: no such key.
        """
        return retail_mac(self._key(name, factors), data)

    def external_authentication(
        self, name: str, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """Authentication data and original information, 16 bytes.

        Raises:
            KeyRefused: no such key.
        """
        key = self._key(name, factors)
        if process_key:
            key = diversify(key, original)
        return encipher(key, challenge) + original

    def digest(self, data: bytes) -> bytes:
        """HMAC-SHA-256, 32 bytes."""
        return hmac.digest(self._digest_key, data, "sha256")

    def __repr__(self) -> str:
        return f"SoftwareKeys({', '.join(sorted(self._masters))}, demo={self._demo})"

    def _key(self, name: str, factors: Factors) -> bytes:
        if name not in self._masters:
            raise KeyRefused(f"there is no key {name}")
        key = self._masters[name]
        for factor in factors:
            key = diversify(key, factor)
        return key


def _admit(name: str, key: bytes, *, demo: bool) -> None:
    if len(key) != KEY_BYTES:
        raise KeyRefused(f"key {name} is not {KEY_BYTES} bytes")
    published = check_value(key) in PUBLISHED_KCVS
    if published and not demo:
        raise KeyRefused(f"key {name} is a published test key")
    if demo and not published:
        raise KeyRefused(f"key {name} is not a test key and must not be used in a demonstration")


def encipher(key: bytes, data: bytes) -> bytes:
    """3DES-ECB of whole blocks under a 16-byte key."""
    context = Cipher(TripleDES(key + key[:BLOCK]), modes.ECB()).encryptor()
    return context.update(data) + context.finalize()


def check_value(key: bytes) -> bytes:
    """KCV, 3 bytes."""
    return encipher(key, bytes(BLOCK))[:3]


def diversify(key: bytes, factor: bytes) -> bytes:
    """One level of 密钥分散: a 16-byte key from a master and an 8-byte factor."""
    return encipher(key, factor + bytes(byte ^ 0xFF for byte in factor))


def retail_mac(key: bytes, data: bytes) -> bytes:
    """ISO/IEC 9797-1 algorithm 3 with padding method 2: single DES chaining, 3DES for the last block; 8 bytes."""
    padded = data + b"\x80"
    padded += bytes(-len(padded) % BLOCK)
    chain = _ZERO_IV
    if body := padded[:-BLOCK]:
        single = Cipher(TripleDES(key[:BLOCK] * 3), modes.CBC(_ZERO_IV)).encryptor()
        chain = (single.update(body) + single.finalize())[-BLOCK:]
    return encipher(key, bytes(a ^ b for a, b in zip(chain, padded[-BLOCK:], strict=True)))
