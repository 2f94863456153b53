"""The virtual debit application, PSE and PPSE: filled by STORE DATA over both routes, complete or not, and read back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_host import DEBIT, ISD, KEYS, Host, dgi, exchange, groupings, select, store, store_command

from card_personalization.simulator import CardStore, ciphers
from card_personalization.simulator.codec import GroupingReader, objects, tlv
from card_personalization.simulator.command import Command, Refused
from card_personalization.simulator.configuration import PPSE, PSE, CardManager
from card_personalization.simulator.inspection import ApplicationView

SERIAL = "00000001"
PROTOCOLS = [(2, 0x15, 0x00), (2, 0x15, 0x01), (2, 0x55, 0x03), (3, 0x70, 0x01), (3, 0x70, 0x33), (3, 0x61, 0x33)]
INSTALL_FOR_PERSONALIZATION = f"80E620000E000008{DEBIT}00000000"
Open = Callable[..., Host]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A host with a session on the application of a fresh card."""

    def make(scp: int = 2, i: int = 0x15, level: int = 0x01, aid: str = DEBIT) -> Host:
        card = CardStore(tmp_path, manager=CardManager(scp=scp, i=i)).insert(SERIAL)
        host = Host(card, aid=aid)
        select(card, aid)
        answer = host.initialize_update(size=16 if scp == 3 and i & 1 else 8)
        assert host.external_authenticate(answer, level) == "9000"
        return host

    return make


def debit(tmp_path: Path) -> ApplicationView:
    return CardStore(tmp_path).inspect(SERIAL).applications[bytes.fromhex(DEBIT)]


@pytest.mark.parametrize("aid", [ISD, DEBIT, PSE.hex().upper(), PPSE.hex().upper()])
def test_five_bytes_of_a_name_or_more_select_the_application_and_fewer_none(tmp_path: Path, aid: str) -> None:
    card = CardStore(tmp_path).insert(SERIAL)
    full = select(card, aid)
    assert f"84{len(aid) // 2:02X}{aid}" in full[0]
    assert [select(card, aid[:size]) for size in range(10, len(aid), 2)] == [full] * (len(aid) // 2 - 5)
    assert [select(card, aid[:size])[1] for size in range(2, 10, 2)] == ["6A82"] * 4
    assert select(card, aid + "00")[1] == "6A82"


def test_the_next_application_with_a_name_is_one_behind_the_selected(tmp_path: Path) -> None:
    card = CardStore(tmp_path).insert(SERIAL)
    part = "07" + DEBIT[:14]
    assert exchange(card, f"00A40402{part}") == select(card, DEBIT)
    assert exchange(card, f"00A40402{part}") == ("", "6A82")
    assert (
        exchange(card, "80CA9F1700")[1] == "6A88"
    )  # the debit application is still selected: the domain alone has CPLC data
    assert exchange(card, "80CA9F7F00")[1] == "6A88"
    assert exchange(card, f"00A40402{len(ISD) // 2:02X}{ISD}")[1] == "6A82"
    select(card, "")
    assert exchange(card, "00A40402")[1] == "6A82"


def test_a_selection_without_wish_for_control_information_has_no_answer(tmp_path: Path) -> None:
    card = CardStore(tmp_path).insert(SERIAL)
    assert card.transmit(bytes.fromhex(f"00A4040C08{DEBIT}")) == (b"", 0x9000)
    assert exchange(card, "80CA9F7F00")[1] == "6A88"
    assert card.transmit(bytes.fromhex("00A4040C")) == (b"", 0x9000)
    assert exchange(card, "80CA9F7F00")[1] == "9000"
    assert card.transmit(bytes.fromhex(f"00A4040E07{DEBIT[:14]}")) == (b"", 0x9000)
    assert card.transmit(bytes.fromhex(f"00A4040E07{DEBIT[:14]}")) == (b"", 0x6A82)


def test_a_locked_application_is_not_found_by_part_of_its_name(opened: Open) -> None:
    host = opened(aid=ISD)
    assert host.send(f"80F0408008{DEBIT}")[1] == "9000"
    assert select(host.card, DEBIT[:14])[1] == "6A82"
    assert exchange(host.card, f"00A4040207{DEBIT[:14]}")[1] == "6A82"


@pytest.mark.parametrize(("scp", "i", "level"), PROTOCOLS)
@pytest.mark.parametrize("direct", [True, False])
def test_both_routes_fill_the_application_and_it_reads_back(
    opened: Open, tmp_path: Path, scp: int, i: int, level: int, direct: bool
) -> None:
    host = opened(scp, i, level, DEBIT if direct else ISD)
    if not direct:
        assert host.send(INSTALL_FOR_PERSONALIZATION)[1] == "9000"
    values = groupings(host)
    assert store(host, values) == ["9000"] * len(values)
    card = host.card
    assert select(card, DEBIT) == ("6F188408A000000333010101A50C500A50424F43204445424954", "9000")
    assert exchange(card, "80A80000028300") == ("770A82027C00940408010100", "9000")
    for tag in (0x0101, 0x0201, 0x0202, 0x0301):
        assert exchange(card, f"00B2{tag & 0xFF:02X}{tag >> 8 << 3 | 4:02X}00") == (values[tag].hex().upper(), "9000")
    told = [exchange(card, f"80CA{tag}00")[0] for tag in ("9F36", "9F17", "9F13", "9F4F")]
    assert told == ["9F36020000", "9F170103", "9F13020000", "9F4F039A0306"]
    assert debit(tmp_path).state == 0x0F
    assert debit(tmp_path).kcvs == values[0x9000]


def test_a_complete_application_takes_nothing_more(opened: Open) -> None:
    host = opened()
    store(host, groupings(host))
    assert host.send(store_command(0, 11, dgi(0x0201, bytes.fromhex("70038E0100"))))[1] == "6985"
    assert host.open(0x01) == "9000"
    assert host.send(store_command(0, 0, dgi(0x0201, bytes.fromhex("70038E0100"))))[1] == "6985"


def test_before_completion_it_reads_nothing_and_shows_an_empty_template(opened: Open) -> None:
    host = opened()
    store(host, groupings(host), last=False)
    card = host.card
    assert select(card, DEBIT) == (f"6F0C8408{DEBIT}A500", "9000")
    assert exchange(card, "80A80000028300")[1] == "6985"
    assert exchange(card, "00B2010C00")[1] == "6985"
    assert exchange(card, "0020008008241234FFFFFFFFFF")[1] == "6985"


@pytest.mark.parametrize(
    "missing", [0x0101, 0x0201, 0x0202, 0x0301, 0x0D01, 0x8000, 0x9000, 0x8010, 0x9010, 0x9102, 0x9104]
)
def test_it_is_not_complete_without_a_mandatory_grouping(opened: Open, tmp_path: Path, missing: int) -> None:
    host = opened()
    values = groupings(host)
    rest = {tag: value for tag, value in values.items() if tag != missing}
    assert store(host, rest)[-1] == "6A86"
    assert debit(tmp_path).state == 0x07
    assert {*rest} - debit(tmp_path).groupings == {[*rest][-1]}
    assert host.open(0x01) == "9000"


def test_what_failed_at_the_end_is_begun_again(opened: Open, tmp_path: Path) -> None:
    host = opened()
    store(host, {0x0101: groupings(host)[0x0101]})
    again = opened()
    assert set(store(again, groupings(again))) == {"9000"}
    assert debit(tmp_path).state == 0x0F


def test_groupings_may_be_overwritten_before_completion_also_with_other_keys(opened: Open, tmp_path: Path) -> None:
    host = opened()
    store(host, groupings(host), last=False)
    again = opened()
    keys = bytes(range(0x10, 0x40))
    checks = b"".join(ciphers.des_kcv(keys[at : at + 16]) for at in (0, 16, 32))
    values = {**groupings(again), 0x8000: again.sensitive(keys), 0x9000: checks}
    assert set(store(again, values)) == {"9000"}
    assert debit(tmp_path).kcvs == checks


@pytest.mark.parametrize("order", [(0x8000, 0x9000), (0x9000, 0x8000)])
def test_key_check_values_must_be_those_of_the_keys(opened: Open, order: tuple[int, int]) -> None:
    host = opened()
    values = {0x8000: host.sensitive(KEYS), 0x9000: bytes(9)}
    assert store(host, {tag: values[tag] for tag in order}, last=False) == ["9000", "6A80"]
    assert host.send(store_command(0, 1, dgi(0x0201, bytes.fromhex("70038E0100"))))[1] == "9000"


@pytest.mark.parametrize(
    ("p1", "p2", "data", "sw"),
    [
        (0x00, 1, "0201" + "05" + "70038E0100", "6A86"),
        (0x40, 0, "0201" + "05" + "70038E0100", "6A86"),
        (0x10, 0, "0201" + "05" + "70038E0100", "6A86"),
        (0x08, 0, "0201" + "05" + "70038E0100", "9000"),
        (0x00, 0, "0F01" + "05" + "70038E0100", "6A88"),
        (0x00, 0, "7001" + "05" + "70038E0100", "6A88"),
        (0x00, 0, "0200" + "05" + "70038E0100", "6A88"),
        (0x00, 0, "0201" + "05" + "71038E0100", "6A80"),
        (0x00, 0, "0201" + "05" + "70048E0100", "6A80"),
        (0x00, 0, "0201" + "06" + "70038E010000", "6A80"),
        (0x80, 0, "0201" + "06" + "70038E0100", "6A80"),
        (0x00, 0, "0D01" + "03" + "9F4F03", "6A80"),
        (0x00, 0, "9000" + "08" + "00" * 8, "6A80"),
        (0x00, 0, "9010" + "02" + "0403", "6A80"),
        (0x00, 0, "9102" + "02" + "5000", "6A80"),
        (0x00, 0, "9104" + "04" + "82020000", "6A80"),
        (0x60, 0, "8000" + "10" + "00" * 16, "6A80"),
        (0x60, 0, "8010" + "07" + "00" * 7, "6A80"),
        (0x60, 0, "8010" + "08" + "00" * 8, "6A80"),
        (0x00, 0, "", "6700"),
    ],
)
def test_a_wrong_store_data_is_refused_and_leaves_nothing(
    opened: Open, tmp_path: Path, p1: int, p2: int, data: str, sw: str
) -> None:
    host = opened()
    assert host.send(f"80E2{p1:02X}{p2:02X}" + (f"{len(data) // 2:02X}{data}" if data else ""))[1] == sw
    assert bool(debit(tmp_path).groupings) == (sw == "9000")


def test_a_command_with_one_wrong_grouping_stores_none_of_them(opened: Open, tmp_path: Path) -> None:
    host = opened()
    good = dgi(0x0201, bytes.fromhex("70038E0100"))
    assert host.send(store_command(0, 0, good + dgi(0x7001, b"\x00")))[1] == "6A88"
    assert not debit(tmp_path).groupings
    assert host.send(store_command(0, 0, good))[1] == "9000"


def test_a_grouping_may_go_on_in_the_next_command_in_three_parts(opened: Open) -> None:
    host = opened()
    values = groupings(host)
    data = b"".join(dgi(tag, value) for tag, value in values.items() if tag not in (0x8000, 0x8010))
    secret = dgi(0x8000, values[0x8000]) + dgi(0x8010, values[0x8010])
    parts = [(0x60, secret[:2]), (0x60, secret[2:30]), (0x60, secret[30:]), (0x00, data[:101]), (0x80, data[101:])]
    words = [host.send(store_command(p1, number, part))[1] for number, (p1, part) in enumerate(parts)]
    assert words == ["9000"] * 5


def test_a_record_that_came_encrypted_is_stored_without_its_filling(opened: Open) -> None:
    host = opened(3, 0x70, 0x33)
    values = groupings(host)
    record = values[0x0201]
    filled = host.sensitive(ciphers.pad80(record, 16))
    assert host.send(store_command(0x60, 0, dgi(0x0201, filled)))[1] == "9000"
    rest = {tag: value for tag, value in values.items() if tag != 0x0201}
    for number, (tag, value) in enumerate(rest.items(), start=1):
        p1 = 0x80 if number == len(rest) else 0
        assert host.send(store_command(p1, number, dgi(tag, value)))[1] == "9000"
    select(host.card, DEBIT)
    assert exchange(host.card, "00B2011400") == (record.hex().upper(), "9000")


def test_store_data_without_a_session_is_refused(tmp_path: Path) -> None:
    card = CardStore(tmp_path).insert(SERIAL)
    select(card, DEBIT)
    assert exchange(card, "80E2000003910100")[1] == "6985"
    assert exchange(card, "84E2000003910100")[1] == "6985"
    assert exchange(card, "00E2000003910100")[1] == "6E00"
    assert exchange(card, "8050200008" + "00" * 8 + "00", "84E2000003910100")[1] == "6985"


def test_install_for_personalization_names_an_application_that_is_there(opened: Open) -> None:
    host = opened(aid=ISD)
    assert host.send("80E620000E000008" + "A000000333010109" + "00000000")[1] == "6A88"
    assert host.send("80E60C000E000008" + DEBIT + "00000000")[1] == "6A86"
    assert host.send("80E620000B000008" + DEBIT)[1] == "6A80"


def test_the_domain_gives_data_to_the_application_until_its_last_block(opened: Open) -> None:
    host = opened(aid=ISD)
    host.send(INSTALL_FOR_PERSONALIZATION)
    values = groupings(host)
    store(host, values)
    assert host.send(store_command(0, 0, dgi(0x0201, values[0x0201])))[1] == "6A88"


def test_a_session_on_the_domain_is_none_on_the_application(opened: Open) -> None:
    host = opened(aid=ISD)
    select(host.card, DEBIT)
    assert host.send(store_command(0, 0, dgi(0x0201, bytes.fromhex("70038E0100"))))[1] == "6985"


def test_pse_and_ppse_are_personalised_each_for_itself(opened: Open, tmp_path: Path) -> None:
    host = opened(aid=PSE.hex())
    record = tlv(0x70, tlv(0x61, tlv(0x4F, bytes.fromhex(DEBIT)) + tlv(0x50, b"PBOC DEBIT")))
    values = {0x9102: tlv(0xA5, tlv(0x88, b"\x01") + tlv(0x5F2D, b"zh")), 0x0101: record}
    assert store(host, {0x9102: values[0x9102]}) == ["6A86"]
    host = opened(aid=PSE.hex())
    assert store(host, values) == ["9000", "9000"]
    assert select(host.card, PSE.hex())[0].endswith(values[0x9102].hex().upper())
    assert exchange(host.card, "00B2010C00") == (record.hex().upper(), "9000")
    assert exchange(host.card, "00B2020C00")[1] == "6A83"
    assert exchange(host.card, "00B2011400")[1] == "6A82"
    host = opened(aid=PPSE.hex())
    assert store(host, {0x0101: record}) == ["6A88"]
    host = opened(aid=PPSE.hex())
    assert store(host, {0x9102: values[0x9102]}) == ["9000"]
    states = {aid: view.state for aid, view in CardStore(tmp_path).inspect(SERIAL).applications.items()}
    assert states == {PSE: 0x0F, PPSE: 0x0F, bytes.fromhex(DEBIT): 0x07}


def test_the_terminal_must_bring_what_the_pdol_asks_for(opened: Open) -> None:
    host = opened()
    template = tlv(0xA5, tlv(0x50, b"PBOC DEBIT") + tlv(0x9F38, bytes.fromhex("9F66049A03")))
    store(host, {**groupings(host), 0x9102: template})
    select(host.card, DEBIT)
    assert exchange(host.card, "80A80000028300")[1] == "6A80"
    assert exchange(host.card, "80A80000098307" + "00" * 7)[1] == "9000"


def test_the_offline_pin_counts_down_and_blocks_over_resets(opened: Open) -> None:
    host = opened()
    store(host, groupings(host))
    card, wrong, right = host.card, "0020008008241235FFFFFFFFFF", "0020008008241234FFFFFFFFFF"
    select(card, DEBIT)
    assert [exchange(card, command)[1] for command in (wrong, right, wrong)] == ["63C2", "9000", "63C2"]
    assert exchange(card, "80CA9F1700")[0] == "9F170102"
    card.reset()
    select(card, DEBIT)
    assert [exchange(card, command)[1] for command in (wrong, wrong, wrong, right)] == ["63C1", "63C0", "6983", "6983"]
    assert exchange(card, "80CA9F1700")[0] == "9F170100"


def test_a_second_set_of_keys_is_checked_with_its_own_cipher(opened: Open) -> None:
    host = opened()
    checks = b"".join(ciphers.sm4_kcv(KEYS[at : at + 16]) for at in (0, 16, 32))
    assert store(host, {0x8400: host.sensitive(KEYS), 0x9400: checks}, last=False) == ["9000", "9000"]
    host = opened()
    wrong = b"".join(ciphers.des_kcv(KEYS[at : at + 16]) for at in (0, 16, 32))
    assert store(host, {0x8400: host.sensitive(KEYS), 0x9400: wrong}, last=False) == ["9000", "6A80"]


def test_nothing_secret_is_shown(opened: Open, tmp_path: Path) -> None:
    host = opened()
    store(host, groupings(host))
    shown = repr(CardStore(tmp_path).inspect(SERIAL))
    assert not any(secret in shown for secret in (KEYS.hex(), repr(KEYS), "241234", "62000000", repr(KEYS[:16])))
    assert 0x8000 not in debit(tmp_path).values


values_of_groupings = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), min_size=1, max_size=6)


@given(values=values_of_groupings, cuts=st.lists(st.integers(0, 400), max_size=5))
def test_groupings_come_out_whole_wherever_they_are_cut(values: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(
        tag.to_bytes(2, "big") + (bytes((len(v),)) if len(v) < 0xFF else b"\xff" + len(v).to_bytes(2, "big")) + v
        for tag, v in values
    )
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[a:b] for a, b in pairwise(at)]
    reader, found = GroupingReader(), []
    for number, part in enumerate(parts):
        p1 = 0x80 if number == len(parts) - 1 else 0
        reader, whole = reader.read(Command(0x80, 0xE2, p1, number, part, None))
        found += [(grouping.tag, grouping.value) for grouping in whole]
    assert found == values


@given(
    st.lists(
        st.tuples(st.sampled_from([0x4F, 0x50, 0x5A, 0x9F38, 0xBF0C, 0x5F2D]), st.binary(max_size=400)), max_size=5
    )
)
def test_data_objects_come_back_as_they_were_made(values: list[tuple[int, bytes]]) -> None:
    assert list(objects(b"".join(tlv(tag, value) for tag, value in values))) == values


@given(st.binary(max_size=20))
def test_any_bytes_are_data_objects_or_refused(data: bytes) -> None:
    try:
        found = objects(data)
    except Refused as refused:
        assert refused.sw == 0x6A80
    else:
        assert len(found) <= len(data)
