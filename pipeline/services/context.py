"""What every service is given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.calendar import WorkingCalendar
from pipeline.clock import Clock
from pipeline.policy import Policy
from pipeline.ports import ObjectStore
from pipeline.store.engine import Store


class PolicyBook(Protocol):
    """Every region's policy, now and in the versions that applications were accepted under."""

    def of(self, region_code: str, version: str | None = None) -> Policy:
        """Raises: `NotFound` for a region or version that is not kept."""

    def cities(self) -> tuple[Policy, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The installation as services see it."""

    store: Store
    clock: Clock
    policies: PolicyBook
    calendar: WorkingCalendar
    objects: ObjectStore

    def now(self) -> datetime:
        return self.clock.now()
