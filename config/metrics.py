"""Metrics: what a process counts. Labels are bounded; never an id of a person, application or card.

Where several processes make one installation they share `PROMETHEUS_MULTIPROC_DIR`, and the timers serve the sum of all.
"""

from __future__ import annotations

import logging
import os
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client import Gauge as _Gauge
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger("zhika.metrics")
SHARED = "PROMETHEUS_MULTIPROC_DIR"
Gauge = partial(_Gauge, multiprocess_mode="mostrecent")

OUTCOMES = Counter("zhika_stage_outcomes", "Outcomes of stages", ["stage", "lane", "outcome"])
RUN_SECONDS = Histogram(
    "zhika_stage_run_seconds",
    "Time one work order takes",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
PHOTOS = Counter("zhika_photo", "Photos by result and worst finding", ["result", "finding"])
PHOTO_SECONDS = Histogram(
    "zhika_photo_seconds",
    "Time the phases of a photo take",
    ["phase"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INTAKE = Counter("zhika_intake", "Submissions taken in", ["face", "region", "result"])
PUBLISHED = Counter("zhika_relay_published", "Work orders handed to the broker", ["result"])
EXPIRED = Counter("zhika_claims_expired", "Leases that ended unsettled", ["stage"])
OUTBOX_ROWS = Gauge("zhika_outbox_rows", "Events without a place in the feed")
OUTBOX_LAG = Gauge("zhika_outbox_lag_seconds", "Age of the oldest of them")
TIMER_LAG = Gauge("zhika_timer_lag_seconds", "Age of the oldest due clock")
STAGE_ITEMS = Gauge("zhika_stage_items", "Applications by stage", ["stage", "lane", "state"])
STAGE_OLDEST = Gauge("zhika_stage_oldest_seconds", "Age of the oldest row that could go on", ["stage", "lane"])
STAGE_PAUSED = Gauge("zhika_stage_paused", "1 while a stage is paused", ["stage"])
BLANKS = Gauge("zhika_blanks", "Blanks by state", ["type", "location", "state"])
ENCODER_STATE = Gauge("zhika_encoder_state", "1 for the state an encoder is in", ["encoder", "state"])
ERASURE_OVERDUE = Gauge("zhika_erasure_overdue", "What should be erased and cannot be, a day or more")
OUTLET_REFUSALS = Counter("zhika_outlet_queue_refusals", "Times an outlet's queue did not take its next event")
WEBHOOK_ATTEMPTS = Counter("zhika_webhook_attempts", "Attempts to deliver a webhook", ["result"])
WEBHOOK_SECONDS = Histogram(
    "zhika_webhook_seconds",
    "Time an attempt takes, from the name to the answer",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
WEBHOOK_BACKLOG = Gauge("zhika_webhook_backlog", "Deliveries that enabled endpoints are owed")
BUILD = Gauge("zhika_build_info", "The running release", ["version", "mode"])


def serve(bind: str) -> None:
    """Serve the metrics of the installation at `host:port`; a port that cannot be had is a warning, since the line goes on.

    Raises:
        ValueError: not host:port.
    """
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"ZHIKA_METRICS__BIND is host:port, not {bind!r}")
    registry = REGISTRY
    if os.environ.get(SHARED):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    try:
        start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        log.warning("metrics are not served at %s: %s", bind, error.strerror)
