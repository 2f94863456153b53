"""What is on a virtual card, for tests in process: files, check values of keys, counters and life cycles, never a key or PIN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from card_personalization.simulator import ciphers
from card_personalization.simulator.channel import SCP02
from card_personalization.simulator.memory import Cells

_SECRET_GROUPINGS = frozenset({0x8000, 0x8400, 0x8010, *range(0x8201, 0x8206), 0x8501, 0x8502})


@dataclass(frozen=True, slots=True)
class FileView:
    """A file: its records in order, or the content of a binary one."""

    records: tuple[bytes, ...] = field(default=(), repr=False)
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class SecretView:
    """A key or PIN: its check value (of a key), how many tries it has and how many are left."""

    limit: int
    left: int
    kcv: bytes | None = None


@dataclass(frozen=True, slots=True)
class DomainView:
    """The security domain: life cycle, protocol, failed authentications; check values and counter by key version."""

    state: int
    scp: int
    i: int
    failures: int
    kcvs: Mapping[int, tuple[bytes, bytes, bytes]]
    counters: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ApplicationView:
    """An application: life cycle, the groupings it holds, values of those that are no secret, check values of its keys."""

    state: int
    groupings: frozenset[int]
    values: Mapping[int, bytes] = field(repr=False)
    kcvs: bytes | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A whole card. `files` by identifier, those of a directory by both, as 0xDF01EF05; `applications` by name."""

    atr: bytes
    version: str
    method: str
    files: Mapping[int, FileView]
    keys: Mapping[int, SecretView]
    pin: SecretView
    domain: DomainView
    applications: Mapping[bytes, ApplicationView]


def inspected(cells: Cells) -> Inspection:
    """The view of a card with this memory."""
    keys = {int(name[4:6], 16) for name in cells if name.startswith("key/")}
    names = {bytes.fromhex(name.split("/")[1]) for name in cells if name.startswith("application/")}
    return Inspection(
        atr=cells["atr"],
        version=cells["version"].decode("ascii"),
        method=cells["method"].decode("ascii"),
        files=_files(cells),
        keys={number: _secret(cells, f"key/{number:02X}") for number in sorted(keys)},
        pin=_secret(cells, "pin"),
        domain=_domain(cells),
        applications={aid: _application(cells, aid) for aid in sorted(names)},
    )


def _files(cells: Cells) -> dict[int, FileView]:
    records: dict[int, dict[int, bytes]] = {}
    files = {}
    for name, value in cells.items():
        kind, _, rest = name.partition("/")
        path, _, number = rest.partition("/")
        if kind == "file" and number:
            records.setdefault(int(path, 16), {})[int(number)] = value
        elif kind == "file":
            files[int(path, 16)] = FileView(content=value)
    rows = {path: FileView(records=tuple(row for _, row in sorted(found.items()))) for path, found in records.items()}
    return {**rows, **files}


def _secret(cells: Cells, name: str) -> SecretView:
    limit, left = cells[f"{name}/tries"]
    return SecretView(limit, left, None if name == "pin" else ciphers.des_kcv(cells[name]))


def _domain(cells: Cells) -> DomainView:
    versions = list(dict.fromkeys(int(name.split("/")[2], 16) for name in cells if name.startswith("domain/keys/")))
    base = "domain/keys/{:02X}/{}".format
    scp, i = cells[base(versions[0], "protocol")]

    def kcvs(n: int) -> tuple[bytes, bytes, bytes]:
        kcv = ciphers.des_kcv if cells[base(n, "protocol")][0] == SCP02 else ciphers.aes_kcv
        return kcv(cells[base(n, "enc")]), kcv(cells[base(n, "mac")]), kcv(cells[base(n, "dek")])

    return DomainView(
        state=cells["domain/state"][0],
        scp=scp,
        i=i,
        failures=cells["domain/failures"][0],
        kcvs={n: kcvs(n) for n in versions},
        counters={n: int.from_bytes(cells[base(n, "counter")], "big") for n in versions},
    )


def _application(cells: Cells, aid: bytes) -> ApplicationView:
    prefix = f"application/{aid.hex().upper()}/dgi/"
    values = {int(name[-4:], 16): value for name, value in cells.items() if name.startswith(prefix)}
    keys = values.get(0x8000)
    return ApplicationView(
        state=cells[f"application/{aid.hex().upper()}/state"][0],
        groupings=frozenset(values),
        values={tag: value for tag, value in values.items() if tag not in _SECRET_GROUPINGS},
        kcvs=None if keys is None else b"".join(ciphers.des_kcv(keys[at : at + 16]) for at in (0, 16, 32)),
    )
