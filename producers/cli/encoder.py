"""`zhika encoder`: the readers of the stations, as they last said of themselves, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.clock import SHANGHAI
from pipeline.services import encoders
from producers.cli.terminal import (
    DataDir,
    JsonFlag,
    Output,
    actor,
    console,
    existing_installation,
    print_json,
    wants_json,
)

app = typer.Typer(no_args_is_help=True, help="Encoders (写卡机).", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="station/reader, or a station for all its readers")]
Reason = Annotated[str, typer.Option(help="why; it is written into the audit log")]


def as_row(encoder: encoders.Encoder) -> dict[str, Any]:
    """One reader as `-o json` prints it; `yield` is the share of good cards, 0 to 1."""
    return {**asdict(encoder), "yield": encoder.good_share}


@app.command("list")
def list_(data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Every reader with its state, yield and last error."""
    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    with installation.store.transaction() as tx:
        found = encoders.listing(tx, now=installation.clock.now())
    _print(found, in_json)


@app.command("status")
def status(name: Name, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """One reader, or the readers of a station."""
    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    with installation.store.transaction() as tx:
        found = encoders.of(tx, name, now=installation.clock.now())
    _print(found, in_json)


@app.command("drain")
def drain(
    name: Name, reason: Reason, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False
) -> None:
    """Finish the card in hand, then take no more."""
    _want(name, "drain", reason, data, wants_json(output, as_json))


@app.command("resume")
def resume(
    name: Name, reason: Reason, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False
) -> None:
    """Go on; also a station that has stopped by itself, once what stopped it is put right."""
    _want(name, "run", reason, data, wants_json(output, as_json))


def _want(name: str, wanted: encoders.Wanted, reason: str, data: Path | None, in_json: bool) -> None:
    asked = encoders.want(existing_installation(data).context, name, wanted, reason=reason, actor=actor())
    if in_json:
        print_json({"wanted": wanted, "encoders": asked})
    else:
        print("\n".join(asked))


def _print(found: tuple[encoders.Encoder, ...], in_json: bool) -> None:
    rows = [as_row(encoder) for encoder in found]
    if in_json:
        print_json(rows)
    else:
        console().print(table_of(rows))


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Readers for a terminal; times are China's."""
    table = Table(
        "写卡机 encoder",
        "状态 state",
        "要求 wanted",
        "卡 cards",
        "成品率 yield",
        "每小时 per hour",
        "最近一张 last card",
        "最近错误 last error",
        title="写卡机 Encoders",
    )
    for row in rows:
        share = "" if row["yield"] is None else f"{row['yield']:.1%}"
        last = row["last_card_at"].astimezone(SHANGHAI).strftime("%m-%d %H:%M:%S") if row["last_card_at"] else ""
        state = row["state"] if row["detail"] in (None, row["state"]) else f"{row['state']} ({row['detail']})"
        told = (row["id"], state, row["wanted"], row["cards"], share, row["cards_per_hour"], last)
        table.add_row(*map(str, told), row["last_error"] or "")
    return table
