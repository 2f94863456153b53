"""A photo process whose photos are orders: it loops, dies, lies or tells what it sees of the world. Started by the tests' pools.

An argument changes it altogether: `broken` finds a model changed, `faulty` and `wordy` fail otherwise while they load, `timid` ends before it takes a photo, `curt` ends soon after its parent.
"""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline.errors import Defect
from pipeline.gateways import photo_process
from pipeline.photo.findings import find
from pipeline.photo.profile import PhotoProfile, load_profile
from pipeline.photo.result import Adjust, Geometry, Normalised
from pipeline.photo.weights import FAULTS

PROFILE = load_profile(Path(__file__).parents[3] / "config" / "photo" / "ssc-national.toml")
ANSWERS = 4
"""The descriptor that its frames leave by."""


def make(data: bytes, profile: PhotoProfile, adjust: Adjust) -> Normalised:
    order, _, rest = data.partition(b" ")
    match order:
        case b"loop":
            while True:
                pass
        case b"work":
            thread = threading.Thread(target=work, args=(float(rest),))
            thread.start()
            thread.join()
        case b"nap":
            time.sleep(float(rest))
        case b"hoard":
            held = []
            while True:
                held.append(bytearray(1 << 20))
        case b"die":
            os.kill(os.getpid(), getattr(signal, rest.decode()))
        case b"say":
            os.write(ANSWERS, rest)
            time.sleep(600)
        case b"print":
            os.write(1, b"not a frame" * 100)
        case b"raise":
            raise KeyError("what the photo shows")
        case b"verbose":
            raise type("call 13800000000" + 300 * "!", (Exception,), {})
        case b"defect":
            raise Defect(rest.decode())
        case b"infinite":
            return refused({"infinite": float("inf")})
        case b"limit":
            return Normalised(picture=None, findings=(find("PROCESSING_LIMIT"),), measures={"pid": os.getpid()})
        case b"picture":
            return accepted(profile)
        case b"write":
            return refused({"written": written(rest.decode())})
    return refused(seen(profile, adjust) | {"told": float(rest) if order == b"look" and rest else 0.0})


def show(data: bytes, side_px: int) -> bytes | None:
    order, _, rest = data.partition(b" ")
    match order:
        case b"give":
            return rest
        case b"none":
            return None
        case b"draw":
            return drawn(int(rest), side_px)
    make(data, PROFILE, Adjust())
    return None


def drawn(width: int, height: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "JPEG")
    return out.getvalue()


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def refused(measures: dict[str, float]) -> Normalised:
    return Normalised(picture=None, findings=(find("NO_FACE"),), measures=measures)


def accepted(profile: PhotoProfile) -> Normalised:
    from PIL import Image

    from pipeline.photo.encode import Encoded, encode

    output = profile.output
    coarse = (output.width_px // 16, output.height_px // 16)
    image = Image.frombytes("RGB", coarse, random.Random(1).randbytes(3 * coarse[0] * coarse[1]))
    made = encode(image.resize((output.width_px, output.height_px)), profile=profile)
    assert isinstance(made, Encoded), made
    return Normalised(
        picture=made.data,
        findings=(),
        width_px=output.width_px,
        height_px=output.height_px,
        quality=made.quality,
        background="replaced" if profile.background.replace else "kept",
        geometry=Geometry(
            turn_deg=0,
            source_px=(910, 1137),
            matrix=(1.5, 0.25, 20.0, -0.25, 1.5, 30.0),
            eyes=((131.6, 190.0), (226.3, 190.1)),
            ears=((57.7, 225.6), (264.7, 223.4)),
            chin=(182.4, 370.9),
            crown_px=14.0,
        ),
        measures={"face_width_px": 207.0, "eye_mid_x_px": 179.0, "eye_to_bottom_px": 251.0, "top_px": 14.0},
    )


def seen(profile: PhotoProfile, adjust: Adjust) -> dict[str, float]:
    """What a test wants to know of the process."""
    return {
        "pid": os.getpid(),
        "names": len(os.environ),
        "ours": sum("zhika" in f"{name}={value}".lower() for name, value in os.environ.items() if name != "PYTHONPATH"),
        "one_thread": float(os.environ["OMP_NUM_THREADS"]),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "memory": resource.getrlimit(resource.RLIMIT_AS)[1],
        "replace": float(profile.background.replace),
        "right_px": adjust.right_px,
        "scale": adjust.scale,
    }


def written(path: str) -> float:
    """How many bytes a file takes."""
    try:
        with open(path, "wb", buffering=0) as file:
            return float(file.write(b"x"))
    except OSError:
        return 0.0


def load() -> photo_process.Hands:
    if "broken" in sys.argv:
        raise Defect(min(FAULTS))
    if "faulty" in sys.argv:
        raise Defect("photo profile: call 13800000000")
    if "wordy" in sys.argv:
        raise ImportError("call 13800000000")
    if "timid" in sys.argv:
        photo_process._bound = lambda limits: os._exit(3)
    if "curt" in sys.argv:
        photo_process.GRACE_S = 0.1
    return photo_process.Hands(make=make, show=show)


if __name__ == "__main__":
    photo_process.main(load)
