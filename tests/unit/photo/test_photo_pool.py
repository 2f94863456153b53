"""Photo processes, real ones: what a photo does to its process happens to no other photo, and to nobody's memory, time or secrets."""

from __future__ import annotations

import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.errors import Defect, TransientError
from pipeline.gateways import photo_pool
from pipeline.gateways.photo_pool import COMMAND, Garbled, PhotoPool, checked
from pipeline.gateways.photo_process import FAILED, HEADER, MADE, SMALL, Limits, frame
from pipeline.photo import weights
from pipeline.photo.findings import find
from pipeline.photo.profile import PhotoProfile, load_profile
from pipeline.photo.result import Adjust, Normalised
from pipeline.photo.thumbnail import thumbnail
from pipeline.photo.weights import FAULTS
from tests.unit.photo import photo_child

ROOT = Path(__file__).parents[3]
CHILD = (sys.executable, "-P", str(Path(__file__).with_name("photo_child.py")))
PROFILE = load_profile(ROOT / "config" / "photo" / "ssc-national.toml")
NAME = PROFILE.name
PHOTOS = [
    ROOT / "tests" / "photos" / name for name in ("cat_noface.png", "derived/good_white.jpg", "derived/good.heic")
]
LIMIT = Normalised(picture=None, findings=(find("PROCESSING_LIMIT"),))
REFUSED = Normalised(
    picture=None, findings=(find("NO_FACE", measured=0.05, limit=">= 0.1"),), measures={"presence": 0.05}
)

ACCEPTED = photo_child.accepted(PROFILE)

MakePool = Callable[..., PhotoPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    made: list[PhotoPool] = []

    def make(
        processes: int = 2,
        *,
        command: tuple[str, ...] = CHILD,
        profile: PhotoProfile = PROFILE,
        cpu_s: int = 60,
        wall_s: float = 60,
        memory_mb: int = 1024,
        recycle_after: int = 500,
        start_s: float = 60,
    ) -> PhotoPool:
        limits = Limits(cpu_s=cpu_s, wall_s=wall_s, memory_mb=memory_mb)
        made.append(
            PhotoPool(
                {NAME: profile},
                processes=processes,
                limits=limits,
                recycle_after=recycle_after,
                start_s=start_s,
                command=command,
            )
        )
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def ask(pool: PhotoPool, photo: bytes, **options: Any) -> Normalised | Defect:
    return pool.normalise({"one": photo}, profile=NAME, **options)["one"]


def seen(pool: PhotoPool, photo: bytes = b"look", **options: Any) -> Mapping[str, float]:
    """What the process tells that made an ordinary photo."""
    made = ask(pool, photo, **options)
    assert isinstance(made, Normalised), made
    return made.measures


def pid_of(pool: PhotoPool) -> int:
    return int(seen(pool)["pid"])


def ended(pid: int, *, within_s: float = 30) -> bool:
    """Whether a process has ended, waited for or not; soon."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def children(of: int | None = None) -> list[int]:
    """The photo processes of this process or another one, ended ones that nobody has waited for among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[1:4]
            if int(parent) == (of or os.getpid()) and session == entry.name:
                found.append(int(entry.name))
    return found


def has_a_photo(pid: int) -> bool:
    """Whether a new process has taken its first photo: that gives it its first limit of CPU time."""
    [line] = re.findall(r"Max cpu time +(\S+)", Path(f"/proc/{pid}/limits").read_text())
    return bool(line != "unlimited")


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------------- what a photo may cost


def test_a_photo_that_computes_without_end_is_ended_by_its_cpu_time_and_its_neighbours_go_on(
    make_pool: MakePool,
) -> None:
    pool = make_pool(cpu_s=1)
    made = pool.normalise({"a": b"look 1", "bad": b"loop", "b": b"look 2", "c": b"look 3"}, profile=NAME)
    assert made["bad"] == LIMIT
    assert [one.measures["told"] for key, one in made.items() if key != "bad" and isinstance(one, Normalised)] == [
        1,
        2,
        3,
    ]
    assert list(made) == ["a", "bad", "b", "c"]


def test_cpu_time_is_each_photos_own(make_pool: MakePool) -> None:
    """Photos that take more together than one may, in a thread that ends: a limit over the process's life would end it."""
    pool = make_pool(1, cpu_s=1)
    assert len({seen(pool, b"work 0.8")["pid"] for _ in range(3)}) == 1


def test_a_photo_that_waits_without_end_is_killed_by_the_clock(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1, wall_s=1)
    pid = pid_of(pool)
    assert ask(pool, b"nap 600") == LIMIT
    assert ended(pid)
    assert "took too long" in caplog.text
    assert pid_of(pool) != pid


def test_a_photo_that_hoards_memory_ends_its_process_only(make_pool: MakePool) -> None:
    pool = make_pool(1, memory_mb=256)
    assert ask(pool, b"hoard") == LIMIT
    assert seen(pool)["memory"] == 256 * 1024 * 1024


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_photo_that_kills_its_process_is_refused_alone_and_not_tried_again(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    made = make_pool(1).normalise({"bad": b"die " + name.encode(), "good": b"look 7"}, profile=NAME)
    assert made["bad"] == LIMIT
    assert isinstance(made["good"], Normalised)
    assert made["good"].measures["told"] == 7
    assert caplog.messages == [f"photo process: ended with code {-getattr(signal, name)}"]


def test_signals_meant_for_everybody_do_not_cost_a_photo_its_verdict(make_pool: MakePool) -> None:
    """Ctrl-C in a terminal and the end of a service reach every process there is."""
    pool = make_pool(1)
    pid = pid_of(pool)
    for name in (b"SIGTERM", b"SIGINT", b"SIGHUP"):
        made = ask(pool, b"die " + name)
        assert isinstance(made, Normalised)
        assert made.findings == (find("NO_FACE"),)
    assert pid_of(pool) == pid
    assert os.getsid(pid) != os.getsid(0)


def test_fifty_deaths_leave_no_descriptor_and_no_process_behind(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pid_of(pool)
    before = open_files()
    made = pool.normalise({str(n): b"die SIGKILL" for n in range(50)}, profile=NAME)
    assert list(made.values()) == [LIMIT] * 50
    pool.close()
    assert open_files() <= before
    assert children() == []


# -------------------------------------------------------------------------------------------------- the life of a process


def test_nothing_runs_before_there_is_a_photo_and_few_photos_need_few_processes(make_pool: MakePool) -> None:
    pool = make_pool(2)
    assert pool.normalise({}, profile=NAME) == {}
    assert children() == []
    assert len({pid_of(pool) for _ in range(4)}) == 1
    assert len(children()) == 1


def test_photos_are_made_side_by_side(make_pool: MakePool) -> None:
    """Each waits for the other to have begun: one after the other they would take too long."""
    pool = make_pool(2)
    made = pool.normalise({str(n): b"nap 0.3" for n in range(2)}, profile=NAME)
    assert len({one.measures["pid"] for one in made.values() if isinstance(one, Normalised)}) == 2


def test_many_threads_at_once_each_get_their_own_photos_back(make_pool: MakePool) -> None:
    pool = make_pool(2)

    def chunk(thread: int) -> bool:
        numbers = [thread * 100 + n for n in range(10)]
        made = pool.normalise({str(n): b"look %d" % n for n in numbers}, profile=NAME)
        return [one.measures["told"] for one in made.values() if isinstance(one, Normalised)] == numbers

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(chunk, range(8)))
    assert len(children()) == 2


def test_a_process_is_replaced_after_its_share_of_photos(make_pool: MakePool) -> None:
    pool = make_pool(1, recycle_after=2)
    pids = [pid_of(pool) for _ in range(5)]
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]
    assert len(children()) == 1


def test_a_process_that_ran_out_of_memory_is_not_used_again(make_pool: MakePool) -> None:
    pool = make_pool(1)
    made = ask(pool, b"limit")
    assert isinstance(made, Normalised)
    assert made.rejections == LIMIT.findings
    assert pid_of(pool) != made.measures["pid"]


def test_the_time_of_a_photo_does_not_end_a_process_that_has_none(make_pool: MakePool) -> None:
    pool = make_pool(1, command=(*CHILD, "curt"), wall_s=2)
    pid = pid_of(pool)
    assert not ended(pid, within_s=2.3)


def test_an_idle_process_that_was_killed_costs_no_photo_its_verdict(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert pid_of(pool) != pid


def test_a_process_that_does_not_take_the_photo_is_replaced_and_the_photo_tried_again(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1, wall_s=1)
    pid = pid_of(pool)
    os.kill(pid, signal.SIGSTOP)
    assert seen(pool, b"look 5")["told"] == 5
    assert ended(pid)
    assert caplog.text.count("the photo is tried again") == 1


def test_a_photo_that_no_process_lives_to_take_is_refused(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(make_pool(1, command=(*CHILD, "timid")), b"look") == LIMIT
    assert caplog.text.count("ended with code 3") == 2


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ((*CHILD, "wordy"), "not ready: ImportError"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended with code 7"),
        ((sys.executable, "-c", "print('hello')"), "not ready"),
        (("/nowhere/at/all",), "cannot be started: No such file or directory"),
    ],
)
def test_a_process_that_cannot_start_is_told_with_its_cause_and_costs_no_photo_its_verdict(
    make_pool: MakePool, command: tuple[str, ...], told: str
) -> None:
    before = open_files()
    with pytest.raises(TransientError, match=re.escape(told)):
        ask(make_pool(2, command=command), b"look")
    assert open_files() <= before
    assert children() == []


@pytest.mark.parametrize(("fault", "told"), [("broken", min(FAULTS)), ("faulty", "photo process: not ready: Defect")])
def test_a_fault_of_ours_at_the_start_is_a_defect_and_nothing_to_try_again(
    make_pool: MakePool, fault: str, told: str
) -> None:
    pool = make_pool(2, command=(*CHILD, fault))
    for asked in (ask, small):
        with pytest.raises(Defect) as failed:
            asked(pool, b"look")
        assert str(failed.value) == told
    assert children() == []


def failing(said: str) -> str:
    """The program of a process that says so as soon as it starts, why it failed."""
    return f"import os; os.write(1, {b''.join(frame(FAILED, said))!r})"


@pytest.mark.parametrize("said", ["model eyes.onnx: call 13800000000", "\x1b[31mDefect", "D" * 300, ""])
def test_no_words_of_a_process_that_does_not_start_are_passed_on(make_pool: MakePool, said: str) -> None:
    with pytest.raises(TransientError) as failed:
        ask(make_pool(1, command=(sys.executable, "-c", failing(said))), b"look")
    assert str(failed.value) == "photo process: not ready: words that name no exception"


def test_a_process_that_takes_too_long_to_start_is_not_waited_for(make_pool: MakePool) -> None:
    with pytest.raises(TransientError, match="not ready: killed: it took too long"):
        ask(make_pool(1, command=(sys.executable, "-c", "import time; time.sleep(600)"), start_s=0.2), b"look")
    assert children() == []


def test_a_pool_that_is_closed_ends_its_processes_after_the_photo_in_hand_and_takes_no_more(
    make_pool: MakePool,
) -> None:
    pool = make_pool(2)
    with ThreadPoolExecutor(1) as threads:
        in_hand = threads.submit(ask, pool, b"nap 0.5")
        wait_for(lambda: any(has_a_photo(pid) for pid in children()))
        pool.close()
        made = in_hand.result()
    assert isinstance(made, Normalised)
    assert made.findings == (find("NO_FACE"),)
    assert children() == []
    with pytest.raises(TransientError, match="being ended"):
        ask(pool, b"look")
    pool.close()


HOLD = """
import sys
from pathlib import Path
from pipeline.gateways.photo_pool import PhotoPool
from pipeline.gateways.photo_process import Limits
from pipeline.photo.profile import load_profile

profile = load_profile(Path(sys.argv[1]))
limits = Limits(cpu_s=60, wall_s=2, memory_mb=1024)
pool = PhotoPool({profile.name: profile}, processes=1, limits=limits, recycle_after=500, command=sys.argv[3:])
pool.normalise({"one": sys.argv[2].encode()}, profile=profile.name)
print("made", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("photo", ["look", "nap 600"])
def test_a_killed_parent_leaves_no_process_behind(photo: str) -> None:
    """An idle one hears of it at once, one in the middle of a photo ends with the photo's time."""
    profile = ROOT / "config" / "photo" / "ssc-national.toml"
    command = [sys.executable, "-c", HOLD, str(profile), photo, *CHILD, "curt"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        if photo == "look":
            assert parent.stdout.readline() == b"made\n"
        else:
            wait_for(lambda: any(has_a_photo(pid) for pid in children(parent.pid)))
        [pid] = children(parent.pid)
        parent.kill()
        parent.wait()
        assert ended(pid)


def test_a_forked_process_has_processes_of_its_own(make_pool: MakePool) -> None:
    """Two users of one process would get each other's pictures."""
    pool = make_pool(1)
    ours = pid_of(pool)
    reading, writing = os.pipe()
    fork = os.fork()
    if fork == 0:
        try:
            os.write(writing, b"%d" % pid_of(pool))
            pool.close()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    theirs = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    assert theirs != ours
    assert ended(theirs)
    assert pid_of(pool) == ours


def test_an_answer_that_was_not_waited_for_is_never_the_next_photos(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(photo_pool, "checked", refuse)
        ask(pool, b"look 3")
    assert ended(pid)
    assert seen(pool, b"look 4")["told"] == 4


def refuse(*_: object) -> Normalised:
    raise MemoryError


# -------------------------------------------------------------------------------------------------- what it may see and say


def test_it_is_told_no_secret_and_may_write_no_file(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZHIKA_DATABASE__URL", "postgresql://zhika:secret@host/name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zhika-secret")
    pool = make_pool(1)
    told = seen(pool)
    assert told["ours"] == 0
    assert told["names"] < 12
    assert (told["one_thread"], told["core"]) == (1, 0)
    assert told["files"] <= 64
    target = tmp_path / "written"
    assert seen(pool, b"write " + bytes(target)) == {"written": 0}


def test_what_a_library_prints_reaches_no_answer(make_pool: MakePool) -> None:
    pool = make_pool(1)
    assert seen(pool, b"print")["pid"] == pid_of(pool)


def test_the_profile_arrives_whole_with_what_one_call_changes(make_pool: MakePool) -> None:
    pool = make_pool(1)
    assert seen(pool) == {**seen(pool), "replace": 0, "right_px": 0, "scale": 1}
    told = seen(pool, replace_background=True, adjust=Adjust(right_px=3.5, scale=1.1))
    assert (told["replace"], told["right_px"], told["scale"]) == (1, 3.5, 1.1)


def test_a_picture_comes_through_the_pipe_unchanged(make_pool: MakePool) -> None:
    assert ACCEPTED.picture is not None
    assert ask(make_pool(1), b"picture") == ACCEPTED


def test_a_fault_of_ours_is_that_photos_alone_and_tells_nothing_of_it(make_pool: MakePool) -> None:
    pool = make_pool(1)
    orders = {"a": b"raise", "b": b"defect it read back", "c": b"infinite", "d": b"verbose", "e": b"look 4"}
    made = pool.normalise(orders, profile=NAME)
    told = [str(one) for one in made.values() if isinstance(one, Defect)]
    assert told == [
        "photo process: KeyError",
        "photo process: Defect",
        "photo process: ValueError",
        "photo process: words that name no exception",
    ]
    assert isinstance(made["e"], Normalised)


def test_a_process_that_met_a_fault_of_ours_is_not_used_again(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    ask(pool, b"raise")
    assert pid_of(pool) != pid


def test_a_profile_that_the_installation_does_not_have_is_a_defect(make_pool: MakePool) -> None:
    with pytest.raises(Defect, match="no photo profile 'elsewhere'"):
        make_pool().normalise({"one": b"look"}, profile="elsewhere")
    assert children() == []


@pytest.mark.parametrize(
    "said",
    [
        b"<html>" * 10,
        HEADER.pack(MADE, 1 << 31, 0),
        HEADER.pack(MADE, 2, 1 << 31),
        b"".join(frame(b"Z")),
        b"".join(frame(MADE, {"picture": "x"})),
        b"".join(frame(SMALL)),
        b"".join(frame(b"D", {"not": "words"})),
        b"".join(frame(b"D", "\x1b]0;call 13800000000\x07")),
    ],
)
def test_a_process_that_talks_nonsense_costs_that_photo_a_defect_and_goes(make_pool: MakePool, said: bytes) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    made = ask(pool, b"say " + said)
    assert isinstance(made, Defect)
    assert str(made).startswith("photo process: ")
    assert "13800000000" not in str(made)
    assert ended(pid)
    assert pid_of(pool) != pid


def test_what_a_process_says_unasked_is_never_the_next_photos_answer(make_pool: MakePool) -> None:
    pool = make_pool(1)
    answer = b"".join(frame(MADE, REFUSED))
    assert ask(pool, b"say " + answer + answer) == REFUSED
    assert len(children()) == 1
    assert seen(pool, b"look 9")["told"] == 9


# ------------------------------------------------------------------------------------------------------- what is believed


def said(made: Normalised, **forged: Any) -> bytes:
    """A result as its process says it, with some of it forged."""
    head = json.loads(frame(MADE, replace(made, picture=None))[0][HEADER.size :])
    return json.dumps(head | forged).encode()


assert ACCEPTED.geometry is not None
TURNED = ACCEPTED.geometry
SEEN = replace(
    ACCEPTED,
    findings=(find("LEVELLED", measured=1.5), find("SKIN_COLOUR_ODD", measured=40, limit="a* 2..35, b* -6..40")),
    background="whitened",
    geometry=replace(TURNED, turn_deg=90),
    measures={**ACCEPTED.measures, "orientation": 6, "luma_mean": 0.1 + 0.2},
    timings_ms={"total": 41.25},
)


@pytest.mark.parametrize("made", [SEEN, ACCEPTED, REFUSED, LIMIT], ids=["seen", "accepted", "refused", "limit"])
def test_a_result_is_read_as_it_was_said(made: Normalised) -> None:
    assert checked(said(made), made.picture or b"", PROFILE) == made


def finding(**forged: Any) -> list[dict[str, Any]]:
    """One finding, forged."""
    [honest] = json.loads(said(replace(ACCEPTED, findings=(find("LEVELLED", measured=1.5),))))["findings"]
    return [honest | forged]


@pytest.mark.parametrize(
    "forged",
    [
        {"findings": finding(code="LEVELED")},
        {"findings": finding(code="RETOUCHED", level="reject")},
        {"findings": finding(level="reject")},
        {"findings": finding(level="fatal")},
        {"findings": finding(zh="请致电 13800000000")},
        {"findings": finding(en="Call 13800000000.")},
        {"findings": finding(limit="<b>5</b>\n")},
        {"findings": finding(measured="1.5")},
        {"findings": [json.loads(said(REFUSED))["findings"][0]]},
        {"findings": None},
        {"picture": 5},
        {"width_px": 359},
        {"height_px": None},
        {"quality": None},
        {"quality": 101},
        {"quality": True},
        {"background": "painted"},
        {"background": "replaced"},
        {"background": None},
        {"geometry": None},
        *({"geometry": json.loads(said(SEEN))["geometry"] | {"turn_deg": turn}} for turn in (-90, 45, 360, 1 << 70)),
        {"measures": {}},
        *({"measures": {key: 1.0 for key in ACCEPTED.measures if key != name}} for name in ACCEPTED.measures),
        {"measures": dict(ACCEPTED.measures) | {"top_px": float("nan")}},
        {"measures": {"luma_mean": float("nan")}},
        {"measures": {"luma mean": 1.0}},
        {"measures": {"luma_mean": "1"}},
        {"timings_ms": {"total": float("inf")}},
        {"geometry": {"turn_deg": 0}},
        {"geometry": json.loads(said(SEEN))["geometry"] | {"crown_px": float("-inf")}},
        {"geometry": json.loads(said(SEEN))["geometry"] | {"matrix": [1, 0, 0]}},
    ],
    ids=lambda forged: json.dumps(forged)[:60],
)
def test_a_result_that_no_sound_process_gives_is_not_believed(forged: dict[str, Any]) -> None:
    assert ACCEPTED.picture is not None
    with pytest.raises(Garbled):
        checked(said(ACCEPTED, **forged), ACCEPTED.picture, PROFILE)


def test_a_refused_photo_may_lack_what_a_picture_needs_but_not_be_turned_halfway() -> None:
    turned = replace(REFUSED, geometry=TURNED)
    assert checked(said(turned), b"", PROFILE) == turned
    with pytest.raises(Garbled):
        checked(said(replace(REFUSED, geometry=replace(TURNED, turn_deg=45))), b"", PROFILE)


def test_a_background_may_be_replaced_where_request_or_profile_allow_it(make_pool: MakePool) -> None:
    replaced = replace(ACCEPTED, background="replaced")
    allowing = replace(PROFILE, background=replace(PROFILE.background, replace=True))
    assert ask(make_pool(1), b"picture", replace_background=True) == replaced
    assert ask(make_pool(1, profile=allowing), b"picture") == replaced
    lying = b"".join(frame(MADE, replace(replaced, picture=None), ACCEPTED.picture or b""))
    pool = make_pool(1)
    pid = pid_of(pool)
    assert isinstance(ask(pool, b"say " + lying), Defect)
    assert ended(pid)
    assert ask(pool, b"say " + lying, replace_background=True) == replaced


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: b"",
        lambda picture: picture[:-2],
        lambda picture: picture + b"<script>",
        lambda picture: picture[:20] + b"\xff\xfe\x00\x04hi" + picture[20:],
        lambda picture: picture + bytes(20_000),
        lambda picture: b"\x89PNG" + picture[4:],
    ],
)
def test_a_picture_that_the_profile_does_not_want_is_not_believed(change: Callable[[bytes], bytes]) -> None:
    assert ACCEPTED.picture is not None
    with pytest.raises(Garbled):
        checked(said(ACCEPTED), change(ACCEPTED.picture), PROFILE)


@pytest.mark.parametrize("limits", [{"bytes_max": -1}, {"bytes_min": 1}])
def test_a_picture_outside_the_files_window_is_not_believed(limits: dict[str, int]) -> None:
    assert ACCEPTED.picture is not None
    window = replace(PROFILE.file, **{name: len(ACCEPTED.picture) + by for name, by in limits.items()})
    with pytest.raises(Garbled):
        checked(said(ACCEPTED), ACCEPTED.picture, replace(PROFILE, file=window))


def test_a_picture_beside_a_refusal_is_not_believed() -> None:
    with pytest.raises(Garbled):
        checked(said(REFUSED), ACCEPTED.picture or b"", PROFILE)


WORDS = st.text("aA_ 0<\u5236\n", max_size=5) | st.sampled_from(["NO_FACE", "reject", "code", "eyes", "matrix"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(changed=st.dictionaries(st.sampled_from(sorted(json.loads(said(SEEN)))), JSON), body=st.binary(max_size=99))
def test_whatever_is_said_is_believed_or_garbled(changed: dict[str, Any], body: bytes) -> None:
    """And what is believed says the same again."""
    try:
        made = checked(said(REFUSED, **changed), body, PROFILE)
    except Garbled:
        return
    assert made.picture is None
    assert made.rejections
    assert checked(said(made), b"", PROFILE) == made


@given(st.binary(max_size=200))
def test_bytes_at_random_are_garbled(head: bytes) -> None:
    with pytest.raises(Garbled):
        checked(head, b"", PROFILE)


# --------------------------------------------------------------------------------------------------------- small pictures


def small(pool: PhotoPool, upload: bytes, *, side_px: int = 90) -> bytes | None:
    return pool.thumbnail(upload, side_px=side_px)


def test_a_small_picture_comes_through_the_pipe_and_nothing_stays_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    assert small(pool, b"draw 60") == photo_child.drawn(60, 90)
    assert small(pool, b"none") is None
    assert pid_of(pool) == pid


DRAWN = photo_child.drawn(60, 90)


@pytest.mark.parametrize(
    "given_",
    [
        b"<svg onload='call()'/>",
        b"\x89PNG" + DRAWN,
        DRAWN + b"<script>",
        DRAWN[:20] + b"\xff\xfe\x00\x04hi" + DRAWN[20:],
        photo_child.drawn(91, 10),
        photo_child.drawn(10, 91),
        photo_child.drawn(9000, 9000)[:1000],
    ],
)
def test_a_small_picture_that_is_none_is_not_believed_and_its_process_goes(
    make_pool: MakePool, given_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    pid = pid_of(pool)
    assert small(pool, b"give " + given_) is None
    assert "a small picture that is none" in caplog.text
    assert ended(pid)
    assert small(pool, b"draw 60") == DRAWN


@pytest.mark.parametrize(
    "order", [b"loop", b"nap 600", b"hoard", b"die SIGKILL", b"raise", b"say " + b"".join(frame(MADE, REFUSED))]
)
def test_an_upload_that_harms_its_process_has_no_small_picture_and_costs_nobody_else_one(
    make_pool: MakePool, order: bytes
) -> None:
    pool = make_pool(1, cpu_s=1, wall_s=3, memory_mb=256)
    assert small(pool, order) is None
    assert small(pool, b"draw 60") == DRAWN


def test_small_pictures_of_the_real_process_are_upright(real: PhotoPool) -> None:
    for path in PHOTOS:
        assert small(real, path.read_bytes(), side_px=260) == thumbnail(path.read_bytes(), side_px=260)
    assert small(real, b"<html></html>") is None


# ----------------------------------------------------------------------------------------------- the real photo process


@pytest.fixture(scope="module")
def real() -> Iterator[PhotoPool]:
    limits = Limits(cpu_s=30, wall_s=60, memory_mb=768)
    pool = PhotoPool({NAME: PROFILE}, processes=2, limits=limits, recycle_after=500)
    with closing(pool):
        yield pool


def test_results_are_those_of_the_same_process(real: PhotoPool, make: Callable[[bytes], Normalised]) -> None:
    photos = {path.name: path.read_bytes() for path in PHOTOS} | {"empty": b"", "page": b"<html></html>"}
    there = real.normalise(photos, profile=NAME)
    for name, data in photos.items():
        one, here = there[name], make(data)
        assert isinstance(one, Normalised), one
        assert one.timings_ms.keys() == here.timings_ms.keys()
        assert replace(one, timings_ms={}) == replace(here, timings_ms={}, measures=dict(here.measures)), name
    assert any(isinstance(one, Normalised) and one.picture for one in there.values())


def test_the_real_process_has_one_thread_and_nothing_open_but_its_pipes(real: PhotoPool) -> None:
    """A library that reports home would show here: a file of its own, a socket, a thread."""
    real.normalise({path.name: path.read_bytes() for path in PHOTOS}, profile=NAME)
    for pid in children():
        held = {os.readlink(f"/proc/{pid}/fd/{number}").partition(":")[0] for number in os.listdir(f"/proc/{pid}/fd")}
        assert held == {"pipe", "/dev/null"}
        assert len(os.listdir(f"/proc/{pid}/task")) == 1


def test_a_file_of_a_thousand_scans_is_ended_by_its_cpu_time(make_pool: MakePool) -> None:
    """The header's limit is lifted for it: what a decoder does with a file nobody thought of."""
    flat = written(Image.new("RGB", (3000, 3000), "white"), "JPEG", progressive=True)
    last = flat[flat.rfind(b"\xff\xda") : -2]
    bomb = flat[:-2] + last * 1000 + b"\xff\xd9"
    open_to_all = replace(PROFILE, input=replace(PROFILE.input, scans_max=2000))
    made = make_pool(1, command=COMMAND, profile=open_to_all, cpu_s=1).normalise(
        {"bomb": bomb, "no": b""}, profile=NAME
    )
    assert made["bomb"] == LIMIT
    assert isinstance(made["no"], Normalised)
    assert [found.code for found in made["no"].findings] == ["FILE_EMPTY"]


def test_a_file_that_needs_more_memory_than_there_is_is_refused(make_pool: MakePool, real: PhotoPool) -> None:
    """A picture of 60 MB in a process that has 40 MB left once its models are loaded."""
    large = written(Image.new("RGB", (4500, 4500), "white"), "PNG", compress_level=1)
    real.normalise({"no": b""}, profile=NAME)
    pages = max(int(Path(f"/proc/{pid}/statm").read_text().split()[0]) for pid in children())
    loaded_mb = pages * os.sysconf("SC_PAGE_SIZE") >> 20
    made = ask(make_pool(1, command=COMMAND, memory_mb=loaded_mb + 40), large)
    assert isinstance(made, Normalised)
    assert made.rejections == LIMIT.findings


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_an_installation_whose_models_are_not_those_that_were_tried_makes_no_photos_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of the photo stage does not start: its photos stay with those that can make them."""
    shutil.copytree(weights.MODELS, tmp_path / "models")
    (tmp_path / "models" / weights.LANDMARKS).write_bytes(b"another")
    monkeypatch.setattr(weights.checked, "__defaults__", (tmp_path / "models",))
    installation = Installation(load(OnlyGiven, data_dir=tmp_path))
    with pytest.raises(Defect, match=f"model {weights.LANDMARKS} is not the file"):
        installation.stages(["photo"])
    installation.stages(["validation"])


def test_models_are_checked_without_the_inference_libraries() -> None:
    script = "import sys; from pipeline.photo import weights; weights.checked(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"onnxruntime", "ai_edge_litert", "PIL", "numpy"} & set(done.stdout.split())


def test_an_installation_makes_photos_by_its_settings_and_ends_its_processes(tmp_path: Path) -> None:
    installation = Installation(load(OnlyGiven, data_dir=tmp_path, photo={"processes": 1, "memory_mb": 512}))
    others = set(children())
    assert isinstance(ask(installation.photo_normaliser, b""), Normalised)
    [pid] = set(children()) - others
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(rf"Max address space\s+{512 << 20}\s+{512 << 20}\s", limits)
    installation.close()
    assert set(children()) == others
