"""The printed side: size, determinism, and text that is refused before printing."""

import io
from dataclasses import replace
from datetime import date

import pytest
from PIL import Image

from card_personalization.errors import FaceError
from card_personalization.face import render
from card_personalization.plan import FaceData
from card_personalization.profiles import CardProfile, FaceTemplate

FACE = FaceData(
    name="阿依古丽·买买提",
    social_security_number="11010519491231002X",
    card_number="A0000002X",
    issued=date(2026, 1, 5),
    bank_name="汉口银行",
    bank_card_number="6222021234567890123",
)


@pytest.fixture(scope="module")
def photo() -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (358, 441), (90, 140, 200)).save(output, "JPEG")
    return output.getvalue()


@pytest.fixture
def template(profile: CardProfile) -> FaceTemplate:
    return profile.face


def drawn(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def refused(template: FaceTemplate, face: FaceData, photo: bytes) -> set[tuple[str, str]]:
    with pytest.raises(FaceError) as caught:
        render(template, face, photo, demo=False)
    return {(problem.field, problem.code) for problem in caught.value.problems}


def test_the_face_is_a_card_at_300_dpi(template: FaceTemplate, photo: bytes) -> None:
    image = drawn(render(template, FACE, photo, demo=False))
    assert (image.format, image.size) == ("PNG", (1011, 638))
    assert [round(value) for value in image.info["dpi"]] == [300, 300]


def test_the_photo_fills_its_place_and_no_more(template: FaceTemplate, photo: bytes) -> None:
    image = drawn(render(template, FACE, photo, demo=False)).convert("RGB")
    for corner in ((47, 142), (282, 142), (47, 436), (282, 436)):
        assert max(abs(a - b) for a, b in zip(image.getpixel(corner), (90, 140, 200), strict=True)) < 6  # type: ignore[arg-type]
    for outside in ((46, 142), (283, 300), (100, 437)):
        assert min(image.getpixel(outside)) > 180  # type: ignore[arg-type]


@pytest.mark.parametrize("demo", [True, False])
def test_the_same_face_gives_the_same_bytes(template: FaceTemplate, photo: bytes, demo: bool) -> None:
    assert render(template, FACE, photo, demo=demo) == render(template, FACE, photo, demo=demo)


def test_a_demonstration_is_marked_across_the_face(template: FaceTemplate, photo: bytes) -> None:
    plain, demo = (drawn(render(template, FACE, photo, demo=demo)) for demo in (False, True))
    changed = sum(a != b for a, b in zip(plain.tobytes()[::3], demo.tobytes()[::3], strict=True))
    assert changed > 20_000


@pytest.mark.parametrize(
    "change",
    [
        {"name": "李四"},
        {"social_security_number": "310115199001011232"},
        {"card_number": "B00000019"},
        {"issued": date(2026, 1, 6)},
        {"bank_name": "农商行"},
        {"bank_card_number": None},
    ],
)
def test_every_field_shows(template: FaceTemplate, photo: bytes, change: dict[str, object]) -> None:
    other = replace(FACE, **change)  # type: ignore[arg-type]
    assert render(template, other, photo, demo=False) != render(template, FACE, photo, demo=False)


def test_characters_without_a_glyph_are_refused_before_printing(template: FaceTemplate, photo: bytes) -> None:
    face = replace(FACE, name="张\U0003fff0", bank_name="银\ue000行")
    assert refused(template, face, photo) == {("name", "no-glyph"), ("bank_name", "no-glyph")}


def test_rare_characters_that_the_font_has_are_drawn(template: FaceTemplate, photo: bytes) -> None:
    render(template, replace(FACE, name="𬀩㛃䶮"), photo, demo=False)


@pytest.mark.parametrize("length", [1, 16, 18, 24, 28, 48])
def test_a_long_name_shrinks_and_then_breaks(template: FaceTemplate, photo: bytes, length: int) -> None:
    render(template, replace(FACE, name="阿" * length), photo, demo=False)


def test_a_name_that_does_not_fit_two_lines_is_refused(template: FaceTemplate, photo: bytes) -> None:
    assert refused(template, replace(FACE, name="阿" * 60), photo) == {("name", "too-wide")}


@pytest.mark.parametrize("data", [b"", b"not a photo", b"\xff\xd8\xff\xe0broken"])
def test_a_photo_that_is_no_jpeg_is_refused(template: FaceTemplate, data: bytes) -> None:
    assert refused(template, FACE, data) == {("photo", "format")}


def test_a_truncated_photo_is_refused(template: FaceTemplate, photo: bytes) -> None:
    assert refused(template, FACE, photo[: len(photo) // 2]) == {("photo", "format")}
