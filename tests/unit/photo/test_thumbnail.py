"""Thumbnails: small pictures of uploads, made safely."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.photo.thumbnail import thumbnail


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


def test_what_is_no_picture_has_no_thumbnail() -> None:
    assert thumbnail(b"", side_px=260) is None
    assert thumbnail(b"GIF89a" + bytes(100), side_px=260) is None


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_bytes_make_it_raise(noise: bytes, cut: int) -> None:
    damaged = _picture("JPEG", (64, 64))[:cut] + noise
    assert thumbnail(damaged, side_px=32) is None or isinstance(thumbnail(damaged, side_px=32), bytes)
