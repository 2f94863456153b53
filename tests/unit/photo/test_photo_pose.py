"""The geometry of a face and of the matrices that carry it, on numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.photo.pose import (
    CHIN,
    EAR_LEFT,
    EAR_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    LIDS_LEFT,
    LIDS_RIGHT,
    LIPS,
    NOSE,
    Pose,
    inverse,
    scaled,
    similarity,
)
from pipeline.photo.result import Adjust, Geometry, Matrix, Point

# A face 200 wide, eyes level at (100, 100), chin 180 below them.
FACE: dict[int, Point] = {
    EYE_LEFT[0]: (40, 100), EYE_LEFT[1]: (80, 100), EYE_RIGHT[0]: (120, 100), EYE_RIGHT[1]: (160, 100),
    LIDS_LEFT[0]: (60, 94), LIDS_LEFT[1]: (60, 106), LIDS_RIGHT[0]: (140, 95), LIDS_RIGHT[1]: (140, 105),
    LIPS[0]: (100, 220), LIPS[1]: (100, 229), NOSE: (100, 163), CHIN: (100, 280), EAR_LEFT: (0, 120), EAR_RIGHT: (200, 120),
}  # fmt: skip

places = st.floats(-2000, 2000)
angles = st.floats(-180, 180)
scales = st.floats(0.05, 20)


def face(**moved: Point) -> Pose:
    """`FACE`, some points elsewhere: `p33=(x, y)`. All other points are in its middle."""
    points = np.full((468, 2), 150, np.float32)
    points[:, 0] = 100
    for number, point in (FACE | {int(name[1:]): point for name, point in moved.items()}).items():
        points[number] = point
    return Pose(points)


def applied(matrix: Matrix, point: Point) -> Point:
    a, b, c, d, e, f = matrix
    x, y = point
    return (a * x + b * y + c, d * x + e * y + f)


def test_the_numbers_of_a_level_face() -> None:
    pose = face()
    assert pose.eyes == ((60, 100), (140, 100))
    assert pose.eye_mid == (100, 100)
    assert (pose.width, pose.length, pose.roll_deg, pose.yaw_deg) == (200, 180, 0, 0)
    assert pose.pitch_ratio == pytest.approx(63 / 180)
    assert pose.eye_opening == pytest.approx(10 / 40)
    assert pose.mouth_opening == pytest.approx(9 / 180)
    assert pose.extent() == ((100, 187), 200)
    assert pose.is_face((300, 300))


@pytest.mark.parametrize(("nose_x", "yaw_deg"), [(150, 30), (50, -30), (100, 0), (200, 90), (0, -90), (230, 90)])
def test_yaw_is_where_the_nose_stands_between_the_ears(nose_x: float, yaw_deg: float) -> None:
    assert face(p1=(nose_x, 163)).yaw_deg == pytest.approx(yaw_deg)


def test_ears_on_one_side_are_turned_as_far_as_can_be() -> None:
    assert face(p234=(200, 120), p454=(0, 120)).yaw_deg == 90


@given(turn=st.floats(-89, 89), scale=st.floats(0.2, 10), x=places, y=places)
def test_how_a_face_is_held_depends_on_neither_place_nor_size(turn: float, scale: float, x: float, y: float) -> None:
    pose = face(p1=(120, 163))
    moved = pose.moved(similarity(scale=scale, turn_deg=turn, onto=(x, y), origin=(0, 0)))
    assert moved.roll_deg == pytest.approx(turn, abs=0.1)
    assert moved.width == pytest.approx(200 * scale, rel=1e-3)
    assert moved.yaw_deg == pytest.approx(pose.yaw_deg, abs=0.5)
    assert moved.pitch_ratio == pytest.approx(pose.pitch_ratio, abs=0.01)
    assert moved.eye_opening == pytest.approx(pose.eye_opening, abs=0.02)
    assert moved.mouth_opening == pytest.approx(pose.mouth_opening, abs=0.02)
    assert moved.extent()[1] == pytest.approx(pose.extent()[1] * scale, rel=1e-2)


@pytest.mark.parametrize(
    "pose",
    [
        face(p5=(math.nan, 0)),
        face(p5=(math.inf, 0)),
        face(p234=(100, 120), p454=(100, 120)),
        face(p234=(-200, 120), p454=(400, 120)),
        face(p152=(100, 90)),
        face(p152=(100, 110)),
        face().moved((1, 0, 500, 0, 1, 0)),
        face().moved((1, 0, 0, 0, 1, -101)),
        face().moved((0.004, 0, 0, 0, 0.004, 0)),
    ],
)
def test_points_that_are_no_face_are_told(pose: Pose) -> None:
    assert not pose.is_face((300, 300))


@given(scale=scales, turn=angles, onto=st.tuples(places, places), origin=st.tuples(places, places))
def test_a_similarity_takes_its_origin_where_it_should_and_keeps_shapes(
    scale: float, turn: float, onto: Point, origin: Point
) -> None:
    matrix = similarity(scale=scale, turn_deg=turn, onto=onto, origin=origin)
    assert applied(matrix, origin) == pytest.approx(onto, abs=1e-6)
    right = applied(matrix, (origin[0] + 1, origin[1]))
    down = applied(matrix, (origin[0], origin[1] + 1))
    assert math.dist(right, onto) == pytest.approx(scale, abs=1e-6)
    assert math.dist(down, onto) == pytest.approx(scale, abs=1e-6)
    seen = complex(right[0] - onto[0], right[1] - onto[1]) / complex(
        math.cos(math.radians(turn)), math.sin(math.radians(turn))
    )
    assert (seen.real, seen.imag) == pytest.approx((scale, 0), abs=1e-6)


@given(scale=scales, turn=angles, onto=st.tuples(places, places), point=st.tuples(places, places))
def test_the_inverse_leads_back(scale: float, turn: float, onto: Point, point: Point) -> None:
    matrix = similarity(scale=scale, turn_deg=turn, onto=onto, origin=(7, -3))
    assert applied(inverse(matrix), applied(matrix, point)) == pytest.approx(point, abs=1e-4)
    assert applied(matrix, applied(inverse(matrix), point)) == pytest.approx(point, abs=1e-4)


@given(numbers=st.tuples(*[st.floats(-5, 5)] * 6), point=st.tuples(places, places))
def test_any_matrix_that_has_an_inverse_is_undone_by_it(numbers: Matrix, point: Point) -> None:
    a, b, _, d, e, _ = numbers
    assume(abs(a * e - b * d) > 0.1)
    assert applied(inverse(numbers), applied(numbers, point)) == pytest.approx(point, abs=1e-3)


def test_what_flattens_cannot_be_undone() -> None:
    with pytest.raises(ZeroDivisionError):
        inverse((1, 2, 0, 2, 4, 0))


def test_a_scaled_matrix_lands_in_an_image_of_another_size() -> None:
    assert applied(scaled((2, 0, 10, 0, 2, 20), 4), (5, 5)) == (80, 120)


def test_geometry_leads_a_point_to_the_upload() -> None:
    geometry = Geometry(
        turn_deg=0, source_px=(900, 1100), matrix=(2, 0, 100, 0, 2, 50), eyes=((130, 180), (228, 184)),
        ears=((76, 200), (283, 200)), chin=(180, 360), crown_px=14,
    )  # fmt: skip
    assert geometry.eye_mid == (179, 182)
    assert geometry.on_source(geometry.eye_mid) == (458, 414)
    assert Adjust() == Adjust(right_px=0, down_px=0, scale=1, roll_deg=0)
