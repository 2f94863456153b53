"""The files of the three models, believed only when they are those this release was tried with. Knows no inference library."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.errors import Defect

MODELS = Path(__file__).parent / "models"
DETECTOR = "face_detection_yunet_2023mar_free.onnx"
LANDMARKS = "face_landmark.tflite"
SEGMENTATION = "selfie_segmentation.tflite"

_FILES = {"detector": DETECTOR, "landmarks": LANDMARKS, "segmentation": SEGMENTATION}
_CHANGED = "model {} is not the file this release was tried with; install the release again"
_UNREADABLE = "model {} or SHA256SUMS beside it cannot be read; install the release again"
FAULTS = frozenset(text.format(name) for text in (_CHANGED, _UNREADABLE) for name in _FILES.values())
"""All that `checked` can complain of."""


def checked(directory: Path = MODELS) -> dict[str, bytes]:
    """The models by what they are for, each as `SHA256SUMS` says.

    Raises:
        Defect: a file is missing or is not the one that was tried.
    """
    return {use: _checked(directory, name) for use, name in _FILES.items()}


def _checked(directory: Path, name: str) -> bytes:
    try:
        sums = (directory / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        data = (directory / name).read_bytes()
    except (OSError, UnicodeDecodeError) as problem:
        raise Defect(_UNREADABLE.format(name)) from problem
    wanted = {line[66:]: line[:64] for line in sums}
    if hashlib.sha256(data).hexdigest() != wanted.get(name):
        raise Defect(_CHANGED.format(name))
    return data
