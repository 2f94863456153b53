"""Field codecs of the chip, each an encode/decode pair: BCD, ASCII, GB 18030, names, numbers, dates.

Pure; must not know profiles, cards or keys. An encoder raises on overflow and on text it cannot carry: nothing is ever
cut, replaced or transliterated. For every valid value `decode(encode(value)) == value`.
"""

import re
import unicodedata
from datetime import date

from card_personalization.errors import EncodingError

NAME_SEPARATOR = "\u00b7"
IDENTIFIER_ISSUER = bytes.fromhex("D156000005")
IDENTIFIER_BYTES = 16

_DIGITS = re.compile(r"[0-9]*", re.ASCII)
_CARD_NUMBER_BODY = re.compile(r"[0-9A-Z]{8}", re.ASCII)
_CARD_NUMBER_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_CITIZEN_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CITIZEN_CHECKS = "10X98765432"
_MISSPELT_SEPARATORS = "\u2022\u2027\u2219\u22c5\u30fb\uff65\uff0e"


def bcd_encode(digits: str, *, size: int) -> bytes:
    """Exactly `2 * size` decimal digits, two a byte, high nibble first.

    Raises:
        EncodingError: not a digit, or not the right number of them.
    """
    if not _DIGITS.fullmatch(digits):
        raise EncodingError("digits", "holds something other than the digits 0 to 9")
    if len(digits) != 2 * size:
        raise EncodingError("length", f"needs {2 * size} digits, has {len(digits)}")
    return bytes.fromhex(digits)


def bcd_decode(data: bytes) -> str:
    """The digits packed by `bcd_encode`.

    Raises:
        EncodingError: a nibble is not decimal.
    """
    digits = data.hex()
    if not _DIGITS.fullmatch(digits):
        raise EncodingError("digits", "holds a nibble that is not decimal")
    return digits


def text_encode(text: str, *, size: int, charset: str = "gb18030") -> bytes:
    """Text padded with 00 on the right to `size` bytes. `charset` is `gb18030` or `ascii`.

    Raises:
        EncodingError: too long, unencodable, private use, or holding a character the padding would swallow.
    """
    return _encode(text, charset=charset, size=size).ljust(size, b"\0")


def text_decode(data: bytes, *, charset: str = "gb18030") -> str:
    """The text without its padding.

    Raises:
        EncodingError: the bytes are not text in `charset`.
    """
    try:
        return data.rstrip(b"\0").decode(charset)
    except UnicodeDecodeError as error:
        raise EncodingError("charset", f"is not {charset} text") from error


def _encode(text: str, *, charset: str, size: int) -> bytes:
    _refuse_unprintable(text)
    try:
        data = text.encode(charset)
    except UnicodeEncodeError as error:
        raise EncodingError("charset", f"cannot be written in {charset}") from error
    if len(data) > size:
        raise EncodingError("too-long", f"needs {len(data)} bytes, {size} are there")
    return data


def _refuse_unprintable(text: str) -> None:
    categories = {unicodedata.category(character) for character in text}
    if "Co" in categories:
        raise EncodingError("private-use", "holds a private-use character: its glyph differs between systems")
    if categories & {"Cc", "Cs"}:
        raise EncodingError("control", "holds a control character")


def date_encode(day: date) -> bytes:
    """YYYYMMDD in 4 bytes of BCD."""
    return bcd_encode(f"{day.year:04d}{day.month:02d}{day.day:02d}", size=4)


def date_decode(data: bytes) -> date:
    """The day packed by `date_encode`.

    Raises:
        EncodingError: not a date.
    """
    digits = bcd_decode(data)
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError as error:
        raise EncodingError("date", "is not a date") from error


def anniversary(day: date, *, years: int) -> date:
    """The same month and day `years` later; 29 February becomes 28 February where the year has no other."""
    try:
        return day.replace(year=day.year + years)
    except ValueError:
        return day.replace(year=day.year + years, day=28)


def name_encode(name: str, *, size: int, extension_size: int) -> tuple[bytes, bytes]:
    """A name split over 姓名 (tag 09) and 姓名扩展 (tag 4E), both padded with 00.

    The first part takes as many whole characters as fit `size` bytes; a character never straddles (民委发〔2016〕33号
    asks for at least 50 bytes). `extension_size` is 0 where the card has no 4E.

    Raises:
        EncodingError: the name does not fit (with its byte count), is badly written, or cannot be encoded.
    """
    check_name(name)
    total = len(_encode(name, charset="gb18030", size=1 << 16))
    head = b""
    rest = name
    while rest and len(head + rest[0].encode("gb18030")) <= size:
        head += rest[0].encode("gb18030")
        rest = rest[1:]
    tail = rest.encode("gb18030")
    if len(tail) > extension_size:
        raise EncodingError("too-long", f"needs {total} bytes, more than {size} + {extension_size} can hold")
    return head.ljust(size, b"\0"), tail.ljust(extension_size, b"\0")


def name_decode(head: bytes, extension: bytes = b"") -> str:
    """The name put together again.

    Raises:
        EncodingError: the bytes are not GB 18030 text.
    """
    return text_decode(head) + text_decode(extension)


def check_name(name: str) -> None:
    """Refuse a name that is not in the one spelling the chip may carry (民委发〔2016〕33号: separator U+00B7).

    Raises:
        EncodingError: empty, not NFC, another separator, separators out of place, or stray spaces.
    """
    if not name.strip():
        raise EncodingError("empty", "is empty")
    if unicodedata.normalize("NFC", name) != name:
        raise EncodingError("not-nfc", "is not in Unicode normal form C")
    if set(name) & set(_MISSPELT_SEPARATORS):
        raise EncodingError("separator", "is separated by another sign than U+00B7")
    if name != name.strip(NAME_SEPARATOR + " ") or NAME_SEPARATOR * 2 in name or "  " in name:
        raise EncodingError("separator", "has a separator or space at an end, or two in a row")
    if " " in name and any(character >= "\u3400" for character in name):
        raise EncodingError("separator", "has a space between Chinese characters")


def card_number_check(body: str) -> str:
    """The check character of the first 8 characters of a 卡号 (algorithm of GB 11714).

    Raises:
        EncodingError: not 8 characters of 0-9 and A-Z.
    """
    if not _CARD_NUMBER_BODY.fullmatch(body):
        raise EncodingError("form", "does not begin with 8 of 0-9 and A-Z")
    total = sum(int(character, 36) * weight for character, weight in zip(body, _CARD_NUMBER_WEIGHTS, strict=True))
    check = 11 - total % 11
    return {10: "X", 11: "0"}.get(check, str(check))


def check_card_number(number: str) -> None:
    """Refuse a 卡号 that is not 8 characters and their check character.

    Raises:
        EncodingError: wrong form or check character.
    """
    if len(number) != 9:
        raise EncodingError("length", f"has {len(number)} characters, not 9")
    if card_number_check(number[:8]) != number[8]:
        raise EncodingError("check-character", "has a wrong check character")


def citizen_number_check(body: str) -> str:
    """The check character of the first 17 digits of a 公民身份号码 (GB 11643).

    Raises:
        EncodingError: not 17 digits.
    """
    if len(body) != 17 or not _DIGITS.fullmatch(body):
        raise EncodingError("form", "does not begin with 17 digits")
    total = sum(int(digit) * weight for digit, weight in zip(body, _CITIZEN_WEIGHTS, strict=True))
    return _CITIZEN_CHECKS[total % 11]


def identifier_body(*, city: str, serial: bytes) -> bytes:
    """The first 12 bytes of the 卡的识别码: city in BCD, the constant issuer part, the chip's serial (LD/T 32).

    Raises:
        EncodingError: the city is not a prefecture code of 6 digits, or the serial not 4 bytes.
    """
    if len(serial) != 4:
        raise EncodingError("length", "the chip serial is not 4 bytes")
    if city[4:] != "00":
        raise EncodingError("city", "is not the code of a city: it does not end in 00")
    return bcd_encode(city, size=3) + IDENTIFIER_ISSUER + serial
