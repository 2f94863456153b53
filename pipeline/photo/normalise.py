"""The photo stage as one function: any bytes in, the picture for the card or the reasons against it out.

The same bytes and profile under the same library versions give the same picture. Only the timings differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pipeline.errors import Defect
from pipeline.photo.decode import Decoded, decode, to_srgb
from pipeline.photo.encode import encode, is_clean
from pipeline.photo.findings import Finding, find, worst_first
from pipeline.photo.layout import cut, frame
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.sniff import sniff

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """What became of one photo. `picture` is None exactly when a finding rejects; sizes and quality are the picture's."""

    picture: bytes | None = field(repr=False)
    findings: tuple[Finding, ...]
    width_px: int | None = None
    height_px: int | None = None
    quality: int | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def rejections(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "reject")


class _Stopwatch:
    """Milliseconds spent between laps, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = self._last = clock()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._clock()
        self._laps[name] = (now - self._last) * 1000
        self._last = now

    def laps(self) -> Mapping[str, float]:
        return MappingProxyType({**self._laps, "total": (self._last - self._start) * 1000})


def normalise(data: bytes, *, profile: PhotoProfile, clock: Clock = time.perf_counter) -> Normalised:
    """Make the picture for the card of an uploaded photo. No input makes it raise.

    Raises:
        Defect: the file just written does not read back as promised: a fault of ours, whatever the input.
    """
    watch = _Stopwatch(clock)
    try:
        header = sniff(data, limits=profile.input)
        watch.lap("sniff")
        if isinstance(header, Finding):
            return _refused(header, watch)
        decoded = decode(data, header, short_side_px=profile.input.draft_short_side_px)
        watch.lap("decode")
        if isinstance(decoded, Finding):
            return _refused(decoded, watch)
        source = {"source_width_px": header.width_px, "source_height_px": header.height_px}
        return _picture(decoded, source, profile, watch)
    except MemoryError:
        return _refused(find("PROCESSING_LIMIT"), watch)


def _picture(decoded: Decoded, source: dict[str, int], profile: PhotoProfile, watch: _Stopwatch) -> Normalised:
    image = cut(decoded.image, frame(*decoded.image.size, output=profile.output), output=profile.output)
    watch.lap("layout")
    image, ignored = to_srgb(image, decoded.icc)
    watch.lap("colour")
    encoded = encode(image, profile=profile)
    watch.lap("encode")
    if isinstance(encoded, Finding):
        return _refused(encoded, watch)
    if not is_clean(encoded.data, output=profile.output):
        raise Defect("the photo encoder wrote a file that does not read back as promised")
    changed = encoded.quality != profile.jpeg.quality_start
    remarks = (ignored, find("QUALITY_CHANGED", measured=encoded.quality) if changed else None)
    return Normalised(
        picture=encoded.data,
        findings=worst_first(remark for remark in remarks if remark is not None),
        width_px=profile.output.width_px,
        height_px=profile.output.height_px,
        quality=encoded.quality,
        measures=MappingProxyType({
            **source,
            "draft_scale": decoded.draft_scale,
            "orientation": decoded.orientation,
            "bytes": len(encoded.data),
            "encodes": encoded.encodes,
        }),
        timings_ms=watch.laps(),
    )  # fmt: skip


def _refused(finding: Finding, watch: _Stopwatch) -> Normalised:
    return Normalised(picture=None, findings=(finding,), timings_ms=watch.laps())
