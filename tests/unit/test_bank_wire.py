"""Documents of the bank's dialect: what we write the bank reads as it was meant, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateways.bank_simulated import luhn_digit
from pipeline.gateways.bank_wire import OPERATIONS, document, read_reply, read_statement
from pipeline.person import Agent, IdType, Person
from pipeline.ports import BankReply, Declined, Done, Instruction, Pending
from producers.simulators.bank_documents import read_instruction, write_reply
from tests.support.banks import activating, all_about, freezing, opening

ACCOUNT = Done(account_ref="40000001", card_number="6214670000000000000")
DAY = date(2026, 11, 23)
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
numbers = st.from_regex(r"[0-9]{15,18}", fullmatch=True).map(lambda payload: payload + luhn_digit(payload))
references = st.from_regex(r"[!-~]{1,64}", fullmatch=True)
words = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20)
people = st.builds(
    Person, name=texts, id_type=st.sampled_from(get_args(IdType)), id_number=texts, social_security_number=st.just(""),
    sex=st.sampled_from(["1", "2", "9"]), ethnic=st.just("01"), birth_date=st.dates(), nationality=st.just("CHN"),
    phone=texts, address=texts, occupation=texts, id_valid_from=st.none() | st.dates(), id_valid_to=st.none() | st.dates(),
)  # fmt: skip
agents = st.builds(
    Agent, name=texts, id_type=st.sampled_from(get_args(IdType)), id_number=texts, relation=texts, phone=texts,
    document=st.just(""),
)  # fmt: skip
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "key": keys, "bank_code": st.from_regex(r"[0-9]{5}", fullmatch=True), "branch": words,
    "region": st.from_regex(r"[0-9]{6}", fullmatch=True), "account_ref": references, "card_number": numbers,
    "chip_id": words, "card_serial": words, "issued": st.dates(), "expires": st.dates(), "reason": words,
    "holder": people, "guardian": st.none() | agents,
}  # fmt: skip
instructions: st.SearchStrategy[Instruction] = st.sampled_from(list(OPERATIONS)).flatmap(
    lambda kind: st.builds(kind, **{field.name: BY_NAME[field.name] for field in fields(kind)})
)
replies: st.SearchStrategy[BankReply] = st.one_of(
    st.builds(Done, account_ref=references, card_number=numbers, account_class=st.sampled_from(["I", "II", "III"])),
    st.builds(Declined, code=texts.filter(str.isprintable), text=texts),
    st.builds(Pending, expected_by=st.datetimes(max_value=datetime(2027, 11, 23), timezones=st.just(UTC))),
)


@given(instructions)
def test_the_bank_reads_every_instruction_as_it_was_meant(instruction: Instruction) -> None:
    body = json.dumps(document(instruction), ensure_ascii=False).encode()
    assert read_instruction(instruction.key, body) == instruction


@given(keys, replies)
def test_we_read_every_reply_as_it_was_meant(key: str, reply: BankReply) -> None:
    assert read_reply(json.dumps(write_reply(key, reply)).encode(), key, now=NOW) == reply


@given(st.dictionaries(keys, replies, max_size=5), st.none() | words)
def test_we_read_every_page_of_a_statement_as_it_was_meant(told: dict[str, BankReply], cursor: str | None) -> None:
    items = [write_reply(key, reply) for key, reply in told.items()]
    page = read_statement(
        json.dumps({"date": DAY.isoformat(), "items": items, "next_cursor": cursor}).encode(), DAY, now=NOW
    )
    assert page is not None
    assert (page.replies, page.next_cursor) == (told, cursor)


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_what_is_no_document_is_no_reply(body: bytes) -> None:
    assert read_reply(body, "k", now=NOW) is None
    assert read_statement(body, DAY, now=NOW) is None


@given(st.data())
def test_a_reply_with_a_damaged_field_is_none_or_the_same(data: st.DataObject) -> None:
    told = dict(write_reply("k", ACCOUNT))
    name = data.draw(st.sampled_from(["status", "key", "account_ref", "card_number", "account_class"]))
    told[name] = data.draw(st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(), max_size=2))
    reply = read_reply(json.dumps(told).encode(), "k", activating(ACCOUNT, key="k"), now=NOW)
    assert reply is None or (name == "account_class" and told[name] in ("I", "II", "III"))


def test_an_account_is_opened_by_this_document() -> None:
    guarded = replace(opening(), guardian=Agent(name="李父", id_type="passport", id_number="E1", relation="父"))
    assert document(guarded) == {
        "instruction": "open_account", "bank_code": "95533", "branch": "42010601", "region": "420100",
        "holder": {
            "name": "李梅1", "id_type": "resident_id", "id_number": "999001194900000001", "id_valid_from": "2015-01-01",
            "id_valid_to": "9999-12-31", "sex": "2", "ethnic": "01", "birth_date": "1949-12-31", "nationality": "CHN",
            "phone": "13800000000", "address": "北京市朝阳区", "occupation": "80000",
        },
        "guardian": {"name": "李父", "id_type": "passport", "id_number": "E1", "relation": "父", "phone": ""},
    }  # fmt: skip


def test_an_account_is_frozen_by_this_document() -> None:
    assert document(freezing(ACCOUNT)) == {
        "instruction": "freeze_financial", "bank_code": "95533", "account_ref": "40000001",
        "card_number": "6214670000000000000", "reason": "loss",
    }  # fmt: skip


@pytest.mark.parametrize("instruction", all_about(ACCOUNT), ids=lambda i: OPERATIONS[type(i)])
def test_only_the_account_that_was_named_is_believed_to_be_meant(instruction: Instruction) -> None:
    mine = json.dumps(write_reply(instruction.key, ACCOUNT)).encode()
    other = json.dumps(write_reply(instruction.key, replace(ACCOUNT, account_ref="40000002"))).encode()
    assert read_reply(mine, instruction.key, instruction, now=NOW) == ACCOUNT
    assert read_reply(other, instruction.key, instruction, now=NOW) is None


def test_a_time_without_its_zone_is_no_time() -> None:
    told = {"status": "pending", "key": "k", "expected_by": datetime(2026, 11, 23).isoformat()}
    assert read_reply(json.dumps(told).encode(), "k", now=NOW) is None


@pytest.mark.parametrize(
    "expected_by",
    [
        pytest.param("9999-12-31T23:59:59-12:00", id="beyond the calendar"),
        pytest.param("0001-01-01T00:00:00+14:00", id="before the calendar"),
        pytest.param("2027-11-25T09:00:01Z", id="more than a year ahead"),
        pytest.param(4e18, id="a number"),
    ],
)
def test_a_time_that_no_answer_is_promised_for_is_no_time_and_a_statement_with_it_is_none(expected_by: object) -> None:
    told = {"status": "pending", "key": "k", "expected_by": expected_by}
    assert read_reply(json.dumps(told).encode(), "k", now=NOW) is None
    page = {"date": DAY.isoformat(), "items": [told], "next_cursor": None}
    assert read_statement(json.dumps(page).encode(), DAY, now=NOW) is None


def test_a_promise_is_read_in_any_zone_and_one_that_is_over_too() -> None:
    for said, meant in (
        ("2026-11-23T18:00:00+08:00", NOW.replace(hour=10)),
        ("0001-01-02T00:00:00Z", datetime(1, 1, 2, tzinfo=UTC)),
    ):
        told = {"status": "pending", "key": "k", "expected_by": said}
        reply = read_reply(json.dumps(told).encode(), "k", now=NOW)
        assert isinstance(reply, Pending)
        assert (reply.expected_by, reply.expected_by.tzinfo) == (meant, UTC)


@pytest.mark.parametrize(
    "number",
    [
        "6214670000000000017",
        "1234567890123",
        "621467000000000",
        "62146700000000000000",
        "６２１４６７００００００００００００",
    ],
)
def test_a_card_number_of_a_wrong_length_or_check_digit_is_no_answer(number: str) -> None:
    told = dict(write_reply("k", ACCOUNT)) | {"card_number": number}
    assert read_reply(json.dumps(told).encode(), "k", now=NOW) is None


@pytest.mark.parametrize("code", ["na\x00me", "x\ud800", "a\nb"])
def test_a_refusals_code_that_no_database_can_hold_is_no_answer(code: str) -> None:
    told = {"status": "declined", "key": "k", "code": code, "text": "t"}
    assert read_reply(json.dumps(told).encode(), "k", now=NOW) is None


@pytest.mark.parametrize("key", ["oa-y\x00-1", "x\ud800", "李梅 999001", ""])
def test_a_statement_names_instructions_by_keys_as_we_send_them(key: str) -> None:
    page = {"date": DAY.isoformat(), "items": [write_reply(key, ACCOUNT)], "next_cursor": None}
    assert read_statement(json.dumps(page).encode(), DAY, now=NOW) is None
