"""A circuit breaker before a bank: one that does not answer is left alone for a while, and our workers' time with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal, TypeVar

from pipeline.clock import Clock
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.ports import BankFailure, BankGateway, BankReply, Instruction, Key, LateReplies, NotTried

log = logging.getLogger("zhika.bank")

State = Literal["closed", "open", "half_open"]
_About = TypeVar("_About")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """Leave for a call. What it tells counts only while the breaker is as it was when leave was given (`turn`)."""

    turn: int
    probe: bool


class BankBreaker:
    """A `BankGateway` before another one; safe between threads, which it counts together.

    After `failures` exchanges in a row without an answer (`TransientError`, `OutcomeUnknown`) it opens: for `open_for` every
    key is answered `NotTried`, and the bank hears nothing. Then one exchange, of one key, decides whether it closes or opens
    again. Refusals are answers. A `Defect` and what was never tried tell nothing of the bank.

    Raises:
        ValueError: `failures` or `open_for` is not above nothing.
    """

    def __init__(
        self,
        gateway: BankGateway,
        *,
        name: str,
        clock: Clock,
        failures: int = 5,
        open_for: timedelta = timedelta(seconds=30),
    ) -> None:
        if failures < 1 or open_for <= timedelta(0):
            raise ValueError("a breaker opens after at least one failure, and for some time")
        self._gateway = gateway
        self._name = name
        self._clock = clock
        self._most = failures
        self._open_for = open_for
        self._lock = threading.Lock()
        self._turn = 0
        self._failures = 0
        self._opened_at: datetime | None = None
        self._probing = False

    def __repr__(self) -> str:
        return f"BankBreaker({self._gateway!r}, {self.state})"

    def close(self) -> None:
        """Let go of the gateway behind."""
        close = getattr(self._gateway, "close", None)
        if close is not None:
            close()

    @property
    def state(self) -> State:
        """As a call would find it now."""
        with self._lock:
            return self._state()

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        """As the gateway behind; `NotTried` for each key while open."""

        def call(part: Sequence[Instruction]) -> Mapping[Key, BankReply | BankFailure]:
            return self._gateway.submit(part, deadline=deadline)

        return self._guarded(call, instructions, lambda instruction: instruction.key)

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """As the gateway behind; `NotTried` for each key while open."""

        def call(part: Sequence[Key]) -> Mapping[Key, BankReply | BankFailure | None]:
            return self._gateway.find(part, deadline=deadline)

        return self._guarded(call, keys, lambda key: key)

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        """As the gateway behind, also while open: what is brought in here is not asked of the bank."""
        return self._gateway.collect(after=after, limit=limit)

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]:
        """As the gateway behind.

        Raises:
            NotTried: the breaker is open.
        """
        leave = self._leave()
        if leave is None:
            raise _left_alone()
        return self._tried(leave, lambda: self._gateway.statement(day, deadline=deadline), lambda _: (None,))

    def _guarded(
        self,
        call: Callable[[Sequence[_About]], Mapping[Key, _Answer]],
        about: Sequence[_About],
        key_of: Callable[[_About], Key],
    ) -> dict[Key, _Answer | BankFailure]:
        answers: dict[Key, _Answer | BankFailure] = {}
        left = list(about)
        while left:
            leave = self._leave()
            if leave is None:
                return answers | {key_of(item): _left_alone() for item in left}
            part, left = _first(left, key_of) if leave.probe else (left, [])
            told: Mapping[Key, _Answer] = self._tried(leave, partial(call, part), lambda told: told.values())
            answers.update(told)
        return answers

    def _tried(self, leave: _Pass, call: Callable[[], _Answer], told: Callable[[_Answer], Iterable[object]]) -> _Answer:
        learnt: Iterable[object] = ()
        try:
            answer = call()
            learnt = told(answer)
            return answer
        except (TransientError, OutcomeUnknown) as error:
            learnt = (error,)
            raise
        finally:
            self._learn(leave, learnt)

    def _state(self) -> State:
        if self._opened_at is None:
            return "closed"
        # A clock that was put back must not keep a bank waiting.
        waiting = timedelta(0) <= self._clock.now() - self._opened_at < self._open_for
        return "open" if waiting else "half_open"

    def _leave(self) -> _Pass | None:
        with self._lock:
            state = self._state()
            if state == "open" or self._probing:
                return None
            self._probing = state == "half_open"
            return _Pass(turn=self._turn, probe=self._probing)

    def _learn(self, leave: _Pass, results: Iterable[object]) -> None:
        with self._lock:
            if leave.probe:
                self._probing = False
            for result in results:
                if leave.turn != self._turn:  # what was known before the breaker turned is old
                    return
                if isinstance(result, NotTried | Defect):
                    continue
                if isinstance(result, TransientError | OutcomeUnknown):
                    self._failures += 1
                    if leave.probe or self._failures >= self._most:
                        self._open()
                else:
                    self._failures = 0
                    if leave.probe:
                        self._close()

    def _open(self) -> None:
        if self._opened_at is None:
            log.warning("bank %s does not answer: left alone for %g s", self._name, self._open_for.total_seconds())
        self._opened_at = self._clock.now()
        self._turn += 1
        self._failures = 0

    def _close(self) -> None:
        log.warning("bank %s answers again", self._name)
        self._opened_at = None
        self._turn += 1


def _first(about: Sequence[_About], key_of: Callable[[_About], Key]) -> tuple[list[_About], list[_About]]:
    """All that is said of the first key, so that two contents of one key are still found out; and the rest."""
    first = key_of(about[0])
    return [item for item in about if key_of(item) == first], [item for item in about if key_of(item) != first]


def _left_alone() -> NotTried:
    return NotTried("the bank does not answer and is left alone for a while: nothing was sent")
