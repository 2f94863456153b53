"""The processors below a secure channel: long plain data, 61xx, 6Cxx and the Le of T=0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization.apdu import Apdu, Channel, Ins


class Line:
    """Gives prepared answers, then 9000, and remembers what it was asked."""

    def __init__(self, *answers: tuple[bytes, int]) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self.asked.append(apdu)
        return self.answers.pop(0) if self.answers else (b"", 0x9000)


@given(st.binary(min_size=256, max_size=1500))
def test_long_plain_data_is_chained(data: bytes) -> None:
    line = Line()
    Channel(line).send(Apdu(0x00, Ins.PUT_KEY, 1, 2, data, le=256))
    *heads, last = line.asked
    assert all(raw[:5] == b"\x10\xd8\x01\x02\xff" and len(raw) == 260 for raw in heads)
    assert last[:4] == b"\x00\xd8\x01\x02"
    assert last[-1] == 0
    assert b"".join(raw[5 : 5 + raw[4]] for raw in line.asked) == data


def test_a_chain_ends_at_the_first_refusal() -> None:
    line = Line((b"", 0x9000), (b"", 0x6A84))
    assert Channel(line).exchange(Apdu(0x80, Ins.STORE_DATA, 0, 0, bytes(600))) == (b"", 0x6A84)
    assert len(line.asked) == 2


def test_a_secured_command_is_never_chained() -> None:
    line = Line()
    with pytest.raises(ValueError, match="not chained"):
        Channel(line).send(Apdu(0x84, Ins.STORE_DATA, 0, 0, bytes(256)))
    assert line.asked == []


def test_data_longer_than_any_command_is_refused() -> None:
    with pytest.raises(ValueError, match="not an APDU"):
        Apdu(0x80, Ins.STORE_DATA, 0, 0, bytes(65536))
    with pytest.raises(ValueError, match="not a short APDU"):
        bytes(Apdu(0x80, Ins.STORE_DATA, 0, 0, bytes(256)))


def test_under_t0_a_command_with_data_has_no_le() -> None:
    line = Line((b"", 0x6103), (b"abc", 0x9000), (b"xyz", 0x9000))
    channel = Channel(line, t0=True)
    assert channel.send(Apdu(0x00, Ins.SELECT, 4, 0, b"\x01", le=256)) == b"abc"
    assert channel.send(Apdu(0x80, Ins.GET_DATA, 0x9F, 0x7F, le=256)) == b"xyz"
    assert [raw.hex().upper() for raw in line.asked] == ["00A404000101", "00C0000003", "80CA9F7F00"]


def test_get_response_too_is_repeated_with_the_right_length() -> None:
    line = Line((b"", 0x6110), (b"", 0x6C02), (b"ab", 0x9000))
    assert Channel(line).send(Apdu(0x84, Ins.GET_DATA, 0, 0x66, b"12345678", le=256)) == b"ab"
    assert [raw.hex().upper() for raw in line.asked[1:]] == ["00C0000010", "00C0000002"]


def test_a_card_that_always_has_more_is_given_up() -> None:
    class Endless:
        asked = 0

        def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
            self.asked += 1
            return b"", 0x6110

    line = Endless()
    assert Channel(line).exchange(Apdu(0x80, Ins.GET_DATA, 0, 0x66, le=256)) == (b"", 0x6110)
    assert line.asked == 257


def test_a_card_that_never_agrees_about_the_length_is_given_up() -> None:
    line = Line((b"", 0x6C02), (b"", 0x6C03))
    assert Channel(line).exchange(Apdu(0x80, Ins.GET_DATA, 0, 0x66, le=256)) == (b"", 0x6C03)
    assert len(line.asked) == 2
