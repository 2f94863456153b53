"""Photos are erased when their time is over, and never while anybody needs them, whatever dies in between."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Text, insert, select, update
from typer.testing import CliRunner

from config import metrics
from config.policies import load_policies
from config.settings import load
from config.wiring import Installation
from pipeline.application import Submission
from pipeline.errors import NotFound, TransientError
from pipeline.policy import Policy
from pipeline.services import erase, operate
from pipeline.services.accept import Accepted, accept, keep_photos, take_in
from pipeline.states import LIVE, STATUSES
from pipeline.store import applications, audit, erasures
from pipeline.store import tables as t
from producers.cli.main import app
from producers.timers import Timers

from .conftest import Killed, Line, Stand

Make = Callable[..., Submission]
DAYS = 30
NAME = re.compile("[0-9a-f]{64}")
REFERENCES = {
    ("submissions", "photo_original"),
    ("submissions", "photo_result"),
    ("photos", "original"),
    ("photos", "picture"),
    ("cards", "face"),
}


@dataclass
class Book:
    """A book of policies that differ from the installation's in how many days they keep photos; its versions can be lost."""

    days: dict[str, int] = field(default_factory=dict)
    kept: dict[tuple[str, str], Policy] = field(default_factory=dict)

    def of(self, region_code: str, version: str | None = None) -> Policy:
        if version is None:
            raw = load_policies().of(region_code).model_dump()
            raw["photo"]["keep_days"]["value"] = self.days.get(region_code, DAYS)
            policy = Policy.model_validate(raw)
            self.kept[region_code, policy.version] = policy
            return policy
        if (region_code, version) not in self.kept:
            raise NotFound("没有", "no such policy")
        return self.kept[region_code, version]

    def cities(self) -> tuple[Policy, ...]:
        return load_policies().cities()


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def line(line: Line, book: Book) -> Line:
    """The line with an object store that lives by its clock."""
    line.context.objects.clock = line.clock  # type: ignore[attr-defined]
    line.context = replace(line.context, policies=book)
    return line


def cancelled(line: Line, *submissions: Submission) -> list[str]:
    """Applications that ended when their pictures were made, now."""
    ids = line.accept(*submissions)
    line.until("account")
    for i in ids:
        operate.cancel(line.context, i, reason="withdrawn", actor="clerk")
    return ids


def run(line: Line, **how: Any) -> erase.Erased:
    return sum(erase.erase(line.context, actor="sweeper", **how), erase.Erased())


def days(line: Line, n: float) -> None:
    line.clock.advance(timedelta(days=n))


def named(line: Line, *ids: str) -> dict[tuple[str, str], set[str]]:
    """Every text column of the database that names objects, with the names; only rows of these applications, if any are given."""
    found: dict[tuple[str, str], set[str]] = {}
    with line.context.store.transaction() as tx:
        for table in t.metadata.tables.values():
            owner = "application_id" if "application_id" in table.c else "id"
            texts = [column.name for column in table.c if isinstance(column.type, Text)]
            for row in tx.conn.execute(select(table)).mappings():
                for name in texts if not ids or row.get(owner) in ids else ():
                    if NAME.fullmatch(row[name] or ""):
                        found.setdefault((table.name, name), set()).add(row[name])
    return found


def objects(line: Line) -> set[str]:
    return set(line.context.objects._objects)  # type: ignore[attr-defined]


def erasures_told(line: Line) -> list[tuple[str, str, dict[str, int]]]:
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(select(t.audit).where(t.audit.c.action == "photo.erased").order_by(t.audit.c.id)).all()
    return [(row.target, row.actor, row.detail) for row in rows]


def contents(line: Line) -> dict[str, list[Any]]:
    """Every row of the database."""
    with line.context.store.transaction() as tx:
        return {
            name: [tuple(row) for row in tx.conn.execute(select(table).order_by(*table.primary_key.columns))]
            for name, table in t.metadata.tables.items()
        }


# ---------------------------------------------------------------------------------------------------------- when it is time


def test_upload_picture_and_face_of_a_collected_card_go_when_the_days_are_over(line: Line, submission: Make) -> None:
    [i] = line.to_outlet(submission())
    line.notify(i)
    line.hand_over(i)
    before = named(line, i)
    assert set(before) == REFERENCES
    days(line, DAYS - 0.01)
    assert run(line) == erase.Erased()
    assert named(line, i) == before
    days(line, 0.02)
    assert run(line) == erase.Erased(applications=1, objects=3)
    assert named(line) == {}
    assert objects(line) == set()
    assert erasures_told(line) == [(i, "sweeper", {"objects": 3, "shared": 0})]
    assert line.status(i) == "collected"
    assert run(line) == erase.Erased()
    line.sweep()
    with line.context.store.transaction() as tx:
        assert audit.verify(tx).broken_at is None


def test_only_what_has_ended_is_due(line: Line, submission: Make) -> None:
    line.accept(submission())
    days(line, 400)
    for status in STATUSES:
        with line.context.store.transaction() as tx:
            tx.conn.execute(update(t.applications).values(status=status))
        assert erase.foresee(line.context).applications == (status not in LIVE), status


def test_the_days_count_from_the_end_not_from_the_beginning(line: Line, submission: Make) -> None:
    [i] = line.accept(submission())
    days(line, 100)
    operate.cancel(line.context, i, reason="withdrawn", actor="clerk")
    days(line, DAYS - 1)
    assert run(line).applications == 0
    days(line, 2)
    assert run(line).applications == 1


def test_each_region_has_its_own_days(line: Line, book: Book, regional: Callable[..., Submission]) -> None:
    cities = book.cities()
    book.days = {policy.code: 10 * n for n, policy in enumerate(cities, start=1)}
    ids = cancelled(line, *(regional(policy, n, photo=b"photo %d" % n) for n, policy in enumerate(cities, start=1)))
    days(line, 5)
    for n in range(len(cities) + 1):
        run(line)
        assert {i for i in ids if named(line, i)} == set(ids[n:])
        days(line, 10)


def test_an_application_keeps_the_days_of_the_version_it_was_accepted_under(
    line: Line, book: Book, submission: Make
) -> None:
    old = cancelled(line, submission(1))
    book.days["420100"] = 5
    new = cancelled(line, submission(2))
    days(line, 6)
    assert run(line).applications == 1
    assert (bool(named(line, *old)), bool(named(line, *new))) == (True, False)


def test_without_its_policy_nothing_is_erased_and_somebody_is_told(line: Line, book: Book, submission: Make) -> None:
    cancelled(line, submission(1))
    lost = dict(book.kept)
    book.kept.clear()
    book.days["420100"] = 7
    cancelled(line, submission(2))
    days(line, 365)
    assert erase.foresee(line.context) == erase.Foreseen(applications=1, objects=2, unknown=1)
    assert run(line) == erase.Erased(applications=1, objects=2, unknown=1)
    book.kept.update(lost)
    assert run(line) == erase.Erased(applications=1, objects=2)
    assert named(line) == {}


def test_a_batch_is_bounded_and_the_next_one_goes_on(
    line: Line, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "PAGE", 2)
    monkeypatch.setattr(erase, "CHUNK", 2)
    cancelled(line, *(submission(n, photo=b"the same" if n < 4 else b"photo %d" % n) for n in range(1, 8)))
    days(line, DAYS + 1)
    batches = list(erase.erase(line.context, actor="sweeper"))
    assert max(max(b.applications, b.objects + b.shared + b.left) for b in batches) == 2
    assert sum(b.applications for b in batches) == 7
    assert (named(line), objects(line)) == ({}, set())


# --------------------------------------------------------------------------------------------------- what others still need


def test_what_another_application_needs_stays_until_that_one_has_ended(line: Line, submission: Make) -> None:
    [gone] = cancelled(line, submission(1, photo=b"twins"))
    [live] = line.accept(submission(2, photo=b"twins"))
    line.until("account")
    days(line, DAYS + 1)
    kept = objects(line)
    assert run(line) == erase.Erased(applications=1, shared=2)
    assert (named(line, gone), objects(line)) == ({}, kept)
    assert set(named(line, live)) == REFERENCES - {("cards", "face")}
    assert erasures_told(line) == [(gone, "sweeper", {"objects": 0, "shared": 2})]
    operate.cancel(line.context, live, reason="withdrawn", actor="clerk")
    days(line, DAYS + 1)
    assert run(line) == erase.Erased(applications=1, objects=2)
    assert objects(line) == set()


def test_two_that_share_and_are_due_together_are_erased_together(line: Line, submission: Make) -> None:
    cancelled(line, submission(1, photo=b"twins"), submission(2, photo=b"twins"))
    days(line, DAYS + 1)
    assert run(line) == erase.Erased(applications=2, objects=2)
    assert (named(line), objects(line)) == ({}, set())


def test_an_upload_that_equals_anothers_picture_is_not_taken_from_it(line: Line, submission: Make) -> None:
    cancelled(line, submission(1, photo=b"jpegphoto 2"))
    [live] = line.accept(submission(2))
    line.until("account")
    [picture] = named(line, live)["submissions", "photo_result"]
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.submissions).where(t.submissions.c.id != live).values(photo_original=picture))
    days(line, DAYS + 1)
    assert run(line).shared == 1
    assert line.context.objects.get(picture)


@pytest.mark.parametrize("after", ["retire", "check", "remove"])
def test_the_same_photo_accepted_at_this_moment_is_there_afterwards(
    line: Line, submission: Make, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new application puts its photo and commits; the erasure goes on behind every one of its steps in between."""
    cancelled(line, submission(1, photo=b"twins"))
    days(line, DAYS + 1)
    new = submission(2, photo=b"twins")
    if after == "retire":
        erasing = erase.erase(line.context, actor="sweeper")
        next(erasing)
        photos = keep_photos(line.context, [new])
        list(erasing)
    elif after == "check":
        real = erasures.retired
        put: list[list[str]] = []

        def retired(*args: Any, **how: Any) -> Any:
            found = real(*args, **how)
            put.append(keep_photos(line.context, [new]))
            return found

        with monkeypatch.context() as patched:
            patched.setattr(erasures, "retired", retired)
            run(line)
        photos = put[0]
    else:
        photos = keep_photos(line.context, [new])
        run(line)
    with line.context.store.transaction() as tx:
        [answer] = take_in(line.context, tx, [new], photos=photos, actor="test")
    assert isinstance(answer, Accepted)
    assert line.context.objects.get(photos[0]) == b"twins"
    line.clock.advance(timedelta(hours=2))
    run(line)
    assert line.context.objects.get(photos[0]) == b"twins"
    line.until("account")
    assert line.status(answer.id) == "account"
    with line.context.store.transaction() as tx:
        assert tx.conn.execute(select(t.objects_retired)).all() == []


def test_what_was_put_of_late_is_tried_again_by_a_later_run(line: Line, submission: Make) -> None:
    cancelled(line, submission(photo=b"sent again"))
    days(line, DAYS + 1)
    keep_photos(line.context, [submission(photo=b"sent again")])
    assert run(line) == erase.Erased(applications=1, objects=1, left=1)
    assert named(line) == {("objects_retired", "object"): objects(line)}
    line.clock.advance(timedelta(minutes=61))
    assert run(line) == erase.Erased(objects=1)
    assert (named(line), objects(line)) == ({}, set())


@pytest.mark.parametrize("again", [False, True])
def test_a_replaced_picture_goes_unless_its_own_photo_names_it_again(line: Line, submission: Make, again: bool) -> None:
    [i] = line.accept(submission())
    line.until("account")
    [current] = named(line, i)["photos", "picture"]
    name = current if again else line.context.objects.put(b"an earlier frame")
    with line.context.store.transaction() as tx:
        tx.conn.execute(insert(t.objects_retired).values(application_id=i, object=name, retired_at=line.clock.now()))
    line.clock.advance(timedelta(hours=2))
    assert run(line) == erase.Erased(objects=int(not again))
    assert erasures_told(line) == ([] if again else [(i, "sweeper", {"objects": 1, "shared": 0})])
    assert line.context.objects.get(current)
    assert set(named(line)) == REFERENCES - {("cards", "face")}


@pytest.mark.parametrize("named_when_read", [True, False])
def test_an_object_that_is_retired_anew_behind_a_running_erasure_is_not_forgotten(
    line: Line, submission: Make, named_when_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure has looked; the same object is put, retired again and named no more before it forgets."""
    [i] = cancelled(line, submission(1))
    [name] = named(line, i)["photos", "picture"] if named_when_read else {line.context.objects.put(b"a frame")}
    with line.context.store.transaction() as tx:
        erasures.retire_unnamed(tx, i, name, now=line.clock.now())
    line.clock.advance(timedelta(hours=2))
    forget = erasures.forget

    def overtaken(tx: Any, gone: Any) -> Any:
        monkeypatch.setattr(erasures, "forget", forget)
        line.clock.advance(timedelta(seconds=1))
        if named_when_read:
            days(line, DAYS + 1)
            assert erasures.retire(tx, erasures.holding(tx, after=("", ""), limit=10), now=line.clock.now()) == 1
        else:
            assert line.context.objects.put(b"a frame") == name
            erasures.retire_unnamed(tx, i, name, now=line.clock.now())
        return forget(tx, gone)

    monkeypatch.setattr(erasures, "forget", overtaken)
    run(line)
    assert name in objects(line)
    line.clock.advance(timedelta(hours=2))
    run(line)
    assert name not in objects(line)
    assert ("objects_retired", "object") not in named(line)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer
def test_a_row_that_somebody_moves_at_this_moment_is_left_for_the_next_run(line: Line, submission: Make) -> None:
    [i] = cancelled(line, submission())
    days(line, DAYS + 1)
    with line.context.store.transaction() as tx:
        applications.load(tx, [i], lock=True)
        assert run(line) == erase.Erased()
    assert run(line).applications == 1


def test_one_that_is_taken_up_again_after_it_was_read_keeps_its_photo(line: Line, submission: Make) -> None:
    back, stays = cancelled(line, submission(1), submission(2))
    with line.context.store.transaction() as tx:
        read = erasures.holding(tx, after=("", ""), limit=10)
        tx.conn.execute(update(t.applications).where(t.applications.c.id == back).values(status="validation"))
        assert erasures.retire(tx, read, now=line.clock.now()) == 1
    assert (bool(named(line, back)), set(named(line, stays))) == (True, {("objects_retired", "object")})


# ---------------------------------------------------------------------------------------------------------------- what dies


def dies_removing(line: Line, _monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first object off the disk and nothing written about it."""

    def removing(name: str, *, unused_for: timedelta) -> str:
        line.context.objects.erase(name, unused_for=unused_for)
        raise Killed

    broken = replace(line.context, objects=Stand(line.context.objects, erase=removing))
    with pytest.raises(Killed):
        list(erase.erase(broken, actor="sweeper"))


def dies_forgetting(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all objects off the disk, within the transaction that would say so."""

    def forgetting(*_args: Any, **_how: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(audit, "append", forgetting)
        run(line)


def dies_retired(line: Line, _monkeypatch: pytest.MonkeyPatch) -> None:
    """With the references gone and every object still there."""
    next(erase.erase(line.context, actor="sweeper"))


def dies_retiring(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the transaction that takes the references."""
    real = erasures.remember

    def retiring(*args: Any) -> None:
        real(*args)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(erasures, "remember", retiring)
        run(line)


@pytest.mark.parametrize("dies", [dies_retiring, dies_retired, dies_removing, dies_forgetting])
def test_what_dies_in_between_is_finished_by_the_next_run(
    line: Line, submission: Make, dies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [i] = cancelled(line, submission())
    days(line, DAYS + 1)
    dies(line, monkeypatch)
    assert erasures_told(line) == []
    run(line)
    assert (named(line), objects(line)) == ({}, set())
    assert erasures_told(line) == [(i, "sweeper", {"objects": 2, "shared": 0})]


@pytest.mark.parametrize("dies", [dies_retired, dies_removing, dies_forgetting])
def test_the_same_photo_accepted_after_a_crash_is_not_taken_by_the_next_run(
    line: Line, submission: Make, dies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled(line, submission(1, photo=b"twins"))
    days(line, DAYS + 1)
    dies(line, monkeypatch)
    [live] = line.accept(submission(2, photo=b"twins"))
    line.clock.advance(timedelta(hours=2))
    run(line)
    line.until("account")
    assert line.status(live) == "account"


def test_two_runs_at_once_tell_it_once(line: Line, submission: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes all the way when the other has looked and not yet removed."""
    [i] = cancelled(line, submission())
    days(line, DAYS + 1)
    removing = erase._remove

    def overtaken(*told: Any, **how: Any) -> erase.Erased:
        monkeypatch.setattr(erase, "_remove", removing)
        assert run(line) == erase.Erased(objects=2)
        return removing(*told, **how)

    monkeypatch.setattr(erase, "_remove", overtaken)
    run(line)
    assert erasures_told(line) == [(i, "sweeper", {"objects": 2, "shared": 0})]


def test_a_store_that_refuses_leaves_everything_for_the_next_run(line: Line, submission: Make) -> None:
    [i] = cancelled(line, submission())
    days(line, DAYS + 1)

    def refuses(_name: str, *, unused_for: timedelta) -> str:
        raise TransientError("the object store cannot be written: Read-only file system")

    broken = replace(line.context, objects=Stand(line.context.objects, erase=refuses))
    done = sum(erase.erase(broken, actor="sweeper"), erase.Erased())
    assert done == erase.Erased(applications=1, left=2)
    assert erasures_told(line) == []
    days(line, 2)
    assert sum(erase.erase(broken, actor="sweeper"), erase.Erased()) == erase.Erased(left=2, late=2)
    assert run(line) == erase.Erased(objects=2)
    assert erasures_told(line) == [(i, "sweeper", {"objects": 2, "shared": 0})]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_whatever_order_the_living_keep_their_photos_and_the_dead_do_not(
    line: Line, submission: Make, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few photos, many applications: accepted in two steps, run, cancelled; erasures that are killed anywhere."""
    random = Random(seed)
    live: dict[str, bytes] = {}
    pending: list[tuple[Submission, list[str]]] = []
    numbers: Iterator[int] = iter(range(1, 900))

    def put() -> None:
        new = submission(next(numbers), photo=b"face %d" % random.randrange(3))
        pending.append((new, keep_photos(line.context, [new])))

    def commit() -> None:
        if pending:
            new, photos = pending.pop(random.randrange(len(pending)))
            with line.context.store.transaction() as tx:
                [answer] = take_in(line.context, tx, [new], photos=photos, actor="test")
            assert isinstance(answer, Accepted)
            live[answer.id] = new.photo

    def cancel() -> None:
        if live:
            i = random.choice(sorted(live))
            operate.cancel(line.context, i, reason="withdrawn", actor="clerk")
            del live[i]

    def wait() -> None:
        commit()
        if not pending:  # nobody takes an hour from putting to committing
            days(line, random.choice([0.1, 10, 31]))

    def killed() -> None:
        random.choice([dies_retired, dies_removing, dies_forgetting])(line, monkeypatch)

    acts = [put, put, commit, commit, cancel, wait, lambda: run(line), lambda: line.until("account"), killed]
    for _ in range(60):
        try:
            random.choice(acts)()
        except pytest.fail.Exception:  # there was nothing to be killed over
            continue
        except StopIteration:
            continue
        for i, data in live.items():
            assert line.context.objects.get(line.application(i).photo_original) == data
            if (picture := line.application(i).photo_result) is not None:
                assert line.context.objects.get(picture)
    while pending:
        commit()
    days(line, DAYS + 1)
    run(line)
    assert objects(line) == {name for names in named(line, *live, "nobody").values() for name in names}
    assert erasures_told(line)


# ------------------------------------------------------------------------------------------------------------- who looks at it


def test_every_column_that_names_an_object_is_known(line: Line, submission: Make) -> None:
    cancelled(line, submission(1))
    line.to_outlet(submission(2))
    assert set(named(line)) == REFERENCES
    known = {(c.table.name, c.name) for _, columns in erasures._HOLDERS for c in columns}
    assert known == REFERENCES


def test_an_application_that_goes_on_without_its_photo_is_asked_for_it_again(line: Line, submission: Make) -> None:
    [i] = cancelled(line, submission())
    days(line, DAYS + 1)
    run(line)
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.applications).values(status="photo", stage="photo", work="ready"))
    line.step("photo")
    assert line.status(i) == "awaiting_correction"
    assert [reason.code for reason in line.application(i).reasons] == ["photo.file_empty"]


def test_looking_ahead_changes_nothing(line: Line, submission: Make) -> None:
    cancelled(line, submission(1, photo=b"twins"), submission(2, photo=b"twins"), submission(3))
    days(line, DAYS + 1)
    before = contents(line), objects(line)
    assert erase.foresee(line.context) == erase.Foreseen(applications=3, objects=4, unknown=0)
    assert (contents(line), objects(line)) == before
    assert run(line) == erase.Erased(applications=3, objects=4)


def test_the_timers_erase_by_themselves_and_tell_what_is_overdue(line: Line, book: Book, submission: Make) -> None:
    [stays] = cancelled(line, submission(1))
    book.kept.clear()
    book.days["420100"] = 7
    [goes] = cancelled(line, submission(2))
    days(line, DAYS + 1)
    erasing = Timers(context=line.context)._erasing()
    for _ in range(3):  # a page of applications, a batch of objects, the end of the run
        next(erasing)
    assert (named(line, goes), bool(named(line, stays))) == ({}, True)
    assert erasures_told(line) == [(goes, "sweeper", {"objects": 2, "shared": 0})]
    assert metrics.ERASURE_OVERDUE._value.get() == 1


def test_the_command_says_what_is_due_then_erases_it(
    tmp_path: Path, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZHIKA_ENV", "test")
    installation = Installation(load(data_dir=tmp_path / "data"))
    [answer] = accept(installation.context, [submission()], actor="test")
    assert isinstance(answer, Accepted)
    operate.cancel(installation.context, answer.id, reason="withdrawn", actor="clerk")
    longest = max(city.photo.keep_days.value for city in installation.policies.cities())
    long_ago = datetime.now(UTC) - timedelta(days=longest + 1)
    with installation.store.transaction() as tx:
        tx.conn.execute(update(t.applications).values(updated_at=long_ago))

    def zhika(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, ["erase", "run", "--data", str(tmp_path / "data"), *arguments])
        return done.exit_code, json.loads(done.stdout)

    def files() -> list[Path]:
        return [path for path in (tmp_path / "data" / "objects").rglob("*") if len(path.name) == 64]

    assert zhika("--dry-run", "--json") == (
        0,
        {"dry_run": True, "applications": 1, "objects": 1, "unknown": 0},
    )
    assert len(files()) == 1
    left = {"dry_run": False, "applications": 1, "objects": 0, "shared": 0, "left": 1, "late": 0, "unknown": 0}
    assert zhika("--json") == (5, left)
    os.utime(files()[0], (0, 0))
    assert zhika("-o", "json") == (0, {**left, "applications": 0, "objects": 1, "left": 0})
    assert files() == []
    told = CliRunner().invoke(app, ["erase", "run", "--data", str(tmp_path / "data")])
    assert (told.exit_code, told.stdout.startswith("已删除 erased: 0 份申领 applications")) == (0, True)
    with installation.store.transaction() as tx:
        row = tx.conn.execute(select(t.audit).where(t.audit.c.action == "photo.erased")).one()
    assert (row.target, row.actor.startswith("cli:")) == (answer.id, True)
    installation.close()
