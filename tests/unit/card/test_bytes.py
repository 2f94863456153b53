"""TLV, APDU, ATR: the layers that know bytes only."""

import contextlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization import tlv
from card_personalization.apdu import Apdu, Channel, tries_left
from card_personalization.atr import Atr
from card_personalization.errors import ApduError, EncodingError, UnknownCard
from card_personalization.transport.tracing import TRACE, TracedConnection


class Scripted:
    """A connection that gives prepared answers and remembers what it was asked."""

    atr = b""

    def __init__(self, *answers: tuple[bytes, int]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self.asked.append(apdu.hex().upper())
        return self._answers.pop(0)

    def reset(self) -> None: ...

    def close(self) -> None: ...


@given(st.integers(1, 255), st.binary(max_size=255))
def test_a_record_comes_back_as_it_was(tag: int, value: bytes) -> None:
    assert tlv.decode(tlv.encode(tag, value)) == (tag, value)


@pytest.mark.parametrize("record", ["", "01", "010200", "01020000FF"])
def test_a_record_whose_length_disagrees_is_refused(record: str) -> None:
    with pytest.raises(EncodingError):
        tlv.decode(bytes.fromhex(record))


def test_an_inner_tag_of_two_bytes_is_found() -> None:
    fci = bytes.fromhex("6F0A8402AABBA5049F0C0101")
    assert tlv.find(fci, 0x9F0C) == b"\x01"
    assert tlv.find(fci, 0x9F0D) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_searched_or_refused(data: bytes) -> None:
    with contextlib.suppress(EncodingError):
        tlv.find(data, 0x9F0C)


def test_61xx_is_fetched_and_put_together() -> None:
    below = Scripted((b"", 0x6103), (b"abc", 0x6102), (b"de", 0x9000))
    channel = Channel(below)
    assert channel.send(Apdu(0, 0xA4, 4, 0, b"\x01")) == b"abcde"
    assert below.asked == ["00A404000101", "00C0000003", "00C0000002"]
    assert channel.sent == 3


def test_6cxx_repeats_the_identical_command_with_the_right_length() -> None:
    below = Scripted((b"", 0x6C04), (b"abcd", 0x9000))
    assert Channel(below).send(Apdu(0, 0xB2, 8, 0, le=256)) == b"abcd"
    assert below.asked == ["00B2080000", "00B2080004"]


def test_an_unexpected_status_word_raises_with_it() -> None:
    with pytest.raises(ApduError, match="6A82") as caught:
        Channel(Scripted((b"", 0x6A82))).send(Apdu(0, 0xA4, 0, 0))
    assert caught.value.sw == 0x6A82


def test_an_apdu_never_shows_its_body() -> None:
    assert repr(Apdu(0, 0xDC, 1, 4, b"secret")) == "Apdu(00DC0104, lc=6, le=None)"


def test_tries_are_read_from_63cx_only() -> None:
    assert tries_left(0x63C2) == 2
    assert tries_left(0x6300) is None


def test_an_atr_tells_serial_and_factor() -> None:
    atr = Atr.parse(bytes.fromhex("3B6D000000815A4B318660420100000001"))
    assert atr.serial.hex() == "00000001"
    assert atr.factor.hex() == "8660420100000001"


@pytest.mark.parametrize("raw", ["", "3B00", "3B6E000000815A4B318660420100000001", "3B6D000000815A4B3186604201000000"])
def test_a_foreign_atr_is_refused(raw: str) -> None:
    with pytest.raises(UnknownCard):
        Atr.parse(bytes.fromhex(raw))


def test_a_trace_shows_no_body_of_an_update_or_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    connection = TracedConnection(Scripted((b"\xaa\xbb", 0x9000)))
    with caplog.at_level(TRACE, "card_personalization.apdu"):
        connection.transmit(bytes.fromhex("00DC0104021234"))
    assert "00DC0104 [3 B] -> 2 B 9000" in caplog.text
    assert "1234" not in caplog.text
    assert "aabb" not in caplog.text.lower()


def test_ordinary_debugging_traces_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "card_personalization.apdu"):
        TracedConnection(Scripted((b"", 0x9000))).transmit(bytes.fromhex("00A40000023F00"))
    assert caplog.text == ""
