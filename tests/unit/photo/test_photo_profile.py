"""Profiles are data with sources; a wrong one is refused at start, not at the first photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Defect
from pipeline.photo.profile import PhotoProfile, load_profile

NATIONAL = Path(__file__).parents[3] / "config" / "photo" / "ssc-national.toml"


@pytest.mark.rule("DL-16(2)")
def test_the_national_picture(profile: PhotoProfile) -> None:
    assert (profile.output.width_px, profile.output.height_px, profile.output.dpi) == (358, 441, 350)
    assert "社会保障卡制证用数字相片技术要求" in profile.sources["output.width_px"]
    assert len(profile.sources) == 16


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


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('source = "ssc"', 'source = "nobody"'),
        ("value = 358", "value = 0"),
        ("value = 358", 'value = "358"'),
        ("value = 14336", "value = 30000"),
        ("value = 40", "value = 71"),
        ('["jpeg", "png"]', '["jpeg", "gif"]'),
        ("quality_floor", "quality_flor"),
        ("[output]", "[outptu]"),
        ('name = "ssc-national"', "name = "),
        ('name = "ssc-national"', 'name = "x"\nextends = "broken"'),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(NATIONAL.read_text().replace(before, after, 1))
    with pytest.raises(Defect, match="broken"):
        load_profile(path)
