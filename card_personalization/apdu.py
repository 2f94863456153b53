"""The command as a value, status words by name, and the processors between a command and a connection (ISO/IEC 7816-3, -4).

Must not know files, keys or persons. Layers, outermost first: a `Commands` that raises on unexpected status words (`Channel`, or
a secure channel around one), `Chaining` (long plain data), `Responses` (61xx, 6Cxx, the Le of T=0), then whatever connection is
below. What a secure channel has wrapped passes the layers below as it is: it is repeated identically and never wrapped again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from card_personalization.errors import ApduError

SW_OK = 0x9000
SW_AUTHENTICATION_FAILED = 0x6300
SW_SECURITY_STATUS = 0x6982
SW_BLOCKED = 0x6983
SW_CONDITIONS = 0x6985
SW_SM_MISSING = 0x6987
SW_SM_WRONG = 0x6988
SW_FILE_NOT_FOUND = 0x6A82
SW_RECORD_NOT_FOUND = 0x6A83
SW_DATA_NOT_FOUND = 0x6A88
SW_INS = 0x6D00

CLA_SECURED = 0x04
CLA_CHAINED = 0x10
MAX_SHORT = 255
"""Bytes of data in a short command."""
LE_ALL = 256

_CLA_ANY_SECURED = 0x0C
_CLA_LOGICAL_CHANNEL = 0x03
_MORE_DATA = 0x61
_WRONG_LE = 0x6C
_MAX_DATA = 0xFFFF
_MAX_RESPONSES = 256


class Ins(IntEnum):
    """Instruction bytes of the social security application, GlobalPlatform and EMV."""

    VERIFY = 0x20
    INITIALIZE_UPDATE = 0x50
    CHANGE_PIN = 0x5E
    EXTERNAL_AUTHENTICATE = 0x82
    GET_CHALLENGE = 0x84
    INTERNAL_AUTHENTICATE = 0x88
    SELECT = 0xA4
    GET_PROCESSING_OPTIONS = 0xA8
    GENERATE_AC = 0xAE
    READ_RECORD = 0xB2
    GET_RESPONSE = 0xC0
    GET_DATA = 0xCA
    PUT_KEY = 0xD8
    UPDATE_RECORD = 0xDC
    STORE_DATA = 0xE2
    DELETE = 0xE4
    INSTALL = 0xE6
    SET_STATUS = 0xF0
    GET_STATUS = 0xF2


@dataclass(frozen=True, slots=True, repr=False)
class Apdu:
    """A command. Its repr shows header and lengths only: the body may be personal data.

    `le` is None (no answer body wanted) or 1..256, where 256 is sent as 00. More than 255 bytes of data are for `Chaining`; only a
    short command has bytes.
    """

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None

    def __post_init__(self) -> None:
        if len(self.data) > _MAX_DATA or (self.le is not None and not 1 <= self.le <= LE_ALL):
            raise ValueError("not an APDU")

    def __bytes__(self) -> bytes:
        if len(self.data) > MAX_SHORT:
            raise ValueError("not a short APDU")
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


class Commands(Protocol):
    """Commands to one powered card, in the clear or secured."""

    def exchange(self, apdu: Apdu) -> tuple[bytes, int]:
        """The answer as it is, for callers that judge the status word themselves.

        Raises:
            CardLost: no answer.
            ChannelBroken: the channel is a secure one and has come to its end.
        """
        ...

    def send(self, apdu: Apdu, *, allowed: tuple[int, ...] = (SW_OK,)) -> bytes:
        """The body of an answer whose status word is allowed.

        Raises:
            ApduError: any other status word.
            CardLost, ChannelBroken: as `exchange`.
        """
        body, sw = self.exchange(apdu)
        if sw not in allowed:
            raise ApduError(body, sw)
        return body


@dataclass(slots=True)
class Responses:
    """Fetches what 61xx announces and repeats the identical command with the Le that 6Cxx asks for.

    Under T=0 (`t0`) a command with data is sent without Le, as the protocol has no place for both: the card then announces its
    answer by 61xx (ISO/IEC 7816-3 12.2).
    """

    below: Transmitter
    t0: bool = False
    sent: int = 0

    def transmit(self, apdu: Apdu) -> tuple[bytes, int]:
        """The whole answer body and the final status word; 61xx remains only where it has no end.

        Raises:
            CardLost: from the connection below.
        """
        if self.t0 and apdu.data:
            apdu = replace(apdu, le=None)
        body, sw = self._exact(apdu)
        for _ in range(_MAX_RESPONSES):
            if sw >> 8 != _MORE_DATA:
                break
            more, sw = self._exact(Apdu(apdu.cla & _CLA_LOGICAL_CHANNEL, Ins.GET_RESPONSE, 0, 0, le=_le(sw)))
            body += more
        return body, sw

    def _exact(self, apdu: Apdu) -> tuple[bytes, int]:
        body, sw = self._raw(apdu)
        if sw >> 8 == _WRONG_LE:
            body, sw = self._raw(replace(apdu, le=_le(sw)))
        return body, sw

    def _raw(self, apdu: Apdu) -> tuple[bytes, int]:
        self.sent += 1
        return self.below.transmit(bytes(apdu))


def _le(sw: int) -> int:
    return sw & 0xFF or LE_ALL


@dataclass(slots=True)
class Chaining:
    """Sends plain data longer than a short command in several, each but the last with the chaining bit (ISO/IEC 7816-4 5.3.3)."""

    below: Responses

    def transmit(self, apdu: Apdu) -> tuple[bytes, int]:
        """The answer to the last command, or to the first one that is refused.

        Raises:
            CardLost: from the connection below.
            ValueError: a secured command is too long; cards differ in how they would take it, so it is cut before it is secured.
        """
        pieces = [apdu.data[at : at + MAX_SHORT] for at in range(0, len(apdu.data), MAX_SHORT)]
        if len(pieces) > 1 and apdu.cla & _CLA_ANY_SECURED:
            raise ValueError("a secured command is not chained")
        for piece in pieces[:-1]:
            body, sw = self.below.transmit(replace(apdu, cla=apdu.cla | CLA_CHAINED, data=piece, le=None))
            if sw != SW_OK:
                return body, sw
        return self.below.transmit(replace(apdu, data=pieces[-1]) if len(pieces) > 1 else apdu)


class Channel(Commands):
    """Commands in the clear; counts the APDUs that went over the line."""

    __slots__ = ("_chaining", "_responses")

    def __init__(self, connection: Transmitter, *, t0: bool = False) -> None:
        """`t0` where the line speaks T=0 and nothing below takes the Le off a command with data."""
        self._responses = Responses(connection, t0=t0)
        self._chaining = Chaining(self._responses)

    @property
    def sent(self) -> int:
        """APDUs transmitted so far, GET RESPONSE and repetitions included."""
        return self._responses.sent

    def exchange(self, apdu: Apdu) -> tuple[bytes, int]:
        """The answer as it is.

        Raises:
            CardLost: no answer.
        """
        return self._chaining.transmit(apdu)
