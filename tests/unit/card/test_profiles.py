"""Profiles: what a file gives, and how a wrong one is refused."""

from pathlib import Path

import pytest

from card_personalization.errors import ProfileError
from card_personalization.profiles import CardProfile, Field, load_profile

SSC2 = Path(__file__).parents[3] / "config" / "cards" / "ssc2.toml"


def test_the_shipped_profile_loads(profile: CardProfile) -> None:
    assert (profile.name, profile.spec_version, profile.max_attempts) == ("ssc2", "2.00", 2)
    assert [application.name for application in profile.applications] == ["debit", "pse", "ppse"]
    assert [file.name for file in profile.files] == ["EF05", "EF06"]
    assert profile.length(Field.NAME_EXTENSION) == 20


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
        ('identifier_key = "IRK"', 'identifier_key = "NONE"', "card.identifier_key"),
        ('write = "UKSSSE"', 'write = "UK1"', "files[0].write"),
        ('level = "03"', 'level = "33"', "channel.level"),
        ('options = ["15"]', 'options = ["15", "55"]', "channel.level"),
        ('options = ["15"]', "options = []", "channel.options"),
        ('service_code = "220"', 'service_code = "22"', "issuer.service_code"),
        ('keys = ["IMK-AC", "IMK-MAC", "IMK-ENC"]', 'keys = ["IMK-AC"]', "issuer.keys"),
        ("[issuer] ", "[issuers]", "applications[0].groups[0].content"),
        ('id = "0202"', 'id = "0203"', "applications[0].groups[1].id"),
        ('id = "0202"', 'id = "0201"', "applications[0].groups[1].id"),
        ('content = "fci"', 'content = "magic"', "applications[0].groups[9].content"),
        ('tag = "82", value = "1C00"', 'tag = "82"', "applications[0].groups[10].objects[0].tag"),
        ('tag = "5F28", value = "0156"', 'tag = "5F28", value = "0840"', "applications[0].groups[2].objects[4]"),
        ('tag = "8C", value = "9F02', 'tag = "8C", value = "DF02', "applications[0].groups[2].objects[5]"),
        ('source = "track2"', 'source = "track3"', "applications[0].groups[0].objects[0].source"),
        ('source = "track2"', 'source = "pan"', "applications[0].groups[0].objects[0]"),
        (
            'tag = "5A", source = "pan"',
            'tag = "5A", value = "6222021234567890128F"',
            "applications[0].groups[3].objects[0]",
        ),
        ('tag = "5F24", source = "expires"', 'tag = "5F24", value = "200101"', "applications[0].groups[3].objects[1]"),
        ('tag = "9F62", value = "00"', 'tag = "9F62", source = "name"', "applications[0].groups[0].objects[3]"),
        (
            'tag = "9F0D", value = "D8609CA800"',
            'tag = "9F0D", value = "D8609C"',
            "applications[0].groups[1].objects[1]",
        ),
        ('value = "0303"', 'value = "0305"', "applications[0].groups[8].value"),
        ('discretionary = "00000000"', 'discretionary = "00000000000"', "issuer.discretionary"),
        ('id = "8010"\ncontent = "pin-block"', 'id = "8011"\ncontent = "pin-block"', "applications[0].groups"),
        ('id = "0D01"', 'id = "0E01"', "applications[0].groups"),
        ('id = "8010"\ncontent = "pin-block"', 'id = "8010"\ncontent = "raw"\nvalue = "0000"', "groups[7].content"),
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
    assert caught.value.line is not None


def test_the_line_at_fault_is_named(tmp_path: Path) -> None:
    lines = SSC2.read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines, 1) if 'tag = "9F42"' in line)
    path = tmp_path / "wrong.toml"
    path.write_text(
        "\n".join(lines).replace('tag = "9F42", value = "0156"', 'tag = "9F42", value = "015"'), encoding="utf-8"
    )
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert caught.value.line == at
    assert str(caught.value).startswith(f"{path}:{at}: applications[0].groups[2].objects[3].value: ")


def test_a_profile_that_extends_another_says_what_differs(social: CardProfile, profile: CardProfile) -> None:
    assert (social.name, social.applications, social.issuer) == ("ssc2-social", (), None)
    assert (social.files, social.face) == (profile.files, profile.face)


@pytest.mark.parametrize("base", ["nothing", "ssc2-social"])
def test_a_profile_extends_one_that_stands_for_itself(tmp_path: Path, base: str) -> None:
    for name in ("ssc2", "ssc2-social"):
        (tmp_path / f"{name}.toml").write_text(
            (SSC2.parent / f"{name}.toml").read_text(encoding="utf-8"), encoding="utf-8"
        )
    path = tmp_path / "third.toml"
    path.write_text(f'name = "third"\nextends = "{base}"\n', encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert (caught.value.key, caught.value.line) == ("extends", 2)


def test_a_fault_in_the_base_names_the_base(tmp_path: Path) -> None:
    base = SSC2.read_text(encoding="utf-8").replace('category = "3"', "category = 3")
    (tmp_path / "ssc2.toml").write_text(base, encoding="utf-8")
    path = tmp_path / "ssc2-social.toml"
    path.write_text((SSC2.parent / path.name).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert caught.value.file == str(tmp_path / "ssc2.toml")


def test_a_missing_file_is_a_profile_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.toml")
