"""`zhika event`: the feed of events."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from producers.cli.terminal import (
    DataDir,
    existing_installation,
)

app = typer.Typer(no_args_is_help=True, help="Events that left the system.", rich_markup_mode=None)

_DIGITS = 19
"""No position has more."""


@app.command("tail")
def event_tail(
    after: Annotated[
        str | None, typer.Option(help="the cursor to go on from, or a position; 0 for all there ever was")
    ] = None,
    outlet: Annotated[str | None, typer.Option()] = None,
    types: Annotated[str, typer.Option(help="comma-separated, e.g. card.ready,card.recalled")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    wait: Annotated[float, typer.Option(min=0, max=30, help="seconds to wait for an event if there is none")] = 0.0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until interrupted")] = False,
    data: DataDir = None,
) -> None:
    """Events of the last 30 days in the order of the feed, one CloudEvents document a line; the next cursor on stderr."""
    from pipeline.services import feed

    context = existing_installation(data).context
    wanted = [kind.strip() for kind in types.split(",") if kind.strip()]
    is_position = after is not None and len(after) <= _DIGITS and after.isdecimal()
    cursor: str | int | None = int(after) if after is not None and is_position else after
    while True:
        wait_s = feed.WAIT_S if follow else wait
        page = feed.read(context, outlet=outlet, after=cursor, types=wanted, limit=limit, wait_s=wait_s)
        for event in page.events:
            print(event.body.decode(), flush=True)
        cursor = page.cursor
        if not follow:
            break
    print(f"next: {cursor}", file=sys.stderr)
