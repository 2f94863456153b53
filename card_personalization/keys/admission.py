"""Which keys a store takes and what it lets them be used for: the same rules whatever it keeps them in.

Judges what may be told of a key and never sees its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from card_personalization.errors import KeyRefused
from card_personalization.keys import published
from card_personalization.keys.base import Algorithm, Diversification, KeyInfo, KeyRef, Usage

_METHODS = {
    Algorithm.TRIPLE_DES: (Diversification.NONE, Diversification.EMV, Diversification.VISA2),
    Algorithm.AES: (Diversification.NONE, Diversification.KDF3),
}


def admit(info: KeyInfo, *, demo: bool) -> None:
    """Keep test keys and real keys apart.

    Raises:
        KeyRefused: a published test key outside a demonstration, or any other key inside one.
    """
    ref = KeyRef(info.name, info.version)
    known = published.is_published(info.algorithm, info.kcv)
    if known and not demo:
        raise KeyRefused(f"key {ref} is a published test key: replace it（公开的测试密钥，须更换）")
    if demo and not known:
        raise KeyRefused(
            f"key {ref} is not a test key and must not be used in a demonstration（演示中不得使用真实密钥）"
        )


def find(keys: Mapping[KeyRef, KeyInfo], ref: KeyRef, *, usage: Usage, today: date) -> KeyInfo:
    """A key that may be used for `usage` today.

    Raises:
        KeyRefused: there is none, it is for something else, or it has expired.
    """
    if (key := keys.get(ref)) is None:
        raise KeyRefused(f"there is no key {ref}: load it or correct the profile（没有这个密钥）")
    if key.usage is not usage:
        raise KeyRefused(f"key {ref} is for {key.usage} and not for {usage}（密钥用途不符）")
    if key.not_after is not None and today > key.not_after:
        raise KeyRefused(f"key {ref} expired on {key.not_after}: name a newer version（密钥已过期）")
    return key


def must_be(key: KeyInfo, algorithm: Algorithm, *, method: Diversification = Diversification.NONE) -> None:
    """Refuse a key of another algorithm, or one that `method` does not diversify.

    Raises:
        KeyRefused: it is one.
    """
    ref = KeyRef(key.name, key.version)
    if key.algorithm is not algorithm:
        raise KeyRefused(f"key {ref} is {key.algorithm} and not {algorithm}（密钥算法不符）")
    if method not in _METHODS[algorithm]:
        raise KeyRefused(f"key {ref} is {algorithm}, which {method} does not diversify（密钥算法与分散方法不符）")
