"""Signatures of webhooks, as Standard Webhooks writes them: over `id.timestamp.body`, `v1a` by ed25519 or `v1` by HMAC-SHA256.

Pure. A key is text with a prefix that says what it is: `whsk_` (ed25519, ours), `whpk_` (ed25519, the receiver's) and `whsec_`
(a shared secret), each followed by base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.errors import Refused

Kind = Literal["ed25519", "hmac"]
TOLERANCE = timedelta(minutes=5)
"""How far the clocks of sender and receiver may be apart (Standard Webhooks)."""

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_VERSION: Mapping[Kind, str] = {"ed25519": "v1a", "hmac": "v1"}
_SEED, _PUBLIC, _SECRET = "whsk_", "whpk_", "whsec_"
_SECRET_BYTES = range(24, 65)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What an endpoint's deliveries are signed with. `raw`: the ed25519 seed, 32 bytes, or the shared secret, 24 to 64."""

    kind: Kind
    raw: bytes = field(repr=False)

    @classmethod
    def new(cls, kind: Kind, *, random: Callable[[int], bytes]) -> SigningKey:
        """A fresh key of 32 random bytes."""
        return cls(kind, random(32))

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read `whsk_…` (the seed, alone or followed by its public key) or `whsec_…`.

        Raises:
            ValueError: neither of them.
        """
        if text.startswith(_SECRET):
            return cls("hmac", _secret(text))
        raw = _decoded(text, _SEED)
        if len(raw) not in (32, 64) or (len(raw) == 64 and _public(raw[:32]) != raw[32:]):
            raise ValueError("whsk_ is followed by the base64 of an ed25519 key, 32 or 64 bytes")
        return cls("ed25519", raw[:32])

    @property
    def text(self) -> str:
        """The key in full, as `parse` reads it."""
        if self.kind == "hmac":
            return _SECRET + _encoded(self.raw)
        return _SEED + _encoded(self.raw + _public(self.raw))

    @property
    def receiver_text(self) -> str:
        """What the receiver needs: the public key `whpk_…`, or the shared secret itself."""
        return self.text if self.kind == "hmac" else _PUBLIC + _encoded(_public(self.raw))


class Signer:
    """Signs for one endpoint; while its key is being changed, with the new key and the old one."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._signs = [_signing(key) for key in keys]

    def headers(self, event_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """The three headers of one attempt.

        Raises:
            ValueError: `at` is not in UTC. A naive or local time would be off by hours at the receiver, and look like a replay.
        """
        if at.tzinfo is not UTC:
            raise ValueError("the time of an attempt is given in UTC")
        stamp = str(int(at.timestamp()))
        message = _message(event_id, stamp, body)
        return {ID: event_id, TIMESTAMP: stamp, SIGNATURE: " ".join(sign(message) for sign in self._signs)}


def verify(headers: Mapping[str, str], body: bytes, keys: Sequence[str], *, now: datetime) -> None:
    """Accept a delivery as a receiver does. `keys`: `whpk_…` or `whsec_…`, any of which may have signed.

    Raises:
        Refused: a header is missing (`signature-missing`), the time is more than five minutes off (`signature-stale`), or no
            signature fits (`signature-mismatch`).
        ValueError: a key cannot be read.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, stamp, signatures = (given.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (event_id and stamp and signatures):
        raise Refused(
            "缺少签名头，请核对 webhook-id、webhook-timestamp、webhook-signature",
            "a header is missing: webhook-id, webhook-timestamp and webhook-signature are needed",
            code="signature-missing",
        )
    if not (stamp.isascii() and stamp.isdigit()) or abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise Refused(
            "时间戳与本机时间相差超过五分钟，请校准时钟；若为旧消息请拒收",
            "the timestamp is more than five minutes off: set the clock, or refuse a replay",
            code="signature-stale",
        )
    message = _message(event_id, stamp, body)
    checks = [_checking(key) for key in keys]
    if not any(check(signature, message) for signature in signatures.split() for check in checks):
        raise Refused(
            "签名不符，请核对密钥，并以收到的原始字节验签",
            "no signature fits: compare the key, and verify the bytes as they came",
            code="signature-mismatch",
        )


def _signing(key: SigningKey) -> Callable[[bytes], str]:
    prefix = _VERSION[key.kind] + ","
    if key.kind == "hmac":
        return lambda message: prefix + _encoded(hmac.digest(key.raw, message, hashlib.sha256))
    private = Ed25519PrivateKey.from_private_bytes(key.raw)
    return lambda message: prefix + _encoded(private.sign(message))


def _checking(text: str) -> Callable[[str, bytes], bool]:
    if text.startswith(_SECRET):
        raw = _secret(text)
        return lambda signature, message: hmac.compare_digest(
            signature.encode(), f"v1,{_encoded(hmac.digest(raw, message, hashlib.sha256))}".encode()
        )
    try:
        public = Ed25519PublicKey.from_public_bytes(_decoded(text, _PUBLIC))
    except ValueError:
        raise ValueError("a receiver's key is whpk_ or whsec_ and base64") from None
    return lambda signature, message: _fits(public, signature, message)


def _fits(public: Ed25519PublicKey, signature: str, message: bytes) -> bool:
    version, _, encoded = signature.partition(",")
    if version != _VERSION["ed25519"]:
        return False
    try:
        public.verify(base64.b64decode(encoded, validate=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(event_id: str, stamp: str, body: bytes) -> bytes:
    return f"{event_id}.{stamp}.".encode() + body


def _public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _secret(text: str) -> bytes:
    raw = _decoded(text, _SECRET)
    if len(raw) not in _SECRET_BYTES:
        raise ValueError("whsec_ is followed by the base64 of 24 to 64 bytes")
    return raw


def _decoded(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"a key that begins with {prefix} is needed")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{prefix} is followed by base64") from None


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
