"""Any bytes in, a clean picture or a reason out: what a file may do, and what it may not."""

from __future__ import annotations

import importlib.util
import io
import random
import struct
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.photo.encode import is_clean
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised
from pipeline.photo.vision import Vision
from tests.unit.photo.conftest import Make
from tests.unit.photo.forgeries import (
    PNG_MAGIC,
    blank_png,
    chunk,
    claiming_jpeg,
    claiming_png,
    frame_at,
    framed_twice,
    png,
    with_chunk,
    with_scans,
    with_segment,
)
from tests.unit.photo.portraits import PHOTOS, STORED, exif, head, written
from tests.unit.photo.verdicts import ALIKE, assert_kept, codes, picture, refused, unlike
from tests.unit.photo.visions import Answers, Recorder, Repeating

KINDS = ("JPEG", "progressive", "PNG", "HEIC")
UNREADABLE = {"FILE_EMPTY", "FORMAT_UNSUPPORTED", "FILE_TRUNCATED", "FILE_CORRUPT"}

property_test = settings(max_examples=60, deadline=None, derandomize=True)


@cache
def upload(kind: str) -> bytes:
    """The portrait as a file of a kind."""
    if kind == "HEIC":
        return (PHOTOS / "derived/good.heic").read_bytes()
    if kind == "progressive":
        return written(head(), progressive=True)
    return written(head(), kind)


@pytest.fixture(scope="session")
def upright(make: Make) -> Image.Image:
    """The picture that the portrait becomes."""
    return picture(make(upload("JPEG")))


@pytest.fixture(scope="session")
def answers(profile: PhotoProfile, vision: Vision) -> Answers:
    """What the models say of the portrait."""
    recorder = Recorder(vision)
    normalise(upload("JPEG"), profile=profile, vision=recorder)
    return recorder.answers()


@pytest.fixture(scope="session")
def without_models(profile: PhotoProfile, answers: Answers) -> Make:
    """The photo stage that always sees the portrait: quick enough for hundreds of broken files."""
    return lambda data: normalise(data, profile=profile, vision=Repeating(answers))


# ------------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.rule("DL-16(2)")
@pytest.mark.parametrize("kind", KINDS)
def test_a_portrait_becomes_the_cards_picture(kind: str, make: Make, profile: PhotoProfile) -> None:
    result = make(upload(kind))

    assert_kept(result, profile)
    assert result.picture is not None
    opened = Image.open(io.BytesIO(result.picture))
    assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (358, 441))
    assert opened.info["dpi"] == (350, 350)
    assert set(opened.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
    assert 14336 <= len(result.picture) <= 20000
    assert result.background == "kept"
    assert result.timings_ms["total"] >= result.timings_ms["decode"] > 0


def test_the_finished_file_is_one_baseline_scan_with_halved_colour(make: Make) -> None:
    made = make(upload("JPEG")).picture
    assert made is not None
    at = frame_at(made)
    assert made[at : at + 2] == b"\xff\xc0"
    assert made[at + 10 : at + 19] == b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    assert made[:18] == b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x01\x01\x5e\x01\x5e"
    assert made.endswith(b"\xff\xd9")


SECRET = b"SECRET"
TRAILERS = {
    "zip": b"PK\x03\x04" + SECRET,
    "html": b"<html><script>" + SECRET + b"</script>",
    "pdf": b"%PDF-1.7 " + SECRET,
    "picture": b"\xff\xd8\xff\xe1\0\x08" + SECRET + b"\xff\xd9",
    "php": b"<?php " + SECRET + b" ?>",
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_is_two_things_at_once_leaves_the_other_behind(
    kind: str, trailer: str, make: Make, upright: Image.Image
) -> None:
    result = make(upload(kind) + TRAILERS[trailer])
    assert result.picture is not None
    assert SECRET not in result.picture
    assert unlike(picture(result), upright) < ALIKE


def test_nothing_of_the_uploads_metadata_comes_along(make: Make, profile: PhotoProfile) -> None:
    values = exif(1)
    values[0x010E] = "SECRET-exif"
    values.get_ifd(0x8825)[1] = "SECRET-gps"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpeg = written(head(), exif=values, comment=b"SECRET-comment", xmp=b"<x SECRET-xmp/>", icc_profile=srgb)
    jpeg = with_segment(jpeg, 0xED, b"Photoshop 3.0\0SECRET-iptc")
    png_file = with_chunk(written(head(), "PNG", exif=values), b"tEXt", b"Comment\0SECRET-text")

    for data in (jpeg, png_file, (PHOTOS / "derived/turned.heic").read_bytes()):
        result = make(data)
        assert result.picture is not None
        assert SECRET in data
        assert SECRET not in result.picture
        assert is_clean(result.picture, output=profile.output)


# ---------------------------------------------------------------------------------------------------- orientation, modes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_exif_orientation_is_turned_upright(
    orientation: int, kind: str, make: Make, upright: Image.Image
) -> None:
    stored = head().transpose(STORED[orientation]) if orientation in STORED else head()

    result = make(written(stored, kind, exif=exif(orientation)))

    assert unlike(picture(result), upright) < ALIKE
    assert result.measures["orientation"] == orientation
    assert "ROTATED" not in codes(result)
    assert result.geometry is not None
    assert result.geometry.source_px == head().size


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int, make: Make, upright: Image.Image) -> None:
    result = make(written(head(), exif=exif(orientation)))
    assert result.measures["orientation"] == 1
    assert unlike(picture(result), upright) < ALIKE


GARBAGE = {
    "noise": random.Random(1).randbytes(300),
    "no directory": b"II*\0\xff\xff\xff\xff",
    "a directory that is its own next": b"MM\0*\0\0\0\x08\0\0\0\0\0\x08",
    "entries without end": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0" * 20,
    "an orientation that is text": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0",
    "nothing": b"",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("garbage", GARBAGE)
def test_broken_exif_is_no_reason_against_a_photo(garbage: str, make: Make, upright: Image.Image) -> None:
    data = with_segment(written(head()), 0xE1, b"Exif\0\0" + GARBAGE[garbage])
    result = make(data)
    assert unlike(picture(result), upright) < ALIKE
    assert result.measures["orientation"] == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_photo_without_colours_is_refused(mode: str, make: Make) -> None:
    grey = head().convert("L")
    image = Image.new("I;16", grey.size, 40000) if mode == "I;16" else grey.convert(mode)
    assert refused(make(written(image, "PNG"))) == "NOT_COLOUR"


def test_a_grey_jpeg_is_refused(make: Make) -> None:
    assert refused(make(written(head().convert("L")))) == "NOT_COLOUR"


def test_print_colours_are_refused_however_they_are_coded(make: Make) -> None:
    cmyk = written(head().convert("CMYK"))
    adobe = cmyk.index(b"Adobe") + 11
    ycck = cmyk[:adobe] + b"\x02" + cmyk[adobe + 1 :]
    for data in (cmyk, ycck):
        assert refused(make(data)) == "COLOUR_MODE_UNSUPPORTED"


def test_a_jpeg_that_stores_red_green_and_blue_is_taken(make: Make, upright: Image.Image) -> None:
    assert unlike(picture(make(written(head(), keep_rgb=True))), upright) < ALIKE


@pytest.mark.parametrize("mode", ["RGBA", "PA", "P with transparency"])
def test_transparency_becomes_white(mode: str, make: Make, upright: Image.Image) -> None:
    """The background is black but cannot be seen."""
    image = head()
    behind = image.convert("L").point(lambda v: 255 if v > 249 else 0)
    image.paste((0, 0, 0), mask=behind)
    options = {}
    if mode == "P with transparency":
        image.paste((1, 254, 2), mask=behind)
        image = image.quantize(200)
        options["transparency"] = image.getpixel((3, 3))
    else:
        image.putalpha(behind.point(lambda v: 255 - v))
    if mode == "PA":
        image = image.quantize(200)
    result = make(written(image, "PNG", **options))
    made = picture(result)
    assert min(made.getpixel((5, 5))) > 245  # type: ignore[arg-type]
    assert unlike(made, upright) < ALIKE


def test_a_palette_is_a_colour_photo(make: Make, upright: Image.Image) -> None:
    assert unlike(picture(make(written(head().quantize(256), "PNG"))), upright) < ALIKE


def test_sixteen_bit_colour_png_is_taken(make: Make, upright: Image.Image) -> None:
    values = np.asarray(head())
    deep = np.stack((values, values), axis=-1)  # v becomes v·257, high byte first
    lines = b"".join(b"\0" + line.tobytes() for line in deep)
    data = png(head().width, head().height, zlib.compress(lines, 1), depth=16)
    assert unlike(picture(make(data)), upright) < ALIKE


def test_colours_are_those_that_the_files_profile_means(make: Make, upright: Image.Image) -> None:
    """Red and blue are exchanged in the pixels and in the profile: the picture has the right ones."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    red, green, blue = head().split()
    wrong = Image.merge("RGB", (blue, green, red))

    result = make(written(wrong, "PNG", icc_profile=exchanged))

    assert unlike(picture(result), upright) < ALIKE
    assert "ICC_IGNORED" not in codes(result)
    assert unlike(picture(make(written(head(), "PNG", icc_profile=srgb))), upright) < ALIKE


@pytest.mark.parametrize("icc", ["noise", "grey", "cut"])
def test_a_profile_that_is_none_is_ignored_and_that_is_said(icc: str, make: Make, upright: Image.Image) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {
        "noise": random.Random(2).randbytes(500), "grey": srgb[:16] + b"GRAY" + srgb[20:], "cut": srgb[:100]
    }  # fmt: skip
    result = make(written(head(), icc_profile=profiles[icc]))
    assert [finding.code for finding in result.findings].count("ICC_IGNORED") == 1
    assert unlike(picture(result), upright) < ALIKE


def test_a_phones_multi_picture_file_uses_its_first_frame(make: Make, upright: Image.Image) -> None:
    black = Image.new("RGB", head().size, "black")
    data = written(head(), "MPO", save_all=True, append_images=[black])
    assert unlike(picture(make(data)), upright) < ALIKE


# ---------------------------------------------------------------------------------------------------------------- HEIC


def test_a_heic_that_lies_on_its_side_is_turned_by_its_own_word(make: Make, upright: Image.Image) -> None:
    result = make((PHOTOS / "derived/turned.heic").read_bytes())
    assert unlike(picture(result), upright) < ALIKE
    assert "ROTATED" not in codes(result)


def test_heic_is_refused_where_nothing_reads_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refused(make(upload("HEIC"))) == "FORMAT_UNSUPPORTED"
    assert make(upload("JPEG")).picture is not None


def test_a_profile_may_leave_heic_out(profile: PhotoProfile, vision: Vision) -> None:
    narrow = replace(profile, input=replace(profile.input, formats=("jpeg", "png")))
    assert refused(normalise(upload("HEIC"), profile=narrow, vision=vision)) == "FORMAT_UNSUPPORTED"


def test_a_heic_that_claims_another_size_is_never_decoded(make: Make) -> None:
    data = upload("HEIC")
    for width, height, code in ((30000, 30000, "TOO_MANY_PIXELS"), (600, 600, "FILE_CORRUPT")):
        lie = bytearray(data)
        at = lie.find(b"ispe")
        while at >= 0:
            lie[at + 8 : at + 16] = struct.pack(">II", width, height)
            at = lie.find(b"ispe", at + 16)
        assert refused(make(bytes(lie))) == code


def test_a_heic_that_claims_a_larger_picture_beside_its_own_is_never_decoded(make: Make) -> None:
    extent = b"\0\0\0\x14ispe" + bytes(4) + struct.pack(">II", 3000, 3000)
    assert refused(make(upload("HEIC") + extent)) == "FILE_CORRUPT"


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "EPS", "PDF", "ICO", "PPM", "TGA", "JPEG2000", "AVIF"])
def test_other_formats_are_refused_by_content(kind: str, make: Make) -> None:
    assert refused(make(written(head(), kind))) == "FORMAT_UNSUPPORTED"


@pytest.mark.parametrize(
    "data", [b"<svg/>", b"<!doctype html>", b"PK\x03\x04", b"\0", b"\xff\xd8", b" \xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0"]
)  # fmt: skip
def test_bytes_that_are_no_image_are_refused(data: bytes, make: Make) -> None:
    assert refused(make(data)) == "FORMAT_UNSUPPORTED"


def test_no_opener_is_asked_but_the_one_for_the_bytes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another plug-in of the image library that would take anything, asked first."""

    def greedy(*_: object) -> None:
        raise AssertionError("a decoder was chosen by trying")

    monkeypatch.setattr(Image, "ID", ["GREEDY", *Image.ID])
    monkeypatch.setitem(Image.OPEN, "GREEDY", (greedy, None))
    for kind in KINDS:
        assert make(upload(kind)).picture is not None


def test_right_magic_before_another_formats_body_is_refused(make: Make) -> None:
    for magic in (b"\xff\xd8\xff", PNG_MAGIC):
        for kind in ("EPS", "GIF", "TIFF", "WEBP"):
            assert refused(make(magic + written(head(), kind))) in UNREADABLE | {"TOO_MANY_SCANS"}


def test_nothing_and_too_much(make: Make) -> None:
    assert refused(make(b"")) == "FILE_EMPTY"
    result = make(b"\xff\xd8\xff" + bytes(20 * 1024 * 1024))
    assert refused(result) == "FILE_TOO_LARGE"
    assert "20 MB" in result.findings[0].zh


def test_an_animated_png_is_refused(make: Make) -> None:
    frames = [Image.new("RGB", head().size, "black")]
    assert refused(make(written(head(), "PNG", save_all=True, append_images=frames))) == "ANIMATED"


def refused_by_header(result: Normalised) -> str:
    assert "decode" not in result.timings_ms
    return refused(result)


@pytest.mark.parametrize(("width", "height"), [(12001, 300), (300, 12001), (5001, 5000), (2**31 - 1, 2**31 - 1)])
def test_a_png_of_too_many_pixels_is_refused_by_its_header(width: int, height: int, make: Make) -> None:
    assert refused_by_header(make(claiming_png(upload("PNG"), width, height))) == "TOO_MANY_PIXELS"


def test_a_small_file_of_81_million_pixels_is_refused_by_its_header(make: Make) -> None:
    bomb = blank_png(9000)
    assert len(bomb) < 1_200_000
    assert refused_by_header(make(bomb)) == "TOO_MANY_PIXELS"


@pytest.mark.parametrize(
    ("progressive", "width", "height"), [(False, 65535, 65535), (False, 8001, 8000), (False, 12001, 300), (True, 5001, 5000)]
)  # fmt: skip
def test_a_jpeg_whose_header_claims_too_many_pixels_is_refused(
    progressive: bool, width: int, height: int, make: Make
) -> None:
    data = upload("progressive" if progressive else "JPEG")
    assert refused_by_header(make(claiming_jpeg(data, width, height))) == "TOO_MANY_PIXELS"


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
@pytest.mark.parametrize(("width", "height"), [(560, 2000), (2000, 540), (561, 540), (300, 300), (0, 540), (560, 0)])
def test_a_header_that_lies_about_the_size_yields_the_portrait_or_nothing(
    kind: str, width: int, height: int, make: Make, profile: PhotoProfile, upright: Image.Image
) -> None:
    claim = claiming_png if kind == "PNG" else claiming_jpeg
    result = make(claim(upload(kind), width, height))
    assert_kept(result, profile)
    if 0 in (width, height):
        assert result.picture is None
    if result.picture is not None:
        assert unlike(picture(result), upright) < ALIKE


@pytest.mark.parametrize("kind", ["JPEG", "progressive"])
@pytest.mark.parametrize("side", [200, 540, 6000])
def test_two_frame_headers_that_disagree_never_decode(kind: str, side: int, make: Make) -> None:
    assert refused(make(framed_twice(upload(kind), side, side))) in {
        "FILE_CORRUPT",
        "FILE_TRUNCATED",
        "TOO_MANY_PIXELS",
    }


@pytest.mark.parametrize("side", [300, 9000])
def test_a_second_png_header_with_another_size_never_decodes(side: int, make: Make) -> None:
    """The limits were checked on the first, the library follows the last."""
    second = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    assert refused(make(with_chunk(upload("PNG"), b"IHDR", second))) == "FILE_CORRUPT"


@pytest.mark.parametrize("kind", ["JPEG", "progressive"])
def test_a_scan_bomb_is_refused_without_decoding(kind: str, make: Make) -> None:
    result = make(with_scans(upload(kind), 65))
    assert refused_by_header(result) == "TOO_MANY_SCANS"
    assert (result.findings[0].measured, result.findings[0].limit) == (65, "64")
    assert "TOO_MANY_SCANS" not in codes(make(with_scans(upload(kind), 64)))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_compressed_text_bomb_is_not_unpacked(kind: bytes, make: Make, profile: PhotoProfile) -> None:
    packed = zlib.compress(bytes(30_000_000), 9)
    body = b"k\0\1\0\0\0" + packed if kind == b"iTXt" else b"k\0\0" + packed
    result = make(with_chunk(upload("PNG"), kind, body))
    assert_kept(result, profile)
    assert result.picture is not None or refused(result) == "FILE_CORRUPT"


def test_a_tiny_photo_is_refused_with_its_limit(make: Make) -> None:
    result = make(written(Image.new("RGB", (199, 400), "white")))
    assert refused_by_header(result) == "IMAGE_TOO_SMALL"
    assert (result.findings[0].measured, result.findings[0].limit) == (199, "200")


# ------------------------------------------------------------------------------------------------------------- never raises


@pytest.mark.parametrize("kind", KINDS)
@property_test
@given(share=st.floats(0, 0.999))
def test_no_truncation_yields_a_picture(kind: str, without_models: Make, share: float) -> None:
    data = upload(kind)
    assert refused(without_models(data[: int(len(data) * share)])) in UNREADABLE


@pytest.mark.parametrize("cut", [1, 2, 3, 50])
@pytest.mark.parametrize("kind", ["JPEG", "progressive"])
def test_a_missing_end_is_an_incomplete_file(kind: str, cut: int, make: Make) -> None:
    assert refused(make(upload(kind)[:-cut])) == "FILE_TRUNCATED"


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("kind", KINDS)
@property_test
@given(flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), min_size=1, max_size=12))
def test_bit_flips_never_raise(
    kind: str, part: str, without_models: Make, profile: PhotoProfile, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(upload(kind))
    for share, bit in flips:
        data[int((800 if part == "head" else len(data)) * share)] ^= 1 << bit
    assert_kept(without_models(bytes(data)), profile)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_models_see_in_a_damaged_file_never_raises(kind: str, make: Make, profile: PhotoProfile) -> None:
    for seed in range(12):
        dice, data = random.Random(seed), bytearray(upload(kind))
        at = dice.randrange(700, len(data) - 400)
        data[at : at + dice.choice((1, 40, 400))] = dice.randbytes(dice.choice((1, 40, 400)))
        assert_kept(make(bytes(data)), profile)


@property_test
@given(
    data=st.binary(max_size=400),
    magic=st.sampled_from([b"", b"\xff\xd8\xff", PNG_MAGIC, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"]),
)
def test_noise_never_raises(without_models: Make, data: bytes, magic: bytes) -> None:
    assert refused(without_models(magic + data)) in UNREADABLE | {"IMAGE_TOO_SMALL", "TOO_MANY_PIXELS"}


@property_test
@given(
    segments=st.lists(st.tuples(st.integers(0xC0, 0xFE), st.binary(max_size=60)), max_size=6),
    chunks=st.lists(
        st.tuples(st.sampled_from([b"acTL", b"pHYs", b"tRNS", b"PLTE", b"gAMA", b"eXIf", b"sRGB"]), st.binary(max_size=60)),
        max_size=4,
    ),
)  # fmt: skip
def test_segments_and_chunks_of_any_content_never_raise(
    without_models: Make, profile: PhotoProfile, segments: list[tuple[int, bytes]], chunks: list[tuple[bytes, bytes]]
) -> None:
    jpeg, png_file = upload("JPEG"), upload("PNG")
    for marker, payload in segments:
        jpeg = with_segment(jpeg, marker, payload)
    for kind, body in chunks:
        png_file = with_chunk(png_file, kind, body)
    assert_kept(without_models(jpeg), profile)
    assert_kept(without_models(png_file), profile)


def test_memory_that_runs_out_is_a_finding(profile: PhotoProfile, answers: Answers) -> None:
    class Hungry(Repeating):
        def person(self, tile: object) -> object:  # type: ignore[override]
            raise MemoryError

    result = normalise(upload("JPEG"), profile=profile, vision=Hungry(answers))  # type: ignore[arg-type]
    assert refused(result) == "PROCESSING_LIMIT"


def test_a_chunk_after_the_header_may_have_a_wrong_checksum(make: Make, profile: PhotoProfile) -> None:
    bad = chunk(b"tEXt", b"k\0v")[:-1] + b"\0"
    data = upload("PNG")
    assert_kept(make(data[:33] + bad + data[33:]), profile)
