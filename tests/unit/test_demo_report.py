"""The demo's page and table: self-contained, escaped, honest about what it cannot show."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from pipeline.states import STAGES, STATUSES
from producers.cli.report import (
    INLINE_MAX_BYTES,
    CaseStory,
    Event,
    RefusedRow,
    RegionRow,
    Story,
    line,
    region_table,
    write_report,
)

START = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)


def jpeg(width: int = 60, height: int = 75) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def history(*statuses: str, stage: str | None = "validation", days: int = 0) -> tuple[Event, ...]:
    """An application that went through these statuses."""
    return tuple(
        Event(
            at=START + timedelta(days=days * n, seconds=n),
            frm=frm,
            to=to,
            stage=stage,
            outcome="advance",
            why="",
            actor="engine",
            attempt=1,
        )
        for n, (frm, to) in enumerate(zip((None, *statuses), statuses, strict=False))
    )


WHOLE_WAY = (
    "received", "validation", "photo", "account", "personalisation", "dispatch", "delivered", "notified", "collected",
)  # fmt: skip


def case(**changes: Any) -> CaseStory:
    return replace(
        CaseStory(
            id="app_1",
            region_zh="武汉市",
            masked_name="张*",
            masked_number="9990**********0011",
            kind="first",
            priority="normal",
            lane="normal",
            status="collected",
            public_zh="已领取",
            public_en="Collected",
            reasons=(),
            due_at=START + timedelta(days=60),
            received_at=START,
            bank_card_masked="621467******0001",
            blank_serial="B0000001",
            card_number_masked="AB*****12",
            photo_before=None,
            photo_after=None,
            face=None,
            verified_fields=("name",),
            timeline=history(*WHOLE_WAY),
        ),
        **changes,
    )


def region(**counts: int) -> RegionRow:
    return RegionRow(code="420100", zh="武汉市", en="Wuhan", counts=counts, total=sum(counts.values()))


def story(*cases: CaseStory, **changes: Any) -> Story:
    whole = Story(
        title_at=START + timedelta(days=90),
        summary={"ok": True, "applications": len(cases), "by_status": {"collected": len(cases)}, "elapsed_s": 9.4},
        regions=(region(collected=len(cases)),),
        cases=cases,
        refused_rows=(),
    )
    return replace(whole, **changes)


def page_of(told: Story, directory: Path) -> str:
    path = directory / "report.html"
    write_report(path, told)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All start tags of a page with their attributes, its text, and the tags left open."""

    VOID = frozenset({"meta", "input", "img", "br", "line", "circle", "rect"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# ---------------------------------------------------------------------------------------------------- safe and alone


def poisoned(value: Any, evil: str) -> Any:
    """The same value with `evil` in the place of every text."""
    if isinstance(value, str):
        return evil
    if isinstance(value, dict):
        return {(key if key in ("by_status", "blanks") else evil): poisoned(item, evil) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(item, evil) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{f.name: poisoned(getattr(value, f.name), evil) for f in fields(value)})
    return value


def full_story() -> Story:
    reason = ("guardian.required", "须由监护人代办", "needs a guardian", "WH-4")
    return story(
        case(reasons=(reason,), face="faces/1.png", photo_before=jpeg(), photo_after=jpeg()),
        summary={"applications": 1, "verdict": "fine", "by_status": {"collected": 1}, "blanks": {"taken": 1}},
        refused_rows=(
            RefusedRow(file="a.zip", row=7, column="证件号码", code="id_number.checksum", zh="错", en="bad"),
        ),
    )


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'--></style><b>", "https://example.com/x"]
)
def test_hostile_text_in_every_field_stays_text(evil: str, tmp_path: Path) -> None:
    harmless, hostile = (Tags(page_of(poisoned(full_story(), text), tmp_path)) for text in ("harmless", evil))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert hostile.text.count(evil) > 20


def test_the_page_asks_for_nothing_but_faces_beside_it(tmp_path: Path) -> None:
    page = page_of(poisoned(full_story(), "https://example.com/x.png"), tmp_path)
    tags = Tags(page)
    addresses = [value for _, attributes in tags.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(addresses) == 4
    assert all(re.match(r"data:image/|#|https%3A", address or "") for address in addresses)
    assert not re.search(r"url\(|@import", page)
    assert {tag for tag, _ in tags.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "base"})
    policies = [meta["content"] for meta in tags.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [(policy or "").split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_every_tag_is_closed_and_every_id_is_there_once(tmp_path: Path) -> None:
    tags = Tags(page_of(full_story(), tmp_path))
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for _, a in tags.tags for key in ("aria-labelledby", "for") for name in (a.get(key) or "").split()}
    assert named <= set(ids)


def test_no_personal_value_shows_in_a_repr() -> None:
    assert repr(case()) == "CaseStory(app_1, collected)"
    assert "张" not in repr(story(case()))


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    assert "王?" in page_of(story(case(masked_name="王\ud800")), tmp_path)


# ---------------------------------------------------------------------------------------------------------- pictures


def test_photos_are_inside_the_page_and_the_face_is_linked(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("L", (5, 6)).save(png, "PNG")
    told = story(case(photo_before=png.getvalue(), photo_after=jpeg(), face="faces/卡 1.png"))
    before, after, face = Tags(page_of(told, tmp_path)).all("img")
    assert (before["src"] or "").startswith("data:image/png;base64,")
    assert (after["src"] or "").startswith("data:image/jpeg;base64,")
    assert face["src"] == "faces/%E5%8D%A1%201.png"
    assert all(picture["alt"] for picture in (before, after, face))


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        (None, "No photo handed in"),
        (b"", "No photo handed in"),
        (b"not a picture", "cannot be shown"),
        (jpeg()[:-200], "cannot be shown"),
        (jpeg() + bytes(INLINE_MAX_BYTES), "Too large to embed (201 kB)"),
    ],
    ids=["absent", "empty", "garbage", "truncated", "too large"],
)
def test_a_photo_that_is_not_shown_says_why(photo: bytes | None, told: str, tmp_path: Path) -> None:
    tags = Tags(page_of(story(case(photo_before=photo, photo_after=jpeg())), tmp_path))
    assert len(tags.all("img")) == 1
    assert told in tags.text


@given(photo=st.binary(max_size=400) | st.binary(max_size=60).map(lambda tail: jpeg()[:-60] + tail))
def test_no_bytes_of_a_photo_stop_the_page(photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert "app_1" in page_of(story(case(photo_before=photo)), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("path", ["/etc/face.png", "//example.com/face.png"])
def test_a_face_from_the_root_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="relative to the page"):
        write_report(tmp_path / "report.html", story(case(face=path)))


# -------------------------------------------------------------------------------------------------------------- text


def test_times_are_shown_in_shanghai(tmp_path: Path) -> None:
    text = Tags(page_of(story(case()), tmp_path)).text
    assert "2026-03-02 07:30:00" in text
    assert "2026-03-01" not in text
    assert text.count("Asia/Shanghai") == 1


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zone"):
        write_report(tmp_path / "report.html", story(title_at=datetime(2026, 3, 1)))


def test_a_gap_of_days_shows_in_the_timeline(tmp_path: Path) -> None:
    told = story(case(timeline=history("received", "validation", "photo", days=40)))
    assert Tags(page_of(told, tmp_path)).text.count("40 days later") == 2


def test_reasons_stand_with_their_rule(tmp_path: Path) -> None:
    reasons = (
        ("guardian.required", "须由监护人代办", "needs a guardian", "WH-4"),
        ("photo.blurred", "模糊", "blurred", None),
    )
    text = squeezed(Tags(page_of(story(case(status="rejected", reasons=reasons)), tmp_path)).text)
    assert "须由监护人代办needs a guardian 依据 rule WH-4 guardian.required" in text
    assert text.count("依据 rule") == 1


def test_refused_rows_stand_with_row_column_code_and_sentence(tmp_path: Path) -> None:
    row = RefusedRow(
        file="wh.zip", row=7, column="证件号码", code="id_number.checksum", zh="校验位不符", en="check wrong"
    )
    text = Tags(page_of(story(refused_rows=(row,)), tmp_path)).text
    assert "wh.zip7证件号码id_number.checksum校验位不符check wrong" in text


def test_an_empty_story_makes_a_page(tmp_path: Path) -> None:
    text = Tags(page_of(story(summary={}, regions=()), tmp_path)).text
    assert "There are no applications." in text
    assert "Every row was accepted." in text
    assert "count" not in text.split("The line")[0]


def test_a_wrong_count_is_said_in_the_head(tmp_path: Path) -> None:
    assert "Counts disagree" in page_of(story(summary={"ok": False}), tmp_path)


def test_every_figure_of_the_summary_is_on_the_page(tmp_path: Path) -> None:
    summary = {"applications": 61, "blanks": {"taken": 462, "spoiled": 13}, "brand_new": {"figure": 4711}}
    text = Tags(page_of(story(summary=summary), tmp_path)).text
    assert "brand_new.figure4711" in text
    assert "blanks.taken462" in text


# ----------------------------------------------------------------------------------------------------------- filter


def test_the_filter_offers_each_status_that_occurs_and_hides_the_others(tmp_path: Path) -> None:
    cases = (case(id="a", status="held"), case(id="b", status="collected"), case(id="c", status="held"))
    page = page_of(story(*cases), tmp_path)
    tags = Tags(page)
    assert [radio["id"] for radio in tags.all("input")] == ["all", "f0", "f1"]
    assert "已领取 Collected 1" in squeezed(tags.text)
    assert "挂起待核 Held 2" in squeezed(tags.text)
    shown_by = [
        (details["class"] or "").split()[-1] for details in tags.all("details") if "case" in (details["class"] or "")
    ]
    assert shown_by == ["s1", "s0", "s1"]
    assert "body:has(#f1:checked) .case:not(.s1)" in page


def test_applications_stand_under_their_region_in_the_order_of_the_table(tmp_path: Path) -> None:
    regions = (region(), RegionRow(code="210200", zh="大连市", en="Dalian", counts={}, total=0))
    cases = (case(id="app_d", region_zh="大连市"), case(id="app_x", region_zh="别处"), case(id="app_w"))
    text = Tags(page_of(story(*cases, regions=regions), tmp_path)).text
    below = text.split("The applications")[1]
    places = [below.index(word) for word in ("武汉市", "app_w", "大连市", "app_d", "别处", "app_x")]
    assert places == sorted(places)


# ---------------------------------------------------------------------------------------------------------- the line


def counts_of(*timelines: Iterable[Event]) -> list[tuple[int, int, int, int]]:
    cases = [case(id=f"app_{n}", timeline=tuple(timeline)) for n, timeline in enumerate(timelines)]
    return [(s.through, s.back, s.held, s.ended) for s in line(cases)]


def test_one_that_goes_the_whole_way_goes_through_every_stage_once() -> None:
    assert counts_of(history(*WHOLE_WAY)) == [(1, 0, 0, 0)] * 6


def test_a_card_handed_over_where_it_is_made_skips_no_stage_of_the_picture() -> None:
    assert counts_of(history(*WHOLE_WAY[:5], "collected")) == [(1, 0, 0, 0)] * 6


def test_stops_count_where_they_happen() -> None:
    validation, photo, account, *_, collection = counts_of(
        history("received", "validation", "rejected"),
        history("received", "validation", "photo", "awaiting_correction", "validation", "photo", "awaiting_correction"),
        history("received", "validation", "photo", "account", "held"),
        history(*WHOLE_WAY[:8], "uncollected", "recalled", "returned"),
    )
    assert validation == (3, 0, 0, 1)
    assert photo == (2, 1, 0, 0)
    assert account == (1, 0, 1, 0)
    assert collection == (0, 1, 0, 0)


def test_what_an_operator_refuses_ends_at_the_stage_it_was_held_at() -> None:
    refused = history("received", "validation", "held", "rejected")
    assert counts_of(refused)[0] == (0, 0, 1, 1)


@given(statuses=st.lists(st.sampled_from(list(STATUSES)), max_size=12))
def test_no_history_counts_an_application_twice(statuses: list[str]) -> None:
    assert all(number in (0, 1) for station in counts_of(history(*statuses)) for number in station)
    assert len(counts_of()) == len(STAGES)


# ------------------------------------------------------------------------------------------------------------- table


def printed(regions: Iterable[RegionRow], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(region_table(tuple(regions)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_adds_up_by_region_and_by_outcome() -> None:
    regions = (
        region(collected=9, rejected=2),
        RegionRow(code="1", zh="大连市", en="Dalian", counts={"delivered": 3, "notified": 4}, total=7),
    )
    lines = [row.split() for row in printed(regions).splitlines() if row.strip()]
    assert ["地区", "已领取", "待领取", "未通过", "合计"] in lines
    assert ["武汉市", "Wuhan", "9", "·", "2", "11"] in lines
    assert ["大连市", "Dalian", "·", "7", "·", "7"] in lines
    assert lines[-1] == ["合计", "Total", "9", "7", "2", "18"]


def test_the_table_fits_a_terminal_of_100_columns_with_every_outcome() -> None:
    everything = RegionRow(
        code="210100",
        zh="辽宁省直（沈阳）",
        en="Liaoning provincial (Shenyang)",
        counts=dict.fromkeys((*STATUSES, "unheard-of"), 1000),
        total=1000 * (len(STATUSES) + 1),
    )
    text = printed([everything])
    numbers = ["1000", "4000", "2000", "1000", "1000", "1000", "1000", "7000", "1000", "19000"]
    assert " ".join(numbers) in squeezed(text)
    assert all(word in text for word in ("辽宁省直（沈阳）", "Liaoning", "Collected", "Withdrawn", "Ongoing", "Other"))
    assert "…" not in text


def test_a_status_nobody_knows_is_counted_and_called_other() -> None:
    assert "其他" in printed([region(**{"unheard-of": 3})])


def test_markup_and_control_characters_of_a_name_stay_text() -> None:
    text = printed([RegionRow(code="1", zh="[red]甲[/red]", en="\x1b[31mA", counts={}, total=0)])
    assert "[red]甲[/red]" in text
    assert "\x1b" not in text


@given(counts=st.dictionaries(st.sampled_from(list(STATUSES)), st.integers(min_value=1, max_value=999)))
def test_no_application_is_lost_between_the_columns(counts: dict[str, int]) -> None:
    row = region(**counts)
    last = printed([row]).split("合计 Total")[-1].split()
    assert sum(map(int, last[:-1])) == int(last[-1]) == row.total
