"""What every object store promises, and what only the one on disk can."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Defect, NotFound, TransientError
from pipeline.gateways.objects import ObjectDirectory, ObjectMemory
from pipeline.ports import ObjectStore

KEY = bytes(range(32))


def opener(kind: str, root: Path) -> Callable[[bytes], ObjectStore]:
    if kind == "memory":
        return lambda key: ObjectMemory(key=key)
    return lambda key: ObjectDirectory(root / "objects", key=key)


@pytest.fixture(params=["directory", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bytes], ObjectStore]:
    return opener(request.param, tmp_path)


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
    with pytest.raises(NotFound):
        store.get(name)
    assert store.erase(name) is False


@pytest.mark.rule("WH-22")
def test_what_was_erased_is_gone_and_can_come_back(store: ObjectStore) -> None:
    name = store.put(b"a photo")
    assert store.erase(name) is True
    assert store.erase(name) is False
    with pytest.raises(NotFound):
        store.get(name)
    assert store.put(b"a photo") == name
    assert store.get(name) == b"a photo"


def test_a_wrong_key_length_is_refused(opened: Callable[[bytes], ObjectStore]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        opened(b"short")


# ------------------------------------------------------------------------------------------------------------- on the disk


@pytest.fixture
def directory(tmp_path: Path) -> ObjectDirectory:
    return ObjectDirectory(tmp_path, key=KEY)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


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
