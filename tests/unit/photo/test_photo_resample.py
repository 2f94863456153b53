"""One view, two ways to make it: they agree, and what lies outside the image is white."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.photo.pose import similarity
from pipeline.photo.resample import Quality, view

BARELY = 1e-5
"""Turned by less than a thousandth of a degree: another way through the code, the same picture."""


def ramp(side: int, *, steps: int) -> Image.Image:
    """A square whose red grows by one every `steps` pixels to the right, whose green downwards."""
    y, x = np.mgrid[0:side, 0:side] // steps
    return Image.fromarray(np.stack((x, y, x), axis=-1).astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.4, 5), left=st.floats(0, 40), top=st.floats(0, 40), quality=st.sampled_from(["fine", "smooth"])
)
def test_a_level_view_and_a_barely_turned_one_agree(scale: float, left: float, top: float, quality: Quality) -> None:
    image = ramp(400, steps=2)
    size = (int(300 / scale), int(280 / scale))
    level = view(image, (scale, 0, left, 0, scale, top), size, quality=quality)
    turned = view(image, (scale, BARELY, left, -BARELY, scale, top), size, quality=quality)
    apart = np.abs(np.asarray(level, int) - np.asarray(turned, int))[2:-2, 2:-2]
    assert apart.max(initial=0) <= 2


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.3, 4), turn=st.just(0.0) | st.floats(-180, 180),
    quality=st.sampled_from(["fine", "smooth", "quick"]),
)  # fmt: skip
def test_each_pixel_shows_the_point_its_matrix_names(scale: float, turn: float, quality: Quality) -> None:
    image = ramp(250, steps=1)
    size = (40, 40)
    matrix = similarity(scale=scale, turn_deg=turn, onto=(125, 125), origin=(20, 20))
    seen = np.asarray(view(image, matrix, size, quality=quality), float)[2:-2, 2:-2]
    y, x = np.mgrid[2:38, 2:38] + 0.5  # a pixel's middle; the value there is its number
    a, b, c, d, e, f = matrix
    allowed = 1.3 + (scale / 2 if quality == "quick" else 0)
    assert np.abs(seen[..., 0] - (a * x + b * y + c - 0.5)).max() <= allowed
    assert np.abs(seen[..., 1] - (d * x + e * y + f - 0.5)).max() <= allowed


@pytest.mark.parametrize("quality", ["fine", "smooth", "quick"])
@pytest.mark.parametrize("turn", [0, 7, 90, 180])
@pytest.mark.parametrize("scale", [0.5, 1, 3.3])
def test_what_lies_outside_is_white(quality: Quality, turn: float, scale: float) -> None:
    image = Image.new("RGB", (200, 200), (10, 20, 30))
    matrix = similarity(scale=scale, turn_deg=turn, onto=(100, 100), origin=(300, 300))
    seen = view(image, matrix, (600, 600), quality=quality)
    half = 100 / scale
    assert seen.getpixel((300, 300)) == (10, 20, 30)
    assert seen.getpixel((2, 2)) == (255, 255, 255)
    reach = half * 1.5 + 3
    assert all(seen.getpixel((round(300 + sx * reach), 300)) == (255, 255, 255) for sx in (-1, 1) if 300 + reach < 600)
    dark = int((np.asarray(seen)[..., 0] < 128).sum())
    assert dark == pytest.approx((2 * half) ** 2, rel=0.06)


@pytest.mark.parametrize("matrix", [(1, 0, 900, 0, 1, 900), (4, 1, 9000, -1, 4, 9000), (4, 0, -9000, 0, 4, 0)])
def test_a_view_beside_the_image_is_white(matrix: tuple[float, float, float, float, float, float]) -> None:
    seen = view(Image.new("RGB", (100, 100), "black"), matrix, (50, 40))
    assert seen.getcolors() == [(2000, (255, 255, 255))]


def test_another_colour_may_lie_outside() -> None:
    seen = view(Image.new("L", (10, 10), 255), (1, 0, -5, 0, 1, -5), (20, 20), outside=0)
    assert (seen.getpixel((0, 0)), seen.getpixel((9, 9))) == (0, 255)


def test_a_view_of_the_whole_is_the_whole() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 20, 3), dtype=np.uint8))
    assert view(image, (1, 0, 0, 0, 1, 0), (20, 30), quality="fine").tobytes() == image.tobytes()


@pytest.mark.parametrize("turn", [0, 7])
@pytest.mark.parametrize("quality", ["fine", "smooth"])
def test_what_is_too_fine_to_be_shown_is_averaged(quality: Quality, turn: float) -> None:
    dots = np.random.default_rng(1).integers(0, 2, (800, 800, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    matrix = similarity(scale=8, turn_deg=turn, onto=(400, 400), origin=(40, 40))
    seen = np.asarray(view(Image.fromarray(dots), matrix, (80, 80), quality=quality), float)[20:60, 20:60]
    assert seen.mean() == pytest.approx(127, abs=4)
    assert seen.std() < 30
