"""IPP messages: what is written is read, published bytes come out, broken bytes are refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateways import ipp
from pipeline.gateways.ipp import Attribute, Delimiter, Group, Message, Operation, Syntax

PRINT_JOB = bytes.fromhex(
    "0101" "0002" "00000001" "01"
    "47" "0012" "617474726962757465732d63686172736574" "0005" "7574662d38"
    "48" "001b" "617474726962757465732d6e61747572616c2d6c616e6775616765" "0005" "656e2d7573"
    "45" "000b" "7072696e7465722d757269" "0015" "6970703a2f2f666f6f2e636f6d2f7072696e746572"
    "42" "0008" "6a6f622d6e616d65" "0006" "666f6f626172"
    "22" "0016" "6970702d6174747269627574652d666964656c697479" "0001" "01"
    "02"
    "21" "0006" "636f70696573" "0004" "00000014"
    "44" "0005" "7369646573" "0013" "74776f2d73696465642d6c6f6e672d65646765"
    "03"
)  # fmt: skip
"""A Print-Job request in the manner of RFC 8010, appendix A.1."""

_text = st.text(max_size=40).map(lambda text: text.encode(errors="replace").decode())
_names = st.from_regex(r"[a-z][a-z0-9-]{0,40}", fullmatch=True)
_attributes = st.one_of(
    st.tuples(st.sampled_from([Syntax.INTEGER, Syntax.ENUM]), st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1)),
    st.tuples(st.just(Syntax.BOOLEAN), st.lists(st.booleans(), min_size=1)),
    st.tuples(st.sampled_from([Syntax.TEXT, Syntax.NAME, Syntax.KEYWORD, Syntax.URI]), st.lists(_text, min_size=1)),
    st.tuples(st.sampled_from([0x30, 0x31, 0x33]), st.lists(st.binary(max_size=20), min_size=1)),
)  # fmt: skip
_groups = st.builds(
    Group,
    st.sampled_from([Delimiter.OPERATION, Delimiter.JOB, Delimiter.PRINTER, Delimiter.UNSUPPORTED]),
    st.lists(
        st.tuples(_names, _attributes).map(lambda made: Attribute(made[0], made[1][0], tuple(made[1][1]))), max_size=5
    ).map(tuple),
)
messages = st.builds(
    Message,
    code=st.integers(0, 0xFFFF),
    request_id=st.integers(0, 0x7FFFFFFF),
    groups=st.lists(_groups, max_size=4).map(tuple),
)


@given(messages, st.binary(max_size=50))
def test_what_is_written_is_read_and_the_document_stays_whole(message: Message, document: bytes) -> None:
    assert ipp.decode(ipp.encode(message) + document) == (message, document)


@given(messages, st.data())
def test_a_message_cut_anywhere_is_refused(message: Message, data: st.DataObject) -> None:
    whole = ipp.encode(message)
    with pytest.raises(ValueError, match="IPP"):
        ipp.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        message, rest = ipp.decode(data)
        assert data.endswith(rest)
        assert message.code == int.from_bytes(data[2:4], "big")


def test_the_bytes_are_those_of_the_standard() -> None:
    message, document = ipp.decode(PRINT_JOB + b"document")
    assert document == b"document"
    assert (message.version, message.code, message.request_id) == ((1, 1), Operation.PRINT_JOB, 1)
    (operation,), (job,) = message.grouped(Delimiter.OPERATION), message.grouped(Delimiter.JOB)
    assert operation.text("job-name") == "foobar"
    assert operation.values("ipp-attribute-fidelity") == (True,)
    assert (job.number("copies"), job.text("sides")) == (20, "two-sided-long-edge")
    assert ipp.encode(message) == PRINT_JOB


def test_every_request_begins_with_charset_and_language() -> None:
    asked = ipp.request(Operation.GET_JOBS, 7, Group(Delimiter.OPERATION, (Attribute("limit", Syntax.INTEGER, (1,)),)))
    assert [attribute.name for attribute in asked.groups[0].attributes] == [
        "attributes-charset",
        "attributes-natural-language",
        "limit",
    ]


def test_an_absent_attribute_has_no_value() -> None:
    group = Group(Delimiter.JOB, (Attribute("job-id", Syntax.INTEGER, (4,)),))
    assert group.values("job-name") == ()
    assert group.text("job-name") is None
    assert group.text("job-id") is None
    assert group.number("job-id") == 4


@pytest.mark.parametrize(
    ("syntax", "value"),
    [(Syntax.INTEGER, "1"), (Syntax.INTEGER, True), (Syntax.BOOLEAN, 1), (Syntax.NAME, b"x"), (Syntax.NAME, 1), (0x33, "x")],
)  # fmt: skip
def test_a_value_of_another_syntax_is_refused(syntax: int, value: ipp.Value) -> None:
    message = Message(code=2, request_id=1, groups=(Group(Delimiter.JOB, (Attribute("x", syntax, (value,)),)),))
    with pytest.raises(ValueError, match="does not suit"):
        ipp.encode(message)


@pytest.mark.parametrize("attribute", [Attribute("", Syntax.NAME, ("x",)), Attribute("x", Syntax.NAME, ())])
def test_an_attribute_without_name_or_value_is_refused(attribute: Attribute) -> None:
    with pytest.raises(ValueError, match="a name and a value"):
        ipp.encode(Message(code=2, request_id=1, groups=(Group(Delimiter.JOB, (attribute,)),)))


def test_a_value_too_long_to_be_counted_is_refused() -> None:
    long = Attribute("x", Syntax.NAME, ("x" * 0x8000,))
    with pytest.raises(ValueError, match="32767"):
        ipp.encode(Message(code=2, request_id=1, groups=(Group(Delimiter.JOB, (long,)),)))
