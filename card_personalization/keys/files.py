"""Files with secrets in them: only their owner may read them, a change is whole or not at all, and one at a time makes it.

Must not know what is in a file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from card_personalization.errors import KeyRefused

_PRIVATE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private(path: Path) -> bytes:
    """What is in a file.

    Raises:
        KeyRefused: there is no such file, or others than its owner may touch it.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _OTHERS:
                raise KeyRefused(f"{path} 可被他人访问，请执行 chmod 600 / others may touch it: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise KeyRefused(f"{path} 无法读取 cannot be read: {error.strerror}") from error


def read_secret(path: Path) -> bytes:
    """The one line of a private file that holds a passphrase or a PIN, without its line end.

    Raises:
        KeyRefused: there is no such file, others may touch it, or it is empty.
    """
    secret = read_private(path).rstrip(b"\r\n")
    if not secret:
        raise KeyRefused(f"{path} 是空文件 is empty")
    return secret


def create_private(path: Path, data: bytes) -> None:
    """Write a new file durably.

    Raises:
        KeyRefused: there is one already; it is left as it is.
        OSError: the disk refuses.
    """
    _put(path, data, into_place=os.link)


def replace_private(path: Path, data: bytes) -> None:
    """Put new content in the place of a file, durably: a crash leaves the old one or the new one.

    Raises:
        OSError: the disk refuses.
    """
    _put(path, data, into_place=os.replace)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, durably: all of it or nothing. What a crash left of an earlier one is taken away.

    Raises:
        KeyRefused: there is no such file, or others than its owner may touch it.
        OSError: the disk refuses.
    """
    end = len(whole_lines(read_private(path)))
    with path.open("r+b", buffering=0) as file:
        try:
            file.truncate(end)
            file.seek(end)
            left = line
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def whole_lines(data: bytes) -> bytes:
    """All that has a line end; the rest is a line that was never written whole."""
    return data[: data.rfind(b"\n") + 1]


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for everybody who asked for this file before, in this process and in others, until they are done or replaced it.

    Raises:
        KeyRefused: there is no such file.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise KeyRefused(f"{path} 无法读取 cannot be read: {error.strerror}") from error
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _put(path: Path, data: bytes, *, into_place: Callable[[Path, Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        into_place(mine, path)
    except FileExistsError as error:
        raise KeyRefused(f"{path} 已存在 is there already; it is never overwritten") from error
    finally:
        mine.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
