"""A photo's own cost: the stage against plain libjpeg-turbo and the bare inferences, its memory, and two peers, on one core.

`producers.cli.photo_bench` says what B, V and S are. Photos are made here from one portrait: fitted to size by LANCZOS, with noise
of sigma 2 in luma, JPEG quality 90. Peers get the 12 MP photo and do what they can do: crop it, at full size. They are installed into
virtual environments of their own where pip finds them; where not, the figures say why there is none. Writes `out/bench/photo.json`.

    python -m benchmarks.photo [--repeat N] [--no-peers]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from config.wiring import HERE
from pipeline.photo.findings import reason_code
from pipeline.photo.profile import load_profile
from producers.cli.photo_bench import REPEAT, WARM_UPS, Bench, Timed, on_one_core

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "tests" / "photos" / "derived" / "good_white.jpg"
PROFILE = HERE / "photo" / "ssc-national.toml"
SIGMA, JPEG_QUALITY = 2.0, 90
TIMEOUT_S = 600


def photo(width: int, height: int, *, sigma: float = SIGMA, kind: str = "JPEG", **options: Any) -> bytes:
    """The portrait fitted to a size, with noise; the same bytes each time."""
    with Image.open(PORTRAIT) as portrait:
        fitted = ImageOps.fit(portrait.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if sigma:
        noise = np.random.default_rng(1)
        strips = [
            np.asarray(fitted.crop((0, y, width, min(y + 512, height))), np.float32) for y in range(0, height, 512)
        ]
        noisy = [strip + noise.normal(0, sigma, (*strip.shape[:2], 1)).astype(np.float32) for strip in strips]
        fitted = Image.fromarray(np.concatenate([np.clip(strip, 0, 255).astype(np.uint8) for strip in noisy]))
    fitted.save(out, kind, **options)
    return out.getvalue()


def jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    return photo(width, height, quality=JPEG_QUALITY, progressive=progressive)


def bomb() -> bytes:
    """An 81 MP PNG in a quarter of a megabyte: refused by its header."""
    out = io.BytesIO()
    Image.new("RGB", (9000, 9000), "white").save(out, "PNG")
    return out.getvalue()


TIMED: Mapping[str, Callable[[], bytes]] = {
    "12MP": lambda: jpeg(3024, 4032),
    "12MP_progressive": lambda: jpeg(3024, 4032, progressive=True),
    "2MP": lambda: jpeg(1224, 1632),
    "card": lambda: jpeg(358, 441),
}
HELD: Mapping[str, Callable[[], bytes]] = {
    "12MP": TIMED["12MP"],
    "64MP": lambda: jpeg(6912, 9216),
    "25MP_progressive": lambda: jpeg(4320, 5760, progressive=True),
    "25MP_png": lambda: photo(4320, 5760, sigma=0, kind="PNG", compress_level=6),
    "header_refusal": bomb,
}

# --------------------------------------------------------------------------------------------------------------- memory

_HOLD = """
import sys
from pathlib import Path
from pipeline.photo import faces
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import load_profile

vision, profile = faces.load(), load_profile(Path(sys.argv[1]))
made = normalise(Path(sys.argv[2]).read_bytes(), profile=profile, vision=vision)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 1024, [finding.code for finding in made.rejections], sep="\\t")
"""
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def resident(data: bytes, scratch: Path) -> tuple[float, str]:
    """The peak of a fresh process that makes one photo, in MiB, and why the photo was refused, if it was."""
    scratch.write_bytes(data)
    environment = {**os.environ, **_ONE_THREAD, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(ROOT)}
    child = [sys.executable, "-c", _HOLD, str(PROFILE), str(scratch)]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    scratch.unlink()
    peak, why = done.stdout.strip().split("\t")
    return round(float(peak), 1), why


# ---------------------------------------------------------------------------------------------------------------- peers


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program: what pip has to install, in steps, and a script that says in which milliseconds it crops a photo."""

    version: str
    steps: Sequence[Sequence[str]]
    script: str
    warm_ups: int
    repeat: int


_TIME = """
import statistics, sys, time
def told(step, warm_ups, repeat):
    spent = []
    for turn in range(warm_ups + repeat):
        began = time.process_time()
        step()
        spent.append((time.process_time() - began) * 1000)
    [peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(statistics.median(spent[warm_ups:]), int(peak) / 1024, sep="\\t")
path, warm_ups, repeat = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
"""
PEERS: Mapping[str, Peer] = {
    "autocrop": Peer(
        "2.0.0",
        [["--only-binary=:all:", "autocrop==2.0.0"]],
        """
import io
import cv2
from PIL import Image
from autocrop import Cropper
cv2.setNumThreads(1)
cropper = Cropper(width=358, height=441)
def step():
    Image.fromarray(cropper.crop(path).image).save(io.BytesIO(), "JPEG", quality=70)
told(step, warm_ups, repeat)
""",
        1,
        5,
    ),
    "photoidmagick": Peer(
        "1.1.11",
        [
            ["--only-binary=:all:", "numpy", "pillow", "click", "exifread", "setuptools<81"],
            ["perseus-core-library"],
            ["--no-deps", "--only-binary=:all:", "dlib-bin"],
            ["--no-deps", "face-recognition-models==0.3.0", "face-recognition==1.3.0", "photoidmagick==1.1.11"],
        ],
        """
import io
from majormode.photoidmagick import BiometricPassportPhoto
checks = ("abnormally_open_eyelid", "closed_eye", "oblique_face", "open_mouth", "unevenly_open_eye")
def step():
    made = BiometricPassportPhoto.from_file(path, **{f"forbid_{check}": False for check in checks})
    made.build_image((358, 441)).save(io.BytesIO(), "JPEG", quality=70)
told(step, warm_ups, repeat)
""",
        0,
        3,
    ),
}


def peer_figures(name: str, peer: Peer, path: Path, directory: Path, *, core: int, s_ms: float) -> dict[str, Any]:
    """What a peer needs for a photo on a core; nothing but the reason where it cannot be had."""
    figures: dict[str, Any] = {"version": peer.version, "ms": None, "rss_mb": None, "speedup": None, "reason": None}
    python = directory / name / "bin" / "python"
    try:
        if not (directory / name / "installed").exists():
            _run([sys.executable, "-m", "venv", "--clear", str(directory / name)])
            for step in peer.steps:
                _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step])
            (directory / name / "installed").touch()
        script = [str(python), "-c", _TIME + peer.script, str(path), str(peer.warm_ups), str(peer.repeat)]
        ms, rss_mb = map(float, _run(["taskset", "-c", str(core), *script]).split())
    except subprocess.TimeoutExpired:
        return {**figures, "reason": f"not done within {TIMEOUT_S} s"}
    except (OSError, subprocess.CalledProcessError) as problem:
        said = (getattr(problem, "stderr", None) or str(problem)).strip().splitlines()
        return {**figures, "reason": said[-1] if said else type(problem).__name__}
    return {**figures, "ms": round(ms, 1), "rss_mb": round(rss_mb), "speedup": round(ms / s_ms, 1)}


def _run(command: Sequence[str]) -> str:
    environment = {**os.environ, **_ONE_THREAD}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return done.stdout


# -------------------------------------------------------------------------------------------------------------- figures


def main() -> None:
    """Run everything and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=2 * REPEAT)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench/photo.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = given.out.parent / "photo.bin"

    say("photos are made")
    photos = {name: make() for name, make in TIMED.items()}
    with on_one_core() as core:
        bench = Bench(load_profile(PROFILE))
        timed: dict[str, Timed] = {}
        for name, data in photos.items():
            say(f"{name}: B, V and S")
            timed[name] = bench.measure(data, repeat=given.repeat)
        say("finished: what the 2MP photo became, once more")
        photos["finished"] = timed["2MP"].made.picture or b""
        timed["finished"] = bench.measure(photos["finished"], repeat=given.repeat)
        refusal = bench.measure(bomb(), repeat=given.repeat)
    held: dict[str, tuple[float, str]] = {}
    for name, make in HELD.items():
        say(f"memory of a fresh process: {name}")
        held[name] = resident(make(), scratch)
    peers: dict[str, dict[str, Any]] = {}
    if not given.no_peers:
        scratch.write_bytes(photos["12MP"])
        for name, peer in PEERS.items():
            say(f"peer {name} {peer.version}: 12MP")
            directory = given.out.parent / "peers"
            peers[name] = peer_figures(name, peer, scratch, directory, core=core, s_ms=timed["12MP"].s_ms)
        scratch.unlink()
    figures = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": os.cpu_count(),
        "repeat": given.repeat,
        "warm_ups": WARM_UPS,
        "bytes": {name: len(data) for name, data in photos.items()},
        "b_ms": {name: _round(one.b_ms) for name, one in timed.items()},
        "v_ms": {name: _round(one.v_ms) for name, one in timed.items()},
        "s_ms": {name: _round(one.s_ms) for name, one in timed.items()},
        "ratio": {name: _round(one.ratio) for name, one in timed.items()},
        "refused": {name: [reason_code(f.code) for f in one.made.rejections] for name, one in timed.items()},
        "header_refusal_ms": _round(refusal.s_ms),
        "rss_mb": {name: mb for name, (mb, _) in held.items()},
        "rss_refused": {name: why for name, (_, why) in held.items() if why != "[]"},
        "peer_speedup": {name: peers[name]["speedup"] if name in peers else None for name in PEERS},
        "peers": peers or {name: {"reason": "--no-peers"} for name in PEERS},
    }
    given.out.write_text(json.dumps(figures, indent=1) + "\n")
    show(figures)


def show(figures: Mapping[str, Any]) -> None:
    """The figures for people."""
    console = Console(width=120, highlight=False)
    table = Table("input", "bytes", "B ms", "V ms", "S ms", "S/(B+V)", "refused")
    for name in figures["bytes"]:
        numbers = (f"{figures[key][name]:.2f}" for key in ("b_ms", "v_ms", "s_ms", "ratio"))
        table.add_row(name, f"{figures['bytes'][name]}", *numbers, " ".join(figures["refused"][name]))
    console.print(table)
    console.print(f"refused by its header: {figures['header_refusal_ms']:.2f} ms")
    table = Table("memory of a fresh process", "MiB", "refused")
    for name, mb in figures["rss_mb"].items():
        table.add_row(name, f"{mb:.0f}", figures["rss_refused"].get(name, ""))
    console.print(table)
    table = Table("peer, 12 MP", "ms", "MiB", "times as long", "reason")
    for name, one in figures["peers"].items():
        table.add_row(name, *(str(one.get(key) or "") for key in ("ms", "rss_mb", "speedup", "reason")))
    console.print(table)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def say(text: str) -> None:
    print(f"... {text}", flush=True)


if __name__ == "__main__":
    main()
