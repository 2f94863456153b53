"""Personal data at rest: it opens where it belongs, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Defect
from pipeline.store.sealing import Sealer, derive

MASTER = bytes(range(32))
VALUES = st.dictionaries(
    st.text(max_size=10),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.text(), max_size=3),
    max_size=5,
)
SEALER = Sealer(MASTER)
WRAPPED = SEALER.new_data_key(1)


@given(VALUES, st.text(max_size=30))
def test_what_is_sealed_opens_again(value: dict[str, object], place: str) -> None:
    assert SEALER.open(SEALER.seal(value, bound_to=place), bound_to=place) == value


@given(st.text(min_size=4, alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_what_is_sealed_cannot_be_read(name: str) -> None:
    assert name.encode() not in SEALER.seal({"name": name}, bound_to="persons/per_1")


def test_a_value_moved_to_another_row_or_table_does_not_open() -> None:
    sealed = SEALER.seal({"a": 1}, bound_to="persons/per_1")
    for other in ("persons/per_2", "applications/per_1"):
        with pytest.raises(Defect):
            SEALER.open(sealed, bound_to=other)


@settings(max_examples=200)
@given(st.data())
def test_a_value_that_was_altered_anywhere_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal({"name": "张三"}, bound_to="p/1"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Defect):
        SEALER.open(bytes(sealed), bound_to="p/1")


def test_a_value_that_was_cut_short_does_not_open() -> None:
    sealed = SEALER.seal({"name": "张三"}, bound_to="p/1")
    for length in range(len(sealed)):
        with pytest.raises(Defect):
            SEALER.open(sealed[:length], bound_to="p/1")


def test_the_same_value_is_never_sealed_to_the_same_bytes() -> None:
    assert len({SEALER.seal({"a": 1}, bound_to="p/1") for _ in range(20)}) == 20


def test_a_new_key_seals_from_now_on_and_the_old_one_still_opens() -> None:
    sealer = Sealer(MASTER)
    first = sealer.new_data_key(1)
    old = sealer.seal({"a": 1}, bound_to="p/1")
    second = sealer.new_data_key(2)
    new = sealer.seal({"a": 2}, bound_to="p/1")
    assert (old[1:5], new[1:5]) == (bytes([0, 0, 0, 1]), bytes([0, 0, 0, 2]))
    again = Sealer(MASTER)
    again.load_data_keys({2: second, 1: first})
    assert again.open(old, bound_to="p/1") == {"a": 1}
    assert again.open(new, bound_to="p/1") == {"a": 2}
    assert again.seal({}, bound_to="p/1")[1:5] == bytes([0, 0, 0, 2])


def test_a_data_key_opens_only_with_its_installations_key_under_its_number_and_whole() -> None:
    for sealer, wrapped in (
        (Sealer(bytes(32)), {1: WRAPPED}),
        (Sealer(MASTER), {2: WRAPPED}),
        (Sealer(MASTER), {1: WRAPPED[:5]}),
        (Sealer(MASTER), {1: b""}),
    ):
        with pytest.raises(Defect, match="another database"):
            sealer.load_data_keys(wrapped)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(bytes(length))


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_person_is_found_by_type_and_number_and_not_by_one_of_them(one: str, other: str) -> None:
    same = SEALER.blind_index("resident_id", one) == SEALER.blind_index("resident_id", other)
    assert same == (one == other)
    assert SEALER.blind_index("passport", one) != SEALER.blind_index("resident_id", one)
    assert SEALER.blind_index("passport", one) == Sealer(MASTER).blind_index("passport", one)


def test_digests_and_indexes_cannot_be_made_without_the_key() -> None:
    stranger = Sealer(bytes(32))
    assert stranger.digest(b"x") != SEALER.digest(b"x")
    assert stranger.blind_index("a", "b") != SEALER.blind_index("a", "b")


def test_no_two_uses_share_a_key() -> None:
    purposes = ("wrap", "blind-index", "objects", "account-keys")
    assert len({derive(MASTER, purpose) for purpose in purposes} | {MASTER}) == 5
