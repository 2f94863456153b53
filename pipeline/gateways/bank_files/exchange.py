"""Files by directory: we leave ours in one, find the bank's in another. How they travel from there is the site's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.errors import TransientError
from pipeline.ports import Arrived

_UNFINISHED = (".tmp", ".part", ".filepart")


class DirectoryExchange:
    """`ports.FileExchange` over two directories that must be there: one that is not mounted is never made in its place.

    Files that are read go into `history` or `errors` below `in_dir`. All of them hold personal data in clear, as banks want it.
    """

    def __init__(self, out_dir: Path, in_dir: Path) -> None:
        self._out = out_dir
        self._in = in_dir

    def __repr__(self) -> str:
        return f"DirectoryExchange({self._out}, {self._in})"

    def arrived(self) -> Sequence[Arrived]:
        """What lies there, by name; hidden files, and those that say by their ending that they are being written, are left alone."""
        with _reached("listed"), os.scandir(self._in) as entries:
            return sorted(
                (
                    Arrived(name=entry.name, size=entry.stat().st_size, mark=_mark(entry.stat()))
                    for entry in entries
                    if entry.is_file(follow_symlinks=False)
                    and not entry.name.startswith(".")
                    and not entry.name.endswith(_UNFINISHED)
                ),
                key=lambda file: file.name,
            )

    def read(self, file: Arrived) -> bytes:
        with _reached("read"), (self._in / file.name).open("rb") as opened:
            # What has grown since it was listed is not taken in whole to find that out.
            data = opened.read(file.size + 1)
            self._unchanged(file, os.fstat(opened.fileno()))
            return data

    def put(self, name: str, data: bytes) -> None:
        with _reached("written"):
            for left in self._out.glob(f"{name}.*.tmp"):  # by a process that died, or one that will fail and come again
                left.unlink(missing_ok=True)
            draft = self._out / f"{name}.{os.urandom(6).hex()}.tmp"
            # 0640: the group is that of the program which carries files to the bank.
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._out / name)
            _flush_directory(self._out)

    def move(self, file: Arrived, folder: Literal["history", "errors"], *, name: str) -> None:
        with _reached("moved"):
            place = self._in / folder
            place.mkdir(mode=0o750, exist_ok=True)
            self._unchanged(file, (self._in / file.name).stat())
            os.replace(self._in / file.name, place / name)
            _flush_directory(place)
            _flush_directory(self._in)

    @staticmethod
    def _unchanged(file: Arrived, now: os.stat_result) -> None:
        if _mark(now) != file.mark:
            raise TransientError("a file from the bank changed while it was looked at")


def _mark(stat: os.stat_result) -> str:
    return f"{stat.st_ino}/{stat.st_size}/{stat.st_mtime_ns}"


@contextmanager
def _reached(act: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise TransientError(f"the bank's directory: a file could not be {act}: {problem.strerror}") from problem


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
