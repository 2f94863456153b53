"""The shape of one application: what is taken, what is refused and where, and that nothing is ever echoed or raised."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.application import Submission
from pipeline.identifiers import gb11643_check
from pipeline.outcomes import Reason
from pipeline.shape import looks_personal, read_submission

FIRST17 = "99900119491231002"
NUMBER = FIRST17 + gb11643_check(FIRST17)
BODY: Mapping[str, Any] = {
    "external_ref": "WH-2026-000123",
    "kind": "first",
    "priority": "normal",
    "region": "420100",
    "agency": "ag_42010601",
    "window": "agency",
    "insured": {"category": "urban_employee", "district": "420106", "unit_code": "A10023"},
    "person": {
        "name": "李梅",
        "id_type": "resident_id",
        "id_number": NUMBER,
        "social_security_number": NUMBER,
        "sex": "2",
        "ethnic": "01",
        "birth_date": "1949-12-31",
        "nationality": "CHN",
        "id_valid_from": "2015-01-01",
        "id_valid_to": "9999-12-31",
        "phone": "13800000000",
        "address": "湖北省武汉市武昌区示范路 1 号",
        "occupation": "80000",
    },
    "guardian": None,
    "proxy": None,
    "documents": [{"type": "application_form", "upload": "upl_01kar3x7m2v9q8w4t5y6z0aaaa"}],
    "confirmation": {"method": "signature", "signed_at": "2026-11-23T06:58:00Z", "evidence": "upl_01kar3x7m2v9"},
    "photo": {"upload": "upl_01kar3x7m2v9q8w4t5y6z0cccc"},
    "bank_code": "95533",
    "outlet": "out_42010601",
    "collect": {"by": "person"},
    "notify": {"channel": "sms"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The good body with changes by path: `person__name="…"`; None takes a field out."""
    body = copy.deepcopy(dict(BODY))
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = body
        for parent in parents:
            inner = inner[parent]
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return body


def taken(body: Mapping[str, Any], photo: bytes = b"") -> Submission:
    result = read_submission(body, source="tests", photo=photo)
    assert isinstance(result, Submission), result
    return result


def refused(body: Mapping[str, Any]) -> set[tuple[str, str | None]]:
    result = read_submission(body, source="tests")
    assert not isinstance(result, Submission)
    return {(reason.code, reason.pointer) for reason in result}


def test_a_whole_body_is_taken_as_it_stands() -> None:
    submission = taken(BODY, photo=b"bytes of the upload")

    assert (submission.source, submission.external_ref, submission.window) == ("tests", "WH-2026-000123", "agency")
    assert submission.person.birth_date == date(1949, 12, 31)
    assert submission.person.id_valid_to == date(9999, 12, 31)
    assert submission.documents[0].reference == "upl_01kar3x7m2v9q8w4t5y6z0aaaa"
    assert submission.confirmed
    assert submission.lane == "normal"
    assert submission.photo == b"bytes of the upload"


def test_what_the_number_tells_may_be_left_out() -> None:
    person = taken(changed(person__sex=None, person__birth_date=None, person__social_security_number=None)).person

    assert (person.sex, person.birth_date, person.social_security_number) == ("2", date(1949, 12, 31), NUMBER)


def test_sex_and_birth_date_of_a_passport_must_be_said() -> None:
    body = changed(
        person__id_type="passport", person__id_number="X1234567", person__nationality="USA",
        person__social_security_number=None, person__sex=None, person__birth_date=None,
    )  # fmt: skip

    assert refused(body) == {("required", "#/person/sex"), ("required", "#/person/birth_date")}


def test_a_foreigners_number_follows_from_the_passport() -> None:
    body = changed(
        person__id_type="passport", person__id_number="x1234567", person__nationality="USA",
        person__social_security_number=None,
    )  # fmt: skip

    assert taken(body).person.social_security_number == "USA0X1234567"


def test_a_citizens_passport_does_not_tell_the_citizen_number() -> None:
    body = changed(person__id_type="passport", person__id_number="E12345678", person__social_security_number=None)

    assert ("required", "#/person/social_security_number") in refused(body)


def test_texts_are_normalised_as_systems_compare_them() -> None:
    wide = NUMBER.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"})
    person = taken(
        changed(person__name=" 买买提•阿卜杜拉 ", person__id_number=wide, person__phone="+86 138-0000-0000")
    ).person

    assert (person.name, person.id_number, person.phone) == ("买买提·阿卜杜拉", NUMBER, "13800000000")


def test_a_name_of_four_byte_characters_is_kept() -> None:
    assert taken(changed(person__name="张𠮷")).person.name == "张𠮷"


def test_an_urgent_application_goes_the_urgent_lane() -> None:
    assert taken(changed(priority="urgent")).lane == "urgent"


def test_an_inline_photo_takes_the_place_of_the_upload() -> None:
    body = changed(photo={"base64": base64.b64encode(b"inline").decode()})

    assert taken(body, photo=b"upload").photo == b"inline"


def test_without_a_confirmation_nothing_is_confirmed() -> None:
    assert not taken(changed(confirmation=None)).confirmed


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"external_ref": None}, "required", "#/external_ref"),
        ({"external_ref": "a" * 65}, "length", "#/external_ref"),
        ({"external_ref": NUMBER}, "external_ref.personal", "#/external_ref"),
        ({"external_ref": "WH-13800000000"}, "external_ref.personal", "#/external_ref"),
        ({"kind": "second"}, "format", "#/kind"),
        ({"region": "武汉"}, "format", "#/region"),
        ({"region": 420100}, "format", "#/region"),
        ({"agency": None}, "required", "#/agency"),
        ({"insured": None}, "required", "#/insured"),
        ({"insured": []}, "format", "#/insured"),
        ({"surprise": 1}, "unknown_field", "#/surprise"),
        ({"person__surprise": 1}, "unknown_field", "#/person/surprise"),
        ({"person__name": "张3"}, "name.characters", "#/person/name"),
        ({"person__name": "\ue000"}, "name.characters", "#/person/name"),
        ({"person__name": "李\ud800"}, "format", "#/person/name"),
        ({"person__name": "李" * 26}, "length", "#/person/name"),
        ({"person__id_number": NUMBER[:17]}, "length", "#/person/id_number"),
        ({"person__id_number": FIRST17 + ("0" if NUMBER[17] != "0" else "1")}, "id_number.checksum", "#/person/id_number"),
        ({"person__id_number": "999001194913310020"}, "date.invalid", "#/person/id_number"),
        ({"person__social_security_number": "HKG123456789"}, "social_security_number.format", "#/person/social_security_number"),
        ({"person__birth_date": "1949-02-30"}, "date.invalid", "#/person/birth_date"),
        ({"person__birth_date": "1950-01-01"}, "date.invalid", "#/person/birth_date"),
        ({"person__id_valid_to": "2014-12-31"}, "date.invalid", "#/person/id_valid_to"),
        ({"person__phone": "02788888888"}, "phone.invalid", "#/person/phone"),
        ({"person__ethnic": "57"}, "format", "#/person/ethnic"),
        ({"person__address": "一\x00"}, "format", "#/person/address"),
        ({"guardian": {"name": "张三", "id_type": "resident_id"}}, "required", "#/guardian/id_number"),
        ({"documents": {}}, "format", "#/documents"),
        ({"documents": ["application_form"]}, "format", "#/documents/0"),
        ({"documents": [{"upload": "upl_1"}]}, "required", "#/documents/0/type"),
        ({"confirmation__signed_at": "2026-11-23T06:58:00"}, "date.invalid", "#/confirmation/signed_at"),
        ({"photo": {}}, "required", "#/photo/upload"),
        ({"photo": {"base64": "###"}}, "format", "#/photo/base64"),
        ({"collect": {"by": "neighbour"}}, "format", "#/collect/by"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_where_it_stands(changes: dict[str, Any], code: str, pointer: str) -> None:
    assert refused(changed(**changes)) == {(code, pointer)}


def test_all_errors_are_told_at_once() -> None:
    body = changed(external_ref=None, person__name="", person__phone="1", insured__district="x", what=1)

    assert refused(body) == {
        ("required", "#/external_ref"),
        ("required", "#/person/name"),
        ("phone.invalid", "#/person/phone"),
        ("format", "#/insured/district"),
        ("unknown_field", "#/what"),
    }


def test_an_unknown_field_that_is_somebodys_number_is_not_repeated() -> None:
    assert refused(changed() | {NUMBER: 1, "李梅": 1}) == {("unknown_field", "#")}


@pytest.mark.parametrize(
    "reference", ["WH-2026-000123", "20261123-000001", "2026112300001", "1380000123ab-2", "138000012345-7"]
)
def test_ordinary_references_are_not_taken_for_personal(reference: str) -> None:
    assert not looks_personal(reference)


@pytest.mark.parametrize("reference", [NUMBER, f"WH{NUMBER}", "138-0000-0000", "130503670401001", "ref 13800000000"])
def test_references_made_of_peoples_numbers_are_seen(reference: str) -> None:
    assert looks_personal(reference)


# ------------------------------------------------------------------------------------------------------------ properties

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_PATHS = (
    [(key,) for key in BODY]
    + [("person", key) for key in BODY["person"]]
    + [("insured", key) for key in BODY["insured"]]
)


@given(_JSON)
def test_no_json_makes_it_raise(body: Any) -> None:
    result = read_submission(body, source="tests")

    assert isinstance(result, tuple)
    assert result


@given(
    st.dictionaries(
        st.sampled_from(_PATHS), _JSON | st.sampled_from([{}, [], [{}], {"name": "\ud800"}]), min_size=1, max_size=5
    )
)
def test_no_change_of_a_good_body_makes_it_raise(changes: dict[tuple[str, ...], Any]) -> None:
    body = copy.deepcopy(dict(BODY))
    for path, value in changes.items():
        holder = body if len(path) == 1 else body.get(path[0])
        if isinstance(holder, dict):
            holder[path[-1]] = value

    result = read_submission(body, source="tests")

    assert isinstance(result, Submission) or all(isinstance(reason, Reason) for reason in result)


@given(
    st.sampled_from(["name", "id_number", "phone", "address", "sex", "birth_date"]),
    st.text("0123456789XYZ", min_size=6, max_size=12),
)
def test_no_reason_repeats_the_value_it_judges(field: str, tail: str) -> None:
    secret = f"Q9{tail}"
    result = read_submission(changed(**{f"person__{field}": secret + "\x00"}), source="tests")

    assert isinstance(result, tuple)
    assert secret not in repr(result)
