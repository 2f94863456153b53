"""Real readers through PC/SC (winscard): one context of its own for each thread, one exclusive connection to a card.

The only module that imports pyscard, and only its plain functions: its classes connect shared first, lose error codes
and stop watching when the service is restarted. Errors are told apart by their code, never by text. Must not know what
commands mean or whose card it is.

A context belongs to one thread; only `PcscReader.interrupt` may be called from another. Calls on a shared context would
wait for each other: 8 readers on one took eight times as long as on their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smartcard import scard

from card_personalization.errors import (
    CardError,
    CardLost,
    NoUsableCard,
    ReaderBusy,
    ReaderError,
    ReaderGone,
    ServiceDown,
    StaleHandle,
)

STEP_S = 1.0
"""The longest single wait for a change: what a lost `interrupt` costs."""

_ERRORS: dict[int, type[ReaderError]] = {
    0x8010000C: NoUsableCard,  # SCARD_E_NO_SMARTCARD
    0x80100066: NoUsableCard,  # SCARD_W_UNRESPONSIVE_CARD
    0x80100067: NoUsableCard,  # SCARD_W_UNPOWERED_CARD
    0x8010000B: ReaderBusy,  # SCARD_E_SHARING_VIOLATION
    0x80100009: ReaderGone,  # SCARD_E_UNKNOWN_READER
    0x80100017: ReaderGone,  # SCARD_E_READER_UNAVAILABLE
    0x8010002E: ReaderGone,  # SCARD_E_NO_READERS_AVAILABLE
    0x8010001D: ServiceDown,  # SCARD_E_NO_SERVICE
    0x8010001E: ServiceDown,  # SCARD_E_SERVICE_STOPPED
    0x80100013: ServiceDown,  # SCARD_F_COMM_ERROR
    0x80100003: StaleHandle,  # SCARD_E_INVALID_HANDLE
}
_NO_CHANGE = frozenset({0x8010000A, 0x80100002})
"""SCARD_E_TIMEOUT, SCARD_E_CANCELLED"""
_NO_READER = scard.SCARD_STATE_UNKNOWN | scard.SCARD_STATE_UNAVAILABLE
_COUNTED = ~0xFFFF
"""pcsc-lite counts insertions and removals in the upper half of a reader's state."""
_PROTOCOLS = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
_PCI = {scard.SCARD_PROTOCOL_T0: scard.SCARD_PCI_T0, scard.SCARD_PROTOCOL_T1: scard.SCARD_PCI_T1}
_STATUS_WORD = 2
_HEADER = 5


def failure(reader: str, hresult: int) -> CardError:
    """What a result code other than success means for the caller.

    A code that is not known is a lost card: that leads to the careful treatment.
    """
    code = _unsigned(hresult)
    if (kind := _ERRORS.get(code)) is not None:
        return kind(reader, code)
    return CardLost(f"{reader}: 卡片中途失去联系 / the card was lost [{code:08X}]")


def list_readers() -> tuple[str, ...]:
    """Names of the readers there are now.

    Raises:
        ServiceDown: pcscd does not answer.
    """
    context = _Context("PC/SC")
    try:
        return context.readers()
    finally:
        context.release()


class _Context:
    """A SCARDCONTEXT and the calls on it, results checked."""

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self.handle = self.check(scard.SCardEstablishContext(scard.SCARD_SCOPE_USER))

    def check(self, result: Any) -> Any:
        """The value behind the result code; a tuple where there are several."""
        return _checked(self.reader, result)

    def readers(self) -> tuple[str, ...]:
        try:
            return tuple(self.check(scard.SCardListReaders(self.handle, [])))
        except ReaderGone:
            return ()

    def state(self, known: int, timeout_s: float) -> int:
        """The reader's state once it differs from `known`, or `known` after the time.

        Raises:
            ReaderGone: no such reader.
            ServiceDown: pcscd does not answer.
        """
        hresult, states = scard.SCardGetStatusChange(self.handle, int(timeout_s * 1000), [(self.reader, known)])
        if _unsigned(hresult) in _NO_CHANGE:
            return known
        ((_, state, _),) = self.check((hresult, states))
        if state & _NO_READER:
            raise ReaderGone(self.reader)
        return int(state & ~scard.SCARD_STATE_CHANGED)

    def cancel(self) -> None:
        scard.SCardCancel(self.handle)

    def release(self) -> None:
        scard.SCardReleaseContext(self.handle)


def _checked(reader: str, result: Any) -> Any:
    hresult, *values = result if isinstance(result, list | tuple) else (result,)
    if hresult != scard.SCARD_S_SUCCESS:
        raise failure(reader, hresult)
    return values[0] if len(values) == 1 else tuple(values)


def _unsigned(hresult: int) -> int:
    """pyscard gives codes as signed numbers."""
    return hresult & 0xFFFFFFFF


class PcscConnection:
    """A card held exclusively through PC/SC; powered off when it is closed."""

    def __init__(self, context: _Context) -> None:
        """Power the card in the context's reader.

        Raises:
            NoUsableCard: none there, or it does not answer to reset.
            ReaderBusy: another program holds it.
            ReaderGone, ServiceDown, StaleHandle: no way to it.
        """
        self._reader = context.reader
        self._card, self._protocol = context.check(
            scard.SCardConnect(context.handle, context.reader, scard.SCARD_SHARE_EXCLUSIVE, _PROTOCOLS)
        )
        self._open = True
        try:
            self._atr = self._answer_to_reset()
        except CardLost:
            self.close()
            raise

    @property
    def atr(self) -> bytes:
        """The answer to the last reset."""
        return self._atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        """Body and status word of one command. Blocks as long as the card keeps silent.

        With T=0 a command that brings data and wants an answer goes without Le, since its last byte would be taken for data; the
        card announces the answer with 61xx (ISO/IEC 7816-3 12.2.1).

        Raises:
            CardLost: no answer came; whether the command was carried out is not known.
        """
        self._present()
        if self._protocol == scard.SCARD_PROTOCOL_T0 and len(apdu) > _HEADER and len(apdu) == _HEADER + apdu[4] + 1:
            apdu = apdu[:-1]
        answer = bytes(self._checked(scard.SCardTransmit(self._card, _PCI[self._protocol], list(apdu))))
        if len(answer) < _STATUS_WORD:
            raise CardLost(f"{self._reader}: 卡片没有回答 / the card gave no answer")
        return answer[:-_STATUS_WORD], int.from_bytes(answer[-_STATUS_WORD:], "big")

    def reset(self) -> None:
        """Cold reset. It also succeeds on a card put in meanwhile: compare `atr`.

        Raises:
            CardLost: the card did not come back.
        """
        self._present()
        self._protocol = self._checked(
            scard.SCardReconnect(self._card, scard.SCARD_SHARE_EXCLUSIVE, _PROTOCOLS, scard.SCARD_UNPOWER_CARD)
        )
        self._atr = self._answer_to_reset()

    def close(self) -> None:
        """Power off and let the reader go. Never raises; may be called twice."""
        if self._open:
            self._open = False
            scard.SCardDisconnect(self._card, scard.SCARD_UNPOWER_CARD)

    def _answer_to_reset(self) -> bytes:
        _, _, _, atr = self._checked(scard.SCardStatus(self._card))
        return bytes(atr)

    def _checked(self, result: Any) -> Any:
        return _checked(self._reader, result)

    def _present(self) -> None:
        if not self._open:
            raise StaleHandle(self._reader)


class PcscReader:
    """One reader by name, for one thread."""

    feed = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._context: _Context | None = None
        self._state = scard.SCARD_STATE_UNAWARE

    def open(self) -> None:
        """A new context, whatever became of the former; the card that may be in the reader counts as put in now.

        Raises:
            ServiceDown: pcscd does not answer.
            ReaderGone: it has no such reader.
        """
        self.close()
        self._context = _Context(self.name)
        self._state = scard.SCARD_STATE_UNAWARE
        if self.name not in self._context.readers():
            raise ReaderGone(self.name)

    def wait_for_card(self, timeout_s: float) -> bool:
        """Whether a card is in the reader, at the latest after the time.

        Raises:
            ReaderGone, ServiceDown: nothing can be seen any more.
        """
        return self._wait(lambda state: bool(state & scard.SCARD_STATE_PRESENT), timeout_s)

    def wait_for_removal(self, timeout_s: float) -> bool:
        """Whether the card seen last was taken out, also if another is there already, at the latest after the time.

        Raises:
            ReaderGone, ServiceDown: nothing can be seen any more.
        """
        seen = self._state & _COUNTED
        return self._wait(lambda state: not state & scard.SCARD_STATE_PRESENT or state & _COUNTED != seen, timeout_s)

    def connect(self) -> PcscConnection:
        """The card in the reader, powered and held exclusively.

        Raises:
            NoUsableCard, ReaderBusy, ReaderGone, ServiceDown, StaleHandle: see there.
        """
        return PcscConnection(self._opened())

    def interrupt(self) -> None:
        """End a wait that another thread is in; one that has not begun yet lasts a step."""
        if (context := self._context) is not None:
            context.cancel()

    def close(self) -> None:
        """Let the context go. Never raises."""
        if self._context is not None:
            self._context.release()
            self._context = None

    def _wait(self, reached: Callable[[int], bool], timeout_s: float) -> bool:
        for time_s in (0.0, min(timeout_s, STEP_S)):
            self._state = self._opened().state(self._state, time_s)
            if reached(self._state):
                return True
        return False

    def _opened(self) -> _Context:
        if self._context is None:
            raise StaleHandle(self.name)
        return self._context
