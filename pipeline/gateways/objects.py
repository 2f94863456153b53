"""Photos and other bytes at rest: encrypted, named after their content, erasable. Knows nothing of what the bytes are.

A name is a keyed digest (HMAC-SHA-256). A plain digest would do for finding bytes again, but whoever holds a photo of somebody
could then tell from a directory listing or a backup whether that person has a card; without the key a name says nothing.

Equal bytes have one object. Who erases must therefore know that nobody else refers to it, and may not see somebody who has just put
the bytes again and is about to commit a reference: so an object remembers when it was last put.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.clock import Clock, SystemClock
from pipeline.errors import Defect, NotFound, TransientError

_NAME = re.compile(r"[0-9a-f]{64}")
_KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12  # NIST SP 800-38D, 8.2
_LOCK = ".lock"
_FAN_OUT = 3  # hex digits: 4096 directories, so twenty million objects are five thousand a directory


def _subkey(key: bytes, purpose: str) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError(f"the object store's key must be {_KEY_BYTES} bytes")
    return hmac.new(key, b"zhika/objects/1/" + purpose.encode(), hashlib.sha256).digest()


def _not_found() -> NotFound:
    return NotFound("没有这个对象,或已删除", "no such object, or it was erased", code="object.not_found")


class ObjectMemory:
    """`ports.ObjectStore` in memory, for tests and the demo: same names, nothing on disk."""

    def __init__(self, *, key: bytes, clock: Clock | None = None) -> None:
        """`clock` tells when objects were put; it may be exchanged. Raises `ValueError` when the key is not 32 bytes."""
        self.clock: Clock = clock or SystemClock()
        self._naming = _subkey(key, "name")
        self._objects: dict[str, bytes] = {}
        self._put_at: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def put(self, data: bytes) -> str:
        name = hmac.new(self._naming, data, hashlib.sha256).hexdigest()
        with self._lock:
            self._objects[name] = bytes(data)
            self._put_at[name] = self.clock.now()
        return name

    def get(self, name: str) -> bytes:
        """Raises `NotFound` for what was erased or never kept."""
        if name not in self._objects:
            raise _not_found()
        return self._objects[name]

    def erase(self, name: str, *, unused_for: timedelta) -> Literal["erased", "absent", "in_use"]:
        with self._lock:
            if name not in self._objects:
                return "absent"
            if self.clock.now() - self._put_at[name] < unused_for:
                return "in_use"
            del self._objects[name], self._put_at[name]
        return "erased"


class ObjectDirectory:
    """`ports.ObjectStore` in a directory tree, one file an object.

    A file is `1 B version ‖ 12 B nonce ‖ AES-256-GCM ciphertext and tag`, bound to its name: bytes copied over another object
    do not open. It is written beside its place, flushed and renamed, so a crash leaves the whole object or none.

    Its modification time is that of its last put. One lock for all processes of the installation (`flock`, gone with its holder)
    keeps a put from renewing that time between the look at it and the removal. A new object needs no lock: its time is new.
    """

    def __init__(self, root: Path, *, key: bytes, clock: Clock | None = None) -> None:
        """`clock` is compared with the file system's. Raises `ValueError` when the key is not 32 bytes."""
        self._root = root
        self._clock: Clock = clock or SystemClock()
        self._naming = _subkey(key, "name")
        self._cipher = AESGCM(_subkey(key, "seal"))

    def put(self, data: bytes) -> str:
        """Keep bytes and return their name; they are on the disk when it returns.

        Raises:
            TransientError: the disk did not take them.
        """
        name = hmac.new(self._naming, data, hashlib.sha256).hexdigest()
        place = self._place(name)
        try:
            if not (place.exists() and self._renewed(place)):
                self._make_room(place.parent)
                self._write(place, self._seal(name, data))
            _flush_directory(place.parent)  # also for one already there: its writer may have died before this line
        except OSError as problem:
            raise TransientError(f"the object store cannot be written: {problem.strerror}") from problem
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a name.

        Raises:
            NotFound: they were erased or never kept.
            Defect: the file was altered, moved from another name, or written under another key.
            TransientError: the disk cannot be read.
        """
        try:
            sealed = self._place(name).read_bytes()
        except FileNotFoundError:
            raise _not_found() from None
        except OSError as problem:
            raise TransientError(f"the object store cannot be read: {problem.strerror}") from problem
        return self._open(name, sealed)

    def erase(self, name: str, *, unused_for: timedelta) -> Literal["erased", "absent", "in_use"]:
        """Remove an object for good, unless it was put within `unused_for`; the removal is on the disk when it returns.

        Raises:
            TransientError: the disk cannot be written, or the whole store is not there (a disk that is not mounted).
        """
        try:
            place = self._place(name)
        except NotFound:
            return "absent"
        try:
            with self._locked():
                outcome = self._removed(place, unused_for)
            if outcome != "in_use" and place.parent.is_dir():
                _flush_directory(place.parent)  # also when it was gone: who removed it may have died before this line
        except OSError as problem:
            raise TransientError(f"the object store cannot be written: {problem.strerror}") from problem
        return outcome

    def _removed(self, place: Path, unused_for: timedelta) -> Literal["erased", "absent", "in_use"]:
        try:
            with place.open("rb") as file:  # a network file system tells the true time of an opened file only
                put_at = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return "absent"
        if self._clock.now().timestamp() - put_at < unused_for.total_seconds():
            return "in_use"
        place.unlink()
        return "erased"

    def _renewed(self, place: Path) -> bool:
        with self._locked():
            try:
                os.utime(place)
            except FileNotFoundError:  # erased a moment ago
                return False
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do where another thread has forked meanwhile
            os.close(handle)

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise _not_found()
        return self._root / name[:_FAN_OUT] / name

    def _make_room(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        _flush_directory(self._root)

    @staticmethod
    def _write(place: Path, sealed: bytes) -> None:
        draft = place.with_name(f".{place.name}.{os.urandom(6).hex()}.tmp")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def _seal(self, name: str, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, data, _VERSION + name.encode())

    def _open(self, name: str, sealed: bytes) -> bytes:
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._cipher.decrypt(nonce, body, _VERSION + name.encode())
        except InvalidTag:
            raise Defect(f"object {name[:8]}: altered, moved, or sealed under another key") from None


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
