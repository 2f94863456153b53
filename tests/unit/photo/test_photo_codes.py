"""Every code that the software may raise is raised by a photo made for it, at each of its levels, and refuses for nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.outcomes import Level
from pipeline.photo.findings import CATALOGUE
from pipeline.photo.normalise import normalise
from pipeline.photo.pose import EYE_LEFT, EYE_RIGHT, LIDS_LEFT, LIDS_RIGHT, NOSE
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised
from pipeline.photo.vision import Mesh, Pixels, Points, Vision
from tests.unit.photo.forgeries import claiming_png, with_scans
from tests.unit.photo.portraits import before, behind, beside, cut, haired, head, person_as, turned, written
from tests.unit.photo.verdicts import ALIKE, assert_kept, codes, levels, picture, unlike
from tests.unit.photo.visions import Altered, Mask, Repeating

Code = tuple[str, Level]
SIZE = (560, 540)


@dataclass(frozen=True, slots=True)
class Studio:
    """Where photos are taken: a profile and the models, each to be exchanged for one photo."""

    profile: PhotoProfile
    vision: Vision

    def make(
        self, photo: Image.Image | bytes, *, profile: PhotoProfile | None = None, vision: Vision | None = None
    ) -> Normalised:
        data = photo if isinstance(photo, bytes) else written(photo, "PNG")
        return normalise(data, profile=profile or self.profile, vision=vision or self.vision)

    def seen_as(
        self, *, mesh: Callable[[Mesh], Mesh] = lambda m: m, mask: Callable[[Mask], Mask] = lambda m: m
    ) -> Vision:
        return Altered(vision=self.vision, mesh_as=mesh, mask_as=mask)


@pytest.fixture(scope="session")
def studio(profile: PhotoProfile, vision: Vision) -> Studio:
    return Studio(profile, vision)


# ---------------------------------------------------------------------------------------------------------- the photos


def lit(factor: float) -> Image.Image:
    """The person brighter or darker, the background as it was."""
    return person_as(head().point(lambda value: min(255, round(value * factor))))


def lit_from_the_left(fall: int) -> Image.Image:
    """The person darker towards the right of the face by up to `fall`."""
    ramp = Image.new("L", SIZE, 255)
    ramp.paste(0, (0, 0, 160, 540))
    ramp.paste(Image.linear_gradient("L").rotate(90).resize((240, 540)), (160, 0))
    shade = ramp.point(lambda value: value * fall // 255)
    return person_as(ImageChops.subtract(head(), Image.merge("RGB", (shade, shade, shade))))


def bluish() -> Image.Image:
    red, green, blue = head().split()
    return person_as(
        Image.merge("RGB", (red.point(lambda v: v // 2), green, blue.point(lambda v: min(255, v * 3 // 2))))
    )


def with_a_bar_over_the_eyes() -> Image.Image:
    image = head()
    ImageDraw.Draw(image).rectangle((180, 200, 380, 230), fill=(12, 12, 14))
    return image


def before_colour(*colour: int) -> Image.Image:
    return before(Image.new("RGB", SIZE, tuple(colour)))


def before_stripes() -> Image.Image:
    stripes = Image.new("RGB", SIZE, "white")
    for x in range(0, 560, 40):
        ImageDraw.Draw(stripes).rectangle((x, 0, x + 15, 540), fill=(120, 120, 200))
    return before(stripes)


def resized(scale: float) -> Image.Image:
    return head().resize((round(560 * scale), round(540 * scale)), Image.Resampling.LANCZOS)


def in_noisy_clothes() -> Image.Image:
    image = head()
    image.paste(Image.frombytes("RGB", (560, 110), random.Random(1).randbytes(3 * 560 * 110)), (0, 430))
    return image


def animated() -> bytes:
    return written(head(), "PNG", save_all=True, append_images=[Image.new("RGB", SIZE)])


# ------------------------------------------------------------------------------------------------- what the models might see


def nose_moved(across: float, down: float) -> Callable[[Mesh], Mesh]:
    """The nose's tip elsewhere, by parts of the crop's face."""

    def moved(mesh: Mesh) -> Mesh:
        points = mesh.points.copy()
        points[NOSE] += np.array((across, down), np.float32) * _width(points)
        return replace(mesh, points=points)

    return moved


def lids_apart(opening: float) -> Callable[[Mesh], Mesh]:
    """Both eyes open by a part of their width."""

    def moved(mesh: Mesh) -> Mesh:
        points = mesh.points.copy()
        for (upper, lower), corners in ((LIDS_LEFT, EYE_LEFT), (LIDS_RIGHT, EYE_RIGHT)):
            middle = (points[corners[0]] + points[corners[1]]) / 2
            half = np.array((0, opening * np.linalg.norm(points[corners[1]] - points[corners[0]]) / 2), np.float32)
            points[upper], points[lower] = middle - half, middle + half
        return replace(mesh, points=points)

    return moved


def _width(points: Points) -> float:
    return float(np.linalg.norm(points[454] - points[234]))


def unsure(mesh: Mesh) -> Mesh:
    return replace(mesh, presence=0.3)


def everywhere(mask: Mask) -> Mask:
    """A person as wide as the picture, up to a little above his own hair."""
    filled = np.zeros_like(mask)
    filled[int(np.flatnonzero((mask > 0.5).sum(axis=1) > 8)[0]) - 1 :] = 1
    return filled


class Hungry(Repeating):
    def faces(self, pixels: Pixels) -> NoReturn:
        raise MemoryError


# ------------------------------------------------------------------------------------------------------------ the examples

EXAMPLES: Mapping[Code, Callable[[Studio], Normalised]] = {
    ("FILE_EMPTY", "reject"): lambda s: s.make(b""),
    ("FILE_TOO_LARGE", "reject"): lambda s: s.make(bytes(21 << 20)),
    ("FORMAT_UNSUPPORTED", "reject"): lambda s: s.make(written(head(), "GIF")),
    ("FILE_CORRUPT", "reject"): lambda s: s.make(b"\xff\xd8\xff\xe0\0\1\xff\xd9"),
    ("FILE_TRUNCATED", "reject"): lambda s: s.make(written(head())[:-2]),
    ("ANIMATED", "reject"): lambda s: s.make(animated()),
    ("TOO_MANY_PIXELS", "reject"): lambda s: s.make(claiming_png(written(head(), "PNG"), 6000, 6000)),
    ("TOO_MANY_SCANS", "reject"): lambda s: s.make(with_scans(written(head()), 65)),
    ("IMAGE_TOO_SMALL", "reject"): lambda s: s.make(resized(0.35)),
    ("COLOUR_MODE_UNSUPPORTED", "reject"): lambda s: s.make(written(head().convert("CMYK"))),
    ("NOT_COLOUR", "reject"): lambda s: s.make(head().convert("L").convert("RGB")),
    ("PROCESSING_LIMIT", "reject"): lambda s: s.make(head(), vision=Hungry(None)),  # type: ignore[arg-type]
    ("NO_FACE", "reject"): lambda s: s.make(Image.new("RGB", SIZE, "white")),
    ("SEVERAL_FACES", "reject"): lambda s: s.make(beside(0.5, (1000, 200), (1300, 540))),
    ("OTHER_FACE_BEHIND", "warn"): lambda s: s.make(beside(0.25, (85, 425))),
    ("OTHER_FACE_BEHIND", "info"): lambda s: s.make(beside(0.25, (1000, 200), (1300, 540))),
    ("FACE_TOO_SMALL", "reject"): lambda s: s.make(resized(0.45)),
    ("FACE_UPSCALED", "warn"): lambda s: s.make(resized(0.6)),
    ("FACE_NOT_CLEAR", "reject"): lambda s: s.make(head(), vision=s.seen_as(mesh=unsure)),
    ("TILTED", "reject"): lambda s: s.make(turned(head(), 13)),
    ("NOT_FRONTAL", "reject"): lambda s: s.make(head(), vision=s.seen_as(mesh=nose_moved(0.25, 0))),
    ("NOT_FRONTAL", "warn"): lambda s: s.make(head(), vision=s.seen_as(mesh=nose_moved(0.1, 0))),
    ("HEAD_PITCHED", "info"): lambda s: s.make(head(), vision=s.seen_as(mesh=nose_moved(0, 0.3))),
    ("HEAD_CROPPED", "reject"): lambda s: s.make(cut((215, 60, 775, 540))),
    ("SIDES_CROPPED", "reject"): lambda s: s.make(cut((215, 0, 610, 700))),
    ("SHOULDERS_CROPPED", "reject"): lambda s: s.make(cut((215, 0, 775, 440))),
    ("HAIR_CUT", "info"): lambda s: s.make(haired(150)),
    ("BACKGROUND_NOT_PLAIN", "reject"): lambda s: s.make(before_stripes()),
    ("BACKGROUND_NOT_WHITE", "reject"): lambda s: s.make(before_colour(90, 140, 220)),
    ("BACKGROUND_UNSEEN", "warn"): lambda s: s.make(head(), vision=s.seen_as(mask=everywhere)),
    ("BACKGROUND_WHITENED", "info"): lambda s: s.make(before_colour(225, 226, 228)),
    ("BACKGROUND_REPLACED", "warn"): lambda s: s.make(before_colour(90, 140, 220), profile=replacing(s.profile)),
    ("BLURRED", "reject"): lambda s: s.make(head().filter(ImageFilter.GaussianBlur(2))),
    ("BLURRED", "warn"): lambda s: s.make(head().filter(ImageFilter.GaussianBlur(1.1))),
    ("UNDER_EXPOSED", "reject"): lambda s: s.make(lit(0.25)),
    ("UNDER_EXPOSED", "warn"): lambda s: s.make(lit(0.37)),
    ("OVER_EXPOSED", "reject"): lambda s: s.make(lit(2)),
    ("OVER_EXPOSED", "warn"): lambda s: s.make(lit(1.5)),
    ("UNEVEN_LIGHT", "reject"): lambda s: s.make(lit_from_the_left(150)),
    ("UNEVEN_LIGHT", "warn"): lambda s: s.make(lit_from_the_left(85)),
    ("SKIN_COLOUR_ODD", "warn"): lambda s: s.make(bluish()),
    ("EYES_CLOSED", "warn"): lambda s: s.make(head(), vision=s.seen_as(mesh=lids_apart(0.06))),
    ("EYES_CLOSED", "info"): lambda s: s.make(head(), vision=s.seen_as(mesh=lids_apart(0.13))),
    ("MOUTH_OPEN", "warn"): lambda s: s.make(head()),
    ("FACE_OCCLUDED", "warn"): lambda s: s.make(with_a_bar_over_the_eyes()),
    ("ROTATED", "info"): lambda s: s.make(head().transpose(Image.Transpose.ROTATE_90)),
    ("LEVELLED", "info"): lambda s: s.make(turned(head(), 6)),
    ("ICC_IGNORED", "info"): lambda s: s.make(written(head(), icc_profile=b"no profile")),
    ("QUALITY_CHANGED", "info"): lambda s: s.make(in_noisy_clothes()),
    ("SIZE_UNREACHABLE", "reject"): lambda s: s.make(head(), profile=with_window(s.profile, 100, 4000)),
}

ALSO: Mapping[str, set[str]] = {"SIDES_CROPPED": {"SHOULDERS_CROPPED"}}
"""A face made as wide as may be, so that its frame fits between the sides, leaves no room under this chin."""


def replacing(profile: PhotoProfile) -> PhotoProfile:
    return replace(profile, background=replace(profile.background, replace=True))


def with_window(profile: PhotoProfile, least: int, most: int) -> PhotoProfile:
    return replace(profile, file=replace(profile.file, bytes_min=least, bytes_max=most))


def test_there_is_an_example_of_every_code_at_every_level() -> None:
    raised = {(code, level) for code, entry in CATALOGUE.items() if entry.by == "code" for level in entry.levels}
    assert EXAMPLES.keys() == raised


@pytest.mark.parametrize("code", EXAMPLES, ids="-".join)
def test_a_photo_made_for_a_code_raises_it_and_is_refused_for_nothing_else(code: Code, studio: Studio) -> None:
    result = EXAMPLES[code](studio)

    assert_kept(result, studio.profile)
    assert code in levels(result)
    refused_for = {finding.code for finding in result.rejections} - ALSO.get(code[0], set())
    assert refused_for == ({code[0]} if code[1] == "reject" else set())
    (finding,) = (finding for finding in result.findings if (finding.code, finding.level) == code)
    for text, pattern in ((finding.zh, CATALOGUE[code[0]].zh), (finding.en, CATALOGUE[code[0]].en)):
        assert "{" not in text
        assert "{measured}" not in pattern or f"{finding.measured:g}" in text
        assert "{limit}" not in pattern or str(finding.limit) in text


# ------------------------------------------------------------------------------------------------------------- the details


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_photo_on_its_side_becomes_the_same_picture(degrees: int, studio: Studio) -> None:
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    result = studio.make(head().transpose(turns[degrees]))
    assert {f.code: f.measured for f in result.findings}["ROTATED"] == degrees
    assert picture(result).tobytes() == picture(studio.make(head())).tobytes()


@pytest.mark.parametrize(
    ("degrees", "code"), [(0, None), (1, None), (3, "LEVELLED"), (-3, "LEVELLED"), (9, "LEVELLED"), (13, "TILTED"), (-15, "TILTED")]
)  # fmt: skip
def test_a_head_is_levelled_up_to_its_limit_and_refused_beyond(degrees: int, code: str | None, studio: Studio) -> None:
    result = studio.make(turned(head(), degrees))
    assert codes(result) & {"LEVELLED", "TILTED"} == ({code} if code else set())
    assert abs(result.measures["roll_deg"] - degrees) < 2


@pytest.mark.parametrize(("degrees", "turned_by", "left"), [(60, 270, -30), (-50, 90, 40), (150, 180, -30)])
def test_a_head_on_its_side_is_turned_by_the_nearest_quarter_first(
    degrees: int, turned_by: int, left: int, studio: Studio
) -> None:
    result = studio.make(turned(head(), degrees))
    assert codes(result) >= {"ROTATED", "TILTED"}
    assert result.geometry is not None
    assert result.geometry.turn_deg == turned_by
    assert result.measures["roll_deg"] == pytest.approx(left, abs=2.5)


@pytest.mark.parametrize(
    ("grey", "background", "code"),
    [(252, "kept", None), (244, "kept", None), (225, "whitened", "BACKGROUND_WHITENED"),
     (206, "whitened", "BACKGROUND_WHITENED"), (190, "kept", "BACKGROUND_NOT_WHITE")],
)  # fmt: skip
def test_a_light_background_becomes_white_and_a_dark_one_is_refused(
    grey: int, background: str, code: str | None, studio: Studio
) -> None:
    result = studio.make(before_colour(grey, grey, grey))
    assert result.background == background
    assert codes(result) & {"BACKGROUND_WHITENED", "BACKGROUND_NOT_WHITE", "BACKGROUND_NOT_PLAIN"} == (
        {code} if code else set()
    )
    if result.picture is not None:
        made = picture(result)
        corners = [made.getpixel(at) for at in ((4, 4), (353, 4), (4, 150), (353, 150))]
        floor = 254 if background == "whitened" else grey - 4
        assert all(min(corner) >= floor for corner in corners)  # type: ignore[arg-type]


@pytest.mark.parametrize("colour", [(255, 255, 225), (235, 245, 255), (252, 236, 236)])
def test_a_tinted_background_is_not_white(colour: tuple[int, int, int], studio: Studio) -> None:
    assert "BACKGROUND_NOT_WHITE" in codes(studio.make(before_colour(*colour)))


def test_a_replaced_background_is_white_and_the_person_stays(studio: Studio) -> None:
    result = studio.make(before_colour(90, 140, 220), profile=replacing(studio.profile))
    assert result.background == "replaced"
    made, plain = picture(result), picture(studio.make(head()))
    assert all(min(made.getpixel(at)) >= 250 for at in ((4, 4), (353, 4), (20, 200)))  # type: ignore[arg-type]
    assert unlike(made, plain) < ALIKE


def test_a_busy_background_is_never_replaced(studio: Studio) -> None:
    result = studio.make(before_stripes(), profile=replacing(studio.profile))
    assert "BACKGROUND_NOT_PLAIN" in codes(result)
    assert result.picture is None


@pytest.mark.parametrize("above_px", [20, 60, 80])
def test_high_hair_makes_room_before_it_is_cut(above_px: int, studio: Studio) -> None:
    result = studio.make(haired(above_px))
    limits = studio.profile
    assert "HAIR_CUT" not in codes(result)
    assert limits.head.top_min_px <= result.measures["top_px"] <= limits.head.top_max_px
    assert result.measures["eye_to_bottom_px"] >= limits.eye.bottom_min_px
    assert limits.face.width_min_px <= result.measures["face_width_px"] <= limits.face.width_target_px + 0.1
    first = int(np.flatnonzero(np.asarray(picture(result).convert("L"))[:, 170:190].min(axis=1) < 128)[0])
    assert abs(first - result.measures["top_px"]) < 4


def test_what_stands_out_against_a_plain_background_above_the_hair_belongs_to_the_head(studio: Studio) -> None:
    """Too thin for the person's mask."""
    image = cut((215, -100, 775, 540))
    ImageDraw.Draw(image).rectangle((268, 70, 276, 135), fill=(200, 30, 40))
    result = studio.make(image)
    column = np.asarray(picture(result).getchannel("G"))[:, 170:188].min(axis=1)
    assert int(np.flatnonzero(column < 128)[0]) == pytest.approx(result.measures["top_px"], abs=3)


def test_hair_that_is_cut_leaves_the_eyes_where_they_must_be(studio: Studio) -> None:
    result = studio.make(haired(150))
    assert result.measures["eye_to_bottom_px"] >= 207
    assert result.measures["top_px"] < 0
    assert np.asarray(picture(result).convert("L"))[0, 170:190].max() < 128


def test_all_findings_come_together_so_that_one_correction_is_enough(studio: Studio) -> None:
    dark = Image.composite(before_stripes(), before_stripes().point(lambda value: value // 6), behind(head()))
    result = studio.make(turned(dark, 14))
    assert codes(result) >= {"TILTED", "BACKGROUND_NOT_PLAIN", "UNDER_EXPOSED"}
    assert result.geometry is not None
    assert result.measures["face_width_px"] > 0


def test_two_people_are_refused_whoever_is_larger(studio: Studio) -> None:
    pair = beside(1, (900, 30), (1300, 540))
    for photo in (pair, pair.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        assert "SEVERAL_FACES" in codes(studio.make(photo))
