"""An installation without processes: the engine's verbs are called one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

import config
from config.policies import load_policies
from pipeline.application import Application, Document, Submission
from pipeline.calendar import ChineseCalendar
from pipeline.clock import VirtualClock
from pipeline.errors import Defect
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.gateways.objects import ObjectMemory
from pipeline.identifiers import gb11643_check
from pipeline.person import Person
from pipeline.photo.findings import Finding, worst_first
from pipeline.photo.profile import PhotoProfile, load_profiles
from pipeline.photo.result import Adjust, Background, Geometry, Normalised
from pipeline.policy import Policy
from pipeline.ports import EncodeOrder, EncodeReport, StationStopped
from pipeline.services import bundles, counter, returns, run_stage, sweep
from pipeline.services import stock as stocking
from pipeline.services.accept import Accepted, accept
from pipeline.services.context import Context
from pipeline.stages.account import Account
from pipeline.stages.base import Stage
from pipeline.stages.collection import Collection
from pipeline.stages.dispatch import Dispatch
from pipeline.stages.personalisation import Personalisation
from pipeline.stages.photo import Photo
from pipeline.stages.validation import Validation
from pipeline.states import STAGES
from pipeline.store import applications, outbox, stock, views
from pipeline.store import custody as store_custody
from pipeline.store.engine import Store

POLICIES = load_policies()
PROFILES: Mapping[str, PhotoProfile] = load_profiles(Path(config.__file__).parent / "photo")
START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


@dataclass
class StubEncoder:
    """An encoder whose verdicts are scripted by blank serial; `verified` unless told otherwise."""

    station: str = "enc_1"
    verdicts: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    def loaded(self) -> tuple[str, ...] | None:
        return () if self.stopped else None

    def personalise(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        return {o.application_id: self._report("make", o) for o in orders}

    def recover(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        return {o.application_id: self._report("recover", o) for o in orders}

    def _report(self, what: str, order: EncodeOrder) -> EncodeReport:
        if self.stopped:
            raise StationStopped
        self.asked.append((what, order.blank_serial))
        verdict: Any = self.verdicts.get(order.blank_serial, "verified")
        chip = hashlib.sha256(order.blank_serial.encode()).hexdigest()[:32]
        problem = self.problems.get(order.blank_serial)
        return EncodeReport(verdict=verdict, chip_id=chip, face=b"png", verified_fields=("name",), problem=problem)


@dataclass
class StubNormaliser:
    """Every photo becomes a picture of its own, at the middle of all limits unless `adjust` moves it.

    `findings` scripts what is found, by upload; `background` what is done behind every person.
    """

    findings: dict[bytes, tuple[Finding, ...]] = field(default_factory=dict)
    background: Background = "kept"
    asked: list[tuple[str, bool, Adjust | None]] = field(default_factory=list)

    def normalise(
        self,
        photos: Mapping[str, bytes],
        *,
        profile: str,
        replace_background: bool = False,
        adjust: Adjust | None = None,
    ) -> Mapping[str, Normalised | Defect]:
        self.asked.append((profile, replace_background, adjust))
        return {key: self._one(data, adjust or Adjust()) for key, data in photos.items()}

    def thumbnail(self, upload: bytes, *, side_px: int) -> bytes | None:
        """These uploads are words: nothing of them can be shown."""
        return None

    def _one(self, data: bytes, adjust: Adjust) -> Normalised:
        found = worst_first(self.findings.get(data, ()))
        rejected = any(finding.level == "reject" for finding in found)
        moved = b"" if adjust == Adjust() else repr(adjust).encode()
        eye_x, eye_y = 179 + adjust.right_px, 199 + adjust.down_px
        half = 207 * adjust.scale / 2
        return Normalised(
            picture=None if rejected else b"jpeg" + data + moved,
            findings=found,
            width_px=None if rejected else 358,
            height_px=None if rejected else 441,
            quality=None if rejected else 80,
            background=self.background,
            geometry=Geometry(
                turn_deg=0,
                source_px=(716, 882),
                matrix=(2.0, 0.0, 0.0, 0.0, 2.0, 0.0),
                eyes=((eye_x - 40, eye_y), (eye_x + 40, eye_y)),
                ears=((eye_x - half, eye_y), (eye_x + half, eye_y)),
                chin=(eye_x, eye_y + 100),
                crown_px=14 + adjust.down_px,
            ),
            measures={
                "face_width_px": 2 * half,
                "eye_mid_x_px": eye_x,
                "eye_to_bottom_px": 441 - eye_y,
                "top_px": 14 + adjust.down_px,
            },
        )


class Killed(BaseException):
    """The worker's process is gone: nothing that is caught on the way."""


class Stand:
    """A stage with some of its methods replaced."""

    def __init__(self, stage: Any, **methods: Any) -> None:
        self._stage = stage
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


def dies_before(stage: Any) -> Any:
    """The worker dies with its intents committed and nothing done."""

    def act(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        raise Killed

    return Stand(stage, act=act)


def dies_after(stage: Any) -> Any:
    """The worker dies when the world has done what was asked, before it could write that down."""

    def act(requests: Mapping[str, Any]) -> Mapping[str, Any]:
        stage.act(requests)
        raise Killed

    return Stand(stage, act=act)


@dataclass
class Line:
    """The whole line, driven by hand."""

    context: Context
    stages: dict[str, Stage]
    ledger: Ledger
    bank: SimulatedBank
    encoder: StubEncoder
    clock: VirtualClock
    normaliser: StubNormaliser

    def accept(self, *submissions: Submission) -> list[str]:
        answers = accept(self.context, submissions, actor="test")
        assert all(isinstance(answer, Accepted) for answer in answers), answers
        return [answer.id for answer in answers if isinstance(answer, Accepted)]

    def lease(self, stage: str, *, limit: int = 100) -> list[str]:
        """What the relay would publish."""
        found: list[str] = []
        now = self.clock.now()
        with self.context.store.transaction() as tx:
            for lane in ("urgent", "normal", "bulk"):
                leased = applications.lease_ready(
                    tx, stage=stage, lane=lane, limit=limit, token="relay", now=now, until=now + timedelta(minutes=10)
                )
                found += [i for i, _ in leased]
        return found

    def step(self, stage: str) -> run_stage.Ran:
        """Publish and run what a stage has ready."""
        return run_stage.run(self.context, self.stages[stage], self.lease(stage), worker="w1")

    def run(self, *, until_quiet: int = 20) -> None:
        """Go on until nothing is ready."""
        for _ in range(until_quiet):
            ready = self.ready()
            if not any(self.step(stage).settled for stage in STAGES if stage in ready):
                return
        raise AssertionError("the line does not come to rest")

    def ready(self) -> set[str]:
        """Stages that have something to do."""
        with self.context.store.transaction() as tx:
            return {stage for (stage, _), backlog in applications.backlog(tx).items() if backlog.ready}

    def until(self, stage: str) -> None:
        """Run the stages before this one, once each."""
        for name in STAGES[: STAGES.index(stage)]:
            self.step(name)

    def sweep(self) -> sweep.Swept:
        return sweep.sweep(self.context, {name: stage.reconciler for name, stage in self.stages.items()})

    def later(self, **by: float) -> None:
        """Move the clock, sweep, and go on."""
        self.clock.advance(timedelta(**by))
        self.sweep()
        self.run()

    def status(self, application_id: str) -> str:
        with self.context.store.transaction() as tx:
            return applications.load(tx, [application_id])[application_id].application.status

    def row(self, application_id: str) -> Any:
        with self.context.store.transaction() as tx:
            return applications.load(tx, [application_id])[application_id].row

    def history(self, application_id: str) -> list[str]:
        with self.context.store.transaction() as tx:
            return [row.to for row in views.history(tx, application_id)]

    def why(self, application_id: str) -> str:
        """What the newest line of the history gives as its ground."""
        with self.context.store.transaction() as tx:
            return str(views.history(tx, application_id)[-1].why)

    def card(self, application_id: str) -> Any:
        with self.context.store.transaction() as tx:
            return views.card_row(tx, application_id)

    def supply(self, *serials: str, blank_type: str = "ssc2", station: str = "") -> str:
        """Blanks come into stock and go to a station; the production job."""
        stocking.receive(self.context, serials, blank_type=blank_type, lot="L1", note="D1", actor="keeper")
        issued = stocking.issue(
            self.context, serials, station=station or self.encoder.station, blank_type=blank_type, actor="keeper"
        )
        return issued.job_id

    def blanks(self) -> dict[str, int]:
        """Blanks by state."""
        with self.context.store.transaction() as tx:
            return stock.balance(tx)

    def ledger_counts(self) -> dict[str, int]:
        with self.context.store.transaction() as tx:
            return stock.ledger_counts(tx)

    def events(self, kind: str) -> int:
        """How many events of a type were written."""
        with self.context.store.transaction() as tx:
            return outbox.count(tx, kind)

    def bundles(self, status: str, direction: str = "out") -> list[Any]:
        with self.context.store.transaction() as tx:
            return store_custody.bundles(tx, status=status, direction=direction)

    def ship(self) -> list[Any]:
        """Let half-filled bundles be sealed and give them to the courier; the shipped bundles."""
        self.later(hours=5)
        sealed = self.bundles("sealed")
        for bundle in sealed:
            bundles.ship(self.context, bundle.id, carrier="courier", actor="dispatcher")
        return sealed

    def to_outlet(self, *submissions: Submission) -> list[str]:
        """From a submission to a card at its outlet, whose clocks run; the applications."""
        ids = self.accept(*submissions)
        self.run()
        for bundle in self.ship():
            bundles.receive(self.context, bundle.id, outlet=bundle.outlet, seal_no=bundle.seal_no, actor="clerk")
        self.later(seconds=1)
        return ids

    def notify(self, application_id: str) -> datetime | None:
        card = self.card(application_id)
        return counter.give_notice(self.context, card.id, outlet=card.place, method="sms", actor="clerk")

    def application(self, application_id: str) -> Application:
        with self.context.store.transaction() as tx:
            return applications.load(tx, [application_id])[application_id].application

    def hand_over(self, application_id: str, **changes: Any) -> str:
        card = self.card(application_id)
        told: dict[str, Any] = {
            "outlet": card.place,
            "serial": card.blank_serial,
            "taken_by": "holder",
            "document_type": "resident_id",
            "document_number": self.application(application_id).person.id_number,
            "fee_receipt": "R1",
            "actor": "clerk",
        }
        return counter.hand_over(self.context, card.id, **(told | changes))

    def call_back(self, application_id: str) -> str:
        """The outlet gives the courier a card that was called back; the bundle."""
        card = self.card(application_id)
        return returns.send_back(
            self.context, [card.id], outlet=card.place, seal_no="Back-1", carrier="courier", actor="clerk"
        )

    def balanced(self) -> dict[str, int]:
        """Cards by place; the cards' own rows and the custody events agree."""
        with self.context.store.transaction() as tx:
            by_row, by_event = store_custody.balance(tx)
        assert by_row == by_event
        return by_row


@pytest.fixture
def line(store: Store, tmp_path: Path) -> Line:
    """An installation on a fresh database with 50 blanks, issued to its station."""
    clock = VirtualClock(START)
    objects = ObjectMemory(key=bytes(32))
    ledger = Ledger()
    bank = SimulatedBank(ledger, faults=Faults(), clock=clock, random=Random(1))
    encoder = StubEncoder()
    normaliser = StubNormaliser()
    calendar = ChineseCalendar()
    context = Context(store=store, clock=clock, policies=POLICIES, calendar=calendar, objects=objects)
    stages: list[Stage] = [
        Validation(),
        Photo(normaliser, objects=objects, profiles=PROFILES),
        Account(lambda _: bank, key_secret=b"k" * 32, clock=clock),
        Personalisation(encoder, objects=objects),
        Dispatch(),
        Collection(calendar),
    ]
    made = Line(context, {stage.name: stage for stage in stages}, ledger, bank, encoder, clock, normaliser)
    made.supply(*(f"BL{n:04d}" for n in range(1, 51)))
    return made


def number(n: int, *, born: date = date(1980, 1, 1), area: str = "999001") -> str:
    """A citizen number in an area that is not assigned."""
    first17 = f"{area}{born:%Y%m%d}{n:03d}"
    return first17 + gb11643_check(first17)


@pytest.fixture
def submission() -> Callable[..., Submission]:
    """Makes a submission in Wuhan that every stage accepts; keyword arguments change it."""

    def make(n: int = 1, *, person: dict[str, Any] | None = None, **changes: Any) -> Submission:
        idn = number(n)
        human = Person(
            name="张小明",
            id_type="resident_id",
            id_number=idn,
            social_security_number=idn,
            sex="1" if n % 2 else "2",
            ethnic="01",
            birth_date=date(1980, 1, 1),
            phone=f"1380000{n:04d}",
            address="湖北省武汉市武昌区样例路1号",
            id_valid_to=date(9999, 12, 31),
        )
        base = Submission(
            external_ref=f"T-{n}",
            source="test",
            region="420100",
            agency="ag_42010601",
            window="agency",
            category="urban_employee",
            district="420106",
            person=replace(human, **(person or {})),
            bank_code="95533",
            outlet="out_42010601",
            documents=(Document(type="application_form"),),
            confirmed=True,
            photo=b"photo %d" % n,
        )
        return replace(base, **changes)

    return make


@pytest.fixture
def regional(submission: Callable[..., Submission]) -> Callable[..., Submission]:
    """Makes a submission that a region's own policy accepts."""

    def make(policy: Policy, n: int = 1, **changes: Any) -> Submission:
        district = next(iter(policy.districts))
        known = submission(
            n,
            region=policy.code,
            district=district,
            window=policy.window_for(category="urban_employee", district=district).value,
            bank_code=next(iter(policy.banks)),
            agency=f"ag_{district}01",
            outlet=f"out_{policy.code}01",
            unit_code="U0001",
            documents=tuple(Document(type=name) for name in policy.required.documents.value),
            person={"occupation": "样例"},
        )
        return replace(known, **changes)

    return make
