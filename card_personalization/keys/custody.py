"""Two custodians of an installation's keys: what each proves, and what only both together can do.

Both passphrases together open a signing key (Ed25519); every change of a vault and every line of the ceremony log carries its
signature, so that neither custodian alone, nor whoever runs the installation, can add or change a key unseen. The file
`custodians.json` holds no passphrase and no key in clear::

    {"format": "zhika-custodians/1", "scrypt": {"n": .., "r": .., "p": ..}, "public": HEX,
     "custodians": [{"name": .., "salt": HEX, "proof": HEX}, ..], "nonce": HEX, "sealed": HEX}

`proof` is HMAC-SHA-256 of the name under scrypt of the passphrase; `sealed` is the private key under AES-256-GCM, its key HKDF
of both scrypt results, everything else in the file authenticated with it. Whoever can write this file and all that is signed
can begin anew with other people: `fingerprint` is what an auditor compares. Must not know keys or where they are kept.
"""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import dataclass, field, replace
from hashlib import scrypt, sha256
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from card_personalization.errors import KeyRefused
from card_personalization.keys.files import create_private, read_private

PASSPHRASE_MIN_CHARACTERS = 12
_FORMAT = "zhika-custodians/1"
_INFO = b"zhika dual control"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretching:
    """Cost of scrypt (RFC 7914): 128·n·r bytes of memory. The default takes 64 MiB and some 0.2 s."""

    n: int = 2**16
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not (2**14 <= self.n <= 2**20 and self.n.bit_count() == 1 and self.r == 8 and 1 <= self.p <= 16):
            raise ValueError("scrypt costs must be r = 8, n a power of two from 2**14 to 2**20, p from 1 to 16")

    def stretch(self, passphrase: bytes, salt: bytes) -> bytes:
        """32 bytes from a passphrase."""
        memory = 128 * self.r * (self.n + self.p + 2)
        return scrypt(passphrase, salt=salt, n=self.n, r=self.r, p=self.p, maxmem=memory, dklen=_KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A custodian who gave the right passphrase; only `Custody.prove` makes it."""

    name: str
    stretched: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DualControl:
    """Both custodians together: what they sign was done by the two."""

    names: tuple[str, str]
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self.private.sign(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Custodian:
    name: str
    salt: bytes = field(repr=False)
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """The two custodians as their file tells them."""

    custodians: tuple[_Custodian, _Custodian]
    stretching: Stretching
    public: bytes
    nonce: bytes = field(repr=False)
    sealed: bytes = field(repr=False)

    @classmethod
    def enrol(cls, passphrases: dict[str, str], *, stretching: Stretching | None = None) -> tuple[Self, DualControl]:
        """Begin with two people, who choose their passphrases.

        Raises:
            KeyRefused: not two different names, passphrases too short or the same one twice.
        """
        if len(passphrases) != 2 or not all(name and name == name.strip() for name in passphrases):
            raise KeyRefused("需要两名不同的保管人 two different custodians are needed")
        for name, passphrase in passphrases.items():
            if len(passphrase) < PASSPHRASE_MIN_CHARACTERS:
                raise KeyRefused(
                    f"保管人 {name} 的口令少于 {PASSPHRASE_MIN_CHARACTERS} 个字符"
                    f" / the passphrase of custodian {name} has less than {PASSPHRASE_MIN_CHARACTERS} characters"
                )
        if len(set(passphrases.values())) != 2:
            raise KeyRefused("两名保管人的口令相同 both custodians gave the same passphrase")
        cost = stretching or Stretching()
        salts = {name: secrets.token_bytes(_SALT_BYTES) for name in passphrases}
        first, second = (
            Proof(name=name, stretched=cost.stretch(passphrases[name].encode(), salts[name])) for name in passphrases
        )
        private = Ed25519PrivateKey.generate()
        made = cls(
            custodians=(_custodian(first, salts), _custodian(second, salts)),
            stretching=cost,
            public=private.public_key().public_bytes_raw(),
            nonce=secrets.token_bytes(_NONCE_BYTES),
            sealed=b"",
        )
        sealed = AESGCM(_both(first, second)).encrypt(made.nonce, private.private_bytes_raw(), made._header())
        control = DualControl(names=(first.name, second.name), private=private)
        return replace(made, sealed=sealed), control

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            KeyRefused: it is missing, open to others, or not of this format.
        """
        try:
            document = json.loads(read_private(path))
            if document.pop("format") != _FORMAT:
                raise ValueError("format")
            first, second = (
                _Custodian(name=item["name"], salt=bytes.fromhex(item["salt"]), proof=bytes.fromhex(item["proof"]))
                for item in document["custodians"]
            )
            return cls(
                custodians=(first, second),
                stretching=Stretching(**document["scrypt"]),
                **{name: bytes.fromhex(document[name]) for name in ("public", "nonce", "sealed")},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeyRefused(f"{path} 已损坏，请从备份恢复 is damaged: restore it from a backup") from error

    def save(self, path: Path) -> None:
        """Write the file, once.

        Raises:
            KeyRefused: custodians are enrolled there already.
        """
        document = {**json.loads(self._header()), "sealed": self.sealed.hex()}
        create_private(path, json.dumps(document, ensure_ascii=False, indent=1).encode())

    @property
    def names(self) -> tuple[str, str]:
        """Who they are."""
        first, second = self.custodians
        return first.name, second.name

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name this pair of custodians."""
        return sha256(self.public).hexdigest()[:16]

    def prove(self, name: str, passphrase: str) -> Proof:
        """A custodian proves to be one.

        Raises:
            KeyRefused: nobody of that name is a custodian, or the passphrase is wrong.
        """
        for custodian in self.custodians:
            if custodian.name == name:
                proof = Proof(name=name, stretched=self.stretching.stretch(passphrase.encode(), custodian.salt))
                if hmac.compare_digest(_mark(proof), custodian.proof):
                    return proof
                raise KeyRefused(f"保管人 {name} 的口令错误 the passphrase of custodian {name} is wrong")
        raise KeyRefused(f"{name} 不是保管人 is no custodian; they are {', '.join(self.names)}")

    def together(self, one: Proof, other: Proof) -> DualControl:
        """What the two can do together, in whatever order they came.

        Raises:
            KeyRefused: it is one person twice, or the file was altered.
        """
        if one.name == other.name:
            raise KeyRefused("同一名保管人不能出现两次 one custodian cannot be both")
        first, second = sorted((one, other), key=lambda proof: self.names.index(proof.name))
        try:
            raw = AESGCM(_both(first, second)).decrypt(self.nonce, self.sealed, self._header())
        except InvalidTag as error:
            raise KeyRefused("保管人文件被改动 the custodians' file was altered: restore it from a backup") from error
        return DualControl(names=self.names, private=Ed25519PrivateKey.from_private_bytes(raw))

    def signed(self, data: bytes, signature: bytes) -> bool:
        """Whether both custodians stand behind `data`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _header(self) -> bytes:
        header: dict[str, Any] = {
            "format": _FORMAT,
            "scrypt": {"n": self.stretching.n, "r": self.stretching.r, "p": self.stretching.p},
            "public": self.public.hex(),
            "custodians": [
                {"name": item.name, "salt": item.salt.hex(), "proof": item.proof.hex()} for item in self.custodians
            ],
            "nonce": self.nonce.hex(),
        }
        return json.dumps(header, ensure_ascii=False, sort_keys=True).encode()


def _custodian(proof: Proof, salts: dict[str, bytes]) -> _Custodian:
    return _Custodian(name=proof.name, salt=salts[proof.name], proof=_mark(proof))


def _mark(proof: Proof) -> bytes:
    return hmac.digest(proof.stretched, proof.name.encode(), "sha256")


def _both(first: Proof, second: Proof) -> bytes:
    return HKDF(SHA256(), length=_KEY_BYTES, salt=None, info=_INFO).derive(first.stretched + second.stretched)
