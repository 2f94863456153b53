"""`zhika event`: the feed of events."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from producers.cli.terminal import (
    DataDir,
    installation_of,
)

event_app = typer.Typer(no_args_is_help=True, help="Events that left the system.", rich_markup_mode=None)


@event_app.command("tail")
def event_tail(
    after: Annotated[int, typer.Option(min=0, help="position to go on from")] = 0,
    outlet: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    data: DataDir = None,
) -> None:
    """Events in the order of the feed, one CloudEvents document a line; the next cursor on stderr."""
    from pipeline.store import outbox

    with installation_of(data).store.transaction() as tx:
        page = outbox.feed(tx, after=after, limit=limit, outlet=outlet)
    for event in page.events:
        print(event.body.decode())
    print(f"next: {page.cursor}", file=sys.stderr)
