"""A card printer that prints into a directory: `ports.Printer` for demonstrations, tests and printers fed by hand.

One PDF a job, a page a side, in true size. A file appears whole or not at all, and never twice under one name, also when
several processes print into the same directory. Faces show personal data: only this user can read what is printed here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from card_personalization.sheet import card
from pipeline.errors import TransientError
from pipeline.ports import PRINT_JOB_NAME, PrintJob, Printout


class PrinterDirectory:
    """Prints into `directory`, which is made when it is missing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"PrinterDirectory({self._directory})"

    def print(self, job: PrintJob) -> Printout:
        """Print a job, unless it was printed before; it is on the disk when this returns.

        Raises:
            FaceError: the sides are no faces of a card.
            TransientError: the disk did not take it.
        """
        place, document = self._place(job.name), card(job.sides)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(place, document)
        except OSError as problem:
            raise TransientError(f"the print directory cannot be written: {problem.strerror}") from problem
        return Printout(job=job.name, state="printed")

    def find(self, name: str) -> Printout | None:
        """What became of a job.

        Raises:
            TransientError: the directory cannot be read.
        """
        if not PRINT_JOB_NAME.fullmatch(name):
            return None
        try:
            self._place(name).stat()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise TransientError(f"the print directory cannot be read: {problem.strerror}") from problem
        return Printout(job=name, state="printed")

    def hindrances(self) -> tuple[str, ...]:
        """Nothing, or that the directory cannot be written."""
        nearest = next(place for place in (self._directory, *self._directory.parents) if place.exists())
        return () if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else ("spool-area-full",)

    def _place(self, name: str) -> Path:
        return self._directory / f"{name}.pdf"

    @staticmethod
    def _write(place: Path, document: bytes) -> None:
        draft = place.with_name(f".{place.name}.{os.urandom(6).hex()}.tmp")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # a rename would replace what is printed already
                os.link(draft, place)
            directory = os.open(place.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        finally:
            draft.unlink(missing_ok=True)
