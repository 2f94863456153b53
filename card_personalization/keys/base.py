"""The port to a key store: keys are named and used, never returned.

`factors` are the 8-byte inputs of 密钥分散, one a level, from the master down to the card's own key; none means the
named key itself. A store must not know profiles, plans or cards.
"""

from typing import Protocol

Factors = tuple[bytes, ...]


class KeyStore(Protocol):
    """What personalisation needs done with keys. Safe to call from several threads."""

    @property
    def is_demo(self) -> bool:
        """Whether the keys are published test keys: everything made with them is marked DEMO."""

    def mac(self, name: str, *, factors: Factors, data: bytes) -> bytes:
        """8 bytes: retail MAC of `data` (ISO/IEC 9797-1 algorithm 3, padding method 2, IV zero).

        Raises:
            KeyRefused: no such key.
        """

    def external_authentication(
        self, name: str, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """16 bytes for EXTERNAL AUTHENTICATE: authentication data, then the 8-byte original information.

        With `process_key` the challenge is enciphered under 3DES(K, R) and 3DES(K, ~R), else under K itself.

        Raises:
            KeyRefused: no such key.
        """

    def digest(self, data: bytes) -> bytes:
        """32 bytes: a keyed digest under a key of the store, so that guessing low-entropy data proves nothing."""
