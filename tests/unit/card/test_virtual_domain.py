"""The virtual card's security domain: what it tells, whom it lets in, how it counts, and what it does with keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from virtual_host import DEBIT, HOST_CHALLENGE, ISD, Host, exchange, fetch, select

from card_personalization.errors import CardLost
from card_personalization.simulator import CardStore, ciphers
from card_personalization.simulator.channel import levels
from card_personalization.simulator.codec import objects
from card_personalization.simulator.configuration import CardManager, KeySet
from card_personalization.simulator.secure_channel import FAILURE_LIMIT

SERIAL = "00000001"
CHIPS = [(2, 0x15, 16), (2, 0x55, 16)]
CHIPS += [(3, i, 16) for i in (0x00, 0x10, 0x60, 0x70, 0x01, 0x11, 0x61, 0x71)]
CHIPS += [(3, 0x70, 24), (3, 0x70, 32), (3, 0x71, 32)]
SESSIONS = [(scp, i, size, level) for scp, i, size in CHIPS for level in sorted(levels(scp, i))]

Make = Callable[..., Host]


def key_set(kvn: int = 0x20, size: int = 16, first: int = 0x40) -> KeySet:
    keys = [bytes(range(first + n, first + n + size)) for n in range(3)]
    return KeySet(kvn=kvn, enc=keys[0], mac=keys[1], dek=keys[2], diversification="kdf3" if size > 16 else "emv")


@pytest.fixture
def host(tmp_path: Path) -> Make:
    """A host before a fresh card of the given kind."""

    def make(scp: int = 2, i: int = 0x15, size: int = 16, **options: object) -> Host:
        keys = key_set(size=size)
        store = CardStore(tmp_path, manager=CardManager(scp=scp, i=i, key_sets=(keys,)), **options)  # type: ignore[arg-type]
        host = Host(store.insert(SERIAL), keys)
        host.store = store  # type: ignore[attr-defined]
        return host

    return make


def domain(tmp_path: Path):  # type: ignore[no-untyped-def]
    return CardStore(tmp_path).inspect(SERIAL).domain


@pytest.mark.parametrize(("scp", "i", "size", "level"), SESSIONS)
def test_every_protocol_key_size_and_level_carries_commands(
    host: Make, scp: int, i: int, size: int, level: int
) -> None:
    made = host(scp, i, size)
    assert made.open(level) == "9000"
    recognition = made.send("80CA006600")
    assert recognition[0].endswith(f"2A864886FC6B04{scp:02X}{i:02X}")
    assert made.send("80F28002024F0000") == ("E3114F08A0000001510000009F700107C50100", "9000")
    assert made.send("80E4000003" + "4F0141")[1] == "6A88"
    assert made.send("80CA006600") == recognition


@pytest.mark.parametrize(("kvn", "scp"), [(0x00, 2), (0x20, 2), (0x30, 3)])
def test_a_card_speaks_the_protocol_that_its_key_version_is_for(tmp_path: Path, kvn: int, scp: int) -> None:
    old, new = key_set(0x20), replace(key_set(0x30), diversification="fixed", protocol=(3, 0x70))
    store = CardStore(tmp_path, manager=CardManager(key_sets=(old, new)))
    made = Host(store.insert(SERIAL), new if scp == 3 else old)
    assert made.open(0x03, kvn=kvn) == "9000"
    assert made.scp == scp
    recognition = made.send("80CA006600")[0]
    assert ("2A864886FC6B040215" in recognition, "2A864886FC6B040370" in recognition) == (True, True)
    assert made.send("80CA00E000")[0][4:16] == "C00401208010"
    assert made.send("80CA00E000")[0][-12:] == "C00403308810"
    assert store.inspect(SERIAL).domain.counters == {0x20: 2 if scp == 2 else 1, 0x30: 2 if scp == 3 else 1}


def test_a_key_version_that_fits_no_protocol_is_not_delivered() -> None:
    with pytest.raises(ValueError, match="30"):
        CardManager(key_sets=(key_set(0x20), replace(key_set(0x30, size=32), protocol=(2, 0x15))))
    with pytest.raises(ValueError, match="SCP03 i=15"):
        CardManager(key_sets=(replace(key_set(0x30), protocol=(3, 0x15)),))


@pytest.mark.parametrize(("scp", "i"), [(2, 0x15), (3, 0x70)])
def test_empty_data_may_come_padded_and_encrypted(host: Make, scp: int, i: int) -> None:
    made = host(scp, i)
    assert made.open(0x03) == "9000"
    assert made.send("80CA9F7F00", pad_empty=True)[1] == "9000"
    assert made.send("80CA9F7F00", pad_empty=False)[1] == "9000"


@pytest.mark.parametrize("level", [0x01, 0x03, 0x13])
def test_an_answer_has_a_mac_unless_it_is_an_error(host: Make, level: int) -> None:
    made = host(3, 0x60)
    made.open(level)
    assert fetch(made.card, made.wrap(bytes.fromhex("80E400000A4F08A00000000000000000"))) == (b"", 0x6A88)
    body, sw = fetch(made.card, made.wrap(bytes.fromhex("80F08007")))
    assert (len(body), sw) == (8 if level & 0x10 else 0, 0x9000)


@pytest.mark.parametrize("spoil", ["cryptogram", "mac"])
def test_a_wrong_host_is_refused_and_counted_and_the_counter_stays(host: Make, tmp_path: Path, spoil: str) -> None:
    made = host(3, 0x70)
    assert made.open(0x01, spoil=spoil) == {"cryptogram": "6300", "mac": "6982"}[spoil]
    assert domain(tmp_path).failures == 1
    assert domain(tmp_path).counters == {0x20: 1}
    assert made.send("80F28002024F0000")[1] == "6982"


def test_a_right_host_sets_the_failures_back_and_the_counter_rises(host: Make, tmp_path: Path) -> None:
    made = host(2, 0x15)
    made.open(0x01, spoil="cryptogram")
    assert [made.open(0x01), made.open(0x03)] == ["9000", "9000"]
    assert (domain(tmp_path).failures, domain(tmp_path).counters) == (0, {0x20: 3})
    assert exchange(made.card, f"00A4040008{ISD}", "80CA00C100")[0] == "C1020003"


def test_after_ten_failures_nobody_is_let_in_again(host: Make) -> None:
    made = host(2, 0x15)
    assert [made.open(0x01, spoil="cryptogram") for _ in range(FAILURE_LIMIT)] == ["6300"] * FAILURE_LIMIT
    made.card.reset()
    made.initialize_update()
    assert made.sw == 0x6985


def test_an_initialize_update_alone_counts_nothing(host: Make, tmp_path: Path) -> None:
    made = host(2, 0x55)
    select(made.card, ISD)
    assert made.initialize_update() == made.initialize_update()
    assert domain(tmp_path).counters == {0x20: 1}


def test_a_wrong_mac_closes_the_channel(host: Make) -> None:
    made = host(3, 0x70)
    made.open(0x33)
    wrapped = bytearray(made.wrap(bytes.fromhex("80CA9F7F00")))
    wrapped[-2] ^= 1
    assert fetch(made.card, bytes(wrapped)) == (b"", 0x6982)
    assert made.send("80CA9F7F00")[1] == "6982"
    assert exchange(made.card, "80CA9F7F00")[1] == "9000"


def test_a_command_below_the_level_is_refused_and_the_channel_stays(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    assert exchange(made.card, "80CA9F7F00")[1] == "6982"
    assert made.send("80CA9F7F00")[1] == "9000"


@pytest.mark.parametrize(
    ("commands", "sw"),
    [
        (["8482010010" + "00" * 16], "6985"),
        ([f"80502100 08 {HOST_CHALLENGE[:8].hex()}00"], "6A88"),
        ([f"80502001 08 {HOST_CHALLENGE[:8].hex()}00"], "6A86"),
        ([f"80502000 07 {HOST_CHALLENGE[:7].hex()}00"], "6700"),
        ([f"80502000 08 {HOST_CHALLENGE[:8].hex()}00", "8482330010" + "00" * 16], "6A86"),
        ([f"80502000 08 {HOST_CHALLENGE[:8].hex()}00", "8482010008" + "00" * 8], "6700"),
        (["80F28002024F0000"], "6982"),
        (["84F28002024F0000"], "6982"),
        (["80E2000003910100"], "6982"),
        (["80CA9F1700"], "6A88"),
        (["80CA9F7F00"], "9000"),
        (["00A4040000"], "9000"),
        ([f"00A4040008{ISD}", "80CA004200"], "9000"),
        ([f"00A4040008{ISD}", "80CA004500"], "9000"),
        ([f"00A4040008{ISD}", "8100000000"], "6881"),
        (["00A4040002A000"], "6A82"),
    ],
)
def test_a_command_out_of_place_gets_its_status_word(host: Make, commands: list[str], sw: str) -> None:
    assert exchange(host(2, 0x15).card, *(command.replace(" ", "") for command in commands))[1] == sw


def test_the_card_knows_itself_and_no_other(tmp_path: Path) -> None:
    store = CardStore(tmp_path)
    told = {}
    for serial in ("00000001", "00000002"):
        card = store.insert(serial)
        told[serial] = [exchange(card, f"80CA{tag}00")[0] for tag in ("9F7F", "00CF", "0045")]
        assert len(bytes.fromhex(told[serial][0])) == 3 + 42
        assert len(bytes.fromhex(told[serial][1])) == 2 + 10
        assert all(serial in value for value in told[serial])
    assert not {*told["00000001"]} & {*told["00000002"]}


def test_key_templates_name_versions_types_and_lengths(tmp_path: Path) -> None:
    sets = (key_set(0x30, 32), key_set(0x31, 32, 0x60))
    card = CardStore(tmp_path, manager=CardManager(scp=3, i=0x70, key_sets=sets)).insert(SERIAL)
    rows = [value.hex() for _, value in objects(objects(bytes.fromhex(exchange(card, "80CA00E000")[0]))[0][1])]
    assert rows == ["01308820", "02308820", "03308820", "01318820", "02318820", "03318820"]


def test_each_key_version_has_its_own_keys_and_counter(tmp_path: Path) -> None:
    sets = (key_set(0x30), key_set(0x31, first=0x60))
    card = CardStore(tmp_path, manager=CardManager(scp=3, i=0x70, key_sets=sets)).insert(SERIAL)
    assert Host(card, sets[1]).open(0x01, kvn=0x31) == "9000"
    assert Host(card, sets[0]).open(0x01) == "9000"
    assert Host(card, sets[1]).open(0x01, kvn=0x31) == "9000"
    assert domain(tmp_path).counters == {0x30: 2, 0x31: 3}


def test_a_new_selection_ends_the_session(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    select(made.card, ISD)
    assert made.send("80CA9F7F00")[1] == "6982"


def test_level_zero_authenticates_and_protects_nothing(host: Make) -> None:
    made = host(2, 0x15)
    assert made.open(0x00) == "9000"
    assert made.send("80F28000024F0000") == ("08A0000001510000000700", "9000")
    assert exchange(made.card, "84F28000024F0000")[1] == "6882"


def put_key(made: Host, keys: KeySet, replaced: int, *, spoil: bool = False, with_size: bool = True) -> tuple[str, str]:
    data = bytes((keys.kvn,))
    for key in (keys.enc, keys.mac, keys.dek):
        aes = made.scp == 3
        secret = made.sensitive(key + bytes(-len(key) % 16))
        check = ciphers.aes_kcv(key) if aes else ciphers.des_kcv(key)
        field = bytes((len(key),)) + secret if aes and with_size else secret
        check = bytes(3) if spoil else check
        data += bytes((0x88 if aes else 0x80, len(field))) + field + b"\x03" + check
    return made.send(f"80D8{replaced:02X}81{len(data):02X}{data.hex()}00")


@pytest.mark.parametrize(("scp", "i", "size"), [(2, 0x15, 16), (3, 0x70, 16), (3, 0x70, 24), (3, 0x71, 32)])
def test_keys_are_replaced_by_put_key(host: Make, scp: int, i: int, size: int) -> None:
    made, fresh = host(scp, i, size), KeySet(**{**_fields(key_set(0x33, size, 0x70)), "diversification": "fixed"})
    level = 0x33 if scp == 3 else 0x03
    made.open(level)
    assert put_key(made, fresh, 0x20, spoil=True)[1] == "6A80"
    assert put_key(made, fresh, 0x21)[1] == "6A88"
    body, sw = put_key(made, fresh, 0x20)
    assert (body[:2], len(body), sw) == ("33", 20, "9000")
    assert Host(made.card, fresh).open(level, kvn=0x33) == "9000"
    select(made.card, ISD)
    made.initialize_update(0x20)
    assert made.sw == 0x6A88


def _fields(keys: KeySet) -> dict[str, object]:
    return {name: getattr(keys, name) for name in ("kvn", "enc", "mac", "dek")}


def test_a_key_version_can_be_added_and_the_former_deleted(host: Make, tmp_path: Path) -> None:
    made = host(3, 0x70)
    made.open(0x33)
    fresh = KeySet(**{**_fields(key_set(0x31, 16, 0x70)), "diversification": "fixed"})
    assert made.send("80E4000003D20120")[1] == "6985"
    assert put_key(made, fresh, 0x00, with_size=False)[1] == "9000"
    assert made.send("80E4000003D20120")[1] == "9000"
    assert {*domain(tmp_path).kcvs} == {0x31}
    assert Host(made.card, fresh).open(0x01) == "9000"


def test_keys_come_in_groupings_of_store_data(host: Make, tmp_path: Path) -> None:
    fixed = KeySet(enc=bytes(range(16)), mac=bytes(range(16)), dek=bytes(range(16)), diversification="fixed")
    card = CardStore(tmp_path, manager=CardManager(scp=3, i=0x70, key_sets=(fixed,))).insert(SERIAL)
    made = Host(card, fixed)
    made.open(0x03)
    data = (
        "00b930b71080018881011083010196010197020003b9088201018403504a77b9088201028403f2a8dfb9088201038403d7d0e4"
        "811310d533e59b45a153ed7e5e9c5dfcfd4aaa8113103ef0b1a5e3059dab21fce23a7b61c4ca811310adde68f7ad497268d31a0ddd5c74b08f"
    )
    wrong = data.replace("504a77", "504a78")
    assert made.send(f"80E28800{len(wrong) // 2:02X}{wrong}")[1] == "6A80"
    assert made.send(f"80E28800{len(data) // 2:02X}{data}")[1] == "9000"
    kcvs = domain(tmp_path).kcvs[1]
    assert [kcv.hex() for kcv in kcvs] == ["504a77", "f2a8df", "d7d0e4"]
    loaded = KeySet(
        kvn=1,
        **{n: bytes(range(at, at + 16)) for n, at in (("enc", 64), ("mac", 80), ("dek", 96))},
        diversification="fixed",
    )
    assert Host(card, loaded).open(0x33, kvn=1) == "9000"


def test_life_cycles_go_forward_and_a_locked_card_has_its_domain_alone(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    assert made.send("80F0800F")[1] == "9000"
    assert made.send("80F08007")[1] == "6985"
    assert made.send("80F08005")[1] == "6A80"
    assert made.send("80F0807F")[1] == "9000"
    assert select(made.card, DEBIT)[1] == "6A82"
    made.open(0x01)
    assert made.send("80F0800F")[1] == "9000"
    assert select(made.card, DEBIT)[1] == "9000"


def test_an_application_is_locked_listed_and_deleted(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    listed = (f"E3114F08{DEBIT}9F700107C50100", "9000")
    assert made.send("80F24002094F07A0000003330101") == listed
    assert made.send(f"80F0408008{DEBIT}")[1] == "9000"
    assert select(made.card, DEBIT)[1] == "6A82"
    made.open(0x01)
    assert made.send(f"80F0400708{DEBIT}")[1] == "9000"
    assert made.send(f"80E400000A4F08{DEBIT}00")[1] == "9000"
    assert made.send(f"80E400000A4F08{DEBIT}00")[1] == "6A88"
    assert select(made.card, DEBIT)[1] == "6A82"


def test_a_card_without_the_bank_has_no_financial_application(tmp_path: Path) -> None:
    card = CardStore(tmp_path, financial=False).insert(SERIAL)
    assert [select(card, aid)[1] for aid in (DEBIT, b"1PAY.SYS.DDF01".hex(), b"2PAY.SYS.DDF01".hex())] == ["6A82"] * 3
    assert select(card, "7378312E73682EC9E7BBE1B1A3D5CF")[1] == "9000"


def test_a_terminated_card_does_nothing_more(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    assert made.send("80F080FF")[1] == "9000"
    assert exchange(made.card, "0020000003123456")[1] == "6985"
    assert select(made.card, DEBIT)[1] == "6A82"
    made.card.reset()
    assert exchange(made.card, "80CA9F7F00")[1] == "9000"


@pytest.mark.parametrize(
    ("scp", "i", "sets"),
    [
        (2, 0x70, (KeySet(),)),
        (3, 0x15, (KeySet(),)),
        (2, 0x15, ()),
        (2, 0x15, (KeySet(), KeySet())),
        (1, 5, (KeySet(),)),
    ],
)
def test_a_domain_that_cannot_be_is_refused(scp: int, i: int, sets: tuple[KeySet, ...]) -> None:
    with pytest.raises(ValueError):
        CardManager(scp=scp, i=i, key_sets=sets)


@pytest.mark.parametrize(("scp", "i"), [(2, 0x15), (2, 0x55), (3, 0x70)])
def test_a_host_that_knows_nothing_finds_domain_data_and_channel(host: Make, scp: int, i: int) -> None:
    made = host(scp, i)
    fci, sw = exchange(made.card, "00A40400")
    assert (fci, sw) == exchange(made.card, "00A4040000")
    assert f"8408{ISD}" in fci
    for cla in ("00", "80"):
        for tag in ("0066", "00E0", "9F7F", "00CF", "00C1", "0042", "0045"):
            body, sw = exchange(made.card, f"{cla}CA{tag}00")
            assert (body.startswith(tag.removeprefix("00")), sw) == (True, "9000")
    for level in sorted(levels(scp, i)):
        assert made.external_authenticate(made.initialize_update(0x00), level) == "9000"
        found = [made.send(f"80F2{scope}02024F0000")[1] for scope in ("80", "40", "20", "10")]
        assert found == ["9000", "9000", "6A88", "6A88"]


@pytest.mark.parametrize("cla", [0x00, 0x80, 0x84])
def test_the_answer_of_a_session_is_fetched_with_any_class_and_the_session_goes_on(host: Make, cla: int) -> None:
    made = host(3, 0x70)
    select(made.card, ISD)
    command = bytes.fromhex(f"8050000008{HOST_CHALLENGE[:8].hex()}")
    assert made.card.transmit(command) == (b"", 0x6120)
    answer, sw = made.card.transmit(bytes((cla, 0xC0, 0x00, 0x00, 0x20)))
    assert (len(answer), sw) == (32, 0x9000)
    assert made.external_authenticate(answer, 0x33) == "9000"
    assert made.card.transmit(made.wrap(bytes.fromhex("80CA9F7F00"))) == (b"", 0x6100 | 56)
    body, sw = made.card.transmit(bytes((cla, 0xC0, 0x00, 0x00, 56)))
    assert made.unwrap(body, sw).hex().startswith("9f7f2a")
    assert made.send("80CA004500")[1] == "9000"


def test_a_locked_card_is_selected_by_part_of_its_own_name_only(host: Make) -> None:
    made = host(2, 0x15)
    made.open(0x01)
    assert [made.send(f"80F080{state}")[1] for state in ("0F", "7F")] == ["9000", "9000"]
    assert select(made.card, ISD[:10])[1] == "9000"
    assert select(made.card, DEBIT[:10])[1] == "6A82"
    assert exchange(made.card, f"00A4040205{DEBIT[:10]}")[1] == "6A82"


def test_a_card_without_t0_answers_at_once_and_keeps_an_answer_for_a_wrong_le(host: Make) -> None:
    made = host(3, 0x70, strict_t0=False)
    made.open(0x33)
    wrapped = made.wrap(bytes.fromhex("80CA9F7F00"))
    body, sw = made.card.transmit(wrapped[:-1] + b"\x08")
    assert (body, sw) == (b"", 0x6C00 | 56)
    body, sw = made.card.transmit(wrapped)
    assert sw == 0x9000
    assert made.unwrap(body, sw).hex().startswith("9f7f2a")
    assert made.send("80CA9F7F00")[1] == "9000"


def test_with_t0_a_secured_command_is_announced_and_fetched_in_parts(host: Make) -> None:
    made = host(3, 0x70)
    made.open(0x33)
    body, sw = made.card.transmit(made.wrap(bytes.fromhex("80CA9F7F00")))
    assert (body, sw) == (b"", 0x6100 | 56)
    assert made.card.transmit(bytes.fromhex("00C00000FF")) == (b"", 0x6C00 | 56)
    first, sw = made.card.transmit(bytes.fromhex("00C0000010"))
    assert (len(first), sw) == (16, 0x6128)
    rest, sw = made.card.transmit(bytes.fromhex("00C0000028"))
    assert made.unwrap(first + rest, sw).hex().startswith("9f7f2a")


def test_a_card_that_was_taken_elsewhere_is_lost(host: Make, tmp_path: Path) -> None:
    made = host(2, 0x15)
    CardStore(tmp_path).insert(SERIAL)
    with pytest.raises(CardLost):
        made.open(0x01)
