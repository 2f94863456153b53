"""What an installation builds, and refuses to build: no card leaves a real reader with keys that everybody knows."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import BadConfiguration, OnlyGiven, load
from config.wiring import Installation
from pipeline.errors import TransientError
from pipeline.gateways import encoder
from pipeline.gateways.encoder import LocalEncoder
from pipeline.ports import NotTried

REAL = {"virtual": False, "names": ("a reader",)}


class Opened(Exception):
    """The station over PC/SC readers would be opened."""


def station(tmp_path: Path, env: str, **encoders: Any) -> LocalEncoder:
    return Installation(load(OnlyGiven, data_dir=tmp_path, env=env, encoders=encoders)).encoder


@pytest.fixture(autouse=True)
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_pcsc(*_: object, **options: Any) -> None:
        raise Opened(options)

    monkeypatch.setattr(encoder, "open_pcsc", open_pcsc)


def test_test_keys_are_refused_in_real_readers_in_both_languages(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as told:
        station(tmp_path, "development", **REAL)
    [problem] = told.value.problems
    assert problem.startswith("ZHIKA_KEYS__STORE: ")
    assert all(word in problem for word in ("测试密钥", "test keys", "vault", "pkcs11"))
    assert not list(tmp_path.iterdir())


def test_the_default_installation_has_test_keys_and_real_readers_refuse_them(tmp_path: Path) -> None:
    settings = load(OnlyGiven, data_dir=tmp_path, encoders=REAL)
    assert settings.env == "development"
    with pytest.raises(BadConfiguration):
        _ = Installation(settings).encoder


@pytest.mark.parametrize("env", ["demo", "test"])
def test_a_test_bench_may_use_test_keys_in_its_readers(tmp_path: Path, env: str) -> None:
    with pytest.raises(Opened) as opened:
        station(tmp_path, env, **REAL, trace=True)
    [options] = opened.value.args
    assert options["keys"].is_demo
    assert options["trace"] is True


def test_virtual_cards_need_no_other_keys(tmp_path: Path) -> None:
    with station(tmp_path, "development") as opened:
        assert opened.stopped is None


def test_a_bank_is_reached_through_its_own_breaker_which_all_threads_share(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    banks = {"default": {"url": nobody, "breaker_failures": 2, "breaker_open_s": 600}}
    installation = Installation(load(OnlyGiven, data_dir=tmp_path, banks=banks))

    def ask(bank_code: str) -> type:
        deadline = installation.clock.now() + timedelta(seconds=20)
        return type(installation.bank(bank_code).find(["oa-1"], deadline=deadline)["oa-1"])

    with ThreadPoolExecutor(4) as threads:
        gateways = list(threads.map(installation.bank, ["95533"] * 20))
    assert len({id(gateway) for gateway in gateways}) == 1
    assert [ask("95533") for _ in range(3)] == [TransientError, TransientError, NotTried]
    assert ask("95588") is TransientError
    installation.close()
