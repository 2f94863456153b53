"""GlobalPlatform commands as values: published encodings, and how data groupings are put into STORE DATA."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization.globalplatform.commands import (
    Dgi,
    Encryption,
    Registry,
    Structure,
    WrappedKey,
    delete,
    get_data,
    get_status,
    initialize_update,
    install_for_personalization,
    key_dgis,
    put_key,
    select,
    store_data,
    store_dgis,
)
from card_personalization.globalplatform.rules import Protocol
from card_personalization.keys.base import Algorithm
from card_personalization.keys.primitives import Aes, check_value

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "scp.json").read_text())
AID = bytes.fromhex("A000000333010101")
DGIS = st.lists(
    st.builds(
        Dgi,
        tag=st.integers(0x0101, 0x9FFF),
        value=st.binary(max_size=600),
        encryption=st.sampled_from(list(Encryption)),
    ),
    min_size=1,
    max_size=8,
)


def wrapped(dek: bytes, key: bytes) -> WrappedKey:
    return WrappedKey(
        algorithm=Algorithm.AES,
        size=len(key),
        ciphertext=Aes(dek).encrypt_cbc(key),
        kcv=check_value(Algorithm.AES, key),
    )


@pytest.mark.parametrize(
    ("apdu", "expected"),
    [
        (initialize_update(bytes(range(8)), key_version=0x20), "8050200008000102030405060700"),
        (select(b""), "00A4040000"),
        (select(AID), "00A4040008A00000033301010100"),
        (install_for_personalization(AID), "80E620000E000008A00000033301010100000000"),
        (get_data(0x9F7F), "80CA9F7F00"),
        (get_data(0x66), "80CA006600"),
        (get_status(Registry.ISSUER_SECURITY_DOMAIN), "80F28002024F0000"),
        (get_status(Registry.APPLICATIONS, aid=AID, following=True), "80F240030A4F08A00000033301010100"),
        (delete(AID), "80E400000A4F08A00000033301010100"),
        (delete(AID, related=True), "80E400800A4F08A00000033301010100"),
        (store_data(b"\x91\x02\x00", p1=0x80, p2=5), "80E2800503910200"),
        (store_data(b"\x91\x02\x00", p1=0x81, p2=5), "80E281050391020000"),
    ],
)
def test_a_command_as_the_standard_writes_it(apdu: Any, expected: str) -> None:
    assert bytes(apdu).hex().upper() == expected


def test_the_worked_personalisation_is_cut_as_recorded() -> None:
    (vector,) = (vector for vector in VECTORS["scp02"] if vector["name"] == "computed-scp02-emv-cps-level03")
    dgis = []
    for command in vector["commands"]:
        raw = bytes.fromhex(command["plain"])
        encryption = Encryption(raw[2] & 0x60)
        dgis.append(Dgi(tag=int.from_bytes(raw[5:7], "big"), value=raw[8:], encryption=encryption))
    joined = store_dgis(dgis, max_data=239, structure=Structure.UNNAMED)
    assert [(apdu.p1, apdu.p2) for apdu in joined] == [(0x00, 0), (0x60, 1), (0x00, 2), (0x60, 3), (0x80, 4)]
    assert joined[-1].data.hex() == "9010020303" + "9201" + "0100"
    apart = [apdu for dgi in dgis for apdu in store_dgis([dgi], max_data=239, structure=Structure.UNNAMED)]
    assert [apdu.data.hex() for apdu in apart] == [command["plain"][10:] for command in vector["commands"]]


@given(DGIS, st.sampled_from([223, 239, 247]))
def test_a_card_puts_the_data_groupings_together_again(dgis: list[Dgi], max_data: int) -> None:
    commands = store_dgis(dgis, max_data=max_data)
    assert b"".join(apdu.data for apdu in commands) == b"".join(map(bytes, dgis))
    assert all(len(apdu.data) <= max_data for apdu in commands)
    assert [apdu.p2 for apdu in commands] == list(range(len(commands)))
    assert [bool(apdu.p1 & 0x80) for apdu in commands] == [False] * (len(commands) - 1) + [True]
    assert all(apdu.p1 & 0x18 == Structure.DGI for apdu in commands)

    found, kinds = [], iter(dgis)
    rest = b""
    for apdu in commands:
        rest += apdu.data
        while len(rest) >= 5 or (len(rest) >= 3 and rest[2] != 0xFF):
            size, head = (rest[2], 3) if rest[2] != 0xFF else (int.from_bytes(rest[3:5], "big"), 5)
            if len(rest) < head + size:
                break
            found.append((int.from_bytes(rest[:2], "big"), rest[head : head + size]))
            rest = rest[head + size :]
            assert apdu.p1 & 0x60 == next(kinds).encryption
    assert rest == b""
    assert found == [(dgi.tag, dgi.value) for dgi in dgis]


def test_groupings_share_a_command_while_they_fit() -> None:
    small = Dgi(tag=0x0101, value=bytes(97))
    assert [len(apdu.data) for apdu in store_dgis([small] * 5, max_data=239)] == [200, 200, 100]


def test_a_long_grouping_has_commands_of_its_own() -> None:
    small, long = Dgi(tag=0x0101, value=bytes(7)), Dgi(tag=0x0203, value=bytes(300))
    commands = store_dgis([small, long, small], max_data=239)
    assert [len(apdu.data) for apdu in commands] == [10, 239, 305 - 239, 10]


@pytest.mark.parametrize(("size", "header"), [(0, "010100"), (254, "0101FE"), (255, "0101FF00FF"), (300, "0101FF012C")])
def test_a_length_has_one_byte_or_three(size: int, header: str) -> None:
    encoded = bytes(Dgi(tag=0x0101, value=bytes(size)))
    assert encoded.hex().upper() == header + "00" * size


def test_more_than_256_blocks_are_refused() -> None:
    long = Dgi(tag=0x0101, value=bytes(200))
    assert len(store_dgis([long] * 256, max_data=239)) == 256
    with pytest.raises(ValueError, match="256"):
        store_dgis([long] * 257, max_data=239)


def test_a_key_set_for_store_data_as_published() -> None:
    (vector,) = VECTORS["gp_store_data_key_dgi"]
    dek = bytes.fromhex(vector["dek"])
    keys = [wrapped(dek, bytes.fromhex(key)) for key in vector["keys"]]
    dgis = key_dgis(keys, version=1, protocol=Protocol.SCP03)
    assert b"".join(map(bytes, dgis)).hex() == vector["store_data_dgis"]
    assert [dgi.encryption for dgi in dgis] == [Encryption.NONE] + [Encryption.ALL] * 3


def test_a_key_set_is_of_one_kind() -> None:
    keys = [wrapped(bytes(16), bytes(16)), wrapped(bytes(16), bytes(32))]
    for mixed in (keys, []):
        with pytest.raises(ValueError, match="one algorithm and size"):
            key_dgis(mixed, version=1, protocol=Protocol.SCP03)


def test_put_key_names_type_length_and_check_value_of_every_key() -> None:
    des = WrappedKey(algorithm=Algorithm.TRIPLE_DES, size=16, ciphertext=b"\xaa" * 16, kcv=b"\x01\x02\x03")
    fields = "8010" + "AA" * 16 + "03010203"
    assert bytes(put_key([des] * 3, version=0x21)).hex().upper() == "80D8008143" + "21" + fields * 3 + "00"
    assert bytes(put_key([des], version=0x21, replaces=0x20)).hex().upper() == "80D8200117" + "21" + fields + "00"

    aes = WrappedKey(algorithm=Algorithm.AES, size=24, ciphertext=b"\xbb" * 32, kcv=b"\x04\x05\x06")
    field = "882118" + "BB" * 32 + "03040506"
    assert bytes(put_key([aes], version=0x31, first_id=2)).hex().upper() == "80D8000228" + "31" + field + "00"


def test_no_value_of_a_grouping_or_key_shows_in_a_repr() -> None:
    assert "value" not in repr(Dgi(tag=0x8000, value=b"secret"))
    assert "ciphertext" not in repr(wrapped(bytes(16), bytes(16)))
