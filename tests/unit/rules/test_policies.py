"""The regions' files: they load, a wrong one is explained, and a new city is a file and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from config.policies import DIRECTORY, Policies, PolicyFileError, load_policies
from pipeline.errors import NotFound
from pipeline.policy import Span
from tests.unit.rules.applicants import REGIONS

WUHAN = (DIRECTORY / "wuhan.toml").read_text(encoding="utf-8")
SUBURBS = {"420112", "420113", "420114", "420115", "420116", "420117"}


def load(directory: Path, **files: str) -> Policies:
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text, encoding="utf-8")
    return load_policies(directory)


def edited(old: str, new: str, text: str = WUHAN) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(("region", "code"), REGIONS.items())
def test_every_shipped_region_is_found_by_its_code(policies: Policies, region: str, code: str) -> None:
    policy = policies.of(code)
    assert (policy.key, policy.code, policy.parent) == (region, code, None)


def test_the_shipped_files_are_the_five_regions(policies: Policies) -> None:
    assert {policy.code for policy in policies.cities()} == set(REGIONS.values())
    assert len(list(DIRECTORY.glob("*.toml"))) == len(REGIONS)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('key = "wuhan"', 'key = "wuhan"\ncolour = "red"', "colour"),
        ('zh = "武汉市"\n', "", "zh"),
        ("validity_years = { value = 10,", "validity_years = { value = 0,", "validity_years.value"),
        ("bundle_size = { value = 50,", 'bundle_size = { value = "many",', "bundle_size.value"),
        ("offered = { value = true", "ofered = { value = true", "urgent.ofered"),
        ('unit = "same_day" }', 'unit = "fortnights" }', "deadlines.urgent.value.unit"),
        ('unit = "same_day" }', 'unit = "same_day", count = 3 }', "deadlines.urgent.value"),
        ('rule = "WH-18"', 'rule = "article 18"', "validity_years.rule"),
        (', rule = "WH-18"', "", "validity_years"),
        ('value = "agency", rule = "WH-8"', 'value = "post_office", rule = "WH-8"', "post_office"),
        (
            '420102 = { zh = "江岸区"',
            '420102 = { override = { label = "x" }, zh = "江岸区"',
            "districts.420102.override",
        ),
        ('override.window = { value = "district_agency"', 'override.windw = { value = "district_agency"', "windw"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, old: str, new: str, key: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        load(tmp_path, wuhan=edited(old, new))
    assert "wuhan.toml" in caught.value.zh
    assert key in caught.value.zh
    assert "wuhan.toml" in caught.value.en
    assert key in caught.value.en


@pytest.mark.parametrize("wrong", ["EYES_CLOSE", "eyes_closed", "HEAD_COVERED", "ROTATED", ""])
def test_a_code_that_holds_is_one_of_the_catalogue_and_may_be_a_warning(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        load(tmp_path, wuhan=edited('"EYES_CLOSED"', f'"{wrong}"'))
    for told in (caught.value.zh, caught.value.en):
        assert all(part in told for part in ("wuhan.toml", "photo.hold_codes.value", repr(wrong), "EYES_CLOSED"))


@pytest.mark.parametrize(
    ("region", "old", "new"),
    [
        ("420100", 'profile = { value = "ssc-national"', 'profile = { value = "ssc-nationel"'),
        (
            "420112",
            'zh = "东西湖区"',
            'override.photo.profile = { value = "ssc-nationel", default = "x" }\nzh = "东西湖区"',
        ),
    ],
)
def test_a_photo_profile_is_one_of_those_there_are(tmp_path: Path, region: str, old: str, new: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        load(tmp_path, wuhan=edited(old, new))
    for told in (caught.value.zh, caught.value.en):
        assert all(part in told for part in ("wuhan.toml", region, "photo.profile", "'ssc-nationel'", "ssc-national"))


def test_policies_are_read_without_an_image_library() -> None:
    code = "import sys, config.policies as p; p.load_policies(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "numpy", "onnxruntime", "ai_edge_litert", "pi_heif"} & set(done.stdout.split())


def test_what_is_no_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="没有"):
        load_policies(tmp_path)
    with pytest.raises(PolicyFileError, match=r"broken\.toml"):
        load(tmp_path, broken="key = ")


def test_two_files_may_not_claim_the_same_region_and_day(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"a\.toml"):
        load(tmp_path, a=WUHAN, b=WUHAN)


@pytest.mark.rule("WH-30")
def test_six_suburbs_inherit_the_citys_rules_and_have_their_own_office(policies: Policies) -> None:
    city = policies.of("420100")
    assert {code for code in city.districts if policies.of(code) is not city} == SUBURBS
    for code in SUBURBS:
        own = policies.of(code)
        assert (own.code, own.parent, own.city) == (code, "420100", "420100")
        assert own.window.value == "district_agency"
        assert (own.deadlines, own.collection, own.fees) == (city.deadlines, city.collection, city.fees)
        assert own.version != city.version


def test_a_plain_district_has_its_citys_policy(policies: Policies) -> None:
    assert policies.of("420106") is policies.of("420100")


def test_a_sub_region_replaces_a_sourced_value_whole(tmp_path: Path) -> None:
    override = (
        'override.deadlines.first = { value = { unit = "days", count = 9 }, default = "nearer" }\nzh = "东西湖区"'
    )
    own = load(tmp_path, wuhan=edited('zh = "东西湖区"', override)).of("420112")
    assert (own.deadlines.first.value, own.deadlines.first.rule) == (Span(unit="days", count=9), None)
    assert own.deadlines.replacement.rule == "WH-8"


def test_a_sixth_region_is_a_file_only(tmp_path: Path) -> None:
    sixth = WUHAN[: WUHAN.index("[districts]")] + '[districts]\n999901 = { zh = "某区", en = "Some District" }\n'
    sixth = edited('code = "420100"', 'code = "999900"', edited('key = "wuhan"', 'key = "elsewhere"', sixth))
    policies = load(tmp_path, wuhan=WUHAN, elsewhere=sixth)
    assert {policy.key for policy in policies.cities()} == {"wuhan", "elsewhere"}
    assert policies.of("999901").key == "elsewhere"
    assert policies.of("420106").key == "wuhan"


def test_an_older_version_stays_for_who_was_accepted_under_it(tmp_path: Path) -> None:
    newer = edited("effective = 2011-01-01", "effective = 2027-01-01").replace('label = "2011-01"', 'label = "2027-01"')
    old = load_policies().of("420100")
    policies = load(tmp_path, wuhan=WUHAN, wuhan_2027=newer)
    assert policies.of("420100").label == "2027-01"
    assert policies.of("420100", old.version) == old
    assert policies.of("420112", load_policies().of("420112").version).label == "2011-01"


def test_an_unknown_region_or_version_is_not_found(policies: Policies) -> None:
    with pytest.raises(NotFound) as region:
        policies.of("999999")
    assert region.value.reason_code == "region.unknown"
    with pytest.raises(NotFound) as version:
        policies.of("420100", "1999-01+000000000000")
    assert version.value.reason_code == "policy.unknown"
    assert "武汉" in version.value.zh


@pytest.mark.parametrize("region", REGIONS)
def test_a_rule_names_only_its_own_regulation(region: str) -> None:
    """`rule = "XX-n"` in a file is of that file's region: an article of another city binds nobody here."""
    prefix = {"karamay": "KL", "liaoning": "LN", "dalian": "DL", "wuhan": "WH", "shaoguan": "SG"}[region]
    text = (DIRECTORY / f"{region}.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'rule = "([A-Z]+)-', text)) == {prefix}


@pytest.mark.parametrize(
    ("region", "first", "replacement", "exchange"),
    [
        pytest.param("karamay", 0, True, True, marks=[pytest.mark.rule("KL-14"), pytest.mark.rule("KL-15")]),
        pytest.param("wuhan", 2000, True, True, marks=pytest.mark.rule("WH-13")),
        pytest.param("shaoguan", 0, False, False),
    ],
)
def test_what_is_charged(policies: Policies, region: str, first: int, replacement: bool, exchange: bool) -> None:
    policy = policies.of(REGIONS[region])
    assert policy.fee("first").value == first
    assert (policy.fee("replacement").value > 0, policy.fee("exchange").value > 0) == (replacement, exchange)


@pytest.mark.rule("SG-10")
def test_only_shaoguan_takes_an_uncollected_card_as_given_up(policies: Policies) -> None:
    endings = {region: policies.of(code).collection.ending.value for region, code in REGIONS.items()}
    assert {region for region, ending in endings.items() if ending == "abandoned"} == {"shaoguan"}
