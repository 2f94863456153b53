"""The virtual chip: commands in, answers out. State is persistent (EEPROM) or volatile; a reset clears the volatile.

A command is carried out whole or not at all: what it changed is saved before it is answered. T=0: an answer to a
command without Le is announced with 61xx and fetched with GET RESPONSE; a wrong Le gives 6Cxx.
"""

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from card_personalization.simulator import security
from card_personalization.simulator.filesystem import MASTER_FILE, SSSE_NAME, RecordFile, blank_files
from card_personalization.simulator.security import IRK, KEY_TRIES, PIN_TRIES, UKSSSE, Method, Secret

OK = 0x9000
WRONG_LENGTH = 0x6700
NO_RIGHTS = 0x6982
BLOCKED = 0x6983
CONDITIONS = 0x6985
NO_FILE_SELECTED = 0x6986
WRONG_DATA = 0x6A80
FILE_NOT_FOUND = 0x6A82
RECORD_NOT_FOUND = 0x6A83
WRONG_PARAMETERS = 0x6A86
KEY_NOT_FOUND = 0x6A88
UNKNOWN_INS = 0x6D00
UNKNOWN_CLA = 0x6E00

Answer = tuple[bytes, int]

_ATR = bytes.fromhex("3B6D0000") + bytes.fromhex("0081") + b"ZK1" + bytes.fromhex("8660")
_PIN = bytes.fromhex("123456")
_FCI_ALGORITHM = bytes.fromhex("9F0C0101")
_BY_NAME = 0x04
_BY_NUMBER = 0x04
_BY_TAG = 0x00
_CHANGE_PIN_CLA = 0x80


@dataclass(slots=True)
class Eeprom:
    """What survives without power."""

    atr: bytes
    files: dict[int, RecordFile]
    keys: dict[int, Secret]
    pin: Secret
    method: Method = "process-key"


def blank(
    *, chip_serial: bytes, city: str, masters: dict[int, bytes], version: str = "2.00", method: Method = "process-key"
) -> Eeprom:
    """A blank as delivered: files empty, card keys derived from the masters by the last 8 historical bytes."""
    atr = _ATR + bytes.fromhex(city)[:2] + chip_serial
    keys = {
        number: Secret(security.derived(master, atr[-8:]), KEY_TRIES, KEY_TRIES) for number, master in masters.items()
    }
    return Eeprom(atr, blank_files(version), keys, Secret(_PIN, PIN_TRIES, PIN_TRIES), method)


DEMO_MASTERS = {IRK: bytes(range(0x40, 0x50)), UKSSSE: bytes(range(0x50, 0x60))}


@dataclass(slots=True)
class Volatile:
    """What a reset clears."""

    application: bool = False
    file: int | None = None
    update_allowed: bool = False
    pin_verified: bool = False
    challenge: bytes | None = None
    pending: bytes = b""


@dataclass(frozen=True, slots=True)
class Command:
    """A short command, taken apart."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes
    le: int | None


def parse(raw: bytes) -> Command | None:
    """The command, or None when its lengths do not agree."""
    header, body = raw[:4], raw[4:]
    if len(header) < 4:
        return None
    cla, ins, p1, p2 = header
    if len(body) <= 1:
        return Command(cla, ins, p1, p2, b"", (body[0] or 256) if body else None)
    size = body[0]
    data, rest = body[1 : 1 + size], body[1 + size :]
    if size == 0 or len(data) != size or len(rest) > 1:
        return None
    return Command(cla, ins, p1, p2, data, (rest[0] or 256) if rest else None)


@dataclass(slots=True)
class VirtualCard:
    """One chip. `save` is called with the persistent state before a command that changed it is answered."""

    eeprom: Eeprom
    save: Callable[[Eeprom], None]
    random: Callable[[int], bytes] = os.urandom
    volatile: Volatile = field(default_factory=Volatile)

    def reset(self) -> bytes:
        """Forget the volatile state; the ATR."""
        self.volatile = Volatile()
        return self.eeprom.atr

    def process(self, raw: bytes) -> Answer:
        """Carry out one command."""
        command = parse(raw)
        if command is None:
            return b"", WRONG_LENGTH
        if command.ins == 0xC0:
            return self._get_response(command)
        self.volatile.pending = b""
        handler = _HANDLERS.get(command.ins)
        if handler is None:
            return b"", UNKNOWN_INS
        if command.cla != (_CHANGE_PIN_CLA if command.ins == 0x5E else 0x00):
            return b"", UNKNOWN_CLA
        return handler(self, command)

    def _get_response(self, command: Command) -> Answer:
        pending = self.volatile.pending
        if not pending:
            return b"", CONDITIONS
        if command.le != len(pending):
            return b"", 0x6C00 | len(pending)
        self.volatile.pending = b""
        return pending, OK

    def _answer(self, body: bytes, command: Command) -> Answer:
        if command.le is None:
            self.volatile.pending = body
            return b"", 0x6100 | len(body)
        if command.le != len(body):
            return b"", 0x6C00 | len(body)
        return body, OK

    def _select(self, command: Command) -> Answer:
        if command.p2 != 0x00:
            return b"", WRONG_PARAMETERS
        if command.p1 == _BY_NAME:
            return self._select_name(command)
        if command.p1 not in (0x00, 0x02):
            return b"", WRONG_PARAMETERS
        if len(command.data) != 2:
            return b"", WRONG_LENGTH
        return self._select_identifier(int.from_bytes(command.data, "big"))

    def _select_name(self, command: Command) -> Answer:
        if command.data != SSSE_NAME:
            return b"", FILE_NOT_FOUND
        self.volatile = Volatile(application=True)
        name = bytes((0x84, len(SSSE_NAME))) + SSSE_NAME
        own = bytes((0xA5, len(_FCI_ALGORITHM))) + _FCI_ALGORITHM
        return self._answer(bytes((0x6F, len(name + own))) + name + own, command)

    def _select_identifier(self, identifier: int) -> Answer:
        if identifier == MASTER_FILE:
            self.volatile = Volatile()
            return b"", OK
        if not self.volatile.application or identifier not in self.eeprom.files:
            return b"", FILE_NOT_FOUND
        self.volatile.file = identifier
        return b"", OK

    def _file(self) -> RecordFile | None:
        return None if self.volatile.file is None else self.eeprom.files[self.volatile.file]

    def _read_record(self, command: Command) -> Answer:
        file = self._file()
        if file is None:
            return b"", NO_FILE_SELECTED
        if command.p2 not in (_BY_NUMBER, _BY_TAG):
            return b"", WRONG_PARAMETERS
        record = file.by_number(command.p1) if command.p2 == _BY_NUMBER else file.by_tag(command.p1)
        if record is None:
            return b"", RECORD_NOT_FOUND
        return self._answer(record, command)

    def _update_record(self, command: Command) -> Answer:
        file = self._file()
        if file is None:
            return b"", NO_FILE_SELECTED
        if command.p2 != _BY_NUMBER:
            return b"", WRONG_PARAMETERS
        if not self.volatile.update_allowed:
            return b"", NO_RIGHTS
        if file.by_number(command.p1) is None:
            return b"", RECORD_NOT_FOUND
        if not file.accepts(command.p1, command.data):
            return b"", WRONG_DATA
        file.update(command.p1, command.data)
        self.save(self.eeprom)
        return b"", OK

    def _get_challenge(self, command: Command) -> Answer:
        if (command.p1, command.p2) != (0, 0):
            return b"", WRONG_PARAMETERS
        if command.data or command.le not in (4, 8):
            return b"", WRONG_LENGTH
        self.volatile.challenge = self.random(command.le)
        return self.volatile.challenge, OK

    def _external_authenticate(self, command: Command) -> Answer:
        challenge, self.volatile.challenge = self.volatile.challenge, None
        if len(command.data) != 16:
            return b"", WRONG_LENGTH
        key = self.eeprom.keys.get(command.p2)
        if key is None or not self.volatile.application:
            return b"", KEY_NOT_FOUND
        if key.blocked:
            return b"", BLOCKED
        if challenge is None or len(challenge) != 8:
            return b"", CONDITIONS
        expected = security.proof(key.value, challenge, command.data[8:], self.eeprom.method)
        right = self._present(key, command.data[:8], expected)
        self.volatile.update_allowed = right and command.p2 == UKSSSE
        return b"", OK if right else 0x63C0 | key.left

    def _present(self, secret: Secret, given: bytes, expected: bytes) -> bool:
        before = secret.left
        right = secret.present(right=hmac.compare_digest(given, expected))
        if secret.left != before:
            self.save(self.eeprom)
        return right

    def _verify(self, command: Command) -> Answer:
        if not 2 <= len(command.data) <= 6:
            return b"", WRONG_LENGTH
        pin = self.eeprom.pin
        if pin.blocked:
            return b"", BLOCKED
        self.volatile.pin_verified = self._present(pin, command.data, pin.value)
        return b"", OK if self.volatile.pin_verified else 0x63C0 | pin.left

    def _change_pin(self, command: Command) -> Answer:
        old, separator, new = command.data.partition(b"\xff")
        if command.p1 != 0x01:
            return b"", WRONG_PARAMETERS
        if not separator or not 2 <= len(new) <= 6:
            return b"", WRONG_DATA
        pin = self.eeprom.pin
        if pin.blocked:
            return b"", BLOCKED
        if not self._present(pin, old, pin.value):
            return b"", 0x63C0 | pin.left
        pin.value = new
        self.save(self.eeprom)
        return b"", OK


_HANDLERS: dict[int, Callable[[VirtualCard, Command], Answer]] = {
    0x20: VirtualCard._verify,
    0x5E: VirtualCard._change_pin,
    0x82: VirtualCard._external_authenticate,
    0x84: VirtualCard._get_challenge,
    0xA4: VirtualCard._select,
    0xB2: VirtualCard._read_record,
    0xDC: VirtualCard._update_record,
}
