"""One station: takes an order and a blank, and says what became of the blank.

Owns the rule that matters most: a blank touched for one order is never written for another, and a blank whose state
is not known is never given back as good. Verdicts are values; errors of data or deployment (PlanError, KeyRefused) are
raised before a card is touched. Must not know how readers, keys or stock work. Different blanks may be worked on from
several threads at once.
"""

import os
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
    JournalConflict,
    UnknownCard,
)
from card_personalization.journal import CardState, History, Journal, OpenAttempt, Recorder
from card_personalization.keys.base import KeyStore
from card_personalization.personalize import personalize
from card_personalization.plan import CardOrder, Plan, build
from card_personalization.profiles import CardProfile
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
    """The outcome for one order on one blank. `fields` is what was read back, masked in repr."""

    order_id: str
    serial: str
    verdict: Verdict
    card_id: str | None
    atr: bytes | None
    fields: Mapping[str, str]
    problem: str | None
    apdus: int
    elapsed_ms: float


class _Next(Enum):
    WRITE = "write"


class Station:
    """Personalises blanks one at a time per thread; the journal directory is its own."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        profile: CardProfile,
        journal_dir: Path,
        connect: Callable[[str], CardConnection],
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._keys = keys
        self._profile = profile
        self._journal = Journal(journal_dir, clock=clock)
        self._connect = connect
        self._random = random
        self._stopwatch = stopwatch

    def personalise(self, order: CardOrder, serial: str) -> Report:
        """Write the order to the blank `serial` and read it back; a card that already carries it is only read.

        A status word that spoils a write is answered by a fresh start on the same card, up to the profile's
        `max_attempts`; a card that stops answering is left for `recover`.

        Raises:
            PlanError: the order cannot be made; no card was touched.
            KeyRefused: the key store lacks a key; no card was touched.
        """
        return self._work(order, serial, write_blank=True)

    def recover(self, order: CardOrder, serial: str) -> Report:
        """Settle a blank whose attempt was cut short: read it, and finish the same order if it was begun.

        A blank that nothing was sent to is left alone and reported UNTOUCHED.

        Raises:
            PlanError: the order cannot be made; no card was touched.
            KeyRefused: the key store lacks a key; no card was touched.
        """
        return self._work(order, serial, write_blank=False)

    def open_attempts(self) -> tuple[OpenAttempt, ...]:
        """Touched blanks without a verdict, from the journal: to be settled at the start."""
        return self._journal.open_attempts()

    def _work(self, order: CardOrder, serial: str, *, write_blank: bool) -> Report:
        started = self._stopwatch()
        plan = build(self._profile, order)
        job = _Job(
            plan=plan,
            history=self._journal.history(serial),
            journal=self._journal,
            keys=self._keys,
            profile=self._profile,
            connect=self._connect,
            random=self._random,
        )
        try:
            verdict, problem = job.run(write_blank=write_blank)
        finally:
            job.close()
        return Report(
            order_id=order.order_id,
            serial=serial,
            verdict=verdict,
            card_id=job.seen.found.card_id if job.seen else None,
            atr=job.seen.atr.raw if job.seen else None,
            fields=job.seen.found.fields if job.seen else Fields({}),
            problem=problem,
            apdus=job.apdus,
            elapsed_ms=(self._stopwatch() - started) * 1000,
        )


_Outcome = tuple[Verdict, str | None]
_VERIFIED: _Outcome = (Verdict.VERIFIED, None)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A card as it was found after a cold reset, and the channel to it."""

    channel: Channel
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
    profile: CardProfile
    connect: Callable[[str], CardConnection]
    random: Callable[[int], bytes]
    seen: _Seen | None = None
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
        nothing_sent = write_blank and self.history.owner is None
        return (Verdict.UNTOUCHED if nothing_sent else Verdict.UNKNOWN), problem

    def _look(self) -> _Seen:
        """Read the card anew, cold, and make sure that it is still the same one."""
        self.close()
        self._connection = self.connect(self.history.serial)
        self._connection.reset()
        atr = Atr.parse(self._connection.atr)
        if self.seen is not None and atr != self.seen.atr:
            raise UnknownCard("another card is in the reader")
        channel = Channel(self._connection)
        self._channels.append(channel)
        found = read_back(channel, profile=self.profile)
        self.seen = _Seen(channel, atr, found, compare(found, plan=self.plan, atr=atr, keys=self.keys))
        return self.seen

    def _decide(self, seen: _Seen, *, write_blank: bool) -> _Outcome | _Next:
        owner = self.history.owner
        if owner is not None and owner.atr != seen.atr.raw:
            return Verdict.UNKNOWN, "another card is in the reader than the one this order was begun on"
        if seen.verification.equal:
            return _VERIFIED
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
        while len(self.history.touched) < self.profile.max_attempts:
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
        recorder = self._begin(seen.atr)
        try:
            return self._write_and_check(seen, recorder)
        except AuthenticationFailed as error:
            return self._refused(error)
        except JournalConflict as error:
            return Verdict.UNKNOWN, str(error)
        except CardLost as error:
            return self._stopped(recorder, f"the card was lost: {error}")
        except (ApduError, UnknownCard) as error:
            return self._stopped(recorder, f"the card stopped the work: {error}")
        finally:
            recorder.close()

    def _begin(self, atr: Atr) -> Recorder:
        return self.journal.begin(
            self.history,
            order_id=self.plan.order_id,
            atr=atr.raw,
            plan_digest=self.plan.digest(self.keys.digest),
            mutations=self.plan.mutations,
        )

    def _write_and_check(self, seen: _Seen, recorder: Recorder) -> _Outcome | str:
        refusal = self._personalize(seen, recorder)
        verification = self._look().verification
        if verification.equal:
            recorder.ended(CardState.VERIFIED)
            return _VERIFIED
        return refusal or "the card holds something else than was written: " + ", ".join(verification.differing)

    def _personalize(self, seen: _Seen, recorder: Recorder) -> str | None:
        """Carry out the plan; the reason when the card refused a step after it was touched."""
        try:
            personalize(
                self.plan,
                channel=seen.channel,
                atr=seen.atr,
                keys=self.keys,
                random=self.random,
                recorder=recorder,
            )
        except AuthenticationFailed:
            raise
        except ApduError as error:
            if not recorder.touched:
                raise
            return f"the card refused to be written: {error}"
        return None

    def _refused(self, error: AuthenticationFailed) -> _Outcome:
        problem = f"the card refused our key: {error}"
        if error.blocked:
            self._spoil()
            return Verdict.SPOILED, problem
        return (Verdict.UNTOUCHED if self.history.owner is None else Verdict.UNKNOWN), problem

    def _stopped(self, recorder: Recorder, problem: str) -> _Outcome:
        touched = recorder.touched or self.history.owner is not None
        return (Verdict.UNKNOWN if touched else Verdict.UNTOUCHED), problem


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
