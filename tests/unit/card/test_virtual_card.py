"""The virtual card answers as the specification says, and keeps what a real one keeps."""

from pathlib import Path

import pytest

from card_personalization.errors import CardLost
from card_personalization.simulator import CardStore, Fault
from card_personalization.simulator.connection import VirtualConnection
from card_personalization.simulator.security import derived, proof

SELECT_SSSE = "00A404000F7378312E73682EC9E7BBE1B1A3D5CF"
SELECT_EF05 = "00A4000002EF05"
UPDATE_CATEGORY = "00DC020403020133"
UKSSSE = bytes(range(0x50, 0x60))


@pytest.fixture
def store(tmp_path: Path) -> CardStore:
    return CardStore(tmp_path)


@pytest.fixture
def card(store: CardStore) -> VirtualConnection:
    return store.insert("00000001")


def send(card: VirtualConnection, *commands: str) -> tuple[str, str]:
    body, sw = b"", 0
    for command in commands:
        body, sw = card.transmit(bytes.fromhex(command))
    return body.hex().upper(), f"{sw:04X}"


def authenticate(card: VirtualConnection, *, right: bool = True, method: str = "process-key") -> str:
    challenge, _ = card.transmit(bytes.fromhex("0084000008"))
    original = bytes(range(8))
    key = derived(UKSSSE, card.atr[-8:])
    data = proof(key, challenge, original, "process-key" if method == "process-key" else "direct")
    if not right:
        data = bytes(8)
    return send(card, "0082000410" + (data + original).hex())[1]


def test_the_atr_carries_city_and_serial(card: VirtualConnection) -> None:
    assert card.atr.hex().upper().startswith("3B6D0000")
    assert card.atr[-6:].hex() == "420100000001"


def test_the_application_announces_its_fci_and_gives_it_once(card: VirtualConnection) -> None:
    assert send(card, SELECT_SSSE) == ("", "6119")
    body, sw = send(card, "00C0000019")
    assert sw == "9000"
    assert body.startswith("6F17840F7378312E7368")
    assert body.endswith("9F0C0101")
    assert send(card, "00C0000019")[1] == "6985"


@pytest.mark.parametrize("select", [SELECT_EF05, "00A4020002EF05"])
def test_a_file_is_selected_and_read_by_number_and_by_tag(card: VirtualConnection, select: str) -> None:
    send(card, SELECT_SSSE)
    assert send(card, select)[1] == "9000"
    assert send(card, "00B207040B") == ("0709" + "FF" * 9, "9000")
    assert send(card, "00B207000B") == ("0709" + "FF" * 9, "9000")


@pytest.mark.parametrize("select", ["00A4000C02EF05", "00A4020C02EF05"])
def test_a_file_is_selected_without_wish_for_its_control_information(card: VirtualConnection, select: str) -> None:
    assert send(card, SELECT_SSSE.replace("00A40400", "00A4040C")) == ("", "9000")
    assert send(card, select) == ("", "9000")
    assert send(card, "00B207040B")[1] == "9000"


@pytest.mark.parametrize("select", ["00A40000", "00A4000C", "00A40000023F00", "00A4000C023F00"])
def test_the_master_file_is_selected_with_and_without_its_identifier(card: VirtualConnection, select: str) -> None:
    send(card, SELECT_SSSE)
    assert send(card, select) == ("", "9000")
    assert send(card, SELECT_EF05)[1] == "6A82"


def test_a_name_of_the_social_security_application_is_taken_whole_and_has_no_next(card: VirtualConnection) -> None:
    assert send(card, "00A40400077378312E73682E")[1] == "6A82"
    assert send(card, SELECT_SSSE.replace("00A40400", "00A40402"))[1] == "6119"
    assert send(card, SELECT_SSSE.replace("00A40400", "00A40402"))[1] == "6A82"
    assert send(card, SELECT_EF05)[1] == "9000"


def test_a_challenge_of_any_length_has_8_bytes_and_is_the_one_that_counts(card: VirtualConnection) -> None:
    send(card, SELECT_SSSE)
    assert send(card, "0084000000") == ("", "6C08")
    assert authenticate(card) == "9000"


def test_without_t0_a_challenge_of_any_length_comes_at_once(tmp_path: Path) -> None:
    card = CardStore(tmp_path, strict_t0=False).insert("00000001")
    body, sw = send(card, "0084000000")
    assert (len(body), sw) == (16, "9000")


@pytest.mark.parametrize("cla", ["00", "80", "04", "84", "0C", "8C"])
def test_an_announced_answer_is_fetched_with_the_class_of_the_command(card: VirtualConnection, cla: str) -> None:
    send(card, SELECT_SSSE)
    body, sw = send(card, f"{cla}C0000019")
    assert (body[:8], sw) == ("6F17840F", "9000")


@pytest.mark.parametrize("fetch", ["10C0000019", "00C0010019", "84C000000400000000", "00C000000400000000"])
def test_an_announced_answer_is_lost_to_another_class_and_to_a_get_response_with_data(
    card: VirtualConnection, fetch: str
) -> None:
    send(card, SELECT_SSSE)
    assert send(card, fetch) == ("", "6985")
    assert send(card, "00C0000019") == ("", "6985")


@pytest.mark.parametrize(
    ("commands", "sw"),
    [
        (["00A404000141"], "6A82"),
        (["00A40401"], "6A86"),
        (["00A40404"], "6A86"),
        (["00A4000202EF05"], "6A86"),
        (["00A40200"], "6700"),
        (["00A4000001EF"], "6700"),
        ([SELECT_EF05], "6A82"),
        ([SELECT_SSSE, "00A4000002EF09"], "6A82"),
        ([SELECT_SSSE, "00A4000001EF"], "6700"),
        ([SELECT_SSSE, "00A4010002EF05"], "6A86"),
        ([SELECT_SSSE, "00B2010414"], "6986"),
        ([SELECT_SSSE, SELECT_EF05, "00B2080412"], "6A83"),
        ([SELECT_SSSE, SELECT_EF05, "00B2080012"], "6A83"),
        ([SELECT_SSSE, SELECT_EF05, "00B2010400"], "6C12"),
        ([SELECT_SSSE, SELECT_EF05, "00B2010101"], "6A86"),
        ([SELECT_SSSE, UPDATE_CATEGORY], "6986"),
        ([SELECT_SSSE, SELECT_EF05, UPDATE_CATEGORY], "6982"),
        ([SELECT_SSSE, SELECT_EF05, "00DC0204"], "6982"),
        (["0084000003"], "6700"),
        ([SELECT_SSSE, "0082000410" + "00" * 16], "6985"),
        ([SELECT_SSSE, "0082000910" + "00" * 16], "6A88"),
        ([SELECT_SSSE, "0082000408" + "00" * 8], "6700"),
        (["00DD000000"], "6D00"),
        (["8084000008"], "6E00"),
        (["00"], "6700"),
        (["00A40000051234"], "6700"),
    ],
)
def test_a_wrong_command_gets_its_status_word(card: VirtualConnection, commands: list[str], sw: str) -> None:
    assert send(card, *commands)[1] == sw


def test_an_update_needs_the_key_and_the_record_as_it_was_created(card: VirtualConnection) -> None:
    send(card, SELECT_SSSE)
    assert authenticate(card) == "9000"
    assert send(card, SELECT_EF05, UPDATE_CATEGORY)[1] == "9000"
    assert send(card, "00DC0204020201")[1] == "6A80"
    assert send(card, "00DC020403070133")[1] == "6A80"
    assert send(card, "00DC090403020133")[1] == "6A83"
    assert send(card, "00DC020003020133")[1] == "6A86"
    assert send(card, "00B2020403") == ("020133", "9000")


def test_a_reset_takes_the_right_away_and_keeps_the_data(card: VirtualConnection) -> None:
    send(card, SELECT_SSSE)
    authenticate(card)
    send(card, SELECT_EF05, UPDATE_CATEGORY)
    card.reset()
    assert send(card, SELECT_SSSE, SELECT_EF05, UPDATE_CATEGORY)[1] == "6982"
    assert send(card, "00B2020003") == ("020133", "9000")


def test_a_challenge_is_good_once(card: VirtualConnection) -> None:
    send(card, SELECT_SSSE)
    assert authenticate(card, right=False) == "63C2"
    assert send(card, "0082000410" + "00" * 16)[1] == "6985"


def test_the_key_counts_errors_over_resets_and_blocks(card: VirtualConnection, store: CardStore) -> None:
    send(card, SELECT_SSSE)
    assert authenticate(card, right=False) == "63C2"
    again = store.insert("00000001")
    send(again, SELECT_SSSE)
    assert authenticate(again, right=False) == "63C1"
    assert authenticate(again, right=False) == "63C0"
    assert authenticate(again) == "6983"


def test_a_right_authentication_sets_the_counter_back(card: VirtualConnection, store: CardStore) -> None:
    send(card, SELECT_SSSE)
    authenticate(card, right=False)
    assert authenticate(card) == "9000"
    assert store.inspect("00000001").keys[4].left == 3


def test_a_card_with_the_direct_computation_refuses_the_other(tmp_path: Path) -> None:
    card = CardStore(tmp_path, method="direct").insert("00000001")
    send(card, SELECT_SSSE)
    assert authenticate(card) == "63C2"
    assert authenticate(card, method="direct") == "9000"


def test_the_pin_counts_down_and_blocks_over_resets(card: VirtualConnection) -> None:
    assert send(card, "0020000003123456")[1] == "9000"
    left = [send(card, "0020000003000000")[1] for _ in range(3)]
    card.reset()
    left += [send(card, "0020000003000000")[1] for _ in range(2)]
    assert left == ["63C4", "63C3", "63C2", "63C1", "63C0"]
    assert send(card, "0020000003123456")[1] == "6983"


def test_the_pin_is_changed_by_who_knows_the_old_one(card: VirtualConnection) -> None:
    assert send(card, "805E010007000000FF654321")[1] == "63C4"
    assert send(card, "805E010007123456FF654321")[1] == "9000"
    assert send(card, "0020000003654321")[1] == "9000"
    assert send(card, "0020000003123456")[1] == "63C4"


def test_version_1_has_no_name_extension(tmp_path: Path) -> None:
    card = CardStore(tmp_path, version="1.00").insert("00000001")
    assert send(card, SELECT_SSSE, "00A4000002EF06", "00B24E0016")[1] == "6A83"
    assert send(card, "00B203040300")[1] == "6700"
    assert send(card, "00B2030403") == ("0A01FF", "9000")


def test_a_card_is_in_one_reader(card: VirtualConnection, store: CardStore) -> None:
    store.insert("00000001")
    with pytest.raises(CardLost):
        card.transmit(bytes.fromhex(SELECT_SSSE))


@pytest.mark.parametrize(("kind", "done"), [("tear_before", False), ("tear_after", True), ("mute", False)])
def test_a_fault_leaves_the_command_whole_or_undone(tmp_path: Path, kind: str, done: bool) -> None:
    store = CardStore(tmp_path, faults={"00000001": [Fault("UPDATE RECORD", 1, kind)]})
    card = store.insert("00000001")
    send(card, SELECT_SSSE)
    authenticate(card)
    send(card, SELECT_EF05)
    for _ in range(2):
        with pytest.raises(CardLost):
            send(card, UPDATE_CATEGORY)
    again = store.insert("00000001")
    assert send(again, SELECT_SSSE, SELECT_EF05, "00B2020403")[0] == ("020133" if done else "0201FF")


def test_a_fault_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no such command"):
        Fault("FORMAT", 1, "sw")
    with pytest.raises(ValueError, match="explode"):
        Fault("SELECT", 1, "explode")
