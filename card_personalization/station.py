"""One station: takes an order and a blank, and says what became of the blank.

Owns the rule that matters most: a blank touched for one order is never written for another, and a blank whose state
is not known is never given back as good. Verdicts are values; errors of data or deployment (PlanError, KeyRefused) are
raised before a card is touched. Must not know how readers, keys or stock work. Different blanks may be worked on from
several threads at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path

from card_personalization.apdu import Channel
from card_personalization.atr import Atr
from card_personalization.errors import (
    ApduError,
    AuthenticationFailed,
    CardLost,
    ChannelError,
    CounterAlarm,
    JournalConflict,
    KeyCheckFailed,
    KeyRefused,
    UnknownCard,
)
from card_personalization.identity import Identity, identify
from card_personalization.journal import CardState, History, Journal, OpenAttempt, Recorder
from card_personalization.keys.base import KeyStore
from card_personalization.personalize import personalize
from card_personalization.plan import Part, Plan
from card_personalization.transport.base import CardConnection
from card_personalization.verify import Fields, ReadBack, Verification, compare, read_back, somebody_else


class Verdict(StrEnum):
    """What became of the blank."""

    VERIFIED = "verified"
    """It carries exactly this order, read back after a reset."""
    UNTOUCHED = "untouched"
    """Nothing that changes it was sent: it may be used again, for any order."""
    SPOILED = "spoiled"
    """It is ruined; take another one."""
    UNKNOWN = "unknown"
    """It cannot be told (chip.unknown): keep it for this order until `recover` or an operator settles it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome for one order on one blank. `fields` is what was read back, masked in repr.

    `keys_refused`: card and station do not agree about keys, or the counter of the chip is not to be believed. Every further card
    would lose a try, so the station must stop.
    """

    order_id: str
    serial: str
    verdict: Verdict
    card_id: str | None
    atr: bytes | None
    fields: Mapping[str, str]
    problem: str | None
    keys_refused: bool
    apdus: int
    elapsed_ms: float


class _Next(Enum):
    WRITE = "write"


Connect = Callable[[], CardConnection]
"""Powers the card in the reader anew; the connection before it is closed."""


class Station:
    """Personalises blanks one at a time per thread; the journal directory is its own."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        journal_dir: Path,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._keys = keys
        self._journal = Journal(journal_dir, clock=clock)
        self._stopwatch = stopwatch

    def personalise(self, plan: Plan, serial: str, connect: Connect) -> Report:
        """Write the plan to the blank `serial` and read it back; a card that already carries it is only read.

        A status word that spoils a write is answered by a fresh start on the same card, up to the profile's
        `max_attempts`; a card that stops answering is left for `recover`.

        Raises:
            KeyRefused: the key store lacks a key; no card was touched.
        """
        return self._work(plan, serial, connect, write_blank=True)

    def recover(self, plan: Plan, serial: str, connect: Connect) -> Report:
        """Settle a blank whose attempt was cut short: read it, and finish the same order if it was begun.

        A blank that nothing was sent to is left alone and reported UNTOUCHED.

        Raises:
            KeyRefused: the key store lacks a key; no card was touched.
        """
        return self._work(plan, serial, connect, write_blank=False)

    def open_attempts(self) -> tuple[OpenAttempt, ...]:
        """Touched blanks without a verdict, from the journal: to be settled at the start."""
        return self._journal.open_attempts()

    def _work(self, plan: Plan, serial: str, connect: Connect, *, write_blank: bool) -> Report:
        started = self._stopwatch()
        for ref, usage in plan.profile.keys:
            self._keys.check(ref, usage=usage)
        job = _Job(
            plan=plan, history=self._journal.history(serial), journal=self._journal, keys=self._keys, connect=connect
        )
        try:
            verdict, problem = job.run(write_blank=write_blank)
        finally:
            job.close()
        return Report(
            order_id=plan.order_id,
            serial=serial,
            verdict=verdict,
            card_id=job.seen.found.card_id if job.seen else None,
            atr=job.seen.chip.atr if job.seen else None,
            fields=job.seen.found.fields if job.seen else Fields({}),
            problem=problem,
            keys_refused=job.keys_refused,
            apdus=job.apdus,
            elapsed_ms=(self._stopwatch() - started) * 1000,
        )


_Outcome = tuple[Verdict, str | None]
_VERIFIED: _Outcome = (Verdict.VERIFIED, None)
_CHIP_SERIAL = re.compile(r"[0-9A-F]{8}", re.ASCII)
"""A blank that goes by the serial of its chip."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A card as it was found after a cold reset, and the channel to it."""

    channel: Channel
    chip: Identity
    atr: Atr
    found: ReadBack
    verification: Verification


@dataclass(slots=True, kw_only=True)
class _Job:
    """One order on one blank; lives for one call. `seen` is the last look at the card."""

    plan: Plan
    history: History
    journal: Journal
    keys: KeyStore
    connect: Connect
    seen: _Seen | None = None
    keys_refused: bool = False
    _connection: CardConnection | None = None
    _channels: list[Channel] = field(default_factory=list)

    @property
    def apdus(self) -> int:
        return sum(channel.sent for channel in self._channels)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, *, write_blank: bool) -> _Outcome:
        if (refusal := refuse_by_history(self.history, order_id=self.plan.order_id)) is not None:
            return refusal
        try:
            seen = self._look()
        except CardLost as error:
            return self._unread(f"the card does not answer: {error}", write_blank=write_blank)
        except (ApduError, UnknownCard) as error:
            return self._unread(f"the card cannot be read: {error}", write_blank=write_blank)
        decision = self._decide(seen, write_blank=write_blank)
        if isinstance(decision, _Next):
            return self._write(seen)
        self._settle_found(decision)
        return decision

    def _unread(self, problem: str, *, write_blank: bool) -> _Outcome:
        return (self._untouched() if write_blank else Verdict.UNKNOWN), problem

    def _untouched(self) -> Verdict:
        return Verdict.UNTOUCHED if self.history.owner is None else Verdict.UNKNOWN

    def _look(self) -> _Seen:
        """Read the card anew, cold, and make sure that it is still the same one."""
        self.close()
        self._connection = self.connect()
        self._connection.reset()
        atr = Atr.parse(self._connection.atr)
        profile = self.plan.profile
        chip = identify(self._connection, security_domain=profile.security_domain)
        if self.seen is not None and chip != self.seen.chip:
            raise UnknownCard("another card is in the reader")
        channel = Channel(self._connection)
        self._channels.append(channel)
        found = read_back(channel, profile=profile, images=self.plan.images)
        self.seen = _Seen(channel, chip, atr, found, compare(found, plan=self.plan, atr=atr, keys=self.keys))
        return self.seen

    def _decide(self, seen: _Seen, *, write_blank: bool) -> _Outcome | _Next:
        owner = self.history.owner
        if owner is not None and owner.chip != str(seen.chip):
            return Verdict.UNKNOWN, "another card is in the reader than the one this order was begun on"
        if seen.verification.equal:
            return _VERIFIED
        if (misfit := _misfit(seen, self.history.serial)) is not None:
            return self._untouched(), misfit
        return decide(
            seen.found,
            owner=owner.state if owner else None,
            foreign=somebody_else(seen.found, plan=self.plan),
            write_blank=write_blank,
        )

    def _settle_found(self, outcome: _Outcome) -> None:
        """A card found good by reading alone closes the attempt that was left open."""
        owner = self.history.owner
        if outcome == _VERIFIED and owner is not None and owner.state is not CardState.VERIFIED:
            self.journal.settle(owner, CardState.VERIFIED)

    def _write(self, seen: _Seen) -> _Outcome:
        """Write from SELECT until the card verifies, is lost, or has had the attempts it may have."""
        problem = "the card was not finished in the attempts it may have"
        while len(self.history.touched) < self.plan.profile.max_attempts:
            result = self._attempt(self.seen or seen)
            if isinstance(result, tuple):
                return result
            problem = result
            self.history = self.journal.history(self.history.serial)
        self._spoil()
        return Verdict.SPOILED, problem

    def _spoil(self) -> None:
        if (owner := self.history.owner) is not None:
            self.journal.settle(owner, CardState.SPOILED)

    def _attempt(self, seen: _Seen) -> _Outcome | str:
        """One attempt: an outcome, or the reason for which the same card may be begun again."""
        parts = tuple(part for part in self.plan.parts if not (part.mutating and seen.verification.done(part.name)))
        recorder = self.journal.begin(
            self.history,
            order_id=self.plan.order_id,
            chip=str(seen.chip),
            plan_digest=self.plan.digest(self.keys.digest),
        )
        try:
            return self._write_and_check(parts, seen, recorder)
        except AuthenticationFailed as error:
            return self._refused(error, recorder)
        except KeyRefused as error:
            if not self._touched(recorder):
                raise
            self.keys_refused = True
            return Verdict.UNKNOWN, str(error)
        except JournalConflict as error:
            return Verdict.UNKNOWN, str(error)
        except CounterAlarm as error:
            self.keys_refused = True
            return Verdict.UNKNOWN, str(error)
        except KeyCheckFailed as error:
            self.keys_refused = True
            return self._stopped(recorder, f"the card has other keys: {error}")
        except CardLost as error:
            return self._stopped(recorder, f"the card was lost: {error}")
        except (ApduError, ChannelError, UnknownCard) as error:
            return self._stopped(recorder, f"the card stopped the work: {error}")
        finally:
            recorder.close()

    def _write_and_check(self, parts: tuple[Part, ...], seen: _Seen, recorder: Recorder) -> _Outcome | str:
        refusal = self._personalize(parts, seen, recorder)
        verification = self._look().verification
        if verification.equal:
            recorder.ended(CardState.VERIFIED)
            return _VERIFIED
        return refusal or "the card holds something else than was written: " + ", ".join(verification.differing)

    def _personalize(self, parts: tuple[Part, ...], seen: _Seen, recorder: Recorder) -> str | None:
        """Carry out the parts; the reason when the card refused a step after it was touched."""
        try:
            personalize(parts, channel=seen.channel, atr=seen.atr, keys=self.keys, recorder=recorder)
        except (AuthenticationFailed, CounterAlarm, KeyCheckFailed):
            raise
        except (ApduError, ChannelError) as error:
            if not recorder.touched:
                raise
            return f"the card refused to be written: {error}"
        return None

    def _refused(self, error: AuthenticationFailed, recorder: Recorder) -> _Outcome:
        self.keys_refused = True
        problem = f"the card refused our key: {error}"
        if error.blocked:
            recorder.ended(CardState.SPOILED)
            return Verdict.SPOILED, problem
        return (Verdict.UNKNOWN if self._touched(recorder) else Verdict.UNTOUCHED), problem

    def _stopped(self, recorder: Recorder, problem: str) -> _Outcome:
        return (Verdict.UNKNOWN if self._touched(recorder) else Verdict.UNTOUCHED), problem

    def _touched(self, recorder: Recorder) -> bool:
        return recorder.touched or self.history.owner is not None


def _misfit(seen: _Seen, serial: str) -> str | None:
    """Why this chip is not the blank that was meant, or not of the kind the profile is for; told before anything is written."""
    if _CHIP_SERIAL.fullmatch(serial) and seen.chip.serial != serial:
        return f"the card in the reader is {seen.chip.serial}, not the blank {serial}"
    if missing := [found.name for found in seen.found.applications if not found.present]:
        return f"the card has no application {', '.join(missing)}: it is not of this kind"
    wrong = [r.field.value for r, value in seen.found.records if value is None or len(value) != r.length]
    return f"the records of the card are others than the profile's: {', '.join(wrong)}" if wrong else None


def refuse_by_history(history: History, *, order_id: str) -> tuple[Verdict, str | None] | None:
    """The suspect rule as far as the journal alone decides it; None when the card may be looked at."""
    owner = history.owner
    if owner is None or (owner.order_id == order_id and owner.state is not CardState.SPOILED):
        return None
    if owner.state is CardState.SPOILED:
        return Verdict.SPOILED, "this blank is spoiled"
    return Verdict.UNKNOWN, "this blank was touched for another order"


def decide(
    found: ReadBack, *, owner: CardState | None, foreign: bool, write_blank: bool
) -> tuple[Verdict, str | None] | _Next:
    """What to do with a card that does not hold the order (yet). `owner` is the state this order left it in, if any."""
    if foreign:
        return Verdict.UNKNOWN, "the card carries somebody else's data"
    if owner is CardState.VERIFIED:
        return Verdict.UNKNOWN, "the card was verified before and now holds something else"
    if owner is not None:
        return _Next.WRITE
    if not found.blank:
        return Verdict.UNKNOWN, "the card holds data that no journal accounts for"
    return _Next.WRITE if write_blank else (Verdict.UNTOUCHED, None)
