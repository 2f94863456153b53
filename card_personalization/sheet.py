"""Faces as PDF in true size: one card a page for a card printer, or several on a sheet of A4 with crop marks.

PNG bytes in, PDF bytes out (ISO 32000-1), always the same for the same input: no date, no identifier, no metadata. A face goes
in as it is, its compressed scanlines are what PDF calls predictor 15. Lengths are millimetres from the lower left, as in PDF.
Must not know whose faces they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from card_personalization import png
from card_personalization.errors import FaceError, Problem

CARD_WIDTH_MM = 85.60
CARD_HEIGHT_MM = 53.98
CORNER_RADIUS_MM = 3.18
"""ISO/IEC 7810, ID-1."""

_POINTS_PER_MM = 72 / 25.4
_MM_PER_INCH = 25.4
_TOLERANCE_MM = 0.15  # a pixel at 300 dpi is 0.085 mm
_MARK_MM = 2.0
_MARK_GAP_MM = 0.8
_HAIRLINE_MM = 0.1
_LABEL_MM = 2.8
_FOOT_MM = _MARK_GAP_MM + _MARK_MM + _LABEL_MM + 1.0
_QUARTER = 0.5523  # of the radius: a Bézier curve's handle for a quarter of a circle
_MAX_LABEL = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How cards lie on a sheet, in the middle of it.

    Raises:
        ValueError: the cards, the gaps between them and a margin for marks and label do not fit on the page.
    """

    page_width_mm: float
    page_height_mm: float
    columns: int
    rows: int
    gap_mm: float

    def __post_init__(self) -> None:
        margin = _MARK_MM + _MARK_GAP_MM
        if min(self.columns, self.rows) < 1 or self._left_mm < margin or self._bottom_mm < _FOOT_MM + _LABEL_MM:
            raise ValueError(f"{self.columns} by {self.rows} cards do not fit on the page")
        if self.cards > 1 and self.gap_mm < 2 * margin:
            raise ValueError(f"a gap of {self.gap_mm} mm has no room for the marks of two cards: {2 * margin} mm")

    @property
    def cards(self) -> int:
        """How many cards a sheet holds."""
        return self.columns * self.rows

    @property
    def _left_mm(self) -> float:
        return (self.page_width_mm - self.columns * CARD_WIDTH_MM - (self.columns - 1) * self.gap_mm) / 2

    @property
    def _bottom_mm(self) -> float:
        return (self.page_height_mm - self.rows * CARD_HEIGHT_MM - (self.rows - 1) * self.gap_mm) / 2

    def places(self) -> Iterator[tuple[float, float]]:
        """The lower left corners of the cards, row by row from the top."""
        for row in reversed(range(self.rows)):
            for column in range(self.columns):
                yield (
                    self._left_mm + column * (CARD_WIDTH_MM + self.gap_mm),
                    self._bottom_mm + row * (CARD_HEIGHT_MM + self.gap_mm),
                )


A4_EIGHT = Layout(page_width_mm=210, page_height_mm=297, columns=2, rows=4, gap_mm=6)
"""Eight cards on ISO 216 A4."""


def sheets(faces: Sequence[bytes], *, label: str, layout: Layout = A4_EIGHT) -> bytes:
    """A PDF of as many sheets as the faces need; `label` and the sheet's number stand at the foot of each.

    The label is for people who sort sheets: a batch or a station, printable ASCII, never a person.

    Raises:
        FaceError: no face at all, or one that is no PNG of a card's size, named by its place in the sequence.
        ValueError: the label is longer than 80 characters or not printable ASCII.
    """
    if len(label) > _MAX_LABEL or not label.isascii() or not label.isprintable():
        raise ValueError(f"a sheet's label is at most {_MAX_LABEL} printable ASCII characters")
    pictures = _pictures(faces)
    pages = [pictures[at : at + layout.cards] for at in range(0, len(pictures), layout.cards)]
    document = _Document(layout.page_width_mm, layout.page_height_mm)
    for number, page in enumerate(pages, 1):
        document.add_page(page, _sheet(layout, len(page), f"{label}  {number}/{len(pages)}"))
    return document.to_bytes()


def card(sides: Sequence[bytes]) -> bytes:
    """A PDF of one card for a card printer: a page of exactly a card's size for each side, printed to the edge.

    Raises:
        FaceError: no side at all, or one that is no PNG of a card's size, named by its place in the sequence.
    """
    document = _Document(CARD_WIDTH_MM, CARD_HEIGHT_MM)
    for side in _pictures(sides):
        document.add_page([side], _picture(0, 0, 0))
    return document.to_bytes()


def _pictures(faces: Sequence[bytes]) -> list[png.Png]:
    if not faces:
        raise FaceError((Problem("face", "empty", "there is none to print"),))
    pictures: list[png.Png] = []
    problems: list[Problem] = []
    for number, face in enumerate(faces, 1):
        try:
            pictures.append(_true_size(png.parse(face)))
        except ValueError as error:
            problems.append(Problem("face", "format", f"number {number}: {error}"))
    if problems:
        raise FaceError(tuple(problems))
    return pictures


def _true_size(picture: png.Png) -> png.Png:
    width_mm, height_mm = (pixels / picture.dpi * _MM_PER_INCH for pixels in (picture.width_px, picture.height_px))
    if abs(width_mm - CARD_WIDTH_MM) > _TOLERANCE_MM or abs(height_mm - CARD_HEIGHT_MM) > _TOLERANCE_MM:
        raise ValueError(f"is {width_mm:.2f} by {height_mm:.2f} mm, not {CARD_WIDTH_MM:.2f} by {CARD_HEIGHT_MM:.2f} mm")
    return picture


# ------------------------------------------------------------------------------------------------- what is on a page


def _sheet(layout: Layout, cards: int, label: str) -> str:
    parts = [f"{_HAIRLINE_MM} w"]
    for index, (left, bottom) in zip(range(cards), layout.places(), strict=False):
        parts += [f"q {_rounded(left, bottom)} W n", _picture(index, left, bottom), "Q", _marks(left, bottom)]
    escaped = label.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    left, bottom = min(layout.places())
    parts.append(f"BT /F {_LABEL_MM} Tf {_numbers(left, bottom - _FOOT_MM)} Td ({escaped}) Tj ET")
    return "\n".join(parts)


def _picture(index: int, left: float, bottom: float) -> str:
    return f"q {_numbers(CARD_WIDTH_MM, 0, 0, CARD_HEIGHT_MM, left, bottom)} cm /I{index} Do Q"


def _marks(left: float, bottom: float) -> str:
    """Two lines at each corner that point at the card's edges and stay clear of them."""
    lines = []
    for x, outward_x in ((left, -1), (left + CARD_WIDTH_MM, 1)):
        for y, outward_y in ((bottom, -1), (bottom + CARD_HEIGHT_MM, 1)):
            near_x, far_x = (x + outward_x * length for length in (_MARK_GAP_MM, _MARK_GAP_MM + _MARK_MM))
            near_y, far_y = (y + outward_y * length for length in (_MARK_GAP_MM, _MARK_GAP_MM + _MARK_MM))
            lines.append(f"{_numbers(near_x, y)} m {_numbers(far_x, y)} l S")
            lines.append(f"{_numbers(x, near_y)} m {_numbers(x, far_y)} l S")
    return "\n".join(lines)


def _rounded(left: float, bottom: float) -> str:
    """The outline of a card as a path."""
    right, top, radius = left + CARD_WIDTH_MM, bottom + CARD_HEIGHT_MM, CORNER_RADIUS_MM
    inset = radius * (1 - _QUARTER)
    return " ".join(
        (
            f"{_numbers(left + radius, bottom)} m {_numbers(right - radius, bottom)} l",
            f"{_numbers(right - inset, bottom, right, bottom + inset, right, bottom + radius)} c",
            f"{_numbers(right, top - radius)} l",
            f"{_numbers(right, top - inset, right - inset, top, right - radius, top)} c",
            f"{_numbers(left + radius, top)} l",
            f"{_numbers(left + inset, top, left, top - inset, left, top - radius)} c",
            f"{_numbers(left, bottom + radius)} l",
            f"{_numbers(left, bottom + inset, left + inset, bottom, left + radius, bottom)} c h",
        )
    )


def _numbers(*values: float) -> str:
    return " ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


# ------------------------------------------------------------------------------------------------------------ the file


class _Document:
    """The objects of a PDF file: 1 the catalogue, 2 the page tree, 3 the font, then pages with what they need."""

    def __init__(self, width_mm: float, height_mm: float) -> None:
        self._size = _numbers(width_mm * _POINTS_PER_MM, height_mm * _POINTS_PER_MM)
        self._objects: list[bytes] = []
        self._pages: list[int] = []

    def add_page(self, pictures: Sequence[png.Png], content: str) -> None:
        """A page; `content` names the pictures I0, I1 and so on, and counts in millimetres."""
        names = " ".join(f"/I{index} {self._add(_image(picture))} 0 R" for index, picture in enumerate(pictures))
        scale = _numbers(_POINTS_PER_MM, 0, 0, _POINTS_PER_MM, 0, 0)
        stream = self._add(_stream("", f"{scale} cm\n{content}\n".encode("ascii")))
        resources = f"<< /XObject << {names} >> /Font << /F 3 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {self._size}] /Resources {resources} /Contents {stream} 0 R >>"
        self._pages.append(self._add(page.encode("ascii")))

    def to_bytes(self) -> bytes:
        kids = " ".join(f"{number} 0 R" for number in self._pages)
        head = (
            "<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
            f"<< /Type /Pages /Kids [{kids}] /Count {len(self._pages)} >>",
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        )
        file = bytearray(b"%PDF-1.6\n%\xe2\xe3\xcf\xd3\n")
        places = []
        for number, body in enumerate((*(text.encode("ascii") for text in head), *self._objects), 1):
            places.append(len(file))
            file += b"%d 0 obj\n%b\nendobj\n" % (number, body)
        start = len(file)
        file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
        file += b"".join(b"%010d 00000 n \n" % place for place in places)
        file += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, start)
        return bytes(file)

    def _add(self, body: bytes) -> int:
        self._objects.append(body)
        return len(self._objects) + 3


def _image(picture: png.Png) -> bytes:
    size = f"/Width {picture.width_px} /Height {picture.height_px} /BitsPerComponent {png.BITS}"
    lines = f"/Predictor 15 /Colors {png.CHANNELS} /BitsPerComponent {png.BITS} /Columns {picture.width_px}"
    return _stream(
        f"/Type /XObject /Subtype /Image /ColorSpace /DeviceRGB {size} /Filter /FlateDecode /DecodeParms << {lines} >>",
        picture.stream,
    )


def _stream(entries: str, data: bytes) -> bytes:
    return b"<< %b /Length %d >>\nstream\n%b\nendstream" % (entries.encode("ascii"), len(data), data)
