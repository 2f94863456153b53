"""What became of one photo, as values without pixels: findings, measures, geometry, and the finished file's bytes.

Knows no image library, so whoever only decides or shows needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.photo.findings import Finding

Point = tuple[float, float]
Matrix = tuple[float, float, float, float, float, float]
PHASES = ("sniff", "decode", "face", "person", "cut", "measure", "background", "encode", "total")
"""The names in `Normalised.timings_ms`, in order; a photo that is refused early has the first of them and the total."""
Background = Literal["kept", "whitened", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust:
    """How a person moves the automatic frame: the picture's content to the right and down by pixels of the picture, larger by
    a factor, and clockwise by degrees. The default changes nothing."""

    right_px: float = 0.0
    down_px: float = 0.0
    scale: float = 1.0
    roll_deg: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the picture lies in the upload and where the face lies in the picture.

    `turn_deg` is how far the upload was turned clockwise after its EXIF orientation, `source_px` its width and height then.
    `matrix` takes a point (x, y) of the picture to the upright upload: (a·x + b·y + c, d·x + e·y + f). All other points are
    pixels of the picture: eye centres and ear roots (image left, image right), the chin, and how far down the hair begins.
    """

    turn_deg: int
    source_px: tuple[int, int]
    matrix: Matrix
    eyes: tuple[Point, Point]
    ears: tuple[Point, Point]
    chin: Point
    crown_px: float

    def on_source(self, point: Point) -> Point:
        """A point of the picture in the upright upload."""
        a, b, c, d, e, f = self.matrix
        x, y = point
        return (a * x + b * y + c, d * x + e * y + f)

    @property
    def eye_mid(self) -> Point:
        """The midpoint between the eyes, in the picture."""
        (x0, y0), (x1, y1) = self.eyes
        return ((x0 + x1) / 2, (y0 + y1) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """What became of one photo. `picture` is None exactly when a finding rejects; sizes and quality are the picture's.

    `geometry` and `background` are there once a face was measured, whatever the verdict. `measures` holds every number a
    finding was judged by; `timings_ms` the phases and their `total`.
    """

    picture: bytes | None = field(repr=False)
    findings: tuple[Finding, ...]
    width_px: int | None = None
    height_px: int | None = None
    quality: int | None = None
    background: Background | None = None
    geometry: Geometry | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def rejections(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "reject")
