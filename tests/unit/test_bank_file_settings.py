"""How a bank that exchanges files is configured, and what is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from config.settings import BadConfiguration, OnlyGiven, load
from config.wiring import Installation
from pipeline.gateways.bank_breaker import BankBreaker
from pipeline.gateways.bank_files.gateway import BankFiles
from producers.cli.main import app


def installation(tmp_path: Path, **banks: Any) -> Installation:
    return Installation(load(OnlyGiven, data_dir=tmp_path, banks=banks))


def test_a_bank_with_directories_exchanges_files_and_its_neighbour_does_not(tmp_path: Path) -> None:
    files = {"out_dir": tmp_path / "out", "in_dir": tmp_path / "in"}
    made = installation(
        tmp_path,
        **{"95533": files, "95588": {"url": "http://127.0.0.1:9"}, "95599": {"url": "http://127.0.0.1:9"}},
    )
    try:
        assert isinstance(made.bank("95533"), BankFiles)
        assert isinstance(made.bank("95588"), BankBreaker)
        assert made.bank("95533") is made.bank("95533")
    finally:
        made.close()


@pytest.mark.parametrize(
    ("banks", "message"),
    [
        ({"95533": {}}, "set URL, or OUT_DIR and IN_DIR"),
        ({"95533": {"out_dir": "a"}}, "OUT_DIR and IN_DIR go together"),
        ({"95533": {"out_dir": "a", "in_dir": "a"}}, "two directories"),
        ({"95533": {"out_dir": "a", "in_dir": "b", "file_passed": "1"}}, "two different codes"),
        ({"95533": {"out_dir": "a", "in_dir": "b", "file_sender": "a b"}}, "FILE_SENDER"),
        ({"default": {"out_dir": "a", "in_dir": "b"}}, "not for DEFAULT"),
        ({"1": {"out_dir": "a", "in_dir": "b"}, "2": {"out_dir": "c", "in_dir": "b"}}, "share a directory"),
    ],
)
def test_directories_that_cannot_work_are_refused_by_name(banks: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfiguration, match="ZHIKA_BANKS") as told:
        load(OnlyGiven, banks=banks)
    assert message in str(told.value)


def test_a_banks_own_codes_may_be_set(tmp_path: Path) -> None:
    settings = load(
        OnlyGiven,
        banks={"95533": {"out_dir": "a", "in_dir": "b", "file_passed": "Y", "file_id_types": {"passport": "07"}}},
    )
    assert settings.banks["95533"].file_id_types == {"passport": "07"}


def simulated(tmp_path: Path, out: Path, back: Path, *more: str) -> Result:
    ledger = str(tmp_path / "l.db")
    asked = ["simulate", "bank-files", "--out", str(out), "--in", str(back), "--ledger", ledger, *more]
    return CliRunner().invoke(app, asked, env={"COLUMNS": "200"})


def test_the_simulated_bank_refuses_a_spec_it_does_not_know(tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    back.mkdir()
    told = simulated(tmp_path, out, back, "--faults", "lost=1")
    assert told.exit_code == 2 and "known are missing_rows" in told.output
    assert not list(out.iterdir())


def test_the_simulated_bank_wants_two_directories_that_are_there(tmp_path: Path) -> None:
    out, missing = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    (tmp_path / "same").symlink_to(out)
    for back, message in (
        (missing, "does not exist"),
        (out, "two directories"),
        (tmp_path / "same", "two directories"),
    ):
        told = simulated(tmp_path, out, back)
        assert told.exit_code == 2 and message in told.output
    assert not missing.exists() and not (tmp_path / "l.db").exists()
