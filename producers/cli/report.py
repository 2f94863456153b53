"""What a run of the demo tells: one HTML page for people, one table for the terminal.

The page is a single file that asks nothing of any network and runs no script; its content security policy says so to the
browser. It shows what it is given: names and numbers arrive masked, photos arrive as thumbnails.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table

from pipeline.clock import SHANGHAI, civil_date
from pipeline.photo.findings import Finding
from pipeline.photo.profile import InputLimits, PhotoProfile
from pipeline.photo.result import Normalised
from pipeline.photo.sniff import sniff
from pipeline.states import STAGES, STATUSES
from producers.cli.photo_report import after, before

INLINE_MAX_BYTES = 200_000
"""A picture above this is not put into the page; callers hand in thumbnails."""

# --------------------------------------------------------------------------------------------------------------- story


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of an application's history. `at` is aware; `frm` and `to` are statuses, the same when nothing moved."""

    at: datetime
    frm: str | None
    to: str
    stage: str | None
    outcome: str
    why: str
    actor: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PhotoStory:
    """What the photo stage measured, to be drawn on an application's photos; `profile` is the one it was judged by."""

    normalised: Normalised
    profile: PhotoProfile


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CaseStory:
    """One application from its receipt to its end. Names and numbers are masked by the caller.

    `reasons` are (code, 中文, English, rule id or None). Photos are thumbnails of at most `INLINE_MAX_BYTES`; where `photo` is there
    `photo_after` is the picture itself. `face` is the path of a PNG relative to the page. `timeline` is oldest first; its times,
    `received_at` and `due_at` are aware.
    """

    id: str
    region_zh: str
    masked_name: str
    masked_number: str
    kind: str
    priority: str
    lane: str
    status: str
    public_zh: str
    public_en: str
    reasons: Sequence[tuple[str, str, str, str | None]]
    due_at: datetime
    received_at: datetime
    bank_card_masked: str | None
    blank_serial: str | None
    card_number_masked: str | None
    photo_before: bytes | None
    photo_after: bytes | None
    face: str | None
    verified_fields: Sequence[str]
    timeline: Sequence[Event]
    photo: PhotoStory | None = None

    def __repr__(self) -> str:
        return f"CaseStory({self.id}, {self.status})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRow:
    """A region's applications, counted by status."""

    code: str
    zh: str
    en: str
    counts: Mapping[str, int]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A row of a batch file that never became an application: where it stands and why. `row` counts as the sheet does."""

    file: str
    row: int
    column: str
    code: str
    zh: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All the page tells. `title_at` is when the story ends on its own clock; `summary` is what `--json` prints."""

    title_at: datetime
    summary: Mapping[str, Any]
    regions: Sequence[RegionRow]
    cases: Sequence[CaseStory]
    refused_rows: Sequence[RefusedRow]


# --------------------------------------------------------------------------------------------------------------- words


@dataclass(frozen=True, slots=True)
class Words:
    """A term in both languages."""

    zh: str
    en: str


_STAGE_WORDS = {
    "validation": Words("审核", "Validation"),
    "photo": Words("照片处理", "Photo"),
    "account": Words("银行开户", "Bank account"),
    "personalisation": Words("制卡", "Personalisation"),
    "dispatch": Words("发运", "Dispatch"),
    "collection": Words("领卡", "Collection"),
}
_STATUS_WORDS = {
    "received": Words("已受理", "Received"),
    "validation": Words("审核中", "Validation"),
    "photo": Words("照片处理中", "Photo"),
    "account": Words("银行开户中", "Bank account"),
    "personalisation": Words("制卡中", "Personalisation"),
    "dispatch": Words("待发运", "Dispatch"),
    "delivered": Words("网点签收", "Delivered"),
    "notified": Words("待领取", "Notified"),
    "collected": Words("已领取", "Collected"),
    "uncollected": Words("逾期未领", "Uncollected"),
    "recalled": Words("召回中", "Recalled"),
    "returned": Words("退回封存", "Returned"),
    "reissued": Words("再次寄出", "Reissued"),
    "destroyed": Words("已销毁", "Destroyed"),
    "awaiting_correction": Words("待补正", "Awaiting correction"),
    "held": Words("挂起待核", "Held"),
    "rejected": Words("未通过", "Rejected"),
    "cancelled": Words("已撤销", "Cancelled"),
}
_OUTCOME_WORDS = {
    "claim": Words("开始", "started"),
    "advance": Words("通过", "done"),
    "wait": Words("等待", "waits"),
    "hold": Words("挂起", "held"),
    "correct": Words("退回补正", "sent back"),
    "reject": Words("不予通过", "refused"),
}
_OTHER_WORDS = {
    "first": Words("首次申领", "First card"),
    "replacement": Words("补领", "Replacement"),
    "exchange": Words("换领", "Exchange"),
    "urgent": Words("加急", "Urgent"),
    "normal": Words("普通", "Normal"),
    "bulk": Words("批量", "Bulk"),
}


def _words(term: str, table: Mapping[str, Words]) -> Words:
    return table.get(term, Words(term, ""))


# ------------------------------------------------------------------------------------------------------------- regions


@dataclass(frozen=True, slots=True)
class OutcomeGroup:
    """Statuses that mean the same to whoever reads a total. `tone` is the colour they are shown in."""

    words: Words
    tone: str
    statuses: frozenset[str]


def _group(zh: str, en: str, tone: str, *statuses: str) -> OutcomeGroup:
    return OutcomeGroup(Words(zh, en), tone, frozenset(statuses))


_ENDS = (
    _group("已领取", "Collected", "good", "collected"),
    _group("待领取", "Waiting", "calm", "delivered", "notified", "uncollected", "recalled"),
    _group("退回", "Returned", "dull", "returned", "destroyed"),
    _group("待补正", "To correct", "warn", "awaiting_correction"),
    _group("挂起", "Held", "odd", "held"),
    _group("未通过", "Rejected", "bad", "rejected"),
    _group("已撤销", "Withdrawn", "dull", "cancelled"),
)
_UNDER_WAY = _group("办理中", "Ongoing", "calm", *frozenset(STATUSES).difference(*(group.statuses for group in _ENDS)))
_UNKNOWN = _group("其他", "Other", "dull")


def _group_of(status: str) -> OutcomeGroup:
    return next((group for group in (*_ENDS, _UNDER_WAY) if status in group.statuses), _UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """Region × outcome: `rows` pairs each region with its counts in the order of `groups`."""

    groups: tuple[OutcomeGroup, ...]
    rows: tuple[tuple[RegionRow, tuple[int, ...]], ...]
    sums: tuple[int, ...]
    total: int


def _matrix(regions: Sequence[RegionRow]) -> _Matrix:
    counted = [dict.fromkeys((*_ENDS, _UNDER_WAY, _UNKNOWN), 0) for _ in regions]
    for region, counts in zip(regions, counted, strict=True):
        for status, number in region.counts.items():
            counts[_group_of(status)] += number
    groups = tuple(group for group in (*_ENDS, _UNDER_WAY, _UNKNOWN) if any(counts[group] for counts in counted))
    rows = tuple((region, tuple(counts[g] for g in groups)) for region, counts in zip(regions, counted, strict=True))
    return _Matrix(
        groups=groups,
        rows=rows,
        sums=tuple(sum(counts[group] for counts in counted) for group in groups),
        total=sum(region.total for region in regions),
    )


def region_table(regions: Sequence[RegionRow]) -> Table:
    """Region × outcome with a total row, for a terminal of 100 columns. Outcomes nobody had are left out."""
    matrix = _matrix(regions)
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, padding=0)
    table.add_column("地区\nRegion", "合计 Total", overflow="fold", min_width=16)
    for group, number in zip(matrix.groups, matrix.sums, strict=True):
        table.add_column(f"{group.words.zh}\n{group.words.en}", str(number), justify="right", no_wrap=True)
    table.add_column("合计\nTotal", str(matrix.total), justify="right", no_wrap=True)
    for region, counts in matrix.rows:
        table.add_row(_plain(f"{region.zh} {region.en}"), *(str(n) if n else "·" for n in counts), str(region.total))
    return table


def _plain(text: str) -> str:
    """Text in which a terminal sees neither markup nor control characters."""
    return "".join(char for char in text if char.isprintable()).replace("[", "\\[")


# ------------------------------------------------------------------------------------------------------------ the line


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One stage of the line: how many applications went through, came back, were held, ended. Each counts once in each."""

    words: Words
    through: int
    back: int
    held: int
    ended: int

    @property
    def losses(self) -> int:
        """In how many ways applications left the line here."""
        return sum(number > 0 for number in (self.back, self.held, self.ended))


_STOPS = {"held": "held", "awaiting_correction": "back", "returned": "back", "rejected": "ended", "cancelled": "ended"}


def line(cases: Sequence[CaseStory]) -> tuple[Station, ...]:
    """The six stages in order, counted from the applications' histories."""
    met = {(stage, fate, case.id) for case in cases for event in case.timeline for stage, fate in _fate(event)}
    count = {(stage, fate): 0 for stage in STAGES for fate in ("through", "back", "held", "ended")}
    for stage, fate, _ in met:
        count[stage, fate] += 1
    return tuple(
        Station(
            words=_STAGE_WORDS[stage],
            through=count[stage, "through"],
            back=count[stage, "back"],
            held=count[stage, "held"],
            ended=count[stage, "ended"],
        )
        for stage in STAGES
    )


def _fate(event: Event) -> Iterator[tuple[str, str]]:
    """The stage an event left and how, if it left one."""
    origin = None if event.frm is None or event.frm not in STATUSES else STATUSES[event.frm].stage
    if origin is None and event.to in ("rejected", "cancelled"):  # from a stop: the history says where it stood
        origin = event.stage if event.stage in STAGES else None
    if origin is None or event.frm == event.to or event.to not in STATUSES:
        return
    target = STATUSES[event.to].stage
    if event.to in _STOPS:
        yield origin, _STOPS[event.to]
    elif event.to == "collected":
        yield from ((stage, "through") for stage in STAGES[STAGES.index(origin) :])
    elif target is not None and target != origin:
        ahead = STAGES.index(target) > STAGES.index(origin)
        yield origin, "through" if ahead else "back"


# ------------------------------------------------------------------------------------------------------------ the view


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the head."""

    words: Words
    value: str
    note: str = ""
    tone: str = ""


def _tiles(summary: Mapping[str, Any]) -> Iterator[Tile]:
    """The figures that matter, of those the summary has."""
    status = summary.get("by_status", {})
    if "applications" in summary:
        yield Tile(Words("受理申请", "Applications"), f"{summary['applications']}")
    if status:
        yield Tile(Words("已领到卡", "Cards in people's hands"), f"{status.get('collected', 0)}", tone="good")
        yield Tile(Words("待补正", "Awaiting correction"), f"{status.get('awaiting_correction', 0)}", tone="warn")
        yield Tile(Words("未通过", "Rejected"), f"{status.get('rejected', 0)}", tone="bad")
    if "accounts_opened" in summary:
        yield Tile(Words("银行开户", "Accounts opened"), f"{summary['accounts_opened']}")
    if "cards_verified" in summary:
        made = summary.get("cards_personalised")
        yield Tile(
            Words("制卡并回读核验", "Cards made, read back, verified"),
            f"{summary['cards_verified']}",
            "" if made is None else f"制成 {made} made",
        )
    if blanks := summary.get("blanks"):
        note = " · ".join(
            f"{zh} {blanks[key]} {key}" for key, zh in (("issued", "发出"), ("spoiled", "损坏")) if key in blanks
        )
        yield Tile(Words("领用空白卡", "Blanks taken"), f"{blanks.get('taken', 0)}", note)
    if "duplicates_refused" in summary:
        yield Tile(Words("拦下重复申请", "Duplicates refused"), f"{summary['duplicates_refused']}")
    if bundles := summary.get("bundles"):
        found = summary.get("discrepancies", {})
        note = " · ".join(
            f"{zh} {found[key]} {key}"
            for key, zh in (("missing", "短少"), ("damaged", "破损"), ("extra", "多出"))
            if key in found
        )
        yield Tile(Words("网点签收卡箱", "Bundles scanned in at outlets"), f"{bundles.get('out', 0)}", note)
        yield Tile(Words("退回中心卡箱", "Bundles sent back to the centre"), f"{bundles.get('back', 0)}")
    if counter := summary.get("counter"):
        note = f"撤销 {counter['undone']} undone"
        yield Tile(Words("通知领卡", "Applicants told"), f"{counter['notices']}")
        yield Tile(Words("柜台交付", "Handed over at counters"), f"{counter['hand_overs']}", note)
    if "destroyed" in summary:
        yield Tile(Words("双人销毁", "Destroyed by two people"), f"{summary['destroyed']}")
    if hooks := summary.get("webhooks"):
        note = f"网点系统 {hooks['endpoints']} outlet systems"
        yield Tile(Words("推送事件", "Events delivered by webhook"), f"{hooks['events']}", note)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture, or what to say in its place."""

    source: str | None = None
    instead: Words | None = None


_BAD_IMAGE = Words("图像损坏，无法显示", "Damaged: cannot be shown")
_SHOWN = InputLimits(
    formats=("jpeg", "png"),
    bytes_max=INLINE_MAX_BYTES,
    pixels_max=50_000_000,
    pixels_max_undraftable=16_000_000,
    side_max_px=12_000,
    short_side_min_px=1,
    scans_max=64,
    draft_short_side_px=1,
)


def _picture(data: bytes | None, absent: Words) -> Picture:
    """A photo as a `data:` URI, if it is there, small enough and looks like a picture. Nothing is decoded here."""
    if not data:
        return Picture(instead=absent)
    if len(data) > INLINE_MAX_BYTES:
        size = f"{len(data) / 1000:.0f} kB"
        return Picture(instead=Words(f"文件过大（{size}），未嵌入", f"Too large to embed ({size})"))
    header = sniff(data, limits=_SHOWN)
    if isinstance(header, Finding):
        return Picture(instead=_BAD_IMAGE)
    return Picture(source=f"data:image/{header.format};base64,{base64.b64encode(data).decode()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A photo before and after with its measured lines, and what was remarked about it."""

    before: Markup
    after: Markup
    remarks: tuple[tuple[Finding, str], ...]


_REMARK_TONES = {"warn": "warn", "info": "calm"}


def _drawn(case: CaseStory) -> _Drawn | None:
    """None where no face was measured."""
    if case.photo is None or case.photo.normalised.geometry is None:
        return None
    made, profile = case.photo.normalised, case.photo.profile
    return _Drawn(
        before=Markup(before(case.photo_before or b"", made, profile)),
        after=Markup(after(case.photo_after, made, profile)),
        remarks=tuple((f, _REMARK_TONES[f.level]) for f in made.findings if f.level in _REMARK_TONES),
    )


def _face(path: str | None) -> Picture:
    if path is None:
        return Picture(instead=Words("未制卡", "No card was made"))
    if path.startswith("/"):
        raise ValueError("a card's face is linked by a path relative to the page, not from the root")
    return Picture(source=quote(path))  # a colon is quoted too: no scheme gets through


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One entry of a timeline; `days` since the entry before it."""

    event: Event
    days: int
    stage: Words | None
    frm: Words | None
    to: Words
    outcome: Words
    tone: str


def _steps(timeline: Sequence[Event]) -> Iterator[_Step]:
    days = [0, *((civil_date(after.at) - civil_date(before.at)).days for before, after in pairwise(timeline))]
    for event, gap in zip(timeline, days, strict=False):
        yield _Step(
            event=event,
            days=gap,
            stage=None if event.stage is None else _words(event.stage, _STAGE_WORDS),
            frm=None if event.frm in (None, event.to) else _words(event.frm or "", _STATUS_WORDS),
            to=_words(event.to, _STATUS_WORDS),
            outcome=_words(event.outcome.lower(), _OUTCOME_WORDS),
            tone="" if event.frm == event.to else _group_of(event.to).tone,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseView:
    """One application with everything the template would otherwise have to work out."""

    case: CaseStory
    anchor: int
    filter: int
    tone: str
    kind: Words
    priority: Words
    lane: Words
    before: Picture
    after: Picture
    drawn: _Drawn | None
    face: Picture
    steps: tuple[_Step, ...]


def _case_view(case: CaseStory, *, anchor: int, filter_: int) -> _CaseView:
    return _CaseView(
        case=case,
        anchor=anchor,
        filter=filter_,
        tone=_group_of(case.status).tone,
        kind=_words(case.kind, _OTHER_WORDS),
        priority=_words(case.priority, _OTHER_WORDS),
        lane=_words(case.lane, _OTHER_WORDS),
        before=_picture(case.photo_before, Words("未交照片", "No photo handed in")),
        after=_picture(case.photo_after, Words("无制卡照片", "No picture was made")),
        drawn=_drawn(case),
        face=_face(case.face),
        steps=tuple(_steps(case.timeline)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    """One choice of the filter: a status that occurs."""

    words: Words
    tone: str
    count: int


def _statuses(cases: Sequence[CaseStory]) -> list[str]:
    """The statuses that occur, in the order of the state machine, unknown ones last."""
    known = list(STATUSES)
    present = {case.status for case in cases}
    return sorted(present, key=lambda status: (known.index(status) if status in STATUSES else len(known), status))


def _by_region(views: Sequence[_CaseView], regions: Sequence[RegionRow]) -> list[tuple[Words, list[_CaseView]]]:
    english = {region.zh: region.en for region in regions}
    groups: dict[str, list[_CaseView]] = {region.zh: [] for region in regions}
    for view in views:
        groups.setdefault(view.case.region_zh, []).append(view)
    return [(Words(zh, english.get(zh, "")), members) for zh, members in groups.items() if members]


def _view(story: Story) -> dict[str, Any]:
    statuses = _statuses(story.cases)
    views = [
        _case_view(case, anchor=number, filter_=statuses.index(case.status))
        for number, case in enumerate(story.cases, start=1)
    ]
    stations = line(story.cases)
    return {
        "story": story,
        "ok": story.summary.get("ok"),
        "tiles": list(_tiles(story.summary)),
        "figures": list(_flat(story.summary)),
        "stations": stations,
        "rows": max(station.losses for station in stations),
        "entered": len(story.cases),
        "matrix": _matrix(story.regions),
        "filters": [
            _Filter(
                words=_words(status, _STATUS_WORDS),
                tone=_group_of(status).tone,
                count=sum(case.status == status for case in story.cases),
            )
            for status in statuses
        ],
        "groups": _by_region(views, story.regions),
    }


# ------------------------------------------------------------------------------------------------------------ the page


def _local(at: datetime, pattern: str) -> str:
    if at.tzinfo is None:
        raise ValueError("a time without a zone cannot be shown")
    return at.astimezone(SHANGHAI).strftime(pattern)


def _minute(at: datetime) -> str:
    return _local(at, "%Y-%m-%d %H:%M")


def _second(at: datetime) -> str:
    return _local(at, "%Y-%m-%d %H:%M:%S")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(minute=_minute, second=_second)
    return environment


def write_report(path: Path, story: Story) -> None:
    """Write the story as one HTML page. Faces are linked relative to `path`; everything else is inside.

    Raises:
        ValueError: a time has no zone, or a face is not given by a relative path.
        OSError: the file cannot be written.
    """
    page = _environment().get_template("report.html.j2").render(_view(story))
    path.write_bytes(page.encode("utf-8", errors="replace"))
