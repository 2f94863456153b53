"""Bank, custody and collection beside a model of them: random acts, faults, deaths and restarts; at the end all books agree.

Hypothesis draws the acts. After each one every answer, row, event and account is compared with `tests.support.model`; at the end the
faults stop, time passes until nothing moves any more, and the bank's ledger, the cards' rows, custody and the model must agree.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, func, select

from config.policies import load_policies
from pipeline.application import Submission
from pipeline.calendar import ChineseCalendar
from pipeline.clock import SystemClock
from pipeline.errors import Refused, TransientError
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.gateways.objects import ObjectMemory
from pipeline.person import Agent
from pipeline.ports import Instruction, Key, LateReplies
from pipeline.services import (
    accept,
    accounts,
    bank_desk,
    bundles,
    counter,
    destruction,
    discrepancies,
    operate,
    returns,
    run_stage,
    storage,
    sweep,
    unclaimed,
)
from pipeline.services.context import Context
from pipeline.stages.account import Account
from pipeline.stages.base import Stage
from pipeline.stages.collection import Collection
from pipeline.stages.dispatch import Dispatch
from pipeline.stages.personalisation import Personalisation
from pipeline.stages.photo import Photo
from pipeline.stages.validation import Validation
from pipeline.states import STAGES
from pipeline.store import custody, stock
from pipeline.store import tables as t
from pipeline.store.accounts import number_of_card
from pipeline.store.engine import Store, Tx
from pipeline.store.sealing import Sealer
from tests.conftest import MASTER
from tests.support.model import (
    MAKING,
    MAY_SETTLE,
    OVER,
    OVERDUE,
    SHAOGUAN,
    STOPPED,
    WAITING,
    WUHAN,
    App,
    Box,
    Card,
    HandOver,
    Model,
    Verdict,
)

from .conftest import PROFILES, START, Killed, Line, StubEncoder, StubNormaliser, dies_after, dies_before, number

POLICIES = {policy.code: policy for policy in load_policies().cities()}
OUTLETS = {WUHAN.code: ("out_42010001", "out_42010002"), SHAOGUAN.code: ("out_44020001", "out_44020002")}
PEOPLE = 6
BLANKS = 300
STRANGE = "ZZ9999"
"""The serial of a card that is none of ours."""
MISHAPS = (None, None, "error", "timeout", "late", "drop_after_commit", "wrong_reply", "error_after_commit", "decline")
DEATHS = (None, None, None, *((n, committed) for n in range(3) for committed in (False, True)))
"""Which transaction from now on is the process's last, and whether it is committed."""
ACT_DEATHS = (None, None, None, None, (0, False), (0, True))
REASONS = ("uncollected", "recalled", "misrouted", "damaged", "refused", "wrong_data", "unreadable")
FLAWS = (None, None, "missing", "damaged")
"""What may be wrong with one card of a bundle that arrives."""
RESOLUTIONS = ("arrived", "lost", "sent_back", "forwarded", "not_ours", "accepted")
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files lie whose disk is not what is tested."""
CLOSED_TO_ALL = timedelta(minutes=11)
"""By then every lease of a dead process is over."""

Regional = Callable[..., Submission]
picks = st.integers(0, 40)


class StepClock:
    """A clock that is moved by hand, and by a millisecond whenever it is read: an example runs in the same way each time."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by


class MortalStore(Store):
    """A store whose process can be made to die at the end of a transaction, before or after its commit."""

    dies: tuple[int, bool] | None = None

    def __init__(self, engine: Engine, *, random: Callable[[int], bytes]) -> None:
        super().__init__(engine.url.render_as_string(hide_password=False), Sealer(MASTER), random=random)
        self.engine = engine

    @contextmanager
    def transaction(self, *, hint: bool = False) -> Iterator[Tx]:
        left, committed = self.dies or (-1, False)
        self.dies = (left - 1, committed) if left > 0 else None
        with super().transaction(hint=hint) as tx:
            yield tx
            if left == 0 and not committed:
                raise Killed
        if left == 0:
            raise Killed


class Wire:
    """What lies between us and the bank: it can be deaf to questions, and our process can die before or after a call.

    Nothing may pass whose intent is not `written` down for others to read; `strange` are the keys that did.
    """

    def __init__(self, bank: SimulatedBank, written: Callable[[], set[str]]) -> None:
        self.bank = bank
        self.written = written
        self.strange: set[Key] = set()
        self.dies: str | None = None
        self.deaf = False

    def submit(self, instructions: Sequence[Instruction], *, deadline: datetime) -> Mapping[Key, Any]:
        self.strange |= {i.key for i in instructions} - self.written()
        if self.dies == "before":
            raise Killed
        answers = self.bank.submit(instructions, deadline=deadline)
        if self.dies == "after":
            raise Killed
        return answers

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, Any]:
        self.strange |= set(keys) - self.written()
        if self.deaf:
            return {key: TransientError() for key in keys}
        return self.bank.find(keys, deadline=deadline)

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        return self.bank.collect(after=after, limit=limit)

    def statement(self, day: Any, *, deadline: datetime) -> Mapping[Key, Any]:
        return self.bank.statement(day, deadline=deadline)


@dataclass(frozen=True)
class World:
    """Where examples run, one after the other: a database that is `renewed` for each. Compiled statements stay."""

    engine: Engine
    renewed: Callable[[], None]
    regional: Regional


@dataclass(frozen=True)
class Seen:
    """Every row that the model speaks of, as it stands after an act."""

    apps: Mapping[str, Any]
    cards: Mapping[str, Any]
    boxes: Mapping[str, Any]
    accounts: Mapping[str, Any]
    calls: Mapping[str, Sequence[Any]]
    open: Mapping[str, Mapping[tuple[str, str], Any]]
    ready: Mapping[str, int]
    persons: Mapping[str, int]


class Machine(RuleBasedStateMachine):
    """A line that is driven by chance, and its model."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.closing = ExitStack()
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory(dir=IN_MEMORY)))
        world.renewed()
        self.clock = StepClock(START)
        self.encoder = StubEncoder()
        self.objects = ObjectMemory(key=bytes(32))
        self.model = Model()
        self.people: dict[str, int] = {}
        self.refs = 0
        self.keys = 0
        self.losing = False
        self.begin()
        for kind, name in (("ssc2", "BL"), ("ssc2-social", "BS")):
            self.line.supply(*(f"{name}{n:04d}" for n in range(1, BLANKS + 1)), blank_type=kind)

    # ------------------------------------------------------------------------------------------- processes come and go

    def begin(self) -> None:
        """Processes start: nothing is left of earlier ones but the database, the bank's books, the station and the objects."""
        self.store = MortalStore(self.world.engine, random=Random(self.refs).randbytes)
        self.store.open()
        self.ledger = Ledger(self.folder / "bank.db")
        self.wire = Wire(self.bank(), self.written)
        calendar = ChineseCalendar()
        context = Context(
            store=self.store, clock=self.clock, policies=load_policies(), calendar=calendar, objects=self.objects
        )
        normaliser = StubNormaliser()
        stages: list[Stage] = [
            Validation(),
            Photo(normaliser, objects=self.objects, profiles=PROFILES),
            Account(lambda _: self.wire, key_secret=b"k" * 32, clock=self.clock),
            Personalisation(self.encoder, objects=self.objects),
            Dispatch(),
            Collection(calendar),
        ]
        self.line = Line(
            context,
            {stage.name: stage for stage in stages},
            self.ledger,
            self.wire.bank,
            self.encoder,
            self.clock,  # type: ignore[arg-type]
            normaliser,
        )
        self.context = context

    def bank(self, mishap: str | None = None) -> SimulatedBank:
        shares = {"close_declined": 1.0, "decline": 1.0} if mishap == "decline" else {mishap: 1.0} if mishap else {}
        faults = Faults(**shares, late_s=90.0)
        return SimulatedBank(self.ledger, faults=faults, clock=self.clock, random=Random(1), sleep=lambda _: None)

    def written(self) -> set[str]:
        """The keys of all instructions that are committed."""
        with self.world.engine.connect() as conn:
            return set(conn.execute(select(t.external_calls.c.key)).scalars())

    def end(self) -> None:
        self.store.close()
        self.ledger.close()

    @contextmanager
    def trouble(
        self, mishap: str | None = None, *, dies: Any = None, wire: str | None = None, deaf: bool = False
    ) -> Iterator[None]:
        """The bank misbehaves, and our process may die; then another one goes on."""
        self.wire.bank, self.wire.dies, self.wire.deaf = self.bank(mishap), wire, deaf
        self.store.dies = dies
        try:
            yield
        except Killed:
            pass
        finally:
            self.wire.bank, self.wire.dies, self.wire.deaf = self.bank(), None, False
            self.store.dies = None

    # ------------------------------------------------------------------------------------------------- acts of people

    def act(self, verdict: Verdict, does: Callable[[], Any], dies: tuple[int, bool] | None = None) -> bool:
        """Somebody asks for something; whether it was done. A process that dies has done all of it or nothing."""
        self.store.dies = dies
        code, done = "", True
        try:
            does()
        except Refused as refused:
            assert refused.zh
            assert refused.en
            code, done = refused.reason_code, False
        except Killed:
            assert dies is not None
            done = dies[1]
        finally:
            self.store.dies = None
        if isinstance(verdict, str):
            assert code == verdict, f"refused with {code or 'nothing'} instead of {verdict}"
            return False
        assert not code, f"refused with {code}"
        if done:
            verdict(self.clock.now())
        self.compare()
        return done

    def chosen(self, wanted: Sequence[Any], pick: int, others: Sequence[Any] = ()) -> Any:
        """One of what is wanted; of the others where nothing is, and one time in four anyway."""
        pool = others if others and (not wanted or pick % 4 == 3) else wanted
        return pool[pick % len(pool)]

    def cards(self, *custodies: str) -> list[Card]:
        return [c for c in self.model.cards.values() if not custodies or c.at[0] in custodies]

    def boxes(self, *statuses: str, direction: str | None = None) -> list[Box]:
        return [b for b in self.model.boxes.values() if b.status in statuses and direction in (None, b.direction)]

    # ------------------------------------------------------------------------------------------------------- comparing

    def seen(self) -> Seen:
        a, c, b, k, x, d, o = (
            table.c
            for table in (t.applications, t.cards, t.bundles, t.accounts, t.external_calls, t.discrepancies, t.outbox)
        )
        with self.store.transaction() as tx:
            run = lambda query: tx.conn.execute(query).all()  # noqa: E731
            apps = {r.id: r for r in run(select(a.id, a.status, a.person_id, a.outlet, a.held_from))}
            cards = {r.id: r for r in run(select(t.cards).order_by(c.id))}
            boxes = {r.id: r for r in run(select(b.id, b.direction, b.outlet, b.status, b.seal_no, b.carrier))}
            accounts = {
                r.id: r for r in run(select(k.id, k.person_id, k.bank_code, k.status, k.frozen_at, k.key, k.sealed))
            }
            calls: dict[str, list[Any]] = defaultdict(list)
            for r in run(select(t.external_calls).where(x.seq.is_not(None)).order_by(x.account_id, x.seq)):
                calls[r.account_id].append(r)
            differences: dict[str, dict[tuple[str, str], Any]] = defaultdict(dict)
            for r in run(select(t.discrepancies).where(d.state == "open")):
                differences[r.bundle_id][r.kind, r.serial] = r
            told = run(select(o.subject, func.count().label("n")).where(o.type == "card.ready").group_by(o.subject))
        persons = {r.person_id: self.people[r.id] for r in apps.values()}
        return Seen(apps, cards, boxes, accounts, calls, differences, {r.subject: r.n for r in told}, persons)

    def compare(self) -> Seen:
        """Everything that the model knows is so; what the line did by itself is adopted, or fails."""
        model, seen, now = self.model, self.seen(), self.clock.now()
        model.saw_ready(seen.ready)
        for row in seen.accounts.values():
            model.saw_account(row, seen.persons[row.person_id])
        for app in model.apps.values():
            model.saw_app(app, seen.apps[app.id], now)
        boxes = {row.id: model.saw_box(row) for row in seen.boxes.values()}
        for row in seen.cards.values():
            if row.id not in model.cards:
                model.saw_new_card(row)
            model.saw_card(model.cards[row.id], row, boxes.get(row.bundle_id))
        for box in boxes.values():
            theirs = {name: row.card_id for name, row in seen.open.get(box.id, {}).items()}
            assert theirs == {name: card.id if card else None for name, card in box.open.items()}
        for row in seen.accounts.values():
            model.saw_calls(row, seen.calls.get(row.id, ()))
        assert len(seen.cards) == len(model.cards)
        return seen

    @invariant()
    def books_agree(self) -> None:
        """What must hold after every act, whatever the model says."""
        seen = self.compare()
        with self.store.transaction() as tx:
            by_row, by_event = custody.balance(tx, by_place=True)
            verified = custody.verify(tx)
            standing = tx.conn.execute(
                select(t.hand_overs.c.card_id).where(t.hand_overs.c.reverted_at.is_(None))
            ).scalars()
            handed = Counter(standing)
            running = tx.conn.execute(
                select(t.applications.c.status)
                .join(t.timers, t.timers.c.application_id == t.applications.c.id)
                .where(t.timers.c.fired_at.is_(None), t.timers.c.cancelled_at.is_(None))
            ).scalars()
            assert not set(running) & set(OVER), "a clock runs of what has ended"
            assert stock.ledger_balance(tx) == stock.balance(tx)
        assert not self.wire.strange, "the bank was told, or asked about, what was never written down"
        assert by_row == by_event
        assert sum(by_row.values()) == len(seen.cards) == verified.cards
        assert verified.faults == 0, verified.broken
        assert set(handed.values()) <= {1}
        assert set(handed) == {row.id for row in seen.cards.values() if row.custody == "holder"}
        ours = Counter((row.person_id, row.bank_code) for row in seen.accounts.values() if row.status == "open")
        assert set(ours.values()) <= {1}
        theirs = {account.key: account for account in self.ledger.accounts()}
        for row in seen.accounts.values():
            kept = theirs[row.key]
            assert row.status == "open" or kept.status == "closed", "closed here, not at the bank"
            assert row.frozen_at is None or kept.status in ("frozen", "closed") or self.releasing(seen, row.id)
        made = Counter(serial for what, serial in self.encoder.asked if what == "make")
        assert set(made.values()) <= {1}, "a blank was written twice"

    @staticmethod
    def releasing(seen: Seen, account_id: str) -> bool:
        """Whether a bank may have released an account that we still hold for frozen."""
        return any(
            c.operation == "release_financial" and c.state not in ("done", "declined") for c in seen.calls[account_id]
        )

    # ----------------------------------------------------------------------------------------------------------- rules

    def take(self, people: Sequence[int], outlet: int) -> None:
        submissions = []
        for person in people:
            region = WUHAN if person % 2 else SHAOGUAN
            self.refs += 1
            made = self.world.regional(POLICIES[region.code], person, external_ref=f"M-{self.refs}")
            submissions.append(replace(made, outlet=OUTLETS[region.code][outlet]))
        expected = {person: (self.model.apply(person), self.model.live(person)) for person in people}
        answers = accept.accept(self.context, submissions, actor="window")
        for person, submission, answer in zip(people, submissions, answers, strict=True):
            code, live = expected[person]
            if code is not None:
                assert isinstance(answer, accept.Declined)
                assert (answer.code, answer.id) == (code, live.id if live else None)
                continue
            assert isinstance(answer, accept.Accepted)
            region = WUHAN if person % 2 else SHAOGUAN
            received = self.line.application(answer.id).received_at
            self.people[answer.id] = person
            self.model.apps[answer.id] = App(
                answer.id, person, region, submission.outlet, received, fee_due=region.charges
            )

    @initialize(
        people=st.lists(st.integers(1, PEOPLE), min_size=2, max_size=4, unique=True),
        outlet=st.integers(0, 1),
        far=st.sampled_from((4, 3, 2, 1, 4, 3)),
        collected=st.integers(0, 3),
        flaw=st.sampled_from(FLAWS),
        losing=st.booleans(),
    )
    def a_line_at_work(
        self, people: list[int], outlet: int, far: int, collected: int, flaw: str | None, losing: bool
    ) -> None:
        """Some cards are on their way, wait to be collected, or are in people's hands.

        `losing`: at the end one more card of each bundle that goes back is lost.
        """
        self.losing = losing
        self.take(people, outlet)
        self.work()
        if far > 1:
            self.to_outlets(receive=far > 2, flaw=flaw)
        if far > 3:
            for card in self.to_collect():
                self.give_notice(card)
            for card in self.to_collect()[:collected]:
                self.hand_over(card)

    @rule(people=st.lists(st.integers(1, PEOPLE), min_size=1, max_size=3, unique=True), outlet=st.integers(0, 1))
    def take_in(self, people: list[int], outlet: int) -> None:
        self.take(people, outlet)

    @precondition(lambda self: self.cards("holder"))
    @rule(pick=picks, outlet=st.integers(0, 1), made=st.booleans())
    def apply_again(self, pick: int, outlet: int, made: bool) -> None:
        """Whoever has a card applies for the next one: it is bound to the account that is there (KL-10)."""
        self.take([self.chosen(self.cards("holder"), pick).app.person], outlet)
        if made:
            self.work()

    def step(self, stage: str) -> None:
        run_stage.run(self.context, self.line.stages[stage], self.line.lease(stage), worker="w1")

    def recover(self) -> None:
        stage, station = self.line.stages["personalisation"], self.encoder.station
        run_stage.reconcile(self.context, stage, worker="w1", station=station, limit=50)

    def ready(self) -> set[tuple[str, str]]:
        """Stages that have something to do, and whether it is their work or what a dead process left."""
        a = t.applications.c
        query = select(a.stage, a.work).where(a.work.in_(("ready", "reconcile"))).distinct()
        with self.store.transaction() as tx:
            return {(row.stage, row.work) for row in tx.conn.execute(query)}

    def work(self) -> bool:
        """The line and the desk go on until nothing is ready; whether there was anything."""
        for n in range(60):
            ready = self.ready()
            for stage in STAGES:
                if (stage, "ready") in ready:
                    self.step(stage)
            if ("personalisation", "reconcile") in ready:
                self.recover()
            if ready:
                self.compare()
            told = bank_desk.run(self.context, lambda _: self.wire).calls.total()
            told += unclaimed.ask(self.context, lambda _: self.wire).total()
            if told:
                self.compare()
            if not ready and not told:
                return n > 0
        raise AssertionError("the line does not come to rest")

    @precondition(lambda self: any(a.status in (*MAKING, "dispatch") for a in self.model.apps.values()))
    @rule(
        pick=picks,
        mishap=st.sampled_from(MISHAPS),
        dies=st.sampled_from(DEATHS),
        at=st.sampled_from((None, None, "before", "after")),
        deaf=st.booleans(),
    )
    def run_a_stage(self, pick: int, mishap: str | None, dies: Any, at: str | None, deaf: bool) -> None:
        ready = self.ready()
        stage = self.chosen([name for name in STAGES if (name, "ready") in ready], pick, STAGES)
        ids = self.line.lease(stage)
        killing = {"before": dies_before, "after": dies_after}[at] if at and stage == "personalisation" else None
        built = self.line.stages[stage]
        with self.trouble(mishap, dies=dies, wire=at if stage == "account" else None, deaf=deaf):
            run_stage.run(self.context, killing(built) if killing else built, ids, worker="w1")

    @rule(mishap=st.sampled_from(MISHAPS), deaf=st.booleans())
    def run_the_line(self, mishap: str | None, deaf: bool) -> None:
        with self.trouble(mishap, deaf=deaf):
            self.work()

    @precondition(lambda self: self.model.accounts)
    @rule(
        mishap=st.sampled_from(MISHAPS),
        dies=st.sampled_from(DEATHS),
        at=st.sampled_from((None, None, "before", "after")),
        deaf=st.booleans(),
    )
    def run_the_desk(self, mishap: str | None, dies: Any, at: str | None, deaf: bool) -> None:
        with self.trouble(mishap, dies=dies, wire=at, deaf=deaf):
            bank_desk.run(self.context, lambda _: self.wire)

    @rule(
        by=st.sampled_from([timedelta(minutes=m) for m in (1, 4, 20)]),
        dies=st.sampled_from(DEATHS),
        starts=st.booleans(),
    )
    def minutes_pass(self, by: timedelta, dies: Any, starts: bool) -> None:
        """The timers look round; or all processes end and start again."""
        self.clock.advance(by)
        if starts:
            self.restart(dies)
            return
        with self.trouble(dies=dies):
            self.line.sweep()

    def restart(self, dies: Any) -> None:
        self.end()
        self.begin()
        with self.trouble(dies=dies):
            sweep.take_over(self.context, "personalisation", self.encoder.station)
            self.recover()

    @rule(days=st.sampled_from((1, 2, 12, 100, 200, 800)), mishap=st.sampled_from(MISHAPS))
    def days_pass(self, days: int, mishap: str | None) -> None:
        with self.trouble(mishap):
            self.pass_time(timedelta(days=days))

    def pass_time(self, by: timedelta) -> None:
        """Time passes, and what it does is done: every clock that is due has rung."""
        self.clock.advance(max(by, CLOSED_TO_ALL))
        busy = True
        while busy:
            swept = self.line.sweep()
            busy = self.work() or any((swept.woken, swept.clocks, swept.expired, swept.sealed_bundles))
        self.compare()
        now = self.clock.now()
        for app in self.model.apps.values():
            late = app.status in WAITING and app.due is not None and app.due < now - CLOSED_TO_ALL
            assert not late, "a card was not called back in time"

    @precondition(lambda self: any(app.status in MAKING for app in self.model.apps.values()))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def cancel(self, pick: int, dies: Any) -> None:
        apps = list(self.model.apps.values())
        app = self.chosen([app for app in apps if app.status in MAKING], pick, apps)
        with self.store.transaction() as tx:
            begun = bool(stock.reserved(tx, [app.id]))
        verdict = "too-late" if begun else self.model.cancel(app)
        self.act(verdict, lambda: operate.cancel(self.context, app.id, reason="withdrawn", actor="window"), dies)

    @precondition(lambda self: any(app.status in STOPPED for app in self.model.apps.values()))
    @rule(pick=picks)
    def an_operator_helps(self, pick: int) -> None:
        """What is held goes on; what was sent back to its applicant is withdrawn."""
        self.help(self.chosen([app for app in self.model.apps.values() if app.status in STOPPED], pick))

    def help(self, app: App) -> None:
        if app.status == "held":
            operate.release(self.context, [app.id], reason="seen", actor="operator")
            app.status = self.seen().apps[app.id].status
            assert app.status in (*MAKING, "dispatch")
        else:
            self.act(
                self.model.cancel(app),
                lambda: operate.cancel(self.context, app.id, reason="withdrawn", actor="window"),
            )

    # ---- boxes on their way

    @precondition(lambda self: any(self.model.inside(box) for box in self.boxes("packing")))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def seal(self, pick: int, dies: Any) -> None:
        box = self.chosen(self.boxes("packing"), pick, list(self.model.boxes.values()))
        self.act(self.model.seal(box), lambda: bundles.seal_now(self.context, box.id, actor="packer"), dies)

    @precondition(lambda self: self.boxes("sealed"))
    @rule(pick=picks, carrier=st.sampled_from((*["courier"] * 5, "packer")), dies=st.sampled_from(ACT_DEATHS))
    def ship(self, pick: int, carrier: str, dies: Any) -> None:
        box = self.chosen(self.boxes("sealed"), pick, list(self.model.boxes.values()))
        self.give_to_courier(box, carrier, dies)

    def give_to_courier(self, box: Box, carrier: str = "courier", dies: Any = None) -> None:
        self.act(
            self.model.ship(box, carrier, "packer"),
            lambda: bundles.ship(self.context, box.id, carrier=carrier, actor="packer"),
            dies,
        )

    @precondition(lambda self: self.boxes("shipped", "disputed"))
    @rule(
        pick=picks,
        fates=st.lists(st.sampled_from(("there", "there", "missing", "damaged")), min_size=3, max_size=3),
        extra=st.sampled_from((None, None, "strange", "ours", "ours")),
        which=picks,
        seal=st.sampled_from((*["right"] * 6, "broken", "other")),
        actor=st.sampled_from((*["clerk"] * 7, "courier")),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def scan_in(
        self, pick: int, fates: list[str], extra: str | None, which: int, seal: str, actor: str, dies: Any
    ) -> None:
        box = self.chosen(self.boxes("shipped"), pick, self.boxes("disputed"))
        cards = self.model.under_way(box)
        fate = {card.id: fates[n % len(fates)] for n, card in enumerate(cards)}
        others = [card for card in self.cards() if card.box is not None]
        more: list[Card | str] = [STRANGE] if extra == "strange" else []
        more += [self.chosen(others, which)] if extra == "ours" and others else []
        self.receive(
            box,
            missing=[c for c in cards if fate[c.id] == "missing"],
            damaged=[c for c in cards if fate[c.id] == "damaged"],
            extra=more,
            seal_intact=seal != "broken",
            seal="X1" if seal == "other" else box.seal,
            actor=actor,
            dies=dies,
        )

    def receive(
        self,
        box: Box,
        *,
        missing: Sequence[Card] = (),
        damaged: Sequence[Card] = (),
        extra: Sequence[Card | str] = (),
        seal_intact: bool = True,
        seal: str | None = None,
        actor: str = "clerk",
        dies: Any = None,
    ) -> None:
        seal = box.seal if seal is None else seal
        verdict = self.model.receive(
            box,
            place=None if box.direction == "back" else box.outlet,
            seal=seal,
            actor=actor,
            missing=missing,
            damaged=damaged,
            extra=extra,
            seal_intact=seal_intact,
        )
        told: dict[str, Any] = {
            "seal_no": seal,
            "actor": actor,
            "missing": [c.id for c in missing],
            "damaged": [c.serial for c in damaged],
            "extra": [c if isinstance(c, str) else c.serial for c in extra],
            "seal_intact": seal_intact,
        }
        if box.direction == "back":
            self.act(verdict, lambda: returns.receive_back(self.context, box.id, **told), dies)
        else:
            self.act(verdict, lambda: bundles.receive(self.context, box.id, outlet=box.outlet, **told), dies)

    @precondition(lambda self: self.boxes("disputed"))
    @rule(
        pick=picks,
        which=picks,
        how=picks,
        actor=st.sampled_from((*["clerk"] * 5, "courier")),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def settle(self, pick: int, which: int, how: int, actor: str, dies: Any) -> None:
        box = self.chosen(self.boxes("disputed"), pick)
        name = self.chosen(sorted(box.open), which)
        resolution = self.chosen(MAY_SETTLE[box.direction, name[0]], how, RESOLUTIONS)
        self.settle_one(box, name, resolution, actor, dies)

    def settle_one(
        self, box: Box, name: tuple[str, str], resolution: str, actor: str = "clerk", dies: Any = None
    ) -> bool:
        row = self.seen().open[box.id][name]
        verdict = self.model.settle(box, name, resolution, actor)
        return self.act(
            verdict,
            lambda: discrepancies.settle(self.context, row.id, resolution=resolution, actor=actor, note="seen"),
            dies,
        )

    @precondition(lambda self: self.boxes("received", "disputed"))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def close(self, pick: int, dies: Any) -> None:
        box = self.chosen(self.boxes("received", "disputed"), pick, list(self.model.boxes.values()))
        self.act(self.model.close(box), lambda: bundles.close(self.context, box.id, actor="packer"), dies)

    @precondition(lambda self: self.boxes("packing", "sealed") or self.boxes("shipped", direction="out"))
    @rule(arrives=st.booleans(), flaw=st.sampled_from(FLAWS))
    def courier(self, arrives: bool, flaw: str | None) -> None:
        self.to_outlets(receive=arrives, flaw=flaw)

    def to_outlets(self, *, receive: bool = True, flaw: str | None = None) -> None:
        """Boxes are sealed by time, leave, and come to their outlets."""
        self.pass_time(timedelta(hours=5))
        for box in self.boxes("sealed"):
            self.give_to_courier(box)
        if receive:
            for box in self.boxes("shipped", direction="out"):
                self.receive_with(box, flaw)

    def receive_with(self, box: Box, flaw: str | None) -> None:
        first = self.model.under_way(box)[:1]
        self.receive(box, missing=first if flaw == "missing" else (), damaged=first if flaw == "damaged" else ())

    # ---- the counter

    @precondition(lambda self: any(card.app.status == "delivered" for card in self.cards("outlet")))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS), elsewhere=st.sampled_from((*[False] * 5, True)))
    def tell(self, pick: int, dies: Any, elsewhere: bool) -> None:
        untold = [card for card in self.cards("outlet") if card.app.status == "delivered"]
        self.give_notice(self.chosen(untold, pick, self.cards()), dies, elsewhere=elsewhere)

    def to_collect(self) -> list[Card]:
        return [card for card in self.cards("outlet") if card.app.status in (*WAITING, *OVERDUE)]

    def outlet_of(self, card: Card, *, elsewhere: bool = False) -> str:
        here = card.giver[1] if card.giver else card.at[1] if card.at[0] == "outlet" else card.app.outlet
        return "out_99999901" if elsewhere else here

    def give_notice(self, card: Card, dies: Any = None, *, elsewhere: bool = False) -> None:
        outlet = self.outlet_of(card, elsewhere=elsewhere)
        self.act(
            self.model.notice(card, outlet),
            lambda: counter.give_notice(self.context, card.id, outlet=outlet, method="sms", actor="clerk"),
            dies,
        )

    @precondition(to_collect)
    @rule(
        pick=picks,
        by=st.sampled_from(("holder", "proxy")),
        slip=st.sampled_from((*[None] * 6, "serial", "receipt", "papers", "elsewhere")),
        undone=st.sampled_from((False, False, False, True)),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def collect(self, pick: int, by: str, slip: str | None, undone: bool, dies: Any) -> None:
        card = self.chosen(self.to_collect(), pick, self.cards())
        if self.hand_over(card, by, slip, dies) and undone:
            self.take_back(self.model.handed[-1])

    @precondition(lambda self: self.cards("holder"))
    @rule(pick=picks, slip=st.sampled_from((None, None, "serial", "elsewhere")))
    def collect_twice(self, pick: int, slip: str | None) -> None:
        self.hand_over(self.chosen(self.cards("holder"), pick), slip=slip)

    def hand_over(self, card: Card, by: str = "holder", slip: str | None = None, dies: Any = None) -> bool:
        outlet = self.outlet_of(card, elsewhere=slip == "elsewhere")
        self.keys += 1
        key = f"K-{self.keys}"
        app = card.app
        told: dict[str, Any] = {
            "outlet": outlet,
            "serial": "BL0000" if slip == "serial" else card.serial,
            "taken_by": by,
            "document_type": "resident_id",
            "document_number": number(app.person),
            "fee_receipt": None if slip == "receipt" else "R1",
            "actor": "clerk",
            "key": key,
        }
        if by == "proxy":
            other = number(900)
            agent = Agent(name="王样例", id_type="resident_id", id_number=other, relation="配偶", phone="13800009999")
            papers = {} if slip == "papers" else {"mandate": "F-1", "holder_document": "F-2"}
            told |= {"document_number": other, "agent": agent, "papers": papers}
        verdict = self.model.hand_over(
            card,
            outlet,
            key=key,
            serial=told["serial"],
            receipt=slip != "receipt",
            papers=by == "holder" or slip != "papers",
        )
        if not self.act(verdict, lambda: counter.hand_over(self.context, card.id, **told), dies):
            return False
        # Whoever lost the answer tells the same again and gets the same one.
        self.model.handed[-1].id = counter.hand_over(self.context, card.id, **told)
        return True

    @precondition(lambda self: self.model.handed)
    @rule(
        pick=picks,
        wait=st.sampled_from((0, 3, 6)),
        elsewhere=st.sampled_from((*[False] * 5, True)),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def undo(self, pick: int, wait: int, elsewhere: bool, dies: Any) -> None:
        handed = self.chosen(self.model.handed[-1:], pick, self.model.handed)
        self.clock.advance(timedelta(minutes=wait))
        self.take_back(handed, elsewhere=elsewhere, dies=dies)

    def take_back(self, handed: HandOver, *, elsewhere: bool = False, dies: Any = None) -> None:
        outlet = "out_99999901" if elsewhere else handed.place[1]
        self.act(
            self.model.revert(handed, outlet, self.clock.now()),
            lambda: counter.revert(self.context, handed.id, outlet=outlet, actor="clerk", reason="slip"),
            dies,
        )

    # ---- the way back

    @precondition(to_collect)
    @rule(pick=picks, reason=st.sampled_from(REASONS), dies=st.sampled_from(ACT_DEATHS))
    def ask_back(self, pick: int, reason: Any, dies: Any) -> None:
        card = self.chosen(self.to_collect(), pick, self.cards())
        outlet = self.outlet_of(card)
        self.act(
            self.model.ask_back(card, outlet, reason),
            lambda: returns.ask_back(self.context, card.id, outlet=outlet, reason=reason, actor="clerk"),
            dies,
        )

    @precondition(lambda self: self.going_back())
    @rule(
        pick=picks,
        whole=st.booleans(),
        carrier=st.sampled_from((*["courier"] * 5, "clerk")),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def send_back(self, pick: int, whole: bool, carrier: str, dies: Any) -> None:
        first = self.chosen(self.going_back(), pick, self.cards("outlet"))
        cards = [c for c in self.going_back() if c.at == first.at] if whole else [first]
        self.return_cards(cards or [first], carrier, dies)

    def going_back(self) -> list[Card]:
        return [c for c in self.cards("outlet") if c.aside is not None or c.app.status == "recalled"]

    def return_cards(self, cards: Sequence[Card], carrier: str = "courier", dies: Any = None) -> None:
        outlet = cards[0].at[1]
        self.act(
            self.model.send_back(cards, outlet, carrier, "clerk"),
            lambda: returns.send_back(
                self.context, [c.id for c in cards], outlet=outlet, seal_no="Back-1", carrier=carrier, actor="clerk"
            ),
            dies,
        )

    @precondition(lambda self: self.going_back())
    @rule(flaw=st.sampled_from(FLAWS))
    def bring_back(self, flaw: str | None) -> None:
        """All that is to go back goes back, and arrives."""
        self.clear_outlets(flaw)

    def clear_outlets(self, flaw: str | None = None) -> None:
        by_outlet: dict[str, list[Card]] = defaultdict(list)
        for card in self.going_back():
            by_outlet[card.at[1]].append(card)
        for cards in by_outlet.values():
            self.return_cards(cards)
        for box in self.boxes("shipped", direction="back"):
            self.receive_with(box, flaw)

    @precondition(lambda self: any(app.status == "returned" for app in self.model.apps.values()))
    @rule(pick=picks, outlet=st.integers(0, 1), dies=st.sampled_from(ACT_DEATHS))
    def reissue(self, pick: int, outlet: int, dies: Any) -> None:
        app = self.returned(pick)
        name = OUTLETS[app.region.code][outlet]
        self.act(
            self.model.reissue(app, name),
            lambda: storage.reissue(self.context, app.id, outlet=name, actor="storekeeper"),
            dies,
        )

    @precondition(lambda self: any(app.status == "returned" for app in self.model.apps.values()))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def remake(self, pick: int, dies: Any) -> None:
        app = self.returned(pick)
        self.act(
            self.model.remake(app),
            lambda: storage.remake(self.context, app.id, reason="unreadable", actor="storekeeper"),
            dies,
        )

    def returned(self, pick: int) -> App:
        apps = list(self.model.apps.values())
        return self.chosen([app for app in apps if app.status == "returned"], pick, apps)

    @precondition(lambda self: self.cards("lost"))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def find(self, pick: int, dies: Any) -> None:
        card = self.chosen(self.cards("lost"), pick)
        self.act(
            self.model.found(card),
            lambda: storage.found(self.context, card.id, found_by="police", actor="storekeeper"),
            dies,
        )

    def stored(self) -> list[Card]:
        return [c for c in self.cards("centre") if c.status == "voided" or c.app.status == "returned"]

    @precondition(stored)
    @rule(pick=picks, named=st.booleans(), dies=st.sampled_from(ACT_DEATHS))
    def list_for_destruction(self, pick: int, named: bool, dies: Any) -> None:
        self.list_cards([self.chosen(self.stored(), pick, self.cards())] if named else None, dies)

    def list_cards(self, cards: list[Card] | None, dies: Any = None) -> None:
        now = self.clock.now()
        wanted = self.model.due_to_be_destroyed(now) if cards is None else cards
        done = self.act(
            self.model.list_for_destruction(cards, now),
            lambda: destruction.list_for_destruction(
                self.context,
                None if cards is None else [c.id for c in cards],
                reason="storage over",
                actor="storekeeper",
            ),
            dies,
        )
        if done:
            d = t.destructions.c
            with self.store.transaction() as tx:
                row = tx.conn.execute(select(t.destructions).order_by(d.listed_at.desc()).limit(1)).one()
            assert row.id not in self.model.lists
            assert {item["card"] for item in row.items} == {card.id for card in wanted}
            self.model.saw_list(row.id, wanted)

    @precondition(lambda self: self.model.lists)
    @rule(pick=picks, witness=st.sampled_from((*["auditor"] * 4, "storekeeper")), dies=st.sampled_from(ACT_DEATHS))
    def destroy(self, pick: int, witness: str, dies: Any) -> None:
        self.destroy_list(self.chosen(sorted(self.model.lists)[::-1], pick), witness, dies)

    def destroy_list(self, name: str, witness: str = "auditor", dies: Any = None) -> None:
        self.act(
            self.model.destroy(name, "storekeeper", witness),
            lambda: destruction.destroy(
                self.context, name, destroyed_by="storekeeper", witness=witness, actor="storekeeper"
            ),
            dies,
        )

    @precondition(lambda self: self.model.lists)
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def withdraw(self, pick: int, dies: Any) -> None:
        name = self.chosen(sorted(self.model.lists)[::-1], pick)
        self.act(
            self.model.withdraw(name),
            lambda: destruction.withdraw(self.context, name, actor="storekeeper"),
            dies,
        )

    # ---- the bank

    @precondition(lambda self: self.model.cards)
    @rule(
        pick=picks,
        operation=st.sampled_from(("close_account", "freeze_financial", "release_financial")),
        dies=st.sampled_from(ACT_DEATHS),
    )
    def instruct(self, pick: int, operation: str, dies: Any) -> None:
        self.tell_bank(self.chosen(self.cards(), pick), operation, dies)

    @precondition(lambda self: self.cards("holder", "outlet"))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def freeze_or_release(self, pick: int, dies: Any) -> None:
        """Who lost a card has its account frozen; who found it again has it released."""
        card = self.chosen(self.cards("holder", "outlet"), pick)
        frozen = card.account is not None and card.account.may("freeze_financial") == "told-already"
        self.tell_bank(card, "release_financial" if frozen else "freeze_financial", dies)

    @precondition(lambda self: self.cards("holder"))
    @rule(pick=picks, dies=st.sampled_from(ACT_DEATHS))
    def end_account(self, pick: int, dies: Any) -> None:
        self.tell_bank(self.chosen(self.cards("holder"), pick), "close_account", dies)

    def tell_bank(self, card: Card, operation: str, dies: Any) -> None:
        tell = {
            "freeze_financial": accounts.freeze,
            "release_financial": accounts.release,
            "close_account": accounts.close,
        }[operation]
        self.act(
            self.model.instruct(card, operation),
            lambda: tell(self.context, card.id, reason="asked", actor="window"),
            dies,
        )

    @precondition(lambda self: self.held_calls())
    @rule(pick=picks, how=st.sampled_from(("ask", "declined")))
    def a_person_asks_the_bank(self, pick: int, how: str) -> None:
        self.look_into(self.chosen(self.held_calls(), pick), how)

    def held_calls(self) -> list[Any]:
        return [call for calls in self.seen().calls.values() for call in calls if call.held]

    def look_into(self, call: Any, how: str) -> None:
        """The bank is asked again; or what it declined for good is settled by two people."""
        if how == "ask" or call.state != "declined":
            accounts.ask_again(self.context, call.key, actor="operator")
            return
        accounts.settle_by_hand(
            self.context, call.key, "declined", by="operator", approved_by="head", reason="the bank says so"
        )
        self.model.accounts[call.account_id].declined.add(call.seq - 1)

    # ------------------------------------------------------------------------------------------------------- the end

    def teardown(self) -> None:
        """The faults stop, everything comes to rest, and all books agree."""
        try:
            if self.model.apps:
                self.come_to_rest()
                self.all_agrees()
        finally:
            self.end()
            self.closing.close()

    def come_to_rest(self) -> None:
        for _ in range(40):
            self.pass_time(timedelta(hours=5))
            if not self.tidy_up():
                break
        else:
            raise AssertionError("it does not come to rest")
        self.books_agree()

    def tidy_up(self) -> bool:
        """People do what is to be done; whether there was anything."""
        busy = False
        for call in self.held_calls():
            self.look_into(call, "declined")
            busy = True
        for app in [app for app in self.model.apps.values() if app.status in STOPPED]:
            missing = app.status == "held" and self.reason(app) == "account.missing"
            if missing:
                self.act(
                    self.model.cancel(app),
                    lambda app=app: operate.cancel(self.context, app.id, reason="no account", actor="window"),
                )
            else:
                self.help(app)
            busy = True
        for box in self.boxes("sealed"):
            self.give_to_courier(box)
            busy = True
        for box in self.boxes("shipped"):
            self.receive(box)
            busy = True
        for box in self.boxes("disputed"):
            for name in sorted(box.open):
                assert any(self.tried(box, name, resolution) for resolution in reversed(RESOLUTIONS)), (
                    "a difference stays open"
                )
            busy = True
        if self.going_back():
            self.clear_outlets("missing" if self.losing else None)
            self.losing, busy = False, True
        for card in self.cards("outlet"):
            if card.app.status == "delivered":
                self.give_notice(card)
                busy = True
        for name, state in list(self.model.lists.items()):
            if state == "listed":
                self.act(
                    self.model.withdraw(name),
                    lambda name=name: destruction.withdraw(self.context, name, actor="storekeeper"),
                )
                busy = True
        waiting = [app for app in self.model.apps.values() if app.status in (*WAITING, "uncollected", "returned")]
        if waiting and not busy:
            self.pass_time(timedelta(days=200))
            busy = True
        if self.model.due_to_be_destroyed(self.clock.now()):
            self.list_cards(None)
            self.destroy_list(max(self.model.lists))
            busy = True
        return busy or any(app.status not in OVER for app in self.model.apps.values())

    def reason(self, app: App) -> str:
        return self.line.why(app.id)

    def tried(self, box: Box, name: tuple[str, str], resolution: str) -> bool:
        """Whether a difference could be settled so."""
        if isinstance(self.model.settle(box, name, resolution, "clerk"), str):
            return False
        return self.settle_one(box, name, resolution)

    def all_agrees(self) -> None:
        """Nothing is on its way any more, and nobody's books differ."""
        model, seen = self.model, self.seen()
        assert {app.status for app in model.apps.values()} <= set(OVER)
        assert {box.status for box in model.boxes.values()} <= {"closed", "packing"}
        assert {card.at[0] for card in model.cards.values()} <= {"holder", "destroyed", "lost"}
        self.bank_agrees(seen)
        with self.store.transaction() as tx:
            bound = stock.ledger_counts(tx)["bound"] if seen.cards else 0
            receipts = tx.conn.execute(select(t.destructions).where(t.destructions.c.state == "done")).all()
            by_row, _ = custody.balance(tx)
        assert bound == len(model.cards)
        destroyed = [item["card"] for receipt in receipts for item in receipt.items]
        assert sorted(destroyed) == sorted(card.id for card in model.cards.values() if card.status == "destroyed")
        assert all(destruction.receipt(self.context, receipt.receipt_no).genuine for receipt in receipts)
        assert Counter(by_row) == Counter(card.at[0] for card in model.cards.values())
        assert seen.ready == {card.id: card.ready for card in model.cards.values() if card.ready}
        assert not any(app.arrived for app in model.apps.values()), "an outlet was never told"

    def bank_agrees(self, seen: Seen) -> None:
        theirs = {account.key: account for account in self.ledger.accounts()}
        ours = {row.key: row for row in seen.accounts.values()}
        assert theirs.keys() == ours.keys()
        for key, row in ours.items():
            kept, account = theirs[key], self.model.accounts[row.id]
            with self.store.transaction() as tx:
                clear = tx.sealer.open(row.sealed, bound_to=f"accounts/{row.id}")
            assert (clear["account_ref"], clear["card_number"]) == (kept.account_ref, kept.card_number)
            frozen = "frozen" if row.frozen_at is not None else "open"
            assert kept.status == ("closed" if row.status == "closed" else frozen)
            stands = account.stands()
            if "close_account" in stands:
                del stands[stands.index("close_account") + 1 :]
            opened, *told = self.ledger.history(kept.account_ref)
            assert opened == "open_account"
            assert [op for op in told if op != "bind_card"] == stands
            numbers = [self.bank_number(seen.cards[c.id]) for c in self.model.cards.values() if c.account is account]
            assert len(numbers) == len(set(numbers)) <= 1 + told.count("bind_card"), "two cards have one number"

    def bank_number(self, card: Any) -> str:
        with self.store.transaction() as tx:
            return number_of_card(tx, card.id, card.sealed)


# --------------------------------------------------------------------------------------------------------- both databases


@pytest.fixture
def sqlite_world(regional: Regional) -> Iterator[World]:
    """A file is written over for each example."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        file = Path(folder) / "zhika.db"
        store = Store(f"sqlite:///{file}", Sealer(MASTER))
        store.migrate(now=SystemClock().now())
        store.close()
        template = file.read_bytes()

        def renewed() -> None:
            for leftover in file.parent.glob(f"{file.name}-*"):
                leftover.unlink()
            file.write_bytes(template)

        yield World(store.engine, renewed, regional)
        store.close()


@pytest.fixture
def postgres_world(emptied_postgres: str, regional: Regional) -> Iterator[World]:
    """The tables are emptied for each example; the data key stays."""
    store = Store(emptied_postgres, Sealer(MASTER))
    store.migrate(now=SystemClock().now())
    names = ", ".join(f'"{table.name}"' for table in t.metadata.sorted_tables if table is not t.data_keys)

    def renewed() -> None:
        with psycopg.connect(emptied_postgres, autocommit=True) as conn:
            conn.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")

    yield World(store.engine, renewed, regional)
    store.close()


def drive(world: World, *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            print_blob=True,
            # An example is a life of some cards on a real database: slow to draw by any measure.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_bank_and_custody_agree_with_their_model_on_sqlite(sqlite_world: World) -> None:
    drive(sqlite_world, examples=9, steps=60)


def test_bank_and_custody_agree_with_their_model_on_postgresql(postgres_world: World) -> None:
    drive(postgres_world, examples=4, steps=40)
