"""The software key store: published vectors, what it does for whom, and which keys it takes."""

from dataclasses import replace
from datetime import date

import pytest

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Algorithm, Diversification, KeyRef, KeyStore, Usage
from card_personalization.keys.primitives import Aes, TripleDes, check_value, icc_master_key, odd_parity
from card_personalization.keys.published import ASCENDING_40, is_published
from card_personalization.keys.software import SecretKey, SoftwareKeys

CHALLENGE = bytes.fromhex("A1A2A3A4A5A6A7A8")
ORIGINAL = bytes.fromhex("0102030405060708")
REAL = bytes.fromhex("9D5C1F3A7788E0426B91D4C8F05A2E37")
KDD = bytes(range(10))
IRK, KMC, KMC_AES = KeyRef("IRK"), KeyRef("KMC"), KeyRef("KMC-AES")
ISSUER = (KeyRef("IMK-AC"), KeyRef("IMK-MAC"), KeyRef("IMK-ENC"))
KEY = SecretKey(
    name="IRK", algorithm=Algorithm.TRIPLE_DES, usage=Usage.SOCIAL_SECURITY, owner="人社局", not_after=None, value=REAL
)


def of_one(key: SecretKey, *, today: date = date(2026, 1, 1), demo: bool = False) -> KeyStore:
    return SoftwareKeys([key], digest_key=bytes(32), demo=demo, today=lambda: today)


def test_the_identifier_mac_follows_the_worked_example() -> None:
    mac = SoftwareKeys.demo().mac(IRK, factors=(), data=bytes.fromhex("210100D15600000500000001"))
    assert mac[:4].hex().upper() == "3D17946F"


@pytest.mark.parametrize(("process_key", "proof"), [(True, "9C84D499B1CAFEA0"), (False, "048F40713908E39B")])
def test_external_authentication_follows_the_worked_examples(process_key: bool, proof: str) -> None:
    data = SoftwareKeys.demo().external_authentication(
        KeyRef("UKSSSE"), factors=(), challenge=CHALLENGE, original=ORIGINAL, process_key=process_key
    )
    assert data.hex().upper() == proof + ORIGINAL.hex().upper()


def test_each_card_has_its_own_key() -> None:
    keys = SoftwareKeys.demo()
    macs = {keys.mac(IRK, factors=(bytes([n]) * 8,), data=b"x") for n in range(3)}
    assert len(macs) == 3


def test_session_keys_of_scp02_follow_the_worked_example() -> None:
    session = SoftwareKeys.demo().scp02_session(KMC, method=Diversification.EMV, kdd=KDD, counter=b"\x00\x01")
    assert session.s_enc.hex().upper() == "3D4E7914FA1D4D65A1C698A41769392C"
    assert session.c_mac.hex().upper() == "9CBD3286555F3B07843E18C02B72BBF1"
    assert session.dek.block == 8
    assert session.dek.encrypt(bytes.fromhex("241234FFFFFFFFFF")).hex().upper() == "39E7860055E43FF2"


def test_the_dek_of_scp03_is_the_cards_own_static_key() -> None:
    deks = [
        SoftwareKeys.demo()
        .scp03_session(KMC_AES, method=Diversification.KDF3, kdd=KDD, host_challenge=host * 8, card_challenge=bytes(8))
        .dek
        for host in (b"\x01", b"\x02")
    ]
    kcvs = {dek.encrypt(b"\x01" * 16)[:3].hex() for dek in deks}
    assert kcvs == {"3fde8c"}
    assert deks[0].block == 16


@pytest.mark.parametrize("protocol", ["scp02", "scp03"])
def test_application_keys_reach_the_card_under_its_dek(protocol: str) -> None:
    keys = SoftwareKeys.demo()
    factor = bytes.fromhex("0000000000001801")
    if protocol == "scp02":
        dek = keys.scp02_session(KMC, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01").dek
        session_dek = TripleDes(ASCENDING_40).encrypt_cbc(bytes.fromhex("01810001") + bytes(12))
        encrypt = TripleDes(session_dek).encrypt
    else:
        dek = keys.scp03_session(
            KMC_AES, method=Diversification.NONE, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
        ).dek
        encrypt = Aes(ASCENDING_40).encrypt_cbc
    made = keys.card_keys(ISSUER, factor=factor, dek=dek)

    masters = ["0123456789abcdeffedcba9876543210", bytes(range(16, 32)).hex(), bytes(range(32, 48)).hex()]
    clear = [icc_master_key(bytes.fromhex(master), factor) for master in masters]
    assert clear[0].hex() == "91ab109b8020b997ae91292ab5b0e0ab"
    assert made.ciphertext == encrypt(b"".join(clear))
    assert made.kcvs == tuple(check_value(Algorithm.TRIPLE_DES, key) for key in clear)


def test_a_pin_block_holds_a_random_pin_of_six_digits() -> None:
    keys = SoftwareKeys.demo()
    session = keys.scp03_session(
        KMC_AES, method=Diversification.NONE, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
    )
    blocks = {Aes(ASCENDING_40).decrypt_cbc(keys.pin_block(session.dek)).hex() for _ in range(20)}
    assert len(blocks) > 1
    for block in blocks:
        assert block[:2] == "26"
        assert block[2:8].isdecimal()
        assert block[8:] == "ff" * 4 + "80" + "00" * 7
    dek = keys.scp02_session(KMC, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01").dek
    assert len(keys.pin_block(dek)) == 8


def test_a_dek_of_another_store_is_refused() -> None:
    stranger = SoftwareKeys.demo().scp02_session(KMC, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01").dek
    keys = SoftwareKeys.demo()
    for use in (lambda: keys.card_keys(ISSUER, factor=bytes(8), dek=stranger), lambda: keys.pin_block(stranger)):
        with pytest.raises(KeyRefused, match="not of this key store"):
            use()


@pytest.mark.parametrize("key", ["404142434445464748494A4B4C4D4E4F", "00" * 16, "FF" * 16, b"GEMXPRESSOSAMPLE".hex()])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_published_test_key_stops_the_start(algorithm: Algorithm, key: str) -> None:
    with pytest.raises(KeyRefused, match="key IRK version 1 is a published test key"):
        of_one(replace(KEY, algorithm=algorithm, value=bytes.fromhex(key)))


def test_a_published_test_key_with_other_parity_is_still_known() -> None:
    with pytest.raises(KeyRefused, match="published test key"):
        of_one(replace(KEY, value=odd_parity(ASCENDING_40)))


@pytest.mark.parametrize(
    ("algorithm", "kcvs"),
    [
        (Algorithm.TRIPLE_DES, "8BAF47 E2573C 08D7B4 D5D44F 8CA64D 82E136 CAAAAF DDADA1 FB0975 FE8A09 DF928E A4B7D6"),
        (Algorithm.AES, "504A77 E14D5D C35280 013808 840DE5 F2A8DF"),
    ],
)
def test_the_published_check_values_are_known(algorithm: Algorithm, kcvs: str) -> None:
    assert all(is_published(algorithm, bytes.fromhex(kcv)) for kcv in kcvs.split())
    assert not is_published(algorithm, check_value(algorithm, REAL))


def test_a_demonstration_takes_no_real_key() -> None:
    with pytest.raises(KeyRefused, match="must not be used in a demonstration"):
        of_one(KEY, demo=True)


@pytest.mark.parametrize(("algorithm", "size"), [(Algorithm.TRIPLE_DES, 24), (Algorithm.AES, 17), (Algorithm.AES, 0)])
def test_a_key_of_the_wrong_size_is_refused(algorithm: Algorithm, size: int) -> None:
    with pytest.raises(KeyRefused, match="size"):
        of_one(replace(KEY, algorithm=algorithm, value=(REAL * 2)[:size]))


def test_a_version_given_twice_is_refused() -> None:
    with pytest.raises(KeyRefused, match="IRK version 1 is given twice"):
        SoftwareKeys([KEY, replace(KEY, value=REAL[::-1])], digest_key=bytes(32))


def test_a_real_key_is_taken_and_never_shown() -> None:
    keys = of_one(KEY)
    assert not keys.is_demo
    (info,) = keys.keys()
    assert (info.name, info.version, info.owner, info.kcv) == (
        "IRK",
        1,
        "人社局",
        check_value(Algorithm.TRIPLE_DES, REAL),
    )
    assert repr(keys) == "SoftwareKeys(IRK version 1, demo=False)"
    assert "value" not in repr(KEY)
    session = SoftwareKeys.demo().scp02_session(KMC, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01")
    assert repr(session) == "Scp02Keys()"
    assert repr(session.dek) == "SessionDek(...)"


def test_an_unknown_key_or_version_is_named() -> None:
    for ref in (KeyRef("RK9"), KeyRef("IRK", 2)):
        with pytest.raises(KeyRefused, match=str(ref)):
            SoftwareKeys.demo().mac(ref, factors=(), data=b"")


def test_an_expired_version_is_refused_from_the_day_after() -> None:
    key = replace(KEY, not_after=date(2026, 6, 30))
    of_one(key, today=date(2026, 6, 30)).check(IRK, usage=Usage.SOCIAL_SECURITY)
    late = of_one(key, today=date(2026, 7, 1))
    with pytest.raises(KeyRefused, match="IRK version 1 expired on 2026-06-30"):
        late.check(IRK, usage=Usage.SOCIAL_SECURITY)
    with pytest.raises(KeyRefused, match="expired"):
        late.mac(IRK, factors=(), data=b"")


def test_a_key_is_refused_for_what_it_is_not() -> None:
    keys = SoftwareKeys.demo()
    session = keys.scp02_session(KMC, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01")
    for use in (
        lambda: keys.mac(KMC, factors=(), data=b""),
        lambda: keys.check(IRK, usage=Usage.ISSUER),
        lambda: keys.card_keys((IRK,), factor=bytes(8), dek=session.dek),
        lambda: keys.scp02_session(IRK, method=Diversification.EMV, kdd=KDD, counter=b"\x00\x01"),
        lambda: keys.scp02_session(KMC_AES, method=Diversification.NONE, kdd=KDD, counter=b"\x00\x01"),
        lambda: keys.scp02_session(KMC, method=Diversification.KDF3, kdd=KDD, counter=b"\x00\x01"),
        lambda: keys.scp03_session(
            KMC_AES, method=Diversification.EMV, kdd=KDD, host_challenge=bytes(8), card_challenge=bytes(8)
        ),
    ):
        with pytest.raises(KeyRefused, match=r"version 1 is"):
            use()


def test_a_digest_needs_its_key() -> None:
    digests = {SoftwareKeys([], digest_key=bytes([n]) * 32).digest(b"x") for n in range(2)}
    assert {len(digest) for digest in digests} == {32}
    assert len(digests) == 2
    with pytest.raises(KeyRefused, match="digest key"):
        SoftwareKeys([], digest_key=b"short")
