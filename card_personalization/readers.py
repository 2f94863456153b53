"""The port to a reader that somebody or something puts cards into, and the one that takes virtual blanks from a box.

A reader belongs to the thread that drives it; only `interrupt` may be called from another. Must not know what is done
with the cards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from card_personalization.errors import NoUsableCard
from card_personalization.transport.base import CardConnection


class CardReader(Protocol):
    """One reader. Waits end early when the state changes and never last long, so that their caller can look around."""

    @property
    def name(self) -> str:
        """The name operators know it by."""

    @property
    def feed(self) -> Callable[[str], None] | None:
        """Puts the blank with the given serial in; None where that is done by hand."""

    def open(self) -> None:
        """Begin, or begin again after an error.

        Raises:
            ReaderError: it is not there.
        """

    def wait_for_card(self, timeout_s: float) -> bool:
        """Whether a card is in the reader, at the latest after the time.

        Raises:
            ReaderError: the reader can no longer be watched.
        """

    def wait_for_removal(self, timeout_s: float) -> bool:
        """Whether the card seen last is out, at the latest after the time; also when another is in already.

        Raises:
            ReaderError: the reader can no longer be watched.
        """

    def connect(self) -> CardConnection:
        """Power the card.

        Raises:
            ReaderError: no usable card, or no way to it.
        """

    def interrupt(self) -> None:
        """End the wait another thread is in. May come too early to have an effect."""

    def close(self) -> None:
        """Let the reader go. Never raises."""


class VirtualReader:
    """A reader in this process that is fed with the blank asked for; the box says how to insert one."""

    def __init__(self, name: str, insert: Callable[[str], CardConnection]) -> None:
        self.name = name
        self._insert = insert
        self._serial: str | None = None

    def open(self) -> None:
        """Nothing to do."""

    def feed(self, serial: str) -> None:
        """Take the blank out of the box."""
        self._serial = serial

    def wait_for_card(self, timeout_s: float) -> bool:
        """Whether a blank was fed; nobody else puts one in."""
        return self._serial is not None

    def wait_for_removal(self, timeout_s: float) -> bool:
        """The card drops out when it is waited for."""
        self._serial = None
        return True

    def connect(self) -> CardConnection:
        """Power the blank that was fed.

        Raises:
            NoUsableCard: none was.
        """
        if self._serial is None:
            raise NoUsableCard(self.name)
        return self._insert(self._serial)

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing to let go."""
