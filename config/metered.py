"""Ports that count what passes through them."""

from __future__ import annotations

from collections.abc import Mapping

from config import metrics
from pipeline.errors import Defect
from pipeline.photo.result import PHASES, Adjust, Normalised
from pipeline.ports import PhotoNormaliser


class MeteredPhotos:
    """`ports.PhotoNormaliser` that counts each photo once, under its worst finding, and the time of its phases."""

    def __init__(self, inner: PhotoNormaliser) -> None:
        self._inner = inner

    def normalise(
        self,
        photos: Mapping[str, bytes],
        *,
        profile: str,
        replace_background: bool = False,
        adjust: Adjust | None = None,
    ) -> Mapping[str, Normalised | Defect]:
        """As the inner port does, and raises what it raises."""
        made = self._inner.normalise(photos, profile=profile, replace_background=replace_background, adjust=adjust)
        for reply in made.values():
            if isinstance(reply, Defect):
                metrics.PHOTOS.labels("fault", "none").inc()
            else:
                _count(reply)
        return made


def _count(made: Normalised) -> None:
    worst = made.findings[0].code.lower() if made.findings else "none"
    metrics.PHOTOS.labels("refused" if made.picture is None else "made", worst).inc()
    for phase in PHASES:
        if phase in made.timings_ms:
            metrics.PHOTO_SECONDS.labels(phase).observe(made.timings_ms[phase] / 1000)
