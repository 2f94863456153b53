"""What was done to keys, by whom and when: a file that only grows, each line signed by both custodians.

One JSON object a line; `previous` is the SHA-256 of the line before, `signature` covers everything else in the line. So a line
that was changed, taken out or put in is seen when the file is next read; lines cut off its end are seen by whoever kept the
last one. A key's line is written, with its check value, before the key is kept, so a crash leaves a line without a key and
never a key without a line; and a line without its end was never acted upon, and is passed over. Holds names, check values and
times, never a key. Must not know where keys are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import Algorithm, KeyInfo, KeyRef, Usage
from card_personalization.keys.ceremony import KeyRequest, Safe, Witness
from card_personalization.keys.custody import Custody, DualControl
from card_personalization.keys.files import append_line, create_private, exclusive, read_private, whole_lines

_NONE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CeremonyLog:
    """The log of one installation."""

    path: Path
    custody: Custody

    def lines(self) -> tuple[dict[str, Any], ...]:
        """Everything that was done, oldest first.

        Raises:
            KeyRefused: the file was altered, or is not to be read.
        """
        if not self.path.exists():
            return ()
        return tuple(entry for entry, _ in self._read())

    def witnessed(self) -> frozenset[KeyInfo]:
        """Every key that both custodians made or were about to.

        Raises:
            KeyRefused: the file was altered, or is not to be read.
        """
        return frozenset(_info(entry["key"]) for entry in self.lines() if "key" in entry)

    def vet(self, kept: Iterable[KeyInfo]) -> None:
        """Refuse keys that no ceremony made, or that are not what it made them.

        Raises:
            KeyRefused: some are, by name and version; or the file was altered, or is not to be read.
        """
        witnessed = self.witnessed()
        if strangers := [str(KeyRef(info.name, info.version)) for info in kept if info not in witnessed]:
            raise KeyRefused(
                f"密钥 {', '.join(strangers)} 未经仪式，{self.path} 中没有记录；请从密钥库删除，或恢复该日志"
                f" / no ceremony in {self.path} made the keys {', '.join(strangers)}:"
                " remove them from the key store, or restore the log from a backup"
            )

    def note(self, what: str, *, control: DualControl, at: datetime, key: KeyInfo | None = None) -> None:
        """Add a line, durably. `at` is aware.

        Raises:
            KeyRefused: the file was altered, or is not to be read.
            OSError: the disk refuses; the file is as it was.
        """
        if not self.path.exists():
            with suppress(KeyRefused):
                create_private(self.path, b"")
        with exclusive(self.path):
            read = self._read()
            entry: dict[str, Any] = {
                "at": at.isoformat(timespec="seconds"),
                "what": what,
                "custodians": list(control.names),
                "previous": sha256(read[-1][1]).hexdigest() if read else _NONE,
            }
            if key is not None:
                entry["key"] = _told(key)
            append_line(self.path, _line({**entry, "signature": control.sign(_line(entry)).hex()}))

    def _read(self) -> list[tuple[dict[str, Any], bytes]]:
        read: list[tuple[dict[str, Any], bytes]] = []
        previous = _NONE
        for line in whole_lines(read_private(self.path)).splitlines(keepends=True):
            try:
                entry: dict[str, Any] = json.loads(line)
                signature = bytes.fromhex(entry.pop("signature"))
                sound = entry["previous"] == previous and self.custody.signed(_line(entry), signature)
            except (ValueError, KeyError, TypeError, AttributeError):
                sound = False
            if not sound:
                raise KeyRefused(
                    f"{self.path} 第 {len(read) + 1} 行被改动 line {len(read) + 1} was altered: restore it from a backup"
                )
            read.append((entry, line))
            previous = sha256(line).hexdigest()
        return read


class WitnessedSafe:
    """A `ceremony.Safe` with the log as its witness: what is about to be kept is written down first, and again when it is kept."""

    def __init__(self, safe: Safe, *, log: CeremonyLog, now: Callable[[], datetime]) -> None:
        self._safe = safe
        self._log = log
        self._now = now

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is.

        Raises:
            KeyRefused: the safe does not answer.
        """
        return self._safe.keys()

    def generate(self, request: KeyRequest, *, control: DualControl) -> KeyInfo:
        """Make a random key.

        Raises:
            KeyRefused: the safe does not take it, or the log was altered.
        """
        made = self._safe.generate(request, control=control, witness=self._noting("generating", control))
        self._noting("generated", control)(made)
        return made

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl) -> KeyInfo:
        """Keep a key that was brought.

        Raises:
            KeyRefused: the safe does not take it, or the log was altered.
        """
        taken = self._safe.take(request, value, control=control, witness=self._noting("importing", control))
        self._noting("imported", control)(taken)
        return taken

    def _noting(self, what: str, control: DualControl) -> Witness:
        return lambda key: self._log.note(what, control=control, at=self._now(), key=key)


def _told(key: KeyInfo) -> dict[str, Any]:
    return {
        "name": key.name,
        "version": key.version,
        "algorithm": key.algorithm.value,
        "usage": key.usage.value,
        "owner": key.owner,
        "not_after": key.not_after.isoformat() if key.not_after else None,
        "kcv": key.kcv.hex().upper(),
    }


def _info(told: dict[str, Any]) -> KeyInfo:
    return KeyInfo(
        name=told["name"],
        version=told["version"],
        algorithm=Algorithm(told["algorithm"]),
        usage=Usage(told["usage"]),
        kcv=bytes.fromhex(told["kcv"]),
        owner=told["owner"],
        not_after=date.fromisoformat(told["not_after"]) if told["not_after"] else None,
    )


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, sort_keys=True).encode() + b"\n"
