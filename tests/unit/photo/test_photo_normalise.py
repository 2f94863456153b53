"""Any bytes in, a conforming picture or a reason out."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.photo.encode import is_clean, nearest_quality
from pipeline.photo.normalise import Normalised, normalise
from pipeline.photo.profile import PhotoProfile

Writer = Callable[..., bytes]
SIZE = (358, 441)

property_test = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
)


def codes(result: Normalised) -> set[str]:
    return {finding.code for finding in result.findings}


def refused(result: Normalised) -> str:
    assert result.picture is None
    (finding,) = result.findings
    assert finding.level == "reject"
    return finding.code


def picture(result: Normalised) -> Image.Image:
    assert result.picture is not None, codes(result)
    return Image.open(io.BytesIO(result.picture)).convert("RGB")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, colour_type: int = 2, before_data: bytes = b"", data: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before_data + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.rule("DL-16(2)")
def test_a_portrait_becomes_the_cards_picture(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    result = normalise(write(portrait), profile=profile)

    assert result.picture is not None
    opened = Image.open(io.BytesIO(result.picture))
    assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", SIZE)
    assert opened.info["dpi"] == (350, 350)
    assert 14336 <= len(result.picture) <= 20000
    assert is_clean(result.picture, output=profile.output)
    assert (result.width_px, result.height_px) == SIZE
    assert result.timings_ms["total"] > 0


def test_same_bytes_same_picture(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    data = write(portrait)
    assert normalise(data, profile=profile).picture == normalise(data, profile=profile).picture


def test_nothing_of_the_uploads_metadata_comes_along(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET-exif"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = write(portrait, exif=exif, comment=b"SECRET-comment", xmp=b"<x:xmpmeta SECRET-xmp/>", icc_profile=srgb)

    result = normalise(data + b"SECRET-trailer<script>", profile=profile)

    assert result.picture is not None
    assert b"SECRET" in data
    assert b"SECRET" not in result.picture
    assert is_clean(result.picture, output=profile.output)


def test_a_finished_picture_keeps_its_frame(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    once = normalise(write(portrait), profile=profile)
    assert once.picture is not None
    twice = normalise(once.picture, profile=profile)
    first, second = picture(once), picture(twice)
    for corner in ((15, 15), (342, 15), (15, 425), (342, 425)):
        near = zip(first.getpixel(corner), second.getpixel(corner), strict=True)  # type: ignore[arg-type]
        assert all(abs(a - b) < 24 for a, b in near)


def test_a_wide_photo_is_cut_in_the_middle_and_a_tall_one_keeps_its_top(write: Writer, profile: PhotoProfile) -> None:
    wide = Image.new("RGB", (1200, 441), "red")
    wide.paste((0, 0, 255), (421, 0, 779, 441))
    tall = Image.new("RGB", (358, 1441), "red")
    tall.paste((0, 0, 255), (0, 100, 358, 541))
    small = replace(profile, file=replace(profile.file, bytes_min=100))

    for source in (wide, tall):
        made = picture(normalise(write(source, "PNG"), profile=small))
        assert {made.getpixel(at)[2] > 200 for at in ((3, 3), (354, 3), (179, 220), (3, 437), (354, 437))} == {True}  # type: ignore[index]


# ---------------------------------------------------------------------------------------------------- orientation, modes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_exif_orientation_is_turned_upright(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, orientation: int, kind: str
) -> None:
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = portrait.transpose(stored_by[orientation]) if orientation in stored_by else portrait
    exif = Image.Exif()
    exif[0x0112] = orientation

    made = picture(normalise(write(stored, kind, exif=exif), profile=profile))

    red, lime, blue, yellow = (made.getpixel(at) for at in ((25, 20), (330, 20), (25, 415), (330, 415)))
    assert red[0] > 180 > 90 > red[2]  # type: ignore[index]
    assert lime[1] > 180 > 90 > lime[0]  # type: ignore[index]
    assert blue[2] > 180 > 90 > blue[0]  # type: ignore[index]
    assert min(yellow[:2]) > 160 > 90 > yellow[2]  # type: ignore[index]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert normalise(write(portrait, exif=exif), profile=profile).measures["orientation"] == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_photo_without_colours_is_refused(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, mode: str
) -> None:
    grey = portrait.convert("L")
    image = Image.new("I;16", grey.size, 40000) if mode == "I;16" else grey.convert(mode)
    assert refused(normalise(write(image, "PNG"), profile=profile)) == "NOT_COLOUR"


def test_a_grey_jpeg_and_a_print_colour_jpeg_are_refused(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    assert refused(normalise(write(portrait.convert("L")), profile=profile)) == "NOT_COLOUR"
    assert refused(normalise(write(portrait.convert("CMYK")), profile=profile)) == "COLOUR_MODE_UNSUPPORTED"


@pytest.mark.parametrize("mode", ["RGBA", "P", "P+transparency"])
def test_transparency_becomes_white(portrait: Image.Image, write: Writer, profile: PhotoProfile, mode: str) -> None:
    image, options = portrait.copy(), {}
    image.paste((0, 0, 0), (0, 0, 716, 120))
    if mode == "RGBA":
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 716, 120))
        image.putalpha(alpha)
    else:
        image = image.quantize(64)
        if mode == "P+transparency":
            options["transparency"] = image.getpixel((10, 10))
    made = picture(normalise(write(image, "PNG", **options), profile=profile))
    top = made.getpixel((179, 20))
    assert min(top) > 240 if mode != "P" else max(top) < 15  # type: ignore[type-var,operator]


def test_sixteen_bit_colour_png_is_taken(profile: PhotoProfile) -> None:
    row = b"\0" + b"".join(struct.pack(">HHH", x * 100, 65535 - x * 100, 30000) for x in range(358))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 358, 441, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(row * 441)) + chunk(b"IEND", b"")
    small = replace(profile, file=replace(profile.file, bytes_min=100))
    assert normalise(data, profile=small).picture is not None


def test_a_wide_colour_profile_is_converted_and_a_broken_one_ignored(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    plain = picture(normalise(write(portrait), profile=profile))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")

    exchanged = picture(normalise(write(portrait, icc_profile=swapped), profile=profile))
    broken = normalise(write(portrait, icc_profile=b"not a profile"), profile=profile)

    assert plain.getpixel((25, 20))[0] > 200 > 100 > exchanged.getpixel((25, 20))[0]  # type: ignore[index]
    assert "ICC_IGNORED" in codes(broken)
    assert broken.picture is not None


def test_a_phones_multi_picture_file_uses_its_first_frame(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    data = write(portrait, "MPO", save_all=True, append_images=[Image.new("RGB", portrait.size, "black")], quality=88)
    assert picture(normalise(data, profile=profile)).getpixel((25, 20))[0] > 180  # type: ignore[index]


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "EPS", "PDF"])
def test_other_formats_are_refused_by_content(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, kind: str
) -> None:
    assert refused(normalise(write(portrait, kind), profile=profile)) == "FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("data", [b"<svg/>", b"<!doctype html>", b"PK\x03\x04", b"\0", b"\xff\xd8"])
def test_bytes_that_are_no_image_are_refused(data: bytes, profile: PhotoProfile) -> None:
    assert refused(normalise(data, profile=profile)) == "FORMAT_UNSUPPORTED"


def test_nothing_and_too_much(profile: PhotoProfile) -> None:
    assert refused(normalise(b"", profile=profile)) == "FILE_EMPTY"
    result = normalise(b"\xff\xd8\xff" + bytes(20 * 1024 * 1024), profile=profile)
    assert refused(result) == "FILE_TOO_LARGE"
    assert "20 MB" in result.findings[0].zh


def test_an_animated_png_is_refused(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    frames = [Image.new("RGB", portrait.size, "black")]
    assert (
        refused(normalise(write(portrait, "PNG", save_all=True, append_images=frames), profile=profile)) == "ANIMATED"
    )


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (12001, 300), (65535, 65535), (2**31 - 1, 2**31 - 1)])
def test_a_png_of_too_many_pixels_is_refused_by_its_header(width: int, height: int, profile: PhotoProfile) -> None:
    result = normalise(png(width, height, data=zlib.compress(bytes(1000))), profile=profile)
    assert refused(result) == "TOO_MANY_PIXELS"
    assert "decode" not in result.timings_ms


def test_a_jpeg_whose_header_claims_too_many_pixels_is_refused(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    for progressive, side in ((False, 8001), (True, 5001)):
        data = bytearray(write(portrait, progressive=progressive))
        at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
        assert refused(normalise(bytes(data), profile=profile)) == "TOO_MANY_PIXELS"


def test_two_frame_headers_that_disagree_never_decode(
    portrait: Image.Image, write: Writer, profile: PhotoProfile
) -> None:
    data = write(portrait)
    at = data.index(b"\xff\xc0")
    forged = data[: at + 5] + struct.pack(">HH", 6000, 6000) + data[at + 9 : at + 19]
    assert refused(normalise(data[:at] + forged[at:] + data[at:], profile=profile)) in {
        "FILE_CORRUPT",
        "FILE_TRUNCATED",
    }


def test_a_scan_bomb_is_refused_without_decoding(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    data = write(portrait, progressive=True)
    at = data.rindex(b"\xff\xda")
    result = normalise(data[:at] + data[at:-2] * 100 + data[-2:], profile=profile)
    assert refused(result) == "TOO_MANY_SCANS"
    assert "decode" not in result.timings_ms


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_compressed_text_bomb_costs_nothing(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, kind: bytes
) -> None:
    data = write(portrait, "PNG")
    bomb = chunk(kind, b"k\0\0" + zlib.compress(bytes(30_000_000), 9))
    result = normalise(data[:33] + bomb + data[33:], profile=profile)
    assert result.picture is not None or refused(result) == "FILE_CORRUPT"
    assert result.timings_ms["total"] < 500


def test_a_tiny_photo_is_refused_with_its_limit(write: Writer, profile: PhotoProfile) -> None:
    result = normalise(write(Image.new("RGB", (199, 400), "white")), profile=profile)
    assert refused(result) == "IMAGE_TOO_SMALL"
    assert (result.findings[0].measured, result.findings[0].limit) == (199, "200")


def test_a_picture_that_cannot_reach_the_window_is_refused(write: Writer, profile: PhotoProfile) -> None:
    blank = write(Image.new("RGB", (700, 900), "white"))
    assert refused(normalise(blank, profile=profile)) == "SIZE_UNREACHABLE"


# ---------------------------------------------------------------------------------------------------------- quality search


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


def test_a_changed_quality_is_said(portrait: Image.Image, write: Writer, profile: PhotoProfile) -> None:
    busy = Image.effect_noise((716, 882), 90).convert("RGB")
    result = normalise(write(Image.blend(portrait, busy, 0.12)), profile=profile)
    assert result.quality is not None
    assert ("QUALITY_CHANGED" in codes(result)) == (result.quality != 70)


# ------------------------------------------------------------------------------------------------------------- never raises


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "progressive"])
@property_test
@given(share=st.floats(0, 0.999))
def test_no_truncation_yields_a_picture(
    uploads: dict[str, bytes], profile: PhotoProfile, kind: str, share: float
) -> None:
    data = uploads[kind]
    assert refused(normalise(data[: int(len(data) * share)], profile=profile)) in {
        "FILE_EMPTY", "FORMAT_UNSUPPORTED", "FILE_TRUNCATED", "FILE_CORRUPT",
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 2, 3, 50])
def test_a_missing_end_is_an_incomplete_file(
    portrait: Image.Image, write: Writer, profile: PhotoProfile, cut: int
) -> None:
    for progressive in (False, True):
        data = write(portrait, progressive=progressive)[:-cut]
        assert refused(normalise(data, profile=profile)) == "FILE_TRUNCATED"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "progressive"])
@property_test
@given(flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), min_size=1, max_size=12), head=st.booleans())
def test_bit_flips_never_raise(
    uploads: dict[str, bytes], profile: PhotoProfile, kind: str, flips: list[tuple[float, int]], head: bool
) -> None:
    data = bytearray(uploads[kind])
    for share, bit in flips:
        data[int((800 if head else len(data)) * share)] ^= 1 << bit
    result = normalise(bytes(data), profile=profile)
    assert (result.picture is None) == bool(result.rejections)
    assert result.picture is None or is_clean(result.picture, output=profile.output)


@property_test
@given(data=st.binary(max_size=400), magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_noise_never_raises(profile: PhotoProfile, data: bytes, magic: bytes) -> None:
    assert normalise(magic + data, profile=profile).picture is None
