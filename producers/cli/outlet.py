"""`zhika outlet`: what outlets do."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer

from pipeline.clock import SHANGHAI
from pipeline.person import Agent
from producers.cli.terminal import (
    DataDir,
    actor,
    existing_installation,
    plain,
    print_json,
)

app = typer.Typer(no_args_is_help=True, help="What outlets do.", rich_markup_mode=None)

_METHODS = ("sms", "phone", "letter", "in_person", "unit")
_TAKERS = ("holder", "guardian", "proxy", "unit")
_AGENT = ("name", "id_type", "id_number", "relation")
Place = Annotated[str | None, typer.Option("--outlet", help="where the card waits")]
Centre = Annotated[bool, typer.Option("--centre", help="the centre's own counter, for urgent cards")]


@app.command("ready")
def outlet_ready(outlet: str, data: DataDir = None) -> None:
    """Cards that wait at an outlet, one JSON object a line."""
    from pipeline.store import views

    with existing_installation(data).store.transaction() as tx:
        for row in views.at_outlet(tx, outlet, statuses=("delivered", "notified", "uncollected", "recalled")):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@app.command("notices")
def outlet_notices(
    outlet: Annotated[str | None, typer.Option(help="only this one")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="only those whose time is over (WH-10)")] = False,
    data: DataDir = None,
) -> None:
    """Cards whose holders were not told yet, the most urgent first, one JSON object a line."""
    from pipeline.store import handing

    installation = existing_installation(data)
    with installation.store.transaction() as tx:
        for row in handing.untold(tx, outlet=outlet, due_before=installation.clock.now() if overdue else None):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@app.command("notice")
def outlet_notice(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    outlet: Annotated[str, typer.Option()],
    method: Annotated[str, typer.Option(help="sms, phone, letter, in_person or unit")] = "sms",
    at: Annotated[
        datetime | None, typer.Option(help="when, in China's time; now by default", formats=["%Y-%m-%dT%H:%M"])
    ] = None,
    data: DataDir = None,
) -> None:
    """The applicant was told that the card is there."""
    from pipeline.services import counter

    if method not in _METHODS:
        raise typer.BadParameter("sms, phone, letter, in_person or unit", param_hint="--method")
    due = counter.give_notice(
        existing_installation(data).context,
        card_id,
        outlet=outlet,
        method=method,  # type: ignore[arg-type]
        notified_at=at.replace(tzinfo=SHANGHAI) if at else None,
        actor=actor(),
    )
    print_json({"collect_by": due})


@app.command("hand-over")
def outlet_hand_over(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    serial: Annotated[str, typer.Option(help="as read from the card in hand")],
    outlet: Place = None,
    centre: Centre = False,
    document_type: Annotated[str | None, typer.Option(help="resident_id, unless the agent's file tells it")] = None,
    document_number_file: Annotated[
        typer.FileText | None, typer.Option(help="holds the number of the collector's own document; - for stdin")
    ] = None,
    document_valid_to: Annotated[
        datetime | None, typer.Option(help="the document's last day", formats=["%Y-%m-%d"])
    ] = None,
    by: Annotated[str, typer.Option(help="holder, guardian, proxy or unit")] = "holder",
    agent_file: Annotated[
        typer.FileText | None,
        typer.Option(help="who collects for another: a JSON object of name, id_type, id_number, relation; - for stdin"),
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help="a paper and where it is filed, e.g. mandate=2026-031", metavar="NAME=REF")
    ] = None,
    fee_receipt: Annotated[str | None, typer.Option()] = None,
    key: Annotated[str | None, typer.Option(help="the same key again gives the same hand-over")] = None,
    data: DataDir = None,
) -> None:
    """The card goes to its holder, or to who may take it for them."""
    from pipeline.services import counter

    _one_place(outlet, centre)
    if by not in _TAKERS:
        raise typer.BadParameter("holder, guardian, proxy or unit", param_hint="--by")
    agent = _agent(_read(agent_file, "--agent-file")) if agent_file else None
    number = agent.id_number if agent else ""
    if document_number_file:
        number = _read(document_number_file, "--document-number-file").strip()
    if not number:
        raise typer.BadParameter("the number of the document that was shown", param_hint="--document-number-file")
    handed = counter.hand_over(
        existing_installation(data).context,
        card_id,
        outlet=outlet,
        serial=serial,
        taken_by=by,  # type: ignore[arg-type]
        document_type=document_type or (agent.id_type if agent else "resident_id"),
        document_number=number,
        document_valid_to=document_valid_to.date() if document_valid_to else None,
        agent=agent,
        papers=_papers(paper or []),
        fee_receipt=fee_receipt,
        key=key,
        actor=actor(),
    )
    print_json({"id": handed})


@app.command("revert")
def outlet_revert(
    hand_over_id: Annotated[str, typer.Argument(metavar="HAND-OVER")],
    reason: Annotated[str, typer.Option(help="why; it is written into the audit log")],
    outlet: Place = None,
    centre: Centre = False,
    data: DataDir = None,
) -> None:
    """Take a hand-over back where it was made, within five minutes."""
    from pipeline.services import counter

    _one_place(outlet, centre)
    counter.revert(existing_installation(data).context, hand_over_id, outlet=outlet, actor=actor(), reason=reason)


def _one_place(outlet: str | None, centre: bool) -> None:
    if centre == (outlet is not None):
        raise typer.BadParameter("either --outlet or --centre", param_hint="--outlet")


def _read(file: typer.FileText, hint: str) -> str:
    try:
        return file.read()
    except UnicodeDecodeError:
        raise typer.BadParameter("a file in UTF-8", param_hint=hint) from None


def _agent(text: str) -> Agent:
    """An agent as the file tells; what is wrong with it is said without its content."""
    try:
        told: Any = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict) or set(told) - set(_AGENT) or not all(isinstance(v, str) for v in told.values()):
        raise typer.BadParameter(f"a JSON object with the texts {', '.join(_AGENT)}", param_hint="--agent-file")
    if absent := [name for name in ("name", "id_type", "id_number") if not told.get(name, "").strip()]:
        raise typer.BadParameter(f"{', '.join(absent)} is missing", param_hint="--agent-file")
    return Agent(**told)


def _papers(told: list[str]) -> dict[str, str]:
    papers = dict(entry.partition("=")[::2] for entry in told)
    if "" in papers or not all(papers.values()):
        raise typer.BadParameter("a paper and where it is filed: NAME=REF", param_hint="--paper")
    return papers
