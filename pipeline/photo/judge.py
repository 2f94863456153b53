"""Measures to findings: the profile's limits, the catalogue's words. Pure; sees numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pipeline.outcomes import Level
from pipeline.photo.findings import Finding, find
from pipeline.photo.profile import Background, Limits

Kind = Literal["unseen", "white", "near_white", "plain", "busy"]


def face(measures: Mapping[str, float], limits: Limits) -> Iterator[Finding]:
    """Findings on the face's size in the source and on how the head is held."""
    size, roll, yaw = measures["face_source_px"], abs(measures["roll_deg"]), abs(measures["yaw_deg"])
    if size < limits.face_px_reject:
        yield find("FACE_TOO_SMALL", measured=round(size), limit=f">= {limits.face_px_reject:g} px")
    elif size < limits.face_px_warn:
        yield find("FACE_UPSCALED", measured=round(size), limit=f">= {limits.face_px_warn:g} px")
    if measures["presence"] < limits.presence_clear:
        yield find("FACE_NOT_CLEAR", measured=_short(measures["presence"]), limit=f">= {limits.presence_clear:g}")
    if roll > limits.roll_reject_deg:
        yield find("TILTED", measured=round(roll, 1), limit=f"<= {limits.roll_reject_deg:g}°")
    if (level := _above(yaw, warn=limits.yaw_warn_deg, reject=limits.yaw_reject_deg)) is not None:
        yield find("NOT_FRONTAL", level=level, measured=round(yaw, 1), limit=f"<= {_limit(level, limits, 'yaw')}°")
    if not limits.pitch_note_min <= measures["pitch_ratio"] <= limits.pitch_note_max:
        allowed = f"{limits.pitch_note_min:g}-{limits.pitch_note_max:g}"
        yield find("HEAD_PITCHED", measured=_short(measures["pitch_ratio"]), limit=allowed)


def light(measures: Mapping[str, float], limits: Limits) -> Iterator[Finding]:
    """Findings on sharpness, exposure, colour, and what may cover the eyes."""
    sharp = measures["sharpness"]
    if (level := _above(-sharp, warn=-limits.sharpness_warn, reject=-limits.sharpness_reject)) is not None:
        wanted = limits.sharpness_reject if level == "reject" else limits.sharpness_warn
        yield find("BLURRED", level=level, measured=round(sharp, 1), limit=f">= {wanted:g}")
    yield from _exposure(measures, limits)
    uneven = measures["side_light"]
    if (level := _above(uneven, warn=limits.side_light_warn, reject=limits.side_light_reject)) is not None:
        limit = f"<= {_limit(level, limits, 'side_light')}"
        yield find("UNEVEN_LIGHT", level=level, measured=round(uneven, 1), limit=limit)
    if measures["colour"] < limits.colour_reject:
        yield find("NOT_COLOUR", measured=round(measures["colour"], 1), limit=f">= {limits.colour_reject:g}")
    elif not _skin(measures, limits):
        seen = f"a* {limits.skin_a_min:g}..{limits.skin_a_max:g}, b* {limits.skin_b_min:g}..{limits.skin_b_max:g}"
        yield find("SKIN_COLOUR_ODD", measured=round(measures["skin_a"], 1), limit=seen)
    if measures["eye_band_dark"] > limits.eye_band_warn:
        yield find("FACE_OCCLUDED", measured=_short(measures["eye_band_dark"]), limit=f"<= {limits.eye_band_warn:g}")


def features(measures: Mapping[str, float], limits: Limits) -> Iterator[Finding]:
    """Findings on eyes and mouth: never a refusal, since the mesh invents what it cannot see."""
    opening = measures["eye_opening"]
    if opening < limits.eye_opening_note:
        level: Level = "warn" if opening < limits.eye_opening_warn else "info"
        wanted = limits.eye_opening_warn if level == "warn" else limits.eye_opening_note
        yield find("EYES_CLOSED", level=level, measured=_short(opening), limit=f">= {wanted:g}")
    if measures["mouth_opening"] > limits.mouth_warn:
        yield find("MOUTH_OPEN", measured=_short(measures["mouth_opening"]), limit=f"<= {limits.mouth_warn:g}")


def background_kind(measures: Mapping[str, float], limits: Background) -> Kind:
    """What a background is by its measures."""
    if measures["background_px"] < limits.seen_min_px:
        return "unseen"
    plain = (
        measures["background_luma_sd"] <= limits.plain_luma_sd_max
        and measures["background_edge"] <= limits.plain_edge_max
        and measures["background_rim"] <= limits.plain_rim_max
        and measures["background_print"] <= limits.plain_print_max
    )
    if not plain:
        return "busy"
    spread = measures["background_spread"]
    if measures["background_luma_p5"] >= limits.white_luma_p5_min and spread <= limits.white_spread_max:
        return "white"
    near = measures["background_luma_mean"] >= limits.near_luma_mean_min and spread <= limits.near_spread_max
    return "near_white" if near else "plain"


def background(kind: Kind, measures: Mapping[str, float], limits: Background) -> Iterator[Finding]:
    """Findings on the background and what is done about it."""
    match kind:
        case "unseen":
            yield find("BACKGROUND_UNSEEN", measured=measures["background_px"], limit=f">= {limits.seen_min_px} px")
        case "busy":
            allowed = {
                "background_luma_sd": ("sd", limits.plain_luma_sd_max),
                "background_edge": ("edge", limits.plain_edge_max),
                "background_rim": ("border", limits.plain_rim_max),
                "background_print": ("print", limits.plain_print_max),
            }
            name, (word, most) = next((n, a) for n, a in allowed.items() if measures[n] > a[1])
            yield find("BACKGROUND_NOT_PLAIN", measured=round(measures[name], 3), limit=f"{word} <= {most:g}")
        case "near_white":
            yield find("BACKGROUND_WHITENED", measured=round(measures["background_luma_mean"], 1))
        case "plain":
            code = "BACKGROUND_REPLACED" if limits.replace else "BACKGROUND_NOT_WHITE"
            dark = measures["background_luma_mean"] < limits.near_luma_mean_min
            limit = f"mean >= {limits.near_luma_mean_min:g}" if dark else f"spread <= {limits.near_spread_max:g}"
            measured = measures["background_luma_mean" if dark else "background_spread"]
            yield find(code, measured=round(measured, 2), limit=limit)


def _exposure(measures: Mapping[str, float], limits: Limits) -> Iterator[Finding]:
    mean, dark, bright = measures["luma_mean"], measures["dark_share"], measures["bright_share"]
    sides = (
        ("UNDER_EXPOSED", -mean, -limits.dark_mean_warn, -limits.dark_mean_reject, "mean >= "),
        ("UNDER_EXPOSED", dark, limits.dark_share_warn, limits.dark_share_reject, "dark share <= "),
        ("OVER_EXPOSED", mean, limits.bright_mean_warn, limits.bright_mean_reject, "mean <= "),
        ("OVER_EXPOSED", bright, limits.bright_share_warn, limits.bright_share_reject, "bright share <= "),
    )
    found: dict[str, Finding] = {}
    for code, value, warn, reject, words in sides:
        level = _above(value, warn=warn, reject=reject)
        if level is not None and (code not in found or found[code].level != "reject"):
            limit = f"{words}{abs(reject if level == 'reject' else warn):g}"
            found[code] = find(code, level=level, measured=_short(abs(value)), limit=limit)
    yield from found.values()


def _skin(measures: Mapping[str, float], limits: Limits) -> bool:
    a, b = measures["skin_a"], measures["skin_b"]
    return limits.skin_a_min <= a <= limits.skin_a_max and limits.skin_b_min <= b <= limits.skin_b_max


def _above(value: float, *, warn: float, reject: float) -> Level | None:
    return "reject" if value > reject else "warn" if value > warn else None


def _limit(level: Level, limits: Limits, name: str) -> str:
    suffix = "_deg" if name == "yaw" else ""
    return f"{getattr(limits, f'{name}_{level}{suffix}'):g}"


def _short(value: float) -> float:
    return round(value, 3)
