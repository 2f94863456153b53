"""Applications personalised by STORE DATA (EMV CPS 1.1): the debit application, PSE and PPSE, and their read-back (EMV, JR/T 0025).

Groupings are kept as they came, keys and PIN deciphered. Must not know the security domain's keys or the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import ClassVar

from card_personalization.simulator import ciphers
from card_personalization.simulator.channel import Session
from card_personalization.simulator.codec import Grouping, GroupingReader, last_block, objects, tlv, wanted_size
from card_personalization.simulator.command import (
    BLOCKED,
    CONDITIONS,
    FILE_NOT_FOUND,
    OK,
    RECORD_NOT_FOUND,
    REFERENCE_NOT_FOUND,
    UNKNOWN_CLA,
    UNKNOWN_INS,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_PARAMETERS,
    Answer,
    Command,
    Refused,
)
from card_personalization.simulator.configuration import DEBIT, PPSE, PSE, state_cell
from card_personalization.simulator.memory import Memory

PERSONALIZED = 0x0F
LOCKED = 0x80

_STORE_DATA = (0x80, 0xE2)
_FCI = 0x9102
_GPO = 0x9104
_KEYS, _KEY_CHECKS = 0x8000, 0x9000
_SM4_KEYS, _SM4_KEY_CHECKS = 0x8400, 0x9400
_PIN, _PIN_TRIES = 0x8010, 0x9010
_INTERNAL = (0x0D01, 0x0E01)
_CLOSING = frozenset({0x9201, 0x7FFF})
_RECORD_SFIS = range(0x01, 0x0B)
_RECORD_TEMPLATE = 0x70
_KEY_TRIPLE = 48
_SHORTEST_NAME = 5
_PIN_BLOCK = 8


@dataclass(slots=True)
class _Status:
    """What a reset or a new selection clears: the order of blocks and the groupings of this run."""

    reader: GroupingReader = field(default_factory=GroupingReader)
    stored: frozenset[int] = frozenset()


class Application:
    """One application instance: files, file control information and the way it is filled."""

    MANDATORY: ClassVar[frozenset[int]]
    KNOWN: ClassVar[frozenset[int]] = frozenset()
    RECORDS: ClassVar[range] = _RECORD_SFIS
    without_session = CONDITIONS

    def __init__(self, memory: Memory, aid: bytes) -> None:
        self.memory = memory
        self.aid = aid
        self._status = _Status()

    @property
    def installed(self) -> bool:
        """Whether the card has it."""
        return self.memory.get(state_cell(self.aid)) is not None

    @property
    def state(self) -> int:
        """Its life cycle state."""
        return self.memory[state_cell(self.aid)][0]

    @property
    def locked(self) -> bool:
        """Whether it may not be selected."""
        return bool(self.state & LOCKED)

    @property
    def personalized(self) -> bool:
        """Whether the last STORE DATA was accepted."""
        return self.state & ~LOCKED == PERSONALIZED

    def answers_to(self, name: bytes) -> bool:
        """Whether SELECT by `name` finds it."""
        return self.installed and not self.locked and is_named(self.aid, name)

    def reset(self) -> None:
        """A new run of STORE DATA begins."""
        self._status = _Status()

    def fci(self) -> bytes:
        """What SELECT answers: the stored template, empty until the application is personalised."""
        stored = self._grouping(_FCI) if self.personalized else None
        return tlv(0x6F, tlv(0x84, self.aid) + (stored or tlv(0xA5, b"")))

    def handle(self, command: Command, session: Session | None) -> Answer:
        """Carry out a plain command; `session` is that of its own secure channel, if one is open.

        Raises:
            Refused: the status word says why.
        """
        if (command.cla, command.ins) == _STORE_DATA:
            return self.store_data(command, session)
        if command.ins == _STORE_DATA[1]:
            raise Refused(UNKNOWN_CLA)
        known = [(cla, handler) for (cla, ins), handler in self._handlers().items() if ins == command.ins]
        if not known:
            raise Refused(UNKNOWN_INS)
        for cla, handler in known:
            if cla == command.cla:
                return handler(command)
        raise Refused(UNKNOWN_CLA)

    def _handlers(self) -> dict[tuple[int, int], Callable[[Command], Answer]]:
        return {(0x00, 0xB2): self._read_record}

    def store_data(self, command: Command, session: Session | None) -> Answer:
        """STORE DATA in its own session or in the security domain's.

        Raises:
            Refused: 6985, complete or no session; 6A86, order or completeness; 6A88, unknown grouping; 6A80, its content.
        """
        if self.personalized or session is None:
            raise Refused(CONDITIONS)
        if not command.data:
            raise Refused(WRONG_LENGTH)
        reader, groupings = self._status.reader.read(command)
        stored = self._status.stored
        for grouping in groupings:
            self._store(grouping, session)
            stored |= {grouping.tag}
        last = last_block(command)
        self._check(stored, last=last)
        if last:
            self._complete()
        self._status = _Status(reader, stored)
        return b"", OK

    def _complete(self) -> None:
        if any(self._grouping(tag) is None for tag in self.MANDATORY):
            raise Refused(WRONG_PARAMETERS)
        self.memory[state_cell(self.aid)] = bytes((PERSONALIZED,))

    def _store(self, grouping: Grouping, session: Session) -> None:
        tag, value = grouping.tag, grouping.value
        record = tag >> 8 in self.RECORDS and tag & 0xFF
        if not (record or tag in self.KNOWN or tag == _FCI or tag in _CLOSING):
            raise Refused(REFERENCE_NOT_FOUND)
        if tag in _PLAIN_FORM:
            value = _PLAIN_FORM[tag](session.deciphered(value))
        elif grouping.encrypted:
            value = session.deciphered(value)
        if record:
            value = _record(value, padded=grouping.encrypted)
        elif tag in _FORMS and not _FORMS[tag](value):
            raise Refused(WRONG_DATA)
        self.memory[self._cell(tag)] = value

    def _check(self, stored: Iterable[int], *, last: bool) -> None:
        """Whether groupings agree with each other."""

    def _cell(self, tag: int) -> str:
        return f"application/{self.aid.hex().upper()}/dgi/{tag:04X}"

    def _grouping(self, tag: int) -> bytes | None:
        return self.memory.get(self._cell(tag))

    def _need_completion(self) -> None:
        if not self.personalized:
            raise Refused(CONDITIONS)

    def _read_record(self, command: Command) -> Answer:
        self._need_completion()
        sfi, by_number = command.p2 >> 3, command.p2 & 0x07 == 0x04
        if not by_number or sfi not in self.RECORDS or not command.p1:
            raise Refused(WRONG_PARAMETERS)
        record = self._grouping(sfi << 8 | command.p1)
        if record is None:
            there = self.memory.names(self._cell(sfi << 8)[:-2])
            raise Refused(RECORD_NOT_FOUND if there else FILE_NOT_FOUND)
        return record, OK


class Directory(Application):
    """The payment system environment (PSE): its directory is SFI 1."""

    MANDATORY = frozenset({_FCI, 0x0101})


class ContactlessDirectory(Application):
    """The proximity payment system environment (PPSE): its directory is in its file control information."""

    MANDATORY = frozenset({_FCI})
    RECORDS = range(0)


class Debit(Application):
    """The debit application of JR/T 0025."""

    MANDATORY = frozenset(
        {0x0101, 0x0201, 0x0202, 0x0301, 0x0D01, _KEYS, _KEY_CHECKS, _PIN, _PIN_TRIES, _FCI, _GPO},
    )
    KNOWN = frozenset(
        {
            *_INTERNAL,
            *(_KEYS, _KEY_CHECKS, _SM4_KEYS, _SM4_KEY_CHECKS, _PIN, _PIN_TRIES),
            *range(0x8201, 0x8206),
            *(0x8501, 0x8502),
            *(0x9103, _GPO, 0x9200, 0x9203, 0x9207),
        }
    )

    def _handlers(self) -> dict[tuple[int, int], Callable[[Command], Answer]]:
        return {
            **super()._handlers(),
            (0x80, 0xA8): self._get_processing_options,
            (0x80, 0xCA): self._get_data,
            (0x00, 0x20): self._verify,
        }

    def _check(self, stored: Iterable[int], *, last: bool) -> None:
        for keys, checks, kcv in (
            (_KEYS, _KEY_CHECKS, ciphers.des_kcv),
            (_SM4_KEYS, _SM4_KEY_CHECKS, ciphers.sm4_kcv),
        ):
            values, expected = self._grouping(keys), self._grouping(checks)
            if values is None or expected is None or not (last or {keys, checks} <= {*stored}):
                continue
            if b"".join(kcv(values[at : at + 16]) for at in range(0, _KEY_TRIPLE, 16)) != expected:
                raise Refused(WRONG_DATA)

    def _get_processing_options(self, command: Command) -> Answer:
        self._need_completion()
        if command.p1p2:
            raise Refused(WRONG_PARAMETERS)
        if [tag for tag, _ in objects(command.data)] != [0x83]:
            raise Refused(WRONG_DATA)
        if len(objects(command.data)[0][1]) != self._options_size():
            raise Refused(WRONG_DATA)
        return tlv(0x77, self._grouping(_GPO) or b""), OK

    def _options_size(self) -> int:
        """Bytes that the terminal must bring: the lengths in the PDOL (9F38)."""
        ((_, template),) = objects(self._grouping(_FCI) or tlv(0xA5, b""))
        return wanted_size(dict(objects(template)).get(0x9F38, b""))

    def _get_data(self, command: Command) -> Answer:
        tag = command.p1p2
        tries = self._grouping(_PIN_TRIES)
        values = {
            0x9F36: bytes(2),
            0x9F13: bytes(2),
            0x9F17: tries and tries[:1],
            0x9F4F: dict(objects(self._grouping(0x0D01) or b"")).get(0x9F4F),
        }
        value = values.get(tag)
        if value is None:
            raise Refused(REFERENCE_NOT_FOUND)
        return tlv(tag, value), OK

    def _verify(self, command: Command) -> Answer:
        self._need_completion()
        if (command.p1, command.p2) != (0x00, 0x80):
            raise Refused(WRONG_PARAMETERS)
        if len(command.data) != _PIN_BLOCK:
            raise Refused(WRONG_LENGTH)
        left, limit = self.memory[self._cell(_PIN_TRIES)]
        if not left:
            raise Refused(BLOCKED)
        right = compare_digest(command.data, self.memory[self._cell(_PIN)])
        left = limit if right else left - 1
        self.memory[self._cell(_PIN_TRIES)] = bytes((left, limit))
        return b"", OK if right else 0x63C0 | left


def is_named(aid: bytes, name: bytes) -> bool:
    """Whether `name` is the AID or its beginning, no shorter than a registered provider's (ISO/IEC 7816-4, SELECT; -5)."""
    return len(name) >= _SHORTEST_NAME and aid.startswith(name)


def _record(value: bytes, *, padded: bool) -> bytes:
    """The record of one template 70; what was added for encipherment is cut off."""
    if padded:
        value = value[: _template_size(value)]
    if [tag for tag, _ in objects(value)] != [_RECORD_TEMPLATE]:
        raise Refused(WRONG_DATA)
    return value


def _template_size(value: bytes) -> int:
    if len(value) < 2 or value[1] > 0x81:
        raise Refused(WRONG_DATA)
    return 2 + value[1] if value[1] < 0x80 else 3 + value[2]


def _three_keys(plain: bytes) -> bytes:
    if len(plain) != _KEY_TRIPLE:
        raise Refused(WRONG_DATA)
    return plain


def _pin_block(plain: bytes) -> bytes:
    """8 bytes; with a block cipher of 16 bytes they come padded."""
    block = plain if len(plain) == _PIN_BLOCK else ciphers.unpad80(plain)
    if len(block) != _PIN_BLOCK or block[0] >> 4 != 2:
        raise Refused(WRONG_DATA)
    return block


def _is_template(value: bytes) -> bool:
    return [tag for tag, _ in objects(value)] == [0xA5]


def _is_processing_options(value: bytes) -> bool:
    return [tag for tag, _ in objects(value)] == [0x82, 0x94]


_PLAIN_FORM: dict[int, Callable[[bytes], bytes]] = {
    _KEYS: _three_keys,
    _SM4_KEYS: _three_keys,
    _PIN: _pin_block,
    **dict.fromkeys((*range(0x8201, 0x8206), 0x8501, 0x8502), ciphers.unpad80),
}
"""Groupings that are always enciphered, and what must come out."""

_FORMS: dict[int, Callable[[bytes], bool]] = {
    _FCI: _is_template,
    0x9103: _is_template,
    _GPO: _is_processing_options,
    _KEY_CHECKS: lambda value: len(value) == 9,
    _SM4_KEY_CHECKS: lambda value: len(value) == 9,
    _PIN_TRIES: lambda value: len(value) == 2 and 0 < value[0] <= value[1],
    **dict.fromkeys(_INTERNAL, lambda value: bool(objects(value))),
}

KINDS: dict[bytes, type[Application]] = {PSE: Directory, PPSE: ContactlessDirectory, DEBIT: Debit}
