"""`zhika webhook`: outlets' webhook endpoints and what is delivered to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from pipeline.errors import NotFound
from pipeline.services import endpoints
from pipeline.store import webhooks as store
from pipeline.store.types import Record
from pipeline.webhook_signing import ID, SIGNATURE, TIMESTAMP, verify
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

app = typer.Typer(no_args_is_help=True, help="Outlets' webhooks.", rich_markup_mode=None)
Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="wh_…")]
_PUBLIC = (
    "id", "outlet", "region", "url", "types", "signature", "max_rps", "description", "state", "created_at", "created_by",
    "failing_since", "not_before", "disabled_at", "disabled_why",
)  # fmt: skip
_DELIVERY = ("id", "event_id", "type", "subject", "state", "tries", "next_try_at", "created_at", "settled_at")


@app.command("list")
def list_(
    outlet: Annotated[str | None, typer.Option()] = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Endpoints, and how many deliveries each is owed."""
    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        rows, owed = store.endpoints(tx, outlet=outlet), store.owed(tx)
    if in_json:
        print_json([{name: getattr(row, name) for name in _PUBLIC} | {"owed": owed.get(row.id, 0)} for row in rows])
        return
    table = Table(
        Column("接收端 endpoint", no_wrap=True),
        "网点 outlet",
        "网址 url",
        "状态 state",
        "待投递 owed",
        "故障自 failing since",
    )
    for row in rows:
        why = f"{row.state}: {row.disabled_why}" if row.disabled_why else row.state
        table.add_row(row.id, row.outlet, row.url, why, str(owed.get(row.id, 0)), _time(row.failing_since))
    console().print(table)


@app.command("create")
def create(
    url: Annotated[str, typer.Argument(help="https://…")],
    outlet: Annotated[str, typer.Option(help="out_…")],
    region: Annotated[str, typer.Option(help="the city's code, 6 digits")],
    types: Annotated[list[str] | None, typer.Option("--type", help="repeat; all types by default")] = None,
    signature: Annotated[Literal["ed25519", "hmac"], typer.Option()] = "ed25519",
    max_rps: Annotated[int, typer.Option(min=1, max=endpoints.MAX_RPS)] = endpoints.DEFAULT_RPS,
    description: Annotated[str, typer.Option()] = "",
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """A new endpoint; prints the key its receiver verifies with. A shared secret is never shown again."""
    in_json = wants_json(output, as_json)
    installation = installation_of(data)
    made = endpoints.create(
        installation.context,
        installation.webhooks,
        outlet=outlet,
        region=region,
        url=url,
        types=types or (),
        signature=signature,
        max_rps=max_rps,
        description=description,
        actor=actor(),
    )
    _show_key(made, in_json)


@app.command("rotate")
def rotate(endpoint: Endpoint, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """A new key; the old one signs for 24 hours more."""
    in_json = wants_json(output, as_json)
    _show_key(endpoints.rotate(existing_installation(data).context, endpoint, actor=actor()), in_json)


def _show_key(made: endpoints.Keyed, in_json: bool) -> None:
    if in_json:
        print_json(asdict(made))
        return
    print(f"{made.id}\n{made.key}")
    if made.old_key_until is not None:
        print(f"旧密钥有效至 old key until {_time(made.old_key_until)}")


@app.command("enable")
def enable(endpoint: Endpoint, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Send again; what came meanwhile follows by itself, what was exhausted by `recover`."""
    in_json = wants_json(output, as_json)
    endpoints.enable(existing_installation(data).context, endpoint, actor=actor())
    _tell({"id": endpoint, "state": "enabled"}, f"{endpoint} enabled", in_json)


@app.command("disable")
def disable(
    endpoint: Endpoint,
    reason: Annotated[str, typer.Option(help="why; it is written into the audit log")],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Send nothing more until it is enabled; its events are kept for it."""
    in_json = wants_json(output, as_json)
    endpoints.disable(existing_installation(data).context, endpoint, reason=reason, actor=actor())
    _tell({"id": endpoint, "state": "disabled"}, f"{endpoint} disabled", in_json)


@app.command("delete")
def delete(endpoint: Endpoint, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """The endpoint is no more; nothing is owed to it."""
    in_json = wants_json(output, as_json)
    endpoints.remove(existing_installation(data).context, endpoint, actor=actor())
    _tell({"id": endpoint, "state": "deleted"}, f"{endpoint} deleted", in_json)


@app.command("test")
def test(endpoint: Endpoint, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Send a test event now and tell how far it came. Exit 1 when it did not arrive."""
    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    trial = endpoints.test(installation.context, installation.webhooks, endpoint, actor=actor())
    if in_json:
        print_json(asdict(trial))
    else:
        for step in trial.steps:
            mark = {True: "✓", False: "✗", None: "·"}[step.ok]
            took = "" if step.ms is None else f" ({step.ms} ms)"
            print(f"{mark} {step.step} {step.detail}{took}")
    if not trial.delivered:
        raise typer.Exit(errors.FAILED)


@app.command("deliveries")
def deliveries(
    endpoint: Endpoint,
    state: Annotated[Literal["waiting", "sending", "delivered", "exhausted"] | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """What an endpoint is or was owed, newest first; in JSON with every attempt of the last 90 days."""
    in_json = wants_json(output, as_json)
    with existing_installation(data).store.transaction() as tx:
        if store.endpoint(tx, endpoint) is None:  # of a deleted one the log is kept
            raise NotFound(f"没有接收端 {endpoint}", f"no such endpoint: {endpoint}")
        rows = store.deliveries(tx, endpoint, state=state, limit=limit)
        attempts = store.attempts(tx, [row.id for row in rows])
    if in_json:
        print_json([_delivery(row, [a for a in attempts if a.delivery_id == row.id]) for row in rows])
        return
    last = {attempt.delivery_id: attempt for attempt in attempts}
    table = Table(
        Column("投递 delivery", no_wrap=True),
        "事件 type",
        "状态 state",
        "次数 tries",
        "下次 next",
        "最近结果 last result",
    )
    for row in rows:
        said = last[row.id].problem or last[row.id].result if row.id in last else ""
        table.add_row(row.id, row.type, row.state, str(row.tries), _time(row.next_try_at), said)
    console().print(table)


def _delivery(row: Record, attempts: Sequence[Record]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _DELIVERY} | {"attempts": [_attempt(attempt) for attempt in attempts]}


def _attempt(row: Record) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name not in ("seq", "delivery_id", "endpoint_id")}


@app.command("resend")
def resend(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="dlv_…")],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Send a delivery once more: the same id, the same bytes."""
    in_json = wants_json(output, as_json)
    endpoints.resend(existing_installation(data).context, delivery, actor=actor())
    _tell({"id": delivery, "state": "waiting"}, f"{delivery} waiting", in_json)


@app.command("recover")
def recover(
    endpoint: Endpoint,
    since: Annotated[str, typer.Option(help="RFC 3339 with a time zone, e.g. 2026-12-01T00:00:00+08:00")],
    until: Annotated[str | None, typer.Option(help="the same; now by default")] = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """All of that time that has not arrived goes out again."""
    in_json = wants_json(output, as_json)
    begin, end = _instant(since, "--since"), _instant(until, "--until") if until else None
    context = existing_installation(data).context
    found = endpoints.recover(context, endpoint, since=begin, until=end or context.now(), actor=actor())
    _tell(asdict(found), f"{found.requeued} 重新投递 requeued, {found.created} 补建 created", in_json)


def _instant(text: str, hint: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("RFC 3339, e.g. 2026-12-01T00:00:00+08:00", param_hint=hint) from None
    if value.tzinfo is None:
        raise typer.BadParameter("a time zone is missing: Z or +08:00", param_hint=hint)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter("a time between the years 1 and 9999", param_hint=hint) from None


@app.command("verify")
def verify_(
    body: Annotated[typer.FileBinaryRead, typer.Argument(help="the body's bytes as they came; - for stdin")],
    key_file: Annotated[Path, typer.Option(help="a file with the receiver's keys, whpk_… or whsec_…, one a line")],
    event_id: Annotated[str, typer.Option("--id", help=ID)],
    timestamp: Annotated[str, typer.Option(help=TIMESTAMP)],
    signature: Annotated[str, typer.Option(help=SIGNATURE)],
    at: Annotated[str | None, typer.Option(help="when it came, RFC 3339; now by default")] = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Verify a delivery as its receiver does. Exit 4 when it would be refused, with the reason."""
    from pipeline.clock import SystemClock

    in_json = wants_json(output, as_json)
    now = _instant(at, "--at") if at else SystemClock().now()
    headers = {ID: event_id, TIMESTAMP: timestamp, SIGNATURE: signature}
    try:
        verify(headers, body.read(), keys_in(key_file), now=now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--key-file") from None
    _tell({"ok": True}, "验签通过 the signature fits", in_json)


def keys_in(path: Path) -> list[str]:
    """The keys of a file, one a line.

    Raises:
        BadParameter: it cannot be read.
    """
    try:
        return path.read_text().split()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path}: a file in UTF-8") from None


def _tell(document: dict[str, Any], text: str, in_json: bool) -> None:
    if in_json:
        print_json(document)
    else:
        print(text)


def _time(value: datetime | None) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}Z"
