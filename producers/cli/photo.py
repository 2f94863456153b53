"""`zhika photo`: pictures for the card from photos, the table of what was found, and what it costs.

Needs no database, no key and no data directory. The photo processes decode, for a report too. One photo is one JSON object; a
folder is one object a line, in the order of names.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from config.wiring import Installation
from pipeline.errors import Defect, ZhikaError
from pipeline.gateways.photo_pool import PhotoPool
from pipeline.photo.findings import Finding, reason_code
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised
from producers.cli import errors
from producers.cli.photo_files import (
    Cannot,
    PhotoFile,
    is_null,
    no_folder,
    photos_in,
    read_photo,
    real,
    text_of,
    write_whole,
)
from producers.cli.photo_manifest import Expected, differences, read_manifest
from producers.cli.photo_report import Measured, PhotoCase, measured, page, shown
from producers.cli.photo_review import app as review_app
from producers.cli.terminal import JsonFlag, Output, console, installation_of, print_json, wants_json

app = typer.Typer(no_args_is_help=True, help="Photos: pictures for the card.", rich_markup_mode=None)
app.add_typer(review_app, name="review")

DEFAULT = "ssc-national"
ProfileName = Annotated[str, typer.Option("--profile", metavar="NAME", help="which picture: a file of config/photo")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        readable=False,
        help="also write report.html there: before and after, with the measured lines",
    ),
]
Source = Annotated[
    Path, typer.Argument(metavar="IN", readable=False, help="a photo, or a folder of photos with its subfolders")
]


@app.command("normalise")
def normalise(
    source: Source,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", readable=False, help="the picture's file; for a folder the folder of pictures"),
    ],
    profile: ProfileName = DEFAULT,
    report: Report = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Make the picture for the card, from any photo.

    Exit 0: written. 4: refused by a finding, nothing is written and an older OUT stays. 1: IN cannot be opened, OUT cannot be
    written, or a fault. With /dev/null as OUT it only measures.
    """
    desk = _Desk(profile, report, in_json=wants_json(output, as_json))
    if os.path.isdir(source):
        _check_folders(source, out)
        desk.folder(source, out)
    else:
        _check_file(source, out)
        desk.single(PhotoFile(source=source, name=text_of(source), target=out))


@app.command("check")
def check(
    source: Source,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="TSV", readable=False, help="for a folder: compare with this list; exit 0 only if all of it agrees"
        ),
    ] = None,
    profile: ProfileName = DEFAULT,
    report: Report = None,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """Say what `normalise` would do, and write nothing. Exit 0: accepted. 4: refused. 1: IN cannot be opened, or a fault."""
    expected = None if manifest is None else _manifest(manifest, source)
    desk = _Desk(profile, report, in_json=wants_json(output, as_json))
    if expected is not None:
        photos = [PhotoFile(source=source / name, name=name) for name in expected]
        desk.compare(photos, list(expected.values()))
    elif os.path.isdir(source):
        desk.folder(source)
    else:
        desk.single(PhotoFile(source=source, name=text_of(source)))


@app.command("bench")
def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", readable=False, help="photos to measure")],
    repeat: Annotated[int, typer.Option(min=1, max=10_000, help="the median of so many")] = 20,
    profile: ProfileName = DEFAULT,
    output: Output = "table",
    as_json: JsonFlag = False,
) -> None:
    """CPU milliseconds of the stage (S), of the JPEG library alone (B) and of the inferences alone (V), on one core.

    Decodes in this process: only for files you trust.
    """
    from producers.cli.photo_bench import WARM_UPS, Bench, on_one_core

    in_json = wants_json(output, as_json)
    chosen = _profile(installation_of(), profile)
    rows: list[dict[str, Any]] = []
    with on_one_core():
        measuring = Bench(chosen)
        for path in files:
            row: dict[str, Any] = {"in": text_of(path), "bytes": None, "ok": False, "findings": []}
            row |= dict.fromkeys(("b_ms", "v_ms", "s_ms", "ratio", "error"))
            rows.append(row)
            try:
                data = read_photo(path, at_most=chosen.input.bytes_max + 1)
            except Cannot as problem:
                row["error"] = problem.as_dict()
                continue
            timed = measuring.measure(data, repeat=repeat)
            row |= {"bytes": len(data), "ok": not timed.made.rejections}
            row["findings"] = [reason_code(finding.code) for finding in timed.made.findings]
            row |= {name: _rounded(getattr(timed, name), 3) for name in ("b_ms", "v_ms", "s_ms", "ratio")}
    if in_json:
        print_json({"profile": chosen.name, "repeat": repeat, "warm_ups": WARM_UPS, "photos": rows})
    else:
        table = Table("照片 photo", "字节 bytes", "B ms", "V ms", "S ms", "S/(B+V)", "结论 verdict")
        for row in rows:
            figures = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("b_ms", "v_ms", "s_ms", "ratio"))
            verdict = "无法打开 not opened" if row["error"] else _verdict(row["ok"])
            table.add_row(_printable(row["in"]), str(row["bytes"] or ""), *figures, verdict)
        console().print(table)
    for row in rows:
        if row["error"]:
            say(f"{row['error']['zh']} / {row['error']['en']}")
    if any(row["error"] for row in rows):
        raise typer.Exit(errors.FAILED)


# --------------------------------------------------------------------------------------------------------- one or many


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What became of a file: a result, or the problem why there is none. `case` is for the report, if one is wanted."""

    photo: PhotoFile
    made: Normalised | None = None
    problem: Cannot | None = None
    case: PhotoCase | None = None
    elapsed_ms: float = 0.0

    @property
    def ok(self) -> bool:
        return self.problem is None and self.made is not None and not self.made.rejections

    @property
    def refused(self) -> bool:
        return self.problem is None and not self.ok


class _Desk:
    """The work of one command: the photos it is given, for one profile."""

    def __init__(self, profile: str, report: Path | None, *, in_json: bool) -> None:
        """Raises:
        BadParameter: there is no such profile, or no report can go there.
        """
        self._installation = installation_of()
        self._profile = _profile(self._installation, profile)
        self._report = report
        self._in_json = in_json
        self._building = threading.Lock()
        if report is not None and os.path.exists(report) and not os.path.isdir(report):
            raise typer.BadParameter(f"{text_of(report)} 不是文件夹 is no folder", param_hint="--report")

    def single(self, photo: PhotoFile) -> None:
        """One photo: an object, or a text."""
        folder = None if photo.target is None else real(photo.target).parent
        if folder is not None and not os.path.isdir(folder):
            done = _Done(photo=photo, problem=no_folder(folder))
        else:
            done = self._one(photo)
        self._installation.close()
        if self._in_json:
            print_json(self._as_dict(done))
        elif done.made is not None:
            console().print(*self._told(done, done.made), sep="\n")
        self._end([done])

    def folder(self, source: Path, out: Path | None = None) -> None:
        """A folder: an object a line, or a table. Pictures go into the folder `out`."""
        problem: Cannot | None = None
        photos: Sequence[PhotoFile] = ()
        try:
            if out is not None and not os.path.isdir(real(out).parent):
                raise no_folder(real(out).parent)
            if not (photos := _photos_in(source, out)):
                raise Cannot("in-empty", f"{text_of(source)} 里没有照片", f"there is no photo in {text_of(source)}")
        except Cannot as cannot:
            problem = cannot
        if problem is None:
            self._end(self._all(photos))
            return
        nothing = _Done(photo=PhotoFile(source=source, name=text_of(source)), problem=problem)
        if self._in_json:
            print(json.dumps(self._as_dict(nothing), ensure_ascii=False))
        self._end([nothing])

    def compare(self, photos: Sequence[PhotoFile], expected: Sequence[Expected]) -> None:
        """Photos against what was expected of each: what agrees and what does not."""
        done = self._all(photos, expected)
        wrong = sum(bool(differences(row, one.made)) for row, one in zip(expected, done, strict=True))
        say(f"{len(done)} 行 rows: {len(done) - wrong} 相符 agree, {wrong} 不符 differ")
        self._tell(done)
        self._write_report(done)
        if wrong:
            raise typer.Exit(errors.REFUSED)

    # ------------------------------------------------------------------------------------------------------- the work

    def _all(self, photos: Sequence[PhotoFile], expected: Sequence[Expected] = ()) -> list[_Done]:
        began = time.monotonic()
        done: list[_Done] = []
        table = Table(Column("照片 photo", overflow="fold"), "结论 verdict", Column("代码 codes", overflow="fold"))
        for title in ("脸宽 face", "顶 top", "眼 eye x", "眼下 bottom", "ms"):
            table.add_column(title, justify="right")
        if expected:
            table.add_column("清单 list", overflow="fold")
        threads = ThreadPoolExecutor(self._installation.settings.photo.processes)
        try:
            for number, one in enumerate(threads.map(self._one, photos)):
                wrong = differences(expected[number], one.made) if expected else None
                if self._in_json:
                    more = {} if wrong is None else {"list": {"agrees": not wrong, "differences": wrong}}
                    print(json.dumps(self._as_dict(one) | more, ensure_ascii=False), flush=True)
                table.add_row(*_cells(one, wrong))
                done.append(one)
                _progress(len(done), len(photos))
        finally:
            threads.shutdown(cancel_futures=True)
            self._installation.close()
        if not self._in_json:
            console().print(table)
        ok, refused = sum(one.ok for one in done), sum(one.refused for one in done)
        say(
            f"{len(done)} 张 photos: {ok} 合格 accepted, {refused} 不合格 refused, "
            f"{len(done) - ok - refused} 未能处理 not opened or failed, {time.monotonic() - began:.1f} s"
        )
        return done

    def _one(self, photo: PhotoFile) -> _Done:
        began = time.perf_counter()
        made, problem, case = None, None, None
        try:
            data = read_photo(photo.source, at_most=self._profile.input.bytes_max + 1)
            with self._processes() as pool:
                made = self._normalised(pool, data)
                if self._report is not None:
                    case = PhotoCase(title=photo.name, small=shown(data, made, pool), normalised=made)
            if photo.target is not None and made.picture is not None:
                write_whole(photo.target, made.picture)
        except Cannot as cannot:
            problem = cannot
        elapsed_ms = (time.perf_counter() - began) * 1000
        return _Done(photo=photo, made=made, problem=problem, case=case, elapsed_ms=elapsed_ms)

    @contextmanager
    def _processes(self) -> Iterator[PhotoPool]:
        """The photo processes, the same for every thread.

        Raises:
            Cannot: they do not work.
        """
        try:
            with self._building:
                pool = self._installation.photo_normaliser
            yield pool
        except ZhikaError as fault:
            raise Cannot("fault", f"照片处理程序故障：{fault}", f"the photo processes failed: {fault}") from fault

    def _normalised(self, pool: PhotoPool, data: bytes) -> Normalised:
        made = pool.normalise({"photo": data}, profile=self._profile.name)["photo"]
        if isinstance(made, Defect):
            raise made
        return made

    # ------------------------------------------------------------------------------------------------------- the end

    def _end(self, done: Sequence[_Done]) -> None:
        self._tell(done)
        self._write_report(done)
        if any(one.problem is not None for one in done):
            raise typer.Exit(errors.FAILED)
        if any(one.refused for one in done):
            raise typer.Exit(errors.REFUSED)

    @staticmethod
    def _tell(done: Sequence[_Done]) -> None:
        """What went wrong, and where an older picture could be taken for this photo's."""
        for one in done:
            if one.problem is not None:
                say(str(one.problem))
            target = one.photo.target
            if not one.ok and target is not None and os.path.isfile(target):
                say(f"{text_of(target)} 未改动，仍是较早的照片 is untouched: an older picture, not {one.photo.name}")

    def _write_report(self, done: Sequence[_Done]) -> None:
        cases = [one.case for one in done if one.case is not None]
        if self._report is None or not cases:
            return
        path = self._report / "report.html"
        try:
            write_whole(path, page(cases, profile=self._profile).encode(), private=True)
        except Cannot as problem:
            say(str(problem))
            raise typer.Exit(errors.FAILED) from problem
        say(f"{text_of(path)} （含人像，看完请删除 it shows faces: remove it after use）")

    def _as_dict(self, done: _Done) -> dict[str, Any]:
        """A result as `--json` prints it: the same keys whatever became of the photo."""
        made, picture = done.made, None if done.made is None or done.problem is not None else done.made.picture
        written = picture is not None and done.photo.target is not None
        return {
            "ok": done.ok,
            "in": done.photo.name,
            "out": text_of(done.photo.target) if written and done.photo.target is not None else None,
            "width_px": None if made is None or picture is None else made.width_px,
            "height_px": None if made is None or picture is None else made.height_px,
            "dpi": None if picture is None else self._profile.output.dpi,
            "bytes": None if picture is None else len(picture),
            "quality": None if made is None or picture is None else made.quality,
            "sha256": None if picture is None else hashlib.sha256(picture).hexdigest(),
            "profile": self._profile.name,
            "measures": {} if made is None else {name: _rounded(value, 4) for name, value in made.measures.items()},
            "background": None if made is None else made.background,
            "findings": [] if made is None else [_finding(finding) for finding in made.findings],
            "timings_ms": {} if made is None else {name: _rounded(ms, 2) for name, ms in made.timings_ms.items()},
            "elapsed_ms": round(done.elapsed_ms),
            "error": None if done.problem is None else done.problem.as_dict(),
        }

    def _told(self, done: _Done, made: Normalised) -> Iterator[Any]:
        """A result for people."""
        picture, output = made.picture, self._profile.output
        yield Text.assemble(
            (_verdict(done.ok), "bold green" if done.ok else "bold red"),
            f"  {_printable(done.photo.name)}  ·  {self._profile.name}  ·  {made.timings_ms.get('total', 0):.0f} ms",
        )
        if done.ok and picture is not None:
            where = (
                "（未写入 not written）" if done.photo.target is None else f"→ {_printable(text_of(done.photo.target))}"
            )
            yield (
                f"{where}  {output.width_px}×{output.height_px} px, {output.dpi} dpi, {len(picture)} B, "
                f"质量 quality {made.quality}, 背景 background {made.background}"
            )
        if made.findings:
            yield _findings_table(made.findings)
        if rows := measured(made, self._profile):
            yield _measures_table(rows)


# --------------------------------------------------------------------------------------------------------------- tables

_STYLES = {"reject": "red", "warn": "yellow", "info": "blue", "bad": "red", "good": "green", "calm": ""}
_MARKS = {"reject": "✗", "warn": "!", "info": "·", "bad": "✗", "good": "✓", "calm": ""}
_LEVELS = {"reject": "退回 reject", "warn": "注意 warn", "info": "提示 info"}


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table("级别 level", "所见 finding", "实测 measured", "限值 limit", "代码 code")
    for found in findings:
        measured_ = "" if found.measured is None else f"{found.measured:g}"
        level = Text(_LEVELS[found.level], _STYLES[found.level])
        table.add_row(level, f"{found.zh}\n{found.en}", measured_, found.limit or "", reason_code(found.code))
    return table


def _measures_table(rows: Sequence[Measured]) -> Table:
    table = Table("量度 measure", "实测 measured", "限值 limit")
    for one in rows:
        value = Text(f"{_MARKS[one.tone]} {one.value}", _STYLES[one.tone])
        table.add_row(f"{one.zh} {one.en}", value, one.limit)
    return table


def _cells(done: _Done, wrong: Sequence[str] | None) -> Iterator[str | Text]:
    """A row of a folder's table: file, verdict, codes with a mark for their level, four lengths, time, and the list's opinion."""
    yield _printable(done.photo.name)
    made = done.made
    if made is None or done.problem is not None:
        yield Text("未能处理 failed", "red")
        yield done.problem.code if done.problem is not None else ""
        yield from [""] * 5
    else:
        yield Text(_verdict(done.ok), "green" if done.ok else "red")
        marked = (Text(f"{_MARKS[f.level]}{reason_code(f.code)}", _STYLES[f.level]) for f in made.findings)
        yield Text(" ").join(marked)
        for key in ("face_width_px", "top_px", "eye_mid_x_px", "eye_to_bottom_px"):
            yield f"{made.measures[key]:.1f}" if key in made.measures else ""
        yield f"{made.timings_ms.get('total', 0):.0f}"
    if wrong is not None:
        yield Text("✗ " + "; ".join(wrong), "red") if wrong else Text("✓", "green")


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": reason_code(finding.code),
        "level": finding.level,
        "measured": finding.measured,
        "limit": finding.limit,
        "zh": finding.zh,
        "en": finding.en,
    }


def _verdict(ok: bool) -> str:
    return "✓ 合格 accepted" if ok else "✗ 不合格 refused"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _progress(done: int, of: int) -> None:
    """A line on stderr: kept up to date on a terminal, every fiftieth photo elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{done}/{of}", end="\n" if done == of else "", file=sys.stderr, flush=True)
    elif done % 50 == 0 or done == of:
        print(f"{done}/{of}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Tell people something that is no data."""
    print(f"zhika: {_printable(text)}", file=sys.stderr)


def _printable(text: str) -> str:
    """Text that does nothing to a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)


# ------------------------------------------------------------------------------------------------------ what is given


def _profile(installation: Installation, name: str) -> PhotoProfile:
    profiles = installation.photo_profiles
    if name not in profiles:
        known = ", ".join(profiles)
        raise typer.BadParameter(f"没有相片规格 no such profile: {name}; 有 there are {known}", param_hint="--profile")
    return profiles[name]


def _manifest(path: Path, source: Path) -> Mapping[str, Expected]:
    if not os.path.isdir(source):
        raise typer.BadParameter("只用于文件夹 goes with a folder only", param_hint="--manifest")
    try:
        return read_manifest(path)
    except OSError as problem:
        raise typer.BadParameter(f"{text_of(path)}: {problem.strerror}", param_hint="--manifest") from None
    except ValueError as problem:
        raise typer.BadParameter(f"{text_of(path)}: {problem}", param_hint="--manifest") from None


def _check_file(source: Path, out: Path) -> None:
    """A picture replaces a file only, and never the photo it is made of."""
    if os.path.isdir(out):
        raise typer.BadParameter(f"{text_of(out)} 是文件夹，须为文件 is a folder, name a file", param_hint="OUT")
    if os.path.exists(out) and not os.path.isfile(out) and not is_null(out):
        raise typer.BadParameter(f"{text_of(out)} 不是普通文件 is no ordinary file", param_hint="OUT")
    if os.path.exists(out) and os.path.exists(source) and os.path.samefile(out, source):
        raise typer.BadParameter("OUT 就是 IN，原照片会丢失 OUT is IN: the photo would be lost", param_hint="OUT")


def _check_folders(source: Path, out: Path) -> None:
    """Pictures never lie among the photos: the next run would take them for photos."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise typer.BadParameter(f"{text_of(out)} 不是文件夹 is no folder, as IN is", param_hint="OUT")
    if real(out).is_relative_to(real(source)):
        raise typer.BadParameter("OUT 不得在 IN 之内 OUT must lie outside IN", param_hint="OUT")


def _photos_in(source: Path, out: Path | None) -> Sequence[PhotoFile]:
    found = photos_in(source, out)
    if found.passed:
        names = " ".join(map(text_of, found.passed))
        say(f"略过 {len(found.passed)} 个非照片文件 passed over, by their names no photos: {names}")
    return found.photos
