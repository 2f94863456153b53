"""`zhika bundle`: boxes of cards on their way."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from producers.cli.terminal import (
    DataDir,
    actor,
    installation_of,
    plain,
    print_json,
)

bundle_app = typer.Typer(no_args_is_help=True, help="Bundles of cards.", rich_markup_mode=None)


@bundle_app.command("list")
def bundle_list(status_: Annotated[str, typer.Option("--status")] = "sealed", data: DataDir = None) -> None:
    """Bundles of a status, one JSON object a line."""
    from pipeline.store import custody

    with installation_of(data).store.transaction() as tx:
        for row in custody.bundles(tx, status=status_):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@bundle_app.command("seal")
def bundle_seal(bundle_id: Annotated[str, typer.Argument(metavar="ID")], data: DataDir = None) -> None:
    """Close a bundle before its time."""
    from pipeline.services import bundles

    print(bundles.seal_now(installation_of(data).context, bundle_id, actor=actor()))


@bundle_app.command("ship")
def bundle_ship(
    bundle_id: Annotated[str, typer.Argument(metavar="ID")],
    carrier: Annotated[str, typer.Option()] = "courier_1",
    data: DataDir = None,
) -> None:
    """The courier takes a sealed bundle."""
    from pipeline.services import bundles

    print(bundles.ship(installation_of(data).context, bundle_id, carrier=carrier, actor=actor()))


@bundle_app.command("receive")
def bundle_receive(
    bundle_id: Annotated[str, typer.Argument(metavar="ID")],
    outlet: Annotated[str, typer.Option()],
    seal_no: Annotated[str, typer.Option("--seal")],
    card: Annotated[list[str] | None, typer.Option(help="a card that is there; all of them when none is named")] = None,
    data: DataDir = None,
) -> None:
    """The outlet signs for a bundle."""
    from dataclasses import asdict

    from pipeline.services import bundles

    receipt = bundles.receive(
        installation_of(data).context, bundle_id, outlet=outlet, seal_no=seal_no, received=card or None, actor=actor()
    )
    print_json(asdict(receipt))
