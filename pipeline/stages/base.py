"""What a stage is: two pure functions with a port between them.

    prepare(case, policy, now) -> Request | Outcome        no I/O
    act(requests)              -> replies                  the port; outside any transaction; may raise
    settle(case, reply, policy, now) -> Decision           no I/O

`services.run_stage` calls them for a whole chunk of applications; a stage that has nothing to ask of the world returns its
`Decision` from `prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from pipeline.application import Application
from pipeline.outcomes import Outcome
from pipeline.policy import Policy

# Who may end work whose worker died with an intent committed: any worker (it asks the other side), or only the station that
# holds the journal of the chip.
Reconciler = Literal["none", "worker", "station"]
Need = Literal["register", "account", "card", "photo", "call", "blank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An application with what the stage asked to see beside it (`Stage.needs`)."""

    application: Application
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.application.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that became true and is written in the settling transaction. Each kind has one writer in `store.facts`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A stage's word on one application: the outcome and the facts to record with it."""

    outcome: Outcome
    facts: tuple[Fact, ...] = ()


class Stage(Protocol):
    """One stage of the line."""

    name: str
    chunk: int
    """How many applications one work order carries."""
    needs: frozenset[Need]
    reconciler: Reconciler
    lease: timedelta
    """How long a worker may take for one chunk."""

    def prepare(self, case: Case, policy: Policy, now: datetime) -> object | Decision:
        """A request for the port, or a decision at once."""

    def act(self, requests: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out the requests, by application id. A reply may be an exception of `pipeline.errors`: it is that row's alone."""

    def settle(self, case: Case, reply: Any, policy: Policy, now: datetime) -> Decision:
        """Turn the reply into a decision."""


def no_port(requests: Mapping[str, Any]) -> Mapping[str, Any]:
    """The port of a stage that only thinks."""
    return dict.fromkeys(requests)


Requests = Sequence[tuple[str, Any]]
