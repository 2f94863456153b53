"""Every finding a photo can bring, with the words the applicant reads. The one place for codes and texts; knows no image.

A code never changes once published. Codes marked `by="person"` are set by whoever reviews a photo: no code may raise them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from pipeline.outcomes import Level, Reason

By = Literal["code", "person"]

_WORST_FIRST: Mapping[Level, int] = MappingProxyType({"reject": 0, "warn": 1, "info": 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A catalogue entry: the levels a code may have (the first is its usual one) and its texts, `{…}` to be filled in."""

    levels: tuple[Level, ...]
    zh: str
    en: str
    by: By = "code"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found about one photo. Carries numbers and words, never pixels or names."""

    code: str
    level: Level
    measured: float | None
    limit: str | None
    zh: str
    en: str


def _entry(levels: str, zh: str, en: str, *, by: By = "code") -> Entry:
    names: Mapping[str, Level] = {"R": "reject", "W": "warn", "A": "info"}
    return Entry(levels=tuple(names[letter] for letter in levels), zh=zh, en=en, by=by)


CATALOGUE: Mapping[str, Entry] = MappingProxyType({
    # the file
    "FILE_EMPTY": _entry("R", "照片文件是空的,请重新上传。", "The photo file is empty. Upload it again."),
    "FILE_TOO_LARGE": _entry("R", "照片文件超过 {limit} MB,请压缩后上传。", "The photo file is larger than {limit} MB."),
    "FORMAT_UNSUPPORTED": _entry(
        "R",
        "只接受 JPEG 或 PNG 照片,此文件内容不是(与扩展名无关)。",
        "Only JPEG or PNG is accepted; this file is something else, whatever its name.",
    ),
    "FILE_CORRUPT": _entry("R", "照片文件已损坏,无法读取,请重新导出。", "The photo file is damaged and cannot be read."),
    "FILE_TRUNCATED": _entry("R", "照片文件不完整,请重新上传。", "The photo file is incomplete. Upload it again."),
    "ANIMATED": _entry("R", "动态图片不能用作证件照。", "An animated picture cannot be used."),
    "TOO_MANY_PIXELS": _entry(
        "R", "照片像素过大,最多 {limit} 百万像素。", "The photo has too many pixels (limit {limit} million)."
    ),
    "TOO_MANY_SCANS": _entry(
        "R",
        "照片文件结构异常,请另存为普通 JPEG。",
        "The file's structure is abnormal. Save it as an ordinary JPEG.",
    ),
    "IMAGE_TOO_SMALL": _entry(
        "R", "照片过小,短边至少 {limit} 像素。", "The photo is too small: the short side needs {limit} px."
    ),
    "COLOUR_MODE_UNSUPPORTED": _entry(
        "R",
        "照片为印刷色彩(CMYK),请转换为 RGB。",
        "The photo is in print colours (CMYK). Convert it to RGB.",
    ),
    "NOT_COLOUR": _entry("R", "需要彩色照片,黑白照片不能使用。", "A colour photo is required."),
    "PROCESSING_LIMIT": _entry(
        "R",
        "照片无法在限定时间或内存内处理,请换一张普通 JPEG。",
        "The photo could not be processed within the limits.",
    ),
    # the face
    "NO_FACE": _entry("R", "未检测到人脸,请上传本人正面免冠照片。", "No face was found."),
    "SEVERAL_FACES": _entry(
        "R", "照片中有多张人脸,只能有本人一人。", "More than one face; only the applicant may be shown."
    ),
    "OTHER_FACE_BEHIND": _entry("WA", "背景中有其他人脸。", "There is another face in the background."),
    "FACE_TOO_SMALL": _entry(
        "R",
        "人脸过小({measured} 像素),请靠近拍摄或使用更高分辨率。",
        "The face is too small ({measured} px).",
    ),
    "FACE_UPSCALED": _entry(
        "W", "人脸像素不足,放大后清晰度可能下降。", "The face had to be enlarged; it may look soft."
    ),
    "FACE_NOT_CLEAR": _entry(
        "R", "面部不清晰或被遮挡,无法测量。", "The face is unclear or covered and cannot be measured."
    ),
    "TILTED": _entry("R", "头部倾斜 {measured} 度,请端正头部重拍。", "The head is tilted by {measured}°."),
    "NOT_FRONTAL": _entry("RW", "面部未正对镜头,请正面重拍。", "The face is turned away from the camera."),
    "HEAD_PITCHED": _entry("A", "头部抬起或低下。", "The head is raised or lowered."),
    # the frame
    "HEAD_CROPPED": _entry("R", "头顶被裁切,请上传头部完整的照片。", "The top of the head is cut off."),
    "SIDES_CROPPED": _entry("R", "面部或肩部一侧被裁切。", "The face or a shoulder is cut off at the side."),
    "SHOULDERS_CROPPED": _entry(
        "R", "照片下部不足,须露出衣领和肩部。", "Collar and shoulders must be visible below the face."
    ),
    "HAIR_CUT": _entry(
        "A",
        "头发较高,按规定优先保证眼睛位置,顶部略有裁切。",
        "High hair was cut at the top: the eye line has priority.",
    ),
    # the background
    "BACKGROUND_NOT_PLAIN": _entry(
        "R", "背景杂乱或有阴影,请使用纯白背景。", "The background is not plain. Use plain white."
    ),
    "BACKGROUND_NOT_WHITE": _entry("R", "背景不是白色,请使用白色背景。", "The background is not white."),
    "BACKGROUND_UNSEEN": _entry("W", "可见背景太少,无法判断。", "Too little background is visible to judge."),
    "BACKGROUND_WHITENED": _entry("A", "浅色背景已处理为白色。", "The light background was made white."),
    "BACKGROUND_REPLACED": _entry(
        "W", "背景已替换为白色,请人工核对。", "The background was replaced by white; please review."
    ),
    # light, sharpness, features
    "BLURRED": _entry("RW", "照片模糊,请重新对焦拍摄。", "The photo is blurred."),
    "UNDER_EXPOSED": _entry("RW", "照片过暗。", "The photo is too dark."),
    "OVER_EXPOSED": _entry("RW", "照片过亮。", "The photo is too bright."),
    "UNEVEN_LIGHT": _entry("RW", "面部左右光线不均。", "The face is lit unevenly."),
    "SKIN_COLOUR_ODD": _entry(
        "W",
        "肤色异常,可能偏色或有遮挡。",
        "The skin colour looks unnatural: a colour cast or something covering the face.",
    ),
    "EYES_CLOSED": _entry("WA", "眼睛可能未睁开。", "The eyes may be closed."),
    "MOUTH_OPEN": _entry("W", "嘴部张开,应自然闭合。", "The mouth is open."),
    "FACE_OCCLUDED": _entry(
        "W", "眼部可能被墨镜、头发或其他物品遮挡。", "The eyes may be covered (dark glasses, hair)."
    ),
    # what was done
    "ROTATED": _entry("A", "照片方向已自动转正。", "The photo was turned upright."),
    "LEVELLED": _entry("A", "头部轻微倾斜,已自动校正。", "A slight tilt was corrected."),
    "ICC_IGNORED": _entry(
        "A", "颜色配置无法读取,按 sRGB 处理。", "The colour profile was unreadable; sRGB was assumed."
    ),
    "QUALITY_CHANGED": _entry(
        "A",
        "为满足文件大小,压缩质量为 {measured}。",
        "JPEG quality {measured} was needed to meet the file size.",
    ),
    "SIZE_UNREACHABLE": _entry(
        "R", "无法达到 {limit} 的文件大小要求,请更换照片。", "The file size {limit} cannot be reached."
    ),
    # what only a person can see
    "HEAD_COVERED": _entry("R", "未免冠。", "The head is covered.", by="person"),
    "GLARE_ON_GLASSES": _entry("R", "镜片反光。", "The glasses reflect light.", by="person"),
    "UNIFORM": _entry("R", "穿制服。", "A uniform is worn.", by="person"),
    "WRONG_PERSON": _entry("R", "非本人。", "The photo shows another person.", by="person"),
    "OUT_OF_DATE": _entry("R", "非近期照片。", "The photo is not recent.", by="person"),
    "RETOUCHED": _entry("R", "照片经过修饰。", "The photo has been retouched.", by="person"),
})  # fmt: skip


def find(
    code: str,
    *,
    level: Level | None = None,
    measured: float | None = None,
    limit: str | None = None,
    by: By = "code",
) -> Finding:
    """The finding of a code, its texts filled in. `level` chooses where the catalogue allows several; `by` is who found it.

    Raises:
        KeyError: no such code, or its text needs a number that was not given.
        ValueError: the code never has that level, or is not for `by` to raise.
    """
    entry = CATALOGUE[code]
    chosen = level or entry.levels[0]
    if chosen not in entry.levels or entry.by != by:
        raise ValueError(f"{code} is not raised by {by} at level {chosen}")
    return restored(code, chosen, measured, limit)


def restored(code: str, level: Level, measured: float | None, limit: str | None) -> Finding:
    """A finding as it was once written down, its texts filled in again.

    Raises:
        KeyError: no such code, or its text needs a number that was not given.
    """
    entry = CATALOGUE[code]
    given = {"measured": None if measured is None else f"{measured:g}", "limit": limit}
    words = {key: value for key, value in given.items() if value is not None}
    return Finding(code, level, measured, limit, entry.zh.format(**words), entry.en.format(**words))


def confirmed(finding: Finding) -> Finding:
    """What a program found, made a refusal by a person who looked."""
    return replace(finding, level="reject")


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Rejections, then warnings, then remarks; within a level in the order they were found."""
    return tuple(sorted(findings, key=lambda finding: _WORST_FIRST[finding.level]))


def reason_code(code: str) -> str:
    """The public reason code of a finding: `FILE_EMPTY` → `photo.file_empty`."""
    return f"photo.{code.lower()}"


def as_reason(finding: Finding) -> Reason:
    """A finding as every face shows it, pointing at the application's photo."""
    return Reason(
        code=reason_code(finding.code),
        zh=finding.zh,
        en=finding.en,
        pointer="/photo",
        level=finding.level,
        measured=finding.measured,
        limit=finding.limit,
    )


def document() -> str:
    """`docs/photo-findings.md`, whole."""
    lines = [
        "# Findings of a photo",
        "",
        "Generated from `pipeline/photo/findings.py` by `make docs`; a test compares the two. Do not edit.",
        "",
        "`{measured}` and `{limit}` are filled in. A code with two levels has the one its limit says. Those set by a person come from",
        "`zhika photo review refuse`.",
        "",
        "| code | level | set by | 中文 | English |",
        "|---|---|---|---|---|",
    ]
    for code, entry in CATALOGUE.items():
        lines.append(f"| `{reason_code(code)}` | {', '.join(entry.levels)} | {entry.by} | {entry.zh} | {entry.en} |")
    return "\n".join(lines) + "\n"
