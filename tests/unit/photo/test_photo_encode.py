"""The finished file: the quality nearest to the wanted one whose size fits, and nothing in it besides the picture."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.photo.encode import Encoded, encode, is_clean, nearest_quality
from pipeline.photo.findings import Finding
from pipeline.photo.profile import PhotoProfile
from tests.unit.photo.forgeries import with_scans, with_segment
from tests.unit.photo.portraits import sample


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


def _sized(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.resize((441, 358)).save(out, "JPEG", quality=70, subsampling="4:2:0", dpi=(350, 350))
    return out.getvalue()
