"""The files of the social security application: TLV records of fixed length and binary files (LD/T 32), with who may do what.

The cells of a file are named by its path: `file/EF05/1` is a record, `file/EF07` a binary file, `file/DF01EF05/1` lies in a
directory. Must not know keys, commands or the line.
"""

from __future__ import annotations

from dataclasses import dataclass

from card_personalization.simulator.memory import Cells, Memory
from card_personalization.simulator.security import RK, UKSSSE

SSSE_NAME = bytes.fromhex("7378312E73682EC9E7BBE1B1A3D5CF")
ENVIRONMENT_NAME = bytes.fromhex("7378322E73682EC9E7BBE1B1A3D5CF")
MASTER_FILE = 0x3F00
DIRECTORY_NAMES = {
    bytes.fromhex("D156000005") + bytes((number,)): directory
    for number, directory in (
        (0x00, 0xDF01),
        (0x01, 0xDF02),
        (0x02, 0xDF03),
        (0x03, 0xDF04),
        (0x04, 0xDF05),
        (0x05, 0xDF06),
        (0x0A, 0xDF07),
    )
}

FREE = "free"
PIN = "pin"
Condition = str | int
"""Who may: everybody, who gave the PIN, or who proved the key of this id."""

_ERASED = 0xFF
_EXTENSION = 0x4E
_UK1, _UK2, _UK3, _UK4, _UK5 = range(0x83, 0x88)

_RECORDS = {
    (0, 0xEF05): ((0x01, 16), (0x02, 1), (0x03, 4), (0x04, 12), (0x05, 4), (0x06, 4), (0x07, 9)),
    (0, 0xEF06): ((0x08, 18), (0x09, 30), (_EXTENSION, 20), (0x0A, 1), (0x0B, 1), (0x0C, 3), (0x0D, 4)),
    (0xDF01, 0xEF05): ((0x20, 2), (0x21, 80), (0x0E, 3)),
    (0xDF01, 0xEF06): ((0x23, 80), (0x24, 3), (0x28, 15), (0x2C, 50), (0x2D, 15)),
    **{(0xDF01, file): () for file in (*range(0xEF07, 0xEF0B), *range(0xEF16, 0xEF1B))},
}
_FINGERPRINT_SIZE = {"1.00": 0x300, "2.00": 0x400}
_PHOTO_SIZE = 0x1000


@dataclass(frozen=True, slots=True)
class Access:
    """What suffices to read and to write; one of several is enough."""

    read: tuple[Condition, ...]
    write: tuple[Condition, ...]


_ACCESS = {
    (0, 0xEF05): Access((FREE,), (UKSSSE,)),
    (0, 0xEF06): Access((FREE,), (UKSSSE,)),
    (0, 0xEF07): Access((RK,), (UKSSSE,)),
    (0, 0xEF08): Access((RK,), (UKSSSE,)),
    (0xDF01, 0xEF05): Access((PIN,), (_UK1,)),
    (0xDF01, 0xEF06): Access((PIN,), (_UK4,)),
    (0xDF01, 0xEF07): Access((PIN, _UK2), (_UK2,)),
    (0xDF01, 0xEF08): Access((PIN,), (_UK3,)),
    (0xDF01, 0xEF09): Access((PIN, _UK2), (_UK2,)),
    (0xDF01, 0xEF0A): Access((PIN,), (_UK5,)),
    **{(0xDF01, file): Access((FREE,), (_UK1,)) for file in range(0xEF16, 0xEF1B)},
}


@dataclass(frozen=True, slots=True)
class ElementaryFile:
    """A file of the application (`directory` 0) or of a directory in it."""

    directory: int
    identifier: int

    @property
    def access(self) -> Access:
        """Who may read and write it."""
        return _ACCESS[self.directory, self.identifier]

    @property
    def binary(self) -> bool:
        """Whether it has no records."""
        return (self.directory, self.identifier) not in _RECORDS

    @property
    def cell(self) -> str:
        """The name of its cell, or the beginning of its records' names."""
        return f"file/{self.directory:04X}{self.identifier:04X}" if self.directory else f"file/{self.identifier:04X}"

    def record_by_number(self, memory: Memory, number: int) -> str | None:
        """The cell of the record `number`, counted from 1."""
        name = f"{self.cell}/{number}"
        return name if memory.get(name) is not None else None

    def record_by_tag(self, memory: Memory, tag: int) -> str | None:
        """The cell of the record that begins with `tag`."""
        return next((name for name in memory.names(f"{self.cell}/") if memory[name][0] == tag), None)


def elementary_file(directory: int, identifier: int) -> ElementaryFile | None:
    """The file with this identifier, or None."""
    return ElementaryFile(directory, identifier) if (directory, identifier) in _ACCESS else None


def blank_files(version: str) -> Cells:
    """All files as they leave the factory: every value all ones. Version 1.00 has no record for the rest of a long name."""
    cells = {}
    for (directory, identifier), layout in _RECORDS.items():
        present = [entry for entry in layout if version != "1.00" or entry[0] != _EXTENSION]
        for number, (tag, size) in enumerate(present, start=1):
            name = f"{ElementaryFile(directory, identifier).cell}/{number}"
            cells[name] = bytes((tag, size)) + bytes((_ERASED,)) * size
    cells["file/EF07"] = bytes((_ERASED,)) * _FINGERPRINT_SIZE[version]
    cells["file/EF08"] = bytes((_ERASED,)) * _PHOTO_SIZE
    return cells
