"""The printed side: size, determinism, and text that is refused before printing."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from card_personalization import png
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


@pytest.fixture(scope="module")
def template(profile: CardProfile) -> FaceTemplate:
    return profile.face


def drawn(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def refused(template: FaceTemplate, face: FaceData, photo: bytes) -> set[tuple[str, str]]:
    with pytest.raises(FaceError) as caught:
        render(template, face, photo, demo=False)
    return {(problem.field, problem.code) for problem in caught.value.problems}


def ink(template: FaceTemplate, name: str, photo: bytes) -> Image.Image:
    """Where a name differs from an empty one."""
    empty, named = (drawn(render(template, replace(FACE, name=text), photo, demo=False)) for text in ("", name))
    return ImageChops.difference(empty, named)


def width_of(picture: Image.Image) -> int:
    box = picture.getbbox()
    assert box is not None
    return box[2] - box[0]


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


@pytest.mark.rule("DL-10")
def test_the_face_shows_what_the_regulation_lists_and_the_number_of_the_card(template: FaceTemplate) -> None:
    listed = {"name", "social_security_number", "issued", "bank_name", "bank_card_number"}
    assert {field.name for field in fields(FaceData)} == listed | {"card_number"}
    assert {name for name, _ in template.fields} == listed | {"card_number"}


def test_the_file_holds_the_picture_and_nothing_else(template: FaceTemplate, photo: bytes) -> None:
    data = render(template, FACE, photo, demo=True)
    kinds, at = [], 8
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert kinds == [b"IHDR", b"pHYs", b"IDAT", b"IEND"]


def test_characters_without_a_glyph_are_refused_before_printing(template: FaceTemplate, photo: bytes) -> None:
    face = replace(FACE, name="张\U0003fff0", bank_name="银\ue000行")
    assert refused(template, face, photo) == {("name", "no-glyph"), ("bank_name", "no-glyph")}


@pytest.mark.parametrize("invisible", ["\u200b", "\u200d", "\ufe00", "\U000e0100", "\n", "\u3000", "\xad", "\ud800"])
def test_a_character_that_leaves_no_ink_is_refused(template: FaceTemplate, photo: bytes, invisible: str) -> None:
    assert refused(template, replace(FACE, name=f"张{invisible}三"), photo) == {("name", "no-glyph")}


def test_a_refusal_says_where_and_not_what(template: FaceTemplate, photo: bytes) -> None:
    with pytest.raises(FaceError, match="character 2 in the font") as caught:
        render(template, replace(FACE, name="张\ue000"), photo, demo=False)
    assert "张" not in str(caught.value)


@pytest.mark.parametrize(("first", "last"), [(0x3400, 0x4DB5), (0x4E00, 0x9FA5)])
def test_the_font_has_every_character_of_the_basic_blocks(
    template: FaceTemplate, photo: bytes, first: int, last: int
) -> None:
    """The 27 484 characters that GB 18030 has in two bytes and in its first four-byte block."""
    text = "".join(map(chr, range(first, last + 1)))
    assert refused(template, replace(FACE, name=text), photo) == {("name", "too-wide")}


@pytest.mark.parametrize("name", ["𬀩㛃䶮", "𠮷", "𫖯", "𬱖", "𣲗", "𪩘", "𬍛", "𫍯"])
def test_rare_characters_that_the_font_has_are_drawn(template: FaceTemplate, photo: bytes, name: str) -> None:
    assert render(template, replace(FACE, name=name), photo, demo=False) != render(
        template, replace(FACE, name=""), photo, demo=False
    )


@pytest.mark.parametrize("length", [1, 16, 18, 24, 28, 48])
def test_a_long_name_shrinks_and_then_breaks(template: FaceTemplate, photo: bytes, length: int) -> None:
    render(template, replace(FACE, name="阿" * length), photo, demo=False)


def test_a_name_that_does_not_fit_two_lines_is_refused(template: FaceTemplate, photo: bytes) -> None:
    assert refused(template, replace(FACE, name="阿" * 60), photo) == {("name", "too-wide")}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "阿卜杜热合曼·托合提尼亚孜·玉素甫江·买买提依明·阿不都",
            ("阿卜杜热合曼·托合提尼亚孜·", "玉素甫江·买买提依明·阿不都"),
        ),
        ("MARIA ANTONIA JOSEFINA WOLFESCHLEGELSTEIN HAUSEN", ("MARIA ANTONIA JOSEFINA", "WOLFESCHLEGELSTEIN HAUSEN")),
        ("阿" * 30, ("阿" * 15, "阿" * 15)),
    ],
)
def test_a_name_in_two_lines_breaks_after_a_separator_where_it_has_one(
    template: FaceTemplate, photo: bytes, name: str, lines: tuple[str, str]
) -> None:
    """Each half looks as the line does alone at the smallest size."""
    broken = ink(template, name, photo)
    left, top, right, bottom = broken.getbbox() or (0, 0, 0, 0)
    middle = (top + bottom) // 2
    halves = broken.crop((left, top, right, middle)), broken.crop((left, middle, right, bottom))
    small = replace(dict(template.fields)["name"], size_px=22)
    alone = replace(template, fields=tuple((n, small if n == "name" else p) for n, p in template.fields))
    assert [width_of(half) for half in halves] == [width_of(ink(alone, line, photo)) for line in lines]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="阿依古丽买提𬀩㛃·ABC ", min_size=1, max_size=70))
def test_a_name_stays_inside_its_place_or_is_refused(template: FaceTemplate, photo: bytes, name: str) -> None:
    try:
        box = ink(template, name, photo).getbbox()
    except FaceError as error:
        assert {problem.code for problem in error.problems} == {"too-wide"}
        return
    place = dict(template.fields)["name"]
    below = dict(template.fields)["social_security_number"].y_px
    if box is not None:
        assert box[0] >= place.x_px - 2
        assert box[2] <= place.x_px + place.max_width_px + 2
        assert box[3] <= below + 12


@pytest.mark.parametrize("data", [b"", b"not a photo", b"\xff\xd8\xff\xe0broken"])
def test_a_photo_that_is_no_jpeg_is_refused(template: FaceTemplate, data: bytes) -> None:
    assert refused(template, FACE, data) == {("photo", "format")}


def test_a_truncated_photo_is_refused(template: FaceTemplate, photo: bytes) -> None:
    assert refused(template, FACE, photo[: len(photo) // 2]) == {("photo", "format")}


@pytest.mark.parametrize("size", [(236, 295), (358, 441), (3580, 4410), (400, 400)])
def test_photos_of_any_size_fill_the_same_place(template: FaceTemplate, size: tuple[int, int]) -> None:
    output = io.BytesIO()
    Image.new("RGB", size, (90, 140, 200)).save(output, "JPEG")
    image = drawn(render(template, FACE, output.getvalue(), demo=False))
    box = (47, 142, 47 + 236, 142 + 295)
    extrema = image.crop(box).getextrema()
    assert all(high - low < 8 for low, high in extrema)  # type: ignore[misc]


def test_a_face_without_a_bank_is_drawn(template: FaceTemplate, photo: bytes) -> None:
    alone = render(template, replace(FACE, bank_name="", bank_card_number=None), photo, demo=False)
    below = dict(template.fields)["bank_name"].y_px
    here, there = drawn(alone), drawn(render(template, FACE, photo, demo=False))
    box = ImageChops.difference(here, there).getbbox()
    assert box is not None
    assert box[1] >= below


# ----------------------------------------------------------------------------------------------------------------- PNG


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([72, 300, 600]), st.data())
def test_a_png_is_what_it_was_made_of(width: int, height: int, dpi: int, data: st.DataObject) -> None:
    lines = [b"\0" + data.draw(st.binary(min_size=3 * width, max_size=3 * width)) for _ in range(height)]
    made = png.encode(lines, width_px=width, height_px=height, dpi=dpi)
    assert drawn(made).tobytes() == b"".join(line[1:] for line in lines)
    parsed = png.parse(made)
    assert (parsed.width_px, parsed.height_px, round(parsed.dpi)) == (width, height, dpi)


def test_scanlines_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        png.encode([b"\0" * 9], width_px=3, height_px=1, dpi=300)


def test_a_damaged_png_is_refused(template: FaceTemplate, photo: bytes) -> None:
    data = bytearray(render(template, FACE, photo, demo=False))
    for broken in (data[:-20], data[:5000] + b"!" + data[5001:], b"GIF89a" + data):
        with pytest.raises(ValueError, match="PNG"):
            png.parse(bytes(broken))


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_a_png_of_another_kind_is_refused(mode: str) -> None:
    output = io.BytesIO()
    Image.new(mode, (4, 4)).save(output, "PNG", dpi=(300, 300))
    with pytest.raises(ValueError, match="8-bit RGB"):
        png.parse(output.getvalue())


def test_a_png_without_a_density_is_refused() -> None:
    output = io.BytesIO()
    Image.new("RGB", (4, 4)).save(output, "PNG")
    with pytest.raises(ValueError, match="density"):
        png.parse(output.getvalue())
