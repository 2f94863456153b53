"""A key store in process memory, for demonstrations and for installations without a security module.

Card keys are derived on demand and forgotten; what leaves is a MAC, a proof, a session key or a ciphertext. Must not know where
masters are kept or what cards they open.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import Self

from card_personalization.errors import KeyRefused
from card_personalization.keys import admission, published
from card_personalization.keys.base import (
    Algorithm,
    CardKeys,
    Dek,
    Diversification,
    Factors,
    KeyInfo,
    KeyRef,
    Scp02Keys,
    Scp03Keys,
    Usage,
)
from card_personalization.keys.primitives import (
    PIN_DIGITS,
    Aes,
    StaticKeys,
    TripleDes,
    card_manager_keys,
    check_value,
    diversify,
    icc_master_key,
    offline_pin_block,
    retail_mac,
    scp02_material,
    scp03_challenge,
    scp03_material,
)

DIGEST_KEY_BYTES = 32
_SIZES = {Algorithm.TRIPLE_DES: (16,), Algorithm.AES: (16, 24, 32)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """A master with its value, which no repr shows. Whether a store takes it is the store's to say."""

    name: str
    version: int = 1
    algorithm: Algorithm
    usage: Usage
    owner: str
    not_after: date | None = None
    value: bytes = field(repr=False)

    @property
    def ref(self) -> KeyRef:
        """Its name and version."""
        return KeyRef(self.name, self.version)

    @property
    def info(self) -> KeyInfo:
        """What may be told of it.

        Raises:
            ValueError: the value has not the size of such a key.
        """
        return KeyInfo(
            name=self.name,
            version=self.version,
            algorithm=self.algorithm,
            usage=self.usage,
            kcv=check_value(self.algorithm, self.value),
            owner=self.owner,
            not_after=self.not_after,
        )


class SessionDek:
    """A session's DEK, for one thread. Only the store that made it puts secrets of its own under it."""

    __slots__ = ("_encrypt", "_store", "block")

    def __init__(self, encrypt: Callable[[bytes], bytes], *, block: int, store: SoftwareKeys) -> None:
        self._encrypt = encrypt
        self._store = store
        self.block = block

    def encrypt(self, data: bytes) -> bytes:
        """Whole blocks enciphered.

        Raises:
            ValueError: not whole blocks.
        """
        return self._encrypt(data)

    def is_of(self, store: SoftwareKeys) -> bool:
        """Whether `store` made it."""
        return self._store is store

    def __repr__(self) -> str:
        return "SessionDek(...)"


class SoftwareKeys:
    """`KeyStore` over masters in memory. Its repr shows the names only."""

    def __init__(
        self,
        entries: Iterable[SecretKey],
        *,
        digest_key: bytes,
        demo: bool = False,
        today: Callable[[], date] = date.today,
    ) -> None:
        """`today` tells which versions have expired.

        Raises:
            KeyRefused: a key of the wrong size, one given twice, a published test key outside a demonstration, or any other
                key inside one.
        """
        self._infos: dict[KeyRef, KeyInfo] = {}
        self._values: dict[KeyRef, bytes] = {}
        for key in entries:
            if len(key.value) not in _SIZES[key.algorithm]:
                raise KeyRefused(f"key {key.ref} has not the size of a {key.algorithm} key（密钥长度不对）")
            if key.ref in self._infos:
                raise KeyRefused(f"key {key.ref} is given twice: a version is never replaced（密钥版本重复）")
            info = key.info
            admission.admit(info, demo=demo)
            self._infos[key.ref] = info
            self._values[key.ref] = key.value
        if len(digest_key) != DIGEST_KEY_BYTES:
            raise KeyRefused(f"the digest key is not {DIGEST_KEY_BYTES} bytes（摘要密钥长度不对）")
        self._digest_key = digest_key
        self._demo = demo
        self._today = today

    @classmethod
    def demo(cls) -> Self:
        """Published test masters for virtual cards; what they make is marked DEMO."""
        masters = (
            ("IRK", Algorithm.TRIPLE_DES, Usage.SOCIAL_SECURITY, published.ASCENDING_40),
            ("UKSSSE", Algorithm.TRIPLE_DES, Usage.SOCIAL_SECURITY, published.ASCENDING_50),
            ("KMC", Algorithm.TRIPLE_DES, Usage.CARD_MANAGEMENT, published.ASCENDING_40),
            ("KMC-AES", Algorithm.AES, Usage.CARD_MANAGEMENT, published.ASCENDING_40),
            ("IMK-AC", Algorithm.TRIPLE_DES, Usage.ISSUER, published.EMV_EXAMPLE),
            ("IMK-MAC", Algorithm.TRIPLE_DES, Usage.ISSUER, published.ASCENDING_10),
            ("IMK-ENC", Algorithm.TRIPLE_DES, Usage.ISSUER, published.ASCENDING_20),
        )
        entries = (
            SecretKey(name=name, algorithm=algorithm, usage=usage, owner="DEMO", value=value)
            for name, algorithm, usage, value in masters
        )
        return cls(entries, digest_key=sha256(b"zhika demonstration").digest(), demo=True)

    @property
    def is_demo(self) -> bool:
        """Whether these are published test keys."""
        return self._demo

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is, by name and version."""
        return tuple(sorted(self._infos.values(), key=lambda info: (info.name, info.version)))

    def check(self, ref: KeyRef, *, usage: Usage) -> None:
        """Refuse a key that could not be used.

        Raises:
            KeyRefused: no such key or version, expired, or of another usage.
        """
        admission.find(self._infos, ref, usage=usage, today=self._today())

    def mac(self, ref: KeyRef, *, factors: Factors, data: bytes) -> bytes:
        """Retail MAC under a 人社 card key, 8 bytes.

        Raises:
            KeyRefused: the key cannot be used for that.
        """
        return retail_mac(self._social_security(ref, factors), data)

    def external_authentication(
        self, ref: KeyRef, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """Authentication data and original information, 16 bytes.

        Raises:
            KeyRefused: the key cannot be used for that.
        """
        key = self._social_security(ref, factors)
        if process_key:
            key = diversify(key, original)
        return TripleDes(key).encrypt(challenge) + original

    def scp02_session(self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes) -> Scp02Keys:
        """Session keys of SCP02.

        Raises:
            KeyRefused: the key cannot be used for that.
        """
        material = scp02_material(self._card_manager(ref, Algorithm.TRIPLE_DES, method, kdd), counter)
        dek = SessionDek(TripleDes(material.s_dek).encrypt, block=8, store=self)
        return Scp02Keys(s_enc=material.s_enc, c_mac=material.c_mac, dek=dek)

    def scp03_session(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, host_challenge: bytes, card_challenge: bytes
    ) -> Scp03Keys:
        """Session keys of SCP03.

        Raises:
            KeyRefused: the key cannot be used for that.
        """
        static = self._card_manager(ref, Algorithm.AES, method, kdd)
        material = scp03_material(static, host_challenge=host_challenge, card_challenge=card_challenge)
        dek = SessionDek(Aes(static.dek).encrypt_cbc, block=16, store=self)
        return Scp03Keys(s_enc=material.s_enc, s_mac=material.s_mac, s_rmac=material.s_rmac, dek=dek)

    def scp03_challenge(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes, aid: bytes, size: int
    ) -> bytes:
        """The pseudo-random card challenge, `size` bytes.

        Raises:
            KeyRefused: the key cannot be used for that.
        """
        static = self._card_manager(ref, Algorithm.AES, method, kdd)
        return scp03_challenge(static, counter=counter, aid=aid, size=size)

    def card_keys(self, refs: tuple[KeyRef, ...], *, factor: bytes, dek: Dek) -> CardKeys:
        """UDKs under `dek`, one after the other, and their check values.

        Raises:
            KeyRefused: a key cannot be used for that, or `dek` is not of this store.
        """
        self._own(dek)
        masters = [self._of(ref, Usage.ISSUER, Algorithm.TRIPLE_DES) for ref in refs]
        keys = [icc_master_key(master, factor) for master in masters]
        return CardKeys(
            ciphertext=dek.encrypt(b"".join(keys)),
            kcvs=tuple(check_value(Algorithm.TRIPLE_DES, key) for key in keys),
        )

    def pin_block(self, dek: Dek) -> bytes:
        """The block of a random PIN under `dek`; padded with 80 00.. where the block of `dek` is longer than the PIN's 8 bytes.

        Raises:
            KeyRefused: `dek` is not of this store.
        """
        self._own(dek)
        digits = "".join(str(secrets.randbelow(10)) for _ in range(PIN_DIGITS))
        return dek.encrypt(offline_pin_block(digits, dek.block))

    def random(self, size: int) -> bytes:
        """Random bytes from the operating system."""
        return os.urandom(size)

    def digest(self, data: bytes) -> bytes:
        """HMAC-SHA-256, 32 bytes."""
        return hmac.digest(self._digest_key, data, "sha256")

    def __repr__(self) -> str:
        return f"SoftwareKeys({', '.join(sorted(map(str, self._infos)))}, demo={self._demo})"

    def _of(
        self, ref: KeyRef, usage: Usage, algorithm: Algorithm, method: Diversification = Diversification.NONE
    ) -> bytes:
        info = admission.find(self._infos, ref, usage=usage, today=self._today())
        admission.must_be(info, algorithm, method=method)
        return self._values[ref]

    def _social_security(self, ref: KeyRef, factors: Factors) -> bytes:
        key = self._of(ref, Usage.SOCIAL_SECURITY, Algorithm.TRIPLE_DES)
        for factor in factors:
            key = diversify(key, factor)
        return key

    def _card_manager(self, ref: KeyRef, algorithm: Algorithm, method: Diversification, kdd: bytes) -> StaticKeys:
        master = self._of(ref, Usage.CARD_MANAGEMENT, algorithm, method)
        return card_manager_keys(master, method=method, kdd=kdd)

    def _own(self, dek: Dek) -> None:
        if not isinstance(dek, SessionDek) or not dek.is_of(self):
            raise KeyRefused("the DEK is not of this key store（会话密钥不属于本密钥库）")
