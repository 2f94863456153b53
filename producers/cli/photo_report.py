"""Photos before and after, with the measured lines on them: one HTML page, and the two drawings for other pages.

The page is a single file that asks nothing of any network and runs no script. Lines and permitted ranges are vectors over the
pixels; their coordinates are those the photo stage measured, nothing is measured and nothing is decoded here. What strangers
uploaded is made small by a photo process, and not at all when the photo stage found it too costly.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.photo import layout
from pipeline.photo.encode import bare_jpeg
from pipeline.photo.findings import Finding, reason_code
from pipeline.photo.profile import Limits, PhotoProfile
from pipeline.photo.result import Geometry, Normalised, Point

SHOWN_PX = 900
"""The longer side of an upload as it is shown, at most."""
TEMPLATES = Path(__file__).parent / "templates"

_TOO_COSTLY = frozenset({"PROCESSING_LIMIT", "TOO_MANY_SCANS", "TOO_MANY_PIXELS", "FILE_TOO_LARGE"})

Tone = Literal["good", "warn", "bad", "calm"]
Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoCase:
    """One photo: what the reader calls it, what `shown` made of the upload, and what became of it."""

    title: str
    small: bytes = field(repr=False)
    normalised: Normalised


class Thumbnails(Protocol):
    """Whoever decodes uploads: `gateways.photo_pool.PhotoPool`."""

    def thumbnail(self, upload: bytes, *, side_px: int) -> bytes | None: ...


def shown(upload: bytes, normalised: Normalised, thumbnails: Thumbnails, *, side_px: int = SHOWN_PX) -> bytes:
    """The upload as a small JPEG, upright by its EXIF; empty when it cannot be decoded or must not be."""
    if any(finding.code in _TOO_COSTLY for finding in normalised.findings):
        return b""
    return thumbnails.thumbnail(upload, side_px=side_px) or b""


# ------------------------------------------------------------------------------------------------------------ measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure as people read it: its value, the range it must keep and the one it should keep, and where that leaves it."""

    key: str
    zh: str
    en: str
    value: str
    limit: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class _Measure:
    """`needed` is the range outside which a photo is refused, `advised` the one outside which something is remarked."""

    key: str
    zh: str
    en: str
    unit: str
    digits: int
    needed: Callable[[PhotoProfile], Span] | None = None
    advised: Callable[[PhotoProfile], Span] | None = None


def _from(low: Callable[[Limits], float]) -> Callable[[PhotoProfile], Span]:
    return lambda profile: (low(profile.limits), math.inf)


def _to(high: Callable[[Limits], float]) -> Callable[[PhotoProfile], Span]:
    return lambda profile: (-math.inf, high(profile.limits))


def _within(span: Callable[[Limits], Span]) -> Callable[[PhotoProfile], Span]:
    return lambda profile: span(profile.limits)


def _length(key: str) -> Callable[[PhotoProfile], Span]:
    """A length's range; one that ends at the picture's edge has no end worth telling."""

    def span(profile: PhotoProfile) -> Span:
        low, high = layout.limits(profile)[key]
        return (low, math.inf if high == profile.output.height_px else high)

    return span


_LENGTHS = ("face_width_px", "eye_mid_x_px", "eye_to_bottom_px", "top_px")

_MEASURES = (
    _Measure("face_width_px", "脸部宽", "face width", "px", 1, _length("face_width_px")),
    _Measure("eye_mid_x_px", "双眼中点至左沿", "eye midpoint to left edge", "px", 1, _length("eye_mid_x_px")),
    _Measure("eye_to_bottom_px", "双眼连线至下沿", "eye line to lower edge", "px", 1, _length("eye_to_bottom_px")),
    _Measure("top_px", "头顶发迹至上沿", "top of hair to upper edge", "px", 1, _length("top_px")),
    _Measure("chin_to_bottom_px", "下巴至下沿", "chin to lower edge", "px", 1,
             advised=lambda p: (p.layout.collar_min_px, math.inf)),
    _Measure("face_source_px", "原图脸部宽", "face width in the upload", "px", 0,
             _from(lambda x: x.face_px_reject), _from(lambda x: x.face_px_warn)),
    _Measure("roll_deg", "头部倾斜", "roll", "°", 1,
             _within(lambda x: (-x.roll_reject_deg, x.roll_reject_deg)), _within(lambda x: (-x.roll_note_deg, x.roll_note_deg))),
    _Measure("yaw_deg", "头部左右转", "yaw", "°", 1,
             _within(lambda x: (-x.yaw_reject_deg, x.yaw_reject_deg)), _within(lambda x: (-x.yaw_warn_deg, x.yaw_warn_deg))),
    _Measure("pitch_ratio", "头部俯仰比", "pitch ratio", "", 2,
             advised=_within(lambda x: (x.pitch_note_min, x.pitch_note_max))),
    _Measure("presence", "面部清晰", "sureness of the face", "", 2, _from(lambda x: x.presence_clear)),
    _Measure("other_face_ratio", "其他人脸面积比", "other face, share of area", "", 2, _to(lambda x: x.other_face_ratio)),
    _Measure("sharpness", "清晰度", "sharpness", "", 0, _from(lambda x: x.sharpness_reject), _from(lambda x: x.sharpness_warn)),
    _Measure("luma_mean", "面部平均亮度", "mean luma of the face", "", 2,
             _within(lambda x: (x.dark_mean_reject, x.bright_mean_reject)), _within(lambda x: (x.dark_mean_warn, x.bright_mean_warn))),
    _Measure("dark_share", "面部过暗比例", "share too dark", "", 2,
             _to(lambda x: x.dark_share_reject), _to(lambda x: x.dark_share_warn)),
    _Measure("bright_share", "面部过亮比例", "share too bright", "", 2,
             _to(lambda x: x.bright_share_reject), _to(lambda x: x.bright_share_warn)),
    _Measure("side_light", "两颊亮度差", "difference between the cheeks", "L*", 1,
             _to(lambda x: x.side_light_reject), _to(lambda x: x.side_light_warn)),
    _Measure("colour", "彩色程度", "colourfulness", "", 0, _from(lambda x: x.colour_reject)),
    _Measure("skin_a", "肤色 a*", "skin a*", "", 1, advised=_within(lambda x: (x.skin_a_min, x.skin_a_max))),
    _Measure("skin_b", "肤色 b*", "skin b*", "", 1, advised=_within(lambda x: (x.skin_b_min, x.skin_b_max))),
    _Measure("eye_opening", "睁眼程度", "opening of the eyes", "", 2,
             advised=_from(lambda x: x.eye_opening_note)),
    _Measure("mouth_opening", "张嘴程度", "opening of the mouth", "", 2, advised=_to(lambda x: x.mouth_warn)),
    _Measure("eye_band_dark", "眼部暗区比例", "dark share across the eyes", "", 2, advised=_to(lambda x: x.eye_band_warn)),
    _Measure("background_px", "可见背景", "background seen", "px", 0,
             advised=lambda p: (p.background.seen_min_px, math.inf)),
    _Measure("background_luma_sd", "背景亮度起伏", "background, deviation of luma", "", 1,
             lambda p: (-math.inf, p.background.plain_luma_sd_max)),
    _Measure("background_edge", "背景轮廓", "background, edges", "", 1, lambda p: (-math.inf, p.background.plain_edge_max)),
    _Measure("background_luma_mean", "背景平均亮度", "background, mean luma", "", 0,
             advised=lambda p: (p.background.near_luma_mean_min, math.inf)),
    _Measure("background_spread", "背景偏色", "background, colour cast", "", 1,
             advised=lambda p: (-math.inf, p.background.near_spread_max)),
    _Measure("bytes", "文件大小", "size of the file", "B", 0, lambda p: (p.file.bytes_min, p.file.bytes_max)),
)  # fmt: skip


def measured(normalised: Normalised, profile: PhotoProfile | None) -> tuple[Measured, ...]:
    """The measures that were taken, lengths first. Without a profile they have no limits."""
    return tuple(_read(measure, normalised, profile) for measure in _MEASURES if measure.key in normalised.measures)


def _read(measure: _Measure, normalised: Normalised, profile: PhotoProfile | None) -> Measured:
    value = normalised.measures[measure.key]
    return Measured(
        key=measure.key,
        zh=measure.zh,
        en=measure.en,
        value=f"{value:.{measure.digits}f} {measure.unit}".rstrip(),
        limit="" if profile is None else _limit(measure, profile),
        tone="calm" if profile is None else _tone(measure, normalised, profile),
    )


def _tone(measure: _Measure, normalised: Normalised, profile: PhotoProfile) -> Tone:
    value = normalised.measures[measure.key]
    if measure.key in _LENGTHS:
        return "bad" if measure.key in outside(normalised, profile) else "good"
    if measure.needed is not None and not _inside(value, measure.needed(profile)):
        return "bad"
    if measure.advised is not None and not _inside(value, measure.advised(profile)):
        return "warn"
    return "good"


def outside(normalised: Normalised, profile: PhotoProfile) -> frozenset[str]:
    """Which of the four lengths lie outside their limits, of those that were measured."""
    if not all(key in normalised.measures for key in _LENGTHS):
        return frozenset()
    return frozenset(layout.outside(normalised.measures, profile))


def _inside(value: float, span: Span) -> bool:
    return span[0] <= value <= span[1]


def _limit(measure: _Measure, profile: PhotoProfile) -> str:
    needed = None if measure.needed is None else _span(measure.needed(profile))
    advised = None if measure.advised is None else _span(measure.advised(profile))
    if needed and advised:
        return f"{needed}（宜 better {advised}）"
    return needed or (f"宜 better {advised}" if advised else "")


def _span(span: Span) -> str:
    low, high = span
    if low == -math.inf:
        return f"≤ {high:g}"
    if high == math.inf:
        return f"≥ {low:g}"
    return f"± {high:g}" if low == -high else f"{low:g}–{high:g}" if low >= 0 else f"{low:g} … {high:g}"


# ------------------------------------------------------------------------------------------------------------ drawings


_Box = tuple[float, float, float, float]
"""Left, top, width, height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """The upload, its frame and the face's lines, in pixels of the upright upload; `view` is the part that is drawn."""

    href: str
    turn: str
    raw: tuple[int, int]
    source: tuple[int, int]
    view: _Box
    frame: tuple[Point, ...]
    ears: tuple[tuple[Point, Point], ...]
    eye_line: tuple[Point, Point]
    eyes: tuple[Point, Point]
    crown: tuple[Point, Point]
    chin: tuple[Point, Point]
    face_px: str
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _After:
    """The finished picture with its four lengths, in its own pixels."""

    href: str
    width: int
    height: int
    geometry: Geometry
    eye: Point
    bands: tuple[_Box, ...]
    lengths: Mapping[str, Measured]


def before(small: bytes, normalised: Normalised, profile: PhotoProfile | None = None) -> str:
    """What `shown` made of the upload with the picture's frame, face width, eye line, crown and chin drawn on it, as HTML; a word
    in its place when it is no bare JPEG, and only the upload when no face was measured."""
    href = "" if bare_jpeg(small) is None else _data_uri(small)
    size = _size(normalised, profile)
    if normalised.geometry is None or size is None:
        return _drawn("plain", href=href)
    return _drawn("before", drawing=_before(href, normalised, normalised.geometry, size))


def after(picture: bytes | None, normalised: Normalised, profile: PhotoProfile | None = None) -> str:
    """The finished picture with the four lengths and their permitted ranges drawn on it, as HTML; a word in its place when there
    is none."""
    if picture is None or normalised.width_px is None or normalised.height_px is None:
        return _drawn("nothing")
    if normalised.geometry is None:
        return _drawn("plain", href=_data_uri(picture))
    size = (normalised.width_px, normalised.height_px)
    return _drawn("after", drawing=_after(_data_uri(picture), normalised, normalised.geometry, size, profile))


def _before(href: str, normalised: Normalised, geometry: Geometry, size: tuple[int, int]) -> _Before:
    width, height = size
    source_width, source_height = geometry.source_px
    on = geometry.on_source
    (left_x, _), (right_x, _) = geometry.ears
    eye_x, eye_y = geometry.eye_mid
    chin_y, face = geometry.chin[1], right_x - left_x
    frame = tuple(on(corner) for corner in ((0, 0), (width, 0), (width, height), (0, height)))
    xs, ys = [0, source_width, *(x for x, _ in frame)], [0, source_height, *(y for _, y in frame)]
    pad = 0.01 * max(max(xs) - min(xs), max(ys) - min(ys))
    source_px = normalised.measures.get("face_source_px")
    return _Before(
        href=href,
        turn=_TURNS[geometry.turn_deg].format(width=source_width, height=source_height),
        raw=(source_height, source_width) if geometry.turn_deg in (90, 270) else (source_width, source_height),
        source=(source_width, source_height),
        view=(min(xs) - pad, min(ys) - pad, max(xs) - min(xs) + 2 * pad, max(ys) - min(ys) + 2 * pad),
        frame=frame,
        ears=tuple((on((x, eye_y - 0.35 * face)), on((x, chin_y))) for x in (left_x, right_x)),
        eye_line=(on((left_x - 0.12 * face, eye_y)), on((right_x + 0.12 * face, eye_y))),
        eyes=(on(geometry.eyes[0]), on(geometry.eyes[1])),
        crown=(on((eye_x - 0.4 * face, geometry.crown_px)), on((eye_x + 0.4 * face, geometry.crown_px))),
        chin=(on((eye_x - 0.3 * face, chin_y)), on((eye_x + 0.3 * face, chin_y))),
        face_px="" if source_px is None else f"{source_px:.0f} px",
        cut=normalised.picture is None and bool(normalised.rejections),
    )


# How the upload, upright by its EXIF, is turned clockwise into a box of the turned width and height.
_TURNS: Mapping[int, str] = {
    0: "",
    90: "translate({width} 0) rotate(90)",
    180: "translate({width} {height}) rotate(180)",
    270: "translate(0 {height}) rotate(270)",
}


def _after(
    href: str, normalised: Normalised, geometry: Geometry, size: tuple[int, int], profile: PhotoProfile | None
) -> _After:
    return _After(
        href=href,
        width=size[0],
        height=size[1],
        geometry=geometry,
        eye=geometry.eye_mid,
        bands=() if profile is None else tuple(_bands(geometry, size, profile)),
        lengths={one.key: one for one in measured(normalised, profile) if one.key in _LENGTHS},
    )


_EYE_BAND_PX = 30
_EDGE_BAND_PX = 16


def _bands(geometry: Geometry, size: tuple[int, int], profile: PhotoProfile) -> Iterator[_Box]:
    """Where the top of the hair, the eye midpoint, the eye line (at the right edge) and both ear lines may lie."""
    width, height = size
    face, eye, head = profile.face, profile.eye, profile.head
    (left_x, _), (right_x, _) = geometry.ears
    eye_y, middle = geometry.eye_mid[1], (left_x + right_x) / 2
    yield (0, head.top_min_px, width, head.top_max_px - head.top_min_px)
    yield (eye.x_min_px, eye_y - _EYE_BAND_PX, eye.x_max_px - eye.x_min_px, 2 * _EYE_BAND_PX)
    yield (width - _EDGE_BAND_PX, 0, _EDGE_BAND_PX, height - eye.bottom_min_px)
    wide = (face.width_max_px - face.width_min_px) / 2
    for left in (middle - face.width_max_px / 2, middle + face.width_min_px / 2):
        yield (left, eye_y, wide, height - eye_y)


def _size(normalised: Normalised, profile: PhotoProfile | None) -> tuple[int, int] | None:
    """The picture's size; what a refused one would have had."""
    if normalised.width_px is not None and normalised.height_px is not None:
        return normalised.width_px, normalised.height_px
    return None if profile is None else (profile.output.width_px, profile.output.height_px)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


# ------------------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseView:
    title: str
    accepted: bool
    normalised: Normalised
    before: Markup
    after: Markup
    findings: tuple[tuple[Finding, str, Tone], ...]
    measures: tuple[Measured, ...]


_LEVEL_TONES: Mapping[str, Tone] = {"reject": "bad", "warn": "warn", "info": "calm"}


def page(cases: Sequence[PhotoCase], *, profile: PhotoProfile | None = None) -> str:
    """The photos as one HTML page. Without a profile no limits and no permitted ranges are shown."""
    views = [_case_view(case, profile) for case in cases]
    accepted = sum(view.accepted for view in views)
    template = _environment().get_template("photo_report.html.j2")
    return template.render(views=views, profile=profile, accepted=accepted, refused=len(views) - accepted)


def _case_view(case: PhotoCase, profile: PhotoProfile | None) -> _CaseView:
    made = case.normalised
    return _CaseView(
        title=case.title.encode("utf-8", "replace").decode(),
        accepted=not made.rejections,
        normalised=made,
        before=Markup(before(case.small, made, profile)),
        after=Markup(after(made.picture, made, profile)),
        findings=tuple((found, reason_code(found.code), _LEVEL_TONES[found.level]) for found in made.findings),
        measures=measured(made, profile),
    )


def _drawn(name: str, **given: Any) -> str:
    module = _environment().get_template("photo_lines.j2").module
    return str(getattr(module, name)(**given))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
