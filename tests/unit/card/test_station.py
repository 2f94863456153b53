"""A station: what becomes of a blank, whatever happens to it. Given a fault, when personalised, then this verdict."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
from card_bench import Bench

from card_personalization.errors import CardLost, PlanError
from card_personalization.plan import CardOrder
from card_personalization.simulator import CardStore, Fault
from card_personalization.station import Verdict
from card_personalization.transport.base import CardConnection

Make = Callable[..., Bench]
MUTATIONS = range(1, 15)


def updates_seen(bench: Bench) -> int:
    return bench.store._faults["B1"].seen.get("UPDATE RECORD", 0)


def test_a_good_blank_is_written_and_read_back(bench: Make, order: CardOrder) -> None:
    report = bench().personalise(order, "B1")
    assert (report.verdict, report.problem) == (Verdict.VERIFIED, None)
    assert report.card_id is not None
    assert report.card_id.startswith("210100D156000005")
    assert report.atr is not None
    assert report.card_id.endswith(report.atr[-4:].hex().upper())
    assert dict(report.fields) == {
        "identifier": report.fields["identifier"],
        "category": "3",
        "spec_version": "2.00",
        "initialiser": "915600000221010021010001",
        "issued": "2026-01-05",
        "expires": "2036-01-05",
        "card_number": "A0000002X",
        "social_security_number": "11010519491231002X",
        "name": "阿依古丽·买买提",
        "sex": "2",
        "ethnic": "05",
        "birth_place": "110105",
        "birth_date": "1949-12-31",
    }


def test_a_long_name_comes_back_in_one_piece(bench: Make, order: CardOrder) -> None:
    long = replace(order, holder=replace(order.holder, name="阿卜杜热合曼·托合提尼亚孜·𬀩"))
    assert bench().personalise(long, "B1").fields["name"] == "阿卜杜热合曼·托合提尼亚孜·𬀩"


def test_a_report_shows_no_personal_data(bench: Make, order: CardOrder) -> None:
    shown = repr(bench().personalise(order, "B1"))
    assert not any(secret in shown for secret in ("1949", "古丽", "A0000002X", "110105"))


def test_the_same_order_again_is_read_and_not_written(bench: Make, order: CardOrder) -> None:
    first = bench()
    first.personalise(order, "B1")
    again = first.reopened()
    assert again.personalise(order, "B1").verdict is Verdict.VERIFIED
    assert again.recover(order, "B1").verdict is Verdict.VERIFIED
    assert len(list(first.directory.glob("journal/*"))) == 1


def test_an_order_that_breaks_a_rule_touches_no_card(bench: Make, order: CardOrder) -> None:
    made = bench()
    with pytest.raises(PlanError):
        made.personalise(replace(order, card_number="A00000021"), "B1")
    assert not list(made.directory.glob("*/*"))


@pytest.mark.parametrize("kind", ["tear_before", "tear_after", "mute"])
@pytest.mark.parametrize("nth", MUTATIONS)
def test_a_card_torn_at_any_write_is_finished_for_its_order(
    bench: Make, order: CardOrder, other_order: CardOrder, kind: str, nth: int
) -> None:
    torn = bench(Fault("UPDATE RECORD", nth, kind))
    assert torn.personalise(order, "B1").verdict is Verdict.UNKNOWN

    after = torn.reopened()
    state = "unknown-end" if nth == MUTATIONS[-1] else "suspect"
    assert [(a.order_id, a.serial, a.state) for a in after.station.open_attempts()] == [("app_1", "B1", state)]
    assert after.personalise(other_order, "B1").verdict is Verdict.UNKNOWN
    report = after.recover(order, "B1")
    assert report.verdict is Verdict.VERIFIED
    assert report.fields["name"] == order.holder.name
    assert after.station.open_attempts() == ()
    assert after.personalise(other_order, "B1").verdict is Verdict.UNKNOWN
    assert after.recover(order, "B1").verdict is Verdict.VERIFIED


def test_a_lost_last_answer_is_settled_by_reading_alone(bench: Make, order: CardOrder) -> None:
    torn = bench(Fault("UPDATE RECORD", MUTATIONS[-1], "tear_after"))
    torn.personalise(order, "B1")
    torn.recover(order, "B1")
    assert updates_seen(torn) == MUTATIONS[-1]


@pytest.mark.parametrize("at", ["SELECT", "READ RECORD", "GET CHALLENGE", "EXTERNAL AUTHENTICATE", "GET RESPONSE"])
@pytest.mark.parametrize("kind", ["tear_before", "tear_after", "mute", "sw"])
def test_a_fault_before_the_first_write_leaves_the_blank_for_anybody(
    bench: Make, order: CardOrder, other_order: CardOrder, at: str, kind: str
) -> None:
    struck = bench(Fault(at, 1, kind, sw=0x6F00, times=1))
    assert struck.personalise(order, "B1").verdict is Verdict.UNTOUCHED
    after = struck.reopened()
    assert after.recover(order, "B1").verdict is Verdict.UNTOUCHED
    assert after.personalise(other_order, "B1").verdict is Verdict.VERIFIED


@pytest.mark.parametrize("nth", MUTATIONS)
def test_memory_that_fails_for_ever_spoils_the_blank(
    bench: Make, order: CardOrder, other_order: CardOrder, nth: int
) -> None:
    broken = bench(Fault("UPDATE RECORD", nth, "sw", sw=0x6581))
    report = broken.personalise(order, "B1")
    assert report.verdict is Verdict.SPOILED
    assert report.problem is not None
    assert "6581" in report.problem
    after = broken.reopened()
    assert after.station.open_attempts() == ()
    assert after.recover(order, "B1").verdict is Verdict.SPOILED
    assert after.personalise(other_order, "B1").verdict is Verdict.SPOILED


def test_one_failing_write_is_begun_again_on_the_same_card(bench: Make, order: CardOrder) -> None:
    hiccup = bench(Fault("UPDATE RECORD", 3, "sw", times=1))
    assert hiccup.personalise(order, "B1").verdict is Verdict.VERIFIED
    assert updates_seen(hiccup) == 3 + MUTATIONS[-1]


def test_a_card_lost_while_read_back_is_verified_later_without_writing(bench: Make, order: CardOrder) -> None:
    lost = bench(Fault("READ RECORD", 16, "tear_before"))
    assert lost.personalise(order, "B1").verdict is Verdict.UNKNOWN
    assert [attempt.state for attempt in lost.station.open_attempts()] == ["personalised"]
    assert lost.recover(order, "B1").verdict is Verdict.VERIFIED
    assert updates_seen(lost) == MUTATIONS[-1]


def test_a_card_torn_too_often_is_spoiled(bench: Make, order: CardOrder) -> None:
    torn = bench(Fault("UPDATE RECORD", 3, "tear_before"), Fault("UPDATE RECORD", 5, "tear_before"))
    assert torn.personalise(order, "B1").verdict is Verdict.UNKNOWN
    assert torn.recover(order, "B1").verdict is Verdict.UNKNOWN
    assert torn.recover(order, "B1").verdict is Verdict.SPOILED


def test_personalising_again_finishes_what_was_begun(bench: Make, order: CardOrder) -> None:
    torn = bench(Fault("UPDATE RECORD", 5, "tear_after"))
    torn.personalise(order, "B1")
    assert torn.personalise(order, "B1").verdict is Verdict.VERIFIED


def test_a_card_that_carries_somebody_else_is_never_written(
    bench: Make, order: CardOrder, other_order: CardOrder
) -> None:
    made = bench()
    made.personalise(order, "B1")
    for entry in made.directory.glob("journal/*"):
        entry.unlink()
    before = made.store.inspect("B1")
    report = made.personalise(other_order, "B1")
    assert report.verdict is Verdict.UNKNOWN
    assert report.problem == "the card carries somebody else's data"
    assert made.store.inspect("B1") == before


def test_another_card_in_the_reader_is_noticed(bench: Make, order: CardOrder) -> None:
    torn = bench(Fault("UPDATE RECORD", 5, "tear_after"))
    torn.personalise(order, "B1")
    report = torn.recover(order, "B1", lambda: torn.store.insert("B2"))
    assert report.verdict is Verdict.UNKNOWN
    assert "another card" in str(report.problem)
    assert torn.recover(order, "B1").verdict is Verdict.VERIFIED


def test_a_card_swapped_before_the_read_back_is_noticed(bench: Make, order: CardOrder) -> None:
    made = bench()
    serials = iter(["B1", "B2"])
    report = made.personalise(order, "B1", lambda: made.store.insert(next(serials)))
    assert report.verdict is Verdict.UNKNOWN


def test_a_wrong_key_costs_one_try_a_call_and_blocks_in_the_end(bench: Make, order: CardOrder) -> None:
    made = bench()
    foreign = CardStore(made.directory / "foreign", masters={0: bytes(range(0x40, 0x50)), 4: bytes(range(16))})
    reports = [made.personalise(order, "B9", lambda: foreign.insert("B9")) for _ in range(4)]
    assert [report.keys_refused for report in reports] == [True, True, True, False]
    assert [report.verdict for report in reports] == [
        Verdict.UNTOUCHED,
        Verdict.UNTOUCHED,
        Verdict.SPOILED,
        Verdict.SPOILED,
    ]
    assert "refused" in (made.directory / "journal" / "B9.1.jsonl").read_text()
    assert made.recover(order, "B9").verdict is Verdict.SPOILED


def test_a_chip_that_signs_with_another_key_is_found_before_it_is_written(bench: Make, order: CardOrder) -> None:
    made = bench()
    foreign = CardStore(made.directory / "foreign", masters={0: bytes(range(16)), 4: bytes(range(0x50, 0x60))})
    report = made.personalise(order, "B9", lambda: foreign.insert("B9"))
    assert (report.verdict, report.keys_refused) == (Verdict.UNTOUCHED, True)
    assert "IRK" in str(report.problem)
    tries = foreign.inspect("B9").keys
    assert tries[4].left == foreign.inspect("untouched").keys[4].left


@pytest.mark.parametrize(("version", "said"), [("1.00", "name_extension")])
def test_a_chip_with_other_records_than_the_profile_is_left_alone(
    bench: Make, order: CardOrder, version: str, said: str
) -> None:
    made = bench()
    foreign = CardStore(made.directory / "foreign", version=version)
    report = made.personalise(order, "B9", lambda: foreign.insert("B9"))
    assert report.verdict is Verdict.UNTOUCHED
    assert said in str(report.problem)


def test_a_blank_that_goes_by_its_chip_serial_must_be_that_chip(bench: Make, order: CardOrder) -> None:
    made = bench()
    report = made.personalise(order, "0000000A", lambda: made.store.insert("0000000B"))
    assert report.verdict is Verdict.UNTOUCHED
    assert "0000000B" in str(report.problem)
    assert made.personalise(order, "0000000A").verdict is Verdict.VERIFIED


def test_no_card_in_the_reader_is_no_harm(bench: Make, order: CardOrder) -> None:
    def empty() -> CardConnection:
        raise CardLost("no card")

    made = bench()
    assert made.personalise(order, "B1", empty).verdict is Verdict.UNTOUCHED
    assert made.recover(order, "B1", empty).verdict is Verdict.UNKNOWN


def test_the_journal_holds_no_data_and_is_ahead_of_the_card(bench: Make, order: CardOrder) -> None:
    torn = bench(Fault("UPDATE RECORD", 2, "tear_before"))
    torn.personalise(order, "B1")
    text = (torn.directory / "journal" / "B1.1.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert [(e["event"], e.get("step")) for e in entries] == [
        ("opened", None),
        ("sent", "update EF05/1"),
        ("sent", "update EF05/2"),
        ("answered", "update EF05/1"),
        ("sent", "update EF05/3"),
    ]
    assert not any(secret in text for secret in ("11010519491231002X", "A0000002X", "210100D156", "313130"))


def test_a_changed_expiry_shows_in_the_read_back_by_name(bench: Make, order: CardOrder) -> None:
    made = bench()
    made.personalise(order, "B1")
    report = made.personalise(replace(order, expires=date(2037, 1, 5)), "B1")
    assert report.verdict is Verdict.UNKNOWN
    assert report.problem == "the card was verified before and now holds something else"
