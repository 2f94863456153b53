"""The encoders of one station: a thread for each reader, a card in each, and work that is given to a certain card.

A reader goes round: a card is put in, connected exclusively and identified; it waits for work; the work is done; the card
has to be seen leaving before the next one counts. Nothing is written to a card that lay in the reader when the work before
ended. A card that keeps silent costs its own reader only; a restart of pcscd costs a pause. Must not know orders,
journals or what the work is: what became of a card is judged by the function the pool is given.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, overload

from card_personalization.errors import NoUsableCard
from card_personalization.identity import Identity, identify
from card_personalization.pool_status import Event, EventKind, Outcome, ReaderState, ReaderStatus, Timings
from card_personalization.reader_thread import LOOK_S, Connect, ReaderThread, Task
from card_personalization.readers import CardReader
from card_personalization.transport.base import CardConnection

__all__ = ["Connect", "Event", "EventKind", "Outcome", "Pool", "ReaderState", "ReaderStatus", "Timings"]

T = TypeVar("T")
P = TypeVar("P")

WATCHDOG_S = 30.0


class Pool:
    """The readers of a station at work, from the start until `close`."""

    def __init__(
        self,
        readers: Sequence[CardReader],
        *,
        classify: Callable[[Any], Outcome | None],
        on_event: Callable[[Event], None] = lambda event: None,
        identify: Callable[[CardConnection], Identity] = identify,
        watchdog_s: float = WATCHDOG_S,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`classify` says what a piece of work made of its card, None when the card is as it was.

        `on_event` is called from the readers' threads and must return at once. `watchdog_s` is how long one answer of a
        card may take.
        """
        self._classify = classify
        self._watchdog_s = watchdog_s
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._fed: deque[Task[Any]] = deque()
        self._threads = tuple(
            ReaderThread(
                reader,
                changed=self._changed,
                closing=self._closing,
                fed=self._fed,
                on_event=on_event,
                identify=identify,
                clock=clock,
                stopwatch=stopwatch,
            )
            for reader in readers
        )
        self._watchdog = threading.Thread(target=self._watch, name="card-watchdog", daemon=True)
        for thread in (*self._threads, self._watchdog):
            thread.start()

    def loaded(self) -> tuple[str | None, ...]:
        """Chip serials of the cards that wait for work; None for each idle reader that fetches any blank asked for."""
        with self._changed:
            waiting = [thread.waits_for for thread in self._threads if thread.waits]
            fetching = waiting.count(None) - len(self._fed)
            return (*(serial for serial in waiting if serial is not None), *(None,) * max(0, fetching))

    @overload
    def submit(self, serial: str, job: Callable[[Connect], T], *, prepare: None = None) -> Future[T]: ...
    @overload
    def submit(self, serial: str, job: Callable[[Connect, P], T], *, prepare: Callable[[], P]) -> Future[T]: ...
    def submit(self, serial: str, job: Callable[..., T], *, prepare: Callable[[], Any] | None = None) -> Future[T]:
        """Do a piece of work on the card `serial`, in its reader's thread.

        What `prepare` returns is given to the job; it runs before the card is needed, and when it raises no card was used.
        The future ends with `CardMute` when the card keeps silent: its state is not known, and what the job does later no longer
        reaches the card. It ends with `NoUsableCard` at once when no reader holds that card and none can fetch it.
        """
        task = Task(serial, lambda: _bound(job, prepare), self._classify)
        with self._changed:
            if not self._closing.is_set() and self._hand_out(task):
                self._changed.notify_all()
            else:
                task.future.set_exception(NoUsableCard(serial))
        return task.future

    def status(self) -> tuple[ReaderStatus, ...]:
        """Every reader, in the order given."""
        with self._changed:
            return tuple(thread.status() for thread in self._threads)

    def drain(self, reader: str | None = None) -> None:
        """Finish the card in hand and take no more; the reader is let go for other programs. All readers when None.

        Raises:
            KeyError: no such reader.
        """
        self._set_draining(reader, draining=True)

    def resume(self, reader: str | None = None) -> None:
        """Take cards again. All readers when None.

        Raises:
            KeyError: no such reader.
        """
        self._set_draining(reader, draining=False)

    def close(self) -> None:
        """Finish the cards in hand, cancel what was not begun, let the readers go. A hung reader is left behind."""
        with self._changed:
            self._closing.set()
            for task in (*self._fed, *(thread.pending for thread in self._threads if thread.pending)):
                task.future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.interrupt()
        for thread in self._threads:
            while thread.is_alive() and not thread.hung:
                thread.join(LOOK_S)

    def _hand_out(self, task: Task[Any]) -> bool:
        for thread in self._threads:
            if thread.waits and thread.waits_for == task.serial:
                thread.pending = task
                return True
        if any(thread.fetches for thread in self._threads):
            self._fed.append(task)
            return True
        return False

    def _set_draining(self, reader: str | None, *, draining: bool) -> None:
        chosen = [thread for thread in self._threads if reader in (None, thread.reader.name)]
        if not chosen:
            raise KeyError(reader)
        with self._changed:
            for thread in chosen:
                thread.draining = draining
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._closing.is_set() or any(thread.is_alive() and not thread.hung for thread in self._threads):
            for thread in self._threads:
                thread.give_up_after(self._watchdog_s)
            time.sleep(min(LOOK_S, self._watchdog_s / 4))


def _bound(job: Callable[..., T], prepare: Callable[[], Any] | None) -> Callable[[Connect], T]:
    if prepare is None:
        return job
    prepared = prepare()
    return lambda connect: job(connect, prepared)
