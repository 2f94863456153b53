"""Commands of outlets are read whole or refused with every fault named; what they say is never repeated."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.outlet_commands import (
    BundleReceive,
    CommandMessage,
    HandOver,
    NoticeGiven,
    Unreadable,
    command_of,
    key_of,
    parse,
    sender_of,
)

NUMBER = "999001198001010010"
HAND_OVER: dict[str, Any] = {
    "specversion": "1.0",
    "id": "k1",
    "type": "card.hand_over",
    "subject": "card_01kar3x7m2v9q8w4t5y6z0eeee",
    "data": {
        "clerk": "c-17",
        "card_serial": "BL0001",
        "by": "proxy",
        "identity": {"type": "resident_id", "number": NUMBER, "seen": True, "compared": True},
        "proxy": {
            "name": "李四",
            "id_type": "resident_id",
            "id_number": NUMBER,
            "relation": "spouse",
            "letter": "L-1",
            "holder_document": "L-2",
        },
        "fee_receipt": "R-1",
    },
}


def changed(document: dict[str, Any], pointer: str, value: object) -> dict[str, Any]:
    """A document with one field changed; None takes it away."""
    made = deepcopy(document)
    *way, last = pointer.strip("/").split("/")
    place = made
    for name in way:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


def message(**told: Any) -> CommandMessage:
    return CommandMessage(
        **{"key": "k1", "user": "outlet.out_42010601", "routing_key": "out_42010601", "body": b"{}", **told}
    )


def test_a_hand_over_is_read_with_the_papers_of_who_collects() -> None:
    command = command_of(HAND_OVER)
    assert isinstance(command, HandOver)
    assert command.document_number == NUMBER
    assert command.papers == {"mandate": "L-1", "holder_document": "L-2"}
    assert command.agent is not None
    assert command.agent.relation == "spouse"
    assert NUMBER not in repr(command)


def test_a_units_letter_serves_as_its_letter_of_introduction_and_as_its_mandate() -> None:
    command = command_of(changed(HAND_OVER, "data/by", "unit"))
    assert isinstance(command, HandOver)
    assert command.papers == {"introduction_letter": "L-1", "mandate": "L-1", "holder_document": "L-2"}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("data/by", "neighbour"),
        ("data/by", None),
        ("data/clerk", None),
        ("data/clerk", "13800001234"),
        ("data/card_serial", 17),
        ("data/fee_receipt", NUMBER),
        ("data/fee_receipt", "ref 13800001234"),
        ("data/proxy/letter", NUMBER),
        ("data/proxy/holder_document", NUMBER),
        ("subject", f"card_{NUMBER}"),
        ("data/identity", None),
        ("data/identity", "seen"),
        ("data/identity/number", None),
        ("data/identity/seen", False),
        ("data/identity/compared", None),
        ("data/proxy/id_type", "library_card"),
        ("data/proxy/surname", "李"),
        ("data/outlet_id", "out_42010602"),
        ("subject", "app_01kar3x7m2v9q8w4t5y6z0eeee"),
        ("type", "card.destroy"),
        ("data", []),
    ],
)
def test_what_is_not_as_agreed_is_named_by_its_place(pointer: str, value: object) -> None:
    with pytest.raises(Refused) as refused:
        command_of(changed(HAND_OVER, pointer, value))
    assert refused.value.reason_code == "validation-failed"
    if pointer != "type":
        assert pointer in refused.value.en
        assert pointer in refused.value.zh


def test_all_or_a_list_of_cards_was_received() -> None:
    document = {
        "type": "bundle.receive",
        "data": {"bundle_id": "bun_1", "seal_no": "S1", "received": "all", "received_by": "c1"},
    }
    everything = command_of(document)
    assert isinstance(everything, BundleReceive)
    assert (everything.received, everything.seal_intact) == (None, True)
    listed = command_of(changed(changed(document, "data/received", ["card_1"]), "data/damaged", ["card_2"]))
    assert isinstance(listed, BundleReceive)
    assert (listed.received, listed.damaged) == (("card_1",), ("card_2",))
    with pytest.raises(Refused):
        command_of(changed(document, "data/received", ["card 1"]))


def test_a_time_has_its_offset() -> None:
    document = {
        "type": "card.notice_given",
        "subject": "card_1",
        "data": {"method": "sms", "by": "c1", "notified_at": "2026-03-02T09:00:00+08:00"},
    }
    command = command_of(document)
    assert isinstance(command, NoticeGiven)
    assert command.notified_at == datetime(2026, 3, 2, 1, tzinfo=UTC)
    for wrong in ("9999-12-31T23:59:59-12:00", "2026-03-02T09:00:00", "yesterday", 1772413200):
        with pytest.raises(Refused):
            command_of(changed(document, "data/notified_at", wrong))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b'"text"', b"{", b"[" * 60_000])
def test_what_is_no_json_object_cannot_be_read(body: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(body)


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "\\udc00\\ud800"])
@pytest.mark.parametrize("place", ['{"data":{"note":"%s"}}', '{"data":["%s"]}', '{"%s":1}', '{"type":"%s"}'])
def test_what_no_database_keeps_is_refused(place: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse((place % text).encode())
    assert refused.value.reason_code == "validation-failed"
    (refused.value.zh + refused.value.en).encode()


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(rb'{"name":"\ud87e\udc1a"}') == {"name": "\U0002f81a"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1" * 5000])
def test_what_is_no_number_is_no_json(number: str) -> None:
    with pytest.raises(Unreadable):
        parse(f'{{"data":{number}}}'.encode())


@pytest.mark.parametrize("depth", [10, 100, 900, 20_000])
def test_a_message_that_nests_without_end_is_refused(depth: int) -> None:
    with pytest.raises((Refused, Unreadable)):
        parse(('{"data":' + "[" * depth + "]" * depth + "}").encode())


def test_a_message_without_end_is_refused_unread() -> None:
    with pytest.raises(Refused) as refused:
        parse(b'{"a":"' + b"x" * 70_000)
    assert refused.value.reason_code == "too-large"


def test_a_message_is_from_the_outlet_whose_user_sent_it() -> None:
    assert sender_of(message()) == "out_42010601"
    for wrong in ({"user": None}, {"user": "zhika"}, {"user": "outlet.out_42010602"}, {"routing_key": "out_42010602"}):
        with pytest.raises(Refused):
            sender_of(message(**wrong))


@pytest.mark.parametrize("key", [None, "", "x" * 65, "with space", NUMBER, "13800001234"])
def test_a_key_is_a_serial_number_of_the_outlets_own(key: str | None) -> None:
    with pytest.raises(Refused) as refused:
        key_of(message(key=key))
    assert refused.value.reason_code == "idempotency-key-missing"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["by", "clerk", "card_serial", "identity", "proxy", "method", "bundle_id", "received", "reason"]
)
KINDS = st.sampled_from(["card.hand_over", "card.notice_given", "card.return", "bundle.receive", "other"])


@given(KINDS, JSON, st.dictionaries(FIELDS, JSON, max_size=6) | JSON)
def test_whatever_is_sent_is_read_or_refused(kind: str, subject: Any, data: Any) -> None:
    try:
        command_of(parse(json.dumps({"type": kind, "subject": subject, "data": data}).encode()))
    except Refused as error:
        assert error.reason_code == "validation-failed"


@given(st.text(alphabet=st.characters(categories=["Lo"]), min_size=6, max_size=30))
def test_no_refusal_repeats_what_was_sent(secret: str) -> None:
    document = changed(HAND_OVER, "data/identity/number", {"number": secret})
    document["data"][secret] = secret
    document["data"]["clerk"] = secret
    with pytest.raises(Refused) as refused:
        command_of(document)
    assert secret not in str(refused.value)
