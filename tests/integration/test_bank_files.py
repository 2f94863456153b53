"""A bank by batch files: whatever dies in between, one account each and one file for each row, on both databases."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.clock import VirtualClock, civil_date
from pipeline.errors import Defect, TransientError
from pipeline.gateways.bank_files import exchange as exchanging
from pipeline.gateways.bank_files.exchange import DirectoryExchange
from pipeline.gateways.bank_files.gateway import BankFiles, Terms
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.gateways.objects import ObjectMemory
from pipeline.ports import Arrived, BankReply, Declined, Done, FreezeFinancial, Key, LateReplies, OpenAccount, Pending
from pipeline.store import tables as t
from pipeline.store.bank_files import BankFileJournal
from pipeline.store.engine import Store
from producers.simulators import bank_files as simulator
from producers.simulators.bank_files import FileBank, FileFaults, read_batch
from tests.integration.conftest import Killed
from tests.support.bank_people import BANK, opening

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
EVERY = timedelta(minutes=30)
TERMS = Terms(sender=BANK, every=EVERY, quiet=timedelta(0), card_number_in_reserved=True)


class Rig:
    """Both ends of the two directories."""

    def __init__(self, store: Store, place: Path, terms: Terms = TERMS, faults: str = "") -> None:
        self.store = store
        self.terms = terms
        self.out_dir, self.in_dir = place / "out", place / "in"
        self.clock = VirtualClock(START)
        self.objects = ObjectMemory(key=bytes(32), clock=self.clock)
        self.journal = BankFileJournal(store, BANK)
        self.ledger = Ledger()
        self.bank = FileBank(
            self.out_dir,
            self.in_dir,
            bank=SimulatedBank(self.ledger, faults=Faults(), clock=self.clock, random=Random(1)),
            bank_code=BANK,
            with_cards=terms.card_number_in_reserved,
            faults=FileFaults.parse(faults),
        )
        self.gateway = self.made()

    def made(self, **replaced: Any) -> BankFiles:
        """A gateway as a process has it that has just begun."""
        parts = {
            "journal": self.journal,
            "exchange": DirectoryExchange(self.out_dir, self.in_dir),
            "objects": self.objects,
            "clock": self.clock,
        }
        return BankFiles(self.terms, **(parts | replaced))

    @property
    def deadline(self) -> datetime:
        return self.clock.now() + timedelta(seconds=10)

    def submit(self, *openings: OpenAccount) -> dict[Key, Any]:
        return dict(self.gateway.submit(openings, deadline=self.deadline))

    def find(self, *openings: OpenAccount) -> list[Any]:
        found = self.gateway.find([o.key for o in openings], deadline=self.deadline)
        return [found[o.key] for o in openings]

    def collect(self, after: str | None = None) -> LateReplies:
        return self.gateway.collect(after=after, limit=1000)

    def send(self, *openings: OpenAccount) -> None:
        """Take these and let their time come: their file goes out."""
        self.submit(*openings)
        self.clock.advance(EVERY + timedelta(seconds=1))
        self.collect()

    def round(self) -> None:
        """The bank does its part, and what it left is seen, seen to stand still, and read."""
        self.bank.once()
        self.collect()
        self.collect()

    def names(self, folder: str) -> list[str]:
        place = self.in_dir / folder
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def files(self, direction: str) -> list[Any]:
        with self.store.transaction() as tx:
            query = select(t.bank_files).where(t.bank_files.c.direction == direction).order_by(t.bank_files.c.id)
            return list(tx.conn.execute(query).all())

    def sent_keys(self) -> list[Key]:
        """The keys of every distinct file that the bank ever took."""
        return [row.key for path in (self.out_dir / "taken").iterdir() for row in read_batch(path.read_bytes())]


@pytest.fixture
def rig(store: Store, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def build(**said: Any) -> Rig:
        made.append(Rig(store, tmp_path / f"bank{len(made)}", **said))
        return made[-1]

    yield build
    for each in made:
        each.ledger.close()


# -------------------------------------------------------------------------------------------------------- the whole way


def test_an_account_is_opened_by_two_files(rig: Callable[..., Rig]) -> None:
    line = rig()
    people = [opening(n) for n in range(3)]
    replies = line.submit(*people)
    assert all(isinstance(reply, Pending) for reply in replies.values())
    assert line.collect() == LateReplies()
    assert not list(line.out_dir.glob("SH_*"))  # its time has not come
    line.send(*people)
    [sent] = line.out_dir.glob("SH_*")
    assert sent.name == f"SH_00000001_{BANK:0>15}_20260302093001"
    line.round()
    accounts = {account.key: account for account in line.ledger.accounts()}
    for person, reply in zip(people, line.find(*people), strict=True):
        assert isinstance(reply, Done) and reply.card_number == accounts[person.key].card_number
    assert line.names("history") and not line.names("errors")
    told = line.collect()
    assert sorted(told.keys) == sorted(person.key for person in people)
    assert line.collect(told.cursor) == LateReplies(cursor=told.cursor)
    day = civil_date(line.clock.now())
    assert line.gateway.statement(day, deadline=line.deadline) == dict(
        zip([p.key for p in people], line.find(*people), strict=True)
    )
    assert line.gateway.statement(day - timedelta(days=1), deadline=line.deadline) == {}


def test_late_replies_are_told_in_the_order_in_which_they_became_known(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.send(opening(1))
    line.round()
    line.send(opening(2), opening(3))
    line.round()
    first = line.gateway.collect(after=None, limit=1)
    assert first.keys == (opening(1).key,)
    rest = line.gateway.collect(after=first.cursor, limit=10)
    assert set(rest.keys) == {opening(2).key, opening(3).key}


def test_a_row_that_passed_waits_for_the_file_that_brings_its_card(rig: Callable[..., Rig]) -> None:
    line = rig(terms=replace(TERMS, card_number_in_reserved=False))
    line.send(opening(1), opening(2, phone="13800000451"))  # the second is refused
    line.bank.once()
    [cards] = line.in_dir.glob("CARDS_*")
    held = cards.read_bytes()
    cards.unlink()
    line.collect()
    line.collect()
    waiting, refused = line.find(opening(1), opening(2, phone="13800000451"))
    assert isinstance(waiting, Pending) and refused == Declined(code="name_mismatch", text="姓名与证件号不符")
    cards.write_bytes(held)
    line.collect()
    line.collect()
    [account] = line.ledger.accounts()
    assert line.find(opening(1)) == [Done(account_ref=account.account_ref, card_number=account.card_number)]


def test_a_full_file_goes_out_at_once_and_no_file_is_longer(rig: Callable[..., Rig]) -> None:
    line = rig(terms=replace(TERMS, max_rows=2))
    people = [opening(n) for n in range(5)]
    line.submit(*people)
    line.collect()
    assert [len(read_batch(path.read_bytes())) for path in sorted(line.out_dir.glob("SH_*"))] == [2, 2]
    line.clock.advance(EVERY)
    line.collect()
    line.round()
    assert all(isinstance(reply, Done) for reply in line.find(*people))
    assert sorted(line.sent_keys()) == sorted(p.key for p in people)


def test_a_key_is_written_down_once_and_with_one_content(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.submit(opening(1))
    line.submit(opening(1))
    conflict = line.submit(opening(1, phone="13900000000"))[opening(1).key]
    assert isinstance(conflict, Defect)
    with pytest.raises(ValueError, match="two contents"):
        line.submit(opening(1), opening(1, phone="13900000000"))
    line.send(opening(1))
    line.round()
    [reply] = line.submit(opening(1)).values()
    assert isinstance(reply, Done)
    assert line.sent_keys() == [opening(1).key]


def test_what_cannot_be_written_is_declined_and_never_seen_by_the_bank(rig: Callable[..., Rig]) -> None:
    line = rig()
    rare, long = opening(1, name="𠮷田"), opening(2, name="甲" * 16)
    replies = line.submit(rare, long)
    assert [reply.code for reply in replies.values()] == ["rare_character", "field_too_long"]
    assert line.find(rare, long) == [None, None]
    line.clock.advance(EVERY)
    line.collect()
    assert line.files("out") == []


def test_a_call_that_is_too_late_writes_nothing_down(rig: Callable[..., Rig]) -> None:
    line = rig()
    [reply] = line.gateway.submit([opening(1)], deadline=line.clock.now()).values()
    assert isinstance(reply, TransientError)
    assert line.find(opening(1)) == [None]


def test_what_no_file_can_say_goes_another_way_or_is_declined(rig: Callable[..., Rig]) -> None:
    line = rig()
    freeze = FreezeFinancial(key="ff-1", bank_code=BANK, account_ref="A1", card_number="6217", reason="lost")
    [reply] = line.gateway.submit([freeze], deadline=line.deadline).values()
    assert isinstance(reply, Declined) and reply.code == "not_supported"

    asked: list[Key] = []

    class Others:
        def submit(self, instructions: Any, **_: Any) -> dict[Key, BankReply]:
            asked.extend(i.key for i in instructions)
            return {i.key: Done(account_ref="A1", card_number="6217") for i in instructions}

        def find(self, keys: Any, **_: Any) -> dict[Key, BankReply]:
            asked.extend(keys)
            raise TransientError("away")

        def collect(self, *, after: str | None, limit: int) -> LateReplies:
            return LateReplies(keys=("ff-0",), cursor="c7") if after is None else LateReplies(cursor=after)

    line.gateway = line.made(others=Others())
    both = line.gateway.submit([opening(1), freeze], deadline=line.deadline)
    assert isinstance(both[opening(1).key], Pending) and isinstance(both["ff-1"], Done)
    found = line.gateway.find([opening(1).key, "ff-1"], deadline=line.deadline)
    assert isinstance(found[opening(1).key], Pending) and isinstance(found["ff-1"], TransientError)
    assert asked == ["ff-1", "ff-1"]
    assert line.collect() == LateReplies(keys=("ff-0",), cursor="|c7")
    assert line.collect("|c7") == LateReplies(cursor="|c7")


# ---------------------------------------------------------------------------------------------------------------- faults


def test_a_file_with_rows_missing_is_refused_whole_and_the_whole_one_is_read(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(faults="missing_rows=1")
    people = [opening(n) for n in range(3)]
    line.send(*people)
    with caplog.at_level(logging.ERROR, logger="zhika.bank_files"):
        line.round()
    assert all(isinstance(reply, Pending) for reply in line.find(*people))
    [refused] = line.files("in")
    assert refused.state == "refused" and refused.problem.startswith("bank_file.rows_missing: ")
    assert len(line.names("errors")) == 1 and "rows_missing" in caplog.text
    line.round()
    assert all(isinstance(reply, Done) for reply in line.find(*people))


def test_a_wrong_count_refuses_the_file(rig: Callable[..., Rig]) -> None:
    line = rig(faults="wrong_count=1")
    line.send(opening(1))
    line.round()
    assert [file.problem.partition(":")[0] for file in line.files("in")] == ["bank_file.unreadable"]
    assert isinstance(line.find(opening(1))[0], Pending)
    line.round()
    assert isinstance(line.find(opening(1))[0], Done)


def test_a_row_of_another_person_stays_open_alone_until_the_bank_puts_it_right(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(faults="wrong_person=1")
    people = sorted((opening(n) for n in range(3)), key=lambda o: o.key)
    line.send(*people)
    with caplog.at_level(logging.ERROR, logger="zhika.bank_files"):
        line.round()
    first, *others = line.find(*people)
    assert isinstance(first, Pending) and all(isinstance(reply, Done) for reply in others)
    [read] = line.files("in")
    assert read.state == "read" and "bank_file.other_person" in read.problem and "other_person" in caplog.text
    line.round()
    assert isinstance(line.find(people[0])[0], Done)
    assert line.find(*people)[1:] == others


def test_a_file_that_comes_twice_changes_nothing(rig: Callable[..., Rig]) -> None:
    line = rig(faults="duplicate_file=1")
    line.send(opening(1))
    line.round()
    before = (line.find(opening(1)), line.collect())
    line.round()
    assert (line.find(opening(1)), line.collect()) == before
    assert not list(line.in_dir.glob("RH_*")) and not line.names("errors")


def test_another_file_under_a_name_that_was_read_is_refused(rig: Callable[..., Rig]) -> None:
    line = rig(faults="resend_other=1")
    line.send(opening(1))
    line.round()
    [before] = line.find(opening(1))
    assert isinstance(before, Done)
    line.round()
    assert line.find(opening(1)) == [before]
    assert [file.state for file in line.files("in")] == ["read", "refused"]
    assert "bank_file.name_used" in line.files("in")[1].problem


def test_a_file_that_the_bank_is_writing_is_left_alone(rig: Callable[..., Rig]) -> None:
    line = rig(faults="half_written=1")
    line.send(opening(1))
    line.round()
    assert line.files("in") == [] and len(list(line.in_dir.glob("*.tmp"))) == 1
    line.round()
    assert isinstance(line.find(opening(1))[0], Done)


def test_a_file_is_read_only_once_it_has_stood_still(rig: Callable[..., Rig]) -> None:
    line = rig(terms=replace(TERMS, quiet=timedelta(seconds=10)))
    line.send(opening(1))
    line.bank.once()
    [result] = line.in_dir.glob("RH_*")
    whole = result.read_bytes()
    for end in (50, 200, len(whole)):
        result.write_bytes(whole[:end])
        line.collect()
        line.clock.advance(timedelta(seconds=6))
        line.collect()
        assert line.files("in") == []
    line.clock.advance(timedelta(seconds=6))
    line.collect()
    assert isinstance(line.find(opening(1))[0], Done)


def test_a_late_file_is_waited_for(rig: Callable[..., Rig]) -> None:
    line = rig(faults="late=1")
    [told] = line.submit(opening(1)).values()
    line.send(opening(1))
    line.clock.advance(timedelta(days=3))
    line.round()
    assert isinstance(told, Pending) and told.expected_by < line.clock.now()
    assert line.find(opening(1)) == [told]  # so who waits can tell that it is late
    for _ in range(3):
        line.round()
    assert isinstance(line.find(opening(1))[0], Done)


def test_a_refused_file_can_be_put_back_when_the_setting_was_wrong(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.terms = replace(TERMS, passed="1", failed="0")
    line.gateway = line.made()
    line.send(opening(1))
    line.round()
    [refused] = line.names("errors")
    line.terms = TERMS
    line.gateway = line.made()
    (line.in_dir / "errors" / refused).rename(line.in_dir / refused)
    line.collect()
    line.collect()
    assert isinstance(line.find(opening(1))[0], Done)
    assert [file.state for file in line.files("in")] == ["read"]


def test_a_file_of_no_dialect_is_set_aside_and_its_name_is_told_to_nobody(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig()
    (line.in_dir / "张三.txt").write_bytes(b"x")
    line.collect()
    line.collect()
    [file] = line.files("in")
    assert "unknown_dialect" in file.problem and file.file.startswith("file-")
    assert "张三" not in caplog.text + str(line.names("errors")) and len(line.names("errors")) == 1


def test_a_file_whose_name_may_tell_of_a_person_is_read_and_kept_under_another(rig: Callable[..., Rig]) -> None:
    line = rig(terms=replace(TERMS, card_number_in_reserved=False))
    line.send(opening(1))
    line.bank.once()
    [cards] = line.in_dir.glob("CARDS_*")
    cards.rename(line.in_dir / "张三.csv")
    line.collect()
    line.collect()
    assert isinstance(line.find(opening(1))[0], Done)
    assert all(file.file.isascii() for file in line.files("in")) and all(map(str.isascii, line.names("history")))


def test_a_directory_that_is_away_keeps_nothing_else_from_going_on(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.send(opening(1))
    line.bank.once()
    away = line.out_dir.rename(line.out_dir.with_name("away"))
    line.send(opening(2))
    line.collect()
    assert isinstance(line.find(opening(1))[0], Done)
    assert not line.out_dir.exists()
    away.rename(line.out_dir)
    line.collect()
    line.round()
    assert isinstance(line.find(opening(2))[0], Done)


def test_a_resent_batch_keeps_its_number_and_opens_no_second_account(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.send(opening(1))
    line.round()
    [taken] = (line.out_dir / "taken").iterdir()
    taken.rename(line.out_dir / taken.name)
    line.round()
    assert len(line.ledger.accounts()) == 1 and not line.names("errors")
    assert [file.state for file in line.files("in")] == ["read"]


# --------------------------------------------------------------------------------------------------------- what is kept


def test_nothing_of_a_person_stands_in_clear_in_the_journal_or_the_log(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(faults="wrong_person=1,missing_rows=1")
    people = [opening(n) for n in range(2)]
    with caplog.at_level(logging.DEBUG, logger="zhika"):
        line.send(*people)
        line.round()
        line.round()
        line.send(opening(5))
        line.round()
        line.round()
    done = [reply for reply in line.find(*people) if isinstance(reply, Done)]
    assert len(done) == 2
    with line.store.transaction() as tx:
        kept = b"".join(
            value if isinstance(value, bytes) else str(value).encode()
            for table in (t.bank_files, t.bank_file_rows)
            for row in tx.conn.execute(select(table))
            for value in row
        )
    seen = kept + caplog.text.encode()
    for person, reply in zip(people, done, strict=True):
        for word in (person.holder.name, person.holder.id_number, person.holder.phone, reply.card_number):
            assert word.encode() not in seen and word.encode("gbk") not in seen


def test_the_bytes_of_a_file_are_erased_when_it_is_answered_whole(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.send(opening(1))
    [file] = line.files("out")
    line.round()
    assert line.objects.get(file.object)  # it may just have been put
    line.clock.advance(timedelta(hours=2))
    line.collect()
    assert line.objects.erase(file.object, unused_for=timedelta(0)) == "absent"
    assert line.files("out")[0].object is None


def test_two_banks_do_not_see_each_others_rows(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.send(opening(1))
    other = BankFileJournal(line.store, "95588")
    assert other.find([opening(1).key]) == {} and other.batch("00000001") == [] and other.unsent() == []
    assert other.of_people([opening(1).holder.id_number]) == {opening(1).holder.id_number: []}


# ------------------------------------------------------------------------------------------------ dying at every step


class Deaths:
    """Kills whoever is about to make the n-th call, which is as good as right after the one before."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.struck = False

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **said: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.struck = True
                raise Killed
            return call(*args, **said)

        return made


class Watched:
    """Something whose every function may be the last one called."""

    def __init__(self, what: Any, deaths: Deaths) -> None:
        self._what = what
        self._deaths = deaths

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._what, name)
        return self._deaths.around(found) if callable(found) and not isinstance(found, type) else found


def test_a_death_at_any_step_loses_and_doubles_nothing(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = rig(terms=replace(TERMS, card_number_in_reserved=False))
    people = iter([opening(n) for n in range(1, 900)])
    wanted: list[OpenAccount] = []
    deepest = 0
    for step in count(1):
        pair = [next(people), next(people)]
        wanted += pair
        deaths = Deaths(step)
        monkeypatch.setattr(exchanging, "os", Watched(os, deaths))
        line.gateway = line.made(
            journal=Watched(line.journal, deaths),
            objects=Watched(line.objects, deaths),
        )
        try:
            line.send(*pair)
            line.round()
        except Killed:
            pass
        monkeypatch.setattr(exchanging, "os", os)
        line.bank.once()  # the bank goes on meanwhile, and takes whatever lies there under a file's name
        line.gateway = line.made()  # the process comes back; what it was about to do, it does
        line.send(*pair)
        line.round()
        assert all(isinstance(reply, Done) for reply in line.find(*pair)), f"step {step}"
        if not deaths.struck:
            break
        deepest = step
    assert deepest > 30  # or not every step was tried
    assert sorted(a.key for a in line.ledger.accounts()) == sorted(p.key for p in wanted)
    assert sorted(line.sent_keys()) == sorted(p.key for p in wanted)
    assert [file.state for file in line.files("out")] == ["sent"] * len(line.files("out"))
    assert {file.state for file in line.files("in")} == {"read"} and not line.names("errors")
    told = line.gateway.collect(after=None, limit=10_000)
    assert sorted(told.keys) == sorted(p.key for p in wanted)


def test_two_that_collect_at_once_make_one_file_and_one_answer_of_each_row(rig: Callable[..., Rig]) -> None:
    line = rig()
    people = [opening(n) for n in range(20)]
    gateways = [line.made(), line.made()]
    failed: list[BaseException] = []

    def together() -> None:
        barrier = threading.Barrier(2)

        def one(gateway: BankFiles) -> None:
            try:
                barrier.wait(30)
                gateway.collect(after=None, limit=10)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failed.append(error)

        threads = [threading.Thread(target=one, args=(gateway,)) for gateway in gateways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    for some in (people[:7], people[7:]):
        line.submit(*some)
        line.clock.advance(EVERY)
        together()
        line.bank.once()
        together()
        together()
    together()
    assert not failed
    assert all(isinstance(reply, Done) for reply in line.find(*people))
    assert sorted(line.sent_keys()) == sorted(p.key for p in people)
    assert [file.state for file in line.files("in")] == ["read", "read"]
    assert len(line.gateway.collect(after=None, limit=100).keys) == len(people)


@pytest.mark.parametrize("step", ["taken", "write", "unsent", "sent", "received", "batch", "settle"])
def test_whoever_is_overtaken_at_a_step_adds_nothing(rig: Callable[..., Rig], step: str) -> None:
    line = rig()
    other = line.made()

    class Overtaken:
        def __getattr__(self, name: str) -> Any:
            if name == step:
                other.collect(after=None, limit=10)
            return getattr(line.journal, name)

    line.gateway = line.made(journal=Overtaken())
    people = [opening(n) for n in range(3)]
    line.send(*people)
    line.bank.once()
    other.collect(after=None, limit=10)  # now it has seen the file, and reads it when it collects next
    line.collect()
    line.collect()
    assert all(isinstance(reply, Done) for reply in line.find(*people))
    assert [(file.rows, file.state) for file in line.files("out")] == [(3, "sent")]
    assert [file.state for file in line.files("in")] == ["read"] and not line.names("errors")
    assert sorted(line.sent_keys()) == sorted(p.key for p in people)


# ------------------------------------------------------------------------------------------------------ the simulated bank


def test_the_simulated_bank_runs_until_it_is_told_to_stop(
    rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = rig()
    line.send(opening(1))
    left = threading.Event()
    leave = FileBank._leave

    def leaving(self: FileBank, delivery: Any) -> None:
        leave(self, delivery)
        left.set()

    monkeypatch.setattr(FileBank, "_leave", leaving)
    monkeypatch.setattr(simulator, "EVERY_S", 0.01)
    stopping = threading.Event()
    run = threading.Thread(
        target=simulator.serve,
        args=(line.out_dir, line.in_dir, tmp_path / "ledger.db"),
        kwargs={"bank_code": BANK, "with_cards": True, "faults": "", "stopping": stopping},
    )
    run.start()
    assert left.wait(30)
    stopping.set()
    run.join(30)
    assert not run.is_alive()
    line.collect()
    line.collect()
    assert isinstance(line.find(opening(1))[0], Done)


@pytest.mark.parametrize("spec", ["missing=1", "late", "late=x", "late=-1"])
def test_a_wrong_fault_spec_is_refused_by_name(spec: str) -> None:
    with pytest.raises(ValueError, match=r"known are missing_rows|as in late=1"):
        FileFaults.parse(spec)


# ---------------------------------------------------------------------------------------------------- files without end


def test_a_file_longer_than_all_our_answers_is_refused_unread_and_said_so(rig: Callable[..., Rig]) -> None:
    line = rig(terms=replace(TERMS, max_rows=2))
    line.send(opening(1))
    line.bank.once()
    endless = line.in_dir / "RH_00000001_endless"
    with endless.open("wb") as file:
        file.truncate(2_000_000_000)  # a hole: it takes no room, and all the memory of who reads it

    class Unread(DirectoryExchange):
        def read(self, file: Arrived) -> bytes:
            assert file.name != endless.name
            return super().read(file)

    line.gateway = line.made(exchange=Unread(line.out_dir, line.in_dir))
    for _ in range(2):
        line.collect()
    assert [isinstance(reply, Done) for reply in line.find(opening(1))] == [True]  # its neighbour was read
    [kept] = line.names("errors")
    assert kept.startswith(f"{endless.name}.") and not endless.exists()
    [row] = [row for row in line.files("in") if row.state == "refused"]
    assert row.problem.startswith("bank_file.too_long: ") and "1000000" in row.problem

    (line.in_dir / "errors" / kept).rename(line.in_dir / kept)  # put back: nothing has changed
    for _ in range(2):
        line.collect()
    assert line.names("errors") == [kept]
    assert len(line.files("in")) == 2


def test_the_longest_file_that_may_come_grows_with_the_files_we_send() -> None:
    assert replace(TERMS, max_rows=1).most_bytes == 1_000_000
    assert replace(TERMS, max_rows=20_000).most_bytes == 20_000_000
