"""A short command taken apart, the status words a card answers with, and its way to say no (ISO/IEC 7816-3 and -4).

Must not know applications, keys or the line.
"""

from __future__ import annotations

from dataclasses import dataclass

OK = 0x9000
AUTHENTICATION_FAILED = 0x6300
WRONG_LENGTH = 0x6700
CHANNEL_NOT_SUPPORTED = 0x6881
MESSAGING_NOT_SUPPORTED = 0x6882
WRONG_STRUCTURE = 0x6981
NO_RIGHTS = 0x6982
BLOCKED = 0x6983
CONDITIONS = 0x6985
NO_FILE_SELECTED = 0x6986
MESSAGING_MISSING = 0x6987
MESSAGING_WRONG = 0x6988
WRONG_DATA = 0x6A80
FILE_NOT_FOUND = 0x6A82
RECORD_NOT_FOUND = 0x6A83
WRONG_PARAMETERS = 0x6A86
KEY_NOT_FOUND = 0x6A88
REFERENCE_NOT_FOUND = 0x6A88
WRONG_OFFSET = 0x6B00
UNKNOWN_INS = 0x6D00
UNKNOWN_CLA = 0x6E00

Answer = tuple[bytes, int]

_SECURED = 0x04
_LOGICAL_CHANNEL = 0x03


class Refused(Exception):
    """The card does not carry the command out; nothing that it changed stays changed."""

    def __init__(self, sw: int) -> None:
        super().__init__(f"status word {sw:04X}")
        self.sw = sw


@dataclass(frozen=True, slots=True)
class Command:
    """A short command; `le` is the number of bytes wanted (256 for 00) or None without Le."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes
    le: int | None

    @property
    def secured(self) -> bool:
        """Whether the class announces secure messaging."""
        return bool(self.cla & _SECURED)

    @property
    def header(self) -> bytes:
        """CLA, INS, P1, P2."""
        return bytes((self.cla, self.ins, self.p1, self.p2))

    @property
    def p1p2(self) -> int:
        """Both parameters as one number, as GET DATA means them."""
        return self.p1 << 8 | self.p2


def parse(raw: bytes) -> Command:
    """Take a command apart.

    Raises:
        Refused: 6700, its lengths do not agree; 6881, a logical channel other than the basic one.
    """
    header, body = raw[:4], raw[4:]
    if len(header) < 4:
        raise Refused(WRONG_LENGTH)
    cla, ins, p1, p2 = header
    if cla & _LOGICAL_CHANNEL:
        raise Refused(CHANNEL_NOT_SUPPORTED)
    if len(body) <= 1:
        return Command(cla, ins, p1, p2, b"", (body[0] or 256) if body else None)
    size = body[0]
    data, rest = body[1 : 1 + size], body[1 + size :]
    if size == 0 or len(data) != size or len(rest) > 1:
        raise Refused(WRONG_LENGTH)
    return Command(cla, ins, p1, p2, data, (rest[0] or 256) if rest else None)
