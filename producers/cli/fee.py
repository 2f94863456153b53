"""`zhika fee`: fees, waivers, and what an agency accounts for."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Annotated

import typer
from rich.table import Table

from producers.cli.terminal import (
    DataDir,
    JsonFlag,
    Output,
    actor,
    console,
    existing_installation,
    plain,
    print_json,
    wants_json,
)

app = typer.Typer(no_args_is_help=True, help="Fees and waivers.", rich_markup_mode=None)

_METHODS = ("bank", "cash", "online")
_ROWS = {
    "charged": "应收 charged",
    "paid": "已缴 paid",
    "waived": "减免 waived",
    "refunded": "退费 refunded",
    "due": "月末未缴 due at its end",
}
Fee = Annotated[str, typer.Argument(metavar="FEE")]


@app.command("list")
def fee_list(
    application: Annotated[str, typer.Argument(metavar="ID", help="id, acceptance number or external reference")],
    data: DataDir = None,
) -> None:
    """The fees of an application, one JSON object a line; amounts in fen."""
    from pipeline.services import fees

    for row in fees.of(existing_installation(data).context, application):
        print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@app.command("pay")
def fee_pay(
    fee: Fee,
    amount_fen: Annotated[int, typer.Option(help="in fen, the whole of it")],
    receipt: Annotated[str, typer.Option(help="the receipt's number")],
    method: Annotated[str, typer.Option(help="bank, cash or online")] = "bank",
    data: DataDir = None,
) -> None:
    """A fee was paid."""
    from pipeline.services import fees

    if method not in _METHODS:
        raise typer.BadParameter("bank, cash or online", param_hint="--method")
    context = existing_installation(data).context
    fees.pay(context, fee, amount_fen=amount_fen, method=method, receipt_no=receipt, actor=actor())  # type: ignore[arg-type]


@app.command("waive")
def fee_waive(
    fee: Fee,
    ground: Annotated[str, typer.Option(help="a word of the region's policy, e.g. disabled")],
    evidence: Annotated[str, typer.Option(help="where the proof is filed: a reference, nothing of the person")],
    data: DataDir = None,
) -> None:
    """A fee is not asked for."""
    from pipeline.services import fees

    fees.waive(existing_installation(data).context, fee, ground=ground, evidence=evidence, actor=actor())


@app.command("refund")
def fee_refund(
    fee: Fee, number: Annotated[str, typer.Option("--number", help="the refund's number")], data: DataDir = None
) -> None:
    """A paid fee was given back."""
    from pipeline.services import fees

    fees.refund(existing_installation(data).context, fee, refund_no=number, actor=actor())


@app.command("statement")
def fee_statement(
    agency: str,
    month: Annotated[datetime, typer.Option(help="e.g. 2026-11", formats=["%Y-%m"])],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """An agency's month: what was charged, paid, waived and refunded, and every waiver with its ground."""
    from pipeline.services import fees

    as_wanted = wants_json(output, as_json)
    if not MINYEAR < month.year < MAXYEAR:  # its first and last instant are told in UTC
        raise typer.BadParameter("a month like 2026-11", param_hint="--month")
    told = fees.statement(existing_installation(data).context, agency, month.date())
    waivers = [row._asdict() for row in told.waivers]
    if as_wanted:
        totals = {name: asdict(getattr(told, name)) for name in _ROWS}
        print_json({"agency": told.agency, "month": told.month, **totals, "waivers": waivers})
        return
    table = Table(f"{told.agency} {told.month}", "笔 fees", "元 yuan")
    for name, words in _ROWS.items():
        total = getattr(told, name)
        table.add_row(words, str(total.fees), f"{total.fen / 100:.2f}")
    console().print(table)
    if waivers:
        listed = Table("减免 fee", "理由 ground", "元 yuan", "证明 evidence", "登记人 by")
        for row in told.waivers:
            listed.add_row(row.id, row.ground, f"{row.amount_fen / 100:.2f}", row.evidence, row.settled_by)
        console().print(listed)
