"""Which key store an installation has: test keys by default where no real card is made, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Diversification, KeyRef
from card_personalization.keys.ceremony import KeyRequest, Kind, Usage
from card_personalization.keys.ceremony_log import CeremonyLog, WitnessedSafe
from card_personalization.keys.custody import Custody, DualControl, Stretching
from card_personalization.keys.files import create_private
from card_personalization.keys.vault import Vault
from config import keys
from config.settings import BadConfiguration, OnlyGiven, Settings, load


def settings(tmp_path: Path, env: str, **group: Any) -> Settings:
    return load(OnlyGiven, data_dir=tmp_path, env=env, keys=group)


def vault_at(tmp_path: Path, value: bytes, *, demo: bool) -> dict[str, Any]:
    """A vault with one key, and what an installation must be told of it."""
    custody, control = people()
    create_private(tmp_path / "passphrase", b"operating passphrase\n")
    custody.save(tmp_path / "keys" / "custodians.json")
    vault = Vault.create(
        tmp_path / "keys" / "vault.json",
        passphrase=b"operating passphrase",
        custody=custody,
        control=control,
        demo=demo,
        stretching=Stretching(n=2**14),
    )
    request = KeyRequest(name="KMC", version=1, kind=Kind.TRIPLE_DES, usage=Usage.CARD_MANAGEMENT, owner="测试")
    log = CeremonyLog(path=tmp_path / "keys" / "ceremonies.log", custody=custody)
    WitnessedSafe(vault, log=log, now=lambda: datetime.now(UTC)).take(request, value, control=control)
    return {"store": "vault", "passphrase_file": tmp_path / "passphrase"}


def people() -> tuple[Custody, DualControl]:
    return Custody.enrol({"a": "first passphrase", "b": "second passphrase"}, stretching=Stretching(n=2**14))


@pytest.mark.parametrize("env", ["demo", "test", "development"])
def test_where_no_real_card_is_made_test_keys_are_the_default(tmp_path: Path, env: str) -> None:
    store = keys.key_store(settings(tmp_path, env))
    assert store.is_demo
    store.check(KeyRef("KMC"), usage=Usage.CARD_MANAGEMENT)


@pytest.mark.parametrize("group", [{}, {"store": "demo"}])
def test_production_does_not_start_on_test_keys(tmp_path: Path, group: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration, match="ZHIKA_KEYS__STORE"):
        keys.key_store(settings(tmp_path, "production", **group))


def test_a_vault_opens_unattended_with_its_passphrase_file(tmp_path: Path) -> None:
    group = vault_at(tmp_path, bytes.fromhex("7C0FA4B1522E39D6E85B1A9047C3FD62"), demo=False)
    store = keys.key_store(settings(tmp_path, "production", **group))
    assert not store.is_demo
    session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=bytes(10), counter=bytes(2))
    assert len(session.s_enc) == 16


def test_a_key_that_no_ceremony_made_stops_the_start_by_its_name(tmp_path: Path) -> None:
    group = vault_at(tmp_path, bytes.fromhex("7C0FA4B1522E39D6E85B1A9047C3FD62"), demo=False)
    (tmp_path / "keys" / "ceremonies.log").unlink()
    with pytest.raises(KeyRefused, match="made the keys KMC version 1: remove them"):
        keys.key_store(settings(tmp_path, "production", **group))


def test_a_test_key_in_a_vault_stops_production_by_its_name(tmp_path: Path) -> None:
    group = vault_at(tmp_path, bytes(range(0x40, 0x50)), demo=True)
    assert keys.key_store(settings(tmp_path, "test", **group)).is_demo
    with pytest.raises(KeyRefused, match="KMC version 1 is a published test key"):
        keys.key_store(settings(tmp_path, "production", **group))


def test_a_real_key_in_a_vault_stops_a_demonstration_by_its_name(tmp_path: Path) -> None:
    group = vault_at(tmp_path, bytes.fromhex("7C0FA4B1522E39D6E85B1A9047C3FD62"), demo=False)
    with pytest.raises(KeyRefused, match="KMC version 1 is not a test key"):
        keys.key_store(settings(tmp_path, "demo", **group))


@pytest.mark.parametrize(
    ("store", "missing"),
    [("vault", {"PASSPHRASE_FILE"}), ("pkcs11", {"MODULE", "TOKEN", "PIN_FILE"})],
)
def test_everything_that_opens_a_store_and_is_not_set_is_named(tmp_path: Path, store: str, missing: set[str]) -> None:
    people()[0].save(tmp_path / "keys" / "custodians.json")
    with pytest.raises(BadConfiguration) as told:
        keys.key_store(settings(tmp_path, "production", store=store))
    assert {problem.partition(":")[0] for problem in told.value.problems} == {f"ZHIKA_KEYS__{name}" for name in missing}
