"""`zhika card`: virtual cards in readers, and real or virtual cards read, compared and printed on sheets.

Only what reaches for a reader needs pyscard. Personal data is masked unless it is asked for, which the audit log keeps.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from card_personalization.keys.base import Diversification
from config.settings import BadConfiguration
from config.wiring import Installation
from pipeline.errors import NotFound, Refused
from pipeline.person import mask_name, mask_number
from producers.cli import errors, terminal
from producers.cli.terminal import DataDir, JsonFlag, Output

if TYPE_CHECKING:
    from card_personalization.profiles import CardProfile
    from card_personalization.simulator.faults import Fault
    from card_personalization.simulator.pace import Pace
    from pipeline.gateways.card_reader import CardRead
    from producers.simulators.card import Slot

app = typer.Typer(no_args_is_help=True, help="卡片 Cards and readers.", rich_markup_mode=None)

Reader = Annotated[str, typer.Option(help="the reader's name, or a part that is its alone")]
Profile = Annotated[str, typer.Option(help="the kind of card, as config/cards names it")]

USUAL_PROFILE = "ssc2"
_SERIAL = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_HEX_BYTE = re.compile(r"[0-9A-Fa-f]{1,2}", re.ASCII)
_CARD_FILE = ".card"
_MAX_SERIAL = 0xFFFFFFFF


# ----------------------------------------------------------------------------------------------------------- simulate


@app.command("simulate")
def simulate(
    vpcd: Annotated[list[str], typer.Option(metavar="HOST:PORT", help="a vpcd reader; once for each card")],
    serial: Annotated[
        str | None,
        typer.Option(help="chip serial of the first card, 8 hex digits; the others count up. Default: the port"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="where the cards are kept: a directory, or one file SERIAL.card; options describe new cards only"
        ),
    ] = None,
    profile: Profile = USUAL_PROFILE,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="KIND[=VALUE]@COMMAND[:NTH][xTIMES], e.g. sw=6A84@STORE DATA:2"),
    ] = None,
    baud: Annotated[int | None, typer.Option(min=1, help="as slow as a line of so many bit/s")] = None,
    ms_per_command: Annotated[float, typer.Option(min=0, help="and so long for every command; needs --baud")] = 0.0,
    scp: Annotated[str | None, typer.Option(help="secure channel 02 or 03. Default: the profile's")] = None,
    i: Annotated[
        str | None, typer.Option("--i", metavar="HH", help="its option: 15, 55; 00, 10, 60, 70, 01 .. 71")
    ] = None,
    kvn: Annotated[str | None, typer.Option(metavar="HH", help="version of its keys")] = None,
    keys: Annotated[
        Diversification | None,
        typer.Option(help="how they come from the published test key 4041..4F; none: all three are that key"),
    ] = None,
    strict_t0: Annotated[
        bool, typer.Option(help="announce answers with 61xx and want exact Le, as T=0 chips do")
    ] = False,
    data: DataDir = None,
) -> None:
    """Virtual cards in vpcd readers until SIGTERM; `ready` on stderr once all are in. Test keys; refused in production.

    zhika card simulate --vpcd 127.0.0.1:35963 --scp 03
    """
    from producers.simulators import card as play

    settings = terminal.settings_of(data)
    if settings.env == "production":
        raise Refused("生产环境不得使用虚拟卡", "virtual cards are refused in production", code="production")
    installation = Installation(settings)
    kind = _profile(installation, profile)
    slots = _slots(vpcd, serial, state)
    try:
        manager = play.card_manager(kind, scp=_scp(scp), i=_hex(i, "--i"), kvn=_hex(kvn, "--kvn"), diversification=keys)
    except ValueError as error:
        raise typer.BadParameter(f"没有这样的安全通道 {error}", param_hint="--scp") from None
    name = play.name_of(kind, manager, strict_t0=strict_t0)
    directory = _directory(state) or settings.data_dir / "virtual-cards" / name
    store = play.box(
        directory,
        slots,
        profile=kind,
        manager=manager,
        faults=_faults(fault or []),
        pace=_pace(baud, ms_per_command),
        strict_t0=strict_t0,
    )
    stopping = _stop_on_signals()  # before the first word: whoever reads it may end this
    _tell(f"虚拟卡 virtual cards {name}: {directory}")
    for line in play.told(manager):
        _tell(f"密钥 keys 4041..4F: {line}")
    play.simulate(slots, store, stopping, on_line=_tell_line, on_ready=lambda: _tell("ready"))


def _slots(vpcd: list[str], serial: str | None, state: Path | None) -> list[Slot]:
    from producers.simulators.card import Slot

    places = [_address(text) for text in vpcd]
    if len(set(places)) != len(places):
        raise typer.BadParameter("一个读卡器只能放一张卡 a reader holds one card", param_hint="--vpcd")
    if state is not None and _is_file(state):
        if len(places) > 1 or (serial is not None and serial.upper() != state.stem.upper()):
            raise typer.BadParameter(
                f"{state.name} 只是一张卡 is one card, {state.stem}: one --vpcd, no --serial", param_hint="--state"
            )
        serial = state.stem
    if serial is not None and not _SERIAL.fullmatch(serial):
        raise typer.BadParameter(f"{serial!r}: 须为 8 位十六进制 must be 8 hex digits", param_hint="--serial")
    first = None if serial is None else int(serial, 16)
    numbers = [port if first is None else first + n for n, (_, port) in enumerate(places)]
    if len(set(numbers)) != len(numbers) or numbers[-1] > _MAX_SERIAL:
        raise typer.BadParameter("卡片序列号重复，请指定 serials are not different: give one", param_hint="--serial")
    return [
        Slot(host=host, port=port, serial=f"{number:08X}") for (host, port), number in zip(places, numbers, strict=True)
    ]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 0x10000:
        raise typer.BadParameter(f"{text!r}: 应写成 主机:端口 is written host:port", param_hint="--vpcd")
    return host, int(port)


def _is_file(state: Path) -> bool:
    if state.is_file() and state.suffix != _CARD_FILE:
        raise typer.BadParameter(
            f"{state}: 卡片文件名须为 序列号.card a card's file is named SERIAL{_CARD_FILE}", param_hint="--state"
        )
    return state.suffix == _CARD_FILE and not state.is_dir()


def _directory(state: Path | None) -> Path | None:
    return state.parent if state is not None and _is_file(state) else state


def _scp(text: str | None) -> int | None:
    number = _hex(text, "--scp")
    if number not in (None, 2, 3):
        raise typer.BadParameter("02 或 or 03", param_hint="--scp")
    return number


def _hex(text: str | None, hint: str) -> int | None:
    if text is None:
        return None
    if not _HEX_BYTE.fullmatch(text):
        raise typer.BadParameter(f"{text!r}: 须为两位十六进制 must be two hex digits", param_hint=hint)
    return int(text, 16)


def _faults(specs: list[str]) -> list[Fault]:
    from card_personalization.simulator.faults import Fault

    try:
        return [Fault.parse(spec) for spec in specs]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from None


def _pace(baud: int | None, ms_per_command: float) -> Callable[[], Pace] | None:
    from card_personalization.simulator.pace import Pace

    if baud is None and ms_per_command:
        raise typer.BadParameter("须同时给出 --baud needs --baud", param_hint="--ms-per-command")
    return None if baud is None else lambda: Pace(baud, ms_per_command)


def _tell_line(slot: Slot, connected: bool) -> None:
    if connected:
        _tell(f"{slot}: 卡片已插入 the card is in")
    else:
        _tell(f"{slot}: 卡片不在读卡器中，等待读卡器 the card is in no reader, waiting for one")


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping


# ------------------------------------------------------------------------------------------------------------ reading


@app.command("readers")
def readers(output: Output = "table", as_json: JsonFlag = False) -> None:
    """The readers there are, and whether a card lies in them. Exit 69 when pcscd does not answer."""
    in_json = terminal.wants_json(output, as_json)
    found = _card_reader().readers()
    if in_json:
        terminal.print_json({"readers": [{"name": reader.name, "card": reader.card} for reader in found]})
        return
    table = Table("读卡器 reader", "卡片 card")
    for reader in found:
        table.add_row(reader.name, "有 yes" if reader.card else "无 no")
    terminal.console().print(table)


@app.command("read")
def read(
    reader: Reader,
    profile: Profile = USUAL_PROFILE,
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="show personal data; the audit log keeps who did")
    ] = False,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """What a counter reads from a card. Exit 3: no such reader; 4: not such a card; 69: no pcscd; 75: the reader is in use."""
    in_json = terminal.wants_json(output, as_json)
    installation = terminal.installation_of(data)
    kind = _profile(installation, profile)
    card = _card_reader().read(reader, kind)
    if unmasked:
        _note(installation, "card.read", [card.found.card_id or f"chip {card.atr[-4:].hex().upper()}"])
    seen = _seen(card, kind, masked=not unmasked)
    if in_json:
        terminal.print_json(seen)
    else:
        _print_rows({"reader": seen["reader"], "card_id": seen["card_id"]} | seen["social"] | (seen["financial"] or {}))


def _seen(card: CardRead, profile: CardProfile, *, masked: bool) -> dict[str, Any]:
    fields = card.found.fields

    def shown(name: str, mask: Callable[[str], str] = lambda value: value) -> str | None:
        value = fields.get(name)
        return mask(value) if value is not None and masked else value

    social: dict[str, Any] = {
        "card_number": shown("card_number", lambda value: mask_number(value, head=2, tail=2)),
        "name": shown("name", mask_name),
        "social_security_number": shown("social_security_number", mask_number),
        "issued": shown("issued"),
        "expires": shown("expires"),
    }
    if card.pin_tries_left is not None:
        social["pin_tries_left"] = card.pin_tries_left
    return {
        "ok": True,
        "reader": card.reader,
        "atr": card.atr.hex().upper(),
        "card_id": card.found.card_id,
        "profile": profile.name,
        "blank": card.found.blank,
        "social": social,
        "financial": _financial(card, profile, masked=masked),
        "masked": masked,
        "elapsed_ms": card.elapsed_ms,
    }


def _financial(card: CardRead, profile: CardProfile, *, masked: bool) -> dict[str, Any] | None:
    """`state` is what the chip tells: whether the application is personalised. What the bank did with it since, it does not tell."""
    for application in profile.applications[:1]:
        found = card.found.application(application.name)
        if found is not None and found.present:
            pan = found.pan
            return {
                "aid": application.aid.hex().upper(),
                "pan": mask_number(pan, head=6) if pan is not None and masked else pan,
                "state": "personalised" if found.complete else "blank",
            }
    return None


@app.command("verify")
def verify(reader: Reader, data: DataDir = None, output: Output = "table", as_json: JsonFlag = False) -> None:
    """Compare a card with what it must carry, field by field. Exit 4: it differs; 3: it was not made here."""
    from pipeline.services.produced import order_of_chip

    in_json = terminal.wants_json(output, as_json)
    installation = terminal.installation_of(data)
    at_reader = _card_reader()
    card = at_reader.read(reader, _profile(installation, USUAL_PROFILE))
    if card.found.card_id is None:
        raise NotFound("读卡器中是空白卡", "the card in the reader is blank")
    order = order_of_chip(installation.context, card.found.card_id)
    if order.profile != USUAL_PROFILE:
        card = at_reader.read(reader, _profile(installation, order.profile))
    result = at_reader.compared(card, order, profile=_profile(installation, order.profile), keys=installation.keys)
    seen = {
        "ok": not result.differing,
        "card_id": result.card_id,
        "application": result.application_id,
        "fields": result.fields,
        "differing": list(result.differing),
    }
    if in_json:
        terminal.print_json(seen)
    else:
        _print_rows({**seen, "differing": ", ".join(result.differing) or "-"})
    if result.differing:
        raise typer.Exit(errors.REFUSED)


# ----------------------------------------------------------------------------------------------------------- printing


@app.command("sheet")
def sheet(
    applications: Annotated[list[str], typer.Argument(metavar="APPLICATION...", help="whose cards were produced")],
    out: Annotated[Path, typer.Option(metavar="FILE.pdf", help="the file to write; its owner alone may read it")],
    data: DataDir = None,
) -> None:
    """The faces of produced cards on sheets of A4 with crop marks, in true size."""
    from card_personalization.sheet import sheets

    installation = terminal.installation_of(data)
    faces = [installation.objects.get(name) for name in _faces(installation, applications)]
    document = sheets(faces, label=f"zhika  {len(faces)} cards")
    _note(installation, "card.sheet", applications)
    _write_private(out, document)
    print(out)


def _faces(installation: Installation, applications: list[str]) -> list[str]:
    from pipeline.store import views

    with installation.store.transaction() as tx:
        cards = {application: views.card_row(tx, application) for application in applications}
    if missing := [application for application, card in cards.items() if card is None or card.face is None]:
        listed = ", ".join(missing)
        raise NotFound(f"没有卡面：{listed}", f"no card face was kept of: {listed}")
    return [card.face for card in cards.values() if card is not None]


def _write_private(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)


# ------------------------------------------------------------------------------------------------------------- common


def _card_reader() -> ModuleType:
    """The gateway to readers.

    Raises:
        BadConfiguration: pyscard or the library under it is missing.
    """
    try:
        from pipeline.gateways import card_reader
    except ImportError as error:
        if error.name is not None and not error.name.startswith("smartcard"):
            raise
        raise BadConfiguration(
            [
                "缺少 pyscard 或 libpcsclite，请安装 pyscard or libpcsclite is missing; install them:"
                " apt install libpcsclite-dev swig && pip install 'zhika[pcsc]'"
            ]
        ) from None
    return card_reader


def _profile(installation: Installation, name: str) -> CardProfile:
    profiles = installation.card_profiles
    if name not in profiles:
        raise typer.BadParameter(
            f"没有卡种 {name!r} no such kind of card; there are {', '.join(profiles)}", param_hint="--profile"
        )
    return profiles[name]


def _note(installation: Installation, action: str, targets: list[str]) -> None:
    """Say in the audit log who looked at whose card, before it is shown (WH-22)."""
    from pipeline.store import audit

    now = installation.clock.now()
    with installation.store.transaction() as tx:
        for target in targets:
            audit.append(tx, actor=terminal.actor(), action=action, target=target, now=now)


def _print_rows(values: dict[str, Any]) -> None:
    table = Table("项目 field", "内容 value")
    for name, value in values.items():
        table.add_row(name, "-" if value is None else str(value))
    terminal.console().print(table)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
