"""Events that leave the system: CloudEvents 1.0 JSON in structured mode, without any personal data.

The body's bytes are stored with the event and sent as they are, however often: a receiver de-duplicates by `id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

TYPES = frozenset({
    "bundle.disputed", "bundle.overdue", "bundle.received", "bundle.settled", "bundle.shipped",
    "card.collected", "card.collection_reverted", "card.destroyed", "card.notice_overdue", "card.ready", "card.recalled",
    "card.reissued", "card.remake_started", "card.returned", "card.uncollected", "card.uncollected_reminder",
    "command.accepted", "command.refused",
    "endpoint.disabled", "endpoint.test",
})  # fmt: skip
"""Every type of event there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to `subject` (a card, bundle, application or batch id).

    `sequence` rises per subject, so that a receiver can drop a stale one. `outlet` names whom it concerns, if any.
    """

    type: str
    subject: str
    region: str
    sequence: int
    outlet: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def body(self, event_id: str, time: datetime) -> bytes:
        """The document, as it is stored and sent."""
        stamp = instant(time)
        document = {
            "specversion": "1.0",
            "id": event_id,
            "type": self.type,
            "source": f"/centre/{self.region}",
            "subject": self.subject,
            "time": stamp,
            "timestamp": stamp,
            "sequence": str(self.sequence),
            "dataschema": f"/schemas/{self.type}/1",
            "datacontenttype": "application/json",
            "data": dict(self.data),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def instant(value: datetime) -> str:
    """RFC 3339 in UTC, to the second, as every face writes an instant."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
