"""Two people and a key: what each proves, what they bring, what comes of it, and what is written down."""

from __future__ import annotations

import json
import resource
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from card_personalization.errors import KeyRefused
from card_personalization.keys import ceremony
from card_personalization.keys.base import Algorithm, KeyInfo, KeyRef, Usage
from card_personalization.keys.ceremony import KeyRequest, Kind, Witness
from card_personalization.keys.ceremony_log import CeremonyLog, WitnessedSafe
from card_personalization.keys.custody import Custody, DualControl, Stretching
from card_personalization.keys.files import create_private
from card_personalization.keys.primitives import check_value

CHEAP = Stretching(n=2**14)
FIRST, SECOND = "first passphrase", "second passphrase"
TODAY = date(2026, 1, 5)
NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def enrolled() -> tuple[Custody, DualControl]:
    return Custody.enrol({"张保管": FIRST, "李保管": SECOND}, stretching=CHEAP)


@pytest.fixture(scope="module")
def custody(enrolled: tuple[Custody, DualControl]) -> Custody:
    return enrolled[0]


@pytest.fixture(scope="module")
def control(enrolled: tuple[Custody, DualControl]) -> DualControl:
    return enrolled[1]


def kcv(kind: Kind, value: bytes) -> str:
    return check_value(kind.algorithm, value).hex()


# --------------------------------------------------------------------------------------------------------- custodians


def test_both_together_sign_and_their_order_does_not_matter(custody: Custody, tmp_path: Path) -> None:
    path = tmp_path / "custodians.json"
    custody.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = Custody.load(path)
    assert (loaded, loaded.names) == (custody, ("张保管", "李保管"))
    one, other = loaded.prove("张保管", FIRST), loaded.prove("李保管", SECOND)
    for control in (loaded.together(one, other), loaded.together(other, one)):
        assert control.names == ("张保管", "李保管")
        assert loaded.signed(b"a vault", control.sign(b"a vault"))
        assert not loaded.signed(b"another vault", control.sign(b"a vault"))
    assert not loaded.signed(b"a vault", b"")


def test_one_person_is_not_two(custody: Custody) -> None:
    with pytest.raises(KeyRefused, match="one custodian cannot be both"):
        custody.together(custody.prove("张保管", FIRST), custody.prove("张保管", FIRST))


@pytest.mark.parametrize(
    ("name", "passphrase", "why"),
    [
        ("张保管", SECOND, "passphrase of custodian 张保管 is wrong"),
        ("李保管", "", "passphrase of custodian 李保管 is wrong"),
        ("王", FIRST, "王 不是保管人"),
    ],
)
def test_who_does_not_prove_to_be_a_custodian_is_refused(
    custody: Custody, name: str, passphrase: str, why: str
) -> None:
    with pytest.raises(KeyRefused, match=why) as told:
        custody.prove(name, passphrase)
    assert not passphrase or passphrase not in str(told.value)


@pytest.mark.parametrize(
    ("passphrases", "why"),
    [
        ({"a": FIRST}, "two different custodians"),
        ({"a": FIRST, "b": SECOND, "c": "third passphrase"}, "two different custodians"),
        ({"a": FIRST, " ": SECOND}, "two different custodians"),
        ({"a": FIRST, "b": "short"}, "custodian b has less than 12"),
        ({"a": FIRST, "b": FIRST}, "the same passphrase"),
    ],
)
def test_who_cannot_be_enrolled(passphrases: dict[str, str], why: str) -> None:
    with pytest.raises(KeyRefused, match=why):
        Custody.enrol(passphrases, stretching=CHEAP)


def test_custodians_are_enrolled_once(custody: Custody, tmp_path: Path) -> None:
    path = tmp_path / "custodians.json"
    custody.save(path)
    before = path.read_bytes()
    with pytest.raises(KeyRefused, match="never overwritten"):
        Custody.enrol({"a": FIRST, "b": SECOND}, stretching=CHEAP)[0].save(path)
    assert path.read_bytes() == before


def test_a_key_put_into_the_custodians_file_by_somebody_is_seen(custody: Custody, tmp_path: Path) -> None:
    path = tmp_path / "custodians.json"
    custody.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    stranger, _ = Custody.enrol({"a": FIRST, "b": SECOND}, stretching=CHEAP)
    document["public"] = stranger.public.hex()
    path.write_text(json.dumps(document), encoding="utf-8")
    altered = Custody.load(path)
    with pytest.raises(KeyRefused, match="altered"):
        altered.together(altered.prove("张保管", FIRST), altered.prove("李保管", SECOND))
    assert altered.fingerprint != custody.fingerprint


def test_no_secret_of_the_custodians_is_readable(custody: Custody, control: DualControl, tmp_path: Path) -> None:
    path = tmp_path / "custodians.json"
    custody.save(path)
    proof = custody.prove("张保管", FIRST)
    shown = repr(custody) + repr(control) + repr(proof)
    assert FIRST not in shown + path.read_text(encoding="utf-8")
    for secret in (proof.stretched, control.private.private_bytes_raw()):
        assert repr(secret) not in shown and secret.hex() not in path.read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- what key


def ask(
    name: str = "KMC",
    *,
    version: int | None = None,
    kind: Kind = Kind.TRIPLE_DES,
    usage: Usage = Usage.CARD_MANAGEMENT,
    owner: str = "武汉市",
    not_after: date | None = None,
    existing: tuple[KeyInfo, ...] = (),
) -> KeyRequest:
    return ceremony.request(
        name,
        version=version,
        kind=kind,
        usage=usage,
        owner=owner,
        not_after=not_after,
        existing=existing,
        today=TODAY,
    )


def test_a_key_without_a_version_is_the_next_one() -> None:
    assert ask().version == 1
    existing = tuple(ask(version=number).info(b"kcv") for number in (1, 4))
    assert ask(existing=existing).version == 5
    assert ask("OTHER", existing=existing).version == 1
    assert ask(version=2, existing=existing).version == 2


def test_a_version_that_is_there_is_refused() -> None:
    with pytest.raises(KeyRefused, match="KMC version 4 is there and is never overwritten"):
        ask(version=4, existing=(ask(version=4).info(b"kcv"),))


@pytest.mark.parametrize("name", ["", "kmc", "K/1", "1K", "K" * 33, "K\n", "密钥"])
def test_a_name_is_of_capitals_digits_and_hyphens(name: str) -> None:
    with pytest.raises(KeyRefused, match="a key's name is"):
        ask(name)


@pytest.mark.parametrize("owner", ["", " x", "x" * 65, "a\nb"])
def test_an_owner_is_a_line_of_text(owner: str) -> None:
    with pytest.raises(KeyRefused, match="the owner of key KMC"):
        ask(owner=owner)


def test_a_key_that_has_expired_already_is_refused_and_one_that_ends_today_is_not() -> None:
    with pytest.raises(KeyRefused, match="over already"):
        ask(not_after=date(2026, 1, 4))
    assert ask(not_after=TODAY).not_after == TODAY


@pytest.mark.parametrize("usage", [Usage.ISSUER, Usage.SOCIAL_SECURITY])
def test_only_card_management_has_aes_keys(usage: Usage) -> None:
    with pytest.raises(KeyRefused, match="is a 3des key"):
        ask(kind=Kind.AES_128, usage=usage)


@pytest.mark.parametrize("version", [0, 10_000])
def test_a_version_is_from_1_to_9999(version: int) -> None:
    with pytest.raises(KeyRefused, match="1 to 9999"):
        ask(version=version)


# --------------------------------------------------------------------------------------------------------- components

kinds = st.sampled_from(Kind)


@given(kind=kinds, data=st.data())
def test_two_components_make_the_key_whichever_comes_first(kind: Kind, data: st.DataObject) -> None:
    halves = st.binary(min_size=kind.size, max_size=kind.size).filter(any)
    left, right = data.draw(halves), data.draw(halves)
    whole = bytes(a ^ b for a, b in zip(left, right, strict=True))
    one = ceremony.component(kind, custodian="a", value=left.hex(" "), kcv=kcv(kind, left).upper())
    other = ceremony.component(kind, custodian="b", value=right.hex(), kcv=kcv(kind, right))
    assert ceremony.combine(kind, one, other, kcv=kcv(kind, whole)) == whole
    assert ceremony.combine(kind, other, one, kcv=kcv(kind, whole)) == whole
    assert left.hex() not in repr(one) and repr(left) not in repr(one)


@given(kind=kinds, position=st.integers(0, 63), data=st.data())
def test_a_mistyped_digit_is_caught_by_the_check_value(kind: Kind, position: int, data: st.DataObject) -> None:
    value = data.draw(st.binary(min_size=kind.size, max_size=kind.size))
    typed = list(value.hex())
    at = position % len(typed)
    typed[at] = f"{int(typed[at], 16) ^ 0b0010:x}"
    with pytest.raises(KeyRefused, match="component of custodian a does not have") as told:
        ceremony.component(kind, custodian="a", value="".join(typed), kcv=kcv(kind, value))
    assert value.hex() not in str(told.value)


@pytest.mark.parametrize("value", ["", "40" * 15, "40" * 17, "4" * 31, "G0" * 16])
def test_a_component_is_hex_as_long_as_the_key(value: str) -> None:
    with pytest.raises(KeyRefused, match="must be 32 hex digits") as told:
        ceremony.component(Kind.TRIPLE_DES, custodian="a", value=value, kcv="000000")
    assert not value or value not in str(told.value)


def brought(value: bytes, custodian: str) -> ceremony.Component:
    return ceremony.component(Kind.AES_128, custodian=custodian, value=value.hex(), kcv=kcv(Kind.AES_128, value))


def test_both_components_from_one_person_are_refused() -> None:
    one = brought(secrets.token_bytes(16), "a")
    with pytest.raises(KeyRefused, match="two custodians"):
        ceremony.combine(Kind.AES_128, one, brought(secrets.token_bytes(16), "a"), kcv="000000")


def test_a_component_of_nothing_is_refused() -> None:
    value = secrets.token_bytes(16)
    with pytest.raises(KeyRefused, match="component of custodian b is all zero"):
        ceremony.combine(Kind.AES_128, brought(value, "a"), brought(bytes(16), "b"), kcv=kcv(Kind.AES_128, value))


def test_a_wrong_check_value_of_the_whole_is_refused() -> None:
    one, other = (brought(secrets.token_bytes(16), name) for name in "ab")
    with pytest.raises(KeyRefused, match="key of both components does not have"):
        ceremony.combine(Kind.AES_128, one, other, kcv="ABCDEF")


# ------------------------------------------------------------------------------------------------------------ weak keys


@given(half=st.binary(min_size=8, max_size=8), parity=st.lists(st.booleans(), min_size=8, max_size=8))
def test_equal_halves_are_seen_through_any_parity(half: bytes, parity: list[bool]) -> None:
    other = bytes(byte ^ flip for byte, flip in zip(half, parity, strict=True))
    with pytest.raises(KeyRefused, match="single DES"):
        ceremony.refuse_weak(KeyRef("KMC"), Kind.TRIPLE_DES, half + other)


@pytest.mark.parametrize(
    "weak", ["0101010101010101", "0000000000000000", "FEFEFEFEFEFEFEFE", "1F1F1F1F0E0E0E0E", "01FE01FE01FE01FE"]
)
def test_a_weak_half_is_refused_on_either_side(weak: str) -> None:
    good = bytes.fromhex("7C0FA4B1522E39D6")
    for value in (bytes.fromhex(weak) + good, good + bytes.fromhex(weak)):
        with pytest.raises(KeyRefused, match="weak half"):
            ceremony.refuse_weak(KeyRef("KMC"), Kind.TRIPLE_DES, value)


def test_every_weak_half_has_a_partner_that_undoes_it() -> None:
    """What makes a DES key weak: one of the list deciphers what it, or another of the list, enciphered."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    def des(half: bytes, block: bytes) -> bytes:
        return Cipher(TripleDES(half * 3), modes.ECB()).encryptor().update(block)

    block = b"any data"
    weak = ceremony._WEAK_HALVES
    assert len(weak) == 16
    for half in weak:
        assert any(des(partner, des(half, block)) == block for partner in weak), half.hex()


@given(value=st.binary(min_size=16, max_size=16))
def test_parity_is_left_as_it_was_given(value: bytes) -> None:
    try:
        ceremony.refuse_weak(KeyRef("KMC"), Kind.TRIPLE_DES, value)
    except KeyRefused:
        assume(False)
    flipped = bytes(byte ^ 1 for byte in value)
    ceremony.refuse_weak(KeyRef("KMC"), Kind.TRIPLE_DES, flipped)
    assert check_value(Kind.TRIPLE_DES.algorithm, value) == check_value(Kind.TRIPLE_DES.algorithm, flipped)


def test_a_random_source_that_gives_a_weak_key_is_asked_again() -> None:
    given = iter((bytes(16), b"\x13" * 16, bytes.fromhex("7C0FA4B1522E39D6E85B1A9047C3FD62")))
    assert ceremony.fresh(Kind.TRIPLE_DES, random=lambda _: next(given)).hex() == "7c0fa4b1522e39d6e85b1a9047c3fd62"


# ------------------------------------------------------------------------------------------------------------- the log


class Shelf:
    """A safe that keeps what may be told of keys, or is broken."""

    def __init__(self, *, broken: bool = False) -> None:
        self.infos: list[KeyInfo] = []
        self.broken = broken

    def keys(self) -> tuple[KeyInfo, ...]:
        return tuple(self.infos)

    def generate(self, request: KeyRequest, *, control: DualControl, witness: Witness) -> KeyInfo:
        return self.take(request, secrets.token_bytes(request.kind.size), control=control, witness=witness)

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl, witness: Witness) -> KeyInfo:
        info = request.info(check_value(request.kind.algorithm, value))
        witness(info)
        if self.broken:
            raise KeyRefused("broken")
        self.infos.append(info)
        return info


@pytest.fixture
def log(tmp_path: Path, custody: Custody) -> CeremonyLog:
    return CeremonyLog(path=tmp_path / "ceremonies.log", custody=custody)


def test_who_made_which_key_when_is_written_down_before_and_after(log: CeremonyLog, control: DualControl) -> None:
    safe = WitnessedSafe(Shelf(), log=log, now=lambda: NOW)
    made = safe.generate(ask(not_after=date(2030, 12, 31)), control=control)
    brought = safe.take(ask("IMK-AC", usage=Usage.ISSUER), secrets.token_bytes(16), control=control)
    lines = log.lines()
    assert [line["what"] for line in lines] == ["generating", "generated", "importing", "imported"]
    assert {tuple(line["custodians"]) for line in lines} == {("张保管", "李保管")}
    assert {line["at"] for line in lines} == {"2026-01-05T09:30:00+00:00"}
    assert (
        lines[0]["key"]
        == lines[1]["key"]
        == {
            "name": "KMC",
            "version": 1,
            "algorithm": "3des",
            "usage": "card-management",
            "owner": "武汉市",
            "not_after": "2030-12-31",
            "kcv": made.kcv.hex().upper(),
        }
    )
    assert log.witnessed() == {made, brought}
    log.vet([brought, made])
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_ceremony_that_broke_off_shows_in_the_log(log: CeremonyLog, control: DualControl) -> None:
    with pytest.raises(KeyRefused, match="broken"):
        WitnessedSafe(Shelf(broken=True), log=log, now=lambda: NOW).generate(ask(), control=control)
    assert [line["what"] for line in log.lines()] == ["generating"]


def test_a_key_whose_ceremony_broke_off_after_it_was_kept_is_witnessed(log: CeremonyLog, control: DualControl) -> None:
    shelf = Shelf()
    made = WitnessedSafe(shelf, log=log, now=lambda: NOW).generate(ask(), control=control)
    log.path.write_bytes(log.path.read_bytes()[:-9])
    assert [line["what"] for line in log.lines()] == ["generating"]
    log.vet(shelf.keys())
    assert log.witnessed() == {made}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "KMC-2"},
        {"version": 2},
        {"usage": Usage.ISSUER},
        {"kcv": b"abc"},
        {"owner": "其他"},
        {"not_after": date(2099, 1, 1)},
        {"algorithm": Algorithm.AES},
    ],
)
def test_a_key_that_is_not_what_a_ceremony_made_is_refused_by_name(
    log: CeremonyLog, control: DualControl, change: dict[str, Any]
) -> None:
    made = WitnessedSafe(Shelf(), log=log, now=lambda: NOW).generate(ask(), control=control)
    stranger = replace(made, **change)
    with pytest.raises(KeyRefused, match=rf"未经仪式.*made the keys {stranger.name} version {stranger.version}:"):
        log.vet([made, stranger])


@given(cut=st.integers(min_value=1, max_value=300))
def test_a_line_without_its_end_was_never_written(
    cut: int, control: DualControl, custody: Custody, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = CeremonyLog(path=tmp_path_factory.mktemp("log") / "ceremonies.log", custody=custody)
    for number in range(2):
        log.note(f"step {number}", control=control, at=NOW)
    first, last = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(first + last[: -min(cut, len(last))])
    assert [line["what"] for line in log.lines()] == ["step 0"]
    log.note("step 2", control=control, at=NOW)
    assert [line["what"] for line in log.lines()] == ["step 0", "step 2"]


def test_a_log_of_nothing_but_a_torn_line_begins_anew(log: CeremonyLog, control: DualControl) -> None:
    create_private(log.path, b'{"at": "2026-')
    assert log.lines() == ()
    log.note("begun", control=control, at=NOW)
    assert [line["what"] for line in log.lines()] == ["begun"]


def test_a_disk_that_takes_part_of_a_line_keeps_none_of_it(log: CeremonyLog, control: DualControl) -> None:
    log.note("step 0", control=control, at=NOW)
    before = log.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.note("step 1", control=control, at=NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.path.read_bytes() == before


def test_lines_written_at_once_are_one_chain(log: CeremonyLog, control: DualControl) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.note(f"step {number}", control=control, at=NOW), range(40)))
    assert {line["what"] for line in log.lines()} == {f"step {number}" for number in range(40)}


@pytest.mark.parametrize("damage", ["change", "drop", "swap", "forge", "splice"])
def test_a_log_that_was_altered_is_refused_and_not_added_to(
    log: CeremonyLog, control: DualControl, damage: str
) -> None:
    for number in range(3):
        log.note(f"step {number}", control=control, at=NOW)
    lines = log.path.read_bytes().splitlines(keepends=True)
    match damage:
        case "change":
            lines[1] = lines[1].replace(b"step 1", b"step 7")
        case "drop":
            del lines[1]
        case "swap":
            lines[0], lines[1] = lines[1], lines[0]
        case "forge":
            _, stranger = Custody.enrol({"a": FIRST, "b": SECOND}, stretching=CHEAP)
            log.note("step 3", control=stranger, at=NOW)
            lines = log.path.read_bytes().splitlines(keepends=True)
        case "splice":
            lines[1] = lines[1][:20]
    log.path.write_bytes(b"".join(lines))
    altered = log.path.read_bytes()
    with pytest.raises(KeyRefused, match=r"line \d was altered"):
        log.lines()
    with pytest.raises(KeyRefused, match=r"line \d was altered"):
        log.note("more", control=control, at=NOW)
    assert log.path.read_bytes() == altered


def test_a_log_that_is_not_there_yet_is_empty(log: CeremonyLog) -> None:
    assert log.lines() == ()
