"""Batch files: every encoding and delimiter, every hostile archive, and rows that fail alone."""

from __future__ import annotations

import csv
import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter  # type: ignore[import-untyped, unused-ignore]  # it ships no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from config.policies import Policies, load_policies
from pipeline.application import Submission
from pipeline.identifiers import gb11643_check
from producers import batch_file
from producers.batch_file import BatchFileError, Row, RowError, neutralised, open_batch, write_errors

FIRST17 = "99900119900307001"
NUMBER = FIRST17 + gb11643_check(FIRST17)
CHILD17 = "99900120160307002"
CHILD = CHILD17 + gb11643_check(CHILD17)
GOOD: dict[str, str] = {
    "姓名": "张三", "证件类型": "居民身份证", "证件号码": NUMBER, "手机号码": "13800000001", "人员类别": "城镇职工",
    "参保地": "武汉市武昌区",
}  # fmt: skip


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load_policies()


def table(*rows: Mapping[str, str], delimiter: str = ",") -> str:
    """Rows as CSV; the header is the first row's."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def packed(entries: Mapping[str, bytes], *, change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, data)
    return kept.getvalue()


def workbook(rows: Iterable[Iterable[Any]], *, change: Callable[[Any, Any], None] = lambda book, sheet: None) -> bytes:
    kept = io.BytesIO()
    with xlsxwriter.Workbook(kept, {"in_memory": True, "strings_to_formulas": False}) as book:
        sheet = book.add_worksheet("data")
        for at, row in enumerate(rows):
            sheet.write_row(at, 0, row)
        change(book, sheet)
    return kept.getvalue()


class Desk:
    """Puts bytes into a file and reads it as a batch."""

    def __init__(self, directory: Path, policies: Policies) -> None:
        self._directory = directory
        self._policies = policies

    def file(self, data: bytes, name: str = "batch") -> Path:
        path = self._directory / name
        path.write_bytes(data)
        return path

    def rows(self, data: bytes, *, start: int = 0) -> list[Row]:
        with open_batch(self.file(data)) as batch:
            return list(batch.read(policies=self._policies, source="tests", start=start))

    def one(self, **changes: str) -> Row:
        (row,) = self.rows(table({**GOOD, **changes}).encode())
        return row

    def taken(self, **changes: str) -> Submission:
        row = self.one(**changes)
        assert row.submission is not None, row.errors
        return row.submission

    def refused(self, **changes: str) -> list[tuple[str, str]]:
        row = self.one(**changes)
        assert row.submission is None
        return [(error.column, error.code) for error in row.errors]

    def fault(self, data: bytes, name: str = "batch") -> str:
        with pytest.raises(BatchFileError) as caught, open_batch(self.file(data, name)):
            pass
        return caught.value.reason_code


@pytest.fixture
def desk(tmp_path: Path, policies: Policies) -> Desk:
    return Desk(tmp_path, policies)


# ------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_text_of_every_encoding_and_delimiter_is_read(desk: Desk, encoding: str, delimiter: str) -> None:
    (row,) = desk.rows(table(GOOD, delimiter=delimiter).encode(encoding))

    assert row.submission is not None
    assert row.submission.person.name == "张三"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
@pytest.mark.parametrize("name", ["张𠮷", "李㑇", "买买提·阿卜杜拉"])
def test_rare_and_minority_names_come_through_whole(desk: Desk, encoding: str, name: str) -> None:
    (row,) = desk.rows(table({**GOOD, "姓名": name}).encode(encoding))

    assert row.submission is not None
    assert row.submission.person.name == name


def test_one_undecodable_line_is_one_row_error_and_its_neighbours_live(desk: Desk) -> None:
    lines = table(*[{**GOOD, "备注": f"第{at}行"} for at in range(3)]).encode("gb18030").splitlines(keepends=True)
    lines[2] = lines[2].replace("第1行".encode("gb18030"), b"\xff\xff")

    first, broken, last = desk.rows(b"".join(lines))

    assert first.submission is not None
    assert last.submission is not None
    assert [(error.row, error.column, error.code) for error in broken.errors] == [(3, "", "row.encoding")]


def test_a_quote_never_closed_costs_its_own_row_only(desk: Desk) -> None:
    lines = table(*[GOOD] * 40).splitlines(keepends=True)
    lines[1] = lines[1].replace("张三", '"张三')

    rows = desk.rows("".join(lines).encode())

    assert [row.number for row in rows if row.errors] == [2]
    assert len(rows) == 40


def test_a_cell_without_end_costs_its_own_row_only(desk: Desk) -> None:
    long = {**GOOD, "备注": "x" * 200_000}

    assert [bool(row.errors) for row in desk.rows(table(GOOD | {"备注": ""}, long, GOOD | {"备注": ""}).encode())] == [
        False,
        True,
        False,
    ]


def test_a_quoted_cell_may_hold_line_ends_and_counts_as_one_row(desk: Desk) -> None:
    rows = desk.rows(table({**GOOD, "备注": "一\n二"}, GOOD | {"备注": ""}).encode())

    assert [(row.number, bool(row.errors)) for row in rows] == [(2, False), (3, False)]


def test_a_stray_delimiter_does_not_shift_the_columns_silently(desk: Desk) -> None:
    lines = table(GOOD).splitlines(keepends=True)
    (row,) = desk.rows((lines[0] + lines[1].replace("张三", "张,三")).encode())

    assert [error.code for error in row.errors] == ["format"]


# --------------------------------------------------------------------------------------------------------------- header


@pytest.mark.parametrize(
    "header",
    [
        "* 姓 名,证件类型,身份证号*,联系电话,险种,所属城市",
        "name,id_type,id_number,phone,category,district",
        "\ufeff姓名,证件类型,公民身份号码,手机号,人员类别,参保地",
    ],
)
def test_headers_are_known_by_alias_english_spaces_and_stars(desk: Desk, header: str) -> None:
    (row,) = desk.rows((header + "\n" + ",".join(GOOD.values())).encode())

    assert row.submission is not None


def test_missing_columns_are_named(desk: Desk) -> None:
    with pytest.raises(BatchFileError) as caught, open_batch(desk.file("姓名,证件类型\n张三,身份证\n".encode())):
        pass

    assert caught.value.reason_code == "missing-columns"
    assert "证件号码、手机号码、人员类别、参保地" in caught.value.zh
    assert "id_number, phone, category, district" in caught.value.en


def test_two_columns_that_mean_the_same_are_refused(desk: Desk) -> None:
    assert desk.fault(table({**GOOD, "身份证号": NUMBER}).encode()) == "bad-sheet"


def test_an_empty_file_is_refused(desk: Desk) -> None:
    assert desk.fault(b"") == "bad-sheet"


def test_more_rows_than_allowed_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "ROWS_MAX", 2)

    assert desk.fault(table(GOOD, GOOD, GOOD).encode()) == "too-many-items"


def test_a_file_of_endless_lines_is_refused_before_it_is_split(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "LINES_MAX", 50)

    assert desk.fault(table(GOOD).encode() + b"\n" * 50) == "too-many-items"


# ----------------------------------------------------------------------------------------------------------------- rows


def test_what_a_row_does_not_say_is_filled_in(desk: Desk) -> None:
    row = desk.one()
    submission = row.submission

    assert submission is not None
    assert row.number == 2
    assert (submission.region, submission.district, submission.category) == ("420100", "420106", "urban_employee")
    assert (submission.agency, submission.outlet, submission.bank_code) == ("ag_42010601", "out_42010601", "95533")
    assert (submission.lane, submission.kind, submission.window) == ("bulk", "first", "")
    assert submission.confirmed
    assert [document.type for document in submission.documents] == ["application_form"]


def test_the_reference_left_out_is_made_of_the_file_and_the_row(desk: Desk) -> None:
    with open_batch(desk.file(table(GOOD, GOOD).encode())) as batch:
        refs = [row.external_ref for row in batch.read(policies=load_policies(), source="tests")]

        assert refs == [f"{batch.sha256[:12]}-2", f"{batch.sha256[:12]}-3"]
        assert batch.rows == 2


@pytest.mark.parametrize(
    ("place", "region", "district"),
    [
        ("420106", "420100", "420106"),
        ("武昌区", "420100", "420106"),
        ("武汉武昌区", "420100", "420106"),
        ("武汉市", "420100", "420100"),
        ("武汉市东西湖区", "420112", "420112"),
    ],
)
def test_a_place_is_known_by_code_and_by_name(desk: Desk, place: str, region: str, district: str) -> None:
    submission = desk.taken(参保地=place)

    assert (submission.region, submission.district) == (region, district)


def test_residents_of_a_hukou_go_by_its_district(desk: Desk) -> None:
    submission = desk.taken(参保地="韶关市", 户籍地="韶关市始兴县", 人员类别="本市户口其他人员")

    assert (submission.region, submission.district) == ("440200", "440222")


def test_optional_columns_take_the_words_people_use(desk: Desk) -> None:
    submission = desk.taken(
        民族="维吾尔族", 性别="男", 出生日期="1990年3月7日", 证件有效期起="2015/1/2", 证件有效期止="长期", 手机号码="138 0000-0001",
        加急="是", 受理窗口="局信息中心", 受理机构="42010602", 领卡网点="out_42010603", 服务银行="中国工商银行", 申领类型="换领",
        代办人姓名="王五", 代办人证件类型="身份证", 代办人证件号码=NUMBER, 领卡方式="代办", 本人确认="否", 外部编号="WH-7",
    )  # fmt: skip

    assert (submission.person.ethnic, submission.person.sex, submission.person.birth_date) == (
        "05",
        "1",
        date(1990, 3, 7),
    )
    assert (submission.person.id_valid_from, submission.person.id_valid_to) == (date(2015, 1, 2), date(9999, 12, 31))
    assert (submission.priority, submission.lane, submission.window) == ("urgent", "urgent", "information_centre")
    assert (submission.agency, submission.outlet, submission.bank_code) == ("ag_42010602", "out_42010603", "95588")
    assert (submission.kind, submission.collect_by, submission.external_ref) == ("exchange", "proxy", "WH-7")
    assert submission.proxy is not None
    assert [document.type for document in submission.documents] == ["application_form", "mandate"]
    assert not submission.confirmed


@pytest.mark.parametrize(
    ("zh", "number", "id_type", "nationality"),
    [
        ("户口簿", NUMBER, "resident", ""),
        ("港澳居民来往内地通行证", "H12345678", "hk_permit", ""),
        ("港澳居民来往内地通行证", "M12345678", "mo_permit", ""),
        ("台湾居民来往大陆通行证", "12345678", "tw_permit", ""),
        ("护照", "X1234567", "passport", "哈萨克斯坦"),
    ],
)
def test_documents_are_known_by_their_names(desk: Desk, zh: str, number: str, id_type: str, nationality: str) -> None:
    submission = desk.taken(证件类型=zh, 证件号码=number, 性别="女" if id_type != "resident" else "", 国籍=nationality,
                            出生日期="1990-03-07")  # fmt: skip

    assert submission.person.id_type == ("household_book" if id_type == "resident" else id_type)


def test_every_error_of_a_row_is_told_by_column(desk: Desk) -> None:
    wrong = desk.refused(
        姓名="张3", 证件号码=FIRST17 + "?", 手机号码="110", 人员类别="外星人", 出生日期="1990-02-30", 服务银行="某银行", 加急="也许",
        受理窗口="某窗口", 外部编号="13800000001",
    )  # fmt: skip

    assert wrong == [
        ("姓名", "name.characters"), ("证件号码", "format"), ("手机号码", "phone.invalid"), ("人员类别", "format"),
        ("出生日期", "date.invalid"), ("服务银行", "format"), ("加急", "format"), ("外部编号", "external_ref.personal"),
        ("受理窗口", "format"),
    ]  # fmt: skip


def test_an_empty_required_cell_is_one_error_and_causes_no_other(desk: Desk) -> None:
    assert desk.refused(参保地="") == [("参保地", "required")]
    assert desk.refused(手机号码="") == [("手机号码", "required")]
    assert desk.refused(人员类别="") == [("人员类别", "required")]


def test_a_region_that_is_not_served_is_an_error_of_the_row(desk: Desk) -> None:
    assert desk.refused(参保地="110105") == [("参保地", "format")]


def test_a_refused_row_repeats_no_personal_value(desk: Desk) -> None:
    row = desk.one(外部编号="13800000002", 手机号码="1380000", 证件号码=FIRST17 + "?", 姓名="李逵9")

    assert not any(value in repr(row) for value in ("13800000002", "1380000", FIRST17, "李逵"))


def test_reading_goes_on_from_a_row(desk: Desk) -> None:
    data = table(*[GOOD] * 3).encode()

    assert [row.number for row in desk.rows(data, start=1)] == [3, 4]


def test_blank_rows_count_as_row_numbers_and_not_as_rows(desk: Desk) -> None:
    header, line = table(GOOD).splitlines(keepends=True)

    assert [row.number for row in desk.rows((header + "\r\n" + line + ",,,,,\r\n" + line).encode())] == [3, 5]


# ------------------------------------------------------------------------------------------------------------ workbooks


def test_a_workbook_is_read_with_serial_dates_and_numbers(desk: Desk) -> None:
    header = [*GOOD, "出生日期", "证件有效期起", "民族"]
    values = [*GOOD.values(), 32939, 42005, 5]  # 1990-03-07, 2015-01-01
    values[3] = 13800000001
    (row,) = desk.rows(workbook([header, values]))

    assert row.submission is not None, row.errors
    assert row.submission.person.birth_date == date(1990, 3, 7)
    assert row.submission.person.id_valid_from == date(2015, 1, 1)
    assert (row.submission.person.phone, row.submission.person.ethnic) == ("13800000001", "05")


def test_a_cell_formatted_as_a_date_is_a_date(desk: Desk) -> None:
    def dated(book: Any, sheet: Any) -> None:
        sheet.write_datetime(1, len(GOOD), date(2015, 1, 1), book.add_format({"num_format": "yyyy-mm-dd"}))

    (row,) = desk.rows(workbook([[*GOOD, "证件有效期起"], list(GOOD.values())], change=dated))

    assert row.submission is not None
    assert row.submission.person.id_valid_from == date(2015, 1, 1)


def test_a_number_the_spreadsheet_rewrote_is_never_guessed(desk: Desk) -> None:
    values: list[Any] = list(GOOD.values())
    values[2] = float(NUMBER)
    (row,) = desk.rows(workbook([list(GOOD), values]))

    assert [(error.column, error.code) for error in row.errors] == [("证件号码", "id_number.precision_lost")]


def test_a_number_in_scientific_writing_is_never_guessed(desk: Desk) -> None:
    assert desk.refused(证件号码="9.99001E+17") == [("证件号码", "id_number.precision_lost")]


def test_of_a_formula_the_stored_value_counts(desk: Desk) -> None:
    def formula(book: Any, sheet: Any) -> None:
        sheet.write_formula(1, 0, '=CONCAT("李","四")', None, "李四")

    (row,) = desk.rows(workbook([list(GOOD), list(GOOD.values())], change=formula))

    assert row.submission is not None
    assert row.submission.person.name == "李四"


def test_rows_with_merged_cells_are_errors(desk: Desk) -> None:
    merged = workbook(
        [list(GOOD), *[list(GOOD.values())] * 3], change=lambda book, sheet: sheet.merge_range(1, 5, 2, 5, "武昌区")
    )

    assert [bool(row.errors) for row in desk.rows(merged)] == [True, True, False]


def test_a_workbook_too_large_unpacked_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "WORKBOOK_BYTES_MAX", 1000)

    assert desk.fault(workbook([list(GOOD), list(GOOD.values())])) == "too-large"


def test_the_first_visible_sheet_is_read(desk: Desk) -> None:
    def hide(book: Any, sheet: Any) -> None:
        second = book.add_worksheet("good")
        second.write_row(0, 0, list(GOOD))
        second.write_row(1, 0, list(GOOD.values()))
        second.activate()
        sheet.hide()

    (row,) = desk.rows(workbook([["x"]], change=hide))

    assert row.submission is not None


def test_a_cell_in_the_last_corner_does_not_fill_the_memory(desk: Desk) -> None:
    far = workbook([list(GOOD)], change=lambda book, sheet: sheet.write_string(1_048_575, 16_383, "x"))

    assert desk.fault(far) == "bad-sheet"


@pytest.mark.parametrize("name", ["a.xlsx", "a.xls"])
def test_a_workbook_by_name_only_is_refused(desk: Desk, name: str) -> None:
    assert desk.fault(b"nothing", name) == "bad-sheet"


def test_a_damaged_old_workbook_is_refused(desk: Desk) -> None:
    assert desk.fault(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)) == "bad-sheet"


# ------------------------------------------------------------------------------------------------------------- archives


SHEET = {"rows.csv": table(GOOD).encode()}


def _linked(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(packed({}), id="empty"),
        pytest.param(packed({"a.jpg": b"x"}), id="no sheet"),
        pytest.param(packed({**SHEET, "b.xlsx": b""}), id="two sheets"),
        pytest.param(packed({**SHEET, "/etc/passwd": b""}), id="absolute"),
        pytest.param(packed({**SHEET, "C:\\a.jpg": b""}), id="drive"),
        pytest.param(packed({**SHEET, "a/../../b.jpg": b""}), id="parent"),
        pytest.param(packed({**SHEET, "a\\..\\b.jpg": b""}), id="parent by backslash"),
        pytest.param(packed({**SHEET, "a.jpg": b"rows.csv"}, change=_linked), id="link"),
        pytest.param(packed({**SHEET, "inner.ZIP": packed({})}), id="nested"),
        pytest.param(packed({**SHEET, "a.jpg": bytes(3 * 1024 * 1024)}), id="bomb"),
        pytest.param(packed({"rows.csv": b",\n" * 2_000_000}), id="bomb of a sheet"),
        pytest.param(packed(SHEET)[:-8], id="cut off"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="no directory"),
    ],
)
def test_an_archive_that_is_not_harmless_is_refused(desk: Desk, data: bytes) -> None:
    assert desk.fault(data) == "bad-archive"


def test_a_zip_by_name_only_is_refused(desk: Desk) -> None:
    assert desk.fault(table(GOOD).encode(), "rows.zip") == "bad-archive"


def test_an_archive_with_a_password_is_refused(desk: Desk) -> None:
    data = bytearray(packed(SHEET))
    at = data.index(b"PK\x01\x02") + 8  # APPNOTE 4.3.12: the flags of the central header
    data[at] |= 1

    assert desk.fault(bytes(data)) == "bad-archive"


def test_an_archive_that_lies_about_its_sheet_is_refused(desk: Desk) -> None:
    data = bytearray(packed(SHEET))
    at = data.index(b"PK\x01\x02") + 16  # APPNOTE 4.3.12: CRC-32
    data[at : at + 4] = struct.pack("<I", 1)

    assert desk.fault(bytes(data)) == "bad-archive"


def test_a_file_over_the_limit_is_refused_unread(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "FILE_BYTES_MAX", 10)

    assert desk.fault(table(GOOD).encode()) == "too-large"


def test_a_workbook_within_an_archive_is_a_sheet_and_no_nesting(desk: Desk) -> None:
    (row,) = desk.rows(packed({"sub/rows.xlsx": workbook([list(GOOD), list(GOOD.values())])}))

    assert row.submission is not None


def test_what_operating_systems_leave_in_archives_is_passed_over(desk: Desk) -> None:
    (row,) = desk.rows(packed({**SHEET, "__MACOSX/._rows.csv": b"", ".DS_Store": b"", "~$rows.xlsx": b""}))

    assert row.submission is not None


# --------------------------------------------------------------------------------------------------------------- photos


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("照片/张三.jpg", {"照片文件名": "张三.jpg"}),
        (f"a/b/{NUMBER}.JPG", {}),
        (f"{NUMBER.lower()}.jpeg", {}),
        (f"{NUMBER}.png", {"照片文件名": "not there.jpg"}),
        ("p/WH-7.bmp", {"外部编号": "WH-7"}),
    ],
)
def test_a_photo_is_found_by_name_number_or_reference(desk: Desk, name: str, changes: dict[str, str]) -> None:
    (row,) = desk.rows(packed({"rows.csv": table({**GOOD, **changes}).encode(), name: b"picture"}))

    assert row.submission is not None
    assert row.submission.photo == b"picture"


def test_names_without_the_utf8_flag_are_read_as_gb18030(desk: Desk) -> None:
    name = "照片/张三.jpg".encode("gb18030")
    data = packed({"rows.csv": table({**GOOD, "照片文件名": "张三.jpg"}).encode(), "n" * len(name): b"picture"})
    (row,) = desk.rows(data.replace(b"n" * len(name), name))

    assert row.submission is not None
    assert row.submission.photo == b"picture"


def test_a_missing_photo_is_no_error_and_is_counted(desk: Desk) -> None:
    other17 = "99900119900307003"
    other = {"证件号码": other17 + gb11643_check(other17)}
    plain = GOOD | {"照片文件名": ""}
    entries = {
        "rows.csv": table(plain, plain | other, {**GOOD, "照片文件名": "gone.jpg", "证件号码": CHILD}).encode(),
        f"a/{NUMBER}.jpg": b"one face",
        f"b/{NUMBER}.jpg": b"another face",
        f"{CHILD}.jpg": b"child",
        "nobody.jpg": b"",
    }
    path = desk.file(packed(entries))
    with open_batch(path) as batch:
        notes = batch.notes
        photos = [row.submission.photo for row in batch.read(policies=load_policies(), source="t") if row.submission]

    assert (notes.missing, notes.doubled, notes.unused) == (1, 1, 1)
    assert photos == [b"", b"", b"child"]


def test_the_same_picture_twice_is_one_picture(desk: Desk) -> None:
    (row,) = desk.rows(packed({**SHEET, f"a/{NUMBER}.jpg": b"face", f"b/{NUMBER}.jpg": b"face"}))

    assert row.submission is not None
    assert row.submission.photo == b"face"


def test_a_photo_too_large_is_an_error_of_its_row(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "PHOTO_BYTES_MAX", 3)
    (row,) = desk.rows(packed({**SHEET, f"{NUMBER}.jpg": b"face"}))

    assert [(error.column, error.code) for error in row.errors] == [("照片文件名", "photo.file_too_large")]


# ------------------------------------------------------------------------------------------------------- error workbook


def _cells(path: Path, sheet: str) -> list[list[Any]]:
    return CalamineWorkbook.from_path(str(path)).get_sheet_by_name(sheet).to_python()


def test_the_error_workbook_holds_the_refused_rows_and_can_be_sent_again(desk: Desk, tmp_path: Path) -> None:
    rows = desk.rows(
        table({**GOOD, "手机号码": "+8613800000001", "人员类别": "无"}, {**GOOD, "手机号码": "1"}, GOOD).encode()
    )
    path = tmp_path / "errors.xlsx"
    write_errors(rows, path)
    header, first, second = _cells(path, "错误行")

    assert header == [*GOOD, "错误列", "错误代码", "错误说明", "修改建议", "原行号"]
    assert first[3] == "'+8613800000001"
    assert (first[6], first[7], first[10]) == ("人员类别", "format", "2")
    assert (second[6], second[7], second[10]) == ("手机号码", "phone.invalid", "3")
    assert [line[:2] for line in _cells(path, "汇总")[1:]] == [["format", "1"], ["phone.invalid", "1"]]

    again = desk.rows(path.read_bytes())
    assert [[error.column for error in row.errors] for row in again] == [["人员类别"], ["手机号码"]]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_cell_becomes_a_formula(desk: Desk, tmp_path: Path, start: str) -> None:
    (row,) = desk.rows(table({**GOOD, "人员类别": "无", "备注": start + "1+1"}).encode())
    path = tmp_path / "errors.xlsx"
    write_errors([row], path)

    assert _cells(path, "错误行")[1][len(GOOD)] == f"'{start}1+1"
    assert neutralised("1=1") == "1=1"


def test_masked_the_error_workbook_shows_nobody(desk: Desk, tmp_path: Path) -> None:
    rows = desk.rows(table({**GOOD, "人员类别": "无"}).encode())
    path = tmp_path / "errors.xlsx"
    write_errors(rows, path, masked=True, lang="en")
    text = str(_cells(path, "错误行"))

    assert not any(GOOD[column] in text for column in ("姓名", "证件号码", "手机号码"))
    assert "is not understood" in text


def test_a_workbook_without_errors_has_its_header(tmp_path: Path) -> None:
    write_errors([], tmp_path / "errors.xlsx")

    assert _cells(tmp_path / "errors.xlsx", "错误行") == [["错误列", "错误代码", "错误说明", "修改建议", "原行号"]]


# ------------------------------------------------------------------------------------------------------------ properties


_STARTS = st.sampled_from(
    [b"", b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\xff\xfe", b"\xef\xbb\xbf"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(start=_STARTS, data=st.binary(max_size=600), name=st.sampled_from(["b", "b.zip", "b.xlsx", "b.xls", "b.csv"]))
def test_any_bytes_are_refused_as_a_file_and_raise_nothing_else(
    desk: Desk, start: bytes, data: bytes, name: str
) -> None:
    with pytest.raises(BatchFileError) as caught, open_batch(desk.file(start + data, name)):
        pass

    assert caught.value.zh
    assert caught.value.en


_ZIP = packed({"rows.xlsx": workbook([list(GOOD), list(GOOD.values())]), f"{NUMBER}.jpg": b"face"})
_CSV_ZIP = packed({"rows.csv": table(GOOD, GOOD).encode("gb18030"), f"{NUMBER}.jpg": b"face"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    data=st.sampled_from([_ZIP, _CSV_ZIP, table(GOOD, GOOD).encode(), workbook([list(GOOD), list(GOOD.values())])]),
    at=st.floats(0, 1, exclude_max=True),
    patch=st.binary(min_size=1, max_size=4),
)
def test_a_damaged_good_file_reads_as_rows_or_is_refused(desk: Desk, data: bytes, at: float, patch: bytes) -> None:
    place = int(at * len(data))
    try:
        rows = desk.rows(data[:place] + patch + data[place + len(patch) :])
    except BatchFileError:
        return

    assert all((row.submission is None) == bool(row.errors) for row in rows)


_CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["是", "护照", "武汉市", "20200101", NUMBER, "=1"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from([column.zh for column in batch_file.COLUMNS]), _CELLS))
def test_no_cell_makes_a_row_raise(desk: Desk, changes: dict[str, str]) -> None:
    for row in desk.rows(table({**GOOD, **changes}).encode()):
        assert (row.submission is None) == bool(row.errors)
        assert all(isinstance(error, RowError) and error.zh and error.en for error in row.errors)
