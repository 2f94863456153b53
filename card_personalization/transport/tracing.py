"""A connection that writes what passes to the log: header, lengths, status word and time, never a body.

Off unless a connection is wrapped *and* the logger is enabled at `TRACE`, which lies below DEBUG so that ordinary
debugging never records traffic. Bodies are shown for SELECT only; everything else may hold personal data or secrets.
"""

import logging
import time
from collections.abc import Callable

from card_personalization.apdu import Ins
from card_personalization.transport.base import CardConnection

TRACE = 5
log = logging.getLogger("card_personalization.apdu")

_SHOWN = frozenset({Ins.SELECT})


class TracedConnection:
    """Passes everything on unchanged and logs a redacted line per command at level `TRACE`."""

    def __init__(self, connection: CardConnection, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._connection = connection
        self._clock = clock

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._connection.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """As the connection below.

        Raises:
            CardLost: from the connection below.
        """
        if not log.isEnabledFor(TRACE):
            return self._connection.transmit(apdu)
        started = self._clock()
        body, sw = self._connection.transmit(apdu)
        log.log(TRACE, "%s -> %d B %04X %.2f ms", _redacted(apdu), len(body), sw, (self._clock() - started) * 1000)
        return body, sw

    def reset(self) -> None:
        """As the connection below.

        Raises:
            CardLost: from the connection below.
        """
        log.log(TRACE, "reset")
        self._connection.reset()

    def close(self) -> None:
        """As the connection below."""
        self._connection.close()


def _redacted(apdu: bytes) -> str:
    header, rest = apdu[:4].hex().upper(), apdu[4:]
    if len(apdu) > 1 and apdu[1] in _SHOWN:
        return f"{header} {rest.hex().upper()}"
    return f"{header} [{len(rest)} B]"
