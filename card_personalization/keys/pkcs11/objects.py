"""Objects of a token: masters with what may be told of them, keys derived from them, and what is computed with either.

Every function works in the session of the objects it is given, in the thread that owns it. Must not know who asks or why.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Algorithm, KeyInfo, KeyRef, Usage
from card_personalization.keys.ceremony import KeyRequest, Kind
from card_personalization.keys.primitives import AES_BLOCK, DES_BLOCK, KCV_BYTES, Aes, pad80

FIRST = "/first"
DIGEST_KEY = "zhika-digest-key"
_DIGEST_KEY_BITS = 256
_SEED_BITS = 256
_PREFIX = "zhika/"
_KEY_TYPES = {KeyType.DES3: Algorithm.TRIPLE_DES, KeyType.AES: Algorithm.AES}
_USE = MechanismFlag.ENCRYPT | MechanismFlag.SIGN | MechanismFlag.DERIVE
_CLOSED = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
_CMAC_R128 = 0x87
"""NIST SP 800-38B 5.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """A master in the token and what may be told of it."""

    info: KeyInfo
    whole: Any
    first: Any | None
    """K1‖K1‖K1 of a 人社 master."""


class TokenAes(Aes):
    """AES whose key lies in the token."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key
        self.bits = key.key_length

    def encrypt(self, data: bytes) -> bytes:
        return bytes(self.key.encrypt(data, mechanism=Mechanism.AES_ECB))

    def encrypt_cbc(self, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
        return bytes(self.key.encrypt(data, mechanism=Mechanism.AES_CBC, mechanism_param=iv))

    def mac(self, data: bytes) -> bytes:
        return bytes(self.key.sign(data, mechanism=Mechanism.AES_CMAC))


class _StringData(ctypes.Structure):
    """CK_KEY_DERIVATION_STRING_DATA."""

    _fields_ = (("data", ctypes.c_char_p), ("length", ctypes.c_ulong))


def des3_child(parent: Any, data: bytes, **template: Any) -> Any:
    """A 3DES key that is `data`, 24 bytes, enciphered with its parent."""
    return parent.derive_key(
        KeyType.DES3,
        len(data) * 8,
        mechanism=Mechanism.DES3_ECB_ENCRYPT_DATA,
        mechanism_param=bytes(_StringData(data, len(data))),
        capabilities=_USE,
        store="label" in template,
        label=template.get("label"),
        id=template.get("id"),
        template={**_CLOSED, Attribute.VALUE_LEN: DEFAULT, Attribute.MODIFIABLE: False},
    )


def aes_child(parent: Any, data: bytes, *, bits: int, **template: Any) -> Any:
    """An AES key that is the first `bits` of `data`, whole blocks, enciphered with its parent."""
    return parent.derive_key(
        KeyType.AES,
        bits,
        mechanism=Mechanism.AES_ECB_ENCRYPT_DATA,
        mechanism_param=data,
        capabilities=_USE,
        store="label" in template,
        label=template.get("label"),
        id=template.get("id"),
        template={**_CLOSED, Attribute.MODIFIABLE: False},
    )


def kdf3_child(master: TokenAes, kdd: bytes, number: int) -> Any:
    """AES-CMAC of `i ‖ 000000 ‖ number ‖ 00 ‖ kdd` for i = 1, 2: one whole block each, so CMAC is one AES of block XOR subkey."""
    subkey = _cmac_subkey(master.encrypt(bytes(AES_BLOCK)))
    blocks = (bytes((count, 0, 0, 0, number, 0)) + kdd for count in range(1, -(-master.bits // 128) + 1))
    return aes_child(master.key, b"".join(_xor(block, subkey) for block in blocks), bits=master.bits)


def generate(session: Any, request: KeyRequest, *, agree: Callable[[bytes], None]) -> tuple[Any, Any | None]:
    """A random master and, of a 人社 one, its K1‖K1‖K1; `agree` is told its check value before anything is kept.

    Both are derived from a random key that is thrown away.
    """
    if request.kind is Kind.TRIPLE_DES:
        seed = session.generate_key(KeyType.DES3, capabilities=MechanismFlag.DERIVE, template=_CLOSED)
        left, right = bytes(session.generate_random(64)), bytes(session.generate_random(64))
        derive, data = des3_child, left + right + left
    else:
        seed = session.generate_key(KeyType.AES, _SEED_BITS, capabilities=MechanismFlag.DERIVE, template=_CLOSED)
        derive, data = partial(aes_child, bits=request.kind.size * 8), bytes(session.generate_random(2 * AES_BLOCK * 8))
    try:
        tried = derive(seed, data)
        try:
            agree(kcv_of(tried, request.kind.algorithm))
        finally:
            tried.destroy()
        label, id_ = label_of(request.ref), _id(request)
        first = derive(seed, data[:DES_BLOCK] * 3, label=label + FIRST, id=id_) if _has_first(request) else None
        return derive(seed, data, label=label, id=id_), first
    finally:
        seed.destroy()


def generate_digest_key(session: Any) -> Any:
    """An HMAC key that stays in the token."""
    return session.generate_key(
        KeyType.GENERIC_SECRET,
        _DIGEST_KEY_BITS,
        label=DIGEST_KEY,
        store=True,
        capabilities=MechanismFlag.SIGN,
        template={**_CLOSED, Attribute.MODIFIABLE: False},
    )


def put(session: Any, request: KeyRequest, value: bytes) -> tuple[Any, Any | None]:
    """A master that was brought and, of a 人社 one, its K1‖K1‖K1."""
    if request.kind is not Kind.TRIPLE_DES:
        return _put(session, request, KeyType.AES, value), None
    half = value[:DES_BLOCK]
    first = _put(session, request, KeyType.DES3, half * 3, suffix=FIRST) if _has_first(request) else None
    return _put(session, request, KeyType.DES3, value + half), first


def make_room(session: Any, request: KeyRequest) -> None:
    """Remove a K1‖K1‖K1 without its master: what a crash left of a master that was never kept.

    Raises:
        KeyRefused: the master is there.
    """
    label = label_of(request.ref)
    if find_object(session, label) is not None:
        raise KeyRefused(f"密钥 {request.ref} 已存在 is there and is never overwritten")
    while (remnant := find_object(session, label + FIRST)) is not None:
        remnant.destroy()


def _put(session: Any, request: KeyRequest, key_type: KeyType, value: bytes, *, suffix: str = "") -> Any:
    return session.create_object(
        {
            **_CLOSED,
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: True,
            Attribute.MODIFIABLE: False,
            Attribute.LABEL: label_of(request.ref) + suffix,
            Attribute.ID: _id(request),
            Attribute.ENCRYPT: True,
            Attribute.SIGN: True,
            Attribute.DERIVE: True,
            Attribute.DECRYPT: False,
            Attribute.WRAP: False,
            Attribute.UNWRAP: False,
            Attribute.VALUE: value,
        }
    )


def read_masters(session: Any) -> dict[KeyRef, Master]:
    """Every master in the token.

    Raises:
        KeyRefused: one is there twice, can be read out, or does not say what it is.
    """
    found: dict[str, Any] = {}
    for key in list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})):
        if key.label.startswith(_PREFIX):
            if key.label in found:
                raise KeyRefused(f"令牌中有两个 the token has two objects {key.label}: remove the wrong one")
            if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
                raise KeyRefused(
                    f"令牌中的 {key.label} 可被读出 in the token can be read out: make it anew in a ceremony"
                )
            found[key.label] = key
    infos = {label: _info(key) for label, key in found.items() if not label.endswith(FIRST)}
    return {
        KeyRef(info.name, info.version): Master(info=info, whole=found[label], first=found.get(label + FIRST))
        for label, info in infos.items()
    }


def _info(key: Any) -> KeyInfo:
    try:
        name, version = key.label.removeprefix(_PREFIX).split("/")
        usage, last_day, owner = key.id.decode().split("/", 2)
        algorithm = _KEY_TYPES[key.key_type]
        return KeyInfo(
            name=name,
            version=int(version),
            algorithm=algorithm,
            usage=Usage(usage),
            kcv=kcv_of(key, algorithm),
            owner=owner,
            not_after=None if last_day == "-" else date.fromisoformat(last_day),
        )
    except (ValueError, KeyError) as error:
        raise KeyRefused(
            f"令牌中的 {key.label} 不是本系统的密钥 in the token is not a key of ours: remove it"
        ) from error


def find_object(session: Any, label: str) -> Any | None:
    """The object of that label, if there is one."""
    return next(iter(list(session.get_objects({Attribute.LABEL: label}))), None)


def label_of(ref: KeyRef) -> str:
    """How a master is labelled."""
    return f"{_PREFIX}{ref.name}/{ref.version}"


def _id(request: KeyRequest) -> bytes:
    last_day = "-" if request.not_after is None else request.not_after.isoformat()
    return f"{request.usage.value}/{last_day}/{request.owner}".encode()


def _has_first(request: KeyRequest) -> bool:
    """Whether its K1‖K1‖K1 lies beside it."""
    return request.usage is Usage.SOCIAL_SECURITY


def kcv_of(key: Any, algorithm: Algorithm) -> bytes:
    """KCV, 3 bytes."""
    if algorithm is Algorithm.AES:
        return TokenAes(key).encrypt(b"\x01" * AES_BLOCK)[:KCV_BYTES]
    return des3_ecb(key, bytes(DES_BLOCK))[:KCV_BYTES]


def des3_ecb(key: Any, data: bytes) -> bytes:
    """Whole blocks in ECB."""
    return bytes(key.encrypt(data, mechanism=Mechanism.DES3_ECB))


def des3_cbc(key: Any, data: bytes) -> bytes:
    """Whole blocks in CBC, IV zero."""
    return bytes(key.encrypt(data, mechanism=Mechanism.DES3_CBC, mechanism_param=bytes(DES_BLOCK)))


def retail_mac(whole: Any, first: Any, data: bytes) -> bytes:
    """ISO/IEC 9797-1 algorithm 3 with padding method 2 and IV zero."""
    padded = pad80(data, DES_BLOCK)
    body, last = padded[:-DES_BLOCK], padded[-DES_BLOCK:]
    chain = des3_cbc(first, body)[-DES_BLOCK:] if body else bytes(DES_BLOCK)
    return des3_ecb(whole, _xor(chain, last))


def _cmac_subkey(block: bytes) -> bytes:
    doubled = int.from_bytes(block, "big") << 1
    if doubled >> 128:
        doubled ^= 1 << 128 | _CMAC_R128
    return doubled.to_bytes(AES_BLOCK, "big")


def hmac_sha256(key: Any, data: bytes) -> bytes:
    """32 bytes."""
    return bytes(key.sign(data, mechanism=Mechanism.SHA256_HMAC))


def random_digits(session: Any, count: int) -> str:
    """Decimal digits, all equally likely."""
    digits = ""
    while len(digits) < count:
        digits += "".join(str(byte % 10) for byte in bytes(session.generate_random(64)) if byte < 250)
    return digits[:count]


def spread(factor: bytes) -> bytes:
    """Of a factor F the 24 bytes F ‖ ~F ‖ F, which enciphered are a 3DES key K1 ‖ K2 ‖ K1."""
    return factor + _xor(factor, b"\xff" * len(factor)) + factor


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
