"""`zhika keys`: key ceremonies at a terminal. Shows names and check values; a secret is neither a flag nor echoed."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from card_personalization.errors import KeyRefused
from card_personalization.keys import ceremony
from card_personalization.keys.base import KeyInfo, Usage
from card_personalization.keys.ceremony import Component, KeyRequest, Kind
from card_personalization.keys.custody import Custody, Proof
from config import keys, logs
from config.settings import Settings, load
from producers.cli import errors

app = typer.Typer(no_args_is_help=True, help="密钥 Keys of cards and their ceremonies.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="as card profiles name it, e.g. KMC")]
Custodians = Annotated[list[str], typer.Option("--custodian", help="one of the two people; given twice")]
Algorithm = Annotated[Kind, typer.Option(help="what it is a key of")]
KeyUsage = Annotated[Usage, typer.Option(help="what it may be used for")]
Owner = Annotated[str, typer.Option(help="whose key it is")]
Version = Annotated[int | None, typer.Option(min=1, max=9999, help="the next one by default")]
NotAfter = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="its last day", metavar="YYYY-MM-DD")]
DataDir = Annotated[Path | None, typer.Option("--data", help="data directory (ZHIKA_DATA_DIR)")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("init")
def init(custodian: Custodians, data: DataDir = None, as_json: JsonFlag = False) -> None:
    """Enrol two custodians, who choose their passphrases, and make the empty vault or begin the token."""
    settings = _settings(data)
    first, second = _two(custodian)
    custody = keys.begin(settings, {name: _chosen(name) for name in (first, second)})
    if as_json:
        _print_json({"custody": custody.fingerprint, "custodians": list(custody.names)})
    else:
        print(f"保管人 custodians {' · '.join(custody.names)}  ·  {custody.fingerprint}")


@app.command("generate")
def generate(
    name: Name,
    algorithm: Algorithm,
    usage: KeyUsage,
    owner: Owner,
    custodian: Custodians,
    version: Version = None,
    not_after: NotAfter = None,
    data: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a random key that nobody has ever seen. Both custodians give their passphrases."""
    settings = _settings(data)
    custody = keys.custody_of(settings)
    people = _two(custodian)
    with keys.open_safe(settings, custody) as safe:
        wanted = _request(safe.keys(), name, algorithm, usage, owner, version, not_after)
        one, other = (_proof(custody, person) for person in people)
        made = safe.generate(wanted, control=custody.together(one, other))
    _tell(made, as_json=as_json)


@app.command("import")
def import_(
    name: Name,
    algorithm: Algorithm,
    usage: KeyUsage,
    owner: Owner,
    custodian: Custodians,
    version: Version = None,
    not_after: NotAfter = None,
    data: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in a key of two components. Each custodian gives passphrase, component and its check value; then that of the key."""
    settings = _settings(data)
    custody = keys.custody_of(settings)
    people = _two(custodian)
    with keys.open_safe(settings, custody) as safe:
        wanted = _request(safe.keys(), name, algorithm, usage, owner, version, not_after)
        (one, mine), (other, theirs) = (_brought(custody, person, wanted) for person in people)
        control = custody.together(one, other)
        value = ceremony.combine(algorithm, mine, theirs, kcv=_ask(f"{wanted.ref} 校验值 check value"))
        made = safe.take(wanted, value, control=control)
    _tell(made, as_json=as_json)


@app.command("export-check-values")
def export_check_values(data: DataDir = None, as_json: JsonFlag = False) -> None:
    """Names and check values of all keys, to be compared on paper. Exit 1 when a key has no line in the ceremony log."""
    settings = _settings(data)
    store = keys.store_of(settings)
    custody = None if store == "demo" else keys.custody_of(settings)
    witnessed = frozenset() if custody is None else keys.log_of(settings, custody).witnessed()
    rows = [{**_plain(info), "witnessed": custody and info in witnessed} for info in keys.every_key(settings)]
    if as_json:
        _print_json({"store": store, "custody": custody and custody.fingerprint, "keys": rows})
    else:
        _table(rows)
    if strangers := [f"{row['name']} version {row['version']}" for row in rows if row["witnessed"] is False]:
        _fail(f"未经仪式的密钥 keys that no ceremony made: {', '.join(strangers)}")


# -------------------------------------------------------------------------------------------------------------- asking


def _ask(prompt: str) -> str:
    """What is typed without echo; off a terminal, the next line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{prompt}: ")
    line = sys.stdin.readline()
    if not line:
        raise typer.BadParameter(f"标准输入缺少一行 standard input ends before: {prompt}")
    return line.rstrip("\r\n")


def _passphrase(name: str) -> str:
    return _ask(f"保管人 {name} 的口令 passphrase of custodian {name}")


def _chosen(name: str) -> str:
    chosen = _passphrase(name)
    if sys.stdin.isatty() and _ask("再次输入 again") != chosen:
        raise KeyRefused("两次输入不一致 the two are not the same")
    return chosen


def _proof(custody: Custody, person: str) -> Proof:
    return custody.prove(person, _passphrase(person))


def _brought(custody: Custody, person: str, wanted: KeyRequest) -> tuple[Proof, Component]:
    proof = _proof(custody, person)
    value = _ask(f"保管人 {person} 的分量 component of custodian {person} ({wanted.kind.size * 2} hex)")
    kcv = _ask("分量校验值 its check value (6 hex)")
    return proof, ceremony.component(wanted.kind, custodian=person, value=value, kcv=kcv)


def _two(custodians: list[str]) -> tuple[str, str]:
    if len(custodians) != 2:
        raise typer.BadParameter("须给出两名保管人 name both custodians", param_hint="--custodian")
    first, second = custodians
    if first == second:
        raise KeyRefused("同一名保管人不能出现两次 one custodian cannot be both")
    return first, second


def _request(
    existing: tuple[KeyInfo, ...],
    name: str,
    kind: Kind,
    usage: Usage,
    owner: str,
    version: int | None,
    not_after: datetime | None,
) -> KeyRequest:
    return ceremony.request(
        name,
        version=version,
        kind=kind,
        usage=usage,
        owner=owner,
        not_after=not_after.date() if not_after else None,
        existing=existing,
        today=keys.china_today(),
    )


# ------------------------------------------------------------------------------------------------------------- telling


def _settings(data: Path | None) -> Settings:
    settings = load(**({"data_dir": data} if data is not None else {}))
    logs.configure(settings.log_level)
    return settings


def _plain(info: KeyInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "algorithm": info.algorithm.value,
        "usage": info.usage.value,
        "owner": info.owner,
        "not_after": info.not_after.isoformat() if info.not_after else None,
        "kcv": info.kcv.hex().upper(),
    }


def _tell(info: KeyInfo, *, as_json: bool) -> None:
    if as_json:
        _print_json(_plain(info))
    else:
        print(f"{info.name} 版本 version {info.version}  ·  KCV {info.kcv.hex().upper()}")


def _table(rows: list[dict[str, Any]]) -> None:
    table = Table("密钥 key", "版本", "算法", "用途 usage", "归属 owner", "最后一天", "KCV")
    for row in rows:
        table.add_row(*(str(row[column] or "-") for column in _COLUMNS))
    Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False, highlight=False).print(table)


_COLUMNS = ("name", "version", "algorithm", "usage", "owner", "not_after", "kcv")


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _fail(text: str) -> NoReturn:
    print(f"zhika: {text}", file=sys.stderr)
    raise typer.Exit(errors.FAILED)
