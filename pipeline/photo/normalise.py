"""The photo stage as one function: any bytes in, the picture for the card or the reasons against it out.

Nothing here is random: one upload under one profile, with the models and libraries of one release, has one picture. A file that
cannot be read has one finding. With a face in it a photo is measured to the end, so that whoever took it hears everything at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from PIL import Image

from pipeline.errors import Defect
from pipeline.photo import background, judge, layout, measure
from pipeline.photo.decode import Decoded, decode, draft_scale, reads, to_srgb
from pipeline.photo.encode import encode, is_clean
from pipeline.photo.find_face import Found, find_face
from pipeline.photo.findings import Finding, find, worst_first
from pipeline.photo.layout import Frame
from pipeline.photo.person import Person, see
from pipeline.photo.pose import CHIN, EAR_LEFT, EAR_RIGHT, Pose, inverse, scaled, similarity
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.resample import view
from pipeline.photo.result import Adjust, Background, Geometry, Matrix, Normalised
from pipeline.photo.sniff import Header, sniff
from pipeline.photo.vision import Vision

Clock = Callable[[], float]

_AS_IT_IS = Adjust()
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_DENSE_ENOUGH = 0.9
"""A face with this share of the pixels it gets in the picture is not decoded again: so little enlarging does not show."""
_PIXELS_MAX = 25_000_000
"""The finest decoding for a small face: a larger one would cost more memory than a photo is given."""


def normalise(
    data: bytes,
    *,
    profile: PhotoProfile,
    vision: Vision,
    adjust: Adjust | None = None,
    clock: Clock = time.perf_counter,
) -> Normalised:
    """Make the picture for the card of an uploaded photo. What is wrong with the photo is a finding, never an exception.

    `adjust` moves the automatic frame; the picture is then measured like any other, and its `roll_deg` is what is left in it.

    Raises:
        Defect: the picture that was written does not read back as promised.
    """
    watch = _Stopwatch(clock)
    try:
        header = sniff(data, limits=profile.input)
        watch.lap("sniff")
        if isinstance(header, Finding):
            return _refused(header, watch)
        if not reads(header.format):
            return _refused(find("FORMAT_UNSUPPORTED"), watch)
        decoded = decode(data, header, scale=draft_scale(header, short_side_px=profile.input.draft_short_side_px))
        watch.lap("decode")
        if isinstance(decoded, Finding):
            return _refused(decoded, watch)
        found = find_face(decoded.image, vision, limits=profile.limits)
        watch.lap("face")
        if isinstance(found, Finding):
            return _refused(found, watch)
        return _Work(data, header, decoded, found, profile, watch).picture(vision, adjust or _AS_IT_IS)
    except MemoryError:
        return _refused(find("PROCESSING_LIMIT"), watch)


@dataclass(frozen=True, slots=True)
class _Cut:
    """The picture before its background is judged: pixels, the face in it, and where it lies in the decoded image."""

    image: Image.Image
    luma: Image.Image
    pose: Pose
    matrix: Matrix
    crown_px: float


class _Work:
    """A photo with a face in it, on its way to the picture."""

    def __init__(
        self,
        data: bytes,
        header: Header,
        decoded: Decoded,
        found: Found,
        profile: PhotoProfile,
        watch: _Stopwatch,
    ) -> None:
        self._data = data
        self._header = header
        self._decoded = decoded
        self._found = found
        self._profile = profile
        self._watch = watch
        self._findings: list[Finding] = []
        self._measures: dict[str, float] = {
            "source_width_px": header.width_px,
            "source_height_px": header.height_px,
            "draft_scale": decoded.draft_scale,
            "orientation": decoded.orientation,
            "face_source_px": found.pose.width * decoded.draft_scale,
            "presence": found.presence,
            "roll_deg": found.pose.roll_deg,
            "other_face_ratio": found.other_ratio,
            **measure.features(found.pose),
        }

    def picture(self, vision: Vision, adjust: Adjust) -> Normalised:
        found, profile = self._found, self._profile
        if found.turn_deg:
            self._findings.append(find("ROTATED", measured=found.turn_deg))
        roll = found.pose.roll_deg if abs(found.pose.roll_deg) > profile.limits.roll_note_deg else 0.0
        turn = roll - adjust.roll_deg
        if adjust != _AS_IT_IS:
            self._measures["roll_deg"] = found.pose.roll_deg - turn  # what a person leaves is judged, not what came in
        self._findings += judge.face(self._measures, profile.limits)
        person = see(found.image, found.pose, vision, roll_deg=roll, profile=profile)
        self._watch.lap("person")
        cut: _Cut | Finding | None = self._kept(person) if adjust == _AS_IT_IS else None
        if cut is None:
            frame = self._frame(person)
            if adjust != _AS_IT_IS:
                person = see(found.image, found.pose, vision, roll_deg=turn, profile=profile)
                frame = self._moved(frame, person, adjust)
            cut = self._cut(person, frame, turn)
        self._watch.lap("cut")
        if isinstance(cut, Finding):
            return self._done(None, None, None, [cut])
        self._findings += self._other_faces(cut)
        self._measure(cut)
        self._watch.lap("measure")
        image, done = self._background(cut, person)
        self._watch.lap("background")
        return self._encoded(image, done, self._geometry(cut))

    # --------------------------------------------------------------------------------------------------------- layout

    def _kept(self, person: Person) -> _Cut | None:
        """A photo that already is the picture keeps its frame: nothing is resampled, nothing moves."""
        profile, pose, image = self._profile, self._found.pose, self._found.image
        size = (profile.output.width_px, profile.output.height_px)
        if image.size != size or abs(pose.roll_deg) > profile.layout.keep_roll_deg:
            return None
        crown_px = pose.eye_mid[1] - person.room.crown * pose.width
        lengths = measure.lengths(pose, crown_px=crown_px, profile=profile)
        if lengths["chin_to_bottom_px"] < profile.layout.collar_min_px or layout.outside(lengths, profile):
            return None
        picture = self._in_srgb(image)
        return _Cut(picture, picture.convert("L"), pose, _IDENTITY, crown_px)

    def _cut(self, person: Person, frame: Frame, turn: float) -> _Cut | Finding:
        """Level, place and cut in one resampling, from a finer decoding where this one has too few pixels for the face."""
        self._note(frame, person, turn)
        pose = self._found.pose
        matrix = similarity(
            scale=pose.width / frame.face_px,
            turn_deg=turn,
            onto=pose.eye_mid,
            origin=(frame.eye_x, frame.eye_y),
        )
        image, factor = self._found.image, 1.0
        if (scale := self._finer(frame)) < self._decoded.draft_scale:
            decoded = decode(self._data, self._header, scale=scale)
            if isinstance(decoded, Finding):
                return decoded
            image, factor = self._found.turned(decoded.image), self._decoded.draft_scale / scale
        cut = self._in_srgb(view(image, scaled(matrix, factor), (frame.width_px, frame.height_px), quality="fine"))
        crown_px = frame.eye_y - person.room.crown * frame.face_px
        return _Cut(cut, cut.convert("L"), pose.moved(inverse(matrix)), matrix, crown_px)

    def _frame(self, person: Person) -> Frame:
        frame = layout.place(person.room, self._profile)
        cuts = {"cut_left": person.cut_at_left(frame), "cut_right": person.cut_at_right(frame)}
        if any(cuts.values()):
            frame = layout.place(replace(person.room, **cuts), self._profile)
        return frame

    def _moved(self, frame: Frame, person: Person, adjust: Adjust) -> Frame:
        """The automatic frame as somebody moved it; `person` is seen by how it is turned now."""
        return layout.framed(
            person.room,
            self._profile,
            face_px=frame.face_px * adjust.scale,
            eye_x=frame.eye_x + adjust.right_px,
            eye_y=frame.eye_y + adjust.down_px,
        )

    def _note(self, frame: Frame, person: Person, turn: float) -> None:
        """What the frame cuts off, and that the photo was turned to level the head."""
        noted = {
            "HEAD_CROPPED": person.cut_at_top(frame),
            "SIDES_CROPPED": person.cut_at_left(frame) or person.cut_at_right(frame),
            "SHOULDERS_CROPPED": frame.short_below,
            "HAIR_CUT": frame.hair_cut,
        }
        self._findings += [find(code) for code, holds in noted.items() if holds]
        if turn and abs(turn) <= self._profile.limits.roll_reject_deg:
            self._findings.append(find("LEVELLED", measured=round(turn, 1)))

    def _finer(self, frame: Frame) -> int:
        """The coarsest scale that gives the face its pixels, within what memory allows; no finer one for a photo refused for it."""
        scale, face_px = self._decoded.draft_scale, self._measures["face_source_px"]
        pixels = self._header.width_px * self._header.height_px
        if face_px < self._profile.limits.face_px_reject:
            return scale
        while (
            scale > 1 and face_px / scale < _DENSE_ENOUGH * frame.face_px and pixels / (scale / 2) ** 2 <= _PIXELS_MAX
        ):
            scale //= 2
        return scale

    def _in_srgb(self, image: Image.Image) -> Image.Image:
        converted, ignored = to_srgb(image, self._decoded.icc)
        self._findings += [ignored] if ignored else []
        return converted

    def _geometry(self, cut: _Cut) -> Geometry:
        width, height = self._header.width_px, self._header.height_px
        sideways = self._decoded.sideways != (self._found.turn_deg in (90, 270))
        return Geometry(
            turn_deg=self._found.turn_deg,
            source_px=(height, width) if sideways else (width, height),
            matrix=scaled(cut.matrix, self._decoded.draft_scale),
            eyes=cut.pose.eyes,
            ears=(cut.pose.at(EAR_LEFT), cut.pose.at(EAR_RIGHT)),
            chin=cut.pose.at(CHIN),
            crown_px=cut.crown_px,
        )

    # ------------------------------------------------------------------------------------------------- measuring, judging

    def _other_faces(self, cut: _Cut) -> Iterator[Finding]:
        """Each further face is a refusal, or a remark when it is small and the frame leaves it out."""
        limit = self._profile.limits.other_face_ratio
        ratio = round(self._found.other_ratio, 3)
        if self._found.other_ratio > limit:
            yield find("SEVERAL_FACES", measured=ratio, limit=f"<= {limit:g}")
        elif self._found.others:
            to_picture = inverse(cut.matrix)
            inside = any(_inside(face.box, to_picture, cut.image.size) for face in self._found.others)
            yield find("OTHER_FACE_BEHIND", level="warn" if inside else "info", measured=ratio, limit=f"<= {limit:g}")

    def _measure(self, cut: _Cut) -> None:
        limits = self._profile.limits
        self._measures |= measure.lengths(cut.pose, crown_px=cut.crown_px, profile=self._profile)
        self._measures |= measure.light(cut.image, cut.luma, cut.pose)
        self._findings += [*judge.light(self._measures, limits), *judge.features(self._measures, limits)]

    def _background(self, cut: _Cut, person: Person) -> tuple[Image.Image, Background]:
        limits = self._profile.background
        seen = background.behind(person, cut.pose, cut.matrix, cut.image.size)
        self._measures |= measure.background(cut.image, cut.luma, seen)
        kind = judge.background_kind(self._measures, limits)
        self._findings += judge.background(kind, self._measures, limits)
        if kind == "near_white" or (kind == "plain" and limits.replace):
            white = background.whitened(cut.image, person, cut.matrix, seen)
            return white, "whitened" if kind == "near_white" else "replaced"
        return cut.image, "kept"

    # ---------------------------------------------------------------------------------------------------------- the file

    def _encoded(self, image: Image.Image, done: Background, geometry: Geometry) -> Normalised:
        if any(finding.level == "reject" for finding in self._findings):
            return self._done(None, done, geometry, [])
        encoded = encode(image, profile=self._profile)
        self._watch.lap("encode")
        if isinstance(encoded, Finding):
            return self._done(None, done, geometry, [encoded])
        if not is_clean(encoded.data, output=self._profile.output):
            raise Defect("the photo encoder wrote a file that does not read back as promised")
        self._measures |= {"bytes": len(encoded.data), "encodes": encoded.encodes}
        changed = encoded.quality != self._profile.jpeg.quality_start
        remarks = [find("QUALITY_CHANGED", measured=encoded.quality)] if changed else []
        whole = self._done(encoded.data, done, geometry, remarks)
        output = self._profile.output
        return replace(whole, width_px=output.width_px, height_px=output.height_px, quality=encoded.quality)

    def _done(
        self, picture: bytes | None, done: Background | None, geometry: Geometry | None, more: list[Finding]
    ) -> Normalised:
        return Normalised(
            picture=picture,
            findings=worst_first([*self._findings, *more]),
            background=done,
            geometry=geometry,
            measures=MappingProxyType(self._measures),
            timings_ms=self._watch.laps(),
        )


def _inside(box: tuple[float, ...], to_picture: Matrix, size: tuple[int, int]) -> bool:
    """Whether the middle of a box of the decoded image lies in the picture."""
    a, b, c, d, e, f = to_picture
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return 0 <= a * x + b * y + c <= size[0] and 0 <= d * x + e * y + f <= size[1]


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


def _refused(finding: Finding, watch: _Stopwatch) -> Normalised:
    return Normalised(picture=None, findings=(finding,), timings_ms=watch.laps())
