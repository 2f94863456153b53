"""Personal data at rest: AES-256-GCM under data keys that are themselves wrapped by the installation's key.

A sealed value is `1 B version ‖ 4 B key id ‖ 12 B nonce ‖ ciphertext`, bound by its associated data to the table and row it
belongs to, so that a value copied to another row does not open. Look-up goes by `blind_index`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.errors import Defect

_VERSION = b"\x01"


def derive(master: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose, so that no two uses of the installation's key share a key."""
    return hmac.new(master, b"zhika/1/" + purpose.encode(), hashlib.sha256).digest()


class Sealer:
    """Seals and opens personal data; knows every data key of the installation."""

    def __init__(self, master: bytes, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """`master` is the installation's key, 32 bytes.

        Raises:
            ValueError: the key has another length.
        """
        if len(master) != 32:
            raise ValueError("the installation's key must be 32 bytes; make one with `head -c 32 /dev/urandom`")
        self._wrapping = AESGCM(derive(master, "wrap"))
        self._index_key = derive(master, "blind-index")
        self._signing = Ed25519PrivateKey.from_private_bytes(derive(master, "records"))
        self._random = random
        self._keys: dict[int, AESGCM] = {}
        self._current = 0

    def new_data_key(self, number: int) -> bytes:
        """Make data key `number` and return it wrapped, for the table `data_keys`."""
        key, nonce = self._random(32), self._random(12)
        self._keys[number] = AESGCM(key)
        self._current = max(self._current, number)
        return nonce + self._wrapping.encrypt(nonce, key, str(number).encode())

    def load_data_keys(self, wrapped: Mapping[int, bytes]) -> None:
        """Unwrap the keys of the table `data_keys`; the highest number seals from now on.

        Raises:
            Defect: a key does not open: this is another installation's database or key.
        """
        for number, blob in wrapped.items():
            try:
                key = self._wrapping.decrypt(blob[:12], blob[12:], str(number).encode())
            except (InvalidTag, ValueError):
                raise Defect(f"data key {number} does not open: the key file belongs to another database") from None
            self._keys[number] = AESGCM(key)
        self._current = max(self._keys, default=0)

    def seal(self, value: Mapping[str, Any], *, bound_to: str) -> bytes:
        """Seal a JSON value for the row `bound_to` (`table/id`)."""
        nonce = self._random(12)
        head = _VERSION + self._current.to_bytes(4, "big")
        clear = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return head + nonce + self._keys[self._current].encrypt(nonce, clear, head + bound_to.encode())

    def open(self, sealed: bytes, *, bound_to: str) -> dict[str, Any]:
        """Open what `seal` made.

        Raises:
            Defect: it was altered, or moved from another row, or its key is not known.
        """
        head, nonce, body = sealed[:5], sealed[5:17], sealed[17:]
        key = self._keys.get(int.from_bytes(head[1:], "big"))
        if head[:1] != _VERSION or key is None:
            raise Defect(f"{bound_to}: sealed under an unknown key or version")
        try:
            opened: dict[str, Any] = json.loads(key.decrypt(nonce, body, head + bound_to.encode()))
        except (InvalidTag, ValueError):  # ValueError: cut short
            raise Defect(f"{bound_to}: the sealed data was altered or moved") from None
        return opened

    def blind_index(self, id_type: str, id_number: str) -> bytes:
        """What a person is found by, without their number being in the database."""
        return hmac.new(self._index_key, f"{id_type}|{id_number}".encode(), hashlib.sha256).digest()

    def sign(self, record: Mapping[str, Any]) -> bytes:
        """The installation's ed25519 signature over a record of its own (a hand-over, a receipt), in canonical JSON."""
        return self._signing.sign(_canonical(record))

    def signed(self, record: Mapping[str, Any], signature: bytes) -> bool:
        """Whether `sign` made this signature over this record."""
        try:
            self._signing.public_key().verify(signature, _canonical(record))
        except InvalidSignature:
            return False
        return True

    def digest(self, value: bytes) -> bytes:
        """A keyed digest for comparing content that may be personal."""
        return hmac.new(self._index_key, b"content|" + value, hashlib.sha256).digest()


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
