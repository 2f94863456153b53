"""What a stage is: two pure functions with a port between them.

    prepare(case, policy, now)        -> Request | Decision   no I/O
    act(requests)                     -> replies              the port; outside any transaction; may raise
    settle(case, reply, policy, now)  -> Decision             no I/O

`services.run_stage` calls them for a whole chunk of applications; a stage that has nothing to ask of the world returns its
`Decision` from `prepare`. A request that will act on the world carries an `Intent`: it is committed before `act`, and `act` is
given what `granted` made of the request. `services.run_stage` then never calls `act` for a row whose intent was not committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from pipeline.application import Application
from pipeline.errors import Defect
from pipeline.outcomes import Outcome
from pipeline.policy import Policy

# Who may end work whose worker died with an intent committed: any worker (it asks the other side), or only the station that
# holds the journal of the chip.
Reconciler = Literal["none", "worker", "station"]

# What a stage asks to see beside the application; `store.facts` loads each kind for the whole chunk in one statement.
#   register  RegisterFacts        what our own records know of the person
#   account   AccountFact | None   the person's open account at the application's bank
#   calls     tuple[CallFact, ...] instructions to that bank to open an account for that person, and to bind this card, oldest first
#   blank     BlankFact | None     the blank reserved for this application
#   card      CardFact | None      the application's unvoided card
#   timers    tuple[TimerFact,...] clocks of the application that are due
#   photo     bytes                the upload (from the object store, after the claim)
#   picture   PictureFact | None   the picture that a person approved
Need = Literal["register", "account", "calls", "blank", "card", "timers", "photo", "picture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An application with what the stage asked to see beside it (`Stage.needs`)."""

    application: Application
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.application.id


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFacts:
    """What our own records know of a person: a card of theirs that is neither voided, cancelled nor destroyed."""

    card_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFact:
    """An open account. `account_ref` is the bank's name for it; `closing`: the bank is being told to end it, or is about to be.

    `opened_for` is the application it was opened for; `used`: a card was made with the number it has now.
    """

    id: str
    bank_card_number: str = field(repr=False)
    account_ref: str = field(repr=False)
    closing: bool = False
    opened_for: str | None = None
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFact:
    """An instruction given to a bank, or about to be: `intent`, `unknown`, `pending`, `not_received`, `done`, `declined`.

    `operation` is `open_account` or `bind_card`; `expected_by`: when the bank said it would answer, of a pending one.
    """

    key: str
    state: str
    created_at: datetime
    tries: int = 0
    operation: str = "open_account"
    expected_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankFact:
    """The blank reserved for an application, and the station that took it."""

    serial: str
    station: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFact:
    """A produced card."""

    id: str
    serial: str
    custody: str
    place: str
    bundle_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFact:
    """A clock that is due."""

    id: str
    kind: str
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFact:
    """The approved picture of an application, and the upload that it was made from: names of objects."""

    name: str
    original: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that became true and is written in the settling transaction. Each kind has one writer in `store.facts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Something that will be done to the world and is committed first. Each kind has one writer in `store.intents`."""


@runtime_checkable
class Acting(Protocol):
    """A request that acts on the world. `intent` None: it only asks (reconciliation), nothing to commit.

    A request without the attribute never acts.
    """

    @property
    def intent(self) -> Intent | None: ...

    def granted(self, grant: Any) -> Self: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """A stage's word on one application: the outcome and the facts to record with it."""

    outcome: Outcome
    facts: tuple[Fact, ...] = ()


class Stage(Protocol):
    """One stage of the line."""

    name: ClassVar[str]
    chunk: int
    """How many applications one work order carries."""
    needs: ClassVar[frozenset[Need]]
    reconciler: ClassVar[Reconciler]
    lease: timedelta
    """How long a worker may take for one chunk."""

    def prepare(self, case: Case, policy: Policy, now: datetime) -> Any:
        """A request for the port, or a `Decision` at once."""

    def act(self, requests: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out the requests, by application id. A reply may be an exception of `pipeline.errors`: it is that row's alone."""

    def settle(self, case: Case, reply: Any, policy: Policy, now: datetime) -> Decision:
        """Turn the reply into a decision."""

    def failed(self, case: Case, request: Any, error: BaseException) -> tuple[Fact, ...]:
        """What is to be recorded when `act` answered a row with an error; the outcome is `retry.disposition`'s."""


class Thinking:
    """The rest of a stage that has no port: everything is decided in `prepare`."""

    def act(self, requests: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict.fromkeys(requests)

    def settle(self, case: Case, reply: Any, policy: Policy, now: datetime) -> Decision:
        raise Defect("a stage that decides in prepare was given a reply to settle")

    def failed(self, case: Case, request: Any, error: BaseException) -> tuple[Fact, ...]:
        return ()
