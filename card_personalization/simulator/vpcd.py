"""A virtual card in a reader of vpcd, the virtual reader of the vsmartcard project: pcscd sees an ordinary reader.

The card is the client: it connects to the reader's port, and closing the connection takes the card out. Messages are two
bytes of length, big-endian, and a body: one byte controls the power, anything else is a command.
Must not know what a command means.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from card_personalization.errors import CardLost
from card_personalization.simulator.connection import Silent, VirtualConnection

log = logging.getLogger(__name__)

POWER_OFF, POWER_ON, RESET, GET_ATR = 0x00, 0x01, 0x02, 0x04

BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""How long to wait for a reader that is not there, again and again with the last."""
SWAP_S = 1.0
"""How long the reader stays empty between two cards, so that the removal is seen."""

CardSource = Callable[[], VirtualConnection]


class VpcdCard:
    """One card for one reader. `card_source` puts a card in; it is asked again after `eject` and `insert`.

    `run` blocks until `stop`; all other methods may be called from any thread. `on_line` hears True when the reader has
    powered the card, and False when it cannot be reached or let the card go.
    """

    def __init__(
        self,
        host: str,
        port: int,
        card_source: CardSource,
        *,
        swap_s: float = SWAP_S,
        on_line: Callable[[bool], None] = lambda connected: None,
    ) -> None:
        self._address = (host, port)
        self._card_source = card_source
        self._swap_s = swap_s
        self._on_line = on_line
        self._stopped = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._changed = threading.Condition()
        self._line: socket.socket | None = None

    def run(self) -> None:
        """Hold a card in the reader until `stop`; come back when the reader restarts."""
        card: VirtualConnection | None = None
        failures = 0
        while not self._stopped.is_set():
            if not self._wanted.is_set():
                self._wait_for_insertion()
                continue
            card = card or self._card_source()
            line = self._connected()
            if line is not None:
                failures = 0
                card = self._served(line, card)
            self._on_line(False)
            if card is not None:
                self._stopped.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
                failures += 1
        if card is not None:
            card.close()

    def stop(self) -> None:
        """End `run`; the card is taken out."""
        self._stopped.set()
        self._hang_up()

    def eject(self) -> None:
        """Take the card out, also while it is working."""
        self._wanted.clear()
        self._hang_up()

    def insert(self) -> None:
        """Put a card in after `eject` or after the card was torn out."""
        self._wanted.set()
        with self._changed:
            self._changed.notify_all()

    def _served(self, line: socket.socket, card: VirtualConnection) -> VirtualConnection | None:
        """Serve one connection to the reader; the card that is to be connected next, if any."""
        try:
            serve_line(line, card, on_powered=lambda: self._on_line(True))
        except CardLost:
            return self._after_loss(card)
        except OSError as error:
            log.info("reader at %s:%d is gone: %s", *self._address, error.__class__.__name__)
        finally:
            self._let_go()
        if self._wanted.is_set():
            return card
        card.close()
        return None

    def _after_loss(self, card: VirtualConnection) -> VirtualConnection | None:
        """Another card if one was swapped in, else an empty reader until `insert`, which may come once it is empty."""
        try:
            card.reset()
        except Silent:
            pass
        except CardLost:
            self._wanted.clear()
            card.close()
            return None
        self._let_go()
        self._stopped.wait(self._swap_s)
        return card

    def _connected(self) -> socket.socket | None:
        try:
            line = socket.create_connection(self._address, timeout=5)
        except OSError:
            return None
        line.settimeout(None)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._line = line
        if self._stopped.is_set() or not self._wanted.is_set():
            self._hang_up()
        return line

    def _hang_up(self) -> None:
        with self._changed:
            if self._line is not None:
                with contextlib.suppress(OSError):
                    self._line.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def _let_go(self) -> None:
        with self._changed:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def _wait_for_insertion(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or self._wanted.is_set())


def serve_line(line: socket.socket, card: VirtualConnection, *, on_powered: Callable[[], None] = lambda: None) -> None:
    """Answer what the reader sends until it closes the connection. `on_powered` each time it powered the card and has its ATR.

    Raises:
        CardLost: the card was pulled.
        OSError: the connection broke.
    """
    powered = False
    while True:
        message = _message(line)
        if message is None:
            return
        answer = _answer(message, card)
        if answer is not None:
            line.sendall(len(answer).to_bytes(2, "big") + answer)
        if powered and message == bytes((GET_ATR,)):
            on_powered()
        powered = message in (bytes((POWER_ON,)), bytes((RESET,)))


def _answer(message: bytes, card: VirtualConnection) -> bytes | None:
    """What the card says; a silent card says nothing to a command and has an empty ATR."""
    if len(message) == 1:
        control = message[0]
        if control in (POWER_ON, RESET):
            with contextlib.suppress(Silent):
                card.reset()
        return card.atr if control == GET_ATR else None
    try:
        body, sw = card.transmit(message)
    except Silent:
        return None
    return body + sw.to_bytes(2, "big")


def _message(line: socket.socket) -> bytes | None:
    head = _received(line, 2)
    return None if head is None else _received(line, int.from_bytes(head, "big"))


def _received(line: socket.socket, size: int) -> bytes | None:
    """`size` bytes, or None at the end. The reader sends length and body apart: without an acknowledgement at once,
    the second waits 40 ms for a delayed one, and the kernel forgets the wish after every use."""
    data = b""
    while len(data) < size:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = line.recv(size - len(data))
        if not part:
            return None
        data += part
    return data


def serve(cards: Sequence[VpcdCard], stopped: threading.Event) -> None:
    """Run all cards until `stopped` is set, each in a thread of its own."""
    threads = [threading.Thread(target=card.run, name=f"vpcd-{n}", daemon=True) for n, card in enumerate(cards)]
    for thread in threads:
        thread.start()
    stopped.wait()
    for card in cards:
        card.stop()
    for thread in threads:
        thread.join()
