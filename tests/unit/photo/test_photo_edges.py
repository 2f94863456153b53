"""What is easily got wrong at the rims: of the file, of the frame, of the person, of memory."""

from __future__ import annotations

import io
import random
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFilter

from pipeline.photo.decode import Decoded, decode
from pipeline.photo.findings import Finding
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.resample import view
from pipeline.photo.result import Adjust
from pipeline.photo.sniff import Header, sniff
from pipeline.photo.vision import Vision
from tests.unit.photo.conftest import Make
from tests.unit.photo.forgeries import chunk, claiming_jpeg, claiming_png
from tests.unit.photo.portraits import PHOTOS, cut, head, sample, turned, written
from tests.unit.photo.verdicts import codes, picture, refused
from tests.unit.photo.visions import Altered

# ----------------------------------------------------------------------------------------------------------- of the file


@pytest.mark.parametrize("share", [0.6, 0.75, 0.85])
def test_a_jpeg_that_was_cut_and_closed_again_is_incomplete(make: Make, share: float) -> None:
    data = written(cut((0, 0, 910, 560)))
    assert refused(make(data[: int(len(data) * share)] + b"\xff\xd9")) == "FILE_TRUNCATED"


def test_a_png_that_claims_rows_it_does_not_hold_is_incomplete_and_one_with_a_black_foot_is_not(make: Make) -> None:
    assert refused(make(claiming_png(written(head(), "PNG"), 560, 1200))) == "FILE_TRUNCATED"
    footed = head()
    footed.paste((0, 0, 0), (0, 530, 560, 540))
    assert make(written(footed, "PNG")).picture is not None


def test_a_jpeg_in_several_scans_is_bounded_like_a_progressive_one(profile: PhotoProfile) -> None:
    data = claiming_jpeg(written(Image.new("RGB", (400, 400), "white")), 6000, 6000)
    assert isinstance(sniff(data, limits=profile.input), Header)
    at = data.index(b"\xff\xda")
    first_alone = data[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[at + 14 :]
    told = sniff(first_alone, limits=profile.input)
    assert not isinstance(told, Header)
    assert told.code == "TOO_MANY_PIXELS"


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_shrunk_decoding_holds_whole_pixels_of_the_file_only(profile: PhotoProfile, scale: int) -> None:
    data = written(sample().resize((1365, 1711)))
    header = sniff(data, limits=profile.input)
    assert isinstance(header, Header)
    decoded = decode(data, header, scale=scale)
    assert isinstance(decoded, Decoded)
    assert decoded.image.size == (1365 // scale, 1711 // scale)


def test_what_follows_a_jpegs_end_is_nobodys_business(make: Make) -> None:
    film = b"\0\0\0\x18ftypmp42" + random.Random(1).randbytes(8_000_000)
    assert film.count(b"\xff\xda") > 64
    assert make(written(head()) + film).picture is not None


@pytest.mark.parametrize(
    "flood", [b"\xff\xfe\0\2" * 20_000, b"\xff" * 600_000, b"\xff\xe5\0\2" * 20_000, b"\xff\xdb\0\2" * 20_000]
)
def test_a_flood_of_segments_is_refused_before_it_is_decoded(make: Make, flood: bytes) -> None:
    data = written(head())
    result = make(data[:2] + flood + data[2:])
    assert refused(result) == "TOO_MANY_SCANS"
    assert "decode" not in result.timings_ms


def test_a_flood_of_chunks_or_of_text_is_refused(make: Make) -> None:
    data = written(head(), "PNG")
    assert refused(make(data[:33] + chunk(b"prVt", b"") * 10_000 + data[33:])) == "FILE_CORRUPT"
    text = b"k\0\1\0\0\0" + zlib.compress(b"a" * 1_000_000)
    assert refused(make(data[:33] + chunk(b"iTXt", text) * 6 + data[33:])) == "FILE_CORRUPT"
    assert make(data[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 200_000) + data[33:]).picture


def test_a_heic_whose_items_have_no_names_never_reaches_its_decoder(make: Make) -> None:
    data = bytearray((PHOTOS / "derived" / "turned.heic").read_bytes())
    at = data.index(b"Exif")
    data[at + 3] = 0xEB
    result = make(bytes(data))
    assert refused(result) == "FILE_CORRUPT"
    assert "decode" not in result.timings_ms


# ---------------------------------------------------------------------------------------------------------- of the frame


@pytest.mark.parametrize("roll", [-6, -3, 3])
def test_a_tight_portrait_with_a_tilt_is_levelled_by_enlarging_it(make: Make, roll: float) -> None:
    wide = Image.new("RGB", (1600, 1800), (252, 252, 252))
    wide.paste(sample(), (345, 330))
    wide = wide.rotate(roll, Image.Resampling.BICUBIC, center=(823, 535), fillcolor=(252, 252, 252))
    result = make(written(wide.crop((619, 332, 1027, 904)).resize((413, 579), Image.Resampling.LANCZOS)))
    assert result.picture is not None, codes(result)
    assert 179 <= result.measures["face_width_px"] <= 255


def test_a_picture_with_too_little_under_the_chin_does_not_keep_its_frame(make: Make) -> None:
    near = sample().crop((353, 0, 625, 335)).resize((358, 441), Image.Resampling.LANCZOS)
    result = make(written(near))
    assert result.geometry is not None
    assert "SHOULDERS_CROPPED" in codes(result)


@pytest.mark.parametrize("bar", [(0, 0, 357, 4), (0, 0, 3, 440), (354, 0, 357, 440)])
def test_a_bar_along_one_edge_is_no_plain_background(make: Make, bar: tuple[int, int, int, int]) -> None:
    finished = picture(make(written(head())))
    ImageDraw.Draw(finished).rectangle(bar, fill=(20, 60, 160))
    assert "BACKGROUND_NOT_PLAIN" in codes(make(written(finished)))


def test_a_printed_date_is_no_plain_background(make: Make) -> None:
    dated = cut((285, 0, 705, 520))
    ImageDraw.Draw(dated).text((20, 20), "2026-11-28 14:22", fill=(220, 120, 0), font_size=22)
    assert "BACKGROUND_NOT_PLAIN" in codes(make(written(dated, "PNG")))


def test_a_border_is_no_plain_background(make: Make) -> None:
    finished = picture(make(written(head())))
    ImageDraw.Draw(finished).rectangle((0, 0, 357, 440), outline="black", width=3)
    result = make(written(finished))
    assert "BACKGROUND_NOT_PLAIN" in codes(result)


def test_a_frame_that_leaves_the_source_by_a_seam_moves_the_eyes_instead(make: Make) -> None:
    for left in (294, 296, 298):
        result = make(written(cut((left, 0, 910, 1137)), "PNG"))
        assert result.geometry is not None
        assert result.geometry.on_source((0, 440))[0] > -0.5
        assert 165 <= result.measures["eye_mid_x_px"] <= 179.01


def test_a_view_that_is_wider_than_a_large_image_keeps_every_pixel_in_its_place() -> None:
    image = Image.radial_gradient("L").convert("RGB").resize((2000, 2000))
    wide = view(image, (12.5, 0, -250, 0, 12.5, -250), (200, 200), quality="fine")
    inner = view(image, (12.5, 0, 0, 0, 12.5, 0), (160, 160), quality="fine")
    assert wide.crop((0, 0, 200, 19)).getextrema() == ((255, 255),) * 3
    difference = np.abs(np.asarray(wide.crop((24, 24, 176, 176)), int) - np.asarray(inner.crop((4, 4, 156, 156)), int))
    assert difference.max() <= 2


def test_a_person_who_turns_the_frame_leaves_a_tilt_that_is_judged(profile: PhotoProfile, vision: Vision) -> None:
    result = normalise(written(head()), profile=profile, vision=vision, adjust=Adjust(roll_deg=15))
    assert "TILTED" in codes(result)
    assert result.measures["roll_deg"] == pytest.approx(15, abs=2)


# --------------------------------------------------------------------------------------------- of the person and the light


def test_a_soft_shadow_becomes_white_and_the_hair_stays(make: Make) -> None:
    grey = sample("derived/bg_lightgrey.jpg")
    spot = Image.new("L", grey.size, 0)
    ImageDraw.Draw(spot).ellipse((640, 120, 720, 300), fill=255)
    spot = spot.filter(ImageFilter.GaussianBlur(30)).point(lambda value: value * 45 // 255)
    result = make(written(ImageChops.subtract(grey, Image.merge("RGB", (spot,) * 3)), "PNG"))
    assert "BACKGROUND_WHITENED" in codes(result)
    luma = np.asarray(picture(result).convert("L"), int)
    assert luma[20:140, 335:355].min() >= 245
    assert luma[20:60, 150:210].mean() < 140


def test_a_card_sized_photo_is_brought_to_srgb_as_any_other(make: Make) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    finished = picture(make(written(head())))
    red, green, blue = finished.split()
    right = make(written(Image.merge("RGB", (blue, green, red)), "PNG", icc_profile=exchanged))
    assert right.picture is not None
    difference = np.abs(np.asarray(picture(right), int) - np.asarray(finished, int))
    assert difference.mean() < 6


def test_a_face_found_by_turning_must_be_a_clear_one(profile: PhotoProfile, vision: Vision) -> None:
    unsure = Altered(vision=vision, mesh_as=lambda mesh: replace(mesh, presence=0.3))
    lying = written(turned(head(), 0).transpose(Image.Transpose.ROTATE_90))
    assert refused(normalise(lying, profile=profile, vision=unsure)) == "NO_FACE"
    assert "FACE_NOT_CLEAR" in codes(normalise(written(head()), profile=profile, vision=unsure))


def test_a_small_face_in_a_huge_photo_is_decoded_no_finer_than_memory_allows(
    profile: PhotoProfile, vision: Vision, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[int] = []

    def recorded(data: bytes, header: Header, *, scale: int) -> Decoded | Finding:
        scales.append(scale)
        return decode(data, header, scale=scale)

    monkeypatch.setattr("pipeline.photo.normalise.decode", recorded)
    huge = Image.new("RGB", (6600, 6600), "white")
    huge.paste(sample().resize((1317, 1645)), (2600, 4955))
    out = io.BytesIO()
    huge.save(out, "JPEG", quality=80)
    result = normalise(out.getvalue(), profile=profile, vision=vision)
    assert result.measures["face_source_px"] < 372
    assert scales == [8, 2]  # at 1 the face would have its pixels, and the image 44 million
