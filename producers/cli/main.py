"""The command `zhika`. Data goes to stdout, talk to stderr; exit codes are in `errors`."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from config import logs
from config.release import release
from config.settings import load
from pipeline.clock import SHANGHAI
from pipeline.errors import NotFound
from pipeline.states import STAGES
from producers.cli import errors
from producers.cli.groups import Groups
from producers.cli.terminal import DataDir, JsonFlag, Output, existing_installation
from producers.cli.terminal import actor as _actor
from producers.cli.terminal import console as _console
from producers.cli.terminal import installation_of as _installation
from producers.cli.terminal import plain as _plain
from producers.cli.terminal import print_json as _print_json
from producers.cli.terminal import settings_of as _settings
from producers.cli.terminal import wants_json as _as_json

app = typer.Typer(
    name="zhika",
    cls=Groups,
    help="制卡 zhika: applications for social security cards become cards in people's hands.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)
run_app = typer.Typer(no_args_is_help=True, help="One role, for supervisors and containers.", rich_markup_mode=None)
application_app = typer.Typer(no_args_is_help=True, help="Applications.", rich_markup_mode=None)
batch_app = typer.Typer(no_args_is_help=True, help="Batches of intake.", rich_markup_mode=None)
stage_app = typer.Typer(no_args_is_help=True, help="Stages of the line.", rich_markup_mode=None)
simulate_app = typer.Typer(no_args_is_help=True, help="Stand-ins for the world around.", rich_markup_mode=None)
db_app = typer.Typer(no_args_is_help=True, help="The database.", rich_markup_mode=None)
audit_app = typer.Typer(no_args_is_help=True, help="The audit log.", rich_markup_mode=None)
for name, sub in (
    ("run", run_app),
    ("application", application_app),
    ("batch", batch_app),
    ("stage", stage_app),
    ("simulate", simulate_app),
    ("db", db_app),
    ("audit", audit_app),
):
    app.add_typer(sub, name=name)


@app.callback()
def root() -> None:
    """制卡 zhika."""


@app.command("version")
def showrelease() -> None:
    """Print the release."""
    print(release())


# -------------------------------------------------------------------------------------------------------------- demo


@app.command()
def demo(
    applications: Annotated[int, typer.Option(min=5, max=5000, help="how many good applications")] = 60,
    region: Annotated[str | None, typer.Option(help="only this region, e.g. wuhan")] = None,
    seed: Annotated[int, typer.Option(help="the same seed makes the same people")] = 1,
    faults: Annotated[str, typer.Option(help="faults of the bank, e.g. decline=0.02,timeout=0.01")] = "",
    keep: Annotated[Path | None, typer.Option(help="keep the working files in this directory")] = None,
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("out/demo"),
    as_json: JsonFlag = False,
) -> None:
    """The whole story without any set-up: a sample of five regions, from the intake file to the card in the hand."""
    from config.policies import load_policies
    from producers.cli.demo import Demo, NotQuiet

    logs.configure("debug" if os.environ.get("ZHIKA_LOG_LEVEL") == "debug" else "error")
    _check_faults(faults, "--faults")
    cities = load_policies().cities()
    if region is not None and all(region not in (city.key, city.code) for city in cities):
        known = ", ".join(city.key for city in cities)
        raise typer.BadParameter(f"没有这个地区 no such region; there are {known}", param_hint="--region")
    console = Console(file=sys.stderr if as_json else sys.stdout)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise typer.BadParameter(f"{keep} is not empty", param_hint="--keep")
    with tempfile.TemporaryDirectory(prefix="zhika-demo-") as temporary:
        story = Demo(
            out=out,
            work=keep or Path(temporary),
            wanted=applications,
            seed=seed,
            region=region,
            console=console,
            faults=faults,
        )
        try:
            summary = story.run()
        except NotQuiet as error:
            _fail(str(error))
    if as_json:
        _print_json(summary)
    else:
        _tell(console, summary, out)
    if not summary["ok"]:
        raise typer.Exit(errors.FAILED)


def _tell(console: Console, summary: dict[str, Any], out: Path) -> None:
    blanks = summary["blanks"]
    console.print(
        f"{summary['rows']} 行 rows · {summary['applications']} 份申领 applications · {summary['rows_refused']} 行有误 wrong rows · "
        f"{summary['duplicates_refused']} 重复 duplicate",
        f"{summary['accounts_opened']} 个账户 accounts · {summary['cards_personalised']} 张卡 cards, "
        f"{summary['cards_verified']} 已读回核对 read back · 空白卡 blanks {blanks['taken']} 领用 taken, {blanks['spoiled']} 报废 spoiled",
        f"{summary['bundles'].get('out', 0)} 箱发往网点 bundles out, {summary['bundles'].get('back', 0)} 箱退回 back · "
        f"{summary['counter']['notices']} 已通知 told · {summary['counter']['hand_overs']} 已交付 handed over · "
        f"{summary['destroyed']} 已销毁 destroyed · {summary['webhooks']['events']} 次推送 webhooks",
        sep="\n",
    )
    for check, holds in summary["checks"].items():
        console.print(f"  {'✓' if holds else '✗'} {check}")
    console.print(f"{out / 'report.html'}  ·  {out / 'summary.json'}  ·  {out / 'faces'}/  ({summary['elapsed_s']} s)")


def _check_faults(spec: str, hint: str) -> None:
    from pipeline.gateways.bank_simulated import Faults

    try:
        Faults.parse(spec)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def _fail(text: str) -> NoReturn:
    print(f"zhika: {text}", file=sys.stderr)
    raise typer.Exit(errors.FAILED)


# ---------------------------------------------------------------------------------------------------------------- up


@app.command()
def up(
    data: DataDir = None,
    simulators: Annotated[
        bool, typer.Option("--simulators/--no-simulators", help="a simulated bank and outlets")
    ] = True,
    blanks: Annotated[int, typer.Option(min=0, help="virtual blanks put into an empty stock")] = 1000,
    outlets: Annotated[
        bool | None,
        typer.Option("--outlets/--no-outlets", help="simulated couriers, clerks and applicants; as --simulators says"),
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="also write the ready line to this file")] = None,
    bank_bind: Annotated[str, typer.Option(help="where the simulated bank listens")] = "127.0.0.1:8710",
    bank_faults: Annotated[str, typer.Option(help="faults of the simulated bank")] = "",
) -> None:
    """Everything on this machine: relay, timers, workers of all stages, file intake, and the simulators. Ends by SIGTERM or `zhika down`."""
    from producers import up as machine

    _check_faults(bank_faults, "--bank-faults")
    settings = _settings(data)
    machine.up(
        settings,
        simulators=simulators,
        outlets=simulators if outlets is None else outlets,
        blanks=blanks,
        ready_file=ready_file,
        bank_bind=bank_bind,
        bank_faults=bank_faults,
    )


@app.command("down")
def down_(data: DataDir = None) -> None:
    """Stop what `zhika up` started, cleanly."""
    from producers.supervisor import down, state_file

    down(state_file(_settings(data).data_dir))


@run_app.command("relay")
def run_relay(data: DataDir = None) -> None:
    """Ready rows become work orders."""
    from producers import roles

    roles.run_relay(_installation(data))


@run_app.command("timers")
def run_timers(data: DataDir = None) -> None:
    """What time does by itself."""
    from producers import roles

    roles.run_timers(_installation(data))


@run_app.command("bank-desk")
def run_bank_desk(data: DataDir = None) -> None:
    """Gives banks what is due, reads their files, compares books at night."""
    from producers import roles

    roles.run_bank_desk(_installation(data))


@run_app.command("notifier")
def run_notifier(data: DataDir = None) -> None:
    """Events go to outlets' webhooks and queues; commands of outlets are taken."""
    from producers import roles

    roles.run_notifier(_installation(data))


@run_app.command("worker")
def run_worker(
    stages: Annotated[str, typer.Option(help="comma-separated; all of them by default")] = ",".join(STAGES),
    data: DataDir = None,
) -> None:
    """Works on stages."""
    from producers import roles

    wanted = [stage.strip() for stage in stages.split(",") if stage.strip()]
    if unknown := [stage for stage in wanted if stage not in STAGES]:
        raise typer.BadParameter(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}", param_hint="--stages")
    roles.run_worker(_installation(data), tuple(wanted))


@run_app.command("file-intake")
def run_file_intake(data: DataDir = None) -> None:
    """Takes in batch files from a directory."""
    from producers import roles

    roles.run_file_intake(_installation(data))


@simulate_app.command("bank")
def simulate_bank(
    bind: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:8710",
    ledger: Annotated[Path, typer.Option(help="the bank's books")] = Path("bank-ledger.db"),
    faults: Annotated[str, typer.Option(help="e.g. decline=0.02,timeout=0.01,late=0.05")] = "",
    seed: Annotated[int, typer.Option()] = 1,
    tls_cert: Annotated[
        Path | None, typer.Option(help="the bank's certificate (PEM); with it the bank speaks TLS")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="its key (PEM)")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="whose clients it lets in (PEM)")] = None,
) -> None:
    """A cooperating bank on a port of its own."""
    from producers.simulators.bank import Tls, serve
    from producers.supervisor import end_with_supervisor

    if load().env == "production":
        _fail("simulators are refused in production")
    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together, and --client-ca with them")
    tls = None if tls_cert is None or tls_key is None else Tls(cert=tls_cert, key=tls_key, client_ca=client_ca)
    end_with_supervisor(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        serve(bind, ledger, faults, seed, tls)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@simulate_app.command("bank-files")
def simulate_bank_files(
    out_dir: Annotated[
        Path,
        typer.Option("--out", help="where files to the bank are left", exists=True, file_okay=False, writable=True),
    ],
    in_dir: Annotated[
        Path, typer.Option("--in", help="where the bank leaves files", exists=True, file_okay=False, writable=True)
    ],
    ledger: Annotated[Path, typer.Option(help="the bank's books")] = Path("bank-ledger.db"),
    bank_code: Annotated[str, typer.Option(help="whose files they are")] = "95533",
    card_numbers: Annotated[bool, typer.Option(help="result files carry the cards' numbers")] = False,
    faults: Annotated[str, typer.Option(help="batches struck, e.g. missing_rows=1,late=2")] = "",
) -> None:
    """A cooperating bank that exchanges batch files. Ends by SIGTERM."""
    from producers.roles import stop_on_signals
    from producers.simulators.bank_files import serve
    from producers.supervisor import end_with_supervisor

    if load().env == "production":
        _fail("simulators are refused in production")
    if out_dir.samefile(in_dir):
        raise typer.BadParameter("--out 与 --in 须为两个目录 --out and --in are two directories", param_hint="--in")
    stopping = stop_on_signals()
    end_with_supervisor(stopping.set)
    try:
        serve(out_dir, in_dir, ledger, bank_code=bank_code, with_cards=card_numbers, faults=faults, stopping=stopping)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from None


@simulate_app.command("outlet")
def simulate_outlet(
    bind: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:8711",
    secret_file: Annotated[
        Path | None, typer.Option(help="keys that deliveries are verified with, whpk_… or whsec_…, one a line")
    ] = None,
    faults: Annotated[str, typer.Option(help="e.g. fail=0.3,reset=0.05,silent=0.01")] = "",
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """An outlet's receiver of webhooks on a port of its own."""
    from producers.cli.webhook import keys_in
    from producers.simulators.receiver import serve
    from producers.supervisor import end_with_supervisor

    if load().env == "production":
        _fail("simulators are refused in production")
    end_with_supervisor(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        serve(bind, keys_in(secret_file) if secret_file else (), faults, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@simulate_app.command("outlets")
def simulate_outlets(data: DataDir = None) -> None:
    """Couriers, clerks and applicants that act by themselves."""
    from producers import up as machine

    machine.run_outlets(_installation(data))


@simulate_app.command("intake")
def simulate_intake(
    directory: Annotated[Path, typer.Argument(help="where the files go")],
    applications: Annotated[int, typer.Option(min=1, max=100_000)] = 60,
    seed: Annotated[int, typer.Option()] = 1,
    region: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Sample batch files, as regional systems send them."""
    from producers.simulators.intake import make_sample

    installation = _installation()
    today = installation.clock.now().astimezone(SHANGHAI).date()
    sample = make_sample(
        directory, applications=applications, seed=seed, policies=installation.policies, today=today, only=region
    )
    for path in sample.files:
        print(path)


# ------------------------------------------------------------------------------------------------------------ looking


@app.command()
def status(data: DataDir = None, output: Output = "table", as_json: JsonFlag = False, watch: bool = False) -> None:
    """Counts by stage and status, roles, blanks, bank, events. Exit 69 when a role is down, or none is up."""
    from producers.cli.status import render, snapshot

    wants_json = _as_json(output, as_json)
    installation = existing_installation(data)
    while True:
        seen = snapshot(installation, version=release())
        if wants_json:
            _print_json(seen)
        else:
            _console().print(*render(seen), sep="\n")
        if not watch:
            break
        time.sleep(2)
    if not seen["ready"]:
        raise typer.Exit(errors.DOWN)


@application_app.command("show")
def application_show(
    name: Annotated[str, typer.Argument(metavar="ID", help="id, acceptance number or external reference")],
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """One application with its timeline."""
    from producers.cli.show import case, render

    wants_json = _as_json(output, as_json)
    seen = case(existing_installation(data), name)
    if wants_json:
        _print_json(seen)
    else:
        _console().print(*render(seen), sep="\n")


@application_app.command("list")
def application_list(
    status_: Annotated[str | None, typer.Option("--status")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    data: DataDir = None,
) -> None:
    """Ids of applications, oldest first."""
    from pipeline.states import STATUSES
    from pipeline.store import views

    if status_ is not None and status_ not in STATUSES:
        raise typer.BadParameter(", ".join(STATUSES), param_hint="--status")
    with existing_installation(data).store.transaction() as tx:
        for application_id in views.application_ids(tx, status=status_, limit=limit):
            print(application_id)


@application_app.command("release")
def application_release(
    ids: Annotated[list[str], typer.Argument()],
    reason: Annotated[str, typer.Option(help="why; it is written into the audit log")],
    data: DataDir = None,
) -> None:
    """Held applications go back to the stage they left."""
    from pipeline.services import operate

    print(operate.release(existing_installation(data).context, ids, reason=reason, actor=_actor()))


@application_app.command("cancel")
def application_cancel(
    application_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="why; it is written into the audit log")],
    data: DataDir = None,
) -> None:
    """Withdraw an application before its card is begun."""
    from pipeline.services import operate

    operate.cancel(existing_installation(data).context, application_id, reason=reason, actor=_actor())


# ------------------------------------------------------------------------------------------------------------- intake


@batch_app.command("upload")
def batch_upload(
    file: Annotated[Path, typer.Argument(help="ZIP, CSV or XLSX")],
    source: Annotated[str, typer.Option(help="the system that sends it")] = "cli",
    errors_to: Annotated[Path | None, typer.Option("--errors", "-O", help="write the error workbook here")] = None,
    data: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in a batch file. Wrong rows are listed; good rows go on. Exit 5 when some rows were wrong, 4 when the file was."""
    from producers.file_intake import take_file, write_workbook

    installation = _installation(data)
    taken = take_file(installation.context, installation.policies, file, source=source, actor=_actor())
    if errors_to is not None and taken.faults:
        write_workbook(installation.context, installation.policies, file, errors_to, taken, source=source)
    if as_json:
        _print_json(taken.as_dict())
    else:
        known = "" if taken.new else "（此文件已接收过 this file was taken before）"
        print(
            f"{taken.batch_id} {known}\n{taken.rows} 行 rows: {taken.accepted} 接收 accepted, "
            f"{taken.rejected} 有误 wrong, {taken.duplicate} 重复 duplicate"
        )
        for fault in taken.faults:
            print(f"  第 {fault.row} 行 [{fault.column or '整行'}] {fault.code}: {fault.zh} / {fault.en}")
    if taken.rejected or taken.duplicate:
        raise typer.Exit(errors.PARTLY)


@batch_app.command("show")
def batch_show(batch_id: Annotated[str, typer.Argument(metavar="ID")], data: DataDir = None) -> None:
    """One batch with its wrong rows, as JSON."""
    from pipeline.store import batches

    with existing_installation(data).store.transaction() as tx:
        row = batches.get(tx, batch_id)
        if row is None:
            raise NotFound(f"没有批次 {batch_id}", f"no such batch: {batch_id}")
        faults = batches.faults(tx, batch_id)
    _print_json({**row._asdict(), "faults": [fault._asdict() for fault in faults]})


@batch_app.command("list")
def batch_list(data: DataDir = None) -> None:
    """The newest batches, one JSON object a line."""
    from pipeline.store import batches

    with existing_installation(data).store.transaction() as tx:
        for row in batches.listing(tx):
            print(json.dumps(row._asdict(), ensure_ascii=False, default=_plain))


# ---------------------------------------------------------------------------------------------------------- operating


@stage_app.command("pause")
def stage_pause(
    stage: str, reason: Annotated[str, typer.Option(help="why; it is written into the audit log")], data: DataDir = None
) -> None:
    """Begin nothing of a stage any more; what runs, ends."""
    from pipeline.services import operate

    operate.pause(existing_installation(data).context, stage, reason=reason, actor=_actor())


@stage_app.command("resume")
def stage_resume(stage: str, data: DataDir = None) -> None:
    """Let a paused stage go on."""
    from pipeline.services import operate

    operate.resume(existing_installation(data).context, stage, actor=_actor())


@audit_app.command("verify")
def audit_verify(data: DataDir = None) -> None:
    """Walk the chain of the audit log. Exit 1 when it is broken."""
    from pipeline.store import audit

    with existing_installation(data).store.transaction() as tx:
        found = audit.verify(tx)
    _print_json(
        {"ok": found.broken_at is None, "rows": found.rows, "unsealed": found.unsealed, "broken_at": found.broken_at}
    )
    if found.broken_at is not None:
        raise typer.Exit(errors.FAILED)


@db_app.command("migrate")
def db_migrate(data: DataDir = None) -> None:
    """Bring the schema to this release."""
    _installation(data).store.close()


def main() -> None:
    """Entry point: errors of ours become a line and an exit code."""
    try:
        app(prog_name="zhika")
    except KeyboardInterrupt:
        sys.exit(errors.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - `report` knows them all
        sys.exit(errors.report(error))


if __name__ == "__main__":
    main()
