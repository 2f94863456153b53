"""What stops a station and keeps it stopped: a file that an operator's word takes away, and no restart.

Must not know cards, keys or readers: it is told how each card ended.
"""

from __future__ import annotations

import threading
from pathlib import Path

from card_personalization.keys.files import replace_private

MAX_SPOILED_IN_A_ROW = 3
"""Different blanks, one after the other, that came to nothing: the fault is then hardly theirs."""


class Halt:
    """Whether a station may work. Several threads may use it."""

    def __init__(self, file: Path, *, station: str) -> None:
        """A file that is there means stopped; what it holds is the reason.

        Raises:
            OSError: the file cannot be read.
        """
        self._file = file
        self._station = station
        self._changing = threading.Lock()
        self._spoiled: set[str] = set()
        self._reason = file.read_text("utf-8").strip() if file.exists() else None

    @property
    def reason(self) -> str | None:
        """Why the station has stopped, and what makes it go on; None while it works."""
        return self._reason

    def stop(self, reason: str) -> None:
        """Stop the station; of several reasons the first stays.

        Raises:
            OSError: the disk refuses; the station has stopped, but its next start will not know.
        """
        with self._changing:
            self._stop(reason)

    def good(self) -> None:
        """A card was made."""
        with self._changing:
            self._spoiled.clear()

    def spoiled(self, serial: str, problem: str | None) -> None:
        """A blank came to nothing; too many in a row stop the station.

        Raises:
            OSError: as `stop`.
        """
        with self._changing:
            self._spoiled.add(serial)
            if (n := len(self._spoiled)) >= MAX_SPOILED_IN_A_ROW:
                self._stop(
                    f"连续 {n} 张卡未制成，请检查卡型、读卡器和空白卡"
                    f" / {n} cards in a row were spoiled at {self._station}: check profile, reader and blanks ({problem})"
                )

    def go_on(self) -> None:
        """An operator has put it right.

        Raises:
            OSError: the file cannot be removed; the station stays stopped.
        """
        with self._changing:
            self._file.unlink(missing_ok=True)
            self._spoiled.clear()
            self._reason = None

    def _stop(self, reason: str) -> None:
        if self._reason is None:
            self._reason = f"{reason} → zhika encoder resume {self._station} --reason …"
            replace_private(self._file, self._reason.encode())
