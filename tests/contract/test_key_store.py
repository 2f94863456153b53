"""What every key store promises, and what only the one on a token can. Keys are published test keys, so both stores are demo ones."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pkcs11 import KeyType

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Algorithm, Diversification, KeyInfo, KeyRef, KeyStore, Usage
from card_personalization.keys.ceremony import KeyRequest, Kind
from card_personalization.keys.custody import Custody, DualControl, Stretching
from card_personalization.keys.pkcs11 import Pkcs11Keys
from card_personalization.keys.pkcs11.objects import FIRST, _put
from card_personalization.keys.pkcs11.session import Vet
from card_personalization.keys.software import SecretKey, SoftwareKeys
from tests.support.softhsm import Token, token_in

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "scp.json").read_text(encoding="utf-8"))
TODAY = date(2026, 1, 5)
ASCENDING = bytes(range(0x40, 0x50))
EMV = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
KDD = bytes.fromhex("00010203040506070809")
COUNTER = bytes.fromhex("0001")
F1, F2 = bytes.fromhex("1122334455667788"), bytes.fromhex("0807060504030201")


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """A published test key and what it is for here."""

    name: str
    kind: Kind
    usage: Usage
    value: bytes
    version: int = 1
    not_after: date | None = None

    @property
    def request(self) -> KeyRequest:
        return KeyRequest(
            name=self.name,
            version=self.version,
            kind=self.kind,
            usage=self.usage,
            owner="测试",
            not_after=self.not_after,
        )

    @property
    def secret(self) -> SecretKey:
        return SecretKey(
            name=self.name,
            version=self.version,
            algorithm=self.kind.algorithm,
            usage=self.usage,
            owner="测试",
            not_after=self.not_after,
            value=self.value,
        )


MASTERS = (
    Master(name="IRK", kind=Kind.TRIPLE_DES, usage=Usage.SOCIAL_SECURITY, value=ASCENDING),
    Master(name="IRK", version=2, kind=Kind.TRIPLE_DES, usage=Usage.SOCIAL_SECURITY, value=EMV),
    Master(name="UKSSSE", kind=Kind.TRIPLE_DES, usage=Usage.SOCIAL_SECURITY, value=bytes(range(0x50, 0x60))),
    Master(name="KMC", kind=Kind.TRIPLE_DES, usage=Usage.CARD_MANAGEMENT, value=ASCENDING),
    Master(name="KMC-AES", kind=Kind.AES_128, usage=Usage.CARD_MANAGEMENT, value=ASCENDING),
    Master(name="KMC-192", kind=Kind.AES_192, usage=Usage.CARD_MANAGEMENT, value=bytes(range(0x40, 0x58))),
    Master(name="KMC-256", kind=Kind.AES_256, usage=Usage.CARD_MANAGEMENT, value=bytes(range(0x40, 0x60))),
    Master(name="IMK-AC", kind=Kind.TRIPLE_DES, usage=Usage.ISSUER, value=EMV),
    Master(name="IMK-MAC", kind=Kind.TRIPLE_DES, usage=Usage.ISSUER, value=bytes(range(0x10, 0x20))),
    Master(name="OLD", kind=Kind.TRIPLE_DES, usage=Usage.ISSUER, value=EMV, not_after=date(2026, 1, 4)),
    Master(name="LAST", kind=Kind.TRIPLE_DES, usage=Usage.ISSUER, value=EMV, not_after=TODAY),
)


def nobody(_: KeyInfo) -> None:
    """A witness who does not write it down."""


def two_people() -> DualControl:
    return Custody.enrol({"a": "first passphrase", "b": "second passphrase"}, stretching=Stretching(n=2**14))[1]


def open_token(
    token: Token, *, demo: bool = True, pin: str | None = None, vet: Vet = lambda _: None, writable: bool = False
) -> Pkcs11Keys:
    return Pkcs11Keys(
        token.module,
        token=token.label,
        pin=lambda: pin or token.pin,
        demo=demo,
        today=lambda: TODAY,
        vet=vet,
        writable=writable,
    )


def software() -> SoftwareKeys:
    return SoftwareKeys(
        [master.secret for master in MASTERS], digest_key=bytes(range(32)), demo=True, today=lambda: TODAY
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A token that a ceremony put all the masters into."""
    with token_in(tmp_path_factory.mktemp("softhsm")) as token:
        with open_token(token, writable=True) as keys:
            keys.begin()
            control = two_people()
            for master in MASTERS:
                keys.take(master.request, master.value, control=control, witness=nobody)
        yield token


@pytest.fixture
def filled_store(filled: Token) -> Iterator[KeyStore]:
    with open_token(filled) as keys:
        yield keys


@pytest.fixture(params=["software", "pkcs11"])
def store(request: pytest.FixtureRequest) -> KeyStore:
    return software() if request.param == "software" else request.getfixturevalue("filled_store")


# ------------------------------------------------------------------------------------------------------- what is there


def test_it_tells_names_versions_and_check_values_and_no_more(store: KeyStore) -> None:
    infos = store.keys()
    told = {(key.name, key.version): key for key in infos}
    assert list(told) == sorted((master.name, master.version) for master in MASTERS)
    kmc, aes, old = told["KMC", 1], told["KMC-AES", 1], told["OLD", 1]
    assert (kmc.kcv.hex(), kmc.algorithm, kmc.usage, kmc.owner) == (
        "8baf47",
        Algorithm.TRIPLE_DES,
        Usage.CARD_MANAGEMENT,
        "测试",
    )
    assert (aes.kcv.hex(), aes.algorithm, aes.not_after) == ("504a77", Algorithm.AES, None)
    assert old.not_after == date(2026, 1, 4)
    assert store.is_demo
    shown = repr(store) + repr(infos)
    assert all(secret.hex() not in shown.lower() and repr(secret) not in shown for secret in (ASCENDING, EMV))


@pytest.mark.parametrize(
    ("ref", "usage", "why"),
    [
        (KeyRef("NONE"), Usage.ISSUER, "no key NONE version 1"),
        (KeyRef("IMK-AC", 2), Usage.ISSUER, "no key IMK-AC version 2"),
        (KeyRef("KMC"), Usage.ISSUER, "is for card-management and not for issuer"),
        (KeyRef("OLD"), Usage.ISSUER, "OLD version 1 expired on 2026-01-04"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_by_name(store: KeyStore, ref: KeyRef, usage: Usage, why: str) -> None:
    with pytest.raises(KeyRefused, match=why):
        store.check(ref, usage=usage)


def test_a_key_may_be_used_on_its_last_day(store: KeyStore) -> None:
    store.check(KeyRef("LAST"), usage=Usage.ISSUER)


def test_a_refused_key_does_nothing_either(store: KeyStore) -> None:
    session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    with pytest.raises(KeyRefused, match="expired"):
        store.card_keys((KeyRef("IMK-AC"), KeyRef("OLD")), factor=F1, dek=session.dek)
    with pytest.raises(KeyRefused, match="not for social-security"):
        store.mac(KeyRef("KMC"), factors=(), data=b"")
    with pytest.raises(KeyRefused, match="not for card-management"):
        store.scp02_session(KeyRef("IRK"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)


@pytest.mark.parametrize("name", ["KMC", "KMC-AES"])
def test_a_key_of_another_algorithm_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(KeyRefused, match=f"key {name} version 1 is"):
        if name == "KMC":
            store.scp03_session(
                KeyRef(name), method=Diversification.NONE, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
            )
        else:
            store.scp02_session(KeyRef(name), method=Diversification.NONE, kdd=KDD, counter=COUNTER)


def test_a_method_for_another_algorithm_is_refused(store: KeyStore) -> None:
    with pytest.raises(KeyRefused, match="does not diversify"):
        store.scp02_session(KeyRef("KMC"), method=Diversification.KDF3, kdd=KDD, counter=COUNTER)


# ---------------------------------------------------------------------------------------------------- 人社 application


def test_the_mac_of_a_published_card_identifier(store: KeyStore) -> None:
    assert store.mac(KeyRef("IRK"), factors=(), data=bytes.fromhex("210100D15600000500000001"))[:4].hex() == "3d17946f"


def test_the_retail_mac_of_the_standard(store: KeyStore) -> None:
    """ISO/IEC 9797-1 annex B.4."""
    assert store.mac(KeyRef("IRK", 2), factors=(), data=b"Now is the time for all ").hex() == "e9086230ca3be796"


def test_a_short_message_is_one_block(store: KeyStore) -> None:
    assert store.mac(KeyRef("IRK"), factors=(), data=b"") == des3(ASCENDING, b"\x80" + bytes(7))


@pytest.mark.parametrize(("process_key", "proof"), [(True, "9c84d499b1cafea0"), (False, "048f40713908e39b")])
def test_both_computations_of_external_authentication(store: KeyStore, process_key: bool, proof: str) -> None:
    original = bytes(range(1, 9))
    given = store.external_authentication(
        KeyRef("UKSSSE"),
        factors=(),
        challenge=bytes(range(0xA1, 0xA9)),
        original=original,
        process_key=process_key,
    )
    assert given.hex() == proof + original.hex()


@pytest.mark.parametrize("factors", [(F1,), (F1, F2)])
def test_a_card_key_is_diversified_level_by_level(store: KeyStore, factors: tuple[bytes, ...]) -> None:
    """Seen through the message of one block, whose MAC is that block under the card key."""
    key = EMV
    for factor in factors:
        key = des3(key, factor + bytes(byte ^ 0xFF for byte in factor))
    if factors == (F1,):
        assert key.hex() == VECTORS["pboc"][0]["derived"]
    given = store.mac(KeyRef("IRK", 2), factors=factors, data=b"seven..")
    assert given == des3(key, b"seven..\x80")
    proof = store.external_authentication(
        KeyRef("IRK", 2), factors=factors, challenge=F2, original=F1, process_key=False
    )
    assert proof == des3(key, F2) + F1


# ----------------------------------------------------------------------------------------------------------- sessions


def test_the_scp02_session_of_the_published_example(store: KeyStore) -> None:
    session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    assert session.s_enc.hex() == "3d4e7914fa1d4d65a1c698a41769392c"
    assert session.c_mac.hex() == "9cbd3286555f3b07843e18c02b72bbf1"
    assert session.dek.encrypt(bytes.fromhex("241234FFFFFFFFFF")).hex() == "39e7860055e43ff2"
    assert session.dek.block == 8
    assert "3d4e79" not in repr(session) and "SessionDek(...)" in repr(session.dek)


def test_the_scp02_session_of_a_card_trace_with_one_key(store: KeyStore) -> None:
    [trace] = [case for case in VECTORS["scp02"] if case["name"] == "xionghuilin-emv-perso"]
    session = store.scp02_session(
        KeyRef("KMC"), method=Diversification.NONE, kdd=KDD, counter=bytes.fromhex(trace["sequence_counter"])
    )
    assert session.s_enc.hex() == trace["session_keys"]["s_enc"]
    assert session.c_mac.hex() == trace["session_keys"]["c_mac"]
    assert session.dek.encrypt(F1) == des3(bytes.fromhex(trace["session_keys"]["s_dek"]), F1)


def test_the_scp03_session_of_a_card_trace(store: KeyStore) -> None:
    [trace] = [case for case in VECTORS["scp03"] if case["name"] == "kaoh-scp03-level33-3cmds"]
    session = store.scp03_session(
        KeyRef("KMC-AES"),
        method=Diversification.NONE,
        kdd=KDD,
        host_challenge=bytes.fromhex(trace["host_challenge"]),
        card_challenge=bytes.fromhex(trace["card_challenge"]),
    )
    assert (session.s_enc.hex(), session.s_mac.hex(), session.s_rmac.hex()) == tuple(trace["session_keys"].values())


def test_the_dek_of_scp03_is_the_cards_own_and_chains(store: KeyStore) -> None:
    [kdf3] = [case for case in VECTORS["gp_key_diversification"] if case["name"] == "kdf3"]
    session = store.scp03_session(
        KeyRef("KMC-AES"), method=Diversification.KDF3, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
    )
    assert session.dek.block == 16
    assert session.dek.encrypt(bytes(32)) == aes_cbc(bytes.fromhex(kdf3["derived"]["dek"]), bytes(32))


@pytest.mark.parametrize("name", ["KMC-192", "KMC-256"])
def test_longer_aes_masters_make_longer_session_keys(store: KeyStore, name: str) -> None:
    [master] = [master for master in MASTERS if master.name == name]
    session = store.scp03_session(
        KeyRef(name), method=Diversification.KDF3, kdd=KDD, host_challenge=bytes(16), card_challenge=bytes(16)
    )
    assert {len(session.s_enc), len(session.s_mac), len(session.s_rmac)} == {len(master.value)}


def test_the_pseudo_random_challenge_is_cut_from_one_stream(store: KeyStore) -> None:
    whole, half = (
        store.scp03_challenge(
            KeyRef("KMC-AES"),
            method=Diversification.KDF3,
            kdd=KDD,
            counter=b"\0\0\1",
            aid=bytes.fromhex("A000000151000000"),
            size=size,
        )
        for size in (16, 8)
    )
    assert (len(whole), len(half)) == (16, 8)
    assert whole[:8] != half, "the length is part of what is derived"


@pytest.mark.parametrize("kdd", [bytes(9), bytes(11)])
def test_diversification_data_has_ten_bytes(store: KeyStore, kdd: bytes) -> None:
    with pytest.raises(ValueError, match="10 bytes"):
        store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=kdd, counter=COUNTER)


def test_part_of_a_block_is_not_enciphered(store: KeyStore) -> None:
    two = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    three = store.scp03_session(
        KeyRef("KMC-AES"), method=Diversification.NONE, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
    )
    for dek in (two.dek, three.dek):
        with pytest.raises(ValueError, match="whole blocks"):
            dek.encrypt(bytes(dek.block - 1))


# ------------------------------------------------------------------------------------------------------- into the card


def test_the_card_key_of_option_a_goes_out_under_the_dek(store: KeyStore) -> None:
    [udk] = VECTORS["emv_icc_master_key_option_a"]
    session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    given = store.card_keys((KeyRef("IMK-AC"), KeyRef("IMK-MAC")), factor=bytes.fromhex(udk["block"]), dek=session.dek)
    assert given.ciphertext[:16] == session.dek.encrypt(bytes.fromhex(udk["derived_odd_parity"]))
    assert len(given.ciphertext) == 32
    assert given.kcvs[0] == des3(bytes.fromhex(udk["derived_odd_parity"]), bytes(8))[:3]


def test_a_dek_of_somebody_else_is_given_nothing(store: KeyStore) -> None:
    stranger = SoftwareKeys.demo().scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    with pytest.raises(KeyRefused, match="DEK"):
        store.card_keys((KeyRef("IMK-AC"),), factor=F1, dek=stranger.dek)
    with pytest.raises(KeyRefused, match="DEK"):
        store.pin_block(stranger.dek)


def test_a_pin_block_has_the_form_of_a_pin_that_changes(store: KeyStore) -> None:
    session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
    s_dek = bytes.fromhex("679775499A1217569EB005DFC6097809")
    blocks = {des3(s_dek, store.pin_block(session.dek), back=True).hex().upper() for _ in range(5)}
    assert len(blocks) > 1
    for block in blocks:
        assert block[:2] == "26" and block[2:8].isdecimal() and block[8:] == "FFFFFFFF"


def test_random_bytes_are_as_many_as_asked_and_differ(store: KeyStore) -> None:
    assert {len(store.random(size)) for size in (8, 16)} == {8, 16}
    assert store.random(16) != store.random(16)


def test_a_digest_is_always_the_same_for_the_same_data(store: KeyStore) -> None:
    assert store.digest(b"plan") == store.digest(b"plan") != store.digest(b"plan2")
    assert len(store.digest(b"")) == 32


def test_many_threads_at_once_get_what_one_gets(store: KeyStore) -> None:
    def work(number: int) -> tuple[bytes, bytes]:
        counter = number.to_bytes(2, "big")
        session = store.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=counter)
        return session.s_enc, store.mac(KeyRef("IRK"), factors=(F1, F2), data=counter)

    alone = [work(number) for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == alone


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    factors=st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple),
    data=st.binary(max_size=64),
    kdd=st.binary(min_size=10, max_size=10),
    challenges=st.sampled_from((8, 16)).flatmap(
        lambda size: st.tuples(st.binary(min_size=size, max_size=size), st.binary(min_size=size, max_size=size))
    ),
    des=st.sampled_from((Diversification.NONE, Diversification.EMV, Diversification.VISA2)),
    aes=st.sampled_from((Diversification.NONE, Diversification.KDF3)),
    master=st.sampled_from(("KMC-AES", "KMC-192", "KMC-256")),
)
def test_both_stores_say_the_same(
    filled_store: KeyStore,
    factors: tuple[bytes, ...],
    data: bytes,
    kdd: bytes,
    challenges: tuple[bytes, bytes],
    des: Diversification,
    aes: Diversification,
    master: str,
) -> None:
    def said(keys: KeyStore) -> tuple[object, ...]:
        host, card = challenges
        two = keys.scp02_session(KeyRef("KMC"), method=des, kdd=kdd, counter=kdd[:2])
        three = keys.scp03_session(KeyRef(master), method=aes, kdd=kdd, host_challenge=host, card_challenge=card)
        refs = (KeyRef("IMK-AC"), KeyRef("IMK-MAC"))
        return (
            keys.mac(KeyRef("IRK"), factors=factors, data=data),
            keys.external_authentication(
                KeyRef("UKSSSE"), factors=factors, challenge=kdd[:8], original=kdd[2:], process_key=len(data) % 2 == 0
            ),
            (two.s_enc, two.c_mac, keys.card_keys(refs, factor=kdd[:8], dek=two.dek)),
            (three.s_enc, three.s_mac, three.s_rmac, keys.card_keys(refs, factor=kdd[:8], dek=three.dek)),
            keys.scp03_challenge(KeyRef(master), method=aes, kdd=kdd, counter=kdd[:3], aid=data[:16], size=len(host)),
        )

    assert said(filled_store) == said(software())


# --------------------------------------------------------------------------------------------------------- on a token


@pytest.fixture
def token(tmp_path: Path) -> Iterator[Token]:
    """A token with nothing in it."""
    with token_in(tmp_path) as made:
        yield made


def request_of(kind: Kind, usage: Usage = Usage.CARD_MANAGEMENT, *, version: int = 1) -> KeyRequest:
    return KeyRequest(name="REAL", version=version, kind=kind, usage=usage, owner="测试")


@pytest.mark.parametrize(
    ("kind", "usage"),
    [*((kind, Usage.CARD_MANAGEMENT) for kind in Kind), (Kind.TRIPLE_DES, Usage.SOCIAL_SECURITY)],
)
def test_a_generated_key_works_after_a_new_login_and_cannot_be_read(token: Token, kind: Kind, usage: Usage) -> None:
    with open_token(token, demo=False, writable=True) as keys:
        keys.begin()
        made = keys.generate(request_of(kind, usage), control=two_people(), witness=nobody)
    with open_token(token, demo=False) as keys:
        assert keys.keys() == (made,)
        assert not keys.is_demo
        if usage is Usage.SOCIAL_SECURITY:
            assert len(keys.mac(KeyRef("REAL"), factors=(), data=bytes(30))) == 8
        elif kind is Kind.TRIPLE_DES:
            keys.scp02_session(KeyRef("REAL"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
        else:
            session = keys.scp03_session(
                KeyRef("REAL"), method=Diversification.KDF3, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
            )
            assert len(session.s_enc) == kind.size
    shown = listed(token)
    assert "zhika/REAL/1" in shown
    assert "sensitive" in shown and "never extractable" in shown and "Value" not in shown


def test_a_generated_3des_key_is_two_keys_and_its_first_half_is_beside_it(token: Token) -> None:
    """A retail MAC of one block needs no first half, one of two needs it: both follow from the same key."""
    with open_token(token, demo=False, writable=True) as keys:
        keys.generate(request_of(Kind.TRIPLE_DES, Usage.SOCIAL_SECURITY), control=two_people(), witness=nobody)

        def under(block: bytes) -> bytes:
            return keys.external_authentication(
                KeyRef("REAL"), factors=(), challenge=block, original=bytes(8), process_key=False
            )[:8]

        assert keys.mac(KeyRef("REAL"), factors=(), data=F1[:7]) == under(F1[:7] + b"\x80")
        two_blocks = keys.mac(KeyRef("REAL"), factors=(), data=F1 + F2[:7])
        chained_by_3des = under(bytes(a ^ b for a, b in zip(under(F1), F2[:7] + b"\x80", strict=True)))
        assert two_blocks != chained_by_3des
        assert keys.keys()[0].kcv == under(bytes(8))[:3]


def test_a_version_is_never_overwritten(token: Token) -> None:
    with open_token(token, demo=False, writable=True) as keys:
        first = keys.generate(request_of(Kind.TRIPLE_DES), control=two_people(), witness=nobody)
        with pytest.raises(KeyRefused, match="REAL version 1 已存在"):
            keys.generate(request_of(Kind.AES_128), control=two_people(), witness=nobody)
        with pytest.raises(KeyRefused, match="REAL version 1 已存在"):
            keys.take(request_of(Kind.TRIPLE_DES), secrets.token_bytes(16), control=two_people(), witness=nobody)
        second = keys.generate(request_of(Kind.TRIPLE_DES, version=2), control=two_people(), witness=nobody)
        assert keys.keys() == (first, second)


@pytest.mark.parametrize(
    ("kind", "usage"), [(Kind.TRIPLE_DES, Usage.SOCIAL_SECURITY), (Kind.AES_256, Usage.CARD_MANAGEMENT)]
)
def test_a_witness_is_told_of_the_key_before_it_is_in_the_token_and_can_keep_it_out(
    token: Token, kind: Kind, usage: Usage
) -> None:
    request = request_of(kind, usage)
    told: list[KeyInfo] = []

    def unwilling(key: KeyInfo) -> None:
        told.append(key)
        raise KeyRefused("no")

    with open_token(token, demo=False, writable=True) as keys:
        with pytest.raises(KeyRefused, match="no"):
            keys.generate(request, control=two_people(), witness=unwilling)
        with pytest.raises(KeyRefused, match="no"):
            keys.take(request, secrets.token_bytes(kind.size), control=two_people(), witness=unwilling)
        assert len(told) == 2 and keys.keys() == ()
    assert listed(token).strip() == ""
    with open_token(token, demo=False, writable=True) as keys:
        made = keys.generate(request, control=two_people(), witness=told.append)
        assert keys.keys() == (made,) == (told[-1],)


def test_a_key_is_made_while_no_other_process_makes_one(token: Token) -> None:
    """Another process that asks whether the version is there gets its answer afterwards."""
    held: list[bool] = []

    def look(_: KeyInfo) -> None:
        with token.module.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
            else:
                held.append(False)

    with open_token(token, demo=False, writable=True) as keys:
        keys.generate(request_of(Kind.AES_128), control=two_people(), witness=look)
        keys.take(request_of(Kind.TRIPLE_DES, version=2), secrets.token_bytes(16), control=two_people(), witness=look)
    assert held == [True, True]


@pytest.mark.parametrize("way", ["generate", "take"])
def test_a_version_that_a_crash_left_half_in_the_token_can_be_made_again(token: Token, way: str) -> None:
    """The half that goes in first is of another value: what is made in its place is whole and of one key."""
    request = request_of(Kind.TRIPLE_DES, Usage.SOCIAL_SECURITY)
    with open_token(token, demo=False, writable=True) as keys:
        keys._worker.do(lambda at: _put(at.session, request, KeyType.DES3, secrets.token_bytes(24), suffix=FIRST))
    with open_token(token, demo=False, writable=True) as keys:
        assert keys.keys() == ()
        value = secrets.token_bytes(16)
        if way == "take":
            keys.take(request, value, control=two_people(), witness=nobody)
        else:
            keys.generate(request, control=two_people(), witness=nobody)
    assert sorted(line.split()[1] for line in listed(token).splitlines() if "label:" in line) == [
        "zhika/REAL/1",
        "zhika/REAL/1/first",
    ]
    if way == "take":
        expected = SoftwareKeys(
            [replace(MASTERS[0].secret, name="REAL", value=value)], digest_key=bytes(32), today=lambda: TODAY
        ).mac(KeyRef("REAL"), factors=(), data=bytes(30))
        with open_token(token, demo=False) as keys:
            assert keys.mac(KeyRef("REAL"), factors=(), data=bytes(30)) == expected


def test_a_key_that_appears_while_the_store_is_in_use_is_vetted_at_the_next_login(token: Token) -> None:
    """Whoever has the PIN makes a key; the token is taken out and put back."""
    away = token.tokens.with_name("away")
    with open_token(token, demo=False, writable=True) as keys:
        known = keys.generate(request_of(Kind.AES_128), control=two_people(), witness=nobody)

    def vet(kept: Iterable[KeyInfo]) -> None:
        if strangers := [key for key in kept if key != known]:
            raise KeyRefused(f"stranger {strangers[0].name}")

    with open_token(token, demo=False, vet=vet) as keys:
        keys.check(KeyRef("REAL"), usage=Usage.CARD_MANAGEMENT)
        intrude(token)
        shutil.move(token.tokens, away)
        token.tokens.mkdir()
        with pytest.raises(KeyRefused, match=token.label):
            keys.scp03_session(
                KeyRef("REAL"), method=Diversification.NONE, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
            )
        token.tokens.rmdir()
        shutil.move(away, token.tokens)
        with pytest.raises(KeyRefused, match="stranger EVIL"):
            keys.check(KeyRef("REAL"), usage=Usage.CARD_MANAGEMENT)
    with pytest.raises(KeyRefused, match="stranger EVIL"):
        open_token(token, demo=False, vet=vet)


def test_a_published_key_is_refused_outside_a_demonstration_at_import_and_at_load(token: Token) -> None:
    request = request_of(Kind.TRIPLE_DES)
    with open_token(token, demo=False, writable=True) as keys:
        with pytest.raises(KeyRefused, match="REAL version 1 is a published test key"):
            keys.take(request, ASCENDING, control=two_people(), witness=nobody)
        assert keys.keys() == ()
    with open_token(token, demo=True, writable=True) as keys:
        keys.take(request, ASCENDING, control=two_people(), witness=nobody)
    with pytest.raises(KeyRefused, match="REAL version 1 is a published test key"):
        open_token(token, demo=False)


def test_a_real_key_is_refused_in_a_demonstration_and_leaves_nothing(token: Token) -> None:
    request = request_of(Kind.TRIPLE_DES, Usage.SOCIAL_SECURITY)
    with open_token(token, demo=True, writable=True) as keys:
        with pytest.raises(KeyRefused, match="not a test key"):
            keys.generate(request, control=two_people(), witness=nobody)
        keys.take(request, ASCENDING, control=two_people(), witness=nobody)


def test_a_wrong_pin_is_tried_once_and_not_again(token: Token) -> None:
    asked: list[str] = []

    def pin() -> str:
        asked.append("once")
        return "000000"

    with pytest.raises(KeyRefused, match="PIN"):
        Pkcs11Keys(token.module, token=token.label, pin=pin)
    assert asked == ["once"]
    with open_token(token) as keys:
        assert keys.keys() == ()


def test_what_is_not_there_is_named(token: Token) -> None:
    with pytest.raises(KeyRefused, match="NoSuchToken"):
        Pkcs11Keys(token.module, token="elsewhere", pin=lambda: token.pin)
    with pytest.raises(KeyRefused, match=r"no-such-module\.so"):
        Pkcs11Keys(Path("/no-such-module.so"), token=token.label, pin=lambda: token.pin)


def test_a_module_is_open_once_in_a_process(token: Token) -> None:
    with open_token(token), pytest.raises(KeyRefused, match="open in this process already"):
        open_token(token)
    open_token(token).close()


def test_a_closed_store_says_so(token: Token) -> None:
    keys = open_token(token)
    keys.close()
    with pytest.raises(KeyRefused, match="closed"):
        keys.random(8)


def test_a_store_that_only_uses_keys_cannot_make_any(token: Token) -> None:
    with open_token(token, demo=False) as keys, pytest.raises(KeyRefused, match="SessionReadOnly"):
        keys.generate(request_of(Kind.AES_128), control=two_people(), witness=nobody)


def test_without_a_digest_key_it_says_what_to_do(token: Token) -> None:
    with open_token(token) as keys, pytest.raises(KeyRefused, match="zhika keys init"):
        keys.digest(b"")


def test_a_token_is_begun_once(token: Token) -> None:
    with open_token(token, writable=True) as keys:
        keys.begin()
        digest = keys.digest(b"plan")
        with pytest.raises(KeyRefused, match="begun already"):
            keys.begin()
    with open_token(token) as keys:
        assert keys.digest(b"plan") == digest


def test_a_token_that_was_taken_out_is_refused_until_it_is_back(filled: Token) -> None:
    away = filled.tokens.with_name("away")
    request = KeyRef("IRK")
    with open_token(filled) as keys:
        before = keys.mac(request, factors=(), data=F1)
        session = keys.scp03_session(
            KeyRef("KMC-AES"), method=Diversification.KDF3, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
        )
        shutil.move(filled.tokens, away)
        filled.tokens.mkdir()
        try:
            with pytest.raises(KeyRefused, match=filled.label):
                keys.mac(request, factors=(), data=F1)
            with pytest.raises(KeyRefused, match=filled.label):
                keys.mac(request, factors=(), data=F1)
        finally:
            filled.tokens.rmdir()
            shutil.move(away, filled.tokens)
        assert keys.mac(request, factors=(), data=F1) == before
        with pytest.raises(KeyRefused, match="open a new session"):
            session.dek.encrypt(bytes(16))


def test_no_key_of_a_card_stays_in_the_token(filled: Token) -> None:
    with open_token(filled) as keys:
        for _ in range(3):
            session = keys.scp03_session(
                KeyRef("KMC-AES"), method=Diversification.KDF3, kdd=KDD, host_challenge=F1, card_challenge=F2
            )
            keys.card_keys((KeyRef("IMK-AC"),), factor=F1, dek=session.dek)
            keys.mac(KeyRef("IRK"), factors=(F1, F2), data=F1)
            keys.scp02_session(KeyRef("KMC"), method=Diversification.EMV, kdd=KDD, counter=COUNTER)
            del session
        lying = keys._worker.do(lambda token: [key.label for key in token.session.get_objects()])
    assert len(lying) == len(MASTERS) + 3 + 1, "masters, first halves of the three 人社 ones, the digest key"


def des3(key: bytes, data: bytes, *, back: bool = False) -> bytes:
    cipher = Cipher(TripleDES(key + key[:8]), modes.ECB())
    return (cipher.decryptor() if back else cipher.encryptor()).update(data)


def aes_cbc(key: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), modes.CBC(bytes(16))).encryptor().update(data)


def intrude(token: Token) -> None:
    """Make a key that looks like ours with the PIN and another program."""
    subprocess.run(
        [
            *("pkcs11-tool", "--module", token.module, "--token-label", token.label, "--login", "--pin", token.pin),
            *("--keygen", "--key-type", "AES:16", "--label", "zhika/EVIL/1", "--sensitive"),
            *("--id", b"card-management/-/x".hex()),
        ],
        env={**os.environ, **token.environment},
        check=True,
        capture_output=True,
    )


def listed(token: Token) -> str:
    """What another program sees of the token."""
    return subprocess.run(
        ["pkcs11-tool", "--module", token.module, "--token-label", token.label, "--login", "--pin", token.pin, "-O"],
        env={**os.environ, **token.environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
