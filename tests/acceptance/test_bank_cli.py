"""`zhika bank` as a command: what it prints, how it ends, and that two people are two."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random

import pytest

from pipeline.clock import SystemClock, civil_date
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.ports import CloseAccount
from producers.simulators.bank import BankServer
from tests.support.cli import Cli, Finished, cli, together


@pytest.fixture(scope="module")
def zhika(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """An installation that nobody runs, with no card made."""
    directory = tmp_path_factory.mktemp("bank")
    with cli(directory, ZHIKA_ENV="test", ZHIKA_DATA_DIR=str(directory / "data")) as made:
        assert made.run("db", "migrate").returncode == 0
        assert made.json("bank", "list", "-o", "json") == []
        yield made


def fails(done: Finished, code: int, *told: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in told:
        assert word in done.stderr


def test_what_does_not_exist_and_what_is_no_use_is_told_by_exit_code(zhika: Cli) -> None:
    people = ("--by", "li", "--reason", "letter")
    card, key, alone, outcome, day = together(
        [
            lambda: zhika.run("bank", "freeze", "card_none"),
            lambda: zhika.run("bank", "ask", "ff-none"),
            lambda: zhika.run("bank", "settle", "ff-none", "--as", "done", "--approved-by", "LI", *people),
            lambda: zhika.run("bank", "settle", "ff-none", "--as", "perhaps", "--approved-by", "wang", *people),
            lambda: zhika.run("bank", "reconcile", "2026-13-40"),
        ]
    )
    fails(card, 3, "card_none")
    fails(key, 3, "ff-none")
    fails(alone, 4, "same-person")
    fails(outcome, 2)
    fails(day, 2, "YYYY-MM-DD")


def test_books_that_differ_end_with_1_and_a_bank_that_cannot_be_asked_with_5(zhika: Cli, tmp_path: Path) -> None:
    clock, path = SystemClock(), tmp_path / "ledger.db"
    ledger = Ledger(path)
    foreign = CloseAccount(key="ca-foreign", bank_code="95533", account_ref="1", reason="ended")
    bank = SimulatedBank(ledger, faults=Faults(), clock=clock, random=Random(1))
    bank.submit([foreign], deadline=clock.now() + timedelta(minutes=1))
    ledger.close()
    today = civil_date(clock.now())

    def compared(url: str, day: date, *options: str) -> Finished:
        return zhika.run("bank", "reconcile", str(day), *options, settings={"ZHIKA_BANKS__95533__URL": url})

    with BankServer(ledger_path=path) as server:
        differ, agree, away = together(
            [
                lambda: compared(server.url, today, "-o", "json"),
                lambda: compared(server.url, today - timedelta(days=1)),
                lambda: compared("http://127.0.0.1:1", today),
            ]
        )
    assert (differ.returncode, agree.returncode, away.returncode) == (1, 0, 5)
    assert '"theirs_only": [\n        "ca-foreign"\n      ]' in differ.stdout
    assert "未能查询 not asked" in away.stdout


def test_a_day_that_no_books_can_be_of_is_a_usage_error(zhika: Cli) -> None:
    days = ("9999-12-31", "0001-01-01", "1999-12-31", str(civil_date(SystemClock().now()) + timedelta(days=2)))
    for done in together([lambda day=day: zhika.run("bank", "reconcile", day) for day in days]):
        fails(done, 2, "2000-01-01")


def test_lists_name_what_they_can_be_asked_for(zhika: Cli) -> None:
    status, direction, state, blank, application = together(
        [
            lambda: zhika.run("bundle", "list", "--status", "nonsense"),
            lambda: zhika.run("bundle", "list", "--direction", "sideways"),
            lambda: zhika.run("custody", "destructions", "--state", "burnt"),
            lambda: zhika.run("blank", "list", "--state", "lost"),
            lambda: zhika.run("application", "list", "--status", "lost"),
        ]
    )
    fails(status, 2, "packing", "disputed")
    fails(direction, 2, "out", "back")
    fails(state, 2, "listed", "withdrawn")
    fails(blank, 2, "stocked", "destroyed")
    fails(application, 2, "notified", "collected")
    for listing in (
        ("bundle", "list", "--status", "closed", "--direction", "back"),
        ("blank", "list", "--state", "test"),
    ):
        assert zhika.run(*listing).returncode == 0
