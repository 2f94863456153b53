"""The files of the social security application of a virtual card: TLV records of fixed length (LD/T 32).

Must not know access rights, keys or the line.
"""

from dataclasses import dataclass, field

SSSE_NAME = bytes.fromhex("7378312E73682EC9E7BBE1B1A3D5CF")
MASTER_FILE = 0x3F00

_ERASED = 0xFF
_EF05 = ((0x01, 16), (0x02, 1), (0x03, 4), (0x04, 12), (0x05, 4), (0x06, 4), (0x07, 9))
_EF06 = ((0x08, 18), (0x09, 30), (0x4E, 20), (0x0A, 1), (0x0B, 1), (0x0C, 3), (0x0D, 4))
_EXTENSION = 0x4E


@dataclass(slots=True)
class RecordFile:
    """Records in order, each kept as its whole TLV."""

    records: list[bytes] = field(default_factory=list)

    @classmethod
    def erased(cls, layout: tuple[tuple[int, int], ...]) -> "RecordFile":
        """A file as it leaves the factory: every value all ones."""
        return cls([bytes((tag, size)) + bytes((_ERASED,)) * size for tag, size in layout])

    def by_number(self, number: int) -> bytes | None:
        """The record `number`, counted from 1."""
        return self.records[number - 1] if 1 <= number <= len(self.records) else None

    def by_tag(self, tag: int) -> bytes | None:
        """The record whose first byte is `tag`."""
        return next((record for record in self.records if record[0] == tag), None)

    def accepts(self, number: int, record: bytes) -> bool:
        """Whether `record` has the tag and length that record `number` was created with."""
        there = self.by_number(number)
        return there is not None and len(record) == len(there) and record[:2] == there[:2]

    def update(self, number: int, record: bytes) -> None:
        """Replace a record that `accepts` allowed."""
        self.records[number - 1] = record


def blank_files(version: str) -> dict[int, RecordFile]:
    """EF05 and EF06 of a blank. Version 1.00 has no record for the rest of a long name."""
    person = tuple(entry for entry in _EF06 if version != "1.00" or entry[0] != _EXTENSION)
    return {0xEF05: RecordFile.erased(_EF05), 0xEF06: RecordFile.erased(person)}
