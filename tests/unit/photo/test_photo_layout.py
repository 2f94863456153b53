"""The frame keeps every limit of the profile, whatever the photo offers; what cannot be kept is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.photo.layout import Frame, Room, framed, outside, place
from pipeline.photo.profile import PhotoProfile, load_profiles
from tests.unit.photo.conftest import CONFIG

PROFILES = load_profiles(CONFIG)
PLENTY = Room(crown=0.8, chin=0.85, below=3, left=2, right=2)

reach = st.floats(0, 8) | st.just(math.inf)
rooms = st.builds(
    Room, crown=st.floats(-0.5, 3), chin=st.floats(0.3, 1.6), below=reach, left=reach, right=reach, cut_left=st.booleans(), cut_right=st.booleans(),
)  # fmt: skip
profiles = st.sampled_from(sorted(PROFILES)).map(PROFILES.__getitem__)


def top(frame: Frame, room: Room) -> float:
    return frame.eye_y - room.crown * frame.face_px


def test_where_there_is_room_everything_is_as_wanted(profile: PhotoProfile) -> None:
    frame = place(PLENTY, profile)
    assert (frame.face_px, frame.eye_x) == (207, 179)
    assert top(frame, PLENTY) == pytest.approx(14)
    assert not frame.short_below
    assert not frame.hair_cut


@given(room=rooms, profile=profiles)
def test_every_limit_is_kept(room: Room, profile: PhotoProfile) -> None:
    frame = place(room, profile)
    face, head, eye, margin = profile.face, profile.head, profile.eye, profile.layout.margin_px
    assert (frame.width_px, frame.height_px) == (profile.output.width_px, profile.output.height_px)
    assert face.width_min_px + margin <= frame.face_px <= face.width_max_px - margin
    assert eye.x_min_px + margin <= frame.eye_x <= eye.x_max_px - margin
    assert frame.height_px - frame.eye_y >= eye.bottom_min_px + margin
    assert frame.hair_cut or top(frame, room) >= head.top_min_px - 1
    if room.crown > 0:
        assert top(frame, room) <= head.top_max_px


@given(room=rooms, profile=profiles)
def test_what_is_missing_below_is_said_and_only_that(room: Room, profile: PhotoProfile) -> None:
    frame = place(room, profile)
    below = frame.height_px - frame.eye_y
    whole = frame.face_px * room.below >= below - 1
    collar = below - room.chin * frame.face_px >= profile.layout.collar_min_px
    assert frame.short_below == (not (whole and collar))


@given(room=rooms, profile=profiles)
def test_a_side_that_cuts_the_person_stays_outside_where_that_can_be(room: Room, profile: PhotoProfile) -> None:
    frame = place(room, profile)
    if frame.face_px < profile.face.width_max_px - profile.layout.margin_px - 1e-6:
        if room.cut_left:
            assert frame.eye_x <= room.left * frame.face_px + 1e-6
        if room.cut_right:
            assert frame.width_px - frame.eye_x <= room.right * frame.face_px + 1e-6


@given(room=rooms, more=st.floats(0, 2), profile=profiles)
def test_higher_hair_never_makes_the_face_larger_and_more_below_never_either(
    room: Room, more: float, profile: PhotoProfile
) -> None:
    room = replace(room, crown=max(0.01, room.crown))
    frame = place(room, profile)
    assert place(replace(room, crown=room.crown + more), profile).face_px <= frame.face_px + 1e-6
    assert place(replace(room, below=room.below + more), profile).face_px <= frame.face_px + 1e-6
    assert not place(replace(room, crown=room.crown + more), profile).hair_cut or more or frame.hair_cut


@given(crown=st.floats(0.1, 2.5), more=st.floats(0, 1), profile=profiles)
def test_hair_once_cut_stays_cut_when_it_grows(crown: float, more: float, profile: PhotoProfile) -> None:
    room = replace(PLENTY, crown=crown)
    assert not place(room, profile).hair_cut or place(replace(room, crown=crown + more), profile).hair_cut


def test_the_hairs_distance_gives_way_before_the_width(profile: PhotoProfile) -> None:
    lower = place(replace(PLENTY, crown=1.05), profile)
    assert lower.face_px == 207
    assert 10 <= top(lower, replace(PLENTY, crown=1.05)) < 14
    narrower = place(replace(PLENTY, crown=1.15), profile)
    assert narrower.face_px < 207
    assert top(narrower, replace(PLENTY, crown=1.15)) == pytest.approx(10)


def test_a_short_photo_makes_the_face_larger_before_it_is_refused(profile: PhotoProfile) -> None:
    assert place(replace(PLENTY, below=1.1), profile).face_px == pytest.approx(427 / 1.9)
    assert not place(replace(PLENTY, below=1.1), profile).short_below
    assert place(replace(PLENTY, below=0.8), profile).short_below


def test_the_eyes_move_towards_a_side_that_cuts(profile: PhotoProfile) -> None:
    left = place(replace(PLENTY, left=0.8, cut_left=True), profile)
    right = place(replace(PLENTY, right=0.8, cut_right=True), profile)
    both = place(replace(PLENTY, left=0.8, right=0.8, cut_left=True, cut_right=True), profile)
    assert left.eye_x == pytest.approx(165.6)
    assert right.eye_x == pytest.approx(358 - 165.6)
    assert both.eye_x == 179
    assert both.face_px == pytest.approx(179 / 0.8)


def test_a_frame_given_by_hand_says_what_it_costs(profile: PhotoProfile) -> None:
    assert framed(PLENTY, profile, face_px=207, eye_x=179, eye_y=150).hair_cut
    assert framed(PLENTY, profile, face_px=120, eye_x=179, eye_y=75).short_below
    assert framed(replace(PLENTY, chin=1.2), profile, face_px=240, eye_x=179, eye_y=215).short_below


GOOD = {"face_width_px": 207.0, "eye_mid_x_px": 179.0, "eye_to_bottom_px": 260.0, "top_px": 14.0}


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, set()),
        ({"face_width_px": 179}, set()),
        ({"face_width_px": 178.9}, {"face_width_px"}),
        ({"face_width_px": 255.1}, {"face_width_px"}),
        ({"eye_mid_x_px": 161.9}, {"eye_mid_x_px"}),
        ({"eye_mid_x_px": 196.1}, {"eye_mid_x_px"}),
        ({"eye_to_bottom_px": 206.9}, {"eye_to_bottom_px"}),
        ({"top_px": 21.1}, {"top_px"}),
        ({"top_px": 6.9}, {"top_px"}),
        ({"top_px": 6.9, "eye_to_bottom_px": 213}, set()),
        ({"top_px": -30, "eye_to_bottom_px": 207}, set()),
        ({"top_px": 6.9, "eye_to_bottom_px": 213.1}, {"top_px"}),
        ({"top_px": 22, "eye_to_bottom_px": 207}, {"top_px"}),
    ],
)
def test_a_picture_breaks_the_limits_it_is_outside_of(
    changed: dict[str, float], broken: set[str], profile: PhotoProfile
) -> None:
    assert outside(GOOD | changed, profile).keys() == broken
