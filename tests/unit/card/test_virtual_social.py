"""The social security application beyond its two first files: directories, rights, binary files, PIN and secure messaging."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_host import exchange, fetch

from card_personalization.errors import CardLost
from card_personalization.simulator import CardStore
from card_personalization.simulator.ciphers import pad80, retail_mac, triple_des
from card_personalization.simulator.configuration import DEMO_MASTERS
from card_personalization.simulator.connection import VirtualConnection
from card_personalization.simulator.security import IRK, RK, STK, UKSSSE, derived, proof

SERIAL = "00000001"
SSSE = "00A404000F7378312E73682EC9E7BBE1B1A3D5CF"
DF01 = "00A4040006D15600000500"
ORIGINAL = bytes(range(1, 9))


@pytest.fixture
def card(tmp_path: Path) -> VirtualConnection:
    return CardStore(tmp_path).insert(SERIAL)


def key(card: VirtualConnection, number: int) -> bytes:
    return derived(DEMO_MASTERS[number], card.atr[-8:])


def prove(card: VirtualConnection, number: int) -> str:
    challenge, _ = card.transmit(bytes.fromhex("0084000008"))
    data = proof(key(card, number), challenge, ORIGINAL, "process-key") + ORIGINAL
    return exchange(card, f"0082 00{number:02X}10".replace(" ", "") + data.hex())[1]


def test_the_two_computations_are_the_known_ones() -> None:
    secret, challenge = bytes(range(0x50, 0x60)), bytes(range(0xA1, 0xA9))
    assert proof(secret, challenge, ORIGINAL, "process-key").hex().upper() == "9C84D499B1CAFEA0"
    assert proof(secret, challenge, ORIGINAL, "direct").hex().upper() == "048F40713908E39B"


@pytest.mark.parametrize("method", ["process-key", "direct"])
def test_the_card_proves_its_own_key(tmp_path: Path, method: str) -> None:
    card = CardStore(tmp_path, method=method).insert(SERIAL)  # type: ignore[arg-type]
    data = bytes(range(0x20, 0x28))
    exchange(card, SSSE)
    body, sw = exchange(card, "0088000010" + (data + ORIGINAL).hex())
    expected = proof(key(card, IRK), data, ORIGINAL, method)  # type: ignore[arg-type]
    assert (body, sw) == (expected.hex().upper(), "9000")
    process_key = method == "process-key"
    session = triple_des(key(card, IRK), ORIGINAL + bytes(byte ^ 0xFF for byte in ORIGINAL))
    assert triple_des(session if process_key else key(card, IRK), data) == expected
    assert (exchange(card, "0088000010" + (data + data).hex())[0] == body) == (not process_key)
    assert exchange(card, "0088000410" + "00" * 16)[1] == "6985"
    assert exchange(card, "0088003010" + "00" * 16)[1] == "6A88"
    assert exchange(card, "0088000008" + "00" * 8)[1] == "6700"


def test_the_card_proves_its_key_to_whom_has_proved_nothing_and_takes_no_right_away(card: VirtualConnection) -> None:
    proof_of_irk = "0088000010" + "11" * 16
    assert exchange(card, proof_of_irk)[1] == "6A88"
    exchange(card, SSSE)
    body = exchange(card, proof_of_irk)
    assert (len(body[0]), body[1]) == (16, "9000")
    assert prove(card, UKSSSE) == "9000"
    assert exchange(card, proof_of_irk) == body
    assert exchange(card, "00A4000002EF05", "00DC020403020133")[1] == "9000"
    exchange(card, DF01)
    assert exchange(card, proof_of_irk) == body


@pytest.mark.parametrize(
    ("version", "sizes"), [("1.00", {0xEF07: 0x300, 0xEF08: 0x1000}), ("2.00", {0xEF07: 0x400, 0xEF08: 0x1000})]
)
def test_the_binary_files_have_the_sizes_of_their_version(tmp_path: Path, version: str, sizes: dict[int, int]) -> None:
    files = CardStore(tmp_path, version=version).inspect(SERIAL).files
    assert {file: len(files[file].content) for file in sizes} == sizes


def test_a_binary_file_is_read_with_its_key_and_written_with_the_update_key(card: VirtualConnection) -> None:
    exchange(card, SSSE, "00A4000002EF07")
    assert exchange(card, "00B0000010")[1] == "6982"
    assert exchange(card, "00D6000002BEEF")[1] == "6982"
    assert prove(card, UKSSSE) == "9000"
    assert exchange(card, "00D603FE02BEEF")[1] == "9000"
    assert exchange(card, "00D603FF02BEEF")[1] == "6B00"
    assert prove(card, RK) == "9000"
    assert exchange(card, "00B003FD10") == ("FFBEEF", "9000")
    assert exchange(card, "00B0040001")[1] == "6B00"
    assert exchange(card, "00B2010400")[1] == "6981"
    assert exchange(card, "00A4000002EF05", "00B0000010")[1] == "6981"


@pytest.mark.parametrize(
    ("file", "update", "record"),
    [("EF05", 0x83, "00DC010404 20024142"), ("EF06", 0x86, "00DC020405 2403420100")],
)
def test_a_directory_is_read_with_the_pin_and_written_with_its_own_key(
    card: VirtualConnection, file: str, update: int, record: str
) -> None:
    exchange(card, SSSE, DF01, f"00A4020002{file}")
    assert exchange(card, "00B2010400")[1] == "6982"
    assert exchange(card, "0020000003123456", "00B2010400")[1] == "9000"
    assert prove(card, 0x84) == "9000"
    assert exchange(card, record.replace(" ", ""))[1] == "6982"
    assert prove(card, update) == "9000"
    assert exchange(card, record.replace(" ", ""))[1] == "9000"
    written = record.split()[1]
    assert exchange(card, f"00B2{written[:2]}0000") == (written, "9000")


def test_rights_end_with_their_directory_and_the_pin_with_the_application(card: VirtualConnection) -> None:
    exchange(card, SSSE, "0020000003123456")
    assert prove(card, 0x83) == "9000"
    exchange(card, DF01, "00A4000002EF05")
    assert exchange(card, "00B2010400")[1] == "9000"
    assert exchange(card, "00DC01040420024142")[1] == "6982"
    exchange(card, SSSE, DF01, "00A4000002EF05")
    assert exchange(card, "00B2010400")[1] == "6982"


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05", "0A"])
def test_directories_answer_to_their_names(card: VirtualConnection, number: str) -> None:
    name = f"D156000005{number}"
    assert exchange(card, f"00A4040006{name}") == (f"6F0E8406{name}A5049F0C0101", "9000")
    assert exchange(card, "00A4000002EF05")[1] == ("9000" if number == "00" else "6A82")
    assert exchange(card, "00A4000002DF01", "00A4000002EF0A")[1] == "9000"


def message(card: VirtualConnection, p2: int, data: bytes, *, size: int = 8, spoil: bool = False) -> str:
    challenge, _ = card.transmit(bytes((0x00, 0x84, 0, 0, size)))
    head = bytes((0x84, 0x24, 0x00, p2, len(data) + 4))
    mac = retail_mac(key(card, STK), head + data, challenge.ljust(8, b"\x00"))[:4]
    if spoil:
        mac = bytes((mac[0] ^ 1, *mac[1:]))
    return f"{fetch(card, head + data + mac)[1]:04X}"


def test_a_blocked_pin_is_unblocked_and_a_new_one_loaded_by_the_issuer(card: VirtualConnection) -> None:
    exchange(card, SSSE)
    assert [exchange(card, "0020000003000000")[1] for _ in range(6)][-2:] == ["63C0", "6983"]
    assert message(card, 0x00, b"") == "9000"
    assert exchange(card, "0020000003123456")[1] == "9000"
    pin = triple_des(key(card, STK), pad80(bytes.fromhex("03654321"), 8))
    assert message(card, 0x01, pin, size=4) == "9000"
    assert exchange(card, "0020000003654321")[1] == "9000"


def test_a_script_needs_a_fresh_challenge_a_right_mac_and_a_pin_inside(card: VirtualConnection) -> None:
    exchange(card, SSSE)
    assert exchange(card, "842400000400000000")[1] == "6987"
    assert exchange(card, "84240000050000000000")[1] == "6700"
    assert exchange(card, "842400020400000000")[1] == "6A86"
    assert message(card, 0x00, b"", spoil=True) == "6988"
    assert exchange(card, "842400000400000000")[1] == "6987"
    assert message(card, 0x01, bytes(8)) == "6A80"
    wrong = triple_des(key(card, STK), pad80(bytes.fromhex("04654321"), 8))
    assert message(card, 0x01, wrong) == "6A80"
    assert [message(card, 0x00, b"", spoil=True) for _ in range(2)] == ["6988"] * 2
    assert message(card, 0x00, b"") == "6983"


def test_a_wrong_mac_is_counted_over_resets(card: VirtualConnection, tmp_path: Path) -> None:
    message(card, 0x00, b"", spoil=True)
    card.reset()
    assert CardStore(tmp_path).inspect(SERIAL).keys[STK].left == 2
    assert message(card, 0x00, b"") == "9000"
    assert CardStore(tmp_path).inspect(SERIAL).keys[STK].left == 3


def test_the_pin_limit_is_that_of_the_blank(tmp_path: Path) -> None:
    card = CardStore(tmp_path, pin_tries=6).insert(SERIAL)
    assert exchange(card, "0020000003000000")[1] == "63C5"


def test_every_file_is_there_as_it_left_the_factory(tmp_path: Path) -> None:
    files = CardStore(tmp_path).inspect(SERIAL).files
    assert [row.hex() for row in files[0xEF05].records][:2] == ["0110" + "ff" * 16, "0201ff"]
    assert [row[0] for row in files[0xEF06].records] == [0x08, 0x09, 0x4E, 0x0A, 0x0B, 0x0C, 0x0D]
    assert [(row[0], row[1]) for row in files[0xDF01EF05].records] == [(0x20, 2), (0x21, 80), (0x0E, 3)]
    assert len(files[0xDF01EF06].records) == 5


words = st.sampled_from(
    [SSSE, DF01, "00A4000002EF05", "0084000008", "0020000003123456", "00B2010400", "00DC020403020133"]
)


@given(commands=st.lists(words | st.binary(max_size=30).map(bytes.hex), max_size=12))
def test_whatever_comes_the_card_answers_and_writes_nothing_without_a_key(
    tmp_path_factory: pytest.TempPathFactory, commands: list[str]
) -> None:
    store = CardStore(tmp_path_factory.mktemp("card"))
    before, card = store.inspect(SERIAL), store.insert(SERIAL)
    for command in commands:
        body, sw = card.transmit(bytes.fromhex(command))
        assert len(body) <= 256
        assert sw >> 8 in range(0x61, 0x70) or sw >> 8 == 0x90
    assert store.inspect(SERIAL).files == before.files


def test_a_closed_connection_has_no_card(card: VirtualConnection) -> None:
    card.close()
    card.close()
    for use in (card.reset, lambda: card.transmit(b"\x00\xa4\x04\x00")):
        with pytest.raises(CardLost):
            use()


def test_verify_without_data_tells_the_tries_left_and_costs_none(card: VirtualConnection) -> None:
    exchange(card, SSSE)
    assert [exchange(card, "00200000")[1] for _ in range(3)] == ["63C5"] * 3
    exchange(card, "0020000003000000")
    assert exchange(card, "00200000")[1] == "63C4"
    exchange(card, "0020000003123456")
    assert exchange(card, "00200000")[1] == "9000"
    for _ in range(5):
        exchange(card, "0020000003000000")
    assert exchange(card, "00200000")[1] == "6983"
