"""The time a reader's line and the chip take: 12 etu per character and some milliseconds per command.

Must not know what passes, only how many characters.
"""

from __future__ import annotations

import time
from collections.abc import Callable

ETU_PER_CHARACTER = 12
"""Start, eight data, parity and two guard bits (ISO/IEC 7816-3 7.2, N = 0)."""

_HEADER = 5
_PROCEDURE = 1
_STATUS = 2


class Pace:
    """One reader's line at `baud` bit/s. Every command also takes `ms_per_command` for the chip.

    The schedule is absolute: what one wait was too long is taken from the next, so that errors do not add up. `wire_s` is
    the pure time on the line of all that passed, without the chip's.
    """

    def __init__(
        self,
        baud: int,
        ms_per_command: float = 0.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if baud < 1 or ms_per_command < 0:
            raise ValueError(f"baud {baud} and ms_per_command {ms_per_command} must be positive")
        self._character_s = ETU_PER_CHARACTER / baud
        self._command_s = ms_per_command / 1000
        self._sleep = sleep
        self._clock = clock
        self._late_s = 0.0
        self.wire_s = 0.0

    def begun(self) -> float:
        """When the command at hand began on the schedule."""
        return self._clock() - self._late_s

    def finish(self, begun: float, apdu: bytes, body: bytes) -> None:
        """Wait until the command `apdu` with the answer `body` and its status word is over."""
        wire_s = characters(apdu, body) * self._character_s
        self.wire_s += wire_s
        due = begun + wire_s + self._command_s
        remaining = due - self._clock()
        if remaining > 0:
            self._sleep(remaining)
        self._late_s = max(0.0, self._clock() - due)


def characters(apdu: bytes, body: bytes) -> int:
    """Characters of one exchange with T=0: header of 5, procedure byte before data of either way, data, status word.

    A command of 4 bytes is sent with a fifth, and Le behind data is not sent (ISO/IEC 7816-3 12.2).
    """
    data = apdu[4] if len(apdu) > _HEADER else 0
    return _HEADER + (_PROCEDURE if data or body else 0) + data + len(body) + _STATUS
