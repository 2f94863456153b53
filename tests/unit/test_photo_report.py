"""Photos on paper: lines where they were measured, ranges where they are permitted, limits that agree with the verdict, and nothing
that a stranger's file or its name could do. And the lists and files of `zhika photo`."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from config.wiring import HERE
from pipeline.photo import judge
from pipeline.photo.findings import find
from pipeline.photo.profile import load_profile
from pipeline.photo.result import Geometry, Normalised
from pipeline.photo.thumbnail import thumbnail
from producers.cli.photo_files import Cannot, is_null, photos_in, read_photo, write_whole
from producers.cli.photo_manifest import differences, read_manifest
from producers.cli.photo_report import PhotoCase, after, before, measured, outside, page, shown
from producers.cli.report import CaseStory, PhotoStory, Story, write_report

PHOTOS = Path(__file__).parents[1] / "photos"
PROFILE = load_profile(HERE / "photo" / "ssc-national.toml")
ORIGINAL = (PHOTOS / "derived" / "good_white.jpg").read_bytes()
PICTURE = thumbnail(ORIGINAL, side_px=441) or b""
SMALL = thumbnail(ORIGINAL, side_px=900) or b""
SVG = "{http://www.w3.org/2000/svg}"

# Four times as dense, 90° clockwise, moved: no two numbers of it are alike.
MATRIX = (0.0, -4.0, 3000.0, 4.0, 0.0, 500.0)
GEOMETRY = Geometry(
    turn_deg=0,
    source_px=(3000, 4000),
    matrix=MATRIX,
    eyes=((131.0, 180.0), (229.0, 182.0)),
    ears=((76.0, 190.0), (283.0, 191.0)),
    chin=(181.0, 361.0),
    crown_px=14.0,
)
LENGTHS = {"face_width_px": 207.0, "eye_mid_x_px": 180.0, "eye_to_bottom_px": 260.0, "top_px": 14.0}
GOOD = Normalised(
    picture=PICTURE,
    findings=(find("MOUTH_OPEN", measured=0.15, limit="<= 0.1"),),
    width_px=358,
    height_px=441,
    quality=70,
    background="kept",
    geometry=GEOMETRY,
    measures={**LENGTHS, "face_source_px": 828.0},
)
TILTED = replace(
    GOOD, picture=None, width_px=None, height_px=None, quality=None, findings=(find("TILTED", measured=15.6, limit="<= 10°"),)
)  # fmt: skip
NO_FACE = Normalised(picture=None, findings=(find("NO_FACE"),))


def drawn(html: str) -> ElementTree.Element:
    """The drawing of a fragment, which is well-formed XML."""
    found = re.search(r"<svg.*</svg>", html, re.DOTALL)
    assert found is not None, html
    return ElementTree.fromstring(found.group().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def lines(svg: ElementTree.Element) -> set[tuple[float, ...]]:
    """The lines that have a colour: x1, y1, x2, y2."""
    return {
        tuple(float(line.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
        for line in svg.iter(f"{SVG}line")
        if "stroke:#fff" not in line.attrib["style"]
    }


def bands(svg: ElementTree.Element) -> list[tuple[float, ...]]:
    return [
        tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        for rect in svg.iter(f"{SVG}rect")
        if rect.attrib.get("class") == "band"
    ]


# ----------------------------------------------------------------------------------------------------------- the upload


def test_the_frame_and_the_lines_lie_on_the_upload_where_the_geometry_says() -> None:
    svg = drawn(before(SMALL, GOOD, PROFILE))
    frames = {polygon.attrib["points"].strip() for polygon in svg.iter(f"{SVG}polygon")}
    assert frames == {"3000.00,500.00 3000.00,1932.00 1236.00,1932.00 1236.00,500.00"}
    found = lines(svg)
    eye_y, chin_y = 181.0, 361.0
    for ear_x in (76.0, 283.0):
        top, foot = (GEOMETRY.on_source((ear_x, y)) for y in (eye_y - 0.35 * 207, chin_y))
        assert any(math.dist(line, (*top, *foot)) < 0.1 for line in found)
    assert any(line[0] == line[2] == 3000.0 - 4 * 14.0 for line in found)  # the crown, 14 px down, is turned upright
    rings = [(float(ring.attrib["cx"]), float(ring.attrib["cy"])) for ring in svg.iter(f"{SVG}circle")]
    assert rings == [GEOMETRY.on_source(eye) for eye in GEOMETRY.eyes]
    assert "828 px" in "".join(svg.itertext())


@pytest.mark.parametrize("turn_deg", [0, 90, 180, 270])
def test_an_upload_that_lay_on_its_side_is_turned_as_the_stage_turned_it(turn_deg: int) -> None:
    geometry = replace(GEOMETRY, turn_deg=turn_deg)
    svg = drawn(before(SMALL, replace(GOOD, geometry=geometry), PROFILE))
    [image] = svg.iter(f"{SVG}image")
    width, height = float(image.attrib["width"]), float(image.attrib["height"])
    moves = re.findall(r"(translate|rotate)\(([^)]*)\)", image.attrib.get("transform", ""))

    def upright(x: float, y: float) -> tuple[float, float]:
        for name, told in reversed(moves):
            numbers = [float(number) for number in told.split()]
            if name == "rotate":
                cos, sin = math.cos(math.radians(numbers[0])), math.sin(math.radians(numbers[0]))
                x, y = x * cos - y * sin, x * sin + y * cos
            else:
                x, y = x + numbers[0], y + numbers[1]
        return round(x, 6), round(y, 6)

    corners = [(0, 0), (3000, 0), (3000, 4000), (0, 4000)]
    raw = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    quarter = turn_deg // 90
    assert [upright(*corner) for corner in raw] == corners[quarter:] + corners[:quarter]


def test_a_refused_photo_shows_what_would_have_been_cut_and_no_picture() -> None:
    upload, picture = before(SMALL, TILTED, PROFILE), after(None, TILTED, PROFILE)
    assert "stroke-dasharray" in upload
    assert "stroke-dasharray" not in before(SMALL, GOOD, PROFILE)
    assert "<svg" not in picture
    assert "<img" not in picture
    assert "No picture was made" in picture


def test_a_photo_without_a_face_is_shown_as_it_is() -> None:
    html = before(SMALL, NO_FACE, PROFILE)
    assert "<svg" not in html
    assert 'src="data:image/jpeg;base64,' in html


@pytest.mark.parametrize("data", [b"", b"no photo", ORIGINAL[:9000]])
def test_what_cannot_be_decoded_has_a_word_in_its_place(data: bytes) -> None:
    html = before(data, NO_FACE, PROFILE)
    assert "<img" not in html
    assert "cannot be decoded safely" in html
    with_geometry = before(data, TILTED, PROFILE)
    assert "<image" not in with_geometry
    assert "The photo cannot be shown" in with_geometry


class Thumbnails:
    """A photo process that draws nothing but remembers what it was asked."""

    def __init__(self, small: bytes | None) -> None:
        self.small = small
        self.asked: list[tuple[bytes, int]] = []

    def thumbnail(self, upload: bytes, *, side_px: int) -> bytes | None:
        self.asked.append((upload, side_px))
        return self.small


@pytest.mark.parametrize("code", ["PROCESSING_LIMIT", "TOO_MANY_SCANS", "TOO_MANY_PIXELS", "FILE_TOO_LARGE"])
def test_what_was_too_costly_for_the_stage_is_never_decoded_to_be_shown(code: str) -> None:
    costly = Normalised(picture=None, findings=(find(code, limit="1"),))
    processes = Thumbnails(SMALL)
    assert shown(ORIGINAL, costly, processes) == b""
    assert processes.asked == []
    assert "cannot be decoded safely" in before(b"", costly, PROFILE)


def test_an_upload_is_made_small_by_a_photo_process_or_not_shown() -> None:
    processes = Thumbnails(SMALL)
    assert shown(ORIGINAL, GOOD, processes) == SMALL
    assert processes.asked == [(ORIGINAL, 900)]
    assert shown(ORIGINAL, GOOD, Thumbnails(None)) == b""


def test_only_a_bare_picture_is_put_into_a_page() -> None:
    """An upload handed in by mistake would bring its place and its owner's name, and whatever else is in it."""
    assert "<image" in before(SMALL, GOOD, PROFILE)
    for upload in (
        SMALL[:2] + b"\xff\xe1\x00\x08Exif\0\0" + SMALL[2:],
        SMALL + b"<script>",
        (PHOTOS / "cat_noface.png").read_bytes(),
    ):
        assert "<image" not in before(upload, GOOD, PROFILE)


def test_pages_are_made_without_any_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", decoded)
    page([PhotoCase(title="a", small=SMALL, normalised=GOOD)], profile=PROFILE)
    report(tmp_path, case(photo_before=SMALL, photo_after=PICTURE))


# ---------------------------------------------------------------------------------------------------------- the picture


def test_the_picture_has_its_four_lengths_where_they_were_measured() -> None:
    found = lines(drawn(after(PICTURE, GOOD, PROFILE)))
    for ear_x in (76.0, 283.0):
        assert any(x1 == x2 == ear_x for x1, _, x2, _ in found)
    assert (0.0, 14.0, 366.0, 14.0) in found
    assert (0.0, 181.0, 370.0, 181.0) in found
    assert any(x1 == x2 == 180.0 and y1 < 0 for x1, y1, x2, _ in found)
    assert any(y1 == 181.0 and y2 == 441.0 for _, y1, _, y2 in found)


def test_each_permitted_range_is_a_strip() -> None:
    top, middle, low, left, right = bands(drawn(after(PICTURE, GOOD, PROFILE)))
    assert (top[1], top[1] + top[3]) == (7, 21)
    assert (middle[0], middle[0] + middle[2]) == (162, 196)
    assert (low[1], low[1] + low[3]) == (0, 441 - 207)
    centre = (76.0 + 283.0) / 2
    assert [centre - left[0], centre - left[0] - left[2]] == [255 / 2, 179 / 2]
    assert [right[0] - centre, right[0] + right[2] - centre] == [179 / 2, 255 / 2]


@pytest.mark.parametrize(
    ("key", "value"), [("face_width_px", 178.9), ("eye_mid_x_px", 196.1), ("eye_to_bottom_px", 206.0), ("top_px", 22.0)]
)
def test_a_length_outside_its_limits_is_drawn_in_red(key: str, value: float) -> None:
    red = "#c4211c"
    assert red not in after(PICTURE, GOOD, PROFILE)
    wrong = replace(GOOD, measures={**GOOD.measures, key: value})
    assert red in after(PICTURE, wrong, PROFILE)
    assert [one.key for one in measured(wrong, PROFILE) if one.tone == "bad"] == [key] == list(outside(wrong, PROFILE))


def test_hair_that_is_cut_for_the_eye_line_is_within_the_limits() -> None:
    cut = replace(GOOD, measures={**GOOD.measures, "eye_to_bottom_px": 210.0, "top_px": -5.0})
    assert outside(cut, PROFILE) == frozenset()


def test_values_and_limits_stand_beside_the_lines_in_both_languages() -> None:
    text = " ".join(" ".join(drawn(after(PICTURE, GOOD, PROFILE)).itertext()).split())
    for told in (
        "脸部宽 207.0 px",
        "face width · 179–255",
        "180.0 px",
        "162–196",
        "260.0 px",
        "≥ 207",
        "14.0 px",
        "7–21",
    ):
        assert told in text


def test_without_a_profile_there_are_lines_and_values_but_no_limits() -> None:
    html = after(PICTURE, GOOD)
    assert bands(drawn(html)) == []
    assert "207.0 px" in html
    assert "179–255" not in html
    assert {one.limit for one in measured(GOOD, None)} == {""}
    assert "<svg" in page([PhotoCase(title="a", small=SMALL, normalised=GOOD)])


# ------------------------------------------------------------------------------------------------------------- measures

# What a good photo has, and how far each measure is led astray.
_JUDGED = {
    "face_source_px": (300.0, 50, 300),
    "presence": (1.0, 0, 1),
    "roll_deg": (0.0, -20, 20),
    "yaw_deg": (0.0, -40, 40),
    "pitch_ratio": (0.35, 0, 1),
    "sharpness": (500.0, 0, 200),
    "luma_mean": (0.6, 0, 1),
    "dark_share": (0.0, 0, 0.5),
    "bright_share": (0.0, 0, 0.5),
    "side_light": (5.0, 0, 60),
    "colour": (40.0, 0, 40),
    "skin_a": (15.0, -10, 50),
    "skin_b": (18.0, -20, 60),
    "eye_band_dark": (0.1, 0, 1),
    "eye_opening": (0.3, 0, 0.4),
    "mouth_opening": (0.02, 0, 0.3),
}


@pytest.mark.parametrize("key", _JUDGED)
def test_the_table_calls_bad_what_the_judge_refuses_and_marks_what_the_judge_remarks(key: str) -> None:
    _, low, high = _JUDGED[key]
    for step in range(400):
        value = low + (high - low) * (step + 0.5) / 400
        measures = {name: usual for name, (usual, _, _) in _JUDGED.items()} | {key: value}
        findings = [f for judged in (judge.face, judge.light, judge.features) for f in judged(measures, PROFILE.limits)]
        [tone] = [one.tone for one in measured(replace(GOOD, measures=measures), PROFILE) if one.tone != "good"] or [
            "good"
        ]
        levels = {finding.level for finding in findings}
        wanted = "bad" if "reject" in levels else "warn" if levels else "good"
        if key == "roll_deg" and wanted == "good" and abs(value) > PROFILE.limits.roll_note_deg:
            wanted = "warn"  # that the head was levelled is told by whoever levels it
        assert tone == wanted, (value, findings)


# -------------------------------------------------------------------------------------------------------------- the page


def test_the_page_asks_nothing_of_any_network_and_runs_nothing() -> None:
    html = page([PhotoCase(title="https://example.com/x.png", small=SMALL, normalised=GOOD)], profile=PROFILE)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses
    assert all(re.match(r"data:image/jpeg;base64,|#p\d+$", address) for address in addresses)
    assert re.search(r"<script|<link|<iframe|<form|url\(|@import| on[a-z]+=", html) is None
    assert "default-src 'none'" in html


def test_hostile_names_stay_text() -> None:
    evil = "<script>alert(1)</script>\"'>\ud800"
    html = page([PhotoCase(title=evil, small=b"", normalised=NO_FACE)] * 2, profile=PROFILE)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 4
    html.encode()


def test_every_finding_stands_with_its_level_numbers_and_both_languages() -> None:
    html = page([PhotoCase(title="a", small=SMALL, normalised=TILTED)], profile=PROFILE)
    for told in (
        "photo.tilted",
        "退回 reject",
        "头部倾斜 15.6 度",
        "The head is tilted by 15.6°.",
        "&lt;= 10°",
        "✗ 不合格",
    ):
        assert told in html
    assert "✓ 合格" in page([PhotoCase(title="a", small=SMALL, normalised=GOOD)], profile=PROFILE)


def test_several_photos_have_a_list_that_leads_to_each() -> None:
    cases = [PhotoCase(title=f"{n}", small=SMALL, normalised=made) for n, made in enumerate((GOOD, TILTED))]
    html = page(cases, profile=PROFILE)
    assert [f'<a href="#p{n}">' in html and f'id="p{n}"' in html for n in (1, 2)] == [True, True]
    assert "2 photos: 1 accepted, 1 refused." in html


def test_no_photo_shows_in_a_repr() -> None:
    assert "\\x" not in repr(PhotoCase(title="a", small=SMALL, normalised=GOOD))


# ------------------------------------------------------------------------------------------------------ the demo's report


def case(**changes: Any) -> CaseStory:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    told = dict.fromkeys(
        ("bank_card_masked", "blank_serial", "card_number_masked", "face", "photo_before", "photo_after")
    )
    texts = ("id", "region_zh", "masked_name", "masked_number", "kind", "priority", "lane", "public_zh", "public_en")
    told |= {**dict.fromkeys(texts, "x"), "status": "collected", "received_at": at, "due_at": at + timedelta(days=60)}
    return CaseStory(**{**told, "reasons": (), "verified_fields": (), "timeline": (), **changes})


def report(tmp_path: Path, told: CaseStory) -> str:
    story = Story(title_at=told.due_at, summary={}, regions=(), cases=(told,), refused_rows=())
    write_report(tmp_path / "report.html", story)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_demo_shows_an_applications_photo_with_its_lines_and_remarks(tmp_path: Path) -> None:
    photo = PhotoStory(normalised=GOOD, profile=PROFILE)
    html = report(tmp_path, case(photo_before=SMALL, photo_after=PICTURE, photo=photo))
    _, upload, picture = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert "画框 frame" in upload
    assert len(bands(drawn(picture))) == 5
    assert "The mouth is open." in html
    assert "<img" not in html


def test_the_demo_shows_a_photo_without_a_face_as_before(tmp_path: Path) -> None:
    photo = PhotoStory(normalised=NO_FACE, profile=PROFILE)
    html = report(tmp_path, case(photo_before=SMALL, photo=photo))
    assert html.count("<svg") == 1
    assert html.count("<img") == 1
    assert "No picture was made" in html


# -------------------------------------------------------------------------------------------------------------- the list

_HEADER = "file\toutcome\tany_of\talt\tface_px\ttop_px\teye_x_px\teye_bottom_px\tnote"


def listed(tmp_path: Path, *cells: str) -> Path:
    path = tmp_path / "list.tsv"
    path.write_text("\n".join([_HEADER, "\t".join(cells)]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "made", "told"),
    [
        (("a", "accept"), GOOD, ()),
        (("a", "reject"), GOOD, ("accept, not reject",)),
        (("a", "accept"), TILTED, ("reject, not accept",)),
        (("a", "accept", "MOUTH_OPEN"), GOOD, ()),
        (("a", "accept", "MOUTH_OPEN"), replace(GOOD, findings=(find("LEVELLED"), *GOOD.findings)), ()),
        (("a", "accept", "ROTATED"), GOOD, ("none of ROTATED",)),
        (("a", "reject", "BLURRED|TILTED"), TILTED, ()),
        (("a", "reject", "BLURRED", "TILTED"), TILTED, ()),
        (("a", "accept", "", "reject"), TILTED, ()),
        (("a", "accept", "", "", "200-210", "14-14", "170-190", "250-270"), GOOD, ()),
        (("a", "accept", "", "", "208-210"), GOOD, ("face_width_px 207.0, not 208-210",)),
        (("a", "reject", "", "", "200-210"), NO_FACE, ("face_width_px not measured, not 200-210",)),
        (("a", "reject"), None, ("not opened",)),
    ],
)
def test_what_became_of_a_photo_is_compared_with_its_row(
    cells: tuple[str, ...], made: Normalised | None, told: tuple[str, ...], tmp_path: Path
) -> None:
    [row] = read_manifest(listed(tmp_path, *cells)).values()
    assert differences(row, made) == told


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (("a", "maybe"), "row 2: 'maybe'"),
        (("a", "reject", "BLURED"), "row 2: 'BLURED'"),
        (("a", "accept", "", "", "207"), "row 2"),
        (("a", "accept", "", "", "x-y"), "row 2"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(cells: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_manifest(listed(tmp_path, *cells))


def test_a_list_without_its_columns_or_with_a_file_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("name\tverdict\na\taccept\n", encoding="utf-8")
    with pytest.raises(ValueError, match="column missing: file, outcome"):
        read_manifest(path)
    path.write_text("file\toutcome\na\taccept\na\treject\n", encoding="utf-8")
    with pytest.raises(ValueError, match="named twice"):
        read_manifest(path)


# --------------------------------------------------------------------------------------------------------------- files


def test_a_picture_is_written_whole_or_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    write_whole(path, b"first")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Cannot, match="磁盘已满"):
        write_whole(path, b"second")
    assert [one.name for one in tmp_path.iterdir()] == ["a.jpg"]
    assert path.read_bytes() == b"first"


def test_a_picture_behind_a_link_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"first")
    (tmp_path / "link.jpg").symlink_to("real/a.jpg")
    write_whole(tmp_path / "link.jpg", b"second")
    assert (tmp_path / "link.jpg").is_symlink()
    assert (tmp_path / "real" / "a.jpg").read_bytes() == b"second"


def test_what_is_private_nobody_else_may_open(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        write_whole(tmp_path / "made" / "a.html", b"a face", private=True)
        write_whole(tmp_path / "open" / "a.jpg", b"a picture")
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "made/a.html", "open", "open/a.jpg")]
    assert modes == [0o700, 0o600, 0o777, 0o666]


def test_what_goes_to_the_device_that_forgets_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "link"):
        assert is_null(path)
        write_whole(path, b"a picture")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert not is_null(Path("/dev/zero"))
    assert not is_null(tmp_path / "none")


def test_no_more_of_a_file_is_read_than_shows_that_it_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 10**12)
    assert len(read_photo(tmp_path / "long", at_most=1001)) == 1001


def test_two_photos_never_have_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.png", "a.png.jpg", "a.jpg", "a.heic", "A", "b.JPG"):
        (tmp_path / name).touch()
    found = photos_in(tmp_path, Path("out"))
    assert {photo.name: str(photo.target) for photo in found.photos} == {
        "A": "out/A.jpg",
        "a.heic": "out/a.heic.jpg",
        "a.jpg": "out/a.jpg",
        "a.png": "out/a.png.jpg",
        "a.png.jpg": "out/a.png.jpg.jpg",
        "b.JPG": "out/b.JPG",
    }
