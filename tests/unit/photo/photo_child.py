"""A photo process whose photos are orders: it loops, dies, lies or tells what it sees of the world. Started by the tests' pools.

An argument changes it altogether: `broken` cannot load, `timid` ends before it takes a photo, `curt` ends soon after its parent.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time

from pipeline.errors import Defect
from pipeline.gateways import photo_process
from pipeline.photo.findings import find
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised

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
    size = {"width_px": output.width_px, "height_px": output.height_px}
    return Normalised(picture=made.data, findings=(), quality=made.quality, **size)


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


def load() -> photo_process.Make:
    if "broken" in sys.argv:
        raise Defect("model eyes.onnx is not the file this release was tried with; install the release again")
    if "timid" in sys.argv:
        photo_process._bound = lambda limits: os._exit(3)
    if "curt" in sys.argv:
        photo_process.GRACE_S = 0.1
    return make


if __name__ == "__main__":
    photo_process.main(load)
