"""Photos as files: which of a folder are meant, reading what may be no file at all, and writing a whole picture or none."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

_SUFFIXES = frozenset((
    "", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".heic", ".heif", ".hif", ".avif", ".gif", ".webp", ".bmp",
    ".dib", ".tif", ".tiff", ".svg", ".eps", ".pdf", ".psd", ".jp2",
))  # fmt: skip
"""What is taken for a photo in a folder; what it really is, its content tells."""


class Cannot(Exception):
    """A file cannot be opened or written, or a fault of ours."""

    def __init__(self, code: str, zh: str, en: str) -> None:
        super().__init__(f"{zh} / {en}")
        self.code, self.zh, self.en = code, zh, en

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "zh": self.zh, "en": self.en}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFile:
    """A file to look at, what it is called in what is printed, and where its picture goes, if anywhere."""

    source: Path
    name: str
    target: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The photos of a folder, and the files that are none by their names."""

    photos: tuple[PhotoFile, ...]
    passed: tuple[Path, ...]


def text_of(path: Path) -> str:
    """A path as text, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def real(path: Path) -> Path:
    """Where a path leads, links followed as far as they can be; unlike `Path.resolve` a loop of links does not make it raise."""
    return Path(os.path.realpath(path))


def photos_in(source: Path, out: Path | None = None) -> Folder:
    """The files of a folder and its subfolders in the order of their names; hidden ones are none. A subfolder that cannot be read
    stands for itself. With `out` each photo has a target there: its own name, with .jpg after it unless it is a JPEG's.

    Raises:
        Cannot: the folder itself cannot be read, or a target is a link.
    """
    try:
        os.listdir(source)
    except OSError as problem:
        raise _cannot("in-unreadable", "无法打开", "cannot open", source, problem) from problem
    found: list[Path] = []
    passed: list[Path] = []
    for directory, folders, files in os.walk(source, onerror=lambda problem: found.append(Path(problem.filename))):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for path in (Path(directory) / name for name in files if not name.startswith(".")):
            (found if path.suffix.lower() in _SUFFIXES else passed).append(path)
    targets: dict[Path, Path] = {}
    for path in sorted(found):
        name = path.relative_to(source)
        target = name if path.suffix.lower() in (".jpg", ".jpeg") else name.with_name(f"{name.name}.jpg")
        while target in targets:
            target = target.with_name(f"{target.name}.jpg")
        targets[target] = path
        if out is not None and (out / target).is_symlink():
            raise Cannot(
                "out-link",
                f"{text_of(out / target)} 是链接，会写到别处，请先删除",
                f"{text_of(out / target)} is a link and would be written through: remove it first",
            )
    return Folder(
        photos=tuple(
            PhotoFile(source=path, name=text_of(path.relative_to(source)), target=None if out is None else out / target)
            for target, path in targets.items()
        ),
        passed=tuple(sorted(path.relative_to(source) for path in passed)),
    )


_IN_CHINESE = {
    errno.ENOENT: "没有这个文件",
    errno.EACCES: "没有权限",
    errno.EPERM: "没有权限",
    errno.ENOTDIR: "路径中有非文件夹",
    errno.EROFS: "磁盘只读",
    errno.ENOSPC: "磁盘已满",
    errno.EDQUOT: "磁盘配额已满",
    errno.EFBIG: "超过允许的文件大小",
    errno.ENAMETOOLONG: "文件名过长",
}


def read_photo(path: Path, *, at_most: int) -> bytes:
    """The first bytes of a regular file; enough to see that it is too long, if it is.

    Raises:
        Cannot: it cannot be opened, or is no file: a pipe or a device might never end.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Cannot("in-no-file", f"{text_of(path)} 不是普通文件", f"{text_of(path)} is no ordinary file")
            return file.read(at_most)
    except OSError as problem:
        raise _cannot("in-unreadable", "无法打开", "cannot open", path, problem) from problem


def is_null(path: Path) -> bool:
    """Whether it is the device that forgets: nothing there can be lost, and it must not be replaced by a file."""
    try:
        return os.path.samefile(path, os.devnull)
    except OSError:
        return False


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """The whole file, or what was there before; its folder is made if need be. Modes are as the umask says; of what is private
    the owner alone may open file and made folder. What goes to /dev/null is gone.

    Raises:
        Cannot: it cannot be written.
    """
    path = real(path)
    file_mode, folder_mode = (0o600, 0o700) if private else (0o666, 0o777)
    if is_null(path):
        return
    part = path.with_name(f".zhika-{token_hex(6)}.part")
    try:
        path.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file_mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        raise _cannot("out-unwritable", "无法写入", "cannot write", path, problem) from problem


def no_folder(folder: Path) -> Cannot:
    name = text_of(folder)
    return Cannot("out-no-folder", f"没有文件夹 {name}，请先建立", f"there is no folder {name}: make it first")


def _cannot(code: str, zh: str, en: str, path: Path, problem: OSError) -> Cannot:
    why = os.strerror(problem.errno) if problem.errno else type(problem).__name__
    why_zh = _IN_CHINESE.get(problem.errno or 0, why)
    return Cannot(code, f"{zh} {text_of(path)}：{why_zh}", f"{en} {text_of(path)}: {why}")
