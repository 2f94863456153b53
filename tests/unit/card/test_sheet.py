"""Faces as PDF: true size, marks where the knife goes, the picture untouched, the same bytes each time."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from card_personalization import png
from card_personalization.errors import FaceError
from card_personalization.sheet import A4_EIGHT, Layout, card, sheets
from tests.support.needs import lacking

WIDTH, HEIGHT = 1011, 638
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
PER_MM = 10  # pixels at 254 dpi


def face(colour: tuple[int, int, int], *, width: int = WIDTH, height: int = HEIGHT, dpi: int = 300) -> bytes:
    line = b"\0" + bytes(colour) * width
    return png.encode([line] * height, width_px=width, height_px=height, dpi=dpi)


@pytest.fixture(scope="module")
def red() -> bytes:
    return face(RED)


@pytest.fixture(scope="module")
def poppler() -> Callable[..., bytes]:
    """Poppler's programs, which know nothing of our writer; a gap may not hide where CI=true."""
    if shutil.which("pdftoppm") is None or shutil.which("pdfinfo") is None:
        lacking("pdftoppm and pdfinfo are missing; install poppler-utils")

    def run(*command: str) -> bytes:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert done.stderr == b"", done.stderr
        return done.stdout

    return run


def rendered(poppler: Callable[..., bytes], directory: Path, pdf: bytes, *, page: int = 1) -> Image.Image:
    (directory / "faces.pdf").write_bytes(pdf)
    which = ("-r", "254", "-f", str(page), "-l", str(page), "-singlefile")
    return Image.open(io.BytesIO(poppler("pdftoppm", *which, str(directory / "faces.pdf")))).convert("RGB")


def red_box(image: Image.Image) -> tuple[int, int, int, int]:
    box = image.split()[1].point(lambda green: 255 if green < 10 else 0)
    found = Image.composite(box, Image.new("L", image.size), image.split()[0].point(lambda r: 255 if r > 245 else 0))
    assert found.getbbox() is not None
    return found.getbbox()  # type: ignore[return-value]


def test_a_card_is_a_page_of_its_own_size_filled_to_the_edge(
    poppler: Callable[..., bytes], tmp_path: Path, red: bytes
) -> None:
    image = rendered(poppler, tmp_path, card([red, face(BLUE)]))
    assert abs(image.width - 856) <= 1
    assert abs(image.height - 540) <= 1
    assert {image.getpixel(at) for at in ((1, 1), (854, 1), (1, 538), (854, 538), (400, 300))} == {RED}
    assert rendered(poppler, tmp_path, card([red, face(BLUE)]), page=2).getpixel((400, 300)) == BLUE


def test_a_sheet_is_a4_and_every_card_on_it_has_its_true_size(
    poppler: Callable[..., bytes], tmp_path: Path, red: bytes
) -> None:
    image = rendered(poppler, tmp_path, sheets([red] * 8, label="bat_1"))
    assert abs(image.width - 2100) <= 1
    assert abs(image.height - 2970) <= 1
    for left_mm, bottom_mm in A4_EIGHT.places():
        left, top = left_mm * PER_MM, (297 - bottom_mm - 53.98) * PER_MM
        around = image.crop((round(left - 7), round(top - 7), round(left + 856 + 7), round(top + 539.8 + 7)))
        box = red_box(around)
        assert all(abs(a - b) <= 2 for a, b in zip(box, (7, 7, 863, 546.8), strict=True)), box


def test_corners_are_round(poppler: Callable[..., bytes], tmp_path: Path, red: bytes) -> None:
    """At 45 degrees the arc of a 3.18 mm corner passes 0.93 mm from either edge."""
    image = rendered(poppler, tmp_path, sheets([red], label="bat_1"))
    left_mm, bottom_mm = next(A4_EIGHT.places())
    left, top = left_mm * PER_MM, (297 - bottom_mm - 53.98) * PER_MM
    assert image.getpixel((round(left + 7), round(top + 7))) == WHITE
    assert image.getpixel((round(left + 12), round(top + 12))) == RED


def test_marks_point_at_the_edges_and_stay_clear_of_the_card(
    poppler: Callable[..., bytes], tmp_path: Path, red: bytes
) -> None:
    image = rendered(poppler, tmp_path, sheets([red], label="bat_1")).convert("L")
    left_mm, bottom_mm = next(A4_EIGHT.places())
    for x_mm in (left_mm, left_mm + 85.60):
        for y_mm, outward in ((297 - bottom_mm - 53.98, -1), (297 - bottom_mm, 1)):
            column = [
                min(
                    int(image.getpixel((round(x_mm * PER_MM) + dx, round((y_mm + outward * far) * PER_MM))))  # type: ignore[arg-type]
                    for dx in (-1, 0, 1)
                )
                for far in (0.4, 1.8, 3.2)
            ]
            assert column[0] > 200
            assert column[1] < 100
            assert column[2] > 200


def test_more_faces_take_more_sheets_and_each_says_which_it_is(
    poppler: Callable[..., bytes], tmp_path: Path, red: bytes
) -> None:
    (tmp_path / "sheets.pdf").write_bytes(sheets([red] * 9, label=r"bat_1 (wuhan) \ A"))
    assert b"Pages:           2" in poppler("pdfinfo", str(tmp_path / "sheets.pdf"))
    text = poppler("pdftotext", str(tmp_path / "sheets.pdf"), "-").decode()
    assert [line for line in text.splitlines() if line.strip("\f")] == [
        r"bat_1 (wuhan) \ A 1/2",
        r"bat_1 (wuhan) \ A 2/2",
    ]


def test_pictures_go_in_as_they_are(red: bytes) -> None:
    stream = png.parse(red).stream
    assert sheets([red, red], label="").count(stream) == 2
    assert zlib.decompress(stream)[1:4] == bytes(RED)


@pytest.mark.parametrize("make", [card, lambda faces: sheets(faces, label="bat_1")], ids=["card", "sheets"])
def test_the_same_faces_give_the_same_file_without_date_or_identifier(
    make: Callable[[list[bytes]], bytes], red: bytes
) -> None:
    assert make([red, red]) == make([red, red])
    assert not re.search(rb"/(CreationDate|ModDate|ID|Info|Metadata|Producer|Creator|Author|Title)\b", make([red]))


def test_every_object_is_where_the_table_says(red: bytes) -> None:
    pdf = sheets([red] * 9, label="bat_1")
    start = int(pdf.rsplit(b"startxref\n", 1)[1].split()[0])
    table = re.findall(rb"(\d{10}) 00000 n \n", pdf[start:])
    assert len(table) > 10
    for number, place in enumerate(map(int, table), 1):
        assert pdf[place:].startswith(b"%d 0 obj\n" % number)


def test_a_face_that_is_no_card_is_refused_by_its_place(red: bytes) -> None:
    wrong = [red, b"not a picture", face(RED, dpi=150), face(RED, width=638, height=1011), red[:-30]]
    with pytest.raises(FaceError) as caught:
        sheets(wrong, label="bat_1")
    assert [problem.text.split(":")[0] for problem in caught.value.problems] == [f"number {n}" for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("make", [card, lambda faces: sheets(faces, label="bat_1")], ids=["card", "sheets"])
def test_nothing_to_print_is_refused(make: Callable[[list[bytes]], bytes]) -> None:
    with pytest.raises(FaceError, match="none to print"):
        make([])


@pytest.mark.parametrize("label", ["李四", "a\nb", "x" * 81])
def test_a_label_that_could_not_be_printed_is_refused(red: bytes, label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        sheets([red], label=label)


@pytest.mark.parametrize(("columns", "rows", "gap_mm"), [(3, 1, 6), (2, 6, 6), (0, 4, 6), (2, 4, 3)])
def test_a_layout_that_does_not_fit_its_page_is_refused(columns: int, rows: int, gap_mm: float) -> None:
    with pytest.raises(ValueError, match=r"do not fit|no room"):
        Layout(page_width_mm=210, page_height_mm=297, columns=columns, rows=rows, gap_mm=gap_mm)
