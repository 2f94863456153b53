"""What a result code of PC/SC means: by code, never by text."""

from __future__ import annotations

import pytest

from card_personalization.errors import (
    CardLost,
    NoUsableCard,
    ReaderBusy,
    ReaderError,
    ReaderGone,
    ServiceDown,
    StaleHandle,
)
from card_personalization.transport.pcsc import failure

CODES = {
    0x8010000C: NoUsableCard,
    0x80100066: NoUsableCard,
    0x80100067: NoUsableCard,
    0x8010000B: ReaderBusy,
    0x80100016: CardLost,
    0x80100069: CardLost,
    0x80100068: CardLost,
    0x8010001D: ServiceDown,
    0x8010001E: ServiceDown,
    0x80100013: ServiceDown,
    0x80100003: StaleHandle,
    0x80100009: ReaderGone,
    0x80100017: ReaderGone,
    0x8010002E: ReaderGone,
    0x80100001: CardLost,
}


@pytest.mark.parametrize("code", CODES, ids="{:08X}".format)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_code_is_told_apart_whichever_sign_it_comes_with(code: int, signed: bool) -> None:
    error = failure("Encoder 0", code - (1 << 32) if signed else code)
    assert type(error) is CODES[code]
    assert f"{code:08X}" in str(error)


def test_every_failure_counts_as_a_lost_card() -> None:
    """So that work which was cut short is never taken for work not begun."""
    assert all(issubclass(kind, CardLost) for kind in CODES.values())


@pytest.mark.parametrize("kind", ReaderError.__subclasses__())
def test_a_reader_error_says_which_reader_and_what_to_do_in_both_languages(kind: type[ReaderError]) -> None:
    text = str(kind("Encoder 0"))
    assert text.startswith("Encoder 0: ")
    chinese, _, english = text.removeprefix("Encoder 0: ").partition(" / ")
    assert any("一" <= letter <= "鿿" for letter in chinese)
    assert english.isascii()
    assert kind.zh != ReaderError.zh
    assert kind.en != ReaderError.en
