"""One reader of the pool: its thread takes a card, waits for work, does it, and sees the card leave.

A reader that is loaded by hand goes: card in, connected and identified, loaded, work, result, card out. One that feeds
itself takes work first and then the blank it is for. Errors of the reader or of pcscd end in a new beginning; errors of
the work belong to whoever gave it. Must not know the other readers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from card_personalization.errors import CardLost, CardMute, NoUsableCard, ReaderBusy
from card_personalization.held_card import HeldCard
from card_personalization.identity import Identity
from card_personalization.pool_status import Event, EventKind, Outcome, ReaderState, ReaderStatus, Timings
from card_personalization.readers import CardReader
from card_personalization.transport.base import CardConnection

T = TypeVar("T")
Connect = Callable[[], CardConnection]
"""The card the work is for, after a cold reset; refuses another one with `CardSwapped`. May be called again."""

BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a lost service or reader is tried again; the last one repeats."""
LOOK_S = 0.2
"""How often a thread that waits for work looks at its reader."""
_STEP_S = 1.0
_PACE = 20
"""Cards that the rate per hour is taken over."""


@dataclass(slots=True)
class Task(Generic[T]):
    """Work for one card: what can be done without the card, then what needs it."""

    serial: str
    prepare: Callable[[], Callable[[Connect], T]]
    judge: Callable[[T], Outcome | None]
    future: Future[T] = field(default_factory=Future)


@dataclass(slots=True)
class _Tally:
    """Counts of one reader."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_PACE))

    def count(self, outcome: Outcome, now: float) -> None:
        self.counts[outcome] += 1
        self.ends.append(now)

    @property
    def per_hour(self) -> float | None:
        span = self.ends[-1] - self.ends[0] if self.ends else 0.0
        return 3600 * (len(self.ends) - 1) / span if span > 0 else None


class ReaderThread(threading.Thread):
    """One reader's thread. `changed` guards what other threads read and set; the rest is the thread's own."""

    def __init__(
        self,
        reader: CardReader,
        *,
        changed: threading.Condition,
        closing: threading.Event,
        fed: deque[Task[Any]],
        on_event: Callable[[Event], None],
        identify: Callable[[CardConnection], Identity],
        clock: Callable[[], float],
        stopwatch: Callable[[], float],
    ) -> None:
        super().__init__(name=f"reader-{reader.name}", daemon=True)
        self.reader = reader
        self.pending: Task[Any] | None = None
        self.draining = False
        self._changed = changed
        self._closing = closing
        self._fed = fed
        self._on_event = on_event
        self._identify = identify
        self._clock = clock
        self._stopwatch = stopwatch
        self._state = ReaderState.DOWN
        self._since = clock()
        self._card: HeldCard | None = None
        self._task: Task[Any] | None = None
        self._tally = _Tally()
        self._last_error: str | None = None
        self._timings: Timings | None = None
        self._spent: Identity | None = None
        """The card that was finished and has not been seen leaving."""
        self._ejected_at: float | None = None

    # ---------------------------------------------------------------------------- for other threads, `changed` held

    @property
    def fetches(self) -> bool:
        """Whether it can be fed with any blank."""
        return self.reader.feed is not None

    @property
    def waits(self) -> bool:
        """Whether work can be given to it now."""
        return self._state is ReaderState.LOADED and self.pending is None and not self.draining

    @property
    def waits_for(self) -> str | None:
        """The serial of the card in it; None when it fetches one."""
        return self._serial

    @property
    def hung(self) -> bool:
        """Whether its card keeps silent."""
        return self._state is ReaderState.HUNG

    def status(self) -> ReaderStatus:
        """The reader now."""
        counts = self._tally.counts
        return ReaderStatus(
            reader=self.reader.name,
            state=self._shown_state,
            since=self._since,
            serial=self._serial,
            cards=sum(counts.values()),
            good=counts[Outcome.GOOD],
            spoiled=counts[Outcome.SPOILED],
            unknown=counts[Outcome.UNKNOWN],
            cards_per_hour=self._tally.per_hour,
            last_error=self._last_error,
            last_card=self._timings,
        )

    @property
    def _serial(self) -> str | None:
        identity = self._spent if self._card is None else self._card.identity
        return None if identity is None else identity.serial

    @property
    def _shown_state(self) -> ReaderState:
        if not self.draining or self._state in (ReaderState.HUNG, ReaderState.DOWN):
            return self._state
        return ReaderState.DRAINING if self._state is ReaderState.WORKING else ReaderState.DRAINED

    # ------------------------------------------------------------------------------------------- for other threads

    def interrupt(self) -> None:
        """Make it look around."""
        self.reader.interrupt()

    def give_up_after(self, watchdog_s: float) -> None:
        """Give up a card that has kept silent for longer; its work is over, whatever comes later."""
        with self._changed:
            card, task = self._card, self._task
            if card is None or self.hung or card.busy_for() <= watchdog_s:
                return
            card.give_up()
            error = CardMute(f"{self.reader.name}: 卡片长时间没有回答 / the card kept silent for {watchdog_s:g} s")
            self._enter(ReaderState.HUNG)
            if task is not None:
                self._tally.count(Outcome.UNKNOWN, self._stopwatch())
                task.future.set_exception(error)
        self._alarm(error)

    # ------------------------------------------------------------------------------------------------- the thread

    def run(self) -> None:
        """Serve the reader; after an error begin again with a new context."""
        failures = 0
        while not self._closing.is_set():
            try:
                self.reader.open()
                failures = 0
                self._tell(EventKind.READER_UP)
                self._serve()
            except CardLost as error:
                self._down(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours at one reader must not cost the others
                self._down(CardLost(f"{self.reader.name}: {type(error).__name__}"))
            else:
                break
            self._closing.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
            failures += 1
        self.reader.close()

    def _serve(self) -> None:
        if self._spent is not None and not self.reader.wait_for_card(0):
            self._spent = None
        serve_one = self._one_put_in if self.reader.feed is None else self._one_fetched
        while not self._closing.is_set():
            serve_one()

    def _one_put_in(self) -> None:
        """One round of a reader that is loaded by hand."""
        if not self.reader.wait_for_card(0):
            self._set(ReaderState.EMPTY)
            if not self.reader.wait_for_card(_STEP_S):
                return
        if self._stopped():
            self.reader.wait_for_removal(LOOK_S)
            return
        seen = self._stopwatch()
        card = self._hold()
        try:
            if self._usable(card):
                self._work_while_there(card, seen)
        finally:
            self._let_go(card)
        if self._spent is not None:
            self._wait_for_removal()

    def _one_fetched(self) -> None:
        """One round of a reader that feeds itself: work first, then its card."""
        self._set(ReaderState.LOADED)
        if (task := self._next_task()) is None:
            return
        assert self.reader.feed is not None
        self._set(ReaderState.WORKING)
        if (work := self._prepared(task)) is None:
            return
        seen = self._stopwatch()
        self.reader.feed(task.serial)
        card = self._hold()
        try:
            self._work(card, task, work, seen)
        finally:
            self._let_go(card)
            self._wait_for_removal()

    def _usable(self, card: HeldCard) -> bool:
        """Whether the card just put in may be worked on; waits for it to go when it may not."""
        try:
            card.connect()
        except ReaderBusy as error:
            self._trouble(error, ReaderState.BUSY)
            self.reader.wait_for_removal(_STEP_S)
            return False
        except CardLost as error:
            if card.cut_off:
                raise
            self._trouble(error, ReaderState.WAITING_REMOVAL)
            self._let_go(card)
            self._wait_for_removal()
            return False
        if card.identity == self._spent:
            return False
        self._spent = None
        self._tell(EventKind.CARD_IN)
        return True

    def _work_while_there(self, card: HeldCard, seen: float) -> None:
        """Give the card work until it was touched, is taken out, or the reader is drained."""
        while card.fresh:
            self._set(ReaderState.LOADED)
            task = self._next_task()
            if task is not None:
                if (work := self._prepared(task)) is not None:
                    self._work(card, task, work, seen)
            elif self._stopped():
                return
            elif self.reader.wait_for_removal(0):
                self._tell(EventKind.CARD_OUT)
                return

    def _next_task(self) -> Task[Any] | None:
        """Work that has come, or None after a while."""
        with self._changed:
            if (task := self._take()) is None and not self._stopped():
                self._changed.wait(LOOK_S)
                task = self._take()
            return task

    def _take(self) -> Task[Any] | None:
        task, self.pending = self.pending, None
        if task is None and self.fetches and self._fed and not self.draining:
            task = self._fed.popleft()
        if task is None or not task.future.set_running_or_notify_cancel():
            return None
        self._task = task
        self._enter(ReaderState.WORKING)
        return task

    def _prepared(self, task: Task[Any]) -> Callable[[Connect], Any] | None:
        try:
            return task.prepare()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever gave the work
            with self._changed:
                self._task = None
            task.future.set_exception(error)
            return None

    def _work(self, card: HeldCard, task: Task[Any], work: Callable[[Connect], Any], seen: float) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = work(card.connect)
            outcome = task.judge(result)
        except Exception as raised:  # noqa: BLE001 - it belongs to whoever gave the work
            error = raised
            outcome = Outcome.UNKNOWN if card.sent else None
        if outcome is not None or card.sent:
            card.close()
            self._measure(card, seen)
            if outcome in (Outcome.GOOD, Outcome.SPOILED) or not card.cut_off:
                self._spent = card.identity
        self._settle(task, result, error, outcome)

    def _settle(self, task: Task[Any], result: Any, error: Exception | None, outcome: Outcome | None) -> None:
        with self._changed:
            self._task = None
            if self.hung:
                return
            if outcome is not None:
                self._tally.count(outcome, self._stopwatch())
            if error is not None:
                self._last_error = _text(error)
        try:
            self._tell(EventKind.RESULT, outcome=outcome, text="" if error is None else _text(error))
        finally:
            if error is None:
                task.future.set_result(result)
            else:
                task.future.set_exception(error)

    def _wait_for_removal(self) -> None:
        self._set(ReaderState.WAITING_REMOVAL)
        while not self.reader.wait_for_removal(_STEP_S):
            if self._closing.is_set():
                return
        self._tell(EventKind.CARD_OUT)
        self._spent = None

    def _hold(self) -> HeldCard:
        card = HeldCard(self.reader.name, self.reader.connect, identify=self._identify, clock=self._stopwatch)
        with self._changed:
            self._card = card
        return card

    def _let_go(self, card: HeldCard) -> None:
        """Work that came for the card as it left must not fall to the next one."""
        card.close()
        with self._changed:
            self._card = None
            missed, self.pending = self.pending, None
        if missed is not None and missed.future.set_running_or_notify_cancel():
            missed.future.set_exception(NoUsableCard(missed.serial))

    def _stopped(self) -> bool:
        return self.draining or self._closing.is_set()

    def _measure(self, card: HeldCard, seen: float) -> None:
        now = self._stopwatch()
        self._timings = Timings(
            seen_to_first_apdu_ms=_ms(seen, card.first_apdu_at),
            worked_ms=_ms(card.first_apdu_at, card.last_answer_at),
            last_answer_to_eject_ms=_ms(card.last_answer_at, now),
            change_ms=_ms(self._ejected_at, seen),
        )
        self._ejected_at = now

    # ------------------------------------------------------------------------------------------ states and listeners

    def _set(self, state: ReaderState) -> None:
        with self._changed:
            self._enter(state)

    def _enter(self, state: ReaderState) -> None:
        if state is not self._state:
            self._state, self._since = state, self._clock()

    def _down(self, error: CardLost) -> None:
        if self._state is not ReaderState.DOWN:
            self._tell(EventKind.READER_DOWN, text=str(error))
        with self._changed:
            self._last_error = str(error)
            self._card = None
            lost = [task for task in (self.pending, self._task) if task is not None and not task.future.done()]
            self.pending = self._task = None
            self._enter(ReaderState.DOWN)
        for task in lost:
            task.future.set_exception(error)

    def _trouble(self, error: CardLost, state: ReaderState) -> None:
        """Alarm once for as long as the trouble lasts."""
        if self._state is not state:
            self._alarm(error)
        self._set(state)

    def _alarm(self, error: CardLost) -> None:
        with self._changed:
            self._last_error = str(error)
        self._tell(EventKind.ALARM, text=str(error))

    def _tell(self, kind: EventKind, *, outcome: Outcome | None = None, text: str = "") -> None:
        self._on_event(
            Event(kind=kind, reader=self.reader.name, at=self._clock(), serial=self._serial, outcome=outcome, text=text)
        )


def _text(error: Exception) -> str:
    """Only our own messages are known to hold no personal data."""
    return str(error) if isinstance(error, CardLost) else type(error).__name__


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000
