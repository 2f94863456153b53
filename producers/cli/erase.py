"""`zhika erase`: photos whose time is over. The timers do it by themselves; this is for doing it now, or seeing what is due."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.services import erase
from producers.cli import errors
from producers.cli.terminal import DataDir, JsonFlag, Output, actor, existing_installation, print_json, wants_json

app = typer.Typer(no_args_is_help=True, help="Photos whose time is over.", rich_markup_mode=None)


@app.callback()
def root() -> None:
    """Photos whose time is over."""


@app.command("run")
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what is due and change nothing")] = False,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Erase the photos of applications that ended longer ago than their policy keeps them. Exit 5 when some have to stay for now."""
    in_json = wants_json(output, as_json)
    context = existing_installation(data).context
    if dry_run:
        _print({"dry_run": True, **asdict(erase.foresee(context))}, in_json)
        return
    done = sum(erase.erase(context, actor=actor()), erase.Erased())
    _print({"dry_run": False, **asdict(done)}, in_json)
    if done.left or done.unknown:
        raise typer.Exit(errors.PARTLY)


_WORDS = {
    "applications": "份申领 applications",
    "objects": "个对象 objects",
    "shared": "个他人仍用 kept for others",
    "left": "个暂留 left for later",
    "late": "个已逾期 of them a day late",
    "unknown": "份申领的政策版本缺失 applications whose policy is not kept",
}


def _print(told: dict[str, int | bool], in_json: bool) -> None:
    if in_json:
        print_json(told)
        return
    head = "应删除 due" if told["dry_run"] else "已删除 erased"
    print(f"{head}: " + ", ".join(f"{told[key]} {word}" for key, word in _WORDS.items() if key in told))
