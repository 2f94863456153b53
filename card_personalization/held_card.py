"""The card a reader holds, as a piece of work may use it: always the same card, never longer than it is allowed.

Compares the identity at every new connection and reset, keeps the time of the call that is under way for a watchdog,
and answers nothing any more once it was given up. Must not know what the work is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from card_personalization.errors import CardLost, CardMute, CardSwapped, ReaderGone, ServiceDown, StaleHandle
from card_personalization.identity import Identity
from card_personalization.transport.base import CardConnection

_T = TypeVar("_T")


class HeldCard:
    """A `CardConnection` that can be connected anew. One thread uses it; `busy_for` and `give_up` are for another."""

    def __init__(
        self,
        reader: str,
        power: Callable[[], CardConnection],
        *,
        identify: Callable[[CardConnection], Identity],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock` counts seconds."""
        self.reader = reader
        self.identity: Identity | None = None
        self.sent = 0
        """Commands of the work, questions for the identity not counted."""
        self.cut_off = False
        """Whether the way to the card was lost, rather than the card."""
        self.first_apdu_at: float | None = None
        self.last_answer_at: float | None = None
        self._power = power
        self._identify = identify
        self._clock = clock
        self._connection: CardConnection | None = None
        self._fresh = False
        self._given_up = False
        self._busy_since: float | None = None

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._powered().atr

    @property
    def fresh(self) -> bool:
        """Whether it is powered, recognised, and was sent nothing since."""
        return self._fresh

    def connect(self) -> CardConnection:
        """The card after a cold reset, recognised; select before relying on a selection.

        Raises:
            CardSwapped: it is another card than before.
            CardLost: no card, no way to it, or it was given up.
        """
        if self._connection is None:
            self._watched(self._power_up)
            self._recognise()
        elif not self._fresh:
            self.reset()
        return self

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """Body and status word of one command.

        Raises:
            CardLost: no answer came, or the card was given up while it was waited for.
        """
        self._fresh = False
        self.sent += 1
        return self._transmit(apdu)

    def reset(self) -> None:
        """Cold reset, unless nothing was sent since the last one.

        Raises:
            CardSwapped: it is another card than before.
            CardLost: the card did not come back, or was given up.
        """
        if not self._fresh:
            self._watched(self._powered().reset)
            self._recognise()

    def close(self) -> None:
        """Power off. Never raises; may be called twice."""
        connection, self._connection = self._connection, None
        self._fresh = False
        if connection is not None:
            connection.close()

    def busy_for(self) -> float:
        """Seconds the call under way has lasted; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def give_up(self) -> None:
        """Let no further call through: whoever waits for the card gets `CardMute` once it answers."""
        self._given_up = True

    def _power_up(self) -> None:
        self._connection = self._power()

    def _recognise(self) -> None:
        found = self._identify(_Line(self))
        if self.identity is not None and found != self.identity:
            self.close()
            raise CardSwapped(f"{self.reader}: 卡片已被更换 / another card is in the reader")
        self.identity = found
        self._fresh = True

    def _transmit(self, apdu: bytes) -> tuple[bytes, int]:
        connection = self._powered()
        if self.first_apdu_at is None:
            self.first_apdu_at = self._clock()
        answer = self._watched(lambda: connection.transmit(apdu))
        self.last_answer_at = self._clock()
        return answer

    def _watched(self, call: Callable[[], _T]) -> _T:
        self._go_on()
        self._busy_since = self._clock()
        try:
            answer = call()
        except (ServiceDown, ReaderGone, StaleHandle):
            self.cut_off = True
            raise
        finally:
            self._busy_since = None
        self._go_on()
        return answer

    def _go_on(self) -> None:
        if self._given_up:
            raise CardMute(f"{self.reader}: 卡片长时间没有回答 / the card kept silent for too long")

    def _powered(self) -> CardConnection:
        if self._connection is None:
            raise CardLost(f"{self.reader}: 卡片已断电 / the card is not powered")
        return self._connection


class _Line:
    """The held card as `identify` sees it: its questions are watched, but are not the work's."""

    def __init__(self, card: HeldCard) -> None:
        self._card = card

    @property
    def atr(self) -> bytes:
        return self._card.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        return self._card._transmit(apdu)

    def reset(self) -> None:
        self._card.reset()

    def close(self) -> None:
        self._card.close()
