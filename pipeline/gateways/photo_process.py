"""One photo process: it decodes files that strangers made, so it is bounded in everything and believed in nothing.

`photo_pool` starts it and talks to it by frames over stdin and stdout: a kind of one byte, the lengths of head and body, a head
in JSON, a body of bytes.

    to the process     SETTINGS   the profiles and the limits, once, first
                       PHOTO      profile, background.replace or not, adjust; the upload
                       THUMBNAIL  the side of a square; the upload
    from the process   READY      the models are loaded                       FAILED   why they are not: a fault of theirs
                       TAKEN      the upload is read: from here on it bears            that we know, or an exception's name
                                  the consequences                            DEFECT   a fault of ours: an exception's name
                       MADE       what became of a PHOTO; the picture
                       SMALL      nothing; the THUMBNAIL, empty where there is no picture to be seen

It ends when its stdin does, at the latest `GRACE_S` after the wall time of a photo: nobody has to end it. Signals for the whole
terminal or service do not concern it, or the photo in hand would look as if it had killed the process.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, BinaryIO, get_type_hints

from pipeline.errors import Defect
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised
from pipeline.photo.weights import FAULTS

Make = Callable[[bytes, PhotoProfile, Adjust], Normalised]
Show = Callable[[bytes, int], bytes | None]
Frame = tuple[bytes, bytes, bytes]
"""Kind, head, body."""

SETTINGS, PHOTO, THUMBNAIL = b"S", b"P", b"H"
READY, FAILED, TAKEN, MADE, SMALL, DEFECT = b"R", b"F", b"T", b"M", b"J", b"D"
HEADER = struct.Struct(">cII")
GRACE_S = 2.0

_OPEN_FILES = 32  # enough to import what a rare format needs when it is first met
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDED_BY = (signal.SIGXCPU, signal.SIGALRM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one photo may cost: seconds of CPU time and of wall time; and the process's whole address space in MiB."""

    cpu_s: int
    wall_s: float
    memory_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What makes a picture of an upload, and what makes a small JPEG of it that fits a square of so many pixels."""

    make: Make
    show: Show


def frame(kind: bytes, head: object = None, body: bytes = b"") -> tuple[bytes, bytes]:
    """A frame as it is sent: header and head, then the body, which is not copied.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(head, default=_plain, allow_nan=False).encode()
    return HEADER.pack(kind, len(text), len(body)) + text, body


def main(load: Callable[[], Hands] | None = None) -> None:
    """Make pictures until stdin ends. `load` gets what is needed for that ready."""
    requests, answers = _own_streams()
    _hear_no_signals()
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    settings = _read(requests)
    if settings is None:
        return
    told = json.loads(settings[1])
    limits = Limits(**told["limits"])
    space = limits.memory_mb * 1024 * 1024
    try:
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        profiles = {name: _profile(raw) for name, raw in told["profiles"].items()}
        hands = (load or _load)()
    except Exception as problem:  # noqa: BLE001 - whatever it is, the parent has to be told
        known = isinstance(problem, Defect) and str(problem) in FAULTS
        _write(answers, frame(FAILED, str(problem) if known else type(problem).__name__))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    _write(answers, frame(READY))
    while (request := _read(requests)) is not None:
        _bound(limits)
        _write(answers, frame(TAKEN))
        _write(answers, _answer(request, profiles, hands))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _load() -> Hands:
    from pipeline.photo import faces
    from pipeline.photo.normalise import normalise
    from pipeline.photo.thumbnail import thumbnail

    vision = faces.load()

    def make(data: bytes, profile: PhotoProfile, adjust: Adjust) -> Normalised:
        return normalise(data, profile=profile, vision=vision, adjust=adjust)

    return Hands(make=make, show=lambda data, side_px: thumbnail(data, side_px=side_px))


def _answer(request: Frame, profiles: Mapping[str, PhotoProfile], hands: Hands) -> tuple[bytes, bytes]:
    """A `MemoryError` ends the process: what is left of its memory is nothing to go on with."""
    kind, head, body = request
    wanted = json.loads(head)
    try:
        if kind == THUMBNAIL:
            return frame(SMALL, None, hands.show(body, wanted["side_px"]) or b"")
        profile = allowing(profiles[wanted["profile"]], replace_background=wanted["replace_background"])
        adjust = Adjust(**wanted["adjust"]) if wanted["adjust"] else Adjust()
        made = hands.make(body, profile, adjust)
        return frame(MADE, replace(made, picture=None), made.picture or b"")
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001 - a fault of ours in one photo must not cost its neighbours
        return frame(DEFECT, type(problem).__name__)


def allowing(profile: PhotoProfile, *, replace_background: bool) -> PhotoProfile:
    """The profile of one request: a background may be replaced if the profile or the request says so."""
    return replace(profile, background=replace(profile.background, replace=True)) if replace_background else profile


def _bound(limits: Limits) -> None:
    """Give the next photo its time. The CPU limit counts from the process's start, so it moves on with what was used."""
    most = math.ceil(time.process_time()) + limits.cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s + GRACE_S)


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout under other numbers: what a library prints goes nowhere, and never into a frame."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    os.close(nowhere)
    return requests, answers


def _hear_no_signals() -> None:
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    for number in _ENDED_BY:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDED_BY)


def _read(requests: BinaryIO) -> Frame | None:
    """The next frame; None at the end of the stream."""
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, head_length, body_length = HEADER.unpack(header)
    head, body = requests.read(head_length), requests.read(body_length)
    return (kind, head, body) if len(body) == body_length else None


def _write(answers: BinaryIO, parts: tuple[bytes, bytes]) -> None:
    answers.writelines(parts)
    answers.flush()


def _plain(value: Any) -> Any:
    """What JSON knows, for dataclasses, mappings and numpy's numbers."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(value) if isinstance(value, Mapping) else float(value)


def _profile(raw: Mapping[str, Any]) -> PhotoProfile:
    """The profile that `frame` wrote down."""
    kinds = get_type_hints(PhotoProfile)
    return PhotoProfile(**{name: _table(kinds[name], value) for name, value in raw.items()})


def _table(kind: type, value: Any) -> Any:
    if not is_dataclass(kind):
        return value
    return kind(**{name: tuple(cell) if isinstance(cell, list) else cell for name, cell in value.items()})


if __name__ == "__main__":
    main()
