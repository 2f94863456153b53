"""The three models that look at a photo, behind `vision.Vision`. The only module that knows an inference library.

YuNet (2023 March) finds faces, MediaPipe's face mesh measures one, MediaPipe's selfie segmentation tells the person from the
background; `models/PROVENANCE.md` says where they come from. One thread each: many photos are made at once, by processes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Defect
from pipeline.photo.vision import MESH_SIDE, PERSON_SIDE, Mesh, Pixels, Seen
from pipeline.photo.weights import DETECTOR, LANDMARKS, MODELS, SEGMENTATION, checked

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library is loaded

import onnxruntime  # type: ignore[import-untyped, unused-ignore]
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped, unused-ignore]

__all__ = ["DETECTOR", "LANDMARKS", "MODELS", "SEGMENTATION", "Models", "as_detector_input", "as_unit", "load"]

# The published decoding of YuNet: three strides, each with these four heads.
_STRIDES = (8, 16, 32)
_HEADS = ("cls", "obj", "bbox", "kps")
_SCORE_MIN = 0.6
_OVERLAP_MAX = 0.3
_POINTS = 468


def load(directory: Path = MODELS) -> Models:
    """The models, their files checked against `SHA256SUMS`.

    Raises:
        Defect: a file is missing or is not the one that was tried.
    """
    return Models(**checked(directory))


class Models:
    """`vision.Vision` by YuNet and MediaPipe."""

    def __init__(self, *, detector: bytes, landmarks: bytes, segmentation: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._detector = onnxruntime.InferenceSession(detector, options, providers=["CPUExecutionProvider"])
        self._heads = [f"{head}_{stride}" for stride in _STRIDES for head in _HEADS]
        self._landmarks = _Lite(landmarks)
        self._segmentation = _Lite(segmentation)

    def faces(self, pixels: Pixels) -> tuple[Seen, ...]:
        """Every face, best first."""
        return _decoded(self.detect(as_detector_input(pixels)))

    def mesh(self, crop: Pixels) -> Mesh:
        """The points of the face in a square of `MESH_SIDE`."""
        points, presence = self.landmarks(as_unit(crop))
        sure = 1 / (1 + math.exp(-max(-50.0, min(50.0, presence))))
        return Mesh(points=points.reshape(_POINTS, 3)[:, :2].copy(), presence=sure)

    def person(self, tile: Pixels) -> NDArray[np.float32]:
        """How surely each pixel of a square of `PERSON_SIDE` is the person."""
        return self.segment(as_unit(tile)).reshape(PERSON_SIDE, PERSON_SIDE)

    # The inferences alone, on ready tensors: what a benchmark calls the limit.

    def detect(self, tensor: NDArray[np.float32]) -> dict[str, Any]:
        """YuNet's heads by name, for 1×3×H×W BGR floats from 0 to 255, height and width multiples of 32."""
        return {
            "shape": tensor.shape[2:],
            **dict(zip(self._heads, self._detector.run(self._heads, {"input": tensor}), strict=True)),
        }

    def landmarks(self, tensor: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """1404 coordinates and the logit of presence, for 1×192×192×3 RGB from 0 to 1."""
        points, presence = self._landmarks.run(tensor)
        return points.ravel(), float(presence.ravel()[0])

    def segment(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mask, for 1×256×256×3 RGB from 0 to 1."""
        return self._segmentation.run(tensor)[0]


class _Lite:
    def __init__(self, model: bytes) -> None:
        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        # The mesh's outputs are told apart by size, the larger first: their order in the file is nobody's promise.
        outputs = sorted(self._interpreter.get_output_details(), key=lambda d: -int(np.prod(d["shape"])))
        self._outputs = [detail["index"] for detail in outputs]

    def run(self, tensor: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self._interpreter.set_tensor(self._input, tensor)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def as_unit(square: Pixels) -> NDArray[np.float32]:
    """A picture as one batch of RGB floats from 0 to 1."""
    if square.shape[0] != square.shape[1] or square.shape[0] not in (MESH_SIDE, PERSON_SIDE):
        raise Defect(f"a square of {MESH_SIDE} or {PERSON_SIDE} pixels is wanted, not {square.shape}")
    return np.multiply(square[None], np.float32(1 / 255), dtype=np.float32)


def as_detector_input(pixels: Pixels) -> NDArray[np.float32]:
    """A picture as one batch of BGR planes, its right and lower edges filled with black to multiples of 32."""
    height, width = pixels.shape[:2]
    tensor = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
    for plane in range(3):
        tensor[0, plane, :height, :width] = pixels[:, :, 2 - plane]
    return tensor


def _decoded(heads: dict[str, Any]) -> tuple[Seen, ...]:
    width = heads["shape"][1]
    found: list[Seen] = []
    for stride in _STRIDES:
        scores = np.sqrt(heads[f"cls_{stride}"][0, :, 0] * heads[f"obj_{stride}"][0, :, 0])
        for at in np.flatnonzero(scores > _SCORE_MIN):
            row, column = divmod(int(at), width // stride)
            box, points = heads[f"bbox_{stride}"][0, at], heads[f"kps_{stride}"][0, at].reshape(5, 2)
            found.append(_seen(float(scores[at]), row, column, stride, box, points))
    return _apart(sorted(found, key=lambda face: -face.score))


def _seen(score: float, row: int, column: int, stride: int, box: Any, points: Any) -> Seen:
    wide, high = math.exp(float(box[2])) * stride, math.exp(float(box[3])) * stride
    middle_x, middle_y = (column + float(box[0])) * stride, (row + float(box[1])) * stride
    return Seen(
        box=(middle_x - wide / 2, middle_y - high / 2, wide, high),
        score=score,
        points=tuple(((column + float(x)) * stride, (row + float(y)) * stride) for x, y in points),
    )


def _apart(faces: list[Seen]) -> tuple[Seen, ...]:
    """The best of faces that overlap (non-maximum suppression)."""
    kept: list[Seen] = []
    for face in faces:
        if all(_overlap(face.box, other.box) <= _OVERLAP_MAX for other in kept):
            kept.append(face)
    return tuple(kept)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (one[2] * one[3] + other[2] * other[3] - wide * high)
