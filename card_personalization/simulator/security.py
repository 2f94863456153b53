"""Keys, PIN and challenge of a virtual card: its own 3DES, error counters and the two authentications of LD/T 32.

Must not know files or commands. Counters are persistent, the challenge is not.
"""

from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

Method = Literal["process-key", "direct"]

IRK = 0x00
UKSSSE = 0x04
KEY_TRIES = 3
PIN_TRIES = 5


@dataclass(slots=True)
class Secret:
    """A key or PIN with its error counter."""

    value: bytes
    limit: int
    left: int

    def present(self, *, right: bool) -> bool:
        """Count one try; a right one sets the counter back. The caller has checked `blocked`."""
        self.left = self.limit if right else self.left - 1
        return right

    @property
    def blocked(self) -> bool:
        """Whether no try is left."""
        return self.left == 0


def triple_des(key: bytes, block: bytes) -> bytes:
    """ECB encipherment with a double-length key."""
    left, right = key[:8], key[8:16]
    machine = Cipher(TripleDES(left + right + left), modes.ECB()).encryptor()
    return machine.update(block) + machine.finalize()


def invert(block: bytes) -> bytes:
    """The complement of every bit."""
    return bytes(0xFF - byte for byte in block)


def derived(master: bytes, factor: bytes) -> bytes:
    """The card's key: left half from the factor, right half from its complement."""
    return triple_des(master, factor) + triple_des(master, invert(factor))


def proof(key: bytes, challenge: bytes, original: bytes, method: Method) -> bytes:
    """What the terminal must have sent for `challenge`."""
    return triple_des(derived(key, original) if method == "process-key" else key, challenge)
