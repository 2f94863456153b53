"""What every object store promises, and what only the one on disk can."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipeline.clock import VirtualClock
from pipeline.errors import Defect, NotFound, TransientError
from pipeline.gateways.objects import ObjectDirectory, ObjectMemory
from pipeline.ports import ObjectStore

KEY = bytes(range(32))
NOW = timedelta(0)
HOUR = timedelta(hours=1)


def opener(kind: str, root: Path, clock: VirtualClock) -> Callable[[bytes], ObjectStore]:
    if kind == "memory":
        return lambda key: ObjectMemory(key=key, clock=clock)
    return lambda key: ObjectDirectory(root / "objects", key=key, clock=clock)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]


def age(root: Path, hours: int = 2) -> None:
    """Let the objects on the disk grow older."""
    for path in files(root):
        then = path.stat().st_mtime - hours * 3600
        os.utime(path, (then, then))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(datetime.now(UTC))


@pytest.fixture(params=["directory", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> Callable[[bytes], ObjectStore]:
    return opener(request.param, tmp_path, clock)


@pytest.fixture
def store(opened: Callable[[bytes], ObjectStore]) -> ObjectStore:
    return opened(KEY)


@pytest.mark.parametrize("data", [b"", b"\0", b"a photo", bytes(1_000_000)])
def test_what_is_put_is_got(store: ObjectStore, data: bytes) -> None:
    assert store.get(store.put(data)) == data


def test_the_same_bytes_have_one_object_and_others_another(store: ObjectStore) -> None:
    assert store.put(b"a") == store.put(b"a") != store.put(b"b")


def test_a_name_tells_nothing_to_those_without_the_key(opened: Callable[[bytes], ObjectStore]) -> None:
    name = opened(KEY).put(b"a known photo")
    assert name != hashlib.sha256(b"a known photo").hexdigest()
    assert name != opened(bytes(32)).put(b"a known photo")
    assert len(name) == 64


@pytest.mark.parametrize("name", ["0" * 64, "", "..", "../../etc/passwd", "F" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_was_never_kept_is_not_found(store: ObjectStore, name: str) -> None:
    store.put(b"another")
    with pytest.raises(NotFound):
        store.get(name)
    assert store.erase(name, unused_for=NOW) == "absent"


@pytest.mark.rule("WH-22")
def test_what_was_erased_is_gone_and_can_come_back(store: ObjectStore) -> None:
    name = store.put(b"a photo")
    assert store.erase(name, unused_for=NOW) == "erased"
    assert store.erase(name, unused_for=NOW) == "absent"
    with pytest.raises(NotFound):
        store.get(name)
    assert store.put(b"a photo") == name
    assert store.get(name) == b"a photo"


def test_what_was_put_of_late_stays(store: ObjectStore, clock: VirtualClock) -> None:
    name = store.put(b"a photo")
    clock.advance(timedelta(minutes=59))
    assert store.erase(name, unused_for=HOUR) == "in_use"
    assert store.get(name) == b"a photo"
    clock.advance(timedelta(minutes=2))
    assert store.erase(name, unused_for=HOUR) == "erased"


def test_a_refused_erasure_is_no_use(store: ObjectStore, clock: VirtualClock) -> None:
    name = store.put(b"a photo")
    for _ in range(6):
        clock.advance(timedelta(minutes=9))
        assert store.erase(name, unused_for=HOUR) == "in_use"
    clock.advance(timedelta(minutes=9))
    assert store.erase(name, unused_for=HOUR) == "erased"


class Life(RuleBasedStateMachine):
    """Puts and erasures in any order, against a store that only remembers when each name was last put."""

    names = Bundle("names")
    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(mkdtemp())
        self.clock = VirtualClock(datetime.now(UTC))
        self.store = opener(self.kind, self.root, self.clock)(KEY)
        self.data: dict[str, bytes] = {}
        self.put_at: dict[str, timedelta] = {}
        self.past = timedelta(0)

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(target=names, data=st.sampled_from([b"", b"a", b"b"]))
    def put(self, data: bytes) -> str:
        name = self.store.put(data)
        self.data[name] = data
        self.put_at[name] = self.past
        return name

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.past += timedelta(hours=hours)
        if self.kind == "memory":
            self.clock.advance(timedelta(hours=hours))
        age(self.root, hours)  # the time of a put is the machine's, so files grow old instead

    @rule(name=names, minutes=st.integers(0, 3).map(lambda hours: hours * 60 - 30))
    def erase(self, name: str, minutes: int) -> None:
        unused_for = timedelta(minutes=minutes)
        if name not in self.put_at:
            expected = "absent"
        else:
            expected = "erased" if self.past - self.put_at[name] > unused_for else "in_use"
        assert self.store.erase(name, unused_for=unused_for) == expected
        if expected == "erased":
            del self.put_at[name]

    @invariant()
    def what_was_put_and_not_erased_is_there(self) -> None:
        for name, data in self.data.items():
            if name in self.put_at:
                assert self.store.get(name) == data
            else:
                with pytest.raises(NotFound):
                    self.store.get(name)


@pytest.mark.parametrize("kind", ["directory", "memory"])
def test_any_order_of_puts_and_erasures_keeps_what_it_should(kind: str) -> None:
    machine = type(f"Life_{kind}", (Life,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))


def test_a_wrong_key_length_is_refused(opened: Callable[[bytes], ObjectStore]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        opened(b"short")


# ------------------------------------------------------------------------------------------------------------- on the disk


@pytest.fixture
def directory(tmp_path: Path) -> ObjectDirectory:
    return ObjectDirectory(tmp_path, key=KEY)


@pytest.mark.rule("WH-22")
def test_nothing_is_readable_on_the_disk(directory: ObjectDirectory, tmp_path: Path) -> None:
    directory.put(b"\xff\xd8\xff a face")
    (file,) = files(tmp_path)
    assert b"face" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_another_process_with_the_key_finds_it(directory: ObjectDirectory, tmp_path: Path) -> None:
    name = directory.put(b"a photo")
    assert ObjectDirectory(tmp_path, key=KEY).get(name) == b"a photo"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:5], lambda b: b"", lambda b: b"\x02" + b[1:]])
def test_an_altered_object_is_never_handed_out(
    directory: ObjectDirectory, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    name = directory.put(b"a photo")
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(Defect):
        directory.get(name)


def test_an_object_copied_over_another_does_not_open(directory: ObjectDirectory, tmp_path: Path) -> None:
    mine, other = directory.put(b"mine"), directory.put(b"other")
    place = {path.name: path for path in files(tmp_path)}
    place[mine].write_bytes(place[other].read_bytes())
    with pytest.raises(Defect):
        directory.get(mine)


def test_a_disk_that_refuses_leaves_nothing_half_written(
    directory: ObjectDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(TransientError, match="No space left"):
            directory.put(b"a photo")
    assert files(tmp_path) == []
    assert directory.get(directory.put(b"a photo")) == b"a photo"


# -------------------------------------------------------------------------------------------------- putting while erasing


def test_putting_renews_the_file_that_is_there(directory: ObjectDirectory, tmp_path: Path) -> None:
    name = directory.put(b"a photo")
    age(tmp_path)
    directory.put(b"a photo")
    assert directory.erase(name, unused_for=HOUR) == "in_use"


def test_a_put_between_the_look_and_the_removal_is_kept(
    directory: ObjectDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = directory.put(b"a photo")
    age(tmp_path)
    putting = threading.Thread(target=partial(directory.put, b"a photo"))
    real = Path.unlink

    def unlink(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == name:
            putting.start()
            putting.join(0.3)  # without the lock it is done by now, and what it renewed goes
        real(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        assert directory.erase(name, unused_for=HOUR) == "erased"
        putting.join()
    assert directory.get(name) == b"a photo"
    assert directory.erase(name, unused_for=HOUR) == "in_use"


def test_an_erasure_between_finding_a_file_and_renewing_it_is_made_good(
    directory: ObjectDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = directory.put(b"a photo")
    age(tmp_path)
    real = os.utime

    def utime(path: Path) -> None:
        monkeypatch.setattr(os, "utime", real)
        path.unlink()
        real(path)

    monkeypatch.setattr(os, "utime", utime)
    assert directory.put(b"a photo") == name
    assert directory.get(name) == b"a photo"


def test_who_has_put_finds_it_whatever_is_erased_at_the_same_time(directory: ObjectDirectory, tmp_path: Path) -> None:
    name = directory.put(b"a photo")
    together = threading.Barrier(3)
    found: list[bytes] = []

    def put() -> None:
        together.wait()
        found.append(directory.get(directory.put(b"a photo")))

    def erase() -> None:
        together.wait()
        directory.erase(name, unused_for=HOUR)

    for _ in range(100):
        age(tmp_path)
        threads = [threading.Thread(target=act) for act in (put, put, erase)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert directory.get(name) == b"a photo"
    assert found == [b"a photo"] * 200


def hold_and_die(root: Path) -> None:
    with ObjectDirectory(root, key=KEY)._locked():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_within_the_lock_holds_up_nobody(directory: ObjectDirectory, tmp_path: Path) -> None:
    name = directory.put(b"a photo")
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert directory.put(b"a photo") == name
    assert directory.erase(name, unused_for=NOW) == "erased"


def test_a_child_forked_within_the_lock_does_not_keep_it(directory: ObjectDirectory) -> None:
    name = directory.put(b"a photo")
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    with directory._locked():
        child.start()
    try:
        putting = threading.Thread(target=partial(directory.put, b"a photo"), daemon=True)
        putting.start()
        putting.join(5)
        assert not putting.is_alive()
    finally:
        child.kill()
        child.join()
    assert directory.erase(name, unused_for=HOUR) == "in_use"


def test_what_is_gone_with_its_whole_disk_is_not_taken_for_erased(directory: ObjectDirectory, tmp_path: Path) -> None:
    name = directory.put(b"a photo")
    elsewhere = ObjectDirectory(tmp_path / "not-mounted", key=KEY)
    with pytest.raises(TransientError):
        elsewhere.erase(name, unused_for=NOW)
    assert directory.erase(name, unused_for=NOW) == "erased"
