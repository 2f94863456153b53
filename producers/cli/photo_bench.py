"""What a photo costs beside the work that nobody can spare: B, V and S in CPU time, on one core, in one run.

    B  the JPEG library alone on the same file: open, shrink while decoding, decode, resize, save
    V  the three inferences alone, on tensors that are ready
    S  the photo stage, from bytes to bytes, its models loaded

The three alternate, so that a machine that grows slower grows slower for all of them.
"""

from __future__ import annotations

import gc
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.photo.faces import Models, load
from pipeline.photo.findings import Finding
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised
from pipeline.photo.sniff import sniff
from pipeline.photo.vision import MESH_SIDE, PERSON_SIDE

WARM_UPS = 5
REPEAT = 20
_DETECTOR_HEIGHT, _DETECTOR_WIDTH = 320, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Medians in milliseconds of CPU time. `b_ms` is None for a file that the library cannot or must not open."""

    made: Normalised
    b_ms: float | None
    v_ms: float
    s_ms: float

    @property
    def ratio(self) -> float | None:
        """S to B + V."""
        return None if self.b_ms is None else self.s_ms / (self.b_ms + self.v_ms)


class Bench:
    """Measures photos for one profile."""

    def __init__(self, profile: PhotoProfile) -> None:
        """Raises:
        Defect: a model is not the file that was tried.
        """
        self._profile = profile
        self._vision = load()
        self._infer = _inferences(self._vision)

    def measure(self, data: bytes, *, repeat: int = REPEAT, warm_ups: int = WARM_UPS) -> Timed:
        """B, V and S of one photo, each the median of `repeat` after `warm_ups`."""
        made = self._stage(data)
        steps: dict[str, Callable[[], object]] = {"v": self._infer, "s": lambda: self._stage(data)}
        if self._opens(data):
            steps["b"] = lambda: self._plain(data)
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(warm_ups + repeat):
            for name, step in steps.items():
                ms = _cpu_ms(step)
                if turn >= warm_ups:
                    spent[name].append(ms)
        medians = {name: statistics.median(values) for name, values in spent.items()}
        return Timed(made=made, b_ms=medians.get("b"), v_ms=medians["v"], s_ms=medians["s"])

    def _stage(self, data: bytes) -> Normalised:
        return normalise(data, profile=self._profile, vision=self._vision)

    def _opens(self, data: bytes) -> bool:
        if isinstance(sniff(data, limits=self._profile.input), Finding):
            return False
        try:
            self._plain(data)
        except Exception:  # noqa: BLE001 - decoders raise much, and a file that cannot be decoded has no B
            return False
        return True

    def _plain(self, data: bytes) -> None:
        output = self._profile.output
        size = (output.width_px, output.height_px)
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            image.draft("RGB", size)
            image.load()
            small = image.resize(size, Image.Resampling.BICUBIC).convert("RGB")
        small.save(io.BytesIO(), "JPEG", quality=self._profile.jpeg.quality_start)


def _formats(data: bytes) -> list[str]:
    """The decoder for what the bytes are; none is left to guess."""
    return ["JPEG"] if data.startswith(b"\xff\xd8\xff") else ["PNG"] if data.startswith(b"\x89PNG") else ["HEIF"]


def _inferences(vision: Models) -> Callable[[], None]:
    noise = np.random.default_rng(1)
    picture = (noise.random((1, 3, _DETECTOR_HEIGHT, _DETECTOR_WIDTH)) * 255).astype(np.float32)
    face = noise.random((1, MESH_SIDE, MESH_SIDE, 3)).astype(np.float32)
    person = noise.random((1, PERSON_SIDE, PERSON_SIDE, 3)).astype(np.float32)

    def infer() -> None:
        vision.detect(picture)
        vision.landmarks(face)
        vision.segment(person)

    return infer


def _cpu_ms(step: Callable[[], object]) -> float:
    began = time.process_time()
    step()
    return (time.process_time() - began) * 1000


@contextmanager
def on_one_core() -> Iterator[int]:
    """Keep this process on one core, without pauses of the collector; gives the core's number."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    gc.collect()
    gc.disable()
    try:
        yield core
    finally:
        gc.enable()
        os.sched_setaffinity(0, allowed)
