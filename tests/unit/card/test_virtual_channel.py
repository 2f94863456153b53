"""The card's secure channels against known answers, and its cryptography against the standards' examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from card_personalization.simulator import ciphers
from card_personalization.simulator.channel import Scp02, Scp03, Session, StaticKeys, scp02_challenge, scp03_challenge
from card_personalization.simulator.command import Refused, parse
from card_personalization.simulator.configuration import KeySet

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "scp.json").read_text(encoding="utf-8"))
SCP03 = [*VECTORS["scp03"], *VECTORS["scp03_s16"]]
SESSIONS = [*((2, vector) for vector in VECTORS["scp02"]), *((3, vector) for vector in SCP03)]
hexed = bytes.fromhex


def named(value: object) -> str | None:
    return value["name"] if isinstance(value, dict) else None


def session(scp: int, vector: dict[str, Any]) -> Session:
    static = vector["static_keys"]
    keys = StaticKeys(hexed(static["enc"]), hexed(static["mac"]), hexed(static["dek"]))
    host, card = hexed(vector["host_challenge"]), hexed(vector["card_challenge"])
    if scp == 2:
        return Scp02(keys, counter=int(vector["sequence_counter"], 16), host=host, card=card)
    return Scp03(keys, i=int(vector["i"], 16), host=host, card=card)


@pytest.mark.parametrize(("scp", "vector"), SESSIONS, ids=named)
def test_the_card_follows_a_known_session(scp: int, vector: dict[str, Any]) -> None:
    card = session(scp, vector)
    assert card.card_cryptogram.hex() == vector["card_cryptogram"]
    assert card.host_cryptogram.hex() == vector["host_cryptogram"]
    card.level = int(vector["security_level"], 16)
    assert card.verified(parse(hexed(vector["external_authenticate"]))).hex() == vector["host_cryptogram"]
    for command in vector["commands"]:
        plain = parse(hexed(command["plain"]))
        assert card.unwrap(parse(hexed(command["wrapped"]))) == plain, command["plain"]
        if "response_wrapped" in command:
            answer = card.wrap(hexed(command["response_plain"]), int(command["sw"], 16))
            assert answer.hex() == command["response_wrapped"]


@pytest.mark.parametrize(("scp", "vector"), SESSIONS, ids=named)
def test_one_flipped_bit_of_a_command_is_refused(scp: int, vector: dict[str, Any]) -> None:
    for at in range(1, len(vector["external_authenticate"]) // 2):
        if at == 4:
            continue
        raw = bytearray(hexed(vector["external_authenticate"]))
        raw[at] ^= 0x10
        with pytest.raises(Refused, match="6982"):
            session(scp, vector).verified(parse(bytes(raw)))


@pytest.mark.parametrize("vector", VECTORS["pseudo_random_card_challenge"], ids=lambda vector: vector["session"])
def test_the_pseudo_random_challenge_is_the_known_one(vector: dict[str, Any]) -> None:
    (source,) = [other for _, other in SESSIONS if other["name"] == vector["session"]]
    static = {name: hexed(value) for name, value in source["static_keys"].items()}
    counter, aid = int(vector["sequence_counter"], 16), hexed(vector["aid"])
    keys = StaticKeys(**static)
    made = scp02_challenge(keys, counter, aid) if vector["scp"] == "02" else scp03_challenge(keys, counter, aid, 8)
    assert made.hex() == vector["card_challenge"]


@pytest.mark.parametrize("vector", VECTORS["gp_key_diversification"], ids=named)
def test_card_keys_come_from_the_master_as_published(vector: dict[str, Any]) -> None:
    master = hexed(vector["master_key"])
    keys = KeySet(enc=master, mac=master, dek=master, diversification=vector["name"]).on_card(hexed(vector["kdd"]))
    assert {"enc": keys.enc.hex(), "mac": keys.mac.hex(), "dek": keys.dek.hex()} == vector["derived"]


def test_visa2_takes_other_bytes_of_the_diversification_data() -> None:
    kdd = hexed("00010203040506070809")
    spread = hexed("FFFFFFFF000104050607")
    emv, visa2 = (KeySet(diversification=method) for method in ("emv", "visa2"))
    assert visa2.on_card(kdd) == emv.on_card(spread)
    assert visa2.on_card(kdd) != emv.on_card(kdd)


def test_macs_and_check_values_are_those_of_the_standards() -> None:
    vector = VECTORS["iso9797_mac_alg3"][0]
    assert ciphers.retail_mac(hexed(vector["key_k_kprime"]), vector["data_ascii"].encode()).hex() == vector["mac"]
    vector = VECTORS["aes_cmac"][0]
    assert ciphers.aes_cmac(hexed(vector["key"]), hexed(vector["data"])).hex() == vector["mac"]
    for vector in VECTORS["kcv"]:
        check = ciphers.aes_kcv if vector["alg"] == "aes" else ciphers.des_kcv
        assert check(hexed(vector["key"])).hex() == vector["kcv"]


def test_sensitive_data_is_deciphered_as_known() -> None:
    (vector,) = [vector for vector in VECTORS["scp02"] if "s_dek_examples" in vector]
    for example in vector["s_dek_examples"]:
        assert session(2, vector).deciphered(hexed(example["cipher"])).hex() == example["plain"]


def test_keys_are_not_shown() -> None:
    keys = KeySet().on_card(bytes(10))
    assert "enc" not in repr(keys)
    assert "4041" not in repr(KeySet())
    assert all(part not in repr(keys) for part in (str(keys.enc), keys.enc.hex()))
