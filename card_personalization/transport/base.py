"""The port to one card in one reader. Must not know what the bytes mean."""

from typing import Protocol


class CardConnection(Protocol):
    """A powered card held exclusively. Every method raises `CardLost` once the card is gone."""

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """Body and status word of one command.

        Raises:
            CardLost: no answer came; whether the command was carried out is not known.
        """

    def reset(self) -> None:
        """Cold reset: selection, challenge and security status are gone afterwards.

        Raises:
            CardLost: the card did not come back.
        """

    def close(self) -> None:
        """Power off and let the reader go. Never raises; may be called twice."""
