"""The software key store: published vectors, and which keys it takes."""

import pytest

from card_personalization.errors import KeyRefused
from card_personalization.keys.published import PUBLISHED_KCVS
from card_personalization.keys.software import SoftwareKeys, check_value

CHALLENGE = bytes.fromhex("A1A2A3A4A5A6A7A8")
ORIGINAL = bytes.fromhex("0102030405060708")
REAL = bytes.fromhex("9D5C1F3A7788E0426B91D4C8F05A2E37")


def test_the_identifier_mac_follows_the_worked_example() -> None:
    mac = SoftwareKeys.demo().mac("IRK", factors=(), data=bytes.fromhex("210100D15600000500000001"))
    assert mac[:4].hex().upper() == "3D17946F"


@pytest.mark.parametrize(("process_key", "proof"), [(True, "9C84D499B1CAFEA0"), (False, "048F40713908E39B")])
def test_external_authentication_follows_the_worked_examples(process_key: bool, proof: str) -> None:
    data = SoftwareKeys.demo().external_authentication(
        "UKSSSE", factors=(), challenge=CHALLENGE, original=ORIGINAL, process_key=process_key
    )
    assert data.hex().upper() == proof + ORIGINAL.hex().upper()


def test_each_card_has_its_own_key() -> None:
    keys = SoftwareKeys.demo()
    macs = {keys.mac("IRK", factors=(bytes([n]) * 8,), data=b"x") for n in range(3)}
    assert len(macs) == 3


@pytest.mark.parametrize("key", ["404142434445464748494A4B4C4D4E4F", "00" * 16, "FF" * 16, b"GEMXPRESSOSAMPLE".hex()])
def test_a_published_test_key_stops_the_start(key: str) -> None:
    assert check_value(bytes.fromhex(key)) in PUBLISHED_KCVS
    with pytest.raises(KeyRefused, match="key IRK is a published test key"):
        SoftwareKeys({"IRK": bytes.fromhex(key)}, digest_key=bytes(32))


def test_a_demonstration_takes_no_real_key() -> None:
    with pytest.raises(KeyRefused, match="must not be used in a demonstration"):
        SoftwareKeys({"IRK": REAL}, digest_key=bytes(32), demo=True)


def test_a_real_key_is_taken_and_never_shown() -> None:
    keys = SoftwareKeys({"IRK": REAL}, digest_key=bytes(32))
    assert not keys.is_demo
    assert repr(keys) == "SoftwareKeys(IRK, demo=False)"


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(KeyRefused, match="RK9"):
        SoftwareKeys.demo().mac("RK9", factors=(), data=b"")
