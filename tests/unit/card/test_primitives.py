"""The cryptography of card keys against published vectors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization.keys.base import Algorithm, Diversification
from card_personalization.keys.primitives import (
    Aes,
    StaticKeys,
    TripleDes,
    card_manager_keys,
    check_value,
    diversify,
    diversify_sm4,
    icc_master_key,
    odd_parity,
    pad80,
    retail_mac,
    scp03_material,
    sm4,
    sm4_check_value,
    unpad80,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "scp.json").read_text())
MASTER = bytes.fromhex("0123456789abcdeffedcba9876543210")
KDD = bytes(range(10))


@pytest.mark.parametrize("vector", VECTORS["kcv"], ids=lambda vector: vector["alg"])
def test_check_values(vector: dict[str, str]) -> None:
    assert check_value(Algorithm(vector["alg"]), bytes.fromhex(vector["key"])).hex() == vector["kcv"]


def test_the_retail_mac_of_the_standard() -> None:
    vector = VECTORS["iso9797_mac_alg3"][0]
    assert retail_mac(bytes.fromhex(vector["key_k_kprime"]), vector["data_ascii"].encode()).hex() == vector["mac"]


def test_a_retail_mac_of_one_block_is_3des_of_that_block() -> None:
    assert retail_mac(MASTER, b"1234567") == TripleDes(MASTER).encrypt(b"1234567\x80")


@pytest.mark.parametrize("vector", VECTORS["aes_cmac"], ids=lambda vector: vector["source"])
def test_cmac(vector: dict[str, str]) -> None:
    assert Aes(bytes.fromhex(vector["key"])).mac(bytes.fromhex(vector["data"])).hex() == vector["mac"]


@pytest.mark.parametrize("vector", VECTORS["gp_key_diversification"], ids=lambda vector: vector["name"])
def test_diversification_of_a_card_managers_keys(vector: dict[str, Any]) -> None:
    method = Diversification(vector["name"])
    keys = card_manager_keys(bytes.fromhex(vector["master_key"]), method=method, kdd=bytes.fromhex(vector["kdd"]))
    algorithm = Algorithm.AES if method is Diversification.KDF3 else Algorithm.TRIPLE_DES
    assert {name: key.hex() for name, key in keys._asdict().items()} == vector["derived"]
    published = vector.get("kcv_aes") or vector["kcv_3des"]
    assert {name: check_value(algorithm, key).hex() for name, key in keys._asdict().items()} == published


def test_visa2_takes_other_bytes_of_the_same_data() -> None:
    rearranged = bytes(4) + KDD[0:2] + KDD[4:8]
    visa = card_manager_keys(MASTER, method=Diversification.VISA2, kdd=KDD)
    assert visa == card_manager_keys(MASTER, method=Diversification.EMV, kdd=rearranged)
    assert visa != card_manager_keys(MASTER, method=Diversification.EMV, kdd=KDD)


def test_without_diversification_all_three_keys_are_the_master() -> None:
    keys = card_manager_keys(MASTER, method=Diversification.NONE, kdd=KDD)
    assert keys == StaticKeys(MASTER, MASTER, MASTER)


def test_kdf3_gives_keys_as_long_as_the_master() -> None:
    for size in (16, 24, 32):
        keys = card_manager_keys(bytes(range(size)), method=Diversification.KDF3, kdd=KDD)
        assert {len(key) for key in keys} == {size}


def test_an_application_key_by_option_a() -> None:
    (vector,) = VECTORS["emv_icc_master_key_option_a"]
    master, block = bytes.fromhex(vector["issuer_mk"]), bytes.fromhex(vector["block"])
    assert diversify(master, block).hex() == vector["derived_raw"]
    assert icc_master_key(master, block).hex() == vector["derived_odd_parity"]


def test_one_level_of_pboc_diversification() -> None:
    vector, plain = VECTORS["pboc"]
    master = bytes.fromhex(vector["master_key"])
    assert diversify(master, bytes.fromhex(vector["factor"])).hex() == vector["derived"]
    assert sm4(bytes.fromhex(plain["key"]), bytes.fromhex(plain["plain"])).hex() == plain["cipher"]
    factor = bytes.fromhex("1122334455667788")
    assert diversify_sm4(MASTER, factor) == sm4(MASTER, bytes.fromhex("1122334455667788EEDDCCBBAA998877"))
    assert sm4_check_value(MASTER) == sm4(MASTER, bytes(16))[:3]


@pytest.mark.parametrize("vector", VECTORS["scp03_session_key_kcv"])
def test_session_keys_by_their_published_check_values(vector: dict[str, Any]) -> None:
    static = StaticKeys(*[bytes.fromhex(vector["static_keys_all"])] * 3)
    context = bytes.fromhex(vector["context"])
    keys = scp03_material(static, host_challenge=context, card_challenge=b"")
    found = dict(zip(("enc", "mac", "rmac"), (check_value(Algorithm.AES, key).hex() for key in keys), strict=True))
    assert found | {"dek_static": check_value(Algorithm.AES, static.dek).hex()} == vector["kcv_aes_ones_block"]


@given(st.binary(max_size=70), st.sampled_from([8, 16]))
def test_padding_is_always_added_and_comes_off_again(data: bytes, block: int) -> None:
    padded = pad80(data, block)
    assert len(padded) % block == 0
    assert 1 <= len(padded) - len(data) <= block
    assert unpad80(padded) == data


@pytest.mark.parametrize("wrong", ["", "00", "0100", "8001"])
def test_what_is_no_padding_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="padding"):
        unpad80(bytes.fromhex(wrong))


@given(st.binary(min_size=16, max_size=16))
def test_odd_parity_changes_low_bits_only_and_makes_every_byte_odd(key: bytes) -> None:
    adjusted = odd_parity(key)
    assert all(byte.bit_count() % 2 == 1 for byte in adjusted)
    assert all(a & 0xFE == b & 0xFE for a, b in zip(key, adjusted, strict=True))
    assert check_value(Algorithm.TRIPLE_DES, key) == check_value(Algorithm.TRIPLE_DES, adjusted)


def test_what_is_no_whole_block_or_no_key_is_refused() -> None:
    for wrong in (
        lambda: TripleDes(MASTER[:8]),
        lambda: TripleDes(MASTER + MASTER[:8]),
        lambda: TripleDes(MASTER).encrypt(b"1234567"),
        lambda: Aes(MASTER).encrypt_cbc(bytes(8)),
        lambda: diversify(MASTER, bytes(4)),
        lambda: diversify_sm4(MASTER, bytes(16)),
        lambda: card_manager_keys(MASTER, method=Diversification.EMV, kdd=bytes(9)),
    ):
        with pytest.raises(ValueError, match=r"block|bytes"):
            wrong()


def test_no_key_shows_in_a_repr() -> None:
    keys = card_manager_keys(MASTER, method=Diversification.NONE, kdd=KDD)
    for thing in (keys, scp03_material(keys, host_challenge=KDD, card_challenge=KDD), TripleDes(MASTER), Aes(MASTER)):
        assert "(...)" in repr(thing)
        assert "xef" not in repr(thing)
