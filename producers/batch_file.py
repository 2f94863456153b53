"""Batch files as regions, employers and schools send them: a ZIP of one sheet and the photos, or a bare sheet (CSV, XLSX, XLS).

A fault of the whole file is a `BatchFileError`; a fault of a row is the row's own and its neighbours live. The sheet is held in
memory, photos are read one by one. Which office, district or category is right is for the validation stage.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Literal, Protocol, Self

import xlsxwriter  # type: ignore[import-untyped, unused-ignore]  # it ships no types
from python_calamine import CalamineSheet, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from config.policies import Policies
from pipeline.application import Submission
from pipeline.errors import NotFound, Refused
from pipeline.outcomes import Reason
from pipeline.person import mask_name, mask_number
from pipeline.photo.findings import as_reason, find
from pipeline.policy import Policy
from pipeline.shape import ID_TYPES, NO_END, normalise_phone, read_submission

MIB = 1024 * 1024
FILE_BYTES_MAX = 2048 * MIB
ROWS_MAX = 100_000
ENTRIES_MAX = 2 * ROWS_MAX + 1_000
UNPACKED_BYTES_MAX = 2 * FILE_BYTES_MAX
RATIO_MAX = 100
"""Unpacked to packed bytes. Entries below `RATIO_FROM_BYTES` cannot do harm and may be plain repetition."""
RATIO_FROM_BYTES = MIB
SHEET_BYTES_MAX = 256 * MIB
PHOTO_BYTES_MAX = 20 * MIB
"""What the photo stage takes at most."""
WORKBOOK_BYTES_MAX = 512 * MIB
LINES_MAX = 20 * ROWS_MAX
RECORD_CHARS_MAX = MIB
COLUMNS_MAX = 256
CELLS_MAX = 20_000_000
"""A workbook's used rectangle is held whole; one cell in the last corner of a sheet would ask for 17 thousand million."""
PRECISE_BELOW = 10**15
"""A cell that is a number keeps 15 digits; what is longer was rewritten by the spreadsheet."""
QUOTED_LINES_MAX = 20
"""A quoted cell may span this many lines; beyond that its quote was never closed, and only its own line is given up."""
SPREADSHEET_EPOCH = date(1899, 12, 30)
LAST_SERIAL = 99_999


class BatchFileError(Refused):
    """The file as a whole cannot be taken: `bad-archive`, `bad-sheet`, `missing-columns`, `too-large`, `too-many-items`."""

    code = "bad-archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowError:
    """One thing wrong with one row: its number in the sheet, the column (中文 header, "" for the row itself), what and how to mend."""

    row: int
    column: str
    code: str
    zh: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One data row. `number` is the one a person sees in the sheet (the header is 1); `cells` the row as it came, by header.

    `submission` is None exactly when there are errors.
    """

    number: int
    external_ref: str
    submission: Submission | None
    errors: tuple[RowError, ...]
    cells: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Photos of the whole file, counted: rows without one, rows with several different ones (none is taken), photos of no row."""

    missing: int
    doubled: int
    unused: int


# ------------------------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class _Column:
    zh: str
    en: str
    pointer: str = ""
    required: bool = False
    aliases: tuple[str, ...] = ()


COLUMNS: tuple[_Column, ...] = (
    _Column("姓名", "name", "#/person/name", required=True),
    _Column("证件类型", "id_type", "#/person/id_type", required=True),
    _Column(
        "证件号码", "id_number", "#/person/id_number", required=True, aliases=("身份证号", "身份证号码", "公民身份号码")
    ),
    _Column("手机号码", "phone", "#/person/phone", required=True, aliases=("联系电话", "手机号")),
    _Column("人员类别", "category", "#/insured/category", required=True, aliases=("险种",)),
    _Column("参保地", "district", "#/insured/district", required=True, aliases=("所属城市",)),
    _Column("户籍地", "hukou"),
    _Column("社会保障号码", "social_security_number", "#/person/social_security_number"),
    _Column("性别", "sex", "#/person/sex"),
    _Column("民族", "ethnic", "#/person/ethnic"),
    _Column("出生日期", "birth_date", "#/person/birth_date"),
    _Column("国籍", "nationality", "#/person/nationality"),
    _Column("证件有效期起", "id_valid_from", "#/person/id_valid_from"),
    _Column("证件有效期止", "id_valid_to", "#/person/id_valid_to"),
    _Column("联系地址", "address", "#/person/address"),
    _Column("职业", "occupation", "#/person/occupation"),
    _Column("单位编号", "unit_code", "#/insured/unit_code"),
    _Column("单位名称", "unit_name"),
    _Column("领卡网点", "outlet", "#/outlet"),
    _Column("服务银行", "bank", "#/bank_code", aliases=("所属银行",)),
    _Column("申领类型", "kind", "#/kind"),
    _Column("加急", "urgent", "#/priority"),
    _Column("监护人姓名", "guardian_name", "#/guardian/name"),
    _Column("监护人证件类型", "guardian_id_type", "#/guardian/id_type"),
    _Column("监护人证件号码", "guardian_id_number", "#/guardian/id_number"),
    _Column("监护人手机号码", "guardian_phone", "#/guardian/phone"),
    _Column("监护关系", "guardian_relation", "#/guardian/relation"),
    _Column("代办人姓名", "proxy_name", "#/proxy/name"),
    _Column("代办人证件类型", "proxy_id_type", "#/proxy/id_type"),
    _Column("代办人证件号码", "proxy_id_number", "#/proxy/id_number"),
    _Column("代办人手机号码", "proxy_phone", "#/proxy/phone"),
    _Column("外部编号", "external_ref", "#/external_ref"),
    _Column("照片文件名", "photo"),
    _Column("受理窗口", "window", "#/window"),
    _Column("受理机构", "agency", "#/agency", aliases=("经办机构",)),
    _Column("本人确认", "confirmed", "#/confirmation"),
    _Column("申请材料", "documents", "#/documents"),
    _Column("领卡方式", "collect_by", "#/collect/by"),
    _Column("备注", "remark"),
)
"""Every column, by 中文 and English header and what else it is called; `pointer` is its field of the JSON body."""

ERROR_COLUMNS = ("错误列", "错误代码", "错误说明", "修改建议", "原行号")
_BY_HEADER: Mapping[str, _Column] = {
    name: column for column in COLUMNS for name in (column.zh, column.en, *column.aliases)
}
_BY_NAME: Mapping[str, _Column] = {column.en: column for column in COLUMNS}
_BY_POINTER: Mapping[str, _Column] = {column.pointer: column for column in COLUMNS if column.pointer}
_ORDER: Mapping[str, int] = {column.zh: at for at, column in enumerate(COLUMNS)}
_UNREAD = frozenset({"unit_name", "remark"})
_PERSONAL: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(("name", "guardian_name", "proxy_name"), mask_name),
    **dict.fromkeys(
        ("id_number", "social_security_number", "phone", "guardian_id_number", "guardian_phone"), mask_number
    ),
    **dict.fromkeys(("proxy_id_number", "proxy_phone", "address", "photo", "external_ref"), mask_number),
    "birth_date": lambda text: "*" * len(text),
}

# --------------------------------------------------------------------------------------------------------- vocabularies

_KIND = {
    "首次申领": "first",
    "首次": "first",
    "新办": "first",
    "补领": "replacement",
    "补办": "replacement",
    "换领": "exchange",
}
_SEX = {"男": "1", "女": "2", "未说明": "9", "M": "1", "F": "2", "男性": "1", "女性": "2"}
_COLLECT = {"本人": "person", "单位": "unit", "代办": "proxy", "代办人": "proxy", "监护人": "guardian"}
_DOCUMENTS = {
    "申请表": "application_form", "申领表": "application_form", "身份证复印件": "identity_copy", "证件复印件": "identity_copy",
    "委托书": "mandate", "授权委托书": "mandate", "户口簿": "household_book", "户口本": "household_book",
    "收费凭证": "fee_receipt", "监护证明": "guardianship", "出生证明": "birth_certificate",
}  # fmt: skip
_HK_OR_MO = "hk_permit|mo_permit"
_ID_TYPE = {
    "居民身份证": "resident_id", "身份证": "resident_id", "二代身份证": "resident_id", "户口簿": "household_book", "户口本": "household_book",
    "军官证": "military_id", "军人证": "military_id", "士兵证": "military_id", "军人身份证件": "military_id", "警官证": "police_id", "警察证": "police_id",
    "港澳居民来往内地通行证": _HK_OR_MO, "港澳通行证": _HK_OR_MO, "回乡证": _HK_OR_MO,
    "香港居民来往内地通行证": "hk_permit", "澳门居民来往内地通行证": "mo_permit",
    "台湾居民来往大陆通行证": "tw_permit", "台胞证": "tw_permit", "港澳台居民居住证": "hmt_residence",
    "外国人永久居留身份证": "foreigner_pr", "外国人永久居留证": "foreigner_pr", "护照": "passport", "外国护照": "passport",
}  # fmt: skip
# ISO 3166 alpha-3; any other country is given by its three letters.
_NATIONALITY = {
    "中国": "CHN", "美国": "USA", "英国": "GBR", "日本": "JPN", "韩国": "KOR", "德国": "DEU", "法国": "FRA", "俄罗斯": "RUS", "加拿大": "CAN",
    "澳大利亚": "AUS", "新加坡": "SGP", "马来西亚": "MYS", "哈萨克斯坦": "KAZ", "吉尔吉斯斯坦": "KGZ", "巴基斯坦": "PAK", "越南": "VNM",
}  # fmt: skip
# GB/T 3304
_ETHNIC_NAMES = (
    "汉 蒙古 回 藏 维吾尔 苗 彝 壮 布依 朝鲜 满 侗 瑶 白 土家 哈尼 哈萨克 傣 黎 傈僳 佤 畲 高山 拉祜 水 东乡 纳西 景颇 柯尔克孜 土 达斡尔 仫佬 羌 "
    "布朗 撒拉 毛南 仡佬 锡伯 阿昌 普米 塔吉克 怒 乌孜别克 俄罗斯 鄂温克 德昂 保安 裕固 京 塔塔尔 独龙 鄂伦春 赫哲 门巴 珞巴 基诺"
)
_ETHNIC = {name: f"{code:02d}" for code, name in enumerate(_ETHNIC_NAMES.split(), 1)} | {
    "其他": "97",
    "外国血统中国籍人士": "98",
}
_YES = frozenset({"是", "有", "Y", "YES", "TRUE", "1", "√", "✓"})
_NO = frozenset({"否", "无", "N", "NO", "FALSE", "0", "×"})
_FOREVER = frozenset({"长期", "永久", "长期有效"})

_ADVICE: Mapping[str, tuple[str, str]] = MappingProxyType({
    "required": ("在该列填写内容", "fill in the column"),
    "unknown_field": ("删除该列", "remove the column"),
    "format": ("按说明的格式填写", "write it in the form described"),
    "length": ("核对长度", "check the length"),
    "id_number.checksum": ("对照证件逐位核对号码", "compare every digit with the document"),
    "id_number.precision_lost": ("将该列设为“文本”格式，再按证件重新填写", "set the column to Text, then write the number again"),
    "social_security_number.format": ("对照证件更正，或留空由系统推算", "correct it, or leave it empty where the document tells it"),
    "date.invalid": ("填写真实日期，如 2015-01-31；证件无期限填“长期”", "write a real date such as 2015-01-31; 长期 for no end"),
    "phone.invalid": ("填写 11 位手机号", "write the 11 digits of a mobile number"),
    "name.characters": ("按证件填写姓名，间隔号用“·”", "spell the name as on the document"),
    "external_ref.personal": ("改用不含证件号、手机号的业务流水号", "use a serial number that holds no personal number"),
    "row.encoding": ("用 UTF-8 编码另存后重新填写本行", "save as UTF-8 and write this row again"),
    "photo.file_too_large": ("压缩照片后重新打包", "make the photo smaller and pack again"),
})  # fmt: skip

Fault = Literal["", "encoding", "quotes", "columns", "merged"]
_FAULTS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "encoding": ("row.encoding", "本行含有无法识别的字节，请用 UTF-8 另存后重新填写本行", "the row holds bytes of no known encoding; save as UTF-8"),
    "quotes": ("format", "本行的双引号没有闭合或单元格过长，请更正", "a double quote is never closed, or a cell is too long; mend the row"),
    "columns": ("format", "本行的列数多于表头，请检查多余的分隔符", "the row has more cells than the header; look for a stray delimiter"),
    "merged": ("format", "本行有合并单元格，请取消合并并逐格填写", "the row has merged cells; unmerge and fill in each"),
})  # fmt: skip
_PRECISION_LOST = (
    "id_number.precision_lost",
    "超过 15 位的数字已被表格软件改写，请将该列设为“文本”格式后重新填写",
    "a number over 15 digits was rewritten by the spreadsheet; set the column to Text and write it again",
)
_SCIENTIFIC = re.compile(r"[0-9](\.[0-9]+)?[Ee]\+?[0-9]{2}")
_NUMBER_COLUMNS = frozenset({"id_number", "social_security_number", "guardian_id_number", "proxy_id_number"})
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


# ------------------------------------------------------------------------------------------------------------- the file


def open_batch(path: Path) -> BatchFile:
    """Open a batch file and check all that concerns it as a whole. Use as a context manager.

    Raises:
        BatchFileError: the file cannot be taken.
        OSError: it cannot be read.
    """
    if path.stat().st_size > FILE_BYTES_MAX:
        raise _too_large("文件", "the file", FILE_BYTES_MAX)
    stream = path.open("rb")
    try:
        return _opened(stream, suffix=path.suffix.lower())
    except BaseException:
        stream.close()
        raise


def _opened(stream: io.BufferedReader, *, suffix: str) -> BatchFile:
    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    magic = stream.read(8)
    if not magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if suffix == ".zip":
            raise _bad_archive("不是 ZIP 文件", "not a ZIP file")
        if not magic.startswith(_OLE) and suffix in (".xlsx", ".xls"):
            raise _bad_sheet("不是 Excel 工作簿", "not an Excel workbook")
        return BatchFile(stream, sha256=sha256, sheet=_sheet(_bounded(stream)), photos={}, archive=None)
    archive = _archive(stream)
    if _WORKBOOK_PART in archive.namelist():
        return BatchFile(stream, sha256=sha256, sheet=_sheet(_bounded(stream)), photos={}, archive=None)
    entries = _inspected(archive, file_bytes=stream.seek(0, io.SEEK_END))
    sheet = entries.pop(_only_sheet(entries))
    return BatchFile(stream, sha256=sha256, sheet=_sheet(_unpacked(archive, sheet)), photos=entries, archive=archive)


class BatchFile:
    """An open batch file: `sha256` of its bytes, `rows` of data in it, `columns` as the sheet spells them."""

    def __init__(
        self,
        stream: BinaryIO,
        *,
        sha256: str,
        sheet: _Sheet,
        photos: Mapping[str, zipfile.ZipInfo],
        archive: zipfile.ZipFile | None,
    ) -> None:
        self.sha256 = sha256
        self._stream = stream
        self._sheet = sheet
        self._archive = archive
        self._photos = _Photos(photos)
        header = next((record for record in sheet.records() if not record.blank), None)
        if header is None:
            raise _bad_sheet("表中没有内容", "the sheet is empty")
        self._header_number = header.number
        self.columns = _distinct(header.cells)
        self._known = _recognised(header.cells)
        self.rows = self._counted()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._archive is not None:
            self._archive.close()
        self._stream.close()

    def read(self, *, policies: Policies, source: str, start: int = 0) -> Iterator[Row]:
        """The data rows in order, from the `start`-th on (0 is the first; a blank row is none).

        A missing photo is no error: the submission carries b"" and the photo stage asks for one.
        """
        places = _places(policies)
        for at, record in enumerate(self._data()):
            if at >= start:
                yield self._row(record, policies=policies, places=places, source=source)

    @cached_property
    def notes(self) -> Notes:
        """What there is to say about the photos of the whole file; passes over the sheet once."""
        found: Counter[str] = Counter()
        used: set[str] = set()
        for record in self._data():
            names = self._photos.wanted(self._values(record))
            found["missing"] += not names
            found["doubled"] += self._photos.differ(names)
            used.update(names)
        return Notes(missing=found["missing"], doubled=found["doubled"], unused=self._photos.count - len(used))

    def _counted(self) -> int:
        rows = 0
        for _ in self._data():
            rows += 1
            if rows > ROWS_MAX:
                raise BatchFileError(
                    f"超过 {ROWS_MAX} 行，请拆分", f"more than {ROWS_MAX} rows; split the file", code="too-many-items"
                )
        return rows

    def _data(self) -> Iterator[_Record]:
        for record in self._sheet.records():
            if record.number > self._header_number and not record.blank:
                yield self._judged(record)

    def _judged(self, record: _Record) -> _Record:
        stray = any(text.strip() for text in record.cells[len(self._known) :])
        return replace(record, fault="columns") if stray and not record.fault else record

    def _values(self, record: _Record) -> Mapping[str, str]:
        return {
            column.en: _clean(text)
            for column, text in zip(self._known, record.cells, strict=False)
            if column is not None
        }

    def _row(self, record: _Record, *, policies: Policies, places: Mapping[str, str], source: str) -> Row:
        made_ref = f"{self.sha256[:12]}-{record.number}"
        cells = dict(zip(self.columns, record.cells, strict=False))
        if record.fault:
            code, zh, en = _FAULTS[record.fault]
            error = RowError(row=record.number, column="", code=code, zh=zh, en=en)
            return Row(number=record.number, external_ref=made_ref, submission=None, errors=(error,), cells=cells)
        values = self._values(record)
        reading = _Reading(values, policies=policies, places=places, made_ref=made_ref)
        reading.note_precision(self._at(record.imprecise))
        body = reading.body(serial=self._at(record.numeric))
        photo = self._photo(values, reading)
        result = read_submission(body, source=source, photo=photo)
        submission = None if isinstance(result, tuple) else result
        errors = reading.errors(record.number, () if isinstance(result, Submission) else result)
        ref = made_ref if any(error.column == "外部编号" for error in errors) else str(body["external_ref"])
        if errors or submission is None:
            return Row(number=record.number, external_ref=ref, submission=None, errors=errors, cells=cells)
        bulk = submission if submission.lane == "urgent" else replace(submission, lane="bulk")
        return Row(number=record.number, external_ref=ref, submission=bulk, errors=(), cells=cells)

    def _at(self, columns: Iterable[int]) -> frozenset[str]:
        return frozenset(known.en for at in columns if at < len(self._known) and (known := self._known[at]) is not None)

    def _photo(self, values: Mapping[str, str], reading: _Reading) -> bytes:
        names = self._photos.wanted(values)
        if self._archive is None or not names or self._photos.differ(names):
            return b""
        info = self._photos.info(names[0])
        if info.file_size > PHOTO_BYTES_MAX:
            found = as_reason(find("FILE_TOO_LARGE", limit=f"{PHOTO_BYTES_MAX // MIB}"))
            reading.note("photo", found.code, found.zh, found.en)
            return b""
        try:
            return self._archive.read(info)
        except _UNPACKING:
            return b""


def _clean(text: str) -> str:
    """A cell without what surrounds it, and without the apostrophe that keeps it from being a formula."""
    inner = text.strip()
    return inner[1:] if inner.startswith("'") and inner[1:].startswith(_FORMULA_STARTS) else inner


# ------------------------------------------------------------------------------------------------------------- archives

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_WORKBOOK_PART = "xl/workbook.xml"
_SHEETS = (".csv", ".xlsx", ".xls")
_ARCHIVES = (".zip", ".rar", ".7z", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".jar", ".iso", ".cab", ".lzh", ".arj")  # fmt: skip
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED, _UTF8 = 0x1, 0x800  # APPNOTE 4.4.4: bits 0 and 11
# What `zipfile` and zlib raise on broken or lying archives; RuntimeError covers a method or a version it cannot unpack.
_UNPACKING = (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error)


def _archive(stream: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except Exception as problem:  # the directory of a hostile file makes struct, codecs and others raise
        raise _bad_archive("ZIP 文件已损坏", "the ZIP file is damaged") from problem


def _inspected(archive: zipfile.ZipFile, *, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The files of a harmless archive, by path.

    Raises:
        BatchFileError: too many or too large entries, or one with a path, kind or packing that is not taken.
    """
    infos = archive.infolist()
    if len(infos) > ENTRIES_MAX:
        raise BatchFileError(
            f"压缩包内文件超过 {ENTRIES_MAX} 个", f"more than {ENTRIES_MAX} files", code="too-many-items"
        )
    _check_size(infos, file_bytes=file_bytes)
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = _entry_name(info)
        _check_entry(info, name)
        if info.is_dir() or name.endswith("/") or _is_clutter(name):
            continue
        if name in entries:
            raise _bad_archive("压缩包内有同名文件", "two entries have one path")
        entries[name] = info
    return entries


def _check_size(infos: Sequence[zipfile.ZipInfo], *, file_bytes: int) -> None:
    unpacked, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if unpacked > UNPACKED_BYTES_MAX:
        raise _too_large("解压后的总大小", "the unpacked size", UNPACKED_BYTES_MAX)
    if packed > file_bytes:
        raise _bad_archive("压缩包内的文件相互重叠", "entries of the archive overlap")
    if _is_bomb(unpacked, packed) or any(_is_bomb(info.file_size, info.compress_size) for info in infos):
        raise _bad_archive(f"压缩比超过 {RATIO_MAX}:1", f"packed more than {RATIO_MAX}:1")


def _is_bomb(unpacked: int, packed: int) -> bool:
    return unpacked > RATIO_FROM_BYTES and unpacked > RATIO_MAX * packed


def _check_entry(info: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if "\0" in info.orig_filename or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise _bad_archive("压缩包内有绝对路径或 .. 路径", "an entry has an absolute path or one with ..")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad_archive("压缩包内有链接或特殊文件", "an entry is a link or a special file")
    if info.flag_bits & _ENCRYPTED:
        raise _bad_archive("压缩包有密码，请去除密码", "the archive has a password; remove it")
    if info.compress_type not in _METHODS:
        raise _bad_archive("压缩方法不支持，请用普通 ZIP", "an unusual packing method; use plain ZIP")
    if path.suffix.lower() in _ARCHIVES:
        raise _bad_archive("压缩包内还有压缩包", "the archive holds another archive")


def _entry_name(info: zipfile.ZipInfo) -> str:
    """The path as its maker wrote it: UTF-8 by flag, else the bytes are GB 18030."""
    name = info.orig_filename
    if not info.flag_bits & _UTF8:
        try:
            name = name.encode("cp437").decode("gb18030")
        except UnicodeError:
            name = info.orig_filename
    return name.replace("\\", "/")


def _is_clutter(name: str) -> bool:
    """What operating systems leave in archives."""
    parts = PurePosixPath(name).parts
    return (
        not parts
        or parts[0] == "__MACOSX"
        or parts[-1].startswith(("._", ".DS_Store", "~$"))
        or parts[-1].lower() == "thumbs.db"
    )


def _only_sheet(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    sheets = [name for name in entries if name.lower().endswith(_SHEETS)]
    if not sheets:
        raise _bad_archive("压缩包内没有表格 (CSV, XLSX, XLS)", "the archive holds no sheet (CSV, XLSX, XLS)")
    if len(sheets) > 1:
        raise _bad_archive("压缩包内有多个表格，只能有一个", "the archive holds several sheets; one is allowed")
    return sheets[0]


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > SHEET_BYTES_MAX:
        raise _too_large("表格", "the sheet", SHEET_BYTES_MAX)
    try:
        return archive.read(info)
    except _UNPACKING as problem:
        raise _bad_archive("压缩包内的表格已损坏", "the sheet within the archive is damaged") from problem


def _bounded(stream: BinaryIO) -> bytes:
    stream.seek(0)
    data = stream.read(SHEET_BYTES_MAX + 1)
    if len(data) > SHEET_BYTES_MAX:
        raise _too_large("表格", "the sheet", SHEET_BYTES_MAX)
    return data


class _Photos:
    """The photos of an archive by file name, in whatever folder; names are compared without case."""

    def __init__(self, entries: Mapping[str, zipfile.ZipInfo]) -> None:
        self._entries = entries
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in entries:
            path = PurePosixPath(name.casefold())
            self._by_name[path.name].append(name)
            self._by_stem[path.stem].append(name)

    @property
    def count(self) -> int:
        return len(self._entries)

    def info(self, name: str) -> zipfile.ZipInfo:
        return self._entries[name]

    def wanted(self, values: Mapping[str, str]) -> list[str]:
        """The photos of a row: by its file name, else by its number, else by its reference."""
        named = re.split(r"[\\/]", values.get("photo", ""))[-1].casefold()
        number = values.get("id_number", "").casefold()
        by_number = [f"{number}{suffix}" for suffix in (".jpg", ".jpeg", ".png")] if number else []
        found = self._by_name.get(named, []) if named else []
        found = found or [name for key in by_number for name in self._by_name.get(key, [])]
        return found or self._by_stem.get(values.get("external_ref", "").casefold() or "\0", [])

    def differ(self, names: Sequence[str]) -> bool:
        """Whether they are several pictures: whose face it is must not be guessed."""
        return len({(self._entries[name].CRC, self._entries[name].file_size) for name in names}) > 1


# --------------------------------------------------------------------------------------------------------------- sheets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """One row of a sheet as text. `numeric` and `imprecise` are columns whose cell is a number, and one with too many digits."""

    number: int
    cells: tuple[str, ...] = field(repr=False)
    numeric: frozenset[int] = frozenset()
    imprecise: frozenset[int] = frozenset()
    fault: Fault = ""

    @property
    def blank(self) -> bool:
        return not any(cell.strip() for cell in self.cells)


class _Sheet(Protocol):
    def records(self) -> Iterator[_Record]: ...


def _sheet(data: bytes) -> _Sheet:
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _check_workbook(data)
        return _Workbook(data)
    return _Workbook(data) if data.startswith(_OLE) else _Csv(data)


class _Csv:
    """A sheet as text. Quoted cells may hold line ends; a quote that is never closed costs its own line only."""

    def __init__(self, data: bytes) -> None:
        if data.count(b"\n") + data.count(b"\r") > LINES_MAX:
            raise BatchFileError(
                f"超过 {LINES_MAX} 行文本，请拆分", f"more than {LINES_MAX} lines; split it", code="too-many-items"
            )
        self._lines, self._broken = _decoded(data)
        first = next((line for line in self._lines if line.strip()), "")
        self._delimiter = max(
            ",;\t", key=lambda sign: sum(_heading(cell) in _BY_HEADER for cell in first[:RECORD_CHARS_MAX].split(sign))
        )

    def records(self) -> Iterator[_Record]:
        number = at = 0
        while at < len(self._lines):
            span, closed = self._span(at)
            undecodable = not self._broken.isdisjoint(range(at, at + span))
            fault: Fault = "encoding" if undecodable else "" if closed else "quotes"
            for cells in self._cells(at, span):
                number += 1
                yield _Record(
                    number=number,
                    cells=("?",) if cells is None else cells,
                    fault=fault if cells is not None else "quotes",
                )
            at += span

    def _span(self, at: int) -> tuple[int, bool]:
        """How many lines the record that starts here has, and whether its quotes are closed."""
        quotes = 0
        for span, line in enumerate(self._lines[at : at + QUOTED_LINES_MAX], 1):
            quotes += line.count('"')
            if quotes % 2 == 0:
                return span, True
        return 1, False

    def _cells(self, at: int, span: int) -> Iterator[tuple[str, ...] | None]:
        lines = self._lines[at : at + span]
        if sum(map(len, lines)) > RECORD_CHARS_MAX:
            yield None
            return
        try:
            yield from (tuple(cells) for cells in csv.reader(lines, delimiter=self._delimiter))
        except csv.Error:  # a cell of more than 128 KiB
            yield None


def _decoded(data: bytes) -> tuple[list[str], frozenset[int]]:
    """Lines with their ends, and which of them could not be decoded."""
    for mark, codec in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\x84\x31\x95\x33", "gb18030"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if data.startswith(mark):
            return _decoded_as(data.removeprefix(mark), (codec,))
    return _decoded_as(data, ("utf-8", "gb18030"))


def _decoded_as(data: bytes, codecs: tuple[str, ...]) -> tuple[list[str], frozenset[int]]:
    for codec in codecs:
        try:
            return list(io.StringIO(data.decode(codec), newline="")), frozenset()
        except UnicodeDecodeError:
            continue
    codec = codecs[-1]
    if codec.startswith("utf-16"):  # a byte of a line end may be half a character: lines are cut after decoding
        lines = list(io.StringIO(data.decode(codec, errors="replace"), newline=""))
        return lines, frozenset(at for at, line in enumerate(lines) if "\ufffd" in line)
    return _decoded_by_line(data, codec)


def _decoded_by_line(data: bytes, codec: str) -> tuple[list[str], frozenset[int]]:
    lines, broken = [], set()
    for at, raw in enumerate(io.BytesIO(data)):
        try:
            lines.append(raw.decode(codec))
        except UnicodeDecodeError:
            lines.append(raw.decode(codec, errors="replace"))
            broken.add(at)
    return lines, frozenset(broken)


class _Workbook:
    """The first visible sheet of an XLSX or XLS. Formulas are not evaluated: their stored value counts."""

    def __init__(self, data: bytes) -> None:
        with _calamine_faults():
            self._sheet = _first_visible(CalamineWorkbook.from_filelike(io.BytesIO(data)))
            ranges = self._sheet.merged_cell_ranges or []
        self._merged = frozenset(
            row for (top, _), (bottom, _) in ranges for row in range(top, min(bottom, top + ROWS_MAX) + 1)
        )

    def records(self) -> Iterator[_Record]:
        with _calamine_faults():
            for at, row in enumerate(self._sheet.iter_rows()):
                yield _typed(row, number=at + 1, merged=at in self._merged)


def _first_visible(book: CalamineWorkbook) -> CalamineSheet:
    for sheet in book.sheets_metadata:
        if sheet.visible == SheetVisibleEnum.Visible and sheet.typ == SheetTypeEnum.WorkSheet:
            return book.get_sheet_by_name(sheet.name)
    raise _bad_sheet("工作簿没有可见的工作表", "the workbook has no visible sheet")


@contextmanager
def _calamine_faults() -> Iterator[None]:
    """Whatever the reader raises means the workbook cannot be read; a panic of its own derives from BaseException."""
    try:
        yield
    except BatchFileError:
        raise
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise _bad_sheet("工作簿已损坏或有密码", "the workbook is damaged or has a password") from problem


def _typed(row: Sequence[object], *, number: int, merged: bool) -> _Record:
    numbers = {
        at: float(value)
        for at, value in enumerate(row)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return _Record(
        number=number,
        cells=tuple(_text(value) for value in row),
        numeric=frozenset(numbers),
        imprecise=frozenset(at for at, value in numbers.items() if abs(value) >= PRECISE_BELOW),
        fault="merged" if merged else "",
    )


def _text(value: object) -> str:
    match value:
        case bool():
            return "是" if value else "否"
        case float() if value.is_integer() and abs(value) < PRECISE_BELOW:
            return str(int(value))
        case datetime():
            return value.date().isoformat()
        case date():
            return value.isoformat()
    return str(value)


_CELL_PLACE = re.compile(rb"""\br\s*=\s*["']([A-Za-z]{0,3})([0-9]{1,7})["']""")


def _check_workbook(data: bytes) -> None:
    """Refuse a workbook that would unpack to too much or whose used rectangle is too large, before it is loaded."""
    archive = _archive(io.BytesIO(data))
    names = set(archive.namelist())
    if _WORKBOOK_PART not in names or names & {"content.xml", "xl/workbook.bin"}:
        raise _bad_sheet("不是 XLSX 工作簿", "not an XLSX workbook")
    _check_size(archive.infolist(), file_bytes=len(data))
    if sum(info.file_size for info in archive.infolist()) > WORKBOOK_BYTES_MAX:
        raise _too_large("解压后的工作簿", "the unpacked workbook", WORKBOOK_BYTES_MAX)
    rows = columns = 0
    for info in archive.infolist():
        if info.filename.lower().endswith(".xml"):
            last_row, last_column = _last_cell(archive, info)
            rows, columns = max(rows, last_row), max(columns, last_column)
    if columns > COLUMNS_MAX or rows * columns > CELLS_MAX:
        raise _bad_sheet(
            f"工作表范围过大 ({rows} 行 × {columns} 列)，请删除数据区以外的单元格",
            f"the sheet spans {rows} rows by {columns} columns; delete the cells beyond the data",
        )


def _last_cell(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, int]:
    rows = columns = 0
    tail = b""
    try:
        with archive.open(info) as part:
            while chunk := part.read(MIB):
                for letters, digits in set(_CELL_PLACE.findall(tail + chunk)):
                    rows, columns = max(rows, int(digits)), max(columns, _column_number(letters))
                tail = chunk[-64:]
    except _UNPACKING as problem:
        raise _bad_sheet("工作簿已损坏或有密码", "the workbook is damaged or has a password") from problem
    return rows, columns


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


# --------------------------------------------------------------------------------------------------------------- header


def _heading(cell: str) -> str:
    return re.sub(r"[\s*＊\ufeff]", "", unicodedata.normalize("NFKC", cell)).casefold()


def _recognised(header: Sequence[str]) -> tuple[_Column | None, ...]:
    columns = tuple(_BY_HEADER.get(_heading(cell)) for cell in header)
    counts = Counter(column.zh for column in columns if column is not None)
    if doubled := [zh for zh, count in counts.items() if count > 1]:
        told = "、".join(doubled)
        raise _bad_sheet(f"多列表头含义相同: {told}，请只留一列", f"several columns mean the same ({told}); keep one")
    if missing := [column for column in COLUMNS if column.required and column.zh not in counts]:
        zh, en = "、".join(column.zh for column in missing), ", ".join(column.en for column in missing)
        raise BatchFileError(f"表头缺少必需的列: {zh}", f"required columns are missing: {en}", code="missing-columns")
    return columns


def _distinct(header: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for at, cell in enumerate(header, 1):
        name = cell.strip() or f"第{at}列"
        names.append(name if name not in names else f"{name} ({at})")
    return tuple(names)


# ------------------------------------------------------------------------------------------------------------- one row


def _places(policies: Policies) -> Mapping[str, str]:
    """中文 names of cities and districts to codes; a district's bare name only where no other city has one of that name."""
    found: dict[str, set[str]] = defaultdict(set)
    for city in policies.cities():
        short = city.zh.removesuffix("市")
        for name in (city.zh, short):
            found[_place_name(name)].add(city.code)
        for code, district in city.districts.items():
            for name in (district.zh, city.zh + district.zh, short + district.zh):
                found[_place_name(name)].add(code)
    return {name: codes.pop() for name, codes in found.items() if len(codes) == 1}


def _place_name(text: str) -> str:
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


class _Reading:
    """One row on its way to the JSON body. Notes what a column holds that has no meaning there, and puts in its place something
    harmless, so that the shape says nothing more about it."""

    def __init__(
        self, values: Mapping[str, str], *, policies: Policies, places: Mapping[str, str], made_ref: str
    ) -> None:
        self._values = values
        self._policies = policies
        self._places = places
        self._made_ref = made_ref
        self._noted: dict[str, tuple[str, str, str]] = {}
        self._serial: frozenset[str] = frozenset()

    def note(self, column: str, code: str, zh: str, en: str) -> None:
        self._noted.setdefault(column, (code, zh, en))

    def note_precision(self, imprecise: Iterable[str]) -> None:
        scientific = (name for name in _NUMBER_COLUMNS if _SCIENTIFIC.fullmatch(self._values.get(name, "")))
        for column in {*imprecise, *scientific} - _UNREAD:
            self.note(column, *_PRECISION_LOST)

    def errors(self, number: int, shape: Sequence[Reason]) -> tuple[RowError, ...]:
        """Everything wrong with the row, in the order of `COLUMNS`; what was noted of a column goes before its shape."""
        found = [
            RowError(row=number, column=_BY_NAME[column].zh, code=code, zh=zh, en=en)
            for column, (code, zh, en) in self._noted.items()
        ]
        for reason in shape:
            column = _column_of(reason.pointer or "")
            if column is None or column.en not in self._noted:
                header = "" if column is None else column.zh
                found.append(RowError(row=number, column=header, code=reason.code, zh=reason.zh, en=reason.en))
        return tuple(sorted(found, key=lambda error: _ORDER.get(error.column, -1)))

    def body(self, *, serial: frozenset[str]) -> dict[str, Any]:
        """The JSON body of the row. `serial` are the columns whose cell is a number: in a date column, a serial date."""
        self._serial = serial
        policy, district = self._where()
        category = self._category(policy)
        if policy is not None and category in policy.categories and policy.categories[category].local_hukou:
            district = self._hukou(district)
        proxy = self._agent("proxy")
        return {
            "external_ref": self._get("external_ref") or self._made_ref,
            "kind": self._word("kind", _KIND, ("first", "replacement", "exchange")) or "first",
            "priority": "urgent" if self._flag("urgent", default=False) else "normal",
            "region": "000000" if policy is None else policy.code,
            "agency": self._coded("agency", "ag_", district),
            "outlet": self._coded("outlet", "out_", district),
            "window": self._window(policy),
            "bank_code": self._bank(policy),
            "insured": {"category": category, "district": district, "unit_code": self._get("unit_code")},
            "person": self._person(),
            "guardian": self._agent("guardian"),
            "proxy": proxy,
            "documents": [{"type": word} for word in self._documents(proxy=proxy is not None)],
            "confirmation": {"method": "declared"} if self._flag("confirmed", default=True) else None,
            "collect": {"by": self._word("collect_by", _COLLECT, ("person", "unit", "proxy", "guardian")) or "person"},
        }

    def _get(self, column: str) -> str:
        return "" if column in self._noted else self._values.get(column, "")

    def _compact(self, column: str) -> str:
        return _place_name(self._get(column))

    def _wrong(self, column: str, zh: str, en: str) -> None:
        self.note(column, "format", f"无法识别，应为{zh}", f"is not understood; {en} is needed")

    def _required(self, column: str) -> None:
        self.note(column, "required", "缺少必填项，请填写", "is required; fill it in")

    def _word(self, column: str, names: Mapping[str, str], words: Sequence[str]) -> str:
        text = self._compact(column)
        word = names.get(text) or names.get(text.upper()) or (text.lower() if text.lower() in words else "")
        if text and not word:
            self._wrong(column, "以下之一: " + "、".join(names), "one of " + ", ".join(words))
        return word

    def _flag(self, column: str, *, default: bool) -> bool:
        text = self._compact(column).upper()
        if text and text not in _YES | _NO:
            self._wrong(column, "“是”或“否”", "是 or 否 (yes or no)")
        return text in _YES if text else default

    def _where(self) -> tuple[Policy | None, str]:
        if not self._get("district"):
            if "district" not in self._noted:
                self._required("district")
            return None, "000000"
        code = self._place("district")
        try:
            return self._policies.of(code), code
        except NotFound:
            self._wrong("district", "已开通地区的 6 位代码或名称", "the code or name of a region that is served")
            return None, "000000"

    def _hukou(self, district: str) -> str:
        if not self._get("hukou"):
            return district
        code = self._place("hukou")
        if not re.fullmatch(r"[0-9]{6}", code):
            self._wrong("hukou", "6 位行政区划代码或名称", "a code of six digits or a name")
            return district
        return code

    def _place(self, column: str) -> str:
        text = self._compact(column)
        return self._places.get(text, text)

    def _category(self, policy: Policy | None) -> str:
        text = self._compact("category")
        if not text and "category" not in self._noted:
            self._required("category")
        if policy is None or not text:
            return "unknown"
        found = _named(text, {word: category.zh for word, category in policy.categories.items()})
        if found is None:
            known = policy.categories
            self._wrong(
                "category",
                f"{policy.zh}的人员类别: " + "、".join(c.zh for c in known.values()),
                "one of " + ", ".join(known),
            )
        return found or "unknown"

    def _window(self, policy: Policy | None) -> str:
        text = self._compact("window")
        if policy is None or not text:
            return ""
        found = _named(text, {word: window.zh for word, window in policy.windows.items()})
        if found is None:
            known = policy.windows
            self._wrong("window", "以下之一: " + "、".join(w.zh for w in known.values()), "one of " + ", ".join(known))
        return found or ""

    def _bank(self, policy: Policy | None) -> str:
        text = self._compact("bank")
        if policy is None:
            return "000"
        found = (
            _named(text, {code: bank.zh for code, bank in policy.banks.items()})
            if text
            else next(iter(policy.banks), "000")
        )
        if found is None:
            known = policy.banks
            self._wrong(
                "bank", "合作银行: " + "、".join(bank.zh for bank in known.values()), "one of " + ", ".join(known)
            )
        return found or "000"

    def _coded(self, column: str, prefix: str, district: str) -> str:
        text = self._compact(column)
        if not text:
            return f"{prefix}{district}01"
        return text if text.startswith(prefix) else prefix + text

    def _documents(self, *, proxy: bool) -> list[str]:
        text = self._compact("documents")
        if not text:
            return ["application_form", "mandate"] if proxy else ["application_form"]
        words = [_DOCUMENTS.get(part, part) for part in re.split(r"[、,;/]", text) if part]
        if any(not re.fullmatch(r"[a-z][a-z0-9_]*", word) for word in words):
            self._wrong(
                "documents", "材料名称，用“、”分隔: " + "、".join(_DOCUMENTS), "document types, with , between them"
            )
            return []
        return list(dict.fromkeys(words))

    def _day(self, column: str) -> str | None:
        text = self._compact(column)
        if not text:
            return None
        if column == "id_valid_to" and text in _FOREVER:
            return NO_END.isoformat()
        day = _parsed_day(text, serial=column in self._serial)
        if day is None:
            self.note(
                column,
                "date.invalid",
                "日期不正确，应为 YYYY-MM-DD 等形式的真实日期",
                "is not a real date such as 2015-01-31",
            )
        return None if day is None else day.isoformat()

    def _id_type(self, column: str, number: str) -> str:
        text = self._word(column, _ID_TYPE, ID_TYPES)
        if text == _HK_OR_MO:
            return "mo_permit" if number.upper().startswith(("M", "Ｍ")) else "hk_permit"
        return text

    def _person(self) -> dict[str, Any]:
        number = self._get("id_number")
        ethnic = self._compact("ethnic")
        if not self._get("phone") and "phone" not in self._noted:
            self._required("phone")
        told = {
            "name": self._get("name"),
            "id_type": self._id_type("id_type", number),
            "id_number": number,
            "social_security_number": self._get("social_security_number"),
            "sex": self._word("sex", _SEX, ("1", "2", "9")),
            "ethnic": _ETHNIC.get(ethnic.removesuffix("族"), ethnic.zfill(2) if ethnic.isdecimal() else ethnic),
            "birth_date": self._day("birth_date"),
            "nationality": _NATIONALITY.get(self._compact("nationality"), self._compact("nationality").upper()),
            "id_valid_from": self._day("id_valid_from"),
            "id_valid_to": self._day("id_valid_to"),
            "phone": normalise_phone(self._get("phone")),
            "address": self._get("address"),
            "occupation": self._get("occupation"),
        }
        return {key: value for key, value in told.items() if value}

    def _agent(self, role: str) -> dict[str, str] | None:
        columns = [name for name in _BY_NAME if name.startswith(f"{role}_")]
        if not any(self._values.get(name) for name in columns):
            return None
        number = self._get(f"{role}_id_number")
        told = {
            "name": self._get(f"{role}_name"),
            "id_type": self._id_type(f"{role}_id_type", number),
            "id_number": number,
            "relation": self._get(f"{role}_relation"),
            "phone": normalise_phone(self._get(f"{role}_phone")),
        }
        return {key: value for key, value in told.items() if value}


def _named(text: str, zh: Mapping[str, str]) -> str | None:
    """The word that was written as itself or by its 中文 name."""
    if text in zh or text.lower() in zh:
        return text if text in zh else text.lower()
    return next((word for word, name in zh.items() if _place_name(name) == text), None)


def _column_of(pointer: str) -> _Column | None:
    while pointer not in _BY_POINTER and "/" in pointer:
        pointer = pointer.rpartition("/")[0]
    return _BY_POINTER.get(pointer)


def _parsed_day(text: str, *, serial: bool) -> date | None:
    if serial and text.isdecimal() and 0 < int(text) <= LAST_SERIAL:
        return SPREADSHEET_EPOCH + timedelta(days=int(text))
    parts = re.fullmatch(r"([0-9]{4})(?:([0-9]{2})([0-9]{2})|[-/.年]([0-9]{1,2})[-/.月]([0-9]{1,2})日?)", text)
    if parts is None:
        return None
    try:
        return date(int(parts[1]), int(parts[2] or parts[4]), int(parts[3] or parts[5]))
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------------- error workbook


def write_errors(rows: Iterable[Row], path: Path, *, lang: Literal["zh", "en"] = "zh", masked: bool = False) -> None:
    """The error workbook: the refused rows as they came with what is wrong, counts by code, and how to go on.

    It can be mended in place and sent again: the added columns are ignored. `masked` hides the person's data, for those who may
    not see it. No cell can become a formula.
    """
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    codes: Counter[str] = Counter()
    with xlsxwriter.Workbook(str(path), options) as book:
        sheet = book.add_worksheet("错误行")
        at = 0
        for row in rows:
            if not row.errors:
                continue
            if at == 0:
                _write(sheet, 0, (*row.cells, *ERROR_COLUMNS))
            at += 1
            codes.update(error.code for error in row.errors)
            _write(sheet, at, (*_shown(row.cells, masked=masked), *_explained(row, lang)))
        if at == 0:
            _write(sheet, 0, ERROR_COLUMNS)
        summary = book.add_worksheet("汇总")
        _write(summary, 0, ("错误代码", "错误数", "修改建议"))
        for line, (code, count) in enumerate(sorted(codes.items()), 1):
            _write(summary, line, (code, str(count), _advice(code, lang)))
        notes = book.add_worksheet("说明")
        for line, text in enumerate(_HOW_TO_GO_ON[lang]):
            _write(notes, line, (text,))


_HOW_TO_GO_ON: Mapping[str, tuple[str, ...]] = {
    "zh": (
        "请在“错误行”表中直接更正，保存后与照片一起重新上传；最后五列 (错误列至原行号) 会被忽略，不必删除。",
        "证件号码等列须为“文本”格式。以 = + - @ 开头的内容前加了单引号，以免被当作公式。",
        "未列出的行已受理，请勿重复上传。",
    ),
    "en": (
        "Mend the rows on sheet 错误行 in place and send the file again with the photos; the last five columns are ignored.",
        "Columns of numbers must have the format Text. What starts with = + - @ has an apostrophe before it, so that it is no formula.",
        "Rows that are not listed were taken; do not send them again.",
    ),
}


def _explained(row: Row, lang: str) -> tuple[str, ...]:
    errors = row.errors
    told = [error.zh if lang == "zh" else error.en for error in errors]
    columns = [error.column or ("整行" if lang == "zh" else "row") for error in errors]
    advice = dict.fromkeys(_advice(error.code, lang) for error in errors)
    return (
        "\n".join(columns),
        "\n".join(error.code for error in errors),
        "\n".join(told),
        "\n".join(advice),
        str(row.number),
    )


def _advice(code: str, lang: str) -> str:
    zh, en = _ADVICE.get(code, ("按错误说明更正", "mend as described"))
    return zh if lang == "zh" else en


def _shown(cells: Mapping[str, str], *, masked: bool) -> Iterator[str]:
    for header, text in cells.items():
        column = _BY_HEADER.get(_heading(header))
        hide = _PERSONAL.get(column.en) if column is not None and masked else None
        yield hide(text) if hide is not None and text else text


def _write(sheet: xlsxwriter.worksheet.Worksheet, row: int, texts: Iterable[str]) -> None:
    for column, text in enumerate(texts):
        sheet.write_string(row, column, neutralised(text)[:32767])


def neutralised(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


# --------------------------------------------------------------------------------------------------------------- faults


def _bad_archive(zh: str, en: str) -> BatchFileError:
    return BatchFileError(zh, en, code="bad-archive")


def _bad_sheet(zh: str, en: str) -> BatchFileError:
    return BatchFileError(zh, en, code="bad-sheet")


def _too_large(zh: str, en: str, limit: int) -> BatchFileError:
    return BatchFileError(f"{zh}超过 {limit // MIB} MiB", f"{en} is larger than {limit // MIB} MiB", code="too-large")
