"""An encrypted file of keys, for installations without a security module.

JSON, one object, mode 0600, replaced as a whole::

    {"format": "zhika-vault/1", "scrypt": {"n": .., "r": .., "p": ..}, "salt": HEX, "nonce": HEX, "custody": HEX,
     "sealed": HEX, "signature": HEX}

`sealed` is the JSON of all keys and the digest key under AES-256-GCM; its key is scrypt of the operating passphrase and the salt
(both new with every change), and everything before it is authenticated with it. The operating passphrase opens the file
unattended but cannot change it unseen: `signature` covers all the rest and is made by both custodians together (`custody`
names them). An old copy of the file put back in its place opens as it did: the ceremony log tells which keys there should be.
Must not know what keys are for, or who asks.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from card_personalization.errors import KeyRefused
from card_personalization.keys import ceremony
from card_personalization.keys.base import Algorithm, KeyInfo, Usage
from card_personalization.keys.ceremony import KeyRequest, Witness
from card_personalization.keys.custody import Custody, DualControl, Stretching
from card_personalization.keys.files import create_private, exclusive, read_private, replace_private
from card_personalization.keys.software import DIGEST_KEY_BYTES, SecretKey

_FORMAT = "zhika-vault/1"
_SALT_BYTES = 16
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a vault holds."""

    entries: tuple[SecretKey, ...]
    digest_key: bytes = field(repr=False)


class Vault:
    """An open vault; a `ceremony.Safe`. Its repr shows where it lies and nothing that is in it."""

    def __init__(self, path: Path, *, passphrase: bytes, custody: Custody, demo: bool = False) -> None:
        """Open a vault with the operating passphrase. `demo`: it holds published test keys and nothing else.

        Raises:
            KeyRefused: the file is missing, open to others, altered, signed by others, or the passphrase is wrong.
        """
        self._path = path
        self._passphrase = passphrase
        self._custody = custody
        self._demo = demo
        self._contents = _opened(path, passphrase, custody)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        passphrase: bytes,
        custody: Custody,
        control: DualControl,
        demo: bool = False,
        stretching: Stretching | None = None,
    ) -> Self:
        """A new vault with a digest key and no other.

        Raises:
            KeyRefused: there is one already.
        """
        contents = Contents(entries=(), digest_key=secrets.token_bytes(DIGEST_KEY_BYTES))
        create_private(path, _sealed(contents, passphrase, custody, control, stretching or Stretching()))
        return cls(path, passphrase=passphrase, custody=custody, demo=demo)

    @property
    def contents(self) -> Contents:
        """Everything in it, for the software store."""
        return self._contents

    def keys(self) -> tuple[KeyInfo, ...]:
        """What may be told of every key."""
        return tuple(entry.info for entry in self._contents.entries)

    def generate(self, request: KeyRequest, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Make a random key from the operating system's source.

        Raises:
            KeyRefused: that version is there, or only published test keys may be here.
        """
        value = ceremony.fresh(request.kind, random=secrets.token_bytes)
        return self.take(request, value, control=control, witness=witness)

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Keep a key.

        Raises:
            KeyRefused: that version is there, it is weak, or published outside a demonstration.
        """
        entry = SecretKey(
            name=request.name,
            version=request.version,
            algorithm=request.kind.algorithm,
            usage=request.usage,
            owner=request.owner,
            not_after=request.not_after,
            value=value,
        )
        with exclusive(self._path):
            contents = _opened(self._path, self._passphrase, self._custody)
            if any(other.ref == entry.ref for other in contents.entries):
                raise KeyRefused(f"密钥 {request.ref} 已存在 is there and is never overwritten")
            info = ceremony.admitted(request, value, demo=self._demo)
            witness(info)
            contents = replace(contents, entries=(*contents.entries, entry))
            cost = Stretching(**_document(self._path)["scrypt"])
            replace_private(self._path, _sealed(contents, self._passphrase, self._custody, control, cost))
        self._contents = contents
        return info

    def __repr__(self) -> str:
        return f"Vault({str(self._path)!r})"


def _sealed(
    contents: Contents, passphrase: bytes, custody: Custody, control: DualControl, stretching: Stretching
) -> bytes:
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    document: dict[str, Any] = {
        "format": _FORMAT,
        "scrypt": {"n": stretching.n, "r": stretching.r, "p": stretching.p},
        "salt": salt.hex(),
        "nonce": nonce.hex(),
        "custody": custody.fingerprint,
    }
    key = stretching.stretch(passphrase, salt)
    document["sealed"] = AESGCM(key).encrypt(nonce, _packed(contents), _canonical(document)).hex()
    document["signature"] = control.sign(_canonical(document)).hex()
    return json.dumps(document, indent=1).encode()


def _opened(path: Path, passphrase: bytes, custody: Custody) -> Contents:
    document = _document(path)
    try:
        signature = bytes.fromhex(document.pop("signature"))
        if not custody.signed(_canonical(document), signature):
            raise KeyRefused(
                f"{path} 未由两名保管人签名或被改动 was not signed by both custodians or was altered: restore it from a backup"
            )
        sealed = bytes.fromhex(document.pop("sealed"))
        key = Stretching(**document["scrypt"]).stretch(passphrase, bytes.fromhex(document["salt"]))
        return _unpacked(AESGCM(key).decrypt(bytes.fromhex(document["nonce"]), sealed, _canonical(document)))
    except InvalidTag as error:
        raise KeyRefused(f"{path} 的运行口令错误 the operating passphrase does not open it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_private(path))
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise _damaged(path)
    return document


def _damaged(path: Path) -> KeyRefused:
    return KeyRefused(f"{path} 已损坏，请从备份恢复 is damaged: restore it from a backup")


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _packed(contents: Contents) -> bytes:
    return json.dumps(
        {
            "digest_key": contents.digest_key.hex(),
            "keys": [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "algorithm": entry.algorithm.value,
                    "usage": entry.usage.value,
                    "owner": entry.owner,
                    "not_after": entry.not_after.isoformat() if entry.not_after else None,
                    "value": entry.value.hex(),
                }
                for entry in contents.entries
            ],
        }
    ).encode()


def _unpacked(data: bytes) -> Contents:
    document = json.loads(data)
    return Contents(
        digest_key=bytes.fromhex(document["digest_key"]),
        entries=tuple(
            SecretKey(
                name=item["name"],
                version=item["version"],
                algorithm=Algorithm(item["algorithm"]),
                usage=Usage(item["usage"]),
                owner=item["owner"],
                not_after=date.fromisoformat(item["not_after"]) if item["not_after"] else None,
                value=bytes.fromhex(item["value"]),
            )
            for item in document["keys"]
        ),
    )
