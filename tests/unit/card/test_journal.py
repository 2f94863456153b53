"""The journal alone: torn lines, races and order of attempts."""

import json
import os
from pathlib import Path

import pytest

from card_personalization.errors import CardSwapped, CounterAlarm, JournalConflict
from card_personalization.journal import CardState, Journal, Recorder

KDD = bytes(range(10))


def begin(journal: Journal, serial: str = "B1", order_id: str = "app_1") -> Recorder:
    return journal.begin(journal.history(serial), order_id=order_id, chip="3b/9f7f", plan_digest="d")


def test_nothing_is_written_before_a_card_is_changed(tmp_path: Path) -> None:
    begin(Journal(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_without_a_verdict_is_found_again(tmp_path: Path) -> None:
    begin(Journal(tmp_path)).sending("one")
    (found,) = Journal(tmp_path).open_attempts()
    assert (found.order_id, found.serial, found.state) == ("app_1", "B1", CardState.SUSPECT)


def test_two_attempts_cannot_take_the_same_blank_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, second = begin(journal), begin(journal, order_id="app_2")
    first.sending("one")
    with pytest.raises(JournalConflict):
        second.sending("one")
    assert not second.touched


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    recorder = begin(Journal(tmp_path))
    recorder.sending("one")
    recorder.answered("one", 0x9000)
    recorder.sending("two")
    path = tmp_path / "B1.1.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    (found,) = Journal(tmp_path).open_attempts()
    assert found.state is CardState.SUSPECT
    (attempt,) = Journal(tmp_path).history("B1").attempts
    Journal(tmp_path).settle(attempt, CardState.SPOILED)
    assert Journal(tmp_path).history("B1").attempts[0].state is CardState.SPOILED


def test_a_step_announced_is_on_disk_before_it_is_sent(tmp_path: Path) -> None:
    recorder = begin(Journal(tmp_path))
    recorder.sending("one")
    recorder.coming("two")
    recorder.answered("one", 0x9000)
    recorder.sending("two")
    lines = [json.loads(line) for line in (tmp_path / "B1.1.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("step")) for line in lines] == [("opened", None), ("sent", "one"), ("sent", "two")]


def test_a_journal_that_cannot_be_written_lets_nothing_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = begin(Journal(tmp_path))
    recorder.sending("one")

    def full(_: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fdatasync", full)
    recorder.coming("two")
    with pytest.raises(OSError, match="no space"):
        recorder.sending("two")


def test_only_the_last_step_unanswered_is_an_unknown_end(tmp_path: Path) -> None:
    for serial, last, state in (("B1", False, CardState.SUSPECT), ("B2", True, CardState.UNKNOWN_END)):
        begin(Journal(tmp_path), serial).sending("one", last=last)
        assert Journal(tmp_path).history(serial).attempts[0].state is state


def test_a_counter_that_does_not_rise_is_an_alarm_in_any_later_attempt(tmp_path: Path) -> None:
    first = begin(Journal(tmp_path))
    first.opened_channel(b"\xa0", 7, kdd=KDD)
    first.sending("one")
    first.close()
    second = begin(Journal(tmp_path))
    second.opened_channel(b"\xa1", 7, kdd=KDD)
    second.opened_channel(b"\xa0", None, kdd=KDD)
    with pytest.raises(CounterAlarm):
        second.opened_channel(b"\xa0", 7, kdd=KDD)
    begin(Journal(tmp_path)).opened_channel(b"\xa0", 8, kdd=KDD)


def test_a_chip_with_other_diversification_data_is_another_chip_in_any_later_attempt(tmp_path: Path) -> None:
    first = begin(Journal(tmp_path))
    first.opened_channel(b"\xa0", 7, kdd=KDD)
    first.sending("one")
    for attempt in (first, begin(Journal(tmp_path))):
        with pytest.raises(CardSwapped):
            attempt.opened_channel(b"\xa1", 1000, kdd=bytes(10))
        attempt.opened_channel(b"\xa1", 1, kdd=KDD)


def test_what_another_chip_said_before_anything_was_written_is_not_held_against_the_blank(tmp_path: Path) -> None:
    stranger = begin(Journal(tmp_path))
    stranger.opened_channel(b"\xa0", 1000, kdd=bytes(10))
    stranger.refused("authenticate", 0x6300)
    stranger.close()
    begin(Journal(tmp_path)).opened_channel(b"\xa0", 1, kdd=KDD)


def test_a_late_entry_does_not_undo_a_verdict(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    left = begin(journal)
    left.sending("one")
    left.answered("one", 0x9000)
    owner = journal.history("B1").owner
    assert owner is not None
    journal.settle(owner, CardState.SPOILED)
    left.close()
    owner = journal.history("B1").owner
    assert owner is not None
    assert owner.state is CardState.SPOILED


def test_the_last_attempt_decides(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    begin(journal).sending("one")
    second = begin(journal)
    second.sending("one")
    second.ended(CardState.VERIFIED)
    assert journal.open_attempts() == ()
    assert len(journal.history("B1").touched) == 2


def test_serials_with_strange_signs_keep_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for serial in ("a/b", "a", "a.1", "..", "空白"):
        begin(journal, serial, order_id=serial).sending("one")
    assert {attempt.serial for attempt in journal.open_attempts()} == {"a/b", "a", "a.1", "..", "空白"}
    assert all(journal.history(s).owner.order_id == s for s in ("a/b", "a", "a.1"))  # type: ignore[union-attr]
