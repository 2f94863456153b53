"""The finished file: the quality nearest to the wanted one whose size fits, and nothing in it besides the picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pipeline.photo.encode import Encoded, bare_jpeg, encode, is_clean, nearest_quality
from pipeline.photo.findings import Finding
from pipeline.photo.profile import PhotoProfile, load_profile
from tests.unit.photo.forgeries import with_scans, with_segment
from tests.unit.photo.portraits import sample

PROFILES = Path(__file__).parents[3] / "config" / "photo"


@pytest.mark.parametrize(
    ("bytes_per_quality", "quality"),
    [(250, 70), (286, 69), (300, 66), (500, 40), (501, None), (200, 72), (151, 95), (150, None)],
)
def test_the_fitting_quality_nearest_to_the_wanted_one_is_found(
    profile: PhotoProfile, bytes_per_quality: int, quality: int | None
) -> None:
    asked: list[int] = []

    def size_at(q: int) -> int:
        asked.append(q)
        return q * bytes_per_quality

    assert nearest_quality(size_at, profile=profile) == quality
    assert len(asked) <= 8


def picture(grain: float, blur: float = 0) -> Image.Image:
    """A picture of the card's size with more or less in it."""
    part = sample().crop((290, 10, 693, 506)).resize((358, 441))
    noise = np.random.default_rng(1).normal(0, grain, (441, 358, 3))
    return Image.fromarray(np.clip(np.asarray(part) + noise, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(blur)
    )


def sizes(image: Image.Image) -> dict[int, int]:
    """The size of every quality, written without the photo stage."""
    found = {}
    for quality in range(40, 96):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, subsampling="4:2:0", dpi=(350, 350))
        found[quality] = len(out.getvalue())
    return found


@pytest.mark.parametrize(("grain", "blur"), [(0, 0), (0, 0.8), (0, 2), (0, 6), (4, 0), (9, 0), (14, 0), (40, 0)])
def test_no_other_quality_that_fits_is_nearer(grain: float, blur: float, profile: PhotoProfile) -> None:
    image = picture(grain, blur)
    fitting = [q for q, size in sizes(image).items() if 14336 <= size <= 20000]
    made = encode(image, profile=profile)
    if not fitting:
        assert isinstance(made, Finding)
        assert made.code == "SIZE_UNREACHABLE"
        assert made.limit == "14336-20000 B"
    else:
        assert isinstance(made, Encoded)
        assert abs(made.quality - 70) == min(abs(q - 70) for q in fitting)
        assert made.encodes <= 8
        assert is_clean(made.data, output=profile.output)


def test_a_picture_that_is_too_large_by_little_is_packed_better(profile: PhotoProfile) -> None:
    image = picture(6)
    plain = sizes(image)[40]
    narrow = replace(profile, file=replace(profile.file, bytes_min=100, bytes_max=plain - 20))
    made = encode(image, profile=narrow)
    assert isinstance(made, Encoded)
    assert made.quality == 40
    assert len(made.data) <= plain - 20


def file(profile: PhotoProfile) -> bytes:
    made = encode(picture(0), profile=profile)
    assert isinstance(made, Encoded)
    return made.data


def test_what_an_image_carries_is_not_written(profile: PhotoProfile) -> None:
    image = picture(0)
    image.info |= {"comment": b"SECRET", "exif": b"Exif\0\0SECRET", "icc_profile": b"SECRET", "xmp": b"SECRET"}
    made = encode(image, profile=profile)
    assert isinstance(made, Encoded)
    assert made.data == file(profile)


def test_a_file_with_anything_more_or_other_is_not_clean(profile: PhotoProfile) -> None:
    image, good = picture(0), file(profile)
    assert is_clean(good, output=profile.output)

    def saved(**options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, "JPEG", **{"quality": 70, "subsampling": "4:2:0", "dpi": (350, 350)} | options)
        return out.getvalue()

    assert is_clean(saved(), output=profile.output)
    others = {
        "comment": with_segment(good, 0xFE, b"hello"),
        "exif": with_segment(good, 0xE1, b"Exif\0\0"),
        "colour profile": with_segment(good, 0xE2, b"ICC_PROFILE\0"),
        "iptc": with_segment(good, 0xED, b"Photoshop"),
        "adobe": with_segment(good, 0xEE, b"Adobe"),
        "a second head": with_segment(good, 0xE0, b"JFXX\0"),
        "a longer head": good[:4] + b"\0\x15" + good[6:20] + b"EXTRA" + good[20:],
        "a second frame": good[:20] + b"\xff\xc2" + good[good.find(b"\xff\xc0") + 2 :][:17] + good[20:],
        "another version": good[:12] + b"\x02" + good[13:],
        "trailing bytes": good + b"\0",
        "a second file": good + good,
        "no end": good[:-2],
        "progressive": saved(progressive=True),
        "full colour": saved(subsampling="4:4:4"),
        "another density": saved(dpi=(300, 300)),
        "no density": good[:13] + b"\0" + good[14:],
        "a thumbnail": good[:18] + b"\1\1" + good[20:],
        "two scans": with_scans(good, 2),
        "another size": _sized(image),
        "nothing": b"",
        "noise": b"\xff\xd8" + bytes(50),
    }
    assert {name for name, data in others.items() if is_clean(data, output=profile.output)} == set()


def parts(data: bytes) -> list[bytes]:
    """A bare JPEG in pieces: the start, each segment, what follows the last."""
    found, at = [data[:2]], 2
    while found[-1][1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at : at + length])
        at += length
    return [*found, data[at:]]


def test_the_pieces_of_a_file_are_the_file(profile: PhotoProfile) -> None:
    good = file(profile)
    assert b"".join(parts(good)) == good
    assert [part[1] for part in parts(good)[:-1]] == [0xD8, 0xE0, *[0xDB] * 2, 0xC0, *[0xC4] * 4, 0xDA]


@pytest.fixture(scope="module")
def good() -> bytes:
    return file(load_profile(PROFILES / "ssc-national.toml"))


@given(data=st.data(), marker=st.integers(0, 255), payload=st.binary(max_size=80))
def test_no_segment_more_is_clean(good: bytes, data: st.DataObject, marker: int, payload: bytes) -> None:
    pieces = parts(good)
    extra = st.sampled_from(pieces[1:-1]) | st.just(
        b"\xff" + bytes([marker]) + (2 + len(payload)).to_bytes(2, "big") + payload
    )
    pieces.insert(data.draw(st.integers(0, len(pieces))), data.draw(extra))
    assert bare_jpeg(b"".join(pieces)) is None


@pytest.mark.parametrize("between", [b"\xff", b"\xff\x01", b"\xff\xd0", b"\xff\xd8", b"\xff" * 99])
def test_nothing_between_the_segments_is_clean(good: bytes, between: bytes) -> None:
    pieces = parts(good)
    for at in range(1, len(pieces) - 1):
        assert bare_jpeg(b"".join([*pieces[:at], between, *pieces[at:]])) is None


@given(data=st.data())
def test_no_segment_less_and_no_order_but_one_is_clean(good: bytes, data: st.DataObject) -> None:
    pieces = parts(good)
    one = data.draw(st.integers(0, len(pieces) - 1))
    assert bare_jpeg(b"".join(pieces[:one] + pieces[one + 1 :])) is None
    other = data.draw(st.integers(0, len(pieces) - 1))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    if [part[1] for part in pieces[:-1]] != [part[1] for part in parts(good)[:-1]]:
        assert bare_jpeg(b"".join(pieces)) is None


@given(data=st.data(), follower=st.integers(1, 255))
def test_no_marker_in_the_scan_is_clean(good: bytes, data: st.DataObject, follower: int) -> None:
    *head, scan = parts(good)
    at = data.draw(st.integers(0, len(scan) - 2))
    assert bare_jpeg(b"".join([*head, scan[:at], b"\xff", bytes([follower]), scan[at:]])) is None


@given(data=st.data(), tail=st.binary(min_size=1, max_size=50))
def test_no_byte_after_the_end_and_no_early_end_is_clean(good: bytes, data: st.DataObject, tail: bytes) -> None:
    assert bare_jpeg(good + tail) is None
    assert bare_jpeg(good + tail + b"\xff\xd9") is None
    cut = data.draw(st.integers(0, len(good) - 1))
    assert bare_jpeg(good[:cut]) is None


@given(data=st.data(), tables=st.sampled_from([0xDB, 0xC4]), more=st.binary(min_size=1, max_size=70))
def test_no_table_with_more_in_it_is_clean(good: bytes, data: st.DataObject, tables: int, more: bytes) -> None:
    pieces = parts(good)
    at = data.draw(st.sampled_from([n for n, part in enumerate(pieces[1:-1], start=1) if part[1] == tables]))
    longer = pieces[at][4:] + more
    pieces[at] = pieces[at][:2] + (2 + len(longer)).to_bytes(2, "big") + longer
    assert bare_jpeg(b"".join(pieces)) is None


@given(noise=st.binary(max_size=300), cut=st.integers(0, 700))
def test_no_bytes_make_the_reader_raise(good: bytes, noise: bytes, cut: int) -> None:
    assert bare_jpeg(good[:cut] + noise) is None or noise.endswith(b"\xff\xd9")


@given(quality=st.integers(1, 100), optimize=st.booleans())
def test_whatever_the_encoder_writes_is_bare(quality: int, optimize: bool) -> None:
    out = io.BytesIO()
    picture(0).resize((90, 110)).save(out, "JPEG", quality=quality, optimize=optimize)
    bare = bare_jpeg(out.getvalue())
    assert bare is not None
    assert (bare.width_px, bare.height_px, bare.density[:1]) == (90, 110, b"\0")


def _sized(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.resize((441, 358)).save(out, "JPEG", quality=70, subsampling="4:2:0", dpi=(350, 350))
    return out.getvalue()
