"""Dispatch: a produced card is put into the open bundle of its outlet.

Sealing, shipping and the outlet's receipt are acts of people or clocks (`services.bundles`); the application waits for them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from pipeline.outcomes import Hold, Reason, Wait
from pipeline.policy import Policy
from pipeline.stages.base import CardFact, Case, Decision, Fact, Need, Reconciler, Thinking

PACKED = "dispatch.packed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed(Fact):
    """The card lies in the open bundle of `outlet`, which is closed at `bundle_size` cards. `region` is the city."""

    application_id: str
    card_id: str
    outlet: str
    region: str
    bundle_size: int


class Dispatch(Thinking):
    """`stages.base.Stage` for packing."""

    name: ClassVar[str] = "dispatch"
    chunk: int = 200
    needs: ClassVar[frozenset[Need]] = frozenset({"card"})
    reconciler: ClassVar[Reconciler] = "none"
    lease: timedelta = timedelta(seconds=60)

    def prepare(self, case: Case, policy: Policy, now: datetime) -> Decision:
        """Pack the card, unless it is packed already."""
        card: CardFact | None = case.facts["card"]
        if card is None or card.custody != "centre":
            return Decision(Hold(_no_card()))
        if card.bundle_id is not None:
            return Decision(Wait(None, PACKED))
        packed = Packed(
            application_id=case.id,
            card_id=card.id,
            outlet=case.application.outlet,
            region=policy.city,
            bundle_size=policy.bundle_size.value,
        )
        return Decision(Wait(None, PACKED), (packed,))


def _no_card() -> Reason:
    return Reason(
        code="card.missing",
        zh="中心没有这张卡，请核对实物后处理",
        en="The centre holds no card for this application: look for it",
    )
