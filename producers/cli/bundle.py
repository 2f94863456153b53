"""`zhika bundle`: boxes of cards on their way, out to outlets and back to the centre."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from pipeline.errors import NotFound
from producers.cli.terminal import DataDir, actor, existing_installation, plain, print_json

app = typer.Typer(no_args_is_help=True, help="Bundles of cards.", rich_markup_mode=None)

Status = Literal["packing", "sealed", "shipped", "received", "disputed", "closed"]
Direction = Literal["out", "back"]
By = Annotated[str | None, typer.Option("--by", help="who does it; the user of this machine unless named")]
Id = Annotated[str, typer.Argument(metavar="ID")]
Outlet = Annotated[str, typer.Option(help="the outlet")]
Seal = Annotated[str, typer.Option("--seal", help="the number on the seal")]
Carrier = Annotated[str, typer.Option(help="the courier")]
Note = Annotated[str | None, typer.Option("--carrier-ref", help="number of the consignment note")]
Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card",
        help="a card that is there, by id or serial; all others when none is named, but none that was told missing before",
    ),
]
Missing = Annotated[list[str] | None, typer.Option("--missing", help="a card that is not there, by id or serial")]
Extra = Annotated[list[str] | None, typer.Option("--extra", help="serial of a card that is not on the list")]
Damaged = Annotated[list[str] | None, typer.Option("--damaged", help="a damaged card, by id or serial")]
Broken = Annotated[bool, typer.Option("--seal-broken", help="the seal has the right number, but is broken")]


@app.command("list")
def bundle_list(
    status_: Annotated[Status, typer.Option("--status")] = "sealed",
    direction: Annotated[Direction | None, typer.Option(help="to outlets, or back from them")] = None,
    outlet: Annotated[str | None, typer.Option()] = None,
    data: DataDir = None,
) -> None:
    """Bundles of a status, one JSON object a line."""
    from pipeline.store import custody

    with existing_installation(data).store.transaction() as tx:
        for row in custody.bundles(tx, status=status_, direction=direction, outlet=outlet):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))


@app.command("show")
def bundle_show(bundle_id: Id, data: DataDir = None) -> None:
    """A bundle with its packing list, the cards in it and its discrepancies."""
    from pipeline.store import custody, discrepancies

    with existing_installation(data).store.transaction() as tx:
        bundle = custody.bundle(tx, bundle_id)
        if bundle is None:
            raise NotFound(f"没有卡箱 {bundle_id}", f"no such bundle: {bundle_id}")
        cards = custody.cards_in(tx, bundle_id)
        found = discrepancies.listing(tx, bundle_id=bundle_id)
    names = ("id", "blank_serial", "application_id", "slot", "status", "custody", "place", "return_reason")
    listed = [{name: getattr(card, name) for name in names} for card in cards]
    print_json({**bundle._asdict(), "cards": listed, "discrepancies": [row._asdict() for row in found]})


@app.command("pack")
@app.command("seal")
def bundle_seal(bundle_id: Id, by: By = None, data: DataDir = None) -> None:
    """Close a bundle before its time; prints the number of its seal."""
    from pipeline.services import bundles

    print(bundles.seal_now(existing_installation(data).context, bundle_id, actor=by or actor()))


@app.command("ship")
def bundle_ship(
    bundle_id: Id, carrier: Carrier = "courier_1", carrier_ref: Note = None, by: By = None, data: DataDir = None
) -> None:
    """The courier takes a sealed bundle; prints how many cards."""
    from pipeline.services import bundles

    context = existing_installation(data).context
    print(bundles.ship(context, bundle_id, carrier=carrier, carrier_ref=carrier_ref, actor=by or actor()))


@app.command("receive")
def bundle_receive(
    bundle_id: Id,
    outlet: Outlet,
    seal_no: Seal,
    card: Cards = None,
    missing: Missing = None,
    extra: Extra = None,
    damaged: Damaged = None,
    seal_broken: Broken = False,
    by: By = None,
    data: DataDir = None,
) -> None:
    """The outlet signs for a bundle. What differs opens discrepancies; a card that turns up later is named by --card."""
    from pipeline.services import bundles

    told = _told(card, missing, extra, damaged, seal_broken)
    context = existing_installation(data).context
    receipt = bundles.receive(context, bundle_id, outlet=outlet, seal_no=seal_no, actor=by or actor(), **told)
    print_json(asdict(receipt))


@app.command("settle")
def bundle_settle(
    discrepancy: Annotated[str, typer.Argument(metavar="DISCREPANCY")],
    resolution: Annotated[
        str, typer.Option("--as", help="arrived, lost, sent_back, forwarded, not_ours or accepted; the kind says which")
    ],
    note: Annotated[str, typer.Option(help="what was found; nothing of persons")] = "",
    by: By = None,
    data: DataDir = None,
) -> None:
    """Settle a discrepancy; prints how its bundle stands now."""
    from pipeline.services import discrepancies

    context = existing_installation(data).context
    print(discrepancies.settle(context, discrepancy, resolution=resolution, actor=by or actor(), note=note))


@app.command("close")
def bundle_close(bundle_id: Id, by: By = None, data: DataDir = None) -> None:
    """A received bundle is done with; refused while a discrepancy is open."""
    from pipeline.services import bundles

    bundles.close(existing_installation(data).context, bundle_id, actor=by or actor())


@app.command("return")
def bundle_return(
    cards: Annotated[list[str], typer.Argument(metavar="CARD...", help="cards that were called back or set aside")],
    outlet: Outlet,
    seal_no: Seal,
    carrier: Carrier = "courier_1",
    carrier_ref: Note = None,
    by: By = None,
    data: DataDir = None,
) -> None:
    """The courier takes cards back from an outlet; prints the bundle."""
    from pipeline.services import returns

    sent = {"outlet": outlet, "seal_no": seal_no, "carrier": carrier, "carrier_ref": carrier_ref}
    print(returns.send_back(existing_installation(data).context, cards, actor=by or actor(), **sent))  # type: ignore[arg-type]


@app.command("receive-back")
def bundle_receive_back(
    bundle_id: Id,
    seal_no: Seal,
    card: Cards = None,
    missing: Missing = None,
    extra: Extra = None,
    damaged: Damaged = None,
    seal_broken: Broken = False,
    by: By = None,
    data: DataDir = None,
) -> None:
    """The centre signs for cards that come back."""
    from pipeline.services import returns

    told = _told(card, missing, extra, damaged, seal_broken)
    context = existing_installation(data).context
    receipt = returns.receive_back(context, bundle_id, seal_no=seal_no, actor=by or actor(), **told)
    print_json(asdict(receipt))


@app.command("receipt")
def bundle_receipt(bundle_id: Id, data: DataDir = None) -> None:
    """The centre's signed receipt for a bundle that came back."""
    from pipeline.services import returns

    print_json(returns.receipt(existing_installation(data).context, bundle_id))


def _told(
    card: list[str] | None,
    missing: list[str] | None,
    extra: list[str] | None,
    damaged: list[str] | None,
    seal_broken: bool,
) -> dict[str, Any]:
    """What `scan_in.Told` wants; a list that is not given is None to typer."""
    told = {"missing": missing or (), "extra": extra or (), "damaged": damaged or ()}
    return {**told, "received": card or None, "seal_intact": not seal_broken}
