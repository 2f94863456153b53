"""Keys that everybody knows: test keys of vendors, standards and examples.

Outside a demonstration such a key stops the start; in a demonstration no other key is taken, so that test and real keys never
meet. They are known by their check values, so that a key that never leaves its module can be judged too; the check value of a
3DES key does not depend on its parity bits.
"""

from __future__ import annotations

from card_personalization.keys.base import Algorithm
from card_personalization.keys.primitives import check_value

ASCENDING_40 = bytes(range(0x40, 0x50))
ASCENDING_50 = bytes(range(0x50, 0x60))
EMV_EXAMPLE = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
ASCENDING_10 = bytes(range(0x10, 0x20))
ASCENDING_20 = bytes(range(0x20, 0x30))

_SHORT = (
    ASCENDING_40,
    ASCENDING_50,
    EMV_EXAMPLE,
    ASCENDING_10,
    ASCENDING_20,
    b"GEMXPRESSOSAMPLE",
    bytes.fromhex("0123456789ABCDEF" * 2),
    bytes.fromhex("00112233445566778899AABBCCDDEEFF"),
    bytes(range(0x10)),
    bytes(16),
    b"\x11" * 16,
    b"\xff" * 16,
)
_LONG = tuple(
    key
    for size in (24, 32)
    for key in (bytes(range(0x40, 0x40 + size)), bytes(range(size)), bytes(size), b"\x11" * size, b"\xff" * size)
)
_CHECK_VALUES = {
    Algorithm.TRIPLE_DES: frozenset(check_value(Algorithm.TRIPLE_DES, key) for key in _SHORT),
    Algorithm.AES: frozenset(check_value(Algorithm.AES, key) for key in _SHORT + _LONG),
}


def is_published(algorithm: Algorithm, kcv: bytes) -> bool:
    """Whether a key with this 3-byte check value is a published test key."""
    return kcv in _CHECK_VALUES[algorithm]
