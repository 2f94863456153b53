"""Reading a result: its codes, its one refusal, its picture. Whatever it is, it must keep the contract."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.photo.encode import is_clean
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Normalised

ALIKE = 8.0
"""How far two pictures of the same portrait may differ."""


def codes(result: Normalised) -> set[str]:
    return {finding.code for finding in result.findings}


def levels(result: Normalised) -> set[tuple[str, str]]:
    return {(finding.code, finding.level) for finding in result.findings}


def refused(result: Normalised) -> str:
    """The code of a file that was refused at once."""
    assert result.picture is None
    (finding,) = result.findings
    assert finding.level == "reject"
    return finding.code


def picture(result: Normalised) -> Image.Image:
    """The picture that was made."""
    assert result.picture is not None, result.rejections
    return Image.open(io.BytesIO(result.picture)).convert("RGB")


def unlike(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures in values of a channel, looked at from afar: a frame may move by two pixels."""
    small, alike = (np.asarray(picture.reduce(12), np.float32) for picture in (one, other))
    return float(np.abs(small - alike).mean())


def assert_kept(result: Normalised, profile: PhotoProfile) -> None:
    """What holds of every result: a picture exactly when nothing rejects, clean, of the right size, findings worst first."""
    assert (result.picture is None) == bool(result.rejections)
    ranks = [("reject", "warn", "info").index(finding.level) for finding in result.findings]
    assert ranks == sorted(ranks)
    if result.picture is not None:
        assert is_clean(result.picture, output=profile.output)
        assert profile.file.bytes_min <= len(result.picture) <= profile.file.bytes_max
        assert (result.width_px, result.height_px) == (profile.output.width_px, profile.output.height_px)
        assert result.geometry is not None
    else:
        assert (result.width_px, result.height_px, result.quality) == (None, None, None)
