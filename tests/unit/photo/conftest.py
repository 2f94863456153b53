"""The national profile and the real models, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.photo import faces
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile, load_profile
from pipeline.photo.result import Normalised
from pipeline.photo.vision import Vision

CONFIG = Path(__file__).parents[3] / "config" / "photo"

Make = Callable[[bytes], Normalised]


@pytest.fixture(scope="session")
def profile() -> PhotoProfile:
    return load_profile(CONFIG / "ssc-national.toml")


@pytest.fixture(scope="session")
def vision() -> Vision:
    return faces.load()


@pytest.fixture(scope="session")
def make(profile: PhotoProfile, vision: Vision) -> Make:
    """What becomes of an upload under the national profile."""

    def made(data: bytes) -> Normalised:
        return normalise(data, profile=profile, vision=vision)

    return made
