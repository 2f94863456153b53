"""What the commands share: options, the installation they work on, and how they print."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from config import logs
from config.settings import BadConfiguration, Settings, load

if TYPE_CHECKING:
    from config.wiring import Installation

Output = Annotated[str, typer.Option("-o", "--output", help="table or json", metavar="FORMAT")]
JsonFlag = Annotated[bool, typer.Option("--json", help="the same as -o json")]
DataDir = Annotated[Path | None, typer.Option("--data", help="data directory (ZHIKA_DATA_DIR)")]


def settings_of(data: Path | None = None) -> Settings:
    """The settings, with the log set up as they say.

    Raises:
        BadConfiguration: a value cannot be used.
    """
    settings = load(**({"data_dir": data} if data is not None else {}))
    logs.configure(settings.log_level, trace=settings.encoders.trace)
    return settings


def installation_of(data: Path | None = None) -> Installation:
    """The installation that a command works on, made if it is not there.

    Raises:
        BadConfiguration: a setting cannot be used.
    """
    settings = settings_of(data)
    from config.wiring import Installation

    return Installation(settings)


def installed(settings: Settings) -> Settings:
    """The settings of an installation that is there. A directory without one is not made into one: a misspelt name would look well.

    Raises:
        BadConfiguration: there is no installation.
    """
    file = settings.database.url.removeprefix("sqlite:///")
    if file != settings.database.url and not Path(file).exists():
        raise BadConfiguration(
            [
                f"{file}: 此处没有 zhika 数据库；请检查 --data 或 ZHIKA_DATA_DIR"
                " / there is no zhika database: check --data or ZHIKA_DATA_DIR (`zhika db migrate` makes one)"
            ]
        )
    return settings


def existing_installation(data: Path | None = None) -> Installation:
    """The installation that a command works on: all commands but those that an installation can begin with.

    Raises:
        BadConfiguration: a setting cannot be used, or there is no installation.
    """
    settings = installed(settings_of(data))
    from config.wiring import Installation

    return Installation(settings)


def actor() -> str:
    """Who gives the command, for the audit log."""
    return f"cli:{os.environ.get('USER') or os.getuid()}"


def wants_json(output: str, flag: bool) -> bool:
    """Whether JSON is asked for.

    Raises:
        BadParameter: neither a table nor JSON.
    """
    if output not in ("table", "json"):
        raise typer.BadParameter("table or json", param_hint="-o")
    return flag or output == "json"


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=plain))


def plain(value: Any) -> Any:
    """What JSON has no form for; instants are UTC."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def console() -> Console:
    """Tables keep their width where there is no terminal. What is shown is text, whatever brackets are in it."""
    return Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False, highlight=False)
