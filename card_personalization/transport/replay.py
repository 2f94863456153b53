"""A recorded session played back, so that what a real card once answered becomes a unit test.

A dump is text, a line each: `ATR 3B6D...` for a reset, `> 00A4...` for a command, `< 6F...9000` for its answer, `!` for a
card that gave none; empty lines and lines with `#` are passed over. Only test cards may be recorded: a dump holds bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from card_personalization.errors import CardLost
from card_personalization.transport.base import CardConnection

_LOST = "!"
_T = TypeVar("_T")


class DumpDiffers(AssertionError):
    """The host does something else than it did when the dump was recorded."""


class ReplayConnection:
    """Answers as the dump says, as long as it is asked what the dump says."""

    def __init__(self, dump: str) -> None:
        """Power the card.

        Raises:
            DumpDiffers: the dump does not begin with a reset.
        """
        self._lines = _significant(dump.splitlines())
        self._number = 0
        self._atr = self._next("ATR")

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._atr

    @property
    def finished(self) -> bool:
        """Whether everything recorded was played; what comes next, if anything, is used up by asking."""
        return next(self._lines, None) is None

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """The recorded answer.

        Raises:
            CardLost: as recorded.
            DumpDiffers: another command was recorded here.
        """
        if (expected := self._next(">")) != apdu:
            raise DumpDiffers(f"line {self._number}: recorded {expected.hex().upper()}, sent {apdu.hex().upper()}")
        answer = self._next("<")
        return answer[:-2], int.from_bytes(answer[-2:], "big")

    def reset(self) -> None:
        """The recorded reset.

        Raises:
            CardLost: as recorded.
            DumpDiffers: no reset was recorded here.
        """
        self._atr = self._next("ATR")

    def close(self) -> None:
        """Nothing to let go."""

    def _next(self, kind: str) -> bytes:
        self._number, line = next(self._lines, (self._number, "the end"))
        if line == _LOST:
            raise CardLost("the recorded card gave no answer")
        found, _, value = line.partition(" ")
        if found != kind:
            raise DumpDiffers(f"line {self._number}: expected {kind!r}, recorded {line!r}")
        return bytes.fromhex(value)


class RecordingConnection:
    """Passes everything on and writes a dump of it."""

    def __init__(self, connection: CardConnection, write: Callable[[str], object]) -> None:
        self._connection = connection
        self._write = write
        self._line("ATR", connection.atr)

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._connection.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """As the connection below.

        Raises:
            CardLost: from the connection below.
        """
        self._line(">", apdu)
        body, sw = self._noting_loss(lambda: self._connection.transmit(apdu))
        self._line("<", body + sw.to_bytes(2, "big"))
        return body, sw

    def reset(self) -> None:
        """As the connection below.

        Raises:
            CardLost: from the connection below.
        """
        self._noting_loss(self._connection.reset)
        self._line("ATR", self._connection.atr)

    def close(self) -> None:
        """As the connection below."""
        self._connection.close()

    def _noting_loss(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except CardLost:
            self._write(f"{_LOST}\n")
            raise

    def _line(self, kind: str, value: bytes) -> None:
        self._write(f"{kind} {value.hex().upper()}\n")


def _significant(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return (
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    )
