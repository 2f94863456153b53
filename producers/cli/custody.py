"""`zhika custody`: where cards are, who gave them to whom, and what becomes of those that came back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from pipeline.clock import SHANGHAI
from pipeline.errors import NotFound
from producers.cli import errors
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

app = typer.Typer(no_args_is_help=True, help="Where cards are.", rich_markup_mode=None)

By = Annotated[str | None, typer.Option("--by", help="who does it; the user of this machine unless named")]
Reason = Annotated[str, typer.Option(help="why; it is written into the books")]


@app.command("balance")
def custody_balance(
    by_place: Annotated[bool, typer.Option("--by-place", help="each outlet and courier by itself")] = False,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Cards by place, from their rows and from the custody events, and as many as were produced. Exit 1 when they differ."""
    from pipeline.store import custody, stock

    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        by_row, by_event = custody.balance(tx, by_place=by_place)
        produced = stock.ledger_counts(tx).get("bound", 0)
    total = sum(by_row.values())
    balanced = by_row == by_event and total == produced
    if in_json:
        figures = {"places": by_row, "by_events": by_event, "total": total, "produced": produced}
        print_json({"balanced": balanced, **figures})
    else:
        table = Table("地点 place", "卡 cards", "按交接记录 by events")
        for place in sorted(by_row | by_event):
            table.add_row(place, str(by_row.get(place, 0)), str(by_event.get(place, 0)))
        table.add_section()
        table.add_row("合计 total", str(total), str(sum(by_event.values())))
        table.add_row("制成 produced", str(produced), "")
        console().print(table)
    if not balanced:
        raise typer.Exit(errors.FAILED)


@app.command("verify")
def custody_verify(data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Check every card's chain of hand-overs: signatures, order, and that it ends where the card is. Exit 1 when one is broken."""
    from pipeline.store import custody

    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        verified = custody.verify(tx)
    if in_json:
        broken = [{"card": card, "problem": problem} for card, problem in verified.broken]
        print_json({**asdict(verified), "broken": broken})
    else:
        for card, problem in verified.broken:
            print(f"{card}: {problem}")
        print(f"卡 cards {verified.cards}, 交接 events {verified.events}, 异常 faults {verified.faults}")
    if verified.faults:
        raise typer.Exit(errors.FAILED)


@app.command("events")
def custody_events(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """A card's way: who gave it to whom."""
    from pipeline.store import custody, handing

    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        if handing.application_of(tx, card_id) is None:
            raise NotFound(f"没有卡片 {card_id}", f"no such card: {card_id}")
        steps = custody.history(tx, card_id)
    if in_json:
        print_json([{**step._asdict(), "signature": step.signature.hex()} for step in steps])
        return
    table = Table("时间 (UTC+8)", "交出 from", "交出人 given by", "接收 to", "接收人 taken by", "卡箱 bundle")
    for step in steps:
        at = step.at.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")
        places = (f"{step.giver}/{step.giver_place}", step.given_by, f"{step.taker}/{step.taker_place}", step.taken_by)
        table.add_row(at, *places, step.bundle_id or "")
    console().print(table)


@app.command("ask-back")
def custody_ask_back(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    outlet: Annotated[str, typer.Option()],
    reason: Annotated[
        str, typer.Option(help="uncollected, recalled, misrouted, damaged, refused, wrong_data or unreadable")
    ],
    by: By = None,
    data: DataDir = None,
) -> None:
    """An outlet sets a card aside that has to go back to the centre."""
    from pipeline.services import returns

    context = existing_installation(data).context
    returns.ask_back(context, card_id, outlet=outlet, reason=reason, actor=by or actor())  # type: ignore[arg-type]


@app.command("stored")
def custody_stored(
    due: Annotated[bool, typer.Option("--due", help="only what may be destroyed now")] = False,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Cards at the centre that came back or are waste."""
    from pipeline.store import destructions

    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    with installation.store.transaction() as tx:
        rows = destructions.stored(tx, now=installation.context.now(), due=due)
    if in_json:
        print_json([row._asdict() for row in rows])
        return
    table = Table(
        Column("卡 card", no_wrap=True), "序列号 serial", "状态 state", "原因 reason", "保管至 until", "可销毁 due"
    )
    for row in rows:
        until = f"{row.storage_until.astimezone(SHANGHAI):%Y-%m-%d}" if row.storage_until else ""
        mark = "listed" if row.listed else "yes" if row.due else ""
        table.add_row(row.card, row.serial, row.ending or row.card_status, row.reason or "", until, mark)
    console().print(table)


@app.command("reissue")
def custody_reissue(
    application: Annotated[str, typer.Argument(metavar="APPLICATION")],
    outlet: Annotated[str, typer.Option(help="where the person will collect it")],
    by: By = None,
    data: DataDir = None,
) -> None:
    """A stored card goes out again to its person."""
    from pipeline.services import storage

    storage.reissue(existing_installation(data).context, application, outlet=outlet, actor=by or actor())


@app.command("remake")
def custody_remake(
    application: Annotated[str, typer.Argument(metavar="APPLICATION")],
    reason: Reason,
    by: By = None,
    data: DataDir = None,
) -> None:
    """A returned card that is damaged, wrong or lost is made again."""
    from pipeline.services import storage

    storage.remake(existing_installation(data).context, application, reason=reason, actor=by or actor())


@app.command("found")
def custody_found(
    card_id: Annotated[str, typer.Argument(metavar="CARD")],
    found_by: Annotated[str, typer.Option(help="who brings it")],
    by: By = None,
    data: DataDir = None,
) -> None:
    """A lost card is brought to the centre; it is waste."""
    from pipeline.services import storage

    storage.found(existing_installation(data).context, card_id, found_by=found_by, actor=by or actor())


@app.command("list-waste")
def custody_list_waste(
    reason: Reason,
    cards: Annotated[list[str] | None, typer.Argument(metavar="CARD...", help="all that is due unless named")] = None,
    by: By = None,
    data: DataDir = None,
) -> None:
    """List cards to be destroyed; prints the list's id."""
    from pipeline.services import destruction

    context = existing_installation(data).context
    print(destruction.list_for_destruction(context, cards or None, reason=reason, actor=by or actor()))


@app.command("withdraw")
def custody_withdraw(
    destruction_id: Annotated[str, typer.Argument(metavar="LIST")], by: By = None, data: DataDir = None
) -> None:
    """Cards of a list are not destroyed after all."""
    from pipeline.services import destruction

    destruction.withdraw(existing_installation(data).context, destruction_id, actor=by or actor())


@app.command("destroy")
def custody_destroy(
    destruction_id: Annotated[str, typer.Argument(metavar="LIST")],
    destroyed_by: Annotated[str, typer.Option(help="who destroyed the cards")],
    witness: Annotated[str, typer.Option(help="the second person")],
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Two people have destroyed the cards of a list; prints the receipt."""
    from pipeline.services import destruction

    in_json = wants_json(output, as_json)
    context = existing_installation(data).context
    receipt = destruction.destroy(
        context, destruction_id, destroyed_by=destroyed_by, witness=witness, actor=by or actor()
    )
    _print_receipt(asdict(receipt), in_json)


@app.command("destructions")
def custody_destructions(
    state: Annotated[Literal["listed", "done", "withdrawn"] | None, typer.Option(help="only those that are")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Lists of cards to be destroyed and what was destroyed, newest first."""
    from pipeline.store import destructions

    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        rows = destructions.listing(tx, state=state, limit=limit)
    names = ("id", "state", "reason", "listed_by", "listed_at", "destroyed_by", "witness", "receipt_no", "settled_at")
    if in_json:
        print_json([{**{n: getattr(row, n) for n in names}, "cards": len(row.items)} for row in rows])
        return
    table = Table(Column("清单 list", no_wrap=True), "状态 state", "卡 cards", "原因 reason", "收条 receipt")
    for row in rows:
        table.add_row(row.id, row.state, str(len(row.items)), row.reason, row.receipt_no or "")
    console().print(table)


@app.command("receipt")
def custody_receipt(
    name: Annotated[str, typer.Argument(metavar="RECEIPT", help="the receipt's number, or the list")],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """The receipt of a destruction, its signature verified. Exit 1 when that does not fit."""
    from pipeline.services import destruction

    in_json = wants_json(output, as_json)
    receipt = destruction.receipt(existing_installation(data).context, name)
    _print_receipt(asdict(receipt), in_json)
    if not receipt.genuine:
        raise typer.Exit(errors.FAILED)


def _print_receipt(receipt: dict[str, Any], in_json: bool) -> None:
    if in_json:
        print_json(receipt)
        return
    told = receipt["document"]
    table = Table("序列号 serial", "卡 card", "原因 reason", title=f"销毁收条 receipt {told['receipt_no']}")
    for card in told["cards"]:
        table.add_row(card["serial"], card["card"], card["reason"])
    console().print(table)
    print(f"销毁 destroyed by {told['destroyed_by']}, 见证 witness {told['witness']}, {told['destroyed_at']}")
    print(f"原因 reason {told['reason']}; 签名 signature {'有效 good' if receipt['genuine'] else '无效 BAD'}")
