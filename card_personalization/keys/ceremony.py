"""The rules of a key ceremony: what key may be made, how it comes together from two people, what must never be taken.

A component is as long as the key; the key is both components XORed, so that one alone tells nothing. Each component and the
whole carry a key check value that is compared before anything is kept. Parity bits of 3DES keys are taken as they are given:
3DES ignores them, and so do the comparisons here. Must not know files, terminals or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Protocol

from card_personalization.errors import KeyRefused
from card_personalization.keys.admission import admit
from card_personalization.keys.base import Algorithm, KeyInfo, KeyRef, Usage
from card_personalization.keys.custody import DualControl
from card_personalization.keys.primitives import DES_BLOCK, KCV_BYTES, check_value, odd_parity, same

_NAME = re.compile(r"[A-Z][A-Z0-9-]{0,31}", re.ASCII)
_OWNER_MAX_CHARACTERS = 64
_VERSIONS = range(1, 10_000)
_WEAK_HALVES = frozenset(
    bytes.fromhex(half)
    for half in (
        "0101010101010101",
        "FEFEFEFEFEFEFEFE",
        "E0E0E0E0F1F1F1F1",
        "1F1F1F1F0E0E0E0E",
        "011F011F010E010E",
        "1F011F010E010E01",
        "01E001E001F101F1",
        "E001E001F101F101",
        "01FE01FE01FE01FE",
        "FE01FE01FE01FE01",
        "1FE01FE00EF10EF1",
        "E01FE01FF10EF10E",
        "1FFE1FFE0EFE0EFE",
        "FE1FFE1FFE0EFE0E",
        "E0FEE0FEF1FEF1FE",
        "FEE0FEE0FEF1FEF1",
    )
)
"""The weak and semi-weak keys of DES, odd parity (NIST SP 800-67 3.3.2)."""


class Kind(StrEnum):
    """What a ceremony can make."""

    TRIPLE_DES = "3des"
    AES_128 = "aes-128"
    AES_192 = "aes-192"
    AES_256 = "aes-256"

    @property
    def algorithm(self) -> Algorithm:
        """What it is a key of."""
        return Algorithm.TRIPLE_DES if self is Kind.TRIPLE_DES else Algorithm.AES

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return 16 if self is Kind.TRIPLE_DES else int(self.value.removeprefix("aes-")) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A key that is to be: everything about it but its value."""

    name: str
    version: int
    kind: Kind
    usage: Usage
    owner: str
    not_after: date | None = None

    @property
    def ref(self) -> KeyRef:
        """Its name and version."""
        return KeyRef(self.name, self.version)

    def info(self, kcv: bytes) -> KeyInfo:
        """What may be told of it once it has a check value."""
        return KeyInfo(
            name=self.name,
            version=self.version,
            algorithm=self.kind.algorithm,
            usage=self.usage,
            kcv=kcv,
            owner=self.owner,
            not_after=self.not_after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What one custodian brings."""

    custodian: str
    value: bytes = field(repr=False)


Witness = Callable[[KeyInfo], None]
"""Told of a key, its check value included, after every check and before it is kept; what it raises keeps the key out."""


class Safe(Protocol):
    """Where a ceremony puts keys. Nothing in it is ever overwritten; a version once used stays used.

    Both makers raise `KeyRefused` when that name and version is there already, or when the key must not be taken. Two of them
    at once, in one process or in two, wait for one another.
    """

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is."""

    def generate(self, request: KeyRequest, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Make a random key."""

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Keep a key that was brought."""


def request(
    name: str,
    *,
    version: int | None,
    kind: Kind,
    usage: Usage,
    owner: str,
    not_after: date | None,
    existing: Iterable[KeyInfo],
    today: date,
) -> KeyRequest:
    """A key that may be made beside the `existing` ones; without a `version` it is the next one.

    Raises:
        KeyRefused: the name, owner or date cannot be, the version is taken, or nothing of this usage has such an algorithm.
    """
    if not _NAME.fullmatch(name):
        raise KeyRefused("密钥名须为大写字母、数字和连字符 a key's name is 1 to 32 of A-Z, 0-9 and -, a letter first")
    if not (owner == owner.strip() and owner.isprintable() and 0 < len(owner) <= _OWNER_MAX_CHARACTERS):
        raise KeyRefused(
            f"密钥 {name} 的归属方须为 1 至 64 个字符 the owner of key {name} is a text of 1 to 64 characters"
        )
    if not_after is not None and not_after < today:
        raise KeyRefused(f"密钥 {name} 的有效期已过 the last day of key {name} is over already")
    if usage is not Usage.CARD_MANAGEMENT and kind is not Kind.TRIPLE_DES:
        raise KeyRefused(f"用途 {usage.value} 的密钥须为 3des / a key for {usage.value} is a 3des key")
    taken = {info.version for info in existing if info.name == name}
    wanted = version if version is not None else max(taken, default=0) + 1
    if wanted in taken:
        raise KeyRefused(
            f"密钥 {name} 版本 {wanted} 已存在，不可覆盖；请用新版本"
            f" / key {name} version {wanted} is there and is never overwritten: take a new version"
        )
    if wanted not in _VERSIONS:
        raise KeyRefused(f"密钥 {name} 的版本须为 1 至 9999 / a version of key {name} is 1 to 9999")
    return KeyRequest(name=name, version=wanted, kind=kind, usage=usage, owner=owner, not_after=not_after)


def component(kind: Kind, *, custodian: str, value: str, kcv: str) -> Component:
    """What a custodian typed in, checked against the check value on their sheet. Spaces between hex digits do not matter.

    Raises:
        KeyRefused: it is not hex of the right length, or the check value differs.
    """
    data = _hex(value, kind.size, what=f"保管人 {custodian} 的分量 the component of custodian {custodian}")
    wanted = _hex(kcv, KCV_BYTES, what=f"保管人 {custodian} 的分量校验值 the check value of custodian {custodian}")
    if not same(check_value(kind.algorithm, data), wanted):
        raise KeyRefused(
            f"保管人 {custodian} 的分量与校验值不符，请重新输入"
            f" / the component of custodian {custodian} does not have that check value: read the sheet again"
        )
    return Component(custodian=custodian, value=data)


def combine(kind: Kind, one: Component, other: Component, *, kcv: str) -> bytes:
    """The key of two components.

    Raises:
        KeyRefused: both are one person's or equal, one of them is nothing, or the key does not have the check value `kcv`.
    """
    if one.custodian == other.custodian:
        raise KeyRefused("两个分量须由两名保管人提供 the two components come from two custodians")
    for given in (one, other):
        if not any(given.value):
            raise KeyRefused(
                f"保管人 {given.custodian} 的分量全为零 the component of custodian {given.custodian} is all zero:"
                " the other one would know the key"
            )
    key = bytes(a ^ b for a, b in zip(one.value, other.value, strict=True))
    wanted = _hex(kcv, KCV_BYTES, what="密钥校验值 the check value of the key")
    if not same(check_value(kind.algorithm, key), wanted):
        raise KeyRefused("合成密钥与校验值不符 the key of both components does not have that check value")
    return key


def refuse_weak(ref: KeyRef, kind: Kind, value: bytes) -> None:
    """Refuse a 3DES key that is no more than single DES, or has a weak half.

    Raises:
        KeyRefused: it is one.
    """
    if kind is not Kind.TRIPLE_DES:
        return
    adjusted = odd_parity(value)
    left, right = adjusted[:DES_BLOCK], adjusted[DES_BLOCK:]
    if left == right:
        raise KeyRefused(f"密钥 {ref.name} 的两半相同 both halves of key {ref} are the same: it is single DES")
    if left in _WEAK_HALVES or right in _WEAK_HALVES:
        raise KeyRefused(f"密钥 {ref.name} 含弱密钥 key {ref} has a weak half")


def admitted(request: KeyRequest, value: bytes, *, demo: bool) -> KeyInfo:
    """What may be told of a key that is taken.

    Raises:
        KeyRefused: it is weak, published outside a demonstration, or real inside one.
    """
    refuse_weak(request.ref, request.kind, value)
    info = request.info(check_value(request.kind.algorithm, value))
    admit(info, demo=demo)
    return info


def fresh(kind: Kind, *, random: Callable[[int], bytes]) -> bytes:
    """A random key that is not weak."""
    while True:
        value = random(kind.size)
        try:
            refuse_weak(KeyRef("fresh"), kind, value)
        except KeyRefused:
            continue
        return value


def _hex(text: str, size: int, *, what: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise KeyRefused(f"{what}：须为 {size * 2} 位十六进制 must be {size * 2} hex digits")
    return data
