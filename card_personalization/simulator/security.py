"""Keys and PIN of the social security application: error counters, the two authentications and secure messaging of LD/T 32.

Must not know files or commands. Counters are persistent; a challenge is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal

from card_personalization.simulator.ciphers import retail_mac, triple_des, triple_des_decrypted, unpad80
from card_personalization.simulator.memory import Memory

Method = Literal["process-key", "direct"]

IRK = 0x00
RK = 0x01
UKSSSE = 0x04
BK = 0x05
PUK = 0x06
STK = 0x07
KEY_TRIES = 3
PIN_TRIES = 5
MAC_SIZE = 4


@dataclass(frozen=True, slots=True)
class Secret:
    """A key or PIN in its cell, with its error counter in the cell beside it."""

    memory: Memory
    cell: str

    @property
    def value(self) -> bytes:
        """The key or PIN."""
        return self.memory[self.cell]

    @property
    def left(self) -> int:
        """Tries that are left."""
        return self.memory[f"{self.cell}/tries"][1]

    @property
    def blocked(self) -> bool:
        """Whether no try is left."""
        return self.left == 0

    def present(self, given: bytes, expected: bytes) -> bool:
        """Whether `given` is right. A wrong one costs a try, a right one sets the counter back.

        The caller has checked `blocked`.
        """
        right = compare_digest(given, expected)
        if right:
            self.unblock()
        else:
            self._set_left(self.left - 1)
        return right

    def unblock(self) -> None:
        """Give all tries back."""
        self._set_left(self.memory[f"{self.cell}/tries"][0])

    def replace(self, value: bytes) -> None:
        """A new value; the counter stays."""
        self.memory[self.cell] = value

    def _set_left(self, left: int) -> None:
        self.memory[f"{self.cell}/tries"] = bytes((self.memory[f"{self.cell}/tries"][0], left))


def invert(block: bytes) -> bytes:
    """The complement of every bit."""
    return bytes(0xFF - byte for byte in block)


def derived(master: bytes, factor: bytes) -> bytes:
    """The key below `master`: left half from the factor, right half from its complement."""
    return triple_des(master, factor) + triple_des(master, invert(factor))


def proof(key: bytes, challenge: bytes, original: bytes, method: Method) -> bytes:
    """What proves the key for `challenge`."""
    return triple_des(derived(key, original) if method == "process-key" else key, challenge)


def message_mac(key: bytes, challenge: bytes, message: bytes) -> bytes:
    """4 bytes over header and data of a command, chained from a challenge of 4 or 8 bytes filled with zeros."""
    return retail_mac(key, message, challenge.ljust(8, b"\x00"))[:MAC_SIZE]


def deciphered_pin(key: bytes, block: bytes) -> bytes | None:
    """The PIN in a block of length, PIN and padding, or None when the length is wrong.

    Raises:
        Refused: 6A80, the padding is wrong.
    """
    plain = unpad80(triple_des_decrypted(key, block))
    return plain[1:] if plain and plain[0] == len(plain) - 1 else None
