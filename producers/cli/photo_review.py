"""`zhika photo review`: photos that wait for a person, as they are looked at, cropped anew, approved and sent back."""

from __future__ import annotations

import stat
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from config.wiring import Installation
from pipeline.clock import SHANGHAI
from pipeline.errors import Refused
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust
from pipeline.services import review
from pipeline.store.photos import KeptPhoto
from producers.cli import errors
from producers.cli.photo_files import Cannot, write_whole
from producers.cli.show import found
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

app = typer.Typer(no_args_is_help=True, help="Photos that wait for a person.", rich_markup_mode=None)

Id = Annotated[str, typer.Argument(metavar="ID", help="id, acceptance number or external reference")]
By = Annotated[str | None, typer.Option("--by", help="who does it; the user of this machine unless named")]
Reason = Annotated[str, typer.Option(help="why; it is written into the audit log")]
Picture = Annotated[
    str | None,
    typer.Option(help="the picture that was looked at, as `show` names it; refused when there is another by now"),
]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="go on after this application")] = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Photos that wait, oldest application first."""
    in_json = wants_json(output, as_json)
    queue = review.queue(existing_installation(data).context, limit=limit, after=after)
    if in_json:
        print_json([asdict(waiting) for waiting in queue])
        return
    table = Table("申领 application", "受理号 acceptance no.", "地区 region", "等待自 since (UTC+8)", "疑点 doubts")
    for waiting in queue:
        since = waiting.since.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M")
        table.add_row(waiting.application_id, waiting.acceptance_no, waiting.region, since, " ".join(waiting.doubts))
    console().print(table)


@app.command("show")
def show(
    name: Id,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="where the page goes; a folder that its owner alone may open")
    ],
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Write a page with the photo before and after, its measures and findings. The audit log says who looked."""
    from producers.cli.photo_report import PhotoCase, page, shown

    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    application_id = _found(installation, name)
    _make_private(out)
    processes = installation.photo_normaliser  # without them nobody looks
    seen = review.look(installation.context, application_id, actor=by or actor())
    report = out / f"{application_id}.html"
    made = seen.kept.made
    case = PhotoCase(title=seen.acceptance_no, small=shown(seen.original, made, processes), normalised=made)
    try:
        write_whole(report, page([case], profile=_profile(installation, seen.kept)).encode(), private=True)
    except Cannot as problem:
        print(f"zhika: {problem}", file=sys.stderr)
        raise typer.Exit(errors.FAILED) from problem
    if in_json:
        print_json({**as_dict(seen.kept), "status": seen.status, "report": report})
    else:
        console().print(*_render(seen.kept), report, sep="\n")
    print("此页含申请人照片，看完请删除 this page shows a person's face: remove it after use", file=sys.stderr)


@app.command("approve")
def approve(name: Id, reason: Reason, picture: Picture = None, by: By = None, data: DataDir = None) -> None:
    """The picture is good: it goes onto the card."""
    installation = existing_installation(data)
    application_id = _found(installation, name)
    review.approve(installation.context, application_id, actor=by or actor(), note=reason, picture=picture)
    print(application_id)


@app.command("recrop")
def recrop(
    name: Id,
    right: Annotated[float, typer.Option(metavar="PX", help="move what is seen to the right")] = 0.0,
    down: Annotated[float, typer.Option(metavar="PX", help="move what is seen down")] = 0.0,
    scale: Annotated[float, typer.Option(metavar="F", help="make it larger by this factor")] = 1.0,
    roll: Annotated[float, typer.Option(metavar="DEG", help="turn it clockwise")] = 0.0,
    picture: Picture = None,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Cut the photo again, moved from where the program put the frame. The new picture waits for a person like the old one."""
    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    kept = review.recrop(
        installation.context,
        installation.photo_normaliser,
        _found(installation, name),
        Adjust(right_px=right, down_px=down, scale=scale, roll_deg=roll),
        actor=by or actor(),
        profiles=installation.photo_profiles,
        picture=picture,
    )
    if in_json:
        print_json(as_dict(kept))
    else:
        console().print(*_render(kept), sep="\n")


@app.command("refuse")
def refuse(
    name: Id,
    code: Annotated[
        list[str],
        typer.Option(help=f"{', '.join(review.PERSONS_CODES)}, or a finding of this photo; may be given several times"),
    ],
    reason: Reason,
    picture: Picture = None,
    by: By = None,
    data: DataDir = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """The photo goes back to be corrected; prints what the applicant reads."""
    in_json = wants_json(output, as_json)
    installation = existing_installation(data)
    application_id = _found(installation, name)
    reasons = review.refuse(
        installation.context, application_id, code, actor=by or actor(), note=reason, picture=picture
    )
    if in_json:
        print_json({"application": application_id, "reasons": [asdict(one) for one in reasons]})
    else:
        print("\n".join(f"{one.code}: {one.zh} / {one.en}" for one in reasons))


def as_dict(kept: KeptPhoto) -> dict[str, Any]:
    """What is kept of a photo as `-o json` prints it; no bytes."""
    made = kept.made
    return {
        "application": kept.application_id,
        "state": kept.state,
        "picture": kept.picture,
        "profile": kept.profile,
        "profile_version": kept.profile_version,
        "background": made.background,
        "width_px": made.width_px,
        "height_px": made.height_px,
        "quality": made.quality,
        "findings": [asdict(finding) for finding in made.findings],
        "measures": dict(made.measures),
        "adjust": None if kept.adjust is None else asdict(kept.adjust),
        "run_at": kept.run_at,
        "decided_by": kept.decided_by,
        "decided_at": kept.decided_at,
        "note": kept.note,
    }


def _render(kept: KeptPhoto) -> list[Any]:
    table = Table("项目 measure", "值 value")
    for name, value in kept.made.measures.items():
        table.add_row(name, f"{value:.6g}")
    findings = [f"  {f.level} {f.code}: {f.zh} / {f.en}" for f in kept.made.findings]
    return [f"{kept.application_id}  {kept.state}  {kept.profile}  picture {kept.picture or '-'}", *findings, table]


def _profile(installation: Installation, kept: KeptPhoto) -> PhotoProfile | None:
    """The profile that a photo was run by, as long as its numbers are the same ones."""
    profile = installation.photo_profiles.get(kept.profile)
    return profile if profile is not None and profile.version == kept.profile_version else None


def _found(installation: Installation, name: str) -> str:
    with installation.store.transaction() as tx:
        return found(tx, name)


def _make_private(directory: Path) -> None:
    """A folder that nobody else may open; one that is open to others is left as it is.

    Raises:
        Refused: it is open to others.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise Refused(
            f"{directory} 他人可以打开，不写入照片；请指定新目录，或 chmod 700",
            f"{directory} is open to others, no photo is written there: name a new folder, or chmod 700",
            code="not-private",
        )
