"""`zhika blank`: the stock of blanks and the production jobs (制卡批次) they are issued under."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from pipeline.services import stock
from pipeline.store import stock as books
from producers.cli import errors
from producers.cli.terminal import (
    DataDir,
    JsonFlag,
    Output,
    actor,
    console,
    existing_installation,
    installation_of,
    print_json,
    wants_json,
)

app = typer.Typer(no_args_is_help=True, help="The stock of blanks.", rich_markup_mode=None)

State = Literal[
    "stocked", "reserved", "encoding", "quarantined", "bound", "voided", "spoiled", "missing", "test", "destroyed"
]
By = Annotated[str | None, typer.Option("--by", help="who does it; the user of this machine unless named")]
Witness = Annotated[str, typer.Option(help="the second person")]
Reason = Annotated[str, typer.Option(help="why; it is written into the ledger and the audit log")]
Serials = Annotated[list[str], typer.Argument(metavar="SERIAL...", help="serials, or - for a list on stdin")]
ListFile = Annotated[
    typer.FileText | None, typer.Argument(encoding="utf-8-sig", errors="replace", help="one serial a line, - for stdin")
]
TypeOption = Annotated[str, typer.Option("--type", help="the type of card")]


def _lines(file: typer.FileText) -> list[str]:
    """The lines of a list; empty ones at its end are none."""
    return file.read().rstrip().splitlines()


def _named(serials: list[str]) -> list[str]:
    return sys.stdin.read().rstrip().splitlines() if serials == ["-"] else serials


def _list_or_count(file: typer.FileText | None, count: int | None) -> int | list[str]:
    if file is not None and count is None:
        return _lines(file)
    if file is None and count is not None:
        return count
    raise typer.BadParameter("either a list of serials or --count", param_hint="--count")


def _tell(told: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        print(text)


@app.command("receive")
def receive(
    file: Annotated[
        typer.FileText, typer.Argument(encoding="utf-8-sig", errors="replace", help="one serial a line, - for stdin")
    ],
    lot: Annotated[str, typer.Option(help="the maker's lot")],
    blank_type: TypeOption = "ssc2",
    note: Annotated[str | None, typer.Option(help="number of the delivery note")] = None,
    location: Annotated[str, typer.Option(help="where they lie")] = stock.CENTRE,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Put blanks into stock."""
    in_json = wants_json(output, as_json)
    count = stock.receive(
        installation_of(data).context,
        _lines(file),
        blank_type=blank_type,
        lot=lot,
        note=note,
        location=location,
        actor=by or actor(),
    )
    _tell({"received": count, "type": blank_type, "lot": lot, "location": location}, str(count), in_json)


@app.command("list")
def list_(
    state: Annotated[State | None, typer.Option()] = None,
    blank_type: Annotated[str | None, typer.Option("--type")] = None,
    location: Annotated[str | None, typer.Option()] = None,
    job: Annotated[str | None, typer.Option(help="a production job")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Blanks by serial."""
    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        rows = books.listing(tx, state=state, blank_type=blank_type, location=location, job_id=job, limit=limit)
    if in_json:
        print_json([row._asdict() for row in rows])
        return
    table = Table("序列号 serial", "卡型 type", "批号 lot", "状态 state", "位置 location", "批次 job", "问题 problem")
    for row in rows:
        table.add_row(row.serial, row.type, row.lot, row.state, row.location, row.job_id or "", row.problem or "")
    console().print(table)


@app.command("issue")
def issue(
    station: Annotated[str, typer.Option(help="the station that gets them")],
    file: ListFile = None,
    count: Annotated[int | None, typer.Option(help="so many, the first in stock")] = None,
    blank_type: TypeOption = "ssc2",
    job: Annotated[str | None, typer.Option(help="an open production job; a new one unless named")] = None,
    location: Annotated[str, typer.Option(help="where they lie")] = stock.CENTRE,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Issue blanks to a station under a production job; prints the job."""
    in_json = wants_json(output, as_json)
    issued = stock.issue(
        existing_installation(data).context,
        _list_or_count(file, count),
        station=station,
        blank_type=blank_type,
        job_id=job,
        location=location,
        actor=by or actor(),
    )
    told = {"job": issued.job_id, "station": station, "issued": len(issued.serials), "serials": issued.serials}
    _tell(told, f"{issued.job_id} {len(issued.serials)}", in_json)


@app.command("return")
def return_(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    file: ListFile = None,
    count: Annotated[int | None, typer.Option(min=0, help="all that is unused, as counted")] = None,
    location: Annotated[str, typer.Option(help="where they go")] = stock.CENTRE,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Unused blanks of a production job are counted and go back into stock."""
    in_json = wants_json(output, as_json)
    returned = stock.give_back(
        existing_installation(data).context, job, _list_or_count(file, count), location=location, actor=by or actor()
    )
    _tell({"job": job, "returned": returned}, str(returned), in_json)


@app.command("spoil")
def spoil(serials: Serials, reason: Reason, by: By = None, data: DataDir = None) -> None:
    """Blanks are damaged that nothing was written on."""
    print(stock.spoil(existing_installation(data).context, _named(serials), reason=reason, actor=by or actor()))


@app.command("adjust")
def adjust(
    serials: Serials,
    as_: Annotated[stock.Adjustment, typer.Option("--as")],
    reason: Reason,
    witness: Witness,
    by: By = None,
    data: DataDir = None,
) -> None:
    """Two people put the books right: blanks are missing, or missing ones were found (and are scrap)."""
    context = existing_installation(data).context
    print(stock.adjust(context, _named(serials), as_=as_, reason=reason, actor=by or actor(), witness=witness))


@app.command("settle")
def settle(
    serial: Annotated[str, typer.Argument(metavar="SERIAL")],
    as_: Annotated[stock.Finding, typer.Option("--as")],
    reason: Reason,
    witness: Witness,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Two people decide what a blank in quarantine is; its application, if it has one, goes on.

    A spoiled blank is followed by another one; one to be read again keeps its application, or can be taken by any if it has none.
    """
    in_json = wants_json(output, as_json)
    application = stock.settle(
        existing_installation(data).context,
        serial,
        as_=as_,
        reason=reason,
        actor=by or actor(),
        witness=witness,
    )
    _tell({"serial": serial, "as": as_, "application": application}, application or "-", in_json)


@app.command("destroy")
def destroy(
    serials: Serials,
    certificate: Annotated[str, typer.Option(help="number of the certificate of destruction")],
    reason: Reason,
    witness: Witness,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Two people destroy spoiled blanks under a certificate; prints what stands on it."""
    in_json = wants_json(output, as_json)
    context = existing_installation(data).context
    person = by or actor()
    destroyed = stock.destroy(
        context, _named(serials), certificate=certificate, reason=reason, actor=person, witness=witness
    )
    if in_json:
        listed = [{"serial": serial, "problem": problem} for serial, problem in destroyed.items()]
        print_json(
            {"certificate": certificate, "reason": reason, "by": person, "witness": witness, "destroyed": listed}
        )
        return
    table = Table("序列号 serial", "报废原因 problem", title=f"销毁证明 certificate {certificate}")
    for serial, problem in destroyed.items():
        table.add_row(serial, problem)
    console().print(table)


@app.command("ledger")
def ledger(
    serial: Annotated[str | None, typer.Argument(metavar="SERIAL", help="one blank; all of them unless named")] = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """What befell a blank; without one, blanks by state from their rows and from the ledger. Exit 1 when those differ."""
    in_json = wants_json(output, as_json)
    if serial is None:
        _balance(data, in_json)
        return
    found = stock.history(existing_installation(data).context, serial)
    if in_json:
        print_json([row._asdict() for row in found])
        return
    table = Table(
        "时间 at",
        "事项 event",
        "工位 station",
        "批次 job",
        "申领 application",
        "经办 by",
        "见证 witness",
        "原因 reason",
    )
    for row in found:
        at = f"{row.at:%Y-%m-%d %H:%M:%S}Z"
        told = (row.station, row.job_id, row.application_id, row.actor, row.witness, row.reason or row.document)
        table.add_row(at, row.event, *(value or "" for value in told))
    console().print(table)


def _balance(data: Path | None, in_json: bool) -> None:
    with existing_installation(data).store.transaction() as tx:
        by_row, by_ledger, events = books.balance(tx), books.ledger_balance(tx), books.ledger_counts(tx)
    balanced = by_row == by_ledger
    if in_json:
        print_json({"balanced": balanced, "states": by_row, "by_ledger": by_ledger, "events": events})
    else:
        table = Table("状态 state", "空白卡 blanks", "按台账 by ledger")
        for state in sorted(by_row | by_ledger):
            table.add_row(state, str(by_row.get(state, 0)), str(by_ledger.get(state, 0)))
        console().print(table)
    if not balanced:
        raise typer.Exit(errors.FAILED)


_FIGURES = (
    "发放 issued",
    "成品 good",
    "报废 spoiled",
    "退回 returned",
    "缺失 missing",
    "未用 unused",
    "在制 in hand",
    "隔离 held",
)
"""Headings of `JobFigures`, in its order."""


@app.command("job-list")
def job_list(
    state: Annotated[Literal["open", "closed"] | None, typer.Option()] = None,
    station: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Production jobs with their figures, newest first."""
    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        rows = books.jobs(tx, state=state, station=station, limit=limit)
        figures = books.figures(tx, [row.id for row in rows])
    if in_json:
        print_json([_job(row, figures[row.id]) for row in rows])
        return
    table = Table(Column("批次 job", no_wrap=True), "工位 station", "状态 state", *_FIGURES)
    for row in rows:
        told = asdict(figures[row.id]).values()
        table.add_row(row.id, row.station, row.state, *map(str, told))
    console().print(table)


def _job(row: Any, figures: books.JobFigures) -> dict[str, Any]:
    names = ("id", "type", "station", "state", "opened_by", "opened_at", "closed_by", "closed_at")
    counted = {**asdict(figures), "unaccounted": figures.unaccounted, "balanced": figures.balanced}
    return {name: getattr(row, name) for name in names} | counted


@app.command("job-close")
def job_close(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Sign a production job that balances: good + spoiled + returned + missing = issued. Not by whoever opened it."""
    in_json = wants_json(output, as_json)
    figures = stock.close_job(existing_installation(data).context, job, actor=by or actor())
    text = (
        f"{job}: 发放 issued {figures.issued} = 成品 good {figures.good} + 报废 spoiled {figures.spoiled}"
        f" + 退回 returned {figures.returned} + 缺失 missing {figures.missing}"
    )
    _tell({"job": job, **asdict(figures)}, text, in_json)
