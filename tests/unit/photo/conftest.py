"""Photos made by code: nobody's face, any defect."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pipeline.photo.profile import PhotoProfile, load_profile

CONFIG = Path(__file__).parents[3] / "config" / "photo"

Writer = Callable[..., bytes]


@pytest.fixture(scope="session")
def profile() -> PhotoProfile:
    return load_profile(CONFIG / "ssc-national.toml")


def draw(width: int, height: int, *, seed: int = 1) -> Image.Image:
    """A head and shoulders of sorts on white, the four quarters told apart by a coloured mark, with some grain."""
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.05, height * 0.7, width * 0.95, height * 1.3), fill=(40, 60, 120))
    pen.ellipse((width * 0.25, height * 0.1, width * 0.75, height * 0.72), fill=(214, 170, 140))
    marks = {(0.02, 0.02): "red", (0.86, 0.02): "lime", (0.02, 0.9): "blue", (0.86, 0.9): "yellow"}
    for (x, y), colour in marks.items():
        pen.rectangle((width * x, height * y, width * (x + 0.12), height * (y + 0.08)), fill=colour)
    grain = random.Random(seed).randbytes(width * height // 16 + width)
    noise = Image.frombytes("L", (width // 4, height // 4), grain[: (width // 4) * (height // 4)]).resize(image.size)
    image.paste(noise.convert("RGB"), mask=noise.point(lambda v: v // 12))
    return image


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    return draw(716, 882)


@pytest.fixture(scope="session")
def write() -> Writer:
    """Save an image as bytes; keywords as in `Image.save`."""

    def written(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
        out = io.BytesIO()
        if kind == "JPEG":
            options.setdefault("quality", 88)
        image.save(out, kind, **options)
        return out.getvalue()

    return written


@pytest.fixture(scope="session")
def uploads(write: Writer) -> dict[str, bytes]:
    """The same portrait as the three kinds of file there are, written once."""
    image = draw(400, 520)
    return {"JPEG": write(image), "PNG": write(image, "PNG"), "progressive": write(image, progressive=True)}
