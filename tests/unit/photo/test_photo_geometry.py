"""The finished picture obeys the national numbers, measured by marks set by hand and by nothing of the photo stage.

Where the portrait lies in the picture is told by its pixels; the marks then say how wide the face is and where eyes and hair
are. A mark is good to 4 px: whether an eye corner is where the lids or the skin folds meet is such a difference, constant over
all variations.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised
from tests.unit.photo.conftest import CONFIG, Make
from tests.unit.photo.portraits import (
    CHIN,
    EAR_JOINS,
    EYES,
    HAIR,
    PHOTOS,
    WHITE,
    cut,
    head,
    sample,
    turned,
    variation,
    written,
)
from tests.unit.photo.registration import Lie, locate
from tests.unit.photo.verdicts import assert_kept, codes, picture

VARIATIONS, CHUNK = 200, 40
MARK_PX = 4.0
MEASURE_PX = 5.0
"""How far the same face may be measured apart in two pictures of it."""
FACE = (380, 80, 605, 425)
"""The inside of the face in the portrait: what is looked for."""
LENGTHS = ("face_width_px", "eye_mid_x_px", "eye_to_bottom_px", "top_px")


def by_hand(made: Image.Image, *, mirrored: bool) -> tuple[Lie, dict[str, float]]:
    """Where the portrait lies, and the lengths of the national text by the marks."""
    wide = sample().width
    left, top, right, bottom = FACE
    lie = (
        locate(made, _mirror(), (wide - right, top, wide - left, bottom)) if mirrored else locate(made, sample(), FACE)
    )

    def at(mark: complex) -> complex:
        return lie.at(complex(wide - mark.real, mark.imag) if mirrored else mark)

    eyes = sum(at(corner) for eye in EYES for corner in eye) / 4
    return lie, {
        "face_width_px": abs(at(EAR_JOINS[0]) - at(EAR_JOINS[1])),
        "eye_mid_x_px": eyes.real,
        "eye_to_bottom_px": made.height - eyes.imag,
        "top_px": min(at(mark).imag for mark in HAIR),
        "chin_to_bottom_px": made.height - at(CHIN).imag,
    }


@cache
def _mirror() -> Image.Image:
    return sample().transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.rule("DL-16(2)")
@pytest.mark.parametrize("first", range(0, VARIATIONS, CHUNK))
def test_what_other_cameras_make_of_a_good_portrait_becomes_a_picture_within_the_limits(
    first: int, make: Make, profile: PhotoProfile
) -> None:
    face, head, eye = profile.face, profile.head, profile.eye
    accepted = 0
    for seed in range(first, first + CHUNK):
        upload = variation(seed)
        result = make(upload.data)
        if result.picture is None:
            continue
        accepted += 1
        lie, seen = by_hand(picture(result), mirrored=upload.mirrored)
        assert lie.likeness > 0.9, upload.told
        assert abs(math.degrees(cmath.phase(lie.turn))) < 2.5, upload.told
        assert face.width_min_px - MARK_PX <= seen["face_width_px"] <= face.width_max_px + MARK_PX, upload.told
        assert eye.x_min_px - MARK_PX <= seen["eye_mid_x_px"] <= eye.x_max_px + MARK_PX, upload.told
        assert seen["eye_to_bottom_px"] >= eye.bottom_min_px - MARK_PX, upload.told
        assert head.top_min_px - MARK_PX <= seen["top_px"] <= head.top_max_px + MARK_PX, upload.told
        assert seen["chin_to_bottom_px"] >= profile.layout.collar_min_px - MARK_PX, upload.told
        for name in LENGTHS:
            assert abs(result.measures[name] - seen[name]) <= MARK_PX + 2, (name, upload.told)
    assert accepted >= 0.95 * CHUNK


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_a_finished_picture_is_accepted_again_and_keeps_its_frame(
    first: int, make: Make, profile: PhotoProfile
) -> None:
    for seed in range(first, first + 10):
        upload = variation(seed)
        once = make(upload.data)
        if once.picture is None:
            continue
        twice = make(once.picture)
        assert_kept(twice, profile)
        before, _ = by_hand(picture(once), mirrored=upload.mirrored)
        after, _ = by_hand(picture(twice), mirrored=upload.mirrored)
        for mark in (*EAR_JOINS, CHIN, *HAIR):
            assert abs(before.at(mark) - after.at(mark)) < 0.5, upload.told
        for name in LENGTHS:
            assert abs(once.measures[name] - twice.measures[name]) <= MEASURE_PX, (name, upload.told)
        assert twice.geometry is not None
        assert twice.geometry.matrix == (1, 0, 0, 0, 1, 0), upload.told


@pytest.mark.parametrize(("degrees", "kept"), [(0, True), (2, True), (-2, True), (5, False), (-5, False)])
def test_a_picture_of_the_right_size_keeps_its_frame_only_if_it_is_level(degrees: int, kept: bool, make: Make) -> None:
    once = make((PHOTOS / WHITE).read_bytes())
    result = make(written(turned(picture(once), degrees), "PNG"))
    assert result.geometry is not None
    assert (result.geometry.matrix == (1, 0, 0, 0, 1, 0)) == kept
    assert ("LEVELLED" in codes(result)) == (not kept)


@pytest.mark.parametrize("moved", [(14, 0), (-40, 0), (0, -9), (0, 12)])
def test_a_picture_of_the_right_size_with_the_head_elsewhere_is_cut_anew(moved: tuple[int, int], make: Make) -> None:
    once = picture(make((PHOTOS / WHITE).read_bytes()))
    off = Image.new("RGB", once.size, (252, 252, 252))
    off.paste(once, moved)
    result = make(written(off, "PNG"))
    assert result.geometry is not None
    shift = complex(*result.geometry.on_source((0, 0)))
    assert (abs(shift) < 1e-9) == (moved == (14, 0))


def test_the_same_upload_gives_the_same_picture_in_any_process(make: Make) -> None:
    data = (PHOTOS / WHITE).read_bytes()
    first = make(data)
    assert first.picture is not None
    assert make(data).picture == first.picture
    script = (
        "import sys, hashlib; from pathlib import Path\n"
        "from pipeline.photo import faces; from pipeline.photo.normalise import normalise\n"
        "from pipeline.photo.profile import load_profile\n"
        "made = normalise(Path(sys.argv[1]).read_bytes(), profile=load_profile(Path(sys.argv[2])), vision=faces.load())\n"
        "print(hashlib.sha256(made.picture).hexdigest())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(PHOTOS / WHITE), str(CONFIG / "ssc-national.toml")],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert other.stdout.split()[-1] == hashlib.sha256(first.picture).hexdigest()


@pytest.mark.parametrize(
    ("enlarged", "around", "draft_scale"),
    [(2.4, (0, 0), 2), (1, (700, 700), 2), (0.9, (1100, 2100), 4), (4.6, (0, 0), 4)],
)
def test_a_large_photo_is_decoded_smaller_and_finer_again_where_the_face_needs_it(
    enlarged: float, around: tuple[int, int], draft_scale: int, make: Make
) -> None:
    """The portrait enlarged, or small in the middle of a wide white wall."""
    image = cut((215, 0, 775, 640))
    image = image.resize((round(image.width * enlarged), round(image.height * enlarged)), Image.Resampling.BICUBIC)
    wall = Image.new("RGB", (image.width + 2 * around[0], image.height + around[1]), (252, 252, 252))
    wall.paste(image, around)

    result = make(written(wall))

    assert result.measures["draft_scale"] == draft_scale
    assert result.measures["face_source_px"] == pytest.approx(234 * enlarged, rel=0.04)
    assert result.measures["sharpness"] > 0.5 * make(written(head())).measures["sharpness"]
    assert result.geometry is not None
    assert result.geometry.source_px == wall.size
    lie, seen = by_hand(picture(result), mirrored=False)
    assert abs(seen["face_width_px"] - 207) <= MARK_PX + 1
    for mark in (*EAR_JOINS, CHIN, HAIR[3]):
        there = complex(*result.geometry.on_source((lie.at(mark).real, lie.at(mark).imag)))
        assert abs(there - ((mark - 215) * enlarged + complex(*around))) < 2 * max(1, enlarged), mark


def test_the_geometry_leads_from_the_picture_back_to_the_upload(make: Make) -> None:
    """The marks, seen in the upload, lie where the matrix says."""
    result = make((PHOTOS / WHITE).read_bytes())
    assert result.geometry is not None
    lie, _ = by_hand(picture(result), mirrored=False)
    assert result.geometry.source_px == sample().size
    for mark in (*EAR_JOINS, CHIN, HAIR[3]):
        seen = lie.at(mark)
        assert abs(complex(*result.geometry.on_source((seen.real, seen.imag))) - mark) < 2


@pytest.mark.parametrize("name", ["derived/exif6.jpg", "derived/sideways_noexif.jpg", "derived/turned.heic"])
def test_the_geometry_of_a_turned_upload_is_that_of_the_upright_one(name: str, make: Make) -> None:
    result: Normalised = make((PHOTOS / name).read_bytes())
    assert result.geometry is not None
    width, height = result.geometry.source_px
    assert width < height
    assert result.geometry.turn_deg == (90 if name == "derived/sideways_noexif.jpg" else 0)
    assert ("ROTATED" in codes(result)) == bool(result.geometry.turn_deg)
    for eye in result.geometry.eyes:
        x, y = result.geometry.on_source(eye)
        assert 0.3 * width < x < 0.7 * width
        assert y < 0.4 * height
