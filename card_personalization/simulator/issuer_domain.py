"""The issuer security domain: card data, life cycles, keys and personalisation of the applications under it
(GlobalPlatform Card Specification 2.3.1, 11).

Must not know the line, nor what an application does with its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from card_personalization.simulator import ciphers
from card_personalization.simulator.application import LOCKED, Application, is_named
from card_personalization.simulator.channel import SCP02, Session, StaticKeys
from card_personalization.simulator.codec import Grouping, GroupingReader, last_block, objects, tlv
from card_personalization.simulator.command import (
    CONDITIONS,
    KEY_NOT_FOUND,
    NO_RIGHTS,
    OK,
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
from card_personalization.simulator.configuration import ISSUER_DOMAIN, state_cell
from card_personalization.simulator.memory import Memory
from card_personalization.simulator.secure_channel import SecureChannel

CARD_LOCKED = 0x7F
TERMINATED = 0xFF

_STATES = (0x01, 0x07, 0x0F, CARD_LOCKED, TERMINATED)
_GET_DATA = 0xCA
_KEY_ATTRIBUTES, _KEY_VALUE = 0x00B9, 0x8113
_DES_KEY, _AES_KEY = 0x80, 0x88
_ALL_KEYS = 0x81
_RECOGNITION = (
    (0x06, "2A864886FC6B01"),
    (0x60, "060A2A864886FC6B02020301"),
    (0x63, "06072A864886FC6B03"),
)
_PROTOCOL_OID = bytes.fromhex("2A864886FC6B04")


@dataclass(frozen=True, slots=True)
class _KeyLoad:
    """A key version under way in groupings 00B9 and 8113."""

    kvn: int
    size: int
    checks: tuple[bytes, ...]
    values: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Status:
    """What a new session clears: the application to be personalised and the groupings for the domain itself."""

    target: Application | None = None
    reader: GroupingReader = field(default_factory=GroupingReader)
    load: _KeyLoad | None = None


class IssuerDomain:
    """The card's own security domain, selected after a reset."""

    aid = ISSUER_DOMAIN
    without_session = NO_RIGHTS

    def __init__(self, memory: Memory, secure: SecureChannel, applications: dict[bytes, Application]) -> None:
        self._memory = memory
        self._secure = secure
        self._applications = applications
        self._status = _Status()

    def reset(self) -> None:
        """A new session begins."""
        self._status = _Status()

    @property
    def state(self) -> int:
        """The card's life cycle state."""
        return self._memory["domain/state"][0]

    def fci(self) -> bytes:
        """What SELECT answers."""
        return tlv(0x6F, tlv(0x84, self.aid) + tlv(0xA5, tlv(0x9F65, b"\xff")))

    def answers_to(self, name: bytes) -> bool:
        """Whether SELECT by `name` finds it; it is also what SELECT without a name means."""
        return not name or is_named(self.aid, name)

    def handle(self, command: Command, session: Session | None) -> Answer:
        """Carry out a plain command.

        Raises:
            Refused: the status word says why.
        """
        if command.ins == _GET_DATA and command.cla in (0x00, 0x80):
            return self._get_data(command)
        handler = _HANDLERS.get(command.ins)
        if handler is None:
            raise Refused(UNKNOWN_INS)
        if command.cla != 0x80:
            raise Refused(UNKNOWN_CLA)
        if session is None:
            raise Refused(NO_RIGHTS)
        return handler(self, command, session)

    # ------------------------------------------------------------------------------------------------------- card data

    def _get_data(self, command: Command) -> Answer:
        tag = command.p1p2
        match tag:
            case 0x0066:
                return self._recognition(), OK
            case 0x00E0:
                return self._key_templates(), OK
            case 0x00C1:
                default = self._secure.key_versions()[0]
                size = 2 if self._secure.protocol(default)[0] == SCP02 else 3
                return tlv(tag, self._secure.counter(default).to_bytes(size, "big")), OK
        value = self._memory.get(f"domain/data/{tag:04X}")
        if value is None:
            raise Refused(REFERENCE_NOT_FOUND)
        return tlv(tag, value), OK

    def _recognition(self) -> bytes:
        known = b"".join(tlv(tag, bytes.fromhex(value)) for tag, value in _RECOGNITION)
        protocols = dict.fromkeys(self._secure.protocol(kvn) for kvn in self._secure.key_versions())
        there = b"".join(tlv(0x64, tlv(0x06, _PROTOCOL_OID + bytes(protocol))) for protocol in protocols)
        return tlv(0x66, tlv(0x73, known + there))

    def _key_type(self) -> int:
        """The type of the keys that the session is for."""
        return _type_for(self._secure.used)

    def _key_templates(self) -> bytes:
        rows = b"".join(
            tlv(0xC0, bytes((number, kvn, _type_for(self._secure.protocol(kvn)), len(self._secure.keys(kvn).enc))))
            for kvn in self._secure.key_versions()
            for number in (1, 2, 3)
        )
        return tlv(0xE0, rows)

    # ------------------------------------------------------------------------------------------------------ life cycles

    def _get_status(self, command: Command, _: Session) -> Answer:
        if command.p2 not in (0x00, 0x02) or command.p1 not in (0x80, 0x40, 0x20, 0x10):
            raise Refused(WRONG_PARAMETERS)
        wanted = dict(objects(command.data)).get(0x4F)
        if wanted is None:
            raise Refused(WRONG_DATA)
        rows = [(aid, state) for aid, state in self._registry(command.p1) if aid.startswith(wanted)]
        if not rows:
            raise Refused(REFERENCE_NOT_FOUND)
        row = _status_template if command.p2 else _status_row
        return b"".join(row(aid, state) for aid, state in rows), OK

    def _registry(self, scope: int) -> Iterator[tuple[bytes, int]]:
        if scope == 0x80:
            yield self.aid, self.state
        elif scope == 0x40:
            there = (application for application in self._applications.values() if application.installed)
            yield from ((application.aid, application.state) for application in there)

    def _set_status(self, command: Command, _: Session) -> Answer:
        if command.p1 == 0x80:
            self._set_card_state(command.p2)
        elif command.p1 == 0x40:
            application = self._application(command.data)
            state = application.state & ~LOCKED | command.p2 & LOCKED
            self._memory[state_cell(command.data)] = bytes((state,))
        else:
            raise Refused(WRONG_PARAMETERS)
        return b"", OK

    def _set_card_state(self, state: int) -> None:
        """Forward only, but a locked card can be unlocked."""
        if state not in _STATES:
            raise Refused(WRONG_DATA)
        unlocks = (self.state, state) == (CARD_LOCKED, 0x0F)
        if _STATES.index(state) < _STATES.index(self.state) and not unlocks:
            raise Refused(CONDITIONS)
        self._memory["domain/state"] = bytes((state,))

    def _application(self, aid: bytes) -> Application:
        application = self._applications.get(aid)
        if application is None or not application.installed:
            raise Refused(REFERENCE_NOT_FOUND)
        return application

    def _delete(self, command: Command, _: Session) -> Answer:
        if command.p1 or command.p2 not in (0x00, 0x80):
            raise Refused(WRONG_PARAMETERS)
        named = dict(objects(command.data))
        if 0x4F in named:
            self._application(named[0x4F])
            self._memory.erase(f"application/{named[0x4F].hex().upper()}/")
        elif 0xD2 in named:
            self._delete_keys(named[0xD2])
        else:
            raise Refused(WRONG_DATA)
        return b"\x00", OK

    def _delete_keys(self, kvn: bytes) -> None:
        known = self._secure.key_versions()
        if len(kvn) != 1 or kvn[0] not in known:
            raise Refused(KEY_NOT_FOUND)
        if len(known) == 1:
            raise Refused(CONDITIONS)
        self._memory.erase(f"domain/keys/{kvn[0]:02X}/")

    # -------------------------------------------------------------------------------------------------- personalisation

    def _install(self, command: Command, _: Session) -> Answer:
        if (command.p1, command.p2) != (0x20, 0x00):
            raise Refused(WRONG_PARAMETERS)
        data = command.data
        if len(data) < 3 or data[:2] != b"\x00\x00":
            raise Refused(WRONG_DATA)
        aid, rest = data[3 : 3 + data[2]], data[3 + data[2] :]
        if len(aid) != data[2] or rest != bytes(3):
            raise Refused(WRONG_DATA)
        application = self._application(aid)
        if application.locked:
            raise Refused(CONDITIONS)
        application.reset()
        self._status = _Status(target=application)
        return b"\x00", OK

    def _store_data(self, command: Command, session: Session) -> Answer:
        target = self._status.target
        if target is None:
            return self._store_own(command, session)
        answer = target.store_data(command, session)
        if last_block(command):
            self._status = _Status()
        return answer

    def _store_own(self, command: Command, session: Session) -> Answer:
        if not command.data:
            raise Refused(WRONG_LENGTH)
        reader, groupings = self._status.reader.read(command)
        load = self._status.load
        for grouping in groupings:
            load = self._key_grouping(grouping, load, session)
        if load is not None and len(load.values) == len(load.checks):
            self._load_keys(load)
            load = None
        last = last_block(command)
        if last and load is not None:
            raise Refused(WRONG_DATA)
        self._status = _Status() if last else _Status(reader=reader, load=load)
        return b"", OK

    def _key_grouping(self, grouping: Grouping, load: _KeyLoad | None, session: Session) -> _KeyLoad:
        if grouping.tag == _KEY_ATTRIBUTES:
            return self._key_attributes(grouping.value)
        if grouping.tag != _KEY_VALUE:
            raise Refused(REFERENCE_NOT_FOUND)
        if load is None or len(load.values) == len(load.checks):
            raise Refused(CONDITIONS)
        value = session.deciphered(grouping.value)[: load.size]
        return _KeyLoad(load.kvn, load.size, load.checks, (*load.values, value))

    def _key_attributes(self, value: bytes) -> _KeyLoad:
        parts = objects(value)
        common = dict(objects(parts[0][1])) if parts and parts[0][0] == 0xB7 else {}
        each = [dict(objects(part)) for tag, part in parts[1:] if tag == 0xB9]
        sizes = (common.get(0x80), common.get(0x81), common.get(0x83))
        if [key.get(0x82) for key in each] != [b"\x01", b"\x02", b"\x03"] or None in sizes:
            raise Refused(WRONG_DATA)
        if common[0x80] != bytes((self._key_type(),)) or len(common[0x81] + common[0x83]) != 2:
            raise Refused(WRONG_DATA)
        checks = tuple(key.get(0x84, b"") for key in each)
        return _KeyLoad(common[0x83][0], common[0x81][0], checks)

    # ------------------------------------------------------------------------------------------------------------- keys

    def _put_key(self, command: Command, session: Session) -> Answer:
        if command.p2 != _ALL_KEYS:
            raise Refused(WRONG_PARAMETERS)
        known = self._secure.key_versions()
        if command.p1 and command.p1 not in known:
            raise Refused(KEY_NOT_FOUND)
        if not command.data:
            raise Refused(WRONG_LENGTH)
        kvn, rest = command.data[0], command.data[1:]
        if kvn in known and kvn != command.p1:
            raise Refused(WRONG_DATA)
        values, checks = [], []
        for _ in range(3):
            value, check, rest = self._key_field(rest, session)
            values.append(value)
            checks.append(check)
        if rest:
            raise Refused(WRONG_DATA)
        if command.p1:
            self._memory.erase(f"domain/keys/{command.p1:02X}/")
        self._load_keys(_KeyLoad(kvn, len(values[0]), tuple(checks), tuple(values)))
        return bytes((kvn,)) + b"".join(map(self._kcv, values)), OK

    def _key_field(self, data: bytes, session: Session) -> tuple[bytes, bytes, bytes]:
        """Key, check value and what follows: type ‖ length ‖ [length of the key ‖] enciphered key ‖ length ‖ check value.

        The length of the key stands there in Amendment D 7.2, and is left out by hosts that follow the Card Specification.
        """
        if len(data) < 2 or data[0] != self._key_type():
            raise Refused(WRONG_DATA)
        enciphered, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
        size = len(enciphered)
        if size % ciphers.AES_BLOCK == 1:
            size, enciphered = enciphered[0], enciphered[1:]
        if not rest or len(rest) < 1 + rest[0]:
            raise Refused(WRONG_DATA)
        check, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        return session.deciphered(enciphered)[:size], check, rest

    def _kcv(self, key: bytes) -> bytes:
        return ciphers.des_kcv(key) if self._key_type() == _DES_KEY else ciphers.aes_kcv(key)

    def _load_keys(self, load: _KeyLoad) -> None:
        sizes = {16} if self._key_type() == _DES_KEY else {16, 24, 32}
        if {len(value) for value in load.values} != {load.size} or load.size not in sizes:
            raise Refused(WRONG_DATA)
        if any(check and check != self._kcv(value) for check, value in zip(load.checks, load.values, strict=True)):
            raise Refused(WRONG_DATA)
        if not 1 <= load.kvn <= 0x7F:
            raise Refused(WRONG_DATA)
        enc, mac, dek = load.values
        self._secure.load(load.kvn, StaticKeys(enc, mac, dek), bytes(self._secure.used))


def _type_for(protocol: tuple[int, int]) -> int:
    return _DES_KEY if protocol[0] == SCP02 else _AES_KEY


def _status_template(aid: bytes, state: int) -> bytes:
    return tlv(0xE3, tlv(0x4F, aid) + tlv(0x9F70, bytes((state,))) + tlv(0xC5, b"\x00"))


def _status_row(aid: bytes, state: int) -> bytes:
    return bytes((len(aid),)) + aid + bytes((state, 0x00))


_HANDLERS: dict[int, Callable[[IssuerDomain, Command, Session], Answer]] = {
    0xD8: IssuerDomain._put_key,
    0xE2: IssuerDomain._store_data,
    0xE4: IssuerDomain._delete,
    0xE6: IssuerDomain._install,
    0xF0: IssuerDomain._set_status,
    0xF2: IssuerDomain._get_status,
}
