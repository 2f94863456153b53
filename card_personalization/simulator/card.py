"""The virtual chip: commands in, answers out. State is persistent (EEPROM) or volatile; a reset clears the volatile.

A command is carried out whole or not at all: what it changed is saved before it is answered. With strict T=0 an answer to
a command with data, or without Le, is announced with 61xx and fetched with GET RESPONSE, and a wrong Le gives 6Cxx
(ISO/IEC 7816-3 12.2); otherwise the answer comes at once, as with T=1. T=0 has no room for Le behind data, and a reader
leaves it out; where it reaches the card all the same, the Le of a command with data is ignored. An Le of 00 means 256
bytes, so that every shorter answer to a command without data, a challenge among them, is asked for with 6Cxx first.
Must not know readers or time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from card_personalization.simulator.application import KINDS, Application
from card_personalization.simulator.channel import R_MAC
from card_personalization.simulator.command import (
    CONDITIONS,
    FILE_NOT_FOUND,
    OK,
    UNKNOWN_CLA,
    WRONG_PARAMETERS,
    Answer,
    Command,
    Refused,
    parse,
)
from card_personalization.simulator.faults import FaultKind
from card_personalization.simulator.issuer_domain import CARD_LOCKED, TERMINATED, IssuerDomain
from card_personalization.simulator.memory import Memory
from card_personalization.simulator.secure_channel import EXTERNAL_AUTHENTICATE, SecureChannel
from card_personalization.simulator.social import FileSystem

_SELECT, _GET_DATA, _GET_RESPONSE = 0xA4, 0xCA, 0xC0
_PROPRIETARY_OR_SECURED = 0x8C
_BY_NAME = 0x04
_BY_IDENTIFIER = (0x00, 0x02)
_FCI, _NO_FCI, _NEXT = 0x00, 0x0C, 0x02
_FULL = 256
_MORE, _WRONG_LE = 0x6100, 0x6C00

_Selectable = IssuerDomain | Application | FileSystem


@dataclass(frozen=True, slots=True)
class _Pending:
    """An answer that was announced. After 6Cxx the same command with another Le fetches it, too, and is not done twice."""

    body: bytes
    sw: int
    again: Command | None = None

    def is_fetched_by(self, command: Command) -> bool:
        """Whether a command asks for this answer. GET RESPONSE may have the class of the command before, but is never secured."""
        if command.ins == _GET_RESPONSE:
            return not (command.cla & ~_PROPRIETARY_OR_SECURED or command.p1p2 or command.data)
        return self.again is not None and replace(command, le=None) == replace(self.again, le=None)


class VirtualCard:
    """One chip over its memory."""

    def __init__(self, memory: Memory, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._memory = memory
        self._files = FileSystem(memory, random)
        self._secure = SecureChannel(memory, random)
        self._applications = {aid: kind(memory, aid) for aid, kind in KINDS.items()}
        self._domain = IssuerDomain(memory, self._secure, self._applications)
        self._selected: _Selectable = self._domain
        self._pending: _Pending | None = None
        self._strict = memory["strict_t0"] == b"\x01"

    def reset(self) -> bytes:
        """Forget the volatile state; the ATR."""
        self._pending = None
        self._choose(self._domain)
        self._files.reset()
        return self._memory["atr"]

    def process(self, raw: bytes, fault: FaultKind | None = None) -> Answer:
        """Carry out one command; `fault` is one of those that happen inside the chip.

        Raises:
            CardLost: another reader has the card.
        """
        if fault is FaultKind.CMAC_REFUSED:
            raw = _flipped(raw, -1)
        pending, self._pending = self._pending, None
        try:
            command = parse(raw)
            fetched = self._fetched(command, pending)
            if fetched is not None:
                return fetched
            body, sw = self._carry_out(command, fault)
            self._memory.commit()
        except Refused as refused:
            self._memory.rollback()
            return b"", refused.sw
        return self._answer(command, self._spoiled(body, fault), sw, fault)

    # ------------------------------------------------------------------------------------------------------------- T=0

    def _answer(self, command: Command, body: bytes, sw: int, fault: FaultKind | None) -> Answer:
        le = command.le
        if fault is FaultKind.WRONG_LE:
            return self._hold(_Pending(body, sw, again=command), _WRONG_LE)
        if fault is FaultKind.ANNOUNCED:
            return self._hold(_Pending(body, sw), _MORE)
        if not body:
            return b"", sw
        if self._strict and (le is None or command.data):
            return self._hold(_Pending(body, sw), _MORE)
        if le is None or le == len(body) or (le > len(body) and not self._strict):
            return body, sw
        return self._hold(_Pending(body, sw, again=command), _WRONG_LE)

    def _hold(self, pending: _Pending, announcement: int) -> Answer:
        self._pending = pending
        return b"", announcement | min(len(pending.body), _FULL) & 0xFF

    def _fetched(self, command: Command, pending: _Pending | None) -> Answer | None:
        """The announced answer, when the command asks for it; a part when Le is less, 6Cxx when it is more."""
        if pending is None or not pending.is_fetched_by(command):
            if command.ins == _GET_RESPONSE:
                raise Refused(CONDITIONS)
            return None
        le, body = command.le or _FULL, pending.body
        if not body or le == len(body) or (le > len(body) and not self._strict):
            return body, pending.sw
        if le > len(body):
            return self._hold(pending, _WRONG_LE)
        return body[:le], self._hold(_Pending(body[le:], pending.sw), _MORE)[1]

    def _spoiled(self, body: bytes, fault: FaultKind | None) -> bytes:
        if not body:
            return body
        match fault:
            case FaultKind.RMAC_CORRUPTED:
                return _flipped(body, -1)
            case FaultKind.RMAC_STRIPPED:
                session = self._secure.session
                return body[: -session.mac_size] if session and session.level & R_MAC else body
            case FaultKind.FLIPPED:
                return _flipped(body, 0)
            case FaultKind.SHORT:
                return body[:-1]
        return body

    # -------------------------------------------------------------------------------------------------------- selection

    def _carry_out(self, command: Command, fault: FaultKind | None) -> Answer:
        if self._domain.state == TERMINATED and command.ins not in (_SELECT, _GET_DATA):
            raise Refused(CONDITIONS)
        if command.ins == _SELECT and not command.secured:
            return self._select(command)
        selected = self._selected
        if isinstance(selected, FileSystem):
            return selected.handle(command)
        if selected is self._domain and self._is_for_files(command):
            return self._files.handle(command)
        return self._secure.process(command, selected, fault)

    def _is_for_files(self, command: Command) -> bool:
        """After a reset the card's own file system answers beside the security domain, while no session is open."""
        opens = (command.cla, command.ins) == EXTERNAL_AUTHENTICATE
        return self._secure.session is None and self._files.carries_out(command.ins) and not opens

    def _select(self, command: Command) -> Answer:
        if command.cla:
            raise Refused(UNKNOWN_CLA)
        if command.p1 == _BY_NAME and command.p2 & ~_NEXT in (_FCI, _NO_FCI):
            fci = self._select_name(command.data, after_selected=bool(command.p2 & _NEXT))
            return b"" if command.p2 & _NO_FCI else fci, OK
        if command.p1 not in _BY_IDENTIFIER or command.p2 not in (_FCI, _NO_FCI):
            raise Refused(WRONG_PARAMETERS)
        self._files.select_identifier(command)
        if not self._files.application:
            self._choose(self._domain)
        return b"", OK

    def _select_name(self, name: bytes, *, after_selected: bool) -> bytes:
        """Select the first that answers to `name`, or the first behind the one that is selected; its FCI."""
        known: tuple[_Selectable, ...] = (self._domain, *self._applications.values(), self._files)
        candidates = known[known.index(self._selected) + 1 :] if after_selected else known
        if self._domain.state in (CARD_LOCKED, TERMINATED):
            candidates = tuple(candidate for candidate in candidates if candidate is self._domain)
        found = next((candidate for candidate in candidates if candidate.answers_to(name)), None)
        if found is None:
            raise Refused(FILE_NOT_FOUND)
        self._choose(found)
        return found.select_name(name) if isinstance(found, FileSystem) else found.fci()

    def _choose(self, selected: _Selectable) -> None:
        self._secure.reset()
        self._domain.reset()
        for application in self._applications.values():
            application.reset()
        if not (isinstance(selected, FileSystem) and self._files.application):
            self._files.reset()
        self._selected = selected


def _flipped(data: bytes, at: int) -> bytes:
    flipped = bytearray(data)
    flipped[at] ^= 0x01
    return bytes(flipped)
