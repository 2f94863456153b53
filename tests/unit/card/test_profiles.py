"""Profiles: what a file gives, and how a wrong one is refused."""

from datetime import date
from pathlib import Path

import pytest

from card_personalization.errors import ProfileError
from card_personalization.profiles import CardProfile, Field, load_profile

SSC2 = Path(__file__).parents[3] / "config" / "cards" / "ssc2.toml"


def test_the_shipped_profile_loads(profile: CardProfile) -> None:
    assert (profile.name, profile.spec_version, profile.max_attempts) == ("ssc2", "2.00", 2)
    assert [file.name for file in profile.files] == ["EF05", "EF06"]
    assert profile.length(Field.NAME_EXTENSION) == 20
    assert profile.expires(date(2028, 2, 29)) == date(2038, 2, 28)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "ssc2"', "", "name"),
        ("max_attempts = 2", 'max_attempts = "2"', "max_attempts"),
        ("max_attempts = 2", "max_attempts = 0", "max_attempts"),
        ("[card]", "[card]\ncolour = 1", "card.colour"),
        ('initialiser_prefix = "9156000002"', 'initialiser_prefix = "91"', "card.initialiser_prefix"),
        ('application = "73', 'application = "7z', "card.application"),
        ('authentication = "process-key"', 'authentication = "magic"', "keys.UKSSSE.authentication"),
        ('sex = ["1", "2", "9"]', "sex = [1]", "codes.sex"),
        ('tag = "02"', 'tag = "0201"', "files[0].records[1].tag"),
        ('tag = "02"', 'tag = "03"', "files[0].records"),
        ('field = "sex"', 'field = "colour"', "files[1].records[3].field"),
        ('field = "sex"', 'field = "ethnic"', "files"),
        (
            'field = "issued", encoding = "date", length = 4',
            'field = "issued", encoding = "date", length = 3',
            "length",
        ),
        ("min_size_px = 22", "min_size_px = 40", "face.fields.name.min_size_px"),
        ("{year}年", "{century}年", "face.date_format"),
        ("[card]", "[card", "syntax"),
    ],
)
def test_a_wrong_profile_names_its_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    text = SSC2.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert caught.value.file == str(path)
    assert caught.value.key.endswith(key)


def test_a_missing_file_is_a_profile_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.toml")
