"""The command as a value, status words by name, and the processor that hides 61xx and 6Cxx (ISO/IEC 7816-3, -4).

Must not know files, keys or persons. Layers, outermost first: `Channel` (raises on unexpected status words),
`Responses` (61xx, 6Cxx), then whatever connection is below.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from card_personalization.errors import ApduError

SW_OK = 0x9000
SW_AUTHENTICATION_FAILED = 0x6300
SW_BLOCKED = 0x6983
SW_FILE_NOT_FOUND = 0x6A82
SW_RECORD_NOT_FOUND = 0x6A83

_MORE_DATA = 0x61
_WRONG_LE = 0x6C
_MAX_SHORT = 255


class Ins(IntEnum):
    """Instruction bytes used on the social security application."""

    VERIFY = 0x20
    CHANGE_PIN = 0x5E
    EXTERNAL_AUTHENTICATE = 0x82
    GET_CHALLENGE = 0x84
    SELECT = 0xA4
    READ_RECORD = 0xB2
    GET_RESPONSE = 0xC0
    UPDATE_RECORD = 0xDC


@dataclass(frozen=True, slots=True, repr=False)
class Apdu:
    """A short command APDU. Its repr shows header and lengths only: the body may be personal data.

    `le` is None (no answer body wanted) or 1..256, where 256 is sent as 00.
    """

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None

    def __post_init__(self) -> None:
        if len(self.data) > _MAX_SHORT or (self.le is not None and not 1 <= self.le <= _MAX_SHORT + 1):
            raise ValueError("not a short APDU")

    def __bytes__(self) -> bytes:
        body = bytes((len(self.data),)) + self.data if self.data else b""
        tail = b"" if self.le is None else bytes((self.le & 0xFF,))
        return bytes((self.cla, self.ins, self.p1, self.p2)) + body + tail

    def __repr__(self) -> str:
        header = bytes((self.cla, self.ins, self.p1, self.p2)).hex().upper()
        return f"Apdu({header}, lc={len(self.data)}, le={self.le})"


def tries_left(sw: int) -> int | None:
    """The x of 63Cx, or None for any other status word."""
    return sw & 0x0F if sw & 0xFFF0 == 0x63C0 else None


class Transmitter(Protocol):
    """What a processor stands on: bytes of one command in, body and status word out."""

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]: ...


@dataclass(slots=True)
class Responses:
    """Fetches what 61xx announces and repeats the identical command with the Le that 6Cxx asks for."""

    below: Transmitter
    sent: int = 0

    def transmit(self, apdu: Apdu) -> tuple[bytes, int]:
        """The whole answer body and the final status word.

        Raises:
            CardLost: from the connection below.
        """
        body, sw = self._raw(apdu)
        if sw >> 8 == _WRONG_LE:
            body, sw = self._raw(replace(apdu, le=_le(sw)))
        while sw >> 8 == _MORE_DATA:
            more, sw = self._raw(Apdu(apdu.cla & 0x03, Ins.GET_RESPONSE, 0, 0, le=_le(sw)))
            body += more
        return body, sw

    def _raw(self, apdu: Apdu) -> tuple[bytes, int]:
        self.sent += 1
        return self.below.transmit(bytes(apdu))


def _le(sw: int) -> int:
    return sw & 0xFF or _MAX_SHORT + 1


class Channel:
    """Commands to one powered card; counts the APDUs that went over the line."""

    __slots__ = ("_responses",)

    def __init__(self, connection: Transmitter) -> None:
        self._responses = Responses(connection)

    @property
    def sent(self) -> int:
        """APDUs transmitted so far, GET RESPONSE and repetitions included."""
        return self._responses.sent

    def exchange(self, apdu: Apdu) -> tuple[bytes, int]:
        """The answer as it is, for callers that judge the status word themselves.

        Raises:
            CardLost: no answer.
        """
        return self._responses.transmit(apdu)

    def send(self, apdu: Apdu, *, allowed: tuple[int, ...] = (SW_OK,)) -> bytes:
        """The body of an answer whose status word is allowed.

        Raises:
            ApduError: any other status word.
            CardLost: no answer.
        """
        body, sw = self.exchange(apdu)
        if sw not in allowed:
            raise ApduError(body, sw)
        return body
