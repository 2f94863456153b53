"""What was done to keys, by whom and when: a file that only grows, each line signed by both custodians.

One JSON object a line; `previous` is the SHA-256 of the line before, `signature` covers everything else in the line. So a line
that was changed, taken out or put in is seen when the file is next read; lines cut off its end are seen by whoever kept the
last one. Holds names, check values and times, never a key. Must not know where keys are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from card_personalization.errors import KeyRefused
from card_personalization.keys.base import KeyInfo
from card_personalization.keys.ceremony import KeyRequest, Safe
from card_personalization.keys.custody import Custody, DualControl
from card_personalization.keys.files import append_private, read_private

_NONE = ""
_NO_KCV = b""


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

    def witnessed(self) -> frozenset[tuple[str, int, str]]:
        """Name, version and check value (hex) of every key that both custodians made.

        Raises:
            KeyRefused: the file was altered, or is not to be read.
        """
        keys = [entry["key"] for entry in self.lines() if "key" in entry]
        return frozenset((key["name"], key["version"], key["kcv"]) for key in keys if key["kcv"])

    def note(self, what: str, *, control: DualControl, at: datetime, key: KeyInfo | None = None) -> None:
        """Add a line, durably. `at` is aware.

        Raises:
            KeyRefused: the file was altered, or is not to be read.
        """
        last = self._read()[-1][1] if self.path.exists() else None
        entry: dict[str, Any] = {
            "at": at.isoformat(timespec="seconds"),
            "what": what,
            "custodians": list(control.names),
            "previous": sha256(last).hexdigest() if last is not None else _NONE,
        }
        if key is not None:
            entry["key"] = {
                "name": key.name,
                "version": key.version,
                "algorithm": key.algorithm.value,
                "usage": key.usage.value,
                "owner": key.owner,
                "not_after": key.not_after.isoformat() if key.not_after else None,
                "kcv": key.kcv.hex().upper() or None,
            }
        append_private(self.path, _line({**entry, "signature": control.sign(_line(entry)).hex()}))

    def _read(self) -> list[tuple[dict[str, Any], bytes]]:
        read: list[tuple[dict[str, Any], bytes]] = []
        previous = _NONE
        for line in read_private(self.path).splitlines(keepends=True):
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
    """A `ceremony.Safe` that says in the log what will be done, and what was done: a key without its line is nobody's."""

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
        self._note("generating", request.info(_NO_KCV), control)
        return self._note("generated", self._safe.generate(request, control=control), control)

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl) -> KeyInfo:
        """Keep a key that was brought.

        Raises:
            KeyRefused: the safe does not take it, or the log was altered.
        """
        self._note("importing", request.info(_NO_KCV), control)
        return self._note("imported", self._safe.take(request, value, control=control), control)

    def _note(self, what: str, key: KeyInfo, control: DualControl) -> KeyInfo:
        self._log.note(what, control=control, at=self._now(), key=key)
        return key


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, sort_keys=True).encode() + b"\n"
