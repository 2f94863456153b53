"""`zhika bank`: instructions to banks in the card's later life, those that wait for a person, and the comparison of books."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from config.settings import Bank
from config.wiring import Installation
from pipeline.clock import civil_date
from pipeline.services import accounts, bank_desk
from pipeline.services.accounts import Outcome
from producers.cli import errors
from producers.cli.terminal import (
    DataDir,
    JsonFlag,
    Output,
    actor,
    console,
    existing_installation,
    installed,
    print_json,
    settings_of,
    wants_json,
)
from producers.supervisor import simulated_bank, state_file

app = typer.Typer(no_args_is_help=True, help="Instructions to banks.", rich_markup_mode=None)

_FIRST_DAY = date(2000, 1, 1)
"""Before social security cards were made: no book of ours or a bank's goes back so far."""

Card = Annotated[str, typer.Argument(metavar="CARD", help="id of a card")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="as in `zhika bank list`")]
Word = Annotated[str, typer.Option("--reason", help="a word the bank is told, such as lost, found or destroyed")]
By = Annotated[str | None, typer.Option("--by", help="who does it; the user of this machine unless named")]


@app.command("list")
def list_(
    held: Annotated[bool, typer.Option("--held", help="only those that wait for a person")] = False,
    bank: Annotated[str | None, typer.Option(help="only this bank's")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 200,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Instructions that are not settled, oldest first."""
    in_json = wants_json(output, as_json)
    rows = accounts.listing(existing_installation(data).context, bank_code=bank, held=held, limit=limit)
    if in_json:
        print_json([row._asdict() for row in rows])
        return
    table = Table("指令 key", "银行 bank", "业务 operation", "状态 state", "挂起 held", "账户 account", "自 since")
    for row in rows:
        why = (row.code or "held") if row.held else ""
        since = f"{row.created_at:%Y-%m-%d %H:%M:%S}Z"
        table.add_row(row.key, row.bank, row.operation, row.state, why, row.account_id or row.application_id, since)
    console().print(table)


@app.command("ask")
def ask(key: KeyArgument, data: DataDir = None) -> None:
    """Have the bank asked now what became of an instruction; what was held goes on by its answer."""
    accounts.ask_again(existing_installation(data).context, key, actor=actor())


@app.command("freeze")
def freeze(card: Card, reason: Word = "lost", by: By = None, data: DataDir = None) -> None:
    """Have the bank freeze the account of a card; prints the instruction."""
    print(accounts.freeze(existing_installation(data).context, card, reason=reason, actor=by or actor()))


@app.command("release")
def release(card: Card, reason: Word = "found", by: By = None, data: DataDir = None) -> None:
    """Have the bank end a freeze; prints the instruction."""
    print(accounts.release(existing_installation(data).context, card, reason=reason, actor=by or actor()))


@app.command("close")
def close(card: Card, reason: Word, by: By = None, data: DataDir = None) -> None:
    """Have the bank close the account of a card; prints the instruction."""
    print(accounts.close(existing_installation(data).context, card, reason=reason, actor=by or actor()))


@app.command("settle")
def settle(
    key: KeyArgument,
    as_: Annotated[Outcome, typer.Option("--as", help="what the bank said by another way")],
    approved_by: Annotated[str, typer.Option(help="the second person")],
    reason: Annotated[str, typer.Option(help="how it is known; it is written into the audit log")],
    by: By = None,
    data: DataDir = None,
) -> None:
    """Two people settle an instruction whose end the bank does not tell by itself."""
    accounts.settle_by_hand(
        existing_installation(data).context, key, as_, by=by or actor(), approved_by=approved_by, reason=reason
    )


@app.command("reconcile")
def reconcile(
    day: Annotated[
        str | None, typer.Argument(metavar="DATE", help="YYYY-MM-DD in China; yesterday unless named")
    ] = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Compare each bank's books of a day with ours. Exit 1 when they differ, 5 when a bank could not be asked."""
    in_json = wants_json(output, as_json)
    installation = _installation(data)
    today = civil_date(installation.clock.now())
    wanted = _day(day, today) if day else today - timedelta(days=1)
    compared = bank_desk.reconcile(installation.context, installation.bank, wanted)
    differ, complete = any(one.count for one in compared), all(one.asked for one in compared)
    if in_json:
        print_json({"day": wanted, "ok": complete and not differ, "banks": [asdict(one) for one in compared]})
    else:
        _show(compared)
    if differ:
        raise typer.Exit(errors.FAILED)
    if not complete:
        raise typer.Exit(errors.PARTLY)


def _day(text: str, today: date) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("日期写作 YYYY-MM-DD a date is YYYY-MM-DD", param_hint="DATE") from None
    if not _FIRST_DAY <= day <= today:
        raise typer.BadParameter(
            f"日期应在 {_FIRST_DAY} 至今天之间 the day is one from {_FIRST_DAY} to today", param_hint="DATE"
        )
    return day


def _show(compared: tuple[bank_desk.Differences, ...]) -> None:
    table = Table("银行 bank", "一致 agreed", "差异 difference", "指令 key")
    kinds: tuple[tuple[str, Any], ...] = (
        ("仅我方 ours only", lambda one: one.ours_only),
        ("仅银行 theirs only", lambda one: one.theirs_only),
        ("结果不同 different", lambda one: one.different),
    )
    for one in compared:
        table.add_row(one.bank_code, str(one.agreed) if one.asked else "未能查询 not asked", "", "")
        for name, keys in kinds:
            for key in keys(one):
                table.add_row("", "", name, key)
    console().print(table)
    for one in compared:
        if one.problem is not None:
            print(one.problem)


def _installation(data: Path | None) -> Installation:
    """The installation; one without banks whose `zhika up` lives asks the simulated bank that this one has started."""
    settings = installed(settings_of(data))
    url = None if settings.banks else simulated_bank(state_file(settings.data_dir))
    return Installation(settings if url is None else settings.model_copy(update={"banks": {"default": Bank(url=url)}}))
