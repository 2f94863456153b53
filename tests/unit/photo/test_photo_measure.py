"""Statistics, colours and structure against numpy and against published values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.photo import measure
from pipeline.photo.background import behind
from pipeline.photo.layout import Room
from pipeline.photo.measure import lab
from pipeline.photo.person import Person
from pipeline.photo.pose import CHEEK_LEFT, CHEEK_RIGHT, CHIN, EAR_LEFT, EAR_RIGHT, EYE_LEFT, EYE_RIGHT, Pose
from pipeline.photo.tally import median_colour, spread, step_from, tally
from pipeline.photo.vision import PERSON_SIDE


def grained(seed: int, shape: tuple[int, ...] = (20, 30)) -> NDArray[np.uint8]:
    """Values of which some are rare."""
    dice = np.random.default_rng(seed)
    return np.clip(dice.normal(dice.uniform(0, 255), dice.uniform(0, 90), shape), 0, 255).astype(np.uint8)


seeds = st.integers(0, 10_000)


# -------------------------------------------------------------------------------------------------------------- histograms


@given(seed=seeds, first=st.integers(0, 255), last=st.integers(0, 255), share=st.floats(0.001, 1))
def test_a_tally_is_what_numpy_says(seed: int, first: int, last: int, share: float) -> None:
    values, marked = grained(seed), np.random.default_rng(seed + 1).random((20, 30)) < 0.4
    for mask, kept in ((None, values.ravel()), (Image.fromarray(marked.astype(np.uint8) * 255), values[marked])):
        (seen,) = tally(Image.fromarray(values), mask)
        assert seen.size == kept.size
        assert seen.mean == pytest.approx(kept.mean())
        assert seen.sd == pytest.approx(kept.std(), abs=1e-6)
        assert seen.share(first, last) == pytest.approx(((kept >= first) & (kept <= last)).mean())
        least = seen.percentile(share)
        assert (kept <= least).mean() >= share - 1e-9
        assert least == 0 or (kept < least).mean() < share + 1e-9


def test_a_tally_of_nothing_is_no_error() -> None:
    (seen,) = tally(Image.new("L", (4, 4), 9), Image.new("L", (4, 4), 0))
    assert (seen.size, seen.mean, seen.sd, seen.share(0, 255)) == (0, 0, 0, 0)


@given(seed=seeds)
def test_colours_are_what_numpy_says(seed: int) -> None:
    values = grained(seed, (12, 14, 3)).astype(np.int16)
    image = Image.fromarray(values.astype(np.uint8))
    assert np.array_equal(np.asarray(spread(image)), values.max(axis=2) - values.min(axis=2))
    assert np.array_equal(np.asarray(step_from(image, (9, 80, 200))), np.abs(values - (9, 80, 200)).max(axis=2))
    middle = np.quantile(values.reshape(-1, 3), 0.5, axis=0, method="inverted_cdf")
    assert median_colour(image) == tuple(int(v) for v in middle)


# ------------------------------------------------------------------------------------------------------------------ colour


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 0), (97.14, -21.55, 94.48)),
        ((1, 1, 1), (0.27, 0, 0)),
    ],
)
def test_lab_values_are_the_published_ones(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert lab(rgb) == pytest.approx(expected, abs=0.06)


@given(value=st.floats(0, 255))
def test_grey_has_no_colour(value: float) -> None:
    lightness, a, b = lab((value, value, value))
    assert 0 <= lightness <= 100.001
    assert (a, b) == pytest.approx((0, 0), abs=0.03)


# -------------------------------------------------------------------------------------------- a drawn face with known numbers


def pose() -> Pose:
    """A face 200 wide in a picture of 358×441: eyes at (179, 180), chin 180 below, cheeks apart."""
    points = np.full((468, 2), 179, np.float32)
    for number, at in {
        EYE_LEFT[0]: (115, 180), EYE_LEFT[1]: (155, 180), EYE_RIGHT[0]: (203, 180), EYE_RIGHT[1]: (243, 180),
        EAR_LEFT: (79, 200), EAR_RIGHT: (279, 200), CHIN: (179, 360),
        CHEEK_LEFT[0]: (125, 240), CHEEK_LEFT[1]: (135, 250), CHEEK_RIGHT[0]: (225, 240), CHEEK_RIGHT[1]: (235, 250),
    }.items():  # fmt: skip
        points[number] = at
    return Pose(points)


def lit(image: Image.Image) -> dict[str, float]:
    return measure.light(image, image.convert("L"), pose())


def test_an_even_face_has_the_numbers_of_its_colour() -> None:
    seen = lit(Image.new("RGB", (358, 441), (200, 150, 120)))
    grey = Image.new("RGB", (1, 1), (200, 150, 120)).convert("L").getpixel((0, 0))
    assert seen["luma_mean"] == pytest.approx(grey / 255)  # type: ignore[operator]
    assert (seen["sharpness"], seen["side_light"], seen["dark_share"], seen["bright_share"]) == (0, 0, 0, 0)
    assert seen["colour"] == 80
    assert (seen["skin_a"], seen["skin_b"]) == pytest.approx(lab((200, 150, 120))[1:])
    assert seen["eye_band_dark"] == 0


def test_light_counts_inside_the_face_only() -> None:
    """0.41 widths to the sides, from 0.29 above the eyes to 0.95 of the way to the chin."""
    image = Image.new("RGB", (358, 441), "white")
    image.paste((20, 20, 20), (97, 122, 261, 351))
    seen = lit(image)
    assert seen["dark_share"] == 1
    assert seen["bright_share"] == 0
    for box in ((0, 0, 97, 441), (261, 0, 358, 441), (0, 0, 358, 122), (0, 351, 358, 441)):
        image.paste((0, 0, 0), box)
    assert lit(image) == seen


def test_the_limits_of_dark_and_bright_are_counted_in() -> None:
    for value, share in ((25, "dark_share"), (247, "bright_share")):
        step = 1 if share == "dark_share" else -1
        assert lit(Image.new("RGB", (358, 441), (value,) * 3))[share] == 1
        assert lit(Image.new("RGB", (358, 441), (value + step,) * 3))[share] == 0


def test_side_light_is_the_difference_of_the_cheeks() -> None:
    image = Image.new("RGB", (358, 441), (200, 150, 120))
    image.paste((100, 75, 60), (179, 0, 358, 441))
    expected = lab((200, 150, 120))[0] - lab((100, 75, 60))[0]
    assert lit(image)["side_light"] == pytest.approx(expected)
    assert lit(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))["side_light"] == pytest.approx(expected)


def test_the_eye_band_lies_across_the_eyes() -> None:
    image = Image.new("RGB", (358, 441), (200, 150, 120))
    image.paste((49, 49, 49), (115, 168, 243, 192))
    assert lit(image)["eye_band_dark"] == 1
    image.paste((50, 50, 50), (115, 168, 243, 180))
    assert lit(image)["eye_band_dark"] == pytest.approx(0.5)


def test_sharpness_is_the_variance_of_the_laplacian_and_does_not_count_light() -> None:
    noise = np.random.default_rng(1).normal(0, 12, (441, 358))
    image = Image.fromarray(np.clip(150 + noise, 0, 255).astype(np.uint8)).convert("RGB")
    dim = image.point([v // 2 for v in range(256)] * 3)
    grey = np.asarray(image.convert("L"), float)[122:351, 97:261]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    expected = (4 * grey[1:-1, 1:-1] - around).var() * (150 / grey.mean()) ** 2
    assert lit(image)["sharpness"] == pytest.approx(expected, rel=1e-3)
    assert lit(dim)["sharpness"] == pytest.approx(expected, rel=0.05)
    assert lit(image.filter(ImageFilter.GaussianBlur(2)))["sharpness"] < expected / 50


def test_a_background_is_measured_where_it_is_marked() -> None:
    image = Image.new("RGB", (358, 441), (10, 10, 10))
    image.paste((240, 250, 244), (0, 0, 100, 100))
    seen = Image.new("L", (358, 441), 0)
    seen.paste(255, (0, 0, 98, 98))
    numbers = measure.background(image, image.convert("L"), seen)
    assert numbers["background_px"] == 98 * 98
    assert numbers["background_spread"] == 10
    assert (numbers["background_luma_sd"], numbers["background_edge"]) == (0, 0)
    assert numbers["background_luma_p5"] == numbers["background_luma_mean"]
    none = measure.background(image, image.convert("L"), Image.new("L", image.size, 0))
    assert none == {"background_px": 0}


def test_background_is_what_is_free_inside_the_photo_and_above_the_chin() -> None:
    """The tile covers the picture at half its size, a free stripe at its left."""
    free = np.zeros((PERSON_SIDE, PERSON_SIDE), np.bool_)
    free[:, :60] = True
    person = Person(
        mask=np.zeros_like(free, np.float32), inside=np.ones_like(free), free=free, matrix=(2, 0, 0, 0, 2, 0),
        room=Room(crown=1, chin=0.9, below=3, left=2, right=2),
    )  # fmt: skip
    seen = np.asarray(behind(person, pose(), (1, 0, 0, 0, 1, 0), (358, 441)))
    assert seen.shape == (441, 358)
    assert set(np.unique(seen)) == {0, 255}
    assert (seen[:360, :116] == 255).all()
    assert (seen[:, 124:] == 0).all()
    assert (seen[360:] == 0).all()


def test_an_edge_is_the_sobel_magnitude() -> None:
    ramp = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (300, 1)))
    everywhere = Image.new("L", ramp.size, 255)
    assert measure.background(ramp.convert("RGB"), ramp, everywhere)["background_edge"] == pytest.approx(8)
    down = ramp.transpose(Image.Transpose.ROTATE_90)
    assert measure.background(down.convert("RGB"), down, everywhere.transpose(Image.Transpose.ROTATE_90))[
        "background_edge"
    ] == pytest.approx(8)


@given(
    shift=st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)), scale=st.floats(0.001, 40), size=st.integers(3, 60)
)
def test_a_face_anywhere_is_measured_without_an_error(shift: tuple[float, float], scale: float, size: int) -> None:
    image = Image.new("RGB", (size, size), (120, 90, 70))
    moved = pose().moved((scale, 0, shift[0], 0, scale, shift[1]))
    assert all(np.isfinite(value) for value in measure.light(image, image.convert("L"), moved).values())
