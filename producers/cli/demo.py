"""`zhika demo`: the whole story on a temporary database, with a real bank over HTTP, virtual cards and a clock that can be moved."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from config.policies import Policies
from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.clock import SHANGHAI, VirtualClock
from pipeline.errors import Conflict, NotFound
from pipeline.person import mask_name, mask_number
from pipeline.photo.result import Normalised
from pipeline.services import endpoints
from pipeline.services import stock as stocking
from pipeline.states import public_status
from pipeline.store import applications, audit, custody, outbox, photos, stock, views
from pipeline.store.photos import KeptPhoto
from producers.cli.photo_report import shown
from producers.cli.report import CaseStory, Event, PhotoStory, RefusedRow, RegionRow, Story, region_table, write_report
from producers.embedded import embedded, wait_quiet, wait_told
from producers.file_intake import Taken, take_file
from producers.simulators.bank import BankServer
from producers.simulators.intake import Sample, make_sample
from producers.simulators.outlet import Outlets, nine_in_ten
from producers.simulators.receiver import Receiver

START = datetime(2026, 3, 2, 9, 0, tzinfo=SHANGHAI)
"""Monday morning in an ordinary week of a year whose holidays are published."""
THUMBNAIL_PX = 420
NO_PICTURE = b"no picture"
"""What the report gets of an upload that cannot be shown: enough to say so."""
SPOILS = frozenset({7})
"""Which blank of the box fails while it is written."""


class NotQuiet(RuntimeError):
    """The line did not come to rest in time."""


@dataclass
class Demo:
    """One run of the demo, in a directory of its own."""

    out: Path
    work: Path
    wanted: int
    seed: int
    region: str | None
    console: Console
    faults: str = ""
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(START.astimezone(UTC)))
    refused: list[RefusedRow] = field(default_factory=list)
    took: list[Taken] = field(default_factory=list)
    job: str = ""

    def run(self) -> dict[str, Any]:
        """Run everything; returns the summary that was written to `summary.json`.

        Raises:
            NotFound: no such region.
            ValueError: a fault specification that cannot be read.
            NotQuiet: the line did not come to rest.
        """
        began = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        with (
            BankServer(
                ledger_path=self._fresh("bank.db"), faults=self.faults, seed=self.seed, clock=self.clock
            ) as bank,
            Receiver(clock=self.clock) as outlets,
        ):
            installation = self._installation(bank.url)
            try:
                sample = self._sample(installation.policies)
                with embedded(installation, sweep_every_s=0.2):
                    self._take_in(installation, sample)
                    self._subscribe(installation, outlets)
                    self._live(installation)
                summary = self._summary(installation, sample, bank, outlets)
                summary["elapsed_s"] = round(time.monotonic() - began, 1)
                self._write(installation, summary)
            finally:
                installation.close()
        return summary

    # ------------------------------------------------------------------------------------------------------ the parts

    def _fresh(self, name: str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _installation(self, bank_url: str) -> Installation:
        settings = load(
            OnlyGiven,
            env="demo",
            data_dir=self.work,
            log_level="error",
            banks={"default": {"url": bank_url}},
            webhooks={"allow": ["127.0.0.0/8"], "plain_http": ["127.0.0.0/8"]},
            workers={"threads": 2},
        )
        return Installation(settings, clock=self.clock, spoil=SPOILS)

    def _sample(self, policies: Policies) -> Sample:
        with self.console.status("生成样例批次 Making the sample files"):
            return make_sample(
                self.work / "intake",
                applications=self.wanted,
                seed=self.seed,
                policies=policies,
                today=START.date(),
                only=self.region,
            )

    def _take_in(self, installation: Installation, sample: Sample) -> None:
        blanks = [f"DE{n:06X}" for n in range(1, sample.expected["rows"] + 11)]
        context, station = installation.context, installation.settings.encoders.station
        stocking.receive(context, blanks, blank_type="ssc2", lot="DEMO-1", actor="storekeeper")
        self.job = stocking.issue(context, blanks, station=station, blank_type="ssc2", actor="storekeeper").job_id
        with self._progress("接收批次 Taking in the files", sample.expected["rows"]) as advance:
            for path in sample.files:
                taken = take_file(
                    installation.context,
                    installation.policies,
                    path,
                    source=path.stem.split("-")[0],
                    actor="file-intake",
                )
                self.took.append(taken)
                self.refused += [
                    RefusedRow(file=path.name, row=f.row, column=f.column, code=f.code, zh=f.zh, en=f.en)
                    for f in taken.faults
                ]
                advance(taken.rows)

    def _subscribe(self, installation: Installation, receiver: Receiver) -> None:
        """Every outlet has its system told by webhook, each with a key of its own."""
        with installation.store.transaction() as tx:
            places = views.outlets(tx)
        keys = {}
        for outlet, region in places.items():
            made = endpoints.create(
                installation.context,
                installation.webhooks,
                outlet=outlet,
                region=region,
                url=f"{receiver.url}/{outlet}",
                actor="outlet system",
            )
            keys[f"/{outlet}"] = [made.key]
        receiver.script({}, keys)

    def _live(self, installation: Installation) -> None:
        """Production, then eight months in which most people come for their card."""
        outlets = Outlets(context=installation.context, comes=nine_in_ten)
        self._produce(installation)
        outlets.collect_at_centre()
        days = [0.25, 1, 1, 1, 2, 2, 3, 4, 5, 10, 20, *[20] * 10]
        with self._progress("时间推移 Time goes by", len(days)) as advance:
            for step in days:
                self.clock.advance(timedelta(days=step))
                self._settle(installation)
                outlets.ship()
                outlets.receive()
                self._settle(installation)
                outlets.collect()
                outlets.give_notices()
                outlets.send_back()
                outlets.reissue()
                outlets.destroy()
                self._settle(installation)
                advance(1)
        self._count_blanks(installation)
        with self.console.status("通知网点与银行 Telling outlets and banks"):
            if not wait_told(installation, timeout_s=60):
                raise NotQuiet("outlets and banks were not told within a minute")

    def _produce(self, installation: Installation) -> None:
        with installation.store.transaction() as tx:
            total = len(views.application_ids(tx))
        made = 0
        with self._progress("审核·照片·开户·制卡 Producing", total) as advance:
            until = time.monotonic() + 120
            while not wait_quiet(installation, timeout_s=0.2):
                with installation.store.transaction() as tx:
                    left = applications.moving(tx, now=self.clock.now())
                advance(total - left - made)
                made = total - left
                if time.monotonic() > until:
                    raise NotQuiet("production did not come to rest within two minutes")
            advance(total - made)

    def _count_blanks(self, installation: Installation) -> None:
        """What was not used goes back into stock, and another person signs the production job if it balances."""
        with installation.store.transaction() as tx:
            unused = stock.figures(tx, [self.job])[self.job].unused
        stocking.give_back(installation.context, self.job, unused, actor="storekeeper")
        with suppress(Conflict):  # the summary tells
            stocking.close_job(installation.context, self.job, actor="line leader")

    def _settle(self, installation: Installation) -> None:
        if not wait_quiet(installation, timeout_s=60):
            raise NotQuiet("the line did not come to rest within a minute")

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda n: progress.advance(task, n)

    # ---------------------------------------------------------------------------------------------------- the figures

    def _summary(
        self, installation: Installation, sample: Sample, bank: BankServer, receiver: Receiver
    ) -> dict[str, Any]:
        policies = installation.policies
        with installation.store.transaction() as tx:
            by_status = views.by_status(tx)
            by_region: dict[str, int] = {policy.code: 0 for policy in policies.cities()}
            if self.region:
                by_region = {}
            for (region, _), count in views.by_region_and_status(tx).items():
                city = policies.of(region).city
                by_region[city] = by_region.get(city, 0) + count
            ledger = stock.ledger_counts(tx)
            ledger_agrees = stock.balance(tx) == stock.ledger_balance(tx)
            job = stock.job(tx, self.job)
            cards = sum(views.cards_by_status(tx).values())
            first_cards = views.applications_with_card(tx)
            verified = views.verified_cards(tx)
            accounts = views.accounts(tx)
            bundles = views.bundles(tx)
            differences = views.discrepancies(tx)
            counter = views.counter(tx)
            endings = views.endings(tx)
            destroyed = views.destroyed(tx)
            told_banks = views.calls(tx)
            by_row, by_event = custody.balance(tx)
            chains = custody.verify(tx)
            public = outbox.ids(tx)
            chain = audit.verify(tx)
            ready = outbox.count(tx, "card.ready")
            delivered = views.ever_delivered(tx)
        books = bank.ledger.counts()
        opened, booked = sum(accounts.values()), books["accounts"] + books["closed"]
        taken_in = {event for path in receiver.received.values() for event in path}
        blanks = {
            "taken": ledger.get("taken", 0),
            "issued": ledger.get("bound", 0),
            "spoiled": ledger.get("spoiled", 0),
        }
        total = sum(by_status.values())
        rows = sum(taken.rows for taken in self.took)
        accepted = sum(taken.accepted for taken in self.took)
        duplicates = sum(taken.duplicate for taken in self.took)
        checks = {
            "every row of the files is accounted for": rows
            == accepted + duplicates + sum(taken.rejected for taken in self.took)
            and rows == sample.expected["rows"],
            "every accepted row is an application": total == accepted,
            "duplicates are those that were made": duplicates == sample.expected["duplicates"],
            "cards, verified cards and blanks issued agree": cards == verified == blanks["issued"],
            "blanks taken are issued or spoiled": blanks["taken"] == blanks["issued"] + blanks["spoiled"],
            "the production job balances and is signed by two": job is not None and job.state == "closed",
            "the ledger of blanks agrees with their states": ledger_agrees,
            "accounts agree with the bank's books": (opened, accounts.get("closed", 0)) == (booked, books["closed"]),
            "a card for every account": opened == cards == first_cards,
            "the bank has answered every instruction": set(told_banks) <= {"done", "declined"},
            "cards by place agree with their custody events": by_row == by_event and sum(by_row.values()) == cards,
            "every hand-over is signed by two and the chains hold": not chains.faults,
            "no bundle is left open": all(row.status == "closed" for row in bundles if row.status != "packing")
            and not differences.get("open"),
            "one ready-card notification for each delivery": ready == delivered,
            "every event reached its outlet's system": taken_in == public,
            "every destroyed card has its receipt": destroyed == by_row.get("destroyed", 0),
            "the audit chain holds": chain.broken_at is None,
        }
        return {
            "ok": all(checks.values()),
            "applications": total,
            "by_status": by_status,
            "by_region": by_region,
            "rows": rows,
            "rows_refused": sum(taken.rejected for taken in self.took),
            "duplicates_refused": duplicates,
            "accounts_opened": opened,
            "bank_ledger": {"accounts": booked, "closed": books["closed"], "declined": books["declined"]},
            "bank_instructions": told_banks,
            "cards_personalised": cards,
            "cards_verified": verified,
            "blanks": blanks,
            "custody": by_row,
            "bundles": _sums((row.direction, row.n) for row in bundles),
            "discrepancies": differences,
            "counter": counter,
            "returned": endings,
            "destroyed": destroyed,
            "notifications": ready,
            "webhooks": {"endpoints": len(receiver.received), "events": len(taken_in)},
            "checks": checks,
        }

    def _write(self, installation: Installation, summary: Mapping[str, Any]) -> None:
        with self.console.status("写报告 Writing the report"):
            faces = self.out / "faces"
            shutil.rmtree(faces, ignore_errors=True)
            faces.mkdir()
            with installation.store.transaction() as tx:
                ids = views.application_ids(tx)
            cases = [self._case(installation, i, faces) for i in ids]
            (self.out / "summary.json").write_text(
                json.dumps(summary, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
            )
            story = Story(
                title_at=self.clock.now(),
                summary=summary,
                regions=self.regions(installation),
                cases=cases,
                refused_rows=self.refused,
            )
            write_report(self.out / "report.html", story)
        self.console.print(region_table(story.regions))

    def regions(self, installation: Installation) -> list[RegionRow]:
        """The regions with their outcomes."""
        counts: dict[str, dict[str, int]] = {}
        with installation.store.transaction() as tx:
            found = views.by_region_and_status(tx)
        for (region, status), n in found.items():
            city = installation.policies.of(region).city
            counts.setdefault(city, {})[status] = counts.get(city, {}).get(status, 0) + n
        return [
            RegionRow(code=p.code, zh=p.zh, en=p.en, counts=counts[p.code], total=sum(counts[p.code].values()))
            for p in installation.policies.cities()
            if p.code in counts
        ]

    def _case(self, installation: Installation, application_id: str, faces: Path) -> CaseStory:
        with installation.store.transaction() as tx:
            claimed = applications.load(tx, [application_id])[application_id]
            steps = views.history(tx, application_id)
            card = views.card_row(tx, application_id)
            kept = photos.of(tx, application_id)
        app, row = claimed.application, claimed.row
        _, zh, en = public_status(app.status, held_from=row.held_from, ending=row.ending)
        face = None
        if card is not None and card.face:
            name = f"{application_id}.png"
            (faces / name).write_bytes(installation.objects.get(card.face))
            face = f"faces/{name}"
        return CaseStory(
            id=app.id,
            region_zh=installation.policies.of(installation.policies.of(app.region).city).zh,
            masked_name=mask_name(app.person.name),
            masked_number=mask_number(app.person.id_number),
            kind=app.kind,
            priority=app.priority,
            lane=app.lane,
            status=app.status,
            public_zh=zh,
            public_en=en,
            reasons=[(r.code, r.zh, r.en, r.rule) for r in app.reasons],
            due_at=app.due_at,
            received_at=app.received_at,
            bank_card_masked=None,
            blank_serial=card.blank_serial if card else None,
            card_number_masked=mask_number(card.card_number, head=2, tail=2) if card else None,
            photo_before=_thumbnail(installation, app.photo_original, kept),
            photo_after=None if kept is None else _stored(installation, kept.picture),
            photo=None if kept is None else _photo(installation, kept),
            face=face,
            verified_fields=("姓名", "社会保障号码", "卡号", "有效期") if card else (),
            timeline=[
                Event(
                    at=s.at,
                    frm=s.frm or None,
                    to=s.to,
                    stage=s.stage,
                    outcome=s.outcome,
                    why=s.why,
                    actor=s.actor,
                    attempt=s.attempt,
                )
                for s in steps
            ],
        )


def _sums(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Counts of the same name added up."""
    total: dict[str, int] = {}
    for name, n in counts:
        total[name] = total.get(name, 0) + n
    return total


def _photo(installation: Installation, kept: KeptPhoto) -> PhotoStory:
    return PhotoStory(normalised=kept.made, profile=installation.photo_profiles[kept.profile])


def _stored(installation: Installation, name: str | None) -> bytes | None:
    """What the object store keeps under a name; None when there is no name, or nothing any more."""
    if not name:
        return None
    try:
        return installation.objects.get(name)
    except NotFound:
        return None


def _thumbnail(installation: Installation, name: str | None, kept: KeptPhoto | None) -> bytes | None:
    """A small JPEG of a kept upload; None when there is none, `NO_PICTURE` when it cannot be shown."""
    data = _stored(installation, name)
    if data is None:
        return None
    made = Normalised(picture=None, findings=()) if kept is None else kept.made
    return shown(data, made, installation.photo_normaliser, side_px=THUMBNAIL_PX) or NO_PICTURE
