"""The sample maker: batch files of plainly fictitious people for every region, good rows and one of each thing that goes wrong.

The same seed and day give the same bytes. Numbers carry area codes of nobody (999xxx), phones are 1380000xxxx, and all photos
are variations of one portrait in the public domain.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Literal

import xlsxwriter  # type: ignore[import-untyped, unused-ignore]  # it ships no types

from config.policies import Policies
from pipeline.errors import NotFound
from pipeline.gateways.bank_simulated import SCRIPT
from pipeline.identifiers import gb11643_check
from pipeline.policy import Policy
from pipeline.ports import Declined
from producers.simulators.portrait import SORTS, Flaw, Sort, upload

Fault = Literal[
    "wrong_checksum", "missing_photo", "unreadable_photo", "unfit_photo", "doubtful_photo", "no_guardian",
    "ineligible_category", "wrong_window", "duplicate_person", "bank_refusal",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = (
    "wrong_checksum", "missing_photo", "unreadable_photo", "no_guardian", "ineligible_category", "wrong_window",
    "duplicate_person", "bank_refusal", "wrong_checksum", "unfit_photo", "doubtful_photo",
)  # fmt: skip
"""What goes wrong in a sample, each where the regions come round to it."""
Format = Literal["csv-utf8", "csv-gb18030", "xlsx"]
FORMATS: tuple[Format, ...] = ("csv-utf8", "csv-gb18030", "xlsx")
HEADER = (
    "外部编号", "姓名", "证件类型", "证件号码", "社会保障号码", "性别", "民族", "出生日期", "国籍", "证件有效期起", "证件有效期止", "手机号码",
    "联系地址", "职业", "人员类别", "参保地", "户籍地", "单位编号", "服务银行", "申领类型", "加急", "受理窗口", "申请材料", "本人确认", "领卡方式",
    "监护人姓名", "监护人证件类型", "监护人证件号码", "监护人手机号码", "监护关系", "备注",
)  # fmt: skip
REFUSED_BY_BANK = next(tail for tail, fate in SCRIPT.items() if isinstance(fate, Declined))

_SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜"
_GIVEN = ("伟", "芳", "娜", "敏", "静", "秀英", "丽", "强", "磊", "军", "洋", "勇", "艳", "杰", "娟", "涛", "明", "超", "秀兰", "霞", "平", "刚", "桂英", "建国")  # fmt: skip
# Names with a separator, and names with a character of four bytes in GB 18030, in turn.
_HARD_NAMES = (
    ("阿依古丽·买买提", "05"),
    ("张𠮷", "01"),
    ("买买提·阿卜杜拉", "05"),
    ("李㑇", "01"),
    ("叶尔兰·哈布勒", "17"),
)
_CHILD_AGES = (8, 14)
_AGES: Mapping[str, tuple[int, int]] = {"student": _CHILD_AGES, "retiree": (60, 84)}
_ADULT_AGES = (20, 55)
_FLAWS: Mapping[Fault, Flaw] = {"unfit_photo": "unfit", "doubtful_photo": "doubtful"}
_EPOCH = (1980, 1, 1, 0, 0, 0)
_XLSX_MADE = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was made: one ZIP a region, how many distinct people, and how many rows of each kind there are.

    `expected` has `rows`, `good`, `rows_refused` (wrong as rows), `duplicates`, and the number of each `Fault`.
    """

    files: tuple[Path, ...]
    people: int
    expected: Mapping[str, int]


def make_sample(
    directory: Path, *, applications: int = 60, seed: int = 1, policies: Policies, today: date, only: str | None = None
) -> Sample:
    """Write the batch files of every region, or of the one whose key or code is `only`.

    `applications` rows are good: they pass as rows, validation and the photo stage. Those that go wrong come on top.

    Raises:
        NotFound: no region is called `only`.
        OSError: the directory cannot be written.
    """
    regions = [policy for policy in policies.cities() if only in (None, policy.key, policy.code)]
    if not regions:
        raise NotFound(f"没有地区 {only}", f"no such region: {only}", code="region.unknown")
    directory.mkdir(parents=True, exist_ok=True)
    maker = _Maker(policies=policies, today=today, seed=seed)
    files, kinds = [], Counter[str]()
    numbers: set[str] = set()
    for at, (policy, form) in enumerate(zip(regions, cycle(FORMATS), strict=False)):
        good = max(1, len(range(at, applications, len(regions))))
        entries = maker.region(policy, good=good, faults=FAULTS[at :: len(regions)])
        path = directory / f"{policy.key}-{today:%Y%m%d}-{seed}.zip"
        _write(path, entries, form=form)
        files.append(path)
        kinds.update(entry.fault or "good" for entry in entries)
        numbers.update(entry.cells["证件号码"] for entry in entries)
    return Sample(files=tuple(files), people=len(numbers), expected=_expected(kinds))


def _expected(kinds: Counter[str]) -> Mapping[str, int]:
    summary = {"rows": kinds.total(), "good": kinds["good"]}
    summary |= {"rows_refused": kinds["wrong_checksum"], "duplicates": kinds["duplicate_person"]}
    return summary | {fault: kinds[fault] for fault in dict.fromkeys(FAULTS)}


# --------------------------------------------------------------------------------------------------------------- people


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A row, its photo as a file (name and bytes; None: there is none), and what is wrong with it."""

    cells: Mapping[str, str] = field(repr=False)
    photo: tuple[str, bytes] | None = field(repr=False)
    fault: Fault | None = None


class _Maker:
    """Makes people one after another; the n-th of a seed and a day is always the same."""

    def __init__(self, *, policies: Policies, today: date, seed: int) -> None:
        self._policies = policies
        self._today = today
        self._seed = seed
        self._random = Random(seed)
        self._serial = count(1)
        self._phones = cycle([f"1380000{tail:04d}" for tail in range(10_000) if f"{tail:04d}" not in SCRIPT])
        self._numbers: set[str] = set()

    def region(self, policy: Policy, *, good: int, faults: Sequence[Fault]) -> list[_Entry]:
        """The rows of one region: the good ones, and among them those with a fault; a duplicate comes last."""
        entries = [self._good(policy, at) for at in range(good)]
        for fault in faults:
            if fault == "duplicate_person":
                again = {**entries[0].cells, "外部编号": self._reference(policy)}
                entries.append(_Entry(cells=again, photo=None, fault=fault))
            else:
                entries.insert(self._random.randint(1, len(entries)), self._faulty(policy, fault))
        return entries

    def _good(self, policy: Policy, at: int) -> _Entry:
        covered = [word for word, category in policy.categories.items() if category.covered]
        districts = list(policy.districts)
        category, district = covered[at % len(covered)], districts[at % len(districts)]
        child = at % 5 == 3 and not policy.categories[category].minimum_age and category not in _AGES
        cells = self._cells(
            policy,
            category=category,
            district=district,
            ages=_CHILD_AGES if child else None,
            urgent=policy.urgent.offered.value and at % 6 == 4,
            name=_HARD_NAMES[(at // 4) % len(_HARD_NAMES)] if at % 4 == 1 else None,
        )
        return _Entry(cells=cells, photo=_photo(cells["证件号码"], sort=SORTS[at % len(SORTS)]))

    def _faulty(self, policy: Policy, fault: Fault) -> _Entry:
        category = next(word for word, one in policy.categories.items() if one.covered and word not in _AGES)
        district = next(iter(policy.districts))
        cells = self._cells(
            policy, category=category, district=district, ages=_CHILD_AGES if fault == "no_guardian" else None
        )
        entry = _Entry(cells=cells, photo=_photo(cells["证件号码"], flaw=_FLAWS.get(fault)), fault=fault)
        return _spoiled(entry, policy)

    def _reference(self, policy: Policy) -> str:
        prefix = policy.card_number_prefix.value
        return f"{prefix}-{self._today:%Y%m%d}-{self._seed % 1000:03d}{next(self._serial):04d}"

    def _cells(
        self,
        policy: Policy,
        *,
        category: str,
        district: str,
        ages: tuple[int, int] | None = None,
        urgent: bool = False,
        name: tuple[str, str] | None = None,
    ) -> dict[str, str]:
        """A row that nothing is wrong with: `ages` in whole years, `name` with its ethnic group."""
        own = policy.categories[category]
        rules = self._policies.of(district)
        priority: Literal["normal", "urgent"] = "urgent" if urgent else "normal"
        window = rules.window_for(category=category, district=district, priority=priority).value
        sex = self._random.choice("12")
        born = self._born(ages or _AGES.get(category, _ADULT_AGES))
        child = _age(born, self._today) < rules.eligibility.guardian_under_age.value
        by_unit = own.apply_by is not None and own.apply_by.value == "unit"
        called, ethnic = name or (self._random.choice(_SURNAMES) + self._random.choice(_GIVEN), "01")
        documents = dict.fromkeys(("application_form", *rules.required.documents.value))
        cells = dict.fromkeys(HEADER, "") | {
            "外部编号": self._reference(policy),
            "姓名": called,
            "证件类型": "居民身份证",
            "证件号码": self._number(born, sex),
            "性别": "男" if sex == "1" else "女",
            "民族": ethnic,
            "出生日期": born.isoformat(),
            "国籍": "中国",
            "证件有效期起": f"{self._today.year - 2}-03-01",
            "证件有效期止": f"{self._today.year + 3}-03-01" if child else "长期",
            "手机号码": next(self._phones),
            "联系地址": f"{policy.zh}{policy.districts[district].zh}示范路{self._random.randint(1, 200)}号",
            "职业": "80000",
            "人员类别": own.zh,
            "参保地": district,
            "户籍地": district if own.local_hukou else "",
            "单位编号": f"U{district}{self._random.randint(1, 3)}" if by_unit else "",
            "服务银行": self._random.choice(list(policy.banks)),
            "申领类型": "首次申领",
            "加急": "是" if urgent else "否",
            "受理窗口": rules.windows[window].zh,
            "申请材料": "、".join(documents),
            "本人确认": "是",
            "领卡方式": "监护人" if child else "单位" if by_unit and not urgent else "本人",
            "备注": "虚构样例",
        }
        return cells | (self._guardian() if child else {})

    def _guardian(self) -> dict[str, str]:
        sex = self._random.choice("12")
        return {
            "监护人姓名": self._random.choice(_SURNAMES) + self._random.choice(_GIVEN),
            "监护人证件类型": "居民身份证",
            "监护人证件号码": self._number(self._born((34, 50)), sex),
            "监护人手机号码": next(self._phones),
            "监护关系": "父亲" if sex == "1" else "母亲",
        }

    def _born(self, ages: tuple[int, int]) -> date:
        """A birthday of somebody whose age lies within `ages`, both included."""
        youngest, oldest = (date(self._today.year - age, self._today.month, 1) for age in ages)
        first = oldest - timedelta(days=300)
        return first + timedelta(days=self._random.randrange((youngest - first).days))

    def _number(self, born: date, sex: str) -> str:
        while True:
            order = self._random.randrange(1, 500) * 2 - (sex == "1")
            first17 = f"999{self._random.randrange(1000):03d}{born:%Y%m%d}{order:03d}"
            if first17 not in self._numbers:
                self._numbers.add(first17)
                return first17 + gb11643_check(first17)


def _age(born: date, today: date) -> int:
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def _spoiled(entry: _Entry, policy: Policy) -> _Entry:
    """The good row with its fault put in."""
    cells, photo = dict(entry.cells), entry.photo
    match entry.fault:
        case "wrong_checksum":
            number = cells["证件号码"]
            wrong = number[:17] + ("X" if number[17] != "X" else "0")
            cells["证件号码"] = wrong
            photo = photo and (photo[0].replace(number, wrong), photo[1])
        case "missing_photo":
            photo = None
        case "unreadable_photo" if photo is not None:
            photo = (photo[0], photo[1][: len(photo[1]) // 2])
        case "no_guardian":
            cells |= {header: "" for header in HEADER if header.startswith("监护")} | {"领卡方式": "本人"}
        case "ineligible_category":
            cells["人员类别"] = next(one.zh for one in policy.categories.values() if not one.covered)
        case "wrong_window":
            cells["受理窗口"] = next(one.zh for one in policy.windows.values() if one.zh != cells["受理窗口"])
        case "bank_refusal":
            cells["手机号码"] = f"1380000{REFUSED_BY_BANK}"
    return replace(entry, cells=cells, photo=photo)


def _photo(number: str, *, sort: Sort = "plain", flaw: Flaw | None = None) -> tuple[str, bytes]:
    """The file of somebody's photo, named by the person's number."""
    extension, data = upload(number, sort=sort, flaw=flaw)
    return f"photos/{number}.{extension}", data


# ---------------------------------------------------------------------------------------------------------------- files


def _write(path: Path, entries: Sequence[_Entry], *, form: Format) -> None:
    """One ZIP: the sheet, then the photos; stamped with no time, so that the same content has the same bytes."""
    rows = [[entry.cells[header] for header in HEADER] for entry in entries]
    with zipfile.ZipFile(path, "w") as archive:
        if form == "xlsx":
            _add(archive, "applications.xlsx", _xlsx(rows))
        else:
            _add(archive, "applications.csv", _csv(rows).encode("utf-8-sig" if form == "csv-utf8" else "gb18030"))
        for entry in entries:
            if entry.photo is not None:
                _add(archive, *entry.photo)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.compress_type = zipfile.ZIP_STORED if name.startswith("photos/") else zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *rows])
    return text.getvalue()


def _xlsx(rows: Iterable[Sequence[str]]) -> bytes:
    kept = io.BytesIO()
    with xlsxwriter.Workbook(kept, {"in_memory": True, "strings_to_urls": False, "strings_to_formulas": False}) as book:
        book.set_properties({"created": _XLSX_MADE})
        sheet = book.add_worksheet("申领")
        for number, row in enumerate((HEADER, *rows)):
            for column, text in enumerate(row):
                sheet.write_string(number, column, text)
    return kept.getvalue()
