"""Secure channel sessions of a card: who opened one, with which key version, and which commands it lets through.

Every application under the security domain shares its keys and uses the channel in its own name (GlobalPlatform Card
Specification 10, D, E; Amendment D). Must not know what the commands inside do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

from card_personalization.simulator import channel
from card_personalization.simulator.channel import C_MAC, SCP02, Scp02, Scp03, Session, StaticKeys
from card_personalization.simulator.command import (
    AUTHENTICATION_FAILED,
    CONDITIONS,
    KEY_NOT_FOUND,
    MESSAGING_NOT_SUPPORTED,
    NO_RIGHTS,
    OK,
    WRONG_LENGTH,
    WRONG_PARAMETERS,
    Answer,
    Command,
    Refused,
)
from card_personalization.simulator.configuration import key_cells
from card_personalization.simulator.faults import FaultKind
from card_personalization.simulator.memory import Memory

FAILURE_LIMIT = 10
"""Failed authentications after which the domain answers 6985 for ever."""

_INITIALIZE_UPDATE = (0x80, 0x50)
EXTERNAL_AUTHENTICATE = (0x84, 0x82)


class Target(Protocol):
    """An application behind the channel. `without_session` answers a command that claims a session there is not."""

    aid: bytes
    without_session: int

    def handle(self, command: Command, session: Session | None) -> Answer:
        """Carry out a plain command."""

    def reset(self) -> None:
        """A new session begins."""


@dataclass(slots=True)
class _Opening:
    kvn: int
    session: Session


class SecureChannel:
    """The one session a card can have; `session` is there once the host is authenticated."""

    def __init__(self, memory: Memory, random: Callable[[int], bytes]) -> None:
        self._memory = memory
        self._random = random
        self._opening: _Opening | None = None
        self.session: Session | None = None
        self.used = (0, 0)
        """SCP and i of the session."""

    def reset(self) -> None:
        """End the session."""
        self._opening = None
        self.session = None

    def process(self, command: Command, target: Target, fault: FaultKind | None) -> Answer:
        """Take secure messaging off, let `target` carry the command out, put secure messaging on its answer.

        Raises:
            Refused: the status word says why; an answer with an error carries no MAC.
        """
        name = (command.cla, command.ins)
        if name == _INITIALIZE_UPDATE:
            return self._initialize_update(command, target.aid, fault)
        if name == EXTERNAL_AUTHENTICATE:
            return self._external_authenticate(command, target, fault)
        session = self.session
        if session is not None and session.level & C_MAC:
            return self._protected(command, session, target, fault)
        if command.secured:
            if session is not None:
                raise Refused(MESSAGING_NOT_SUPPORTED)
            raise Refused(target.without_session)
        return target.handle(command, session)

    def _protected(self, command: Command, session: Session, target: Target, fault: FaultKind | None) -> Answer:
        if not command.secured:
            raise Refused(NO_RIGHTS)
        try:
            plain = session.unwrap(command, check=fault is not FaultKind.CMAC_UNCHECKED)
        except Refused:
            self.reset()
            raise
        body, sw = target.handle(plain, session)
        return session.wrap(body, sw), sw

    def _initialize_update(self, command: Command, aid: bytes, fault: FaultKind | None) -> Answer:
        self.reset()
        if self._memory["domain/failures"][0] >= FAILURE_LIMIT:
            raise Refused(CONDITIONS)
        if command.p2:
            raise Refused(WRONG_PARAMETERS)
        kvn = self._key_version(command.p1)
        scp, i = self.protocol(kvn)
        size = channel.challenge_size(scp, i)
        if len(command.data) != size:
            raise Refused(WRONG_LENGTH)
        keys, counter = self.keys(kvn), self.counter(kvn)
        random = self._challenge(kvn, aid, size)
        kdd, head = self._memory["domain/data/00CF"], bytes((kvn, scp))
        session: Session
        if scp == SCP02:
            session = Scp02(keys, counter=counter, host=command.data, card=random)
            head, tail = head + counter.to_bytes(2, "big"), b""
        else:
            session = Scp03(keys, i=i, host=command.data, card=random)
            head, tail = head + bytes((i,)), self._visible_counter(i, counter)
        self._opening = _Opening(kvn, session)
        cryptogram = session.card_cryptogram
        if fault is FaultKind.WRONG_CRYPTOGRAM:
            cryptogram = bytes((cryptogram[0] ^ 0x01,)) + cryptogram[1:]
        return kdd + head + random + cryptogram + tail, OK

    def _visible_counter(self, i: int, counter: int) -> bytes:
        return counter.to_bytes(3, "big") if i & channel.I_PSEUDO_RANDOM[channel.SCP03] else b""

    def _challenge(self, kvn: int, aid: bytes, size: int) -> bytes:
        keys, counter, (scp, i) = self.keys(kvn), self.counter(kvn), self.protocol(kvn)
        if not i & channel.I_PSEUDO_RANDOM[scp]:
            return self._random(6 if scp == SCP02 else size)
        if scp == SCP02:
            return channel.scp02_challenge(keys, counter, aid)
        return channel.scp03_challenge(keys, counter, aid, size)

    def _external_authenticate(self, command: Command, target: Target, fault: FaultKind | None) -> Answer:
        opening, session = self._opening, None if self._opening is None else self._opening.session
        self.reset()
        if opening is None or session is None:
            raise Refused(CONDITIONS)
        if command.p2 or command.p1 not in channel.levels(*self.protocol(opening.kvn)):
            raise Refused(WRONG_PARAMETERS)
        if len(command.data) != len(session.host_cryptogram) + session.mac_size:
            raise Refused(WRONG_LENGTH)
        if not compare_digest(command.data[: -session.mac_size], session.host_cryptogram):
            return self._failed(AUTHENTICATION_FAILED)
        try:
            session.verified(command, check=fault is not FaultKind.CMAC_UNCHECKED)
        except Refused as refused:
            return self._failed(refused.sw)
        self._memory["domain/failures"] = b"\x00"
        if fault is not FaultKind.COUNTER_STUCK:
            self._count(opening.kvn)
        session.level = command.p1
        self.session, self.used = session, self.protocol(opening.kvn)
        target.reset()
        return b"", OK

    def _failed(self, sw: int) -> Answer:
        self._memory["domain/failures"] = bytes((self._memory["domain/failures"][0] + 1,))
        return b"", sw

    def key_versions(self) -> tuple[int, ...]:
        """The key versions on the card; the first is the default."""
        names = self._memory.names("domain/keys/")
        return tuple(dict.fromkeys(int(name.split("/")[2], 16) for name in names))

    def keys(self, kvn: int) -> StaticKeys:
        """The keys of one version."""
        enc, mac, dek = (self._memory[f"domain/keys/{kvn:02X}/{name}"] for name in ("enc", "mac", "dek"))
        return StaticKeys(enc, mac, dek)

    def protocol(self, kvn: int) -> tuple[int, int]:
        """SCP and i that one version of keys is for."""
        scp, i = self._memory[f"domain/keys/{kvn:02X}/protocol"]
        return scp, i

    def counter(self, kvn: int) -> int:
        """The sequence counter of one key version: the value for its next session."""
        return int.from_bytes(self._memory[f"domain/keys/{kvn:02X}/counter"], "big")

    def load(self, kvn: int, keys: StaticKeys, protocol: bytes) -> None:
        """Put a key version on the card; its counter begins at 1."""
        for name, value in key_cells(kvn, keys, 1, protocol).items():
            self._memory[name] = value

    def _key_version(self, kvn: int) -> int:
        known = self.key_versions()
        if kvn == 0:
            return known[0]
        if kvn not in known:
            raise Refused(KEY_NOT_FOUND)
        return kvn

    def _count(self, kvn: int) -> None:
        counter = self.counter(kvn) + 1
        if counter > (0xFFFF if self.protocol(kvn)[0] == SCP02 else 0xFFFFFF):
            raise Refused(CONDITIONS)
        self._memory[f"domain/keys/{kvn:02X}/counter"] = counter.to_bytes(3, "big")
