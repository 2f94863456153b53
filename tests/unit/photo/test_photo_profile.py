"""Profiles are data with sources; a wrong one is refused at start, not at the first photo."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.errors import Defect
from pipeline.photo.layout import limits, outside
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile, load_profile, load_profiles
from pipeline.photo.vision import Vision
from tests.unit.photo.conftest import CONFIG
from tests.unit.photo.portraits import head, written
from tests.unit.photo.verdicts import assert_kept

NATIONAL = CONFIG / "ssc-national.toml"
PARTS = ("output", "face", "head", "eye", "layout", "background", "limits", "file", "jpeg", "input")


@pytest.mark.rule("DL-16(2)")
def test_the_national_picture(profile: PhotoProfile) -> None:
    assert (profile.output.width_px, profile.output.height_px, profile.output.dpi) == (358, 441, 350)
    assert limits(profile) == {
        "face_width_px": (179, 255), "eye_mid_x_px": (162, 196), "eye_to_bottom_px": (207, 441), "top_px": (7, 21),
    }  # fmt: skip
    assert (profile.file.bytes_min, profile.file.bytes_max, profile.jpeg.quality_start) == (14336, 20000, 70)
    assert profile.background.replace is False
    assert "社会保障卡制证用数字相片技术要求" in profile.sources["output.width_px"]


@pytest.mark.parametrize("name", load_profiles(CONFIG))
def test_every_number_of_every_profile_has_a_source_with_a_date(name: str) -> None:
    profile = load_profiles(CONFIG)[name]
    numbers = {f"{part}.{field.name}" for part in PARTS for field in fields(getattr(profile, part))}
    assert profile.sources.keys() == numbers
    assert all(source.endswith(")") and "(20" in source for source in profile.sources.values())


@pytest.mark.parametrize("name", load_profiles(CONFIG))
def test_every_profile_makes_its_picture(name: str, vision: Vision) -> None:
    profile = load_profiles(CONFIG)[name]
    result = normalise(written(head(), "PNG"), profile=profile, vision=vision)
    assert result.picture is not None, result.rejections
    assert_kept(result, profile)
    assert not outside(result.measures, profile)
    again = normalise(result.picture, profile=profile, vision=vision)
    assert again.picture is not None, again.rejections
    assert again.geometry is not None
    assert again.geometry.matrix == (1, 0, 0, 0, 1, 0)


def test_a_profile_gives_only_what_differs_from_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "ssc-national.toml").write_text(NATIONAL.read_text())
    city = tmp_path / "city.toml"
    city.write_text(
        'extends = "ssc-national"\nname = "city"\nversion = "1"\n'
        '[sources.city]\ntext = "a city guide"\ndate = 2020-01-01\n'
        '[file]\nbytes_min = { value = 9216, source = "city" }\n'
    )
    profile = load_profile(city)
    assert (profile.name, profile.file.bytes_min, profile.file.bytes_max) == ("city", 9216, 20000)
    assert profile.sources["file.bytes_min"] == "a city guide (2020-01-01)"
    assert load_profiles(tmp_path).keys() == {"city", "ssc-national"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('source = "ssc"', 'source = "nobody"'),
        ("value = 358", "value = 0"),
        ("value = 358", "value = -358"),
        ("value = 358", "value = 358.5"),
        ("value = 358", 'value = "358"'),
        ("value = 14336", "value = 30000"),
        ("quality_floor = { value = 40", "quality_floor = { value = 71"),
        ("quality_ceiling = { value = 95", "quality_ceiling = { value = 101"),
        ('["jpeg", "png", "heic"]', '["jpeg", "gif"]'),
        ('["jpeg", "png", "heic"]', "[]"),
        ("width_target_px = { value = 207", "width_target_px = { value = 253"),
        ("width_target_px = { value = 207", "width_target_px = { value = 181"),
        ("top_target_px = { value = 14", "top_target_px = { value = 9"),
        ("x_max_px = { value = 196", "x_max_px = { value = 360"),
        ("bottom_min_px = { value = 207", "bottom_min_px = { value = 430"),
        ("replace = { value = false", "replace = { value = 0"),
        ("skin_b_min = { value = -6", "skin_b_min = { value = true"),
        ("quality_floor", "quality_flor"),
        ("mouth_warn = ", "# "),
        ("[output]", "[outptu]"),
        ("[limits]", "[limit]"),
        ('name = "ssc-national"', "name = "),
        ('name = "ssc-national"', 'name = "x"\nextends = "broken"'),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, before: str, after: str) -> None:
    text = NATIONAL.read_text()
    assert before in text
    path = tmp_path / "broken.toml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(Defect, match="broken"):
        load_profile(path)


def test_a_profile_that_names_itself_otherwise_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "city.toml").write_text(NATIONAL.read_text())
    with pytest.raises(Defect, match="city"):
        load_profiles(tmp_path)
