"""`zhika custody`: where cards are."""

from __future__ import annotations

import typer
from rich.table import Table

from producers.cli import errors
from producers.cli.terminal import (
    DataDir,
    JsonFlag,
    Output,
    console,
    installation_of,
    print_json,
    wants_json,
)

custody_app = typer.Typer(no_args_is_help=True, help="Where cards are.", rich_markup_mode=None)


@custody_app.command("balance")
def custody_balance(data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Cards by place, from their rows and from the custody events. Exit 1 when they differ."""
    from pipeline.store import custody

    as_wanted = wants_json(output, as_json)
    with installation_of(data).store.transaction() as tx:
        by_row, by_event = custody.balance(tx)
    balanced = by_row == by_event
    if as_wanted:
        print_json({"balanced": balanced, "places": by_row, "by_events": by_event, "total": sum(by_row.values())})
    else:
        table = Table("地点 place", "卡 cards", "按交接记录 by events")
        for place in sorted(by_row | by_event):
            table.add_row(place, str(by_row.get(place, 0)), str(by_event.get(place, 0)))
        console().print(table)
    if not balanced:
        raise typer.Exit(errors.FAILED)
