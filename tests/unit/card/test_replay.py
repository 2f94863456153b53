"""A recorded session as a test double."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization.apdu import Apdu, Channel
from card_personalization.errors import CardLost
from card_personalization.transport.replay import DumpDiffers, RecordingConnection, ReplayConnection

DUMP = """
# a card that fetches its answer, then falls silent
ATR 3B6D0000008100000186604201C0FFEE01
> 00B2080400
< 6102
> 00C0000002
< CAFE9000
> 00B2090400
!
ATR 3B6D0000008100000186604201C0FFEE01
"""
READ = Apdu(0x00, 0xB2, 8, 4, le=256)


def test_a_dump_answers_as_the_card_did() -> None:
    card = ReplayConnection(DUMP)
    channel = Channel(card)
    assert card.atr.hex().endswith("c0ffee01")
    assert channel.send(READ) == b"\xca\xfe"
    with pytest.raises(CardLost):
        channel.send(Apdu(0x00, 0xB2, 9, 4, le=256))
    card.reset()
    assert card.finished


def test_another_command_than_recorded_names_the_line() -> None:
    with pytest.raises(DumpDiffers, match="line 4"):
        Channel(ReplayConnection(DUMP)).send(Apdu(0x00, 0xB2, 7, 4, le=256))


def test_going_on_after_the_end_is_noticed() -> None:
    card = ReplayConnection("ATR 3B00")
    assert card.finished
    with pytest.raises(DumpDiffers, match="the end"):
        card.transmit(b"\x00\xb2\x08\x04\x00")


@given(st.lists(st.tuples(st.binary(min_size=4, max_size=20), st.binary(max_size=20), st.integers(0, 0xFFFF))))
def test_what_is_recorded_plays_back(exchanges: list[tuple[bytes, bytes, int]]) -> None:
    original = "ATR 3B00\n" + "".join(
        f"> {apdu.hex().upper()}\n< {(body + sw.to_bytes(2, 'big')).hex().upper()}\n" for apdu, body, sw in exchanges
    )
    lines: list[str] = []
    recorder = RecordingConnection(ReplayConnection(original), lines.append)
    for apdu, body, sw in exchanges:
        assert recorder.transmit(apdu) == (body, sw)
    assert "".join(lines) == original


def test_a_lost_card_is_recorded_as_one() -> None:
    lines: list[str] = []
    recorder = RecordingConnection(ReplayConnection("ATR 3B00\n> 00B2080400\n!\nATR 3B01"), lines.append)
    with pytest.raises(CardLost):
        recorder.transmit(b"\x00\xb2\x08\x04\x00")
    recorder.reset()
    assert lines == ["ATR 3B00\n", "> 00B2080400\n", "!\n", "ATR 3B01\n"]
