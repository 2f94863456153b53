"""A work order: what a broker carries. It names rows and nothing personal; losing one loses no work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.application import LANES, Lane
from pipeline.errors import StaleMessage
from pipeline.states import STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """`ids` of applications ready in `stage`, published for one lane."""

    stage: str
    lane: Lane
    ids: tuple[str, ...]
    trace: str

    def as_dict(self) -> dict[str, Any]:
        """The message's body."""
        return {**asdict(self), "ids": list(self.ids)}

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> WorkOrder:
        """Read a message's body.

        Raises:
            StaleMessage: it is not a work order of this version.
        """
        stage, lane, ids = body.get("stage"), body.get("lane"), body.get("ids")
        if stage not in STAGES or lane not in LANES or not isinstance(ids, Sequence) or isinstance(ids, str):
            raise StaleMessage("not a work order")
        if not all(isinstance(item, str) for item in ids):
            raise StaleMessage("not a work order: ids must be text")
        return cls(stage=stage, lane=lane, ids=tuple(ids), trace=str(body.get("trace", "")))


def queue_name(stage: str, lane: Lane) -> str:
    """The queue of a stage and lane: `photo`, `photo.urgent`, `photo.bulk`."""
    return stage if lane == "normal" else f"{stage}.{lane}"
