"""Field codecs: published examples, round trips, and what they refuse."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization import encoding
from card_personalization.errors import EncodingError

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Co", "Cn")), max_size=12)


@pytest.mark.parametrize(
    ("body", "check"),
    [("B0000001", "9"), ("X0000001", "9"), ("A0000002", "X"), ("A0000007", "0"), ("A1234567", "4"), ("GZ000123", "4")],
)
def test_card_number_check_character_follows_the_published_examples(body: str, check: str) -> None:
    assert encoding.card_number_check(body) == check


def test_citizen_number_check_character_follows_the_published_examples() -> None:
    assert encoding.citizen_number_check("11010519491231002") == "X"
    assert encoding.citizen_number_check("31011519900101123") == "2"


def test_a_name_that_fits_leaves_the_extension_empty() -> None:
    head, tail = encoding.name_encode("阿依古丽·买买提", size=30, extension_size=20)
    assert head.hex().upper() == "B0A2D2C0B9C5C0F6A1A4C2F2C2F2CCE1" + "00" * 14
    assert tail == bytes(20)


def test_a_character_never_straddles_the_two_parts_of_a_name() -> None:
    head, tail = encoding.name_encode("阿卜杜热合曼·托合提尼亚孜·𬀩", size=30, extension_size=20)
    assert head[26:] == bytes.fromhex("A1A40000")
    assert tail == bytes.fromhex("99318739") + bytes(16)


def test_a_name_too_long_for_the_chip_is_refused_with_its_byte_count() -> None:
    with pytest.raises(EncodingError, match="54 bytes"):
        encoding.name_encode("阿卜杜热合曼·托合提尼亚孜·玉素甫江·买买提依明·阿不", size=30, extension_size=20)


@pytest.mark.parametrize(("character", "code"), [("𬀩", "99318739"), ("㛃", "8230B731"), ("䶮", "FE9F")])
def test_rare_characters_keep_their_gb18030_code(character: str, code: str) -> None:
    assert encoding.text_encode(character, size=4).hex().upper() == code.ljust(8, "0")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "empty"),
        ("阿不都•买买提", "separator"),
        ("·阿不都", "separator"),
        ("阿不都··买买提", "separator"),
        ("张\ue123", "private-use"),
        ("张\x00", "control"),
        ("e\u0301", "not-nfc"),
    ],
)
def test_a_badly_written_name_is_refused(name: str, code: str) -> None:
    with pytest.raises(EncodingError) as caught:
        encoding.name_encode(name, size=30, extension_size=20)
    assert caught.value.code == code


@given(TEXT)
def test_text_comes_back_as_it_was(text: str) -> None:
    assert encoding.text_decode(encoding.text_encode(text, size=60)) == text


@given(st.text("赵钱孙李𬀩㛃䶮A", min_size=1, max_size=14))
def test_names_that_fit_come_back_as_they_were(name: str) -> None:
    try:
        parts = encoding.name_encode(name, size=30, extension_size=20)
    except EncodingError as error:
        assert error.code == "too-long"
    else:
        assert tuple(map(len, parts)) == (30, 20)
        assert encoding.name_decode(*parts) == name


@given(st.text("0123456789", min_size=0, max_size=24).filter(lambda digits: len(digits) % 2 == 0))
def test_bcd_comes_back_as_it_was(digits: str) -> None:
    assert encoding.bcd_decode(encoding.bcd_encode(digits, size=len(digits) // 2)) == digits


@pytest.mark.parametrize("digits", ["1", "12a4", "١٢", "+1", "1234"])
def test_bcd_refuses_anything_but_the_right_number_of_digits(digits: str) -> None:
    with pytest.raises(EncodingError):
        encoding.bcd_encode(digits, size=1)


@given(st.dates(min_value=date(1000, 1, 1)))
def test_dates_come_back_as_they_were(day: date) -> None:
    assert encoding.date_decode(encoding.date_encode(day)) == day


def test_a_card_issued_on_29_february_ends_on_28_february() -> None:
    assert encoding.anniversary(date(2028, 2, 29), years=10) == date(2038, 2, 28)
    assert encoding.anniversary(date(2026, 1, 5), years=10) == date(2036, 1, 5)
