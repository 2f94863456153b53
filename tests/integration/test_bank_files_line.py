"""Applications as they come in, through the account stage and a bank that exchanges files, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipeline.application import Submission
from pipeline.clock import civil_date
from pipeline.gateways.bank_files.exchange import DirectoryExchange
from pipeline.gateways.bank_files.gateway import BankFiles, Terms
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.services import bank_desk
from pipeline.stages.account import Account
from pipeline.store.bank_files import BankFileJournal
from producers.batch_file import open_batch
from producers.simulators.bank_files import FileBank, read_batch
from producers.simulators.intake import make_sample

from .conftest import Line

BANK = "95533"
EVERY = timedelta(minutes=30)
Make = Callable[..., Submission]


class Files:
    """A line whose bank exchanges files, and that bank."""

    def __init__(self, line: Line, place: Path) -> None:
        self.line, self.out_dir, self.ledger = line, place / "out", Ledger()
        bank = SimulatedBank(self.ledger, faults=Faults(), clock=line.clock, random=Random(1))
        self.bank = FileBank(self.out_dir, place / "in", bank=bank, bank_code=BANK, with_cards=True)
        gateway = BankFiles(
            Terms(sender=BANK, every=EVERY, quiet=timedelta(0), card_number_in_reserved=True),
            journal=BankFileJournal(line.context.store, BANK),
            exchange=DirectoryExchange(self.out_dir, place / "in"),
            objects=line.context.objects,  # type: ignore[arg-type]
            clock=line.clock,
        )
        self.banks = lambda _: gateway
        line.stages["account"] = Account(self.banks, key_secret=b"k" * 32, clock=line.clock)

    def exchange(self) -> None:
        """A file goes out, the bank answers it, and the answers wake who waits for them."""
        self.line.clock.advance(EVERY + timedelta(seconds=1))
        bank_desk.collect(self.line.context, self.banks, [BANK])
        self.bank.once()
        for _ in range(2):  # seen, and seen to stand still
            bank_desk.collect(self.line.context, self.banks, [BANK])

    def asked(self) -> list[Any]:
        return [row for path in (self.out_dir / "taken").iterdir() for row in read_batch(path.read_bytes())]


@pytest.fixture
def files(line: Line, tmp_path: Path) -> Iterator[Files]:
    made = Files(line, tmp_path)
    yield made
    made.ledger.close()


def test_people_of_the_sample_come_to_a_card_number_by_files_that_name_their_outlets(
    line: Line, files: Files, tmp_path: Path
) -> None:
    today = civil_date(line.clock.now())
    sample = make_sample(tmp_path, applications=6, policies=line.context.policies, today=today, only="wuhan")
    submissions = []
    for path in sample.files:
        with open_batch(path) as batch:
            rows = list(batch.read(policies=line.context.policies, source="sample"))
            submissions += [row.submission for row in rows if row.submission is not None]
    ids = line.accept(*{s.person.id_number: replace(s, bank_code=BANK) for s in submissions}.values())
    line.run()
    waiting = [i for i in ids if line.status(i) == "account"]
    assert waiting
    files.exchange()
    asked = {row.key: row.branch for row in files.asked()}
    assert sorted(asked.values()) == sorted(line.application(i).outlet.removeprefix("out_") for i in waiting)
    assert all(len(branch) == 8 for branch in asked.values())
    line.run()
    accounts = {account.key: account.card_number for account in files.ledger.accounts()}
    carded = [i for i in waiting if line.card(i) is not None]
    assert len(carded) == len(accounts) >= 6
    assert {line.status(i) for i in waiting if i not in carded} <= {"awaiting_correction", "held", "rejected"}


def test_an_outlet_a_file_has_no_room_for_is_held_with_a_reason_that_names_the_field(
    line: Line, files: Files, submission: Make
) -> None:
    [i] = line.accept(submission(outlet="out_420106-wuchang"))
    line.run()
    assert line.status(i) == "held"
    [reason] = line.row(i).reasons
    assert (reason["code"], reason["pointer"]) == ("bank.not_supported", "/outlet")
    assert "超过 8 字节：outlet" in reason["zh"] and "longer than 8 bytes: outlet" in reason["en"]


def test_what_an_applicant_can_shorten_goes_back_with_the_fields_name(
    line: Line, files: Files, submission: Make
) -> None:
    [i] = line.accept(submission(person={"address": "武昌区样例路" * 8}))
    line.run()
    assert line.status(i) == "awaiting_correction"
    [reason] = line.row(i).reasons
    assert (reason["code"], reason["pointer"]) == ("bank.field_too_long", "/person/address")
    assert "超过 60 字节：address" in reason["zh"]
