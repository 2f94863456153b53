"""Thumbnails: small pictures of uploads, made safely."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.photo.profile import PhotoProfile
from pipeline.photo.thumbnail import LIMITS, thumbnail
from tests.unit.photo.forgeries import claiming_jpeg, claiming_png, with_scans
from tests.unit.photo.portraits import PHOTOS, exif, head, written


def _picture(form: str, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_thumbnail_fits_its_square_and_keeps_the_shape(form: str) -> None:
    small = thumbnail(_picture(form, (1200, 600)), side_px=260)
    assert small is not None
    with Image.open(io.BytesIO(small)) as image:
        assert image.format == "JPEG"
        assert image.size == (260, 130)


@pytest.mark.parametrize("name", ["derived/good.heic", "derived/exif6.jpg", "derived/turned.heic"])
def test_a_thumbnail_is_upright(name: str) -> None:
    small = thumbnail((PHOTOS / name).read_bytes(), side_px=260)
    assert small is not None
    with Image.open(io.BytesIO(small)) as image:
        assert image.width < image.height == 260


def test_a_thumbnail_carries_nothing_but_its_pixels() -> None:
    data = written(head(), comment=b"SECRET", exif=exif(1), xmp=b"SECRET", icc_profile=b"SECRET") + b"SECRET"
    small = thumbnail(data, side_px=100)
    assert small is not None
    assert b"SECRET" not in small
    assert b"Exif" not in small


def test_what_would_cost_too_much_has_no_thumbnail() -> None:
    assert thumbnail(with_scans(written(head()), 65), side_px=100) is None
    assert thumbnail(claiming_jpeg(written(head()), 8001, 8000), side_px=100) is None
    assert thumbnail(claiming_jpeg(written(head()), 12001, 100), side_px=100) is None
    assert thumbnail(claiming_png(written(head(), "PNG"), 6000, 6000), side_px=100) is None


def test_what_is_shown_is_bounded_as_what_is_made(profile: PhotoProfile) -> None:
    for name in ("bytes_max", "pixels_max", "pixels_max_undraftable", "side_max_px", "scans_max"):
        assert getattr(LIMITS, name) <= getattr(profile.input, name), name


def test_memory_that_is_at_its_end_is_told_and_not_taken_for_a_bad_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "transpose", full)
    with pytest.raises(MemoryError):
        thumbnail((PHOTOS / "derived" / "exif6.jpg").read_bytes(), side_px=100)


def test_what_is_no_picture_has_no_thumbnail() -> None:
    assert thumbnail(b"", side_px=260) is None
    assert thumbnail(b"GIF89a" + bytes(100), side_px=260) is None


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_bytes_make_it_raise(noise: bytes, cut: int) -> None:
    damaged = _picture("JPEG", (64, 64))[:cut] + noise
    assert thumbnail(damaged, side_px=32) is None or isinstance(thumbnail(damaged, side_px=32), bytes)
