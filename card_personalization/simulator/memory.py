"""The card's non-volatile memory: named cells, changed by whole commands, kept in one append-only file.

A line of the file is a checksum and the cells that one command changed; the first line is the whole card. A command is
done when its line is whole. Whoever inserts the card writes the file anew under its name, and the former holder, who
finds its file without a name, has lost the card: a card is in one reader.
Must not know what a cell means.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from card_personalization.errors import CardError, CardLost

Cells = dict[str, bytes]
Changes = Mapping[str, bytes | None]


class Memory:
    """Cells by name. Changes are seen at once and kept by `commit`; `save` has them before they count."""

    def __init__(self, cells: Cells, save: Callable[[Changes], None]) -> None:
        self._cells = cells
        self._save = save
        self._changed: dict[str, bytes | None] = {}

    def __getitem__(self, name: str) -> bytes:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str) -> bytes | None:
        """The cell, or None when there is none."""
        return self._changed[name] if name in self._changed else self._cells.get(name)

    def __setitem__(self, name: str, value: bytes) -> None:
        self._changed[name] = value

    def erase(self, prefix: str) -> None:
        """Remove the cells whose names begin so."""
        for name in self.names(prefix):
            self._changed[name] = None

    def names(self, prefix: str) -> tuple[str, ...]:
        """The names that begin so, as they were created."""
        known = {**self._cells, **self._changed}
        return tuple(name for name in known if name.startswith(prefix) and self.get(name) is not None)

    def commit(self) -> None:
        """Keep what changed.

        Raises:
            CardLost: another reader has the card; nothing is kept.
        """
        changed = {name: value for name, value in self._changed.items() if self._cells.get(name) != value}
        self._changed = {}
        if not changed:
            return
        self._save(changed)
        _apply(self._cells, changed)

    def rollback(self) -> None:
        """Forget what changed since the last `commit`."""
        self._changed = {}


class CardFile:
    """A card's file, held open by the reader the card is in. `durable` flushes every line to the disk."""

    def __init__(self, path: Path, fresh: Callable[[], Cells], *, durable: bool) -> None:
        self._durable = durable
        with _newest(path):
            self.cells = read_cells(path) or fresh()
            self._descriptor = _rewritten(path, _line(self.cells), durable=durable)
        self._release = weakref.finalize(self, os.close, self._descriptor)

    @property
    def taken(self) -> bool:
        """Whether another reader has the card now."""
        return not self._release.alive or os.fstat(self._descriptor).st_nlink == 0

    def append(self, changes: Changes) -> None:
        """Keep the changes of one command.

        Raises:
            CardLost: another reader has the card.
            OSError: the disk is full; nothing was kept.
        """
        with _locked(self._descriptor):
            if self.taken:
                raise CardLost("the card is in another reader")
            _write(self._descriptor, _line(changes))
            if self._durable:
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._release()


def read_cells(path: Path) -> Cells:
    """The cells of a card's file; empty when there is none. An unfinished last line was never answered and is left out.

    Raises:
        CardError: the file is not one of a virtual card, or damaged.
    """
    cells: Cells = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return cells
    for number, line in enumerate(lines[:-1], start=1):
        checksum, _, text = line.partition(b" ")
        if checksum != _checksum(text):
            raise CardError(
                f"虚拟卡文件第 {number} 行损坏，请从备份恢复或删除以得到新的空白卡 | "
                f"virtual card file damaged at line {number}: restore it, or delete it to have a new blank"
            )
        changes: dict[str, str | None] = json.loads(text)
        _apply(cells, {name: None if value is None else bytes.fromhex(value) for name, value in changes.items()})
    return cells


def _apply(cells: Cells, changes: Changes) -> None:
    for name, value in changes.items():
        if value is None:
            cells.pop(name, None)
        else:
            cells[name] = value


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _line(cells: Changes) -> bytes:
    shown = {name: None if value is None else value.hex() for name, value in cells.items()}
    text = json.dumps(shown, separators=(",", ":")).encode("ascii")
    return _checksum(text) + b" " + text + b"\n"


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def _newest(path: Path) -> Iterator[None]:
    """Hold the lock of the file that bears the name; whoever takes a card waits for the command in progress."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with _locked(descriptor):
                if os.fstat(descriptor).st_nlink:
                    yield
                    return
        finally:
            os.close(descriptor)


def _rewritten(path: Path, content: bytes, *, durable: bool) -> int:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    _write(descriptor, content)
    if durable:
        os.fsync(descriptor)
    fresh.replace(path)
    if durable:
        _flush_directory(path.parent)
    return descriptor


def _write(descriptor: int, content: bytes) -> None:
    """All of it or nothing: half a line would spoil the next one."""
    size = os.fstat(descriptor).st_size
    if os.write(descriptor, content) != len(content):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, "the card's file could not grow")


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
