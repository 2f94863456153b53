"""`zhika broker`: what stands on RabbitMQ, and outlets' queues there."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from config.settings import Settings
from config.wiring import Installation
from pipeline.errors import Refused
from producers.cli import errors
from producers.cli.terminal import (
    DataDir,
    actor,
    existing_installation,
    installation_of,
    plain,
    print_json,
    settings_of,
)

app = typer.Typer(no_args_is_help=True, help="The message broker.", rich_markup_mode=None)
queue_app = typer.Typer(no_args_is_help=True, help="Outlets' queues.", rich_markup_mode=None)
app.add_typer(queue_app, name="queue")

PASSWORD_BYTES = 24
Outlet = Annotated[str, typer.Argument(metavar="OUTLET")]


def _with_broker(settings: Settings) -> str:
    """The broker's URL.

    Raises:
        Refused: this installation has none.
    """
    if settings.embedded:
        raise Refused(
            "本系统未配置 RabbitMQ：请设置 ZHIKA_BROKER__URL=amqp://…（并使用 PostgreSQL），或改用拉取接口与 webhook",
            "there is no RabbitMQ: set ZHIKA_BROKER__URL to amqp://… (with PostgreSQL), or use the pull feed or webhooks",
            code="amqp-not-configured",
        )
    return settings.broker.url


def _outlets(installation: Installation) -> list[str]:
    from pipeline.store import outlet_queues

    with installation.store.transaction() as tx:
        return outlet_queues.enabled(tx)


@app.command("declare")
def broker_declare(data: DataDir = None) -> None:
    """Make every exchange and queue that is missing: the work's, and those of outlets whose queue is on. Run it at deployment."""
    from pipeline.gateways.amqp_topology import topology
    from pipeline.gateways.notify_amqp import declare
    from workers import actors
    from workers.broker import SafeRabbitmqBroker

    installation = installation_of(data)
    url = _with_broker(installation.settings)
    inside = SafeRabbitmqBroker(url, quorum=installation.settings.broker.quorum)
    actors.declare(inside, actors.nothing)
    for name in sorted(inside.queues):
        inside.declare_queue(name, ensure=True)
    inside.close()
    _tell(declare(url, topology(_outlets(installation))))


@app.command("check")
def broker_check(data: DataDir = None) -> None:
    """How the exchanges and queues for outlets stand; makes nothing. Exit 1 when one is missing or has other arguments."""
    from pipeline.gateways.amqp_topology import topology
    from pipeline.gateways.notify_amqp import check

    installation = existing_installation(data)
    _tell(check(_with_broker(installation.settings), topology(_outlets(installation))))


def _tell(standing: Mapping[str, str]) -> None:
    print_json(standing)
    if any(how != "ok" for how in standing.values()):
        raise typer.Exit(errors.FAILED)


@app.command("definitions")
def broker_definitions(
    outlet: Annotated[list[str], typer.Option(help="an outlet whose program gets a user")],
    passwords: Annotated[Path, typer.Option(help="a directory with OUTLET.password files; what is missing is made")],
    vhost: Annotated[str | None, typer.Option(help="the virtual host; that of the broker's URL by default")] = None,
    data: DataDir = None,
) -> None:
    """RabbitMQ's definitions for outlets' users, for `rabbitmqctl import_definitions`: each reads its own queue and writes its own commands."""
    from pipeline.gateways.amqp_topology import OutletUser, definitions, queue_of
    from pipeline.services.queues import named

    host = vhost or unquote(urlsplit(_with_broker(settings_of(data))).path[1:]) or "/"
    outlets = [named(name) for name in dict.fromkeys(outlet)]
    passwords.mkdir(parents=True, exist_ok=True, mode=0o700)
    users = [OutletUser(outlet=name, password=_password(passwords / f"{name}.password")) for name in outlets]
    print_json(definitions(users, vhost=host, salt=secrets.token_bytes(4 * len(users))))
    for name in outlets:
        print(f"{queue_of(name)}: {passwords / name}.password", file=sys.stderr)


def _password(path: Path) -> str:
    """The password in a file; a file that is not there is made, readable by its owner only."""
    if path.exists():
        password = path.read_text().strip()
        if not password:
            raise Refused(
                f"{path} 是空文件", f"{path} is empty: write a password into it, or remove it", code="required"
            )
        return password
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    return password


@queue_app.command("enable")
def queue_enable(
    outlet: Outlet,
    after: Annotated[str | None, typer.Option(help="the cursor of the feed to begin after")] = None,
    data: DataDir = None,
) -> None:
    """Events of an outlet go into its queue from now on, or from where it was switched off; prints the cursor it goes on from."""
    from pipeline.services import queues

    installation = existing_installation(data)
    _with_broker(installation.settings)
    print(queues.enable(installation.context, outlet, after=after, actor=actor()))


@queue_app.command("disable")
def queue_disable(outlet: Outlet, data: DataDir = None) -> None:
    """No more events go into an outlet's queue; its place in the feed is kept."""
    from pipeline.services import queues

    queues.disable(existing_installation(data).context, outlet, actor=actor())


@queue_app.command("list")
def queue_list(data: DataDir = None) -> None:
    """Outlets' queues, one JSON object a line: how far behind each is, and since when and why it takes no events."""
    from pipeline.store import outlet_queues

    with existing_installation(data).store.transaction() as tx:
        for row in outlet_queues.listing(tx):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=plain))
