"""`zhika outlet`: what outlets do."""

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

outlet_app = typer.Typer(no_args_is_help=True, help="What outlets do.", rich_markup_mode=None)


@outlet_app.command("ready")
def outlet_ready(outlet: str, data: DataDir = None) -> None:
    """Cards that wait at an outlet, one JSON object a line."""
    from pipeline.store import views

    with installation_of(data).store.transaction() as tx:
        for row in views.at_outlet(tx, outlet, statuses=("delivered", "notified", "uncollected", "recalled")):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@outlet_app.command("notice")
def outlet_notice(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    outlet: Annotated[str, typer.Option()],
    method: Annotated[str, typer.Option(help="sms, phone, letter, in_person or unit")] = "sms",
    data: DataDir = None,
) -> None:
    """The applicant was told that the card is there."""
    from pipeline.services import counter

    if method not in ("sms", "phone", "letter", "in_person", "unit"):
        raise typer.BadParameter("sms, phone, letter, in_person or unit", param_hint="--method")
    due = counter.give_notice(installation_of(data).context, card_id, outlet=outlet, method=method, actor=actor())  # type: ignore[arg-type]
    print_json({"collect_by": due})


@outlet_app.command("hand-over")
def outlet_hand_over(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    serial: Annotated[str, typer.Option(help="as read from the card in hand")],
    outlet: Annotated[str | None, typer.Option(help="where the card waits")] = None,
    centre: Annotated[bool, typer.Option("--centre", help="the centre's own counter, for urgent cards")] = False,
    document_type: Annotated[str, typer.Option()] = "resident_id",
    document_number_file: Annotated[
        typer.FileText | None, typer.Option(help="holds the document's number; - for stdin")
    ] = None,
    by: Annotated[str, typer.Option(help="holder, guardian, proxy or unit")] = "holder",
    fee_receipt: Annotated[str | None, typer.Option()] = None,
    data: DataDir = None,
) -> None:
    """The card goes to its holder."""
    from pipeline.services import counter

    if centre == (outlet is not None):
        raise typer.BadParameter("either --outlet or --centre", param_hint="--outlet")
    if by not in ("holder", "guardian", "proxy", "unit"):
        raise typer.BadParameter("holder, guardian, proxy or unit", param_hint="--by")
    number = document_number_file.read().strip() if document_number_file else ""
    if not number:
        raise typer.BadParameter("the number of the document that was shown", param_hint="--document-number-file")
    handed = counter.hand_over(
        installation_of(data).context,
        card_id,
        outlet=outlet,
        serial=serial,
        taken_by=by,  # type: ignore[arg-type]
        document_type=document_type,
        document_number=number,
        fee_receipt=fee_receipt,
        actor=actor(),
    )
    print_json({"id": handed})
