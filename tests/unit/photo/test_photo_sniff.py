"""What the first bytes say: the size of any true file, and a finding for any other, before a pixel exists."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.photo.decode import draft_scale
from pipeline.photo.findings import Finding
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.sniff import Header, sniff
from tests.unit.photo.forgeries import chunk, claiming_jpeg, frame_at, png, with_segment
from tests.unit.photo.portraits import PHOTOS, written


def code(data: bytes, profile: PhotoProfile) -> str | None:
    told = sniff(data, limits=profile.input)
    return told.code if isinstance(told, Finding) else None


@settings(max_examples=30, deadline=None)
@given(width=st.integers(200, 900), height=st.integers(200, 900), kind=st.sampled_from(["JPEG", "progressive", "PNG"]))
def test_the_size_is_the_files(width: int, height: int, kind: str, profile: PhotoProfile) -> None:
    image = Image.new("RGB", (width, height), "white")
    data = written(image, "JPEG", progressive=True) if kind == "progressive" else written(image, kind)
    told = sniff(data, limits=profile.input)
    assert told == Header(
        format="png" if kind == "PNG" else "jpeg", width_px=width, height_px=height, buffered=kind == "progressive"
    )


def test_a_heic_has_the_size_of_its_largest_picture(profile: PhotoProfile) -> None:
    data = (PHOTOS / "derived/good.heic").read_bytes()
    assert sniff(data, limits=profile.input) == Header(format="heic", width_px=560, height_px=700)
    thumb = b"\0\0\0\x14ispe" + bytes(4) + struct.pack(">II", 160, 120)
    assert sniff(data + thumb, limits=profile.input) == Header(format="heic", width_px=560, height_px=700)
    assert code(data[:12], profile) == "FILE_CORRUPT"


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"])
def test_every_brand_of_heic_is_known(brand: bytes, profile: PhotoProfile) -> None:
    assert code(b"\0\0\0\x18ftyp" + brand + bytes(8), profile) == "FILE_CORRUPT"
    assert code(b"\0\0\0\x18ftypavif" + bytes(8), profile) == "FORMAT_UNSUPPORTED"
    assert code(b"\0\0\0\x18ftypisom" + bytes(8), profile) == "FORMAT_UNSUPPORTED"


BASE = written(Image.new("RGB", (400, 300), "white"))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (8000, 8000, None),
        (8001, 8000, "TOO_MANY_PIXELS"),
        (12000, 5000, None),
        (12001, 300, "TOO_MANY_PIXELS"),
        (300, 12001, "TOO_MANY_PIXELS"),
        (200, 300, None),
        (199, 300, "IMAGE_TOO_SMALL"),
        (300, 199, "IMAGE_TOO_SMALL"),
    ],
)
def test_limits_of_a_baseline_jpeg(width: int, height: int, expected: str | None, profile: PhotoProfile) -> None:
    assert code(claiming_jpeg(BASE, width, height), profile) == expected


@pytest.mark.parametrize(("width", "height", "expected"), [(5000, 5000, None), (5000, 5001, "TOO_MANY_PIXELS")])
def test_what_cannot_be_shrunk_while_it_is_decoded_may_be_smaller_only(
    width: int, height: int, expected: str | None, profile: PhotoProfile
) -> None:
    progressive = written(Image.new("RGB", (400, 300), "white"), progressive=True)
    assert code(claiming_jpeg(progressive, width, height), profile) == expected
    assert code(png(width, height, b""), profile) == expected
    extent = b"\0\0\0\x14ispe" + bytes(4) + struct.pack(">II", width, height)
    assert code(b"\0\0\0\x18ftypheic" + bytes(8) + extent, profile) == expected


@pytest.mark.parametrize("marker", sorted({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}))
def test_every_kind_of_frame_is_read_and_all_but_the_plain_ones_keep_their_coefficients(
    marker: int, profile: PhotoProfile
) -> None:
    data = bytearray(BASE)
    data[frame_at(BASE) + 1] = marker
    told = sniff(bytes(data), limits=profile.input)
    assert isinstance(told, Header)
    assert (told.width_px, told.height_px, told.buffered) == (400, 300, marker >= 0xC2)


def test_length_is_refused_first_and_exactly(profile: PhotoProfile) -> None:
    limits = replace(profile.input, bytes_max=len(BASE))
    assert isinstance(sniff(BASE, limits=limits), Header)
    told = sniff(BASE + b"\0", limits=limits)
    assert isinstance(told, Finding)
    assert told.code == "FILE_TOO_LARGE"
    assert code(b"", profile) == "FILE_EMPTY"


@pytest.mark.parametrize("cut", [1, 2, 60])
def test_a_jpeg_without_its_end_is_incomplete_even_if_a_thumbnail_in_it_has_one(
    cut: int, profile: PhotoProfile
) -> None:
    inside = with_segment(BASE, 0xE1, b"Exif\0\0" + BASE)
    for data in (BASE, inside):
        assert code(data, profile) is None
        assert code(data[:-cut], profile) == "FILE_TRUNCATED"


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", BASE[:40], BASE[:-40], BASE]))
def test_a_picture_with_any_bytes_in_it_is_a_header_or_a_finding(
    data: bytes, start: bytes, profile: PhotoProfile
) -> None:
    assert isinstance(sniff(start + data, limits=profile.input), Header | Finding)


def test_fill_bytes_before_a_marker_are_none_of_it(profile: PhotoProfile) -> None:
    filled = BASE[:2] + b"\xff\xff\xff" + BASE[3:]
    assert sniff(filled, limits=profile.input) == sniff(BASE, limits=profile.input)


@given(data=st.binary(max_size=80), magic=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0\0\0\0ftypheic"]))
def test_anything_after_the_magic_is_a_header_or_a_finding(data: bytes, magic: bytes, profile: PhotoProfile) -> None:
    told = sniff(magic + data, limits=profile.input)
    assert isinstance(told, Finding) or min(told.width_px, told.height_px) >= 200


def test_a_png_begins_with_its_header(profile: PhotoProfile) -> None:
    other = b"\x89PNG\r\n\x1a\n" + chunk(b"gAMA", bytes(13)) + chunk(b"IEND", b"")
    assert code(other, profile) == "FILE_CORRUPT"
    assert code(png(400, 300, b"")[:-8], profile) == "FILE_TRUNCATED"


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(639, 2000, 1), (1279, 2000, 1), (1280, 2000, 2), (2560, 4000, 4), (4000, 5119, 4), (5119, 6000, 4), (5120, 6000, 8)],
)  # fmt: skip
def test_a_jpeg_is_shrunk_as_far_as_its_short_side_allows(width: int, height: int, scale: int) -> None:
    for header in (
        Header(format="jpeg", width_px=width, height_px=height),
        Header(format="jpeg", width_px=height, height_px=width),
    ):
        assert draft_scale(header, short_side_px=640) == scale
    assert draft_scale(Header(format="png", width_px=width, height_px=height), short_side_px=640) == 1
