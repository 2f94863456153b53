"""The encrypted file of keys: who opens it, who changes it, and that nothing in it can be changed unseen."""

from __future__ import annotations

import json
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import pytest

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import KeyInfo, Usage
from card_personalization.keys.ceremony import KeyRequest, Kind
from card_personalization.keys.custody import Custody, DualControl, Stretching
from card_personalization.keys.files import create_private, exclusive, read_secret, replace_private
from card_personalization.keys.vault import Vault

CHEAP = Stretching(n=2**14)
PASSPHRASE = b"what the service is started with"
VALUE = bytes.fromhex("7C0FA4B1522E39D6E85B1A9047C3FD62")


@pytest.fixture(scope="module")
def people() -> tuple[Custody, DualControl]:
    return Custody.enrol({"张保管": "first passphrase", "李保管": "second passphrase"}, stretching=CHEAP)


def nobody(_: KeyInfo) -> None:
    """A witness who does not write it down."""


def create(path: Path, people: tuple[Custody, DualControl], *, demo: bool = False) -> Vault:
    custody, control = people
    return Vault.create(path, passphrase=PASSPHRASE, custody=custody, control=control, demo=demo, stretching=CHEAP)


def reopen(path: Path, people: tuple[Custody, DualControl], passphrase: bytes = PASSPHRASE) -> Vault:
    return Vault(path, passphrase=passphrase, custody=people[0])


def wanted(name: str = "KMC", version: int = 1, kind: Kind = Kind.TRIPLE_DES) -> KeyRequest:
    return KeyRequest(
        name=name,
        version=version,
        kind=kind,
        usage=Usage.CARD_MANAGEMENT,
        owner="武汉市",
        not_after=date(2030, 12, 31),
    )


def test_what_was_put_in_is_there_when_it_is_opened_again(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    path = tmp_path / "keys" / "vault.json"
    vault = create(path, people)
    taken = vault.take(wanted(), VALUE, control=people[1], witness=nobody)
    made = vault.generate(wanted("KMC-AES", 1, Kind.AES_256), control=people[1], witness=nobody)
    again = reopen(path, people)
    assert again.keys() == vault.keys() == (taken, made)
    assert again.contents.entries[0].value == VALUE
    assert again.contents == vault.contents
    assert len(again.contents.digest_key) == 32 and any(again.contents.digest_key)


def test_no_key_and_no_passphrase_is_readable_on_the_disk_or_in_a_repr(
    tmp_path: Path, people: tuple[Custody, DualControl]
) -> None:
    path = tmp_path / "vault.json"
    vault = create(path, people)
    vault.take(wanted(), VALUE, control=people[1], witness=nobody)
    written = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert VALUE.hex().encode() not in written.lower() and VALUE not in written
    assert b"KMC" not in written and PASSPHRASE not in written
    shown = repr(vault) + repr(vault.contents) + repr(people)
    assert VALUE.hex() not in shown and repr(VALUE) not in shown and repr(vault.contents.digest_key) not in shown


def test_another_passphrase_does_not_open_it(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    create(tmp_path / "vault.json", people)
    with pytest.raises(KeyRefused, match="passphrase does not open"):
        reopen(tmp_path / "vault.json", people, b"another")


def test_a_version_is_never_overwritten_even_by_one_who_opened_before(
    tmp_path: Path, people: tuple[Custody, DualControl]
) -> None:
    path = tmp_path / "vault.json"
    vault = create(path, people)
    other = reopen(path, people)
    other.generate(wanted(), control=people[1], witness=nobody)
    with pytest.raises(KeyRefused, match="KMC version 1 已存在"):
        vault.generate(wanted(), control=people[1], witness=nobody)
    vault.generate(wanted(version=2), control=people[1], witness=nobody)
    assert [entry.version for entry in reopen(path, people).contents.entries] == [1, 2]


def test_ceremonies_at_once_lose_no_key(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    path = tmp_path / "vault.json"
    create(path, people)
    vaults = [reopen(path, people) for _ in range(4)]

    def work(version: int, vault: Vault) -> KeyInfo:
        return vault.generate(wanted(version=version), control=people[1], witness=nobody)

    with ThreadPoolExecutor(len(vaults)) as pool:
        made = list(pool.map(work, range(1, 5), vaults))
    kept = reopen(path, people).keys()
    assert sorted(kept, key=lambda info: info.version) == made


def test_who_waited_for_a_file_that_was_replaced_waits_for_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_private(path, b"old")

    def wait() -> bytes:
        with exclusive(path):
            return path.read_bytes()

    with ThreadPoolExecutor(1) as pool, ExitStack() as new:
        with exclusive(path):
            waiting = pool.submit(wait)
            time.sleep(0.1)
            replace_private(path, b"new")
            new.enter_context(exclusive(path))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        replace_private(path, b"newest")
        new.close()
        assert waiting.result(timeout=10) == b"newest"


def test_a_witness_is_told_of_the_key_before_it_is_kept_and_can_keep_it_out(
    tmp_path: Path, people: tuple[Custody, DualControl]
) -> None:
    path = tmp_path / "vault.json"
    vault = create(path, people)
    told: list[tuple[KeyInfo, tuple[KeyInfo, ...]]] = []
    made = vault.generate(
        wanted(), control=people[1], witness=lambda key: told.append((key, reopen(path, people).keys()))
    )
    assert told == [(made, ())]

    def full(_: KeyInfo) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        vault.generate(wanted(version=2), control=people[1], witness=full)
    assert reopen(path, people).keys() == (made,)


def test_a_refused_key_has_no_witness(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    vault = create(tmp_path / "vault.json", people)
    vault.take(wanted(), VALUE, control=people[1], witness=nobody)
    told: list[KeyInfo] = []
    for version, value in ((1, secrets.token_bytes(16)), (2, VALUE[:8] * 2), (2, bytes(range(0x40, 0x50)))):
        with pytest.raises(KeyRefused):
            vault.take(wanted(version=version), value, control=people[1], witness=told.append)
    assert told == []


def test_a_vault_is_never_created_over_another(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    path = tmp_path / "vault.json"
    create(path, people).take(wanted(), VALUE, control=people[1], witness=nobody)
    with pytest.raises(KeyRefused, match="never overwritten"):
        create(path, people)
    assert len(reopen(path, people).keys()) == 1


def test_other_custodians_cannot_change_it_unseen(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    path = tmp_path / "vault.json"
    vault = create(path, people)
    _, strangers = Custody.enrol({"a": "one stranger here", "b": "another stranger"}, stretching=CHEAP)
    vault.take(wanted(), VALUE, control=strangers, witness=nobody)
    with pytest.raises(KeyRefused, match="not signed by both custodians"):
        reopen(path, people)


@pytest.mark.parametrize("field", ["format", "scrypt", "salt", "nonce", "custody", "sealed", "signature"])
def test_every_field_is_under_the_signature(tmp_path: Path, people: tuple[Custody, DualControl], field: str) -> None:
    path = tmp_path / "vault.json"
    create(path, people)
    document = json.loads(path.read_text())
    if field == "scrypt":
        document["scrypt"]["p"] += 1
    else:
        document[field] = document[field][:-1] + ("0" if document[field][-1] != "0" else "1")
    path.write_text(json.dumps(document))
    with pytest.raises(KeyRefused, match="vault.json"):
        reopen(path, people)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "zhika-vault/2"}', '{"format": "zhika-vault/1"}'])
def test_a_damaged_file_is_named(tmp_path: Path, people: tuple[Custody, DualControl], content: str) -> None:
    path = tmp_path / "vault.json"
    create_private(path, content.encode())
    with pytest.raises(KeyRefused, match=r"vault\.json 已损坏"):
        reopen(path, people)


def test_a_cheaper_scrypt_is_not_taken() -> None:
    with pytest.raises(ValueError, match="scrypt costs"):
        Stretching(n=2**10)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    path = tmp_path / "vault.json"
    create(path, people)
    path.chmod(0o640)
    with pytest.raises(KeyRefused, match=r"chmod 600 .*vault\.json"):
        reopen(path, people)


def test_a_disk_that_refuses_leaves_the_old_vault(
    tmp_path: Path, people: tuple[Custody, DualControl], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vault.json"
    vault = create(path, people)

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            vault.generate(wanted(), control=people[1], witness=nobody)
    assert os.listdir(tmp_path) == ["vault.json"]
    assert vault.keys() == reopen(path, people).keys() == ()


def test_a_published_key_is_refused_outside_a_demonstration(
    tmp_path: Path, people: tuple[Custody, DualControl]
) -> None:
    vault = create(tmp_path / "vault.json", people)
    with pytest.raises(KeyRefused, match="KMC version 1 is a published test key"):
        vault.take(wanted(), bytes(range(0x40, 0x50)), control=people[1], witness=nobody)
    assert vault.keys() == ()


def test_a_real_key_is_refused_in_a_demonstration(tmp_path: Path, people: tuple[Custody, DualControl]) -> None:
    vault = create(tmp_path / "vault.json", people, demo=True)
    with pytest.raises(KeyRefused, match="not a test key"):
        vault.take(wanted(), secrets.token_bytes(16), control=people[1], witness=nobody)
    vault.take(wanted(), bytes(range(0x40, 0x50)), control=people[1], witness=nobody)


def test_a_passphrase_file_must_be_private_and_hold_something(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    create_private(path, b"operating passphrase\r\n")
    assert read_secret(path) == b"operating passphrase"
    create_private(tmp_path / "empty", b"\n")
    with pytest.raises(KeyRefused, match="empty"):
        read_secret(tmp_path / "empty")
    with pytest.raises(KeyRefused, match="missing"):
        read_secret(tmp_path / "missing")
