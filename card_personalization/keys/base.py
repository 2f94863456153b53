"""The port to a key store: keys are named and used, never returned.

A master is named by `KeyRef`; the card's own key is reached from it inside the store, by the `Diversification` the card profile
names. What a secure channel needs for one session lives in process memory for that session and is masked in repr. A store must
not know profiles, plans or cards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Protocol

Factors = tuple[bytes, ...]
"""The 8-byte inputs of 密钥分散, one a level, from the master down to the card's own key; none means the master itself."""


class Algorithm(StrEnum):
    """What a key is a key of."""

    TRIPLE_DES = "3des"
    """16 bytes."""
    AES = "aes"
    """16, 24 or 32 bytes."""


class Usage(StrEnum):
    """What a key may be used for; a store refuses it for anything else."""

    CARD_MANAGEMENT = "card-management"
    """KMC: the root of a chip maker's GlobalPlatform keys."""
    SOCIAL_SECURITY = "social-security"
    """人社 master or city key: IRK, UKSSSE and their like."""
    ISSUER = "issuer"
    """The bank's IMK: the root of application cryptogram, MAC and encryption keys of its cards."""


class Diversification(StrEnum):
    """How a card's three GlobalPlatform keys come from the KMC."""

    NONE = "none"
    """All three are the KMC itself."""
    EMV = "emv"
    """3DES of the last 6 bytes of the key diversification data (EMV Card Personalization Specification 1.1, KDC)."""
    VISA2 = "visa2"
    """3DES of bytes 1, 2 and 5 to 8 of the key diversification data (Visa GlobalPlatform card implementation requirements)."""
    KDF3 = "kdf3"
    """AES-CMAC in counter mode over the key diversification data (NIST SP 800-108)."""


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A master by name and version."""

    name: str
    version: int = 1

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What may be told of a key. `kcv` is its 3-byte check value; after `not_after` it is refused."""

    name: str
    version: int
    algorithm: Algorithm
    usage: Usage
    kcv: bytes
    owner: str
    not_after: date | None = None


class Dek(Protocol):
    """The key that enciphers secrets on their way into a card, for one session. Its repr shows no key."""

    @property
    def block(self) -> int:
        """Its block in bytes: 8 (SCP02) or 16 (SCP03)."""

    def encrypt(self, data: bytes) -> bytes:
        """Whole blocks of `data` enciphered: SCP02 3DES-ECB, SCP03 AES-CBC with IV zero.

        Raises:
            ValueError: not whole blocks.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Scp02Keys:
    """Session keys of one SCP02 session, 16 bytes each."""

    s_enc: bytes = field(repr=False)
    c_mac: bytes = field(repr=False)
    dek: Dek = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scp03Keys:
    """Session keys of one SCP03 session, as long as the card's static keys. The DEK is static and stays in the store."""

    s_enc: bytes = field(repr=False)
    s_mac: bytes = field(repr=False)
    s_rmac: bytes = field(repr=False)
    dek: Dek = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardKeys:
    """Card keys on their way into a chip: `ciphertext` under the session's DEK, in the order asked, and their 3-byte KCVs."""

    ciphertext: bytes = field(repr=False)
    kcvs: tuple[bytes, ...]


class KeyStore(Protocol):
    """What personalisation needs done with keys. Safe to call from several threads.

    Every method that takes a `KeyRef` raises `KeyRefused`, naming the key and never its value, when there is no such key or
    version, when it has expired, when it is of another algorithm or usage, or when the store itself does not answer.
    """

    @property
    def is_demo(self) -> bool:
        """Whether the keys are published test keys: everything made with them is marked DEMO."""

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is, by name and version."""

    def check(self, ref: KeyRef, *, usage: Usage) -> None:
        """Refuse a key that could not be used, before any card is touched."""

    def mac(self, ref: KeyRef, *, factors: Factors, data: bytes) -> bytes:
        """8 bytes: retail MAC of `data` (ISO/IEC 9797-1 algorithm 3, padding method 2, IV zero) under a 人社 card key."""

    def external_authentication(
        self, ref: KeyRef, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """16 bytes for EXTERNAL AUTHENTICATE: authentication data, then the 8-byte original information.

        With `process_key` the challenge is enciphered under 3DES(K, R) ‖ 3DES(K, ~R), else under K itself.
        """

    def scp02_session(self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes) -> Scp02Keys:
        """Session keys for key diversification data `kdd` (10 bytes) and sequence counter `counter` (2 bytes)."""

    def scp03_session(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, host_challenge: bytes, card_challenge: bytes
    ) -> Scp03Keys:
        """Session keys for `kdd` (10 bytes) and the two challenges (8 bytes each, S16: 16)."""

    def scp03_challenge(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes, aid: bytes, size: int
    ) -> bytes:
        """The pseudo-random card challenge (`size` 8 or 16 bytes) of a card with this counter (3 bytes), for security domain `aid`."""

    def card_keys(self, refs: tuple[KeyRef, ...], *, factor: bytes, dek: Dek) -> CardKeys:
        """The card's keys (UDK) from issuer masters by EMV option A: 16 bytes each, odd parity, enciphered one after the other.

        `factor` is 8 bytes: the last 16 digits of PAN ‖ PAN sequence number. `dek` is one that this store made.
        """

    def pin_block(self, dek: Dek) -> bytes:
        """An offline PIN block (2N PIN FF..) of a random PIN that nobody knows, enciphered by `dek`."""

    def random(self, size: int) -> bytes:
        """Random bytes for challenges."""

    def digest(self, data: bytes) -> bytes:
        """32 bytes: a keyed digest under a key of the store, so that guessing low-entropy data proves nothing."""
