"""The models are the tried ones, the freed detector is the published one, and nothing that models say can break the stage."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import Defect
from pipeline.photo import faces
from pipeline.photo.faces import Models, as_detector_input, as_unit
from pipeline.photo.normalise import normalise
from pipeline.photo.pose import similarity
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised
from pipeline.photo.vision import MESH_SIDE, PERSON_SIDE, Mesh, Points, Seen
from tests.unit.photo.portraits import beside, head, sample, written
from tests.unit.photo.verdicts import assert_kept, codes
from tests.unit.photo.visions import Altered, Answers, Recorder, Repeating

FIXED = "face_detection_yunet_2023mar.onnx"
PORTRAIT = written(head())


# --------------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", [faces.DETECTOR, faces.LANDMARKS, faces.SEGMENTATION])
def test_a_model_of_which_one_byte_changed_is_refused(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(faces.MODELS, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Defect, match=name):
        faces.load(copy)


def test_a_model_that_is_missing_or_not_listed_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(faces.MODELS, copy)
    (copy / faces.LANDMARKS).unlink()
    with pytest.raises(Defect, match="install the release again"):
        faces.load(copy)
    (copy / "SHA256SUMS").write_text("")
    with pytest.raises(Defect, match=faces.DETECTOR):
        faces.load(copy)


# ------------------------------------------------------------------------------------------------------------ the detector


@pytest.fixture(scope="module")
def models() -> Models:
    return faces.load()


@pytest.fixture(scope="module")
def published() -> Models:
    """With the detector as it was published, fixed to 640×640."""
    landmarks, segmentation = ((faces.MODELS / name).read_bytes() for name in (faces.LANDMARKS, faces.SEGMENTATION))
    return Models(detector=(faces.MODELS / FIXED).read_bytes(), landmarks=landmarks, segmentation=segmentation)


def test_the_freed_detector_gives_the_published_ones_bits(models: Models, published: Models) -> None:
    picture = np.asarray(beside(0.6, (620, 60), (1000, 1000)).resize((640, 640)))
    noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    for pixels in (picture, noise):
        tensor = as_detector_input(pixels)
        one, other = models.detect(tensor), published.detect(tensor)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[head], other[head]) for head in one)


def test_half_the_size_shows_the_same_faces(models: Models) -> None:
    two = beside(0.8, (620, 60), (1000, 1000))
    large = models.faces(np.asarray(two.resize((640, 640))))
    small = models.faces(np.asarray(two.resize((320, 320))))
    assert len(large) == len(small) == 2
    for one, half in zip(*(sorted(found, key=lambda face: face.box[0]) for found in (large, small)), strict=True):
        assert np.abs(np.subtract(one.box, np.multiply(half.box, 2))).max() < one.box[3] / 8
        assert np.abs(np.subtract(one.points, np.multiply(half.points, 2))).max() < one.box[3] / 16


def test_a_face_is_seen_where_it_is_with_its_points_in_order(models: Models) -> None:
    image = sample().crop((200, 0, 840, 640)).resize((320, 320))
    (face,) = models.faces(np.asarray(image))
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert math.dist(left_eye, ((444 - 200) / 2, 214 / 2)) < 10
    assert math.dist(right_eye, ((550 - 200) / 2, 213 / 2)) < 10
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert face.score > 0.9


def test_a_picture_of_any_size_is_filled_up_and_its_colours_turned() -> None:
    pixels = np.zeros((33, 70, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 10
    tensor = as_detector_input(pixels)
    assert tensor.shape == (1, 3, 64, 96)
    assert (tensor[0, 0, :33, :70] == 10).all()
    assert (tensor[0, 2, :33, :70] == 200).all()
    assert (tensor[..., 33:, :] == 0).all()
    assert (tensor[..., 70:] == 0).all()


def test_empty_pictures_show_nobody(models: Models) -> None:
    for value in (0, 128, 255):
        assert models.faces(np.full((256, 320, 3), value, np.uint8)) == ()


# ------------------------------------------------------------------------------------------------------------- the two others


def test_the_mesh_and_the_mask_have_the_shape_of_what_they_were_shown(models: Models) -> None:
    face = np.asarray(sample().crop((330, 80, 660, 410)).resize((MESH_SIDE, MESH_SIDE)))
    mesh = models.mesh(face)
    assert mesh.points.shape == (468, 2)
    assert mesh.presence > 0.9
    assert models.mesh(np.full((MESH_SIDE, MESH_SIDE, 3), 255, np.uint8)).presence < 0.1
    mask = models.person(np.asarray(sample().crop((180, 0, 820, 640)).resize((PERSON_SIDE, PERSON_SIDE))))
    assert mask.shape == (PERSON_SIDE, PERSON_SIDE)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert mask[100, 128] > 0.9 > 0.1 > mask[20, 20]


def test_answers_outlive_the_next_question(models: Models) -> None:
    face = np.asarray(sample().crop((330, 80, 660, 410)).resize((MESH_SIDE, MESH_SIDE)))
    mesh, kept = models.mesh(face), models.mesh(face).points.copy()
    models.mesh(np.zeros_like(face))
    assert np.array_equal(mesh.points, kept)


@pytest.mark.parametrize("shape", [(191, 192, 3), (200, 200, 3), (192, 256, 3)])
def test_a_square_of_another_size_is_a_defect(shape: tuple[int, int, int]) -> None:
    with pytest.raises(Defect, match="192 or 256"):
        as_unit(np.zeros(shape, np.uint8))


# ---------------------------------------------------------------------------------------------------- eyes that see anything


@pytest.fixture(scope="module")
def answers(profile: PhotoProfile, models: Models) -> Answers:
    recorder = Recorder(models)
    normalise(PORTRAIT, profile=profile, vision=recorder)
    return recorder.answers()


def shown(profile: PhotoProfile, answers: Answers, **changed: Callable[..., object]) -> Normalised:
    eyes = Altered(vision=Repeating(answers), **changed)  # type: ignore[arg-type]
    return normalise(PORTRAIT, profile=profile, vision=eyes)


WILD: dict[str, Callable[[Points], Points]] = {
    "one point is no number": lambda p: np.where(np.arange(468)[:, None] == 7, np.float32(np.nan), p),
    "no point is a number": lambda p: np.full_like(p, np.nan),
    "endless": lambda p: np.where(np.arange(468)[:, None] == 454, np.float32(np.inf), p),
    "endless to the left": lambda p: np.where(np.arange(468)[:, None] == 33, np.float32(-np.inf), p),
    "far outside": lambda p: p + np.float32(1e6),
    "a little outside": lambda p: p + np.float32(500),
    "one spot": lambda p: np.full_like(p, 96),
    "a line across": lambda p: np.stack((p[:, 0], np.full(468, 96, np.float32)), axis=1),
    "a line down": lambda p: np.stack((np.full(468, 96, np.float32), p[:, 1]), axis=1),
    "upside down": lambda p: np.stack((p[:, 0], 192 - p[:, 1]), axis=1),
    "huge": lambda p: (p - 96) * np.float32(1e4) + 96,
    "tiny": lambda p: (p - 96) * np.float32(1e-4) + 96,
    "the largest floats": lambda p: p * np.float32(1e36),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("wild", WILD)
def test_a_wild_mesh_is_no_face(wild: str, profile: PhotoProfile, answers: Answers) -> None:
    result = shown(profile, answers, mesh_as=lambda mesh: replace(mesh, points=WILD[wild](mesh.points)))
    assert_kept(result, profile)
    assert codes(result) == {"NO_FACE"}


@settings(max_examples=120, deadline=None)
@given(
    squeeze=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), shift=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    grain=st.floats(0, 80), presence=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_mesh_makes_the_stage_raise(
    squeeze: tuple[float, float], shift: tuple[float, float], grain: float, presence: float, seed: int,
    profile: PhotoProfile, answers: Answers,
) -> None:  # fmt: skip
    def bent(mesh: Mesh) -> Mesh:
        noise = np.random.default_rng(seed).normal(0, grain, (468, 2)) if grain > 1 else 0
        points = ((mesh.points - 96) * squeeze + 96 + shift + noise).astype(np.float32)
        return Mesh(points=points, presence=presence)

    assert_kept(shown(profile, answers, mesh_as=bent), profile)


@pytest.mark.parametrize(("degrees", "found"), [(0, True), (44, True), (47, False), (-47, False), (180, False)])
def test_a_face_that_lies_on_its_side_is_no_upright_one(
    degrees: float, found: bool, profile: PhotoProfile, answers: Answers
) -> None:
    """However sure the detector is, and in every turn of the photo."""
    (level,) = answers.faces
    middle = (level.box[0] + level.box[2] / 2, level.box[1] + level.box[3] / 2)
    (x0, y0), (x1, y1) = level.points[:2]
    turn = degrees - math.degrees(math.atan2(y1 - y0, x1 - x0))
    a, b, c, d, e, f = similarity(scale=1, turn_deg=turn, onto=middle, origin=middle)
    points = tuple((a * x + b * y + c, d * x + e * y + f) for x, y in level.points)
    lying = replace(level, points=points, score=0.99)
    result = shown(profile, answers, faces_as=lambda _: (lying,))
    assert (codes(result) == {"NO_FACE"}) == (not found)


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-400, 400)] * 2, *[st.floats(0.01, 900)] * 2), score=st.floats(0.6, 1),
    points=st.lists(st.tuples(st.floats(-400, 700), st.floats(-400, 700)), min_size=5, max_size=5), keep=st.booleans(),
)  # fmt: skip
def test_no_box_makes_the_stage_raise(
    box: tuple[float, float, float, float], score: float, points: list[tuple[float, float]], keep: bool,
    profile: PhotoProfile, answers: Answers,
) -> None:  # fmt: skip
    odd = Seen(box=box, score=score, points=tuple(points))
    assert_kept(shown(profile, answers, faces_as=lambda seen: (*seen, odd) if keep else (odd,)), profile)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 1), blocks=st.sampled_from([1, 4, 16, 256]))
def test_no_mask_makes_the_stage_raise(
    seed: int, share: float, blocks: int, profile: PhotoProfile, answers: Answers
) -> None:
    small = (np.random.default_rng(seed).random((blocks, blocks)) < share).astype(np.float32)
    mask = np.kron(small, np.ones((PERSON_SIDE // blocks,) * 2, np.float32))
    assert_kept(shown(profile, answers, mask_as=lambda _: mask), profile)


def test_a_mask_that_is_no_number_is_no_person(profile: PhotoProfile, answers: Answers) -> None:
    result = shown(profile, answers, mask_as=lambda mask: np.full_like(mask, np.nan))
    assert_kept(result, profile)


@pytest.mark.parametrize(
    ("presence", "code"), [(0.0, "NO_FACE"), (0.09, "NO_FACE"), (0.11, "FACE_NOT_CLEAR"), (0.49, "FACE_NOT_CLEAR")]
)
def test_what_is_hardly_there_is_refused(presence: float, code: str, profile: PhotoProfile, answers: Answers) -> None:
    result = shown(profile, answers, mesh_as=lambda mesh: replace(mesh, presence=presence))
    assert codes(result) >= {code}
    assert result.picture is None


@settings(max_examples=60, deadline=None)
@given(
    right=st.floats(-200, 200), down=st.floats(-200, 200), scale=st.floats(0.3, 3), roll=st.floats(-180, 180),
)  # fmt: skip
def test_however_a_person_moves_the_frame_it_is_measured_like_any_other(
    right: float, down: float, scale: float, roll: float, profile: PhotoProfile, answers: Answers
) -> None:
    adjust = Adjust(right_px=right, down_px=down, scale=scale, roll_deg=roll)
    result = normalise(PORTRAIT, profile=profile, vision=Repeating(answers), adjust=adjust)
    assert_kept(result, profile)
    assert result.geometry is not None
    assert result.measures["eye_mid_x_px"] == pytest.approx(179 + right, abs=0.1)
    assert result.measures["face_width_px"] == pytest.approx(207 * scale, abs=0.5)


def test_a_moved_frame_moves_the_picture(profile: PhotoProfile, models: Models) -> None:
    plain = normalise(PORTRAIT, profile=profile, vision=models)
    moved = normalise(PORTRAIT, profile=profile, vision=models, adjust=Adjust(right_px=6, down_px=3))
    assert plain.picture is not None
    assert moved.picture is not None
    assert moved.measures["eye_mid_x_px"] - plain.measures["eye_mid_x_px"] == pytest.approx(6, abs=0.1)
    assert plain.measures["eye_to_bottom_px"] - moved.measures["eye_to_bottom_px"] == pytest.approx(3, abs=0.1)
    shifted = _grey(plain.picture)[0:-3, 0:-6]
    assert np.abs(shifted - _grey(moved.picture)[3:, 6:])[40:300, 60:300].mean() < 6


def test_a_turned_frame_turns_the_picture_clockwise(profile: PhotoProfile, models: Models) -> None:
    result = normalise(PORTRAIT, profile=profile, vision=models, adjust=Adjust(roll_deg=5))
    assert result.geometry is not None
    (x0, y0), (x1, y1) = result.geometry.eyes
    assert math.degrees(math.atan2(y1 - y0, x1 - x0)) == pytest.approx(5, abs=1.2)


def _grey(picture: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), float)
