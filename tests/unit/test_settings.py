"""What an installation is told: where it may come from, and what cannot work is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from config.settings import BadConfiguration, OnlyGiven, load


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither the developer's environment nor their zhika.toml has a say."""
    import os

    for name in list(os.environ):
        if name.startswith("ZHIKA_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_word_it_runs_in_one_process_on_a_file_in_its_data_directory() -> None:
    settings = load(data_dir=Path("here"))
    assert settings.embedded
    assert settings.database.url == "sqlite:///here/zhika.db"
    assert settings.intake_dir == Path("here/intake")
    assert settings.installation_key == Path("here/installation.key")


def test_the_environment_goes_before_the_file_and_what_is_given_before_both(
    monkeypatch: pytest.MonkeyPatch, alone: Path
) -> None:
    (alone / "zhika.toml").write_text('[workers]\nthreads = 2\nwindow = 3\n[encoders]\nstation = "enc_7"\n')
    monkeypatch.setenv("ZHIKA_WORKERS__THREADS", "5")
    settings = load()
    assert (settings.workers.threads, settings.workers.window, settings.encoders.station) == (5, 3, "enc_7")
    assert load(workers={"threads": 6}).workers.threads == 6


def test_settings_for_a_demo_hear_neither_environment_nor_file(monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    (alone / "zhika.toml").write_text("[workers]\nthreads = 2\n")
    monkeypatch.setenv("ZHIKA_WORKERS__WINDOW", "5")
    settings = load(OnlyGiven)
    assert (settings.workers.threads, settings.workers.window) == (4, 16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZHIKA_DATABASE__URL", "mysql://somewhere"),
        ("ZHIKA_BROKER__URL", "redis://somewhere"),
        ("ZHIKA_WORKERS__THREADS", "0"),
        ("ZHIKA_WORKERS__THREADS", "many"),
        ("ZHIKA_WORKERS__WINDOW", "0"),
        ("ZHIKA_WORKERS__ORDER_LEASE_S", "0"),
        ("ZHIKA_ENCODERS__READERS", "0"),
        ("ZHIKA_METRICS__BIND", "8701"),
        ("ZHIKA_LOG_LEVEL", "loud"),
        ("ZHIKA_ENV", "somewhere"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_as_it_was_set(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration) as told:
        load()
    assert sum(problem.startswith(f"{name}: ") for problem in told.value.problems) == 1


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_WORKERS__THREADS", "0")
    monkeypatch.setenv("ZHIKA_BROKER__URL", "redis://x")
    with pytest.raises(BadConfiguration) as told:
        load()
    assert len(told.value.problems) == 2


def test_a_secret_in_a_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_DATABASE__URL", "mysql://user:very-secret@host/db")
    with pytest.raises(BadConfiguration) as told:
        load()
    assert "very-secret" not in str(told.value)


def test_sqlite_goes_with_the_broker_in_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_BROKER__URL", "amqp://user:pw@host/v")
    with pytest.raises(BadConfiguration, match="PostgreSQL"):
        load()
    monkeypatch.setenv("ZHIKA_DATABASE__URL", "postgresql://user:pw@host/db")
    assert not load().embedded


def test_a_word_nobody_knows_in_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_WORKERS__THREAD", "4")
    with pytest.raises(BadConfiguration, match="ZHIKA_WORKERS__THREAD"):
        load()


def test_a_file_that_is_not_toml_is_named(alone: Path) -> None:
    (alone / "zhika.toml").write_text("[workers\n")
    with pytest.raises(BadConfiguration, match="zhika.toml"):
        load()


def test_settings_do_not_change() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.env = "production"
