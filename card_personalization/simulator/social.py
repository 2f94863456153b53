"""Commands of the social security application and of the card's own file system (LD/T 32, ISO/IEC 7816-4).

Selection and security status are volatile; records, keys and counters are in the card's memory.

INTERNAL AUTHENTICATE, `00 88 00 kid 10`, takes 16 bytes: the host's challenge C (the first 8), then the original
information R (the last 8). It answers with 8 bytes that prove the key K of this card, the IRK, by the blank's method:

    process-key    3DES-ECB(SK, C) with SK = 3DES-ECB(K, R) ‖ 3DES-ECB(K, ~R)
    direct         3DES-ECB(K, C), whatever R is

3DES is that of two keys, and SK is used as it comes, without parity. The social security application or one of its
directories must be selected (else 6A88); nothing else need be proved before, no GET CHALLENGE is asked for, nothing on the
card changes, and what the host has proved stays. A key that is not there gives 6A88, another key than the IRK 6985, and
the IRK 6983 once EXTERNAL AUTHENTICATE with it has used up its tries.
EXTERNAL AUTHENTICATE, `00 82 00 kid 10`, takes the same 8 bytes made with the card's challenge for C, then R.

Must not know GlobalPlatform, the financial application or the line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from card_personalization.simulator import security
from card_personalization.simulator.codec import tlv
from card_personalization.simulator.command import (
    BLOCKED,
    CONDITIONS,
    FILE_NOT_FOUND,
    KEY_NOT_FOUND,
    MESSAGING_MISSING,
    MESSAGING_WRONG,
    NO_FILE_SELECTED,
    NO_RIGHTS,
    OK,
    RECORD_NOT_FOUND,
    UNKNOWN_CLA,
    UNKNOWN_INS,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_OFFSET,
    WRONG_PARAMETERS,
    WRONG_STRUCTURE,
    Answer,
    Command,
    Refused,
)
from card_personalization.simulator.filesystem import (
    DIRECTORY_NAMES,
    ENVIRONMENT_NAME,
    FREE,
    MASTER_FILE,
    PIN,
    SSSE_NAME,
    Condition,
    ElementaryFile,
    elementary_file,
)
from card_personalization.simulator.memory import Memory
from card_personalization.simulator.security import IRK, MAC_SIZE, STK, Method, Secret

_ALGORITHM_3DES = tlv(0x9F0C, b"\x01")
_BY_NUMBER = 0x04
_BY_TAG = 0x00
_CHALLENGES = {4: 4, 8: 8, 256: 8}
_PIN_SIZES = range(2, 7)
_PLAIN, _PROPRIETARY, _SECURED = 0x00, 0x80, 0x84


@dataclass(frozen=True, slots=True)
class _Status:
    """What a reset clears."""

    application: bool = False
    directory: int = 0
    file: ElementaryFile | None = None
    rights: frozenset[Condition] = frozenset({FREE})
    challenge: bytes | None = None


@dataclass(slots=True)
class FileSystem:
    """The files and keys of the social security application, and what is selected and proved at present."""

    memory: Memory
    random: Callable[[int], bytes]
    _status: _Status = field(default_factory=_Status)

    def reset(self) -> None:
        """Nothing is selected, nothing proved."""
        self._status = _Status()

    @property
    def application(self) -> bool:
        """Whether the application or one of its directories is selected."""
        return self._status.application

    def carries_out(self, ins: int) -> bool:
        """Whether a command is one of the file system."""
        return any(ins == known for _, known in _HANDLERS)

    def answers_to(self, name: bytes) -> bool:
        """Whether SELECT by `name` finds something here; names are taken whole."""
        return name in (SSSE_NAME, ENVIRONMENT_NAME) or name in DIRECTORY_NAMES

    def select_name(self, name: bytes) -> bytes:
        """Select by name; the file control information."""
        directory = DIRECTORY_NAMES.get(name, 0)
        kept = self._status.rights & {FREE, PIN} if directory else frozenset({FREE})
        self._status = _Status(application=name != ENVIRONMENT_NAME, directory=directory, rights=kept)
        return tlv(0x6F, tlv(0x84, name) + tlv(0xA5, _ALGORITHM_3DES))

    def select_identifier(self, command: Command) -> None:
        """Select by file identifier; with P1 = 00 none means the master file (ISO/IEC 7816-4, SELECT).

        Raises:
            Refused: 6700; 6A82, there is no such file where we are.
        """
        nameless = not (command.data or command.p1)
        if len(command.data) != 2 and not nameless:
            raise Refused(WRONG_LENGTH)
        identifier, status = int.from_bytes(command.data, "big"), self._status
        if nameless or identifier == MASTER_FILE:
            self.reset()
            return
        if not status.application:
            raise Refused(FILE_NOT_FOUND)
        if identifier in DIRECTORY_NAMES.values():
            self._status = replace(status, directory=identifier, file=None, rights=status.rights & {FREE, PIN})
            return
        file = elementary_file(status.directory, identifier)
        if file is None:
            raise Refused(FILE_NOT_FOUND)
        self._status = replace(status, file=file)

    def handle(self, command: Command) -> Answer:
        """Carry out a command.

        Raises:
            Refused: the status word says why.
        """
        handlers = [(cla, handler) for (cla, ins), handler in _HANDLERS.items() if ins == command.ins]
        if not handlers:
            raise Refused(UNKNOWN_INS)
        for cla, handler in handlers:
            if cla == command.cla:
                return handler(self, command)
        raise Refused(UNKNOWN_CLA)

    def _file(self) -> ElementaryFile:
        if self._status.file is None:
            raise Refused(NO_FILE_SELECTED)
        return self._status.file

    def _need(self, conditions: tuple[Condition, ...]) -> None:
        if not self._status.rights.intersection(conditions):
            raise Refused(NO_RIGHTS)

    def _record_file(self) -> ElementaryFile:
        file = self._file()
        if file.binary:
            raise Refused(WRONG_STRUCTURE)
        return file

    def _binary_file(self) -> ElementaryFile:
        file = self._file()
        if not file.binary:
            raise Refused(WRONG_STRUCTURE)
        return file

    def _read_record(self, command: Command) -> Answer:
        file = self._record_file()
        if command.p2 not in (_BY_NUMBER, _BY_TAG):
            raise Refused(WRONG_PARAMETERS)
        self._need(file.access.read)
        find = file.record_by_number if command.p2 == _BY_NUMBER else file.record_by_tag
        return self.memory[_found(find(self.memory, command.p1))], OK

    def _update_record(self, command: Command) -> Answer:
        file = self._record_file()
        if command.p2 != _BY_NUMBER:
            raise Refused(WRONG_PARAMETERS)
        self._need(file.access.write)
        cell = _found(file.record_by_number(self.memory, command.p1))
        there = self.memory[cell]
        if len(command.data) != len(there) or command.data[:2] != there[:2]:
            raise Refused(WRONG_DATA)
        self.memory[cell] = command.data
        return b"", OK

    def _read_binary(self, command: Command) -> Answer:
        file = self._binary_file()
        self._need(file.access.read)
        content = self.memory[file.cell]
        if command.p1p2 >= len(content):
            raise Refused(WRONG_OFFSET)
        if command.data or command.le is None:
            raise Refused(WRONG_LENGTH)
        return content[command.p1p2 : command.p1p2 + command.le], OK

    def _update_binary(self, command: Command) -> Answer:
        file = self._binary_file()
        self._need(file.access.write)
        content, at = self.memory[file.cell], command.p1p2
        if not command.data:
            raise Refused(WRONG_LENGTH)
        if at + len(command.data) > len(content):
            raise Refused(WRONG_OFFSET)
        self.memory[file.cell] = content[:at] + command.data + content[at + len(command.data) :]
        return b"", OK

    def _get_challenge(self, command: Command) -> Answer:
        if command.p1p2:
            raise Refused(WRONG_PARAMETERS)
        size = _CHALLENGES.get(command.le or 0)
        if command.data or size is None:
            raise Refused(WRONG_LENGTH)
        challenge = self.random(size)
        self._status = replace(self._status, challenge=challenge)
        return challenge, OK

    def _challenge(self) -> bytes | None:
        """The challenge, which is good once."""
        challenge, self._status = self._status.challenge, replace(self._status, challenge=None)
        return challenge

    def _key(self, number: int) -> Secret:
        secret = Secret(self.memory, f"key/{number:02X}")
        if self.memory.get(secret.cell) is None:
            raise Refused(KEY_NOT_FOUND)
        if secret.blocked:
            raise Refused(BLOCKED)
        return secret

    def _proof(self, key: bytes, data: bytes, original: bytes) -> bytes:
        method = cast(Method, self.memory["method"].decode("ascii"))
        return security.proof(key, data, original, method)

    def _internal_authenticate(self, command: Command) -> Answer:
        if command.p1:
            raise Refused(WRONG_PARAMETERS)
        if len(command.data) != 16:
            raise Refused(WRONG_LENGTH)
        if not self._status.application:
            raise Refused(KEY_NOT_FOUND)
        key = self._key(command.p2)
        if command.p2 != IRK:
            raise Refused(CONDITIONS)
        return self._proof(key.value, command.data[:8], command.data[8:]), OK

    def _external_authenticate(self, command: Command) -> Answer:
        challenge = self._challenge()
        if command.p1:
            raise Refused(WRONG_PARAMETERS)
        if len(command.data) != 16:
            raise Refused(WRONG_LENGTH)
        if not self._status.application:
            raise Refused(KEY_NOT_FOUND)
        key = self._key(command.p2)
        if challenge is None or len(challenge) != 8:
            raise Refused(CONDITIONS)
        right = key.present(command.data[:8], self._proof(key.value, challenge, command.data[8:]))
        self._allow(command.p2, right)
        return b"", OK if right else 0x63C0 | key.left

    def _allow(self, condition: Condition, right: bool) -> None:
        rights = self._status.rights - {condition}
        self._status = replace(self._status, rights=rights | {condition} if right else rights)

    def _pin(self) -> Secret:
        pin = Secret(self.memory, "pin")
        if pin.blocked:
            raise Refused(BLOCKED)
        return pin

    def _verify(self, command: Command) -> Answer:
        """Without data it tells the tries left and costs none (ISO/IEC 7816-4, VERIFY)."""
        if command.p1p2:
            raise Refused(WRONG_PARAMETERS)
        pin = self._pin()
        if not command.data:
            return b"", OK if PIN in self._status.rights else 0x63C0 | pin.left
        if len(command.data) not in _PIN_SIZES:
            raise Refused(WRONG_LENGTH)
        right = pin.present(command.data, pin.value)
        self._allow(PIN, right)
        return b"", OK if right else 0x63C0 | pin.left

    def _change_pin(self, command: Command) -> Answer:
        old, separator, new = command.data.partition(b"\xff")
        if (command.p1, command.p2) != (0x01, 0x00):
            raise Refused(WRONG_PARAMETERS)
        if not separator or len(new) not in _PIN_SIZES:
            raise Refused(WRONG_DATA)
        pin = self._pin()
        if not pin.present(old, pin.value):
            return b"", 0x63C0 | pin.left
        pin.replace(new)
        return b"", OK

    def _unblock_pin(self, command: Command) -> Answer:
        """P2 = 00 gives the tries back; 01 also sets the PIN that comes enciphered. The MAC is made with STK."""
        challenge = self._challenge()
        sizes = {0x00: MAC_SIZE, 0x01: 8 + MAC_SIZE}
        if command.p1 or command.p2 not in sizes:
            raise Refused(WRONG_PARAMETERS)
        if len(command.data) != sizes[command.p2]:
            raise Refused(WRONG_LENGTH)
        key = self._key(STK)
        if challenge is None:
            raise Refused(MESSAGING_MISSING)
        data, mac = command.data[:-MAC_SIZE], command.data[-MAC_SIZE:]
        message = command.header + bytes((len(command.data),)) + data
        if not key.present(mac, security.message_mac(key.value, challenge, message)):
            return b"", MESSAGING_WRONG
        pin = Secret(self.memory, "pin")
        if data:
            pin.replace(_new_pin(key.value, data))
        pin.unblock()
        return b"", OK


def _new_pin(key: bytes, block: bytes) -> bytes:
    pin = security.deciphered_pin(key, block)
    if pin is None or len(pin) not in _PIN_SIZES:
        raise Refused(WRONG_DATA)
    return pin


def _found(cell: str | None) -> str:
    if cell is None:
        raise Refused(RECORD_NOT_FOUND)
    return cell


_HANDLERS: dict[tuple[int, int], Callable[[FileSystem, Command], Answer]] = {
    (_PLAIN, 0x20): FileSystem._verify,
    (_PROPRIETARY, 0x5E): FileSystem._change_pin,
    (_SECURED, 0x24): FileSystem._unblock_pin,
    (_PLAIN, 0x82): FileSystem._external_authenticate,
    (_PLAIN, 0x84): FileSystem._get_challenge,
    (_PLAIN, 0x88): FileSystem._internal_authenticate,
    (_PLAIN, 0xB0): FileSystem._read_binary,
    (_PLAIN, 0xB2): FileSystem._read_record,
    (_PLAIN, 0xD6): FileSystem._update_binary,
    (_PLAIN, 0xDC): FileSystem._update_record,
}
