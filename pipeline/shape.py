"""The JSON body of one application to a `Submission`, or everything that is wrong with its shape.

Pure. Judges form only: which office, category or bank is right is the validation stage's to say. No text holds the value judged.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Collection, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Self, cast, get_args

from pipeline.application import Document, Kind, Priority, Submission
from pipeline.identifiers import (
    OUTLET_ID,
    name_problem,
    normalise_name,
    normalise_number,
    resident_facts,
    resident_id_problem,
    social_security_number,
    social_security_number_problem,
)
from pipeline.outcomes import Reason
from pipeline.person import Agent, IdType, Person, Sex
from pipeline.policy import Collector

ID_TYPES: tuple[str, ...] = get_args(IdType)
NO_END = date(9999, 12, 31)
"""长期: the end of a document without end."""
OTHER_ETHNIC_GROUP = "97"
"""GB/T 3304 for "other": what stands where nobody said."""
INLINE_PHOTO_BYTES_MAX = 1024 * 1024
DOCUMENTS_MAX = 50

CODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "required": ("缺少必填项，请填写", "is required; fill it in"),
        "unknown_field": ("未知的字段，请删除或更正字段名", "is not a known field; remove it or correct its name"),
        "format": ("格式不正确，应为 {zh}", "has the wrong form; {en} is needed"),
        "length": ("长度不正确，应为 {zh}", "has the wrong length; {en} is needed"),
        "id_number.checksum": (
            "证件号码校验位不正确，请对照证件更正",
            "the check character is wrong; compare with the document",
        ),
        "social_security_number.format": (
            "社会保障号码不正确，应为 {zh}",
            "is not a social security number; {en} is needed",
        ),
        "date.invalid": ("日期不正确，应为 {zh}", "is not a valid date; {en} is needed"),
        "phone.invalid": ("手机号码不正确，应为 11 位大陆手机号", "is not a mobile number of 11 digits"),
        "name.characters": (
            "姓名含有不能使用的字符，请按证件更正",
            "holds characters no name has; spell it as on the document",
        ),
        "external_ref.personal": (
            "外部编号疑似证件号码或手机号码，请改用业务流水号",
            "looks like an identity or phone number; use a serial number of your own",
        ),
    }
)
"""Code → what is wrong and how to put it right, 中文 and English; `{zh}` and `{en}` say what is wanted."""


class Wanted(NamedTuple):
    """What a field should have held, 中文 and English."""

    zh: str
    en: str


_DATE = Wanted("YYYY-MM-DD 形式的真实日期", "a real date as YYYY-MM-DD")
_OBJECT = Wanted("JSON 对象", "a JSON object")
_TEXT = Wanted("文本", "text")
_REGION = Wanted("6 位行政区划代码", "a region code of six digits (GB/T 2260)")
_WORD = Wanted("小写英文代码", "a lower-case word")
_SIX = r"[0-9]{6}"
_A_WORD = r"[a-z][a-z0-9_]{0,63}"
_A_REFERENCE = r"[A-Za-z0-9._:-]{1,64}"

_CITIZEN_DOCUMENTS = ("resident_id", "household_book")
_EIGHTEEN = (*_CITIZEN_DOCUMENTS, "hmt_residence")
# The written forms of documents that have no check character.
_DOCUMENT_FORMS: Mapping[str, tuple[str, Wanted]] = {
    "military_id": (r"[\w\u4e00-\u9fff()（）〔〕-]{4,30}", Wanted("证件上的编号", "the number on the document")),
    "police_id": (r"[\w\u4e00-\u9fff()（）〔〕-]{4,30}", Wanted("证件上的编号", "the number on the document")),
    "hk_permit": (r"H[0-9]{8}([0-9]{2})?", Wanted("H 加 8 或 10 位数字", "H and 8 or 10 digits")),
    "mo_permit": (r"M[0-9]{8}([0-9]{2})?", Wanted("M 加 8 或 10 位数字", "M and 8 or 10 digits")),
    "tw_permit": (r"[0-9]{8}([0-9]{2}[0-9A-Z]?)?", Wanted("8 位数字", "8 digits")),
    "foreigner_pr": (r"[A-Z]{3}[0-9]{12}", Wanted("3 位字母加 12 位数字，或 18 位号码", "3 letters and 12 digits, or 18 characters")),
    "passport": (r"[0-9A-Z]{5,14}", Wanted("5 至 14 位字母和数字", "5 to 14 letters and digits")),
}  # fmt: skip
_EIGHTEEN_WANTED = Wanted("18 位公民身份号码", "a citizen number of 18 characters (GB 11643)")
_SSN_WANTED = Wanted("与证件相符的社会保障号码", "the number that follows from the document")

_PHONE = re.compile(r"1[3-9][0-9]{9}")
_PHONE_FILLER = re.compile(r"[\s()-]")
_PHONE_WITHIN = re.compile(r"(?<![0-9])1[3-9][0-9]{9}(?![0-9])")
_CITIZEN_WITHIN = re.compile(r"(?<![0-9])([0-9]{6})([0-9]{8})[0-9]{3}[0-9Xx](?![0-9])")
# Numbers of the first generation: a province (GB/T 2260), then a birth date of two-digit year.
_OLD_CITIZEN_WITHIN = re.compile(
    r"(?<![0-9])(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5])[0-9]{6}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}(?![0-9])"
)
_MADE_REFERENCE = re.compile(r"[0-9a-f]{12}-[0-9]{1,7}")
"""What intake by file makes: a digest and a row. Eleven of its hexadecimal digits may look like a phone number."""
_SPEAKABLE_KEY = re.compile(r"(?!.*[0-9]{5})[A-Za-z_][A-Za-z0-9_]{0,39}")


def read_submission(body: Mapping[str, Any], *, source: str, photo: bytes = b"") -> Submission | tuple[Reason, ...]:
    """The submission a JSON body asks for, or all its errors, each with a JSON Pointer fragment (`#/person/id_number`).

    `photo` is the upload that `photo.upload` names, already fetched; a photo inline (`photo.base64`) takes its place. Sex, birth
    date and social security number may be left out where the person's number tells them. `notify` is checked and not kept.
    """
    errors: list[Reason] = []
    top = JsonObject(body, "#", errors)
    external_ref = _external_ref(top)
    kind = top.word("kind", get_args(Kind), default="first")
    priority = top.word("priority", get_args(Priority), default="normal")
    region = top.text("region", form=_SIX, wanted=_REGION, required=True)
    window = top.text("window", form=_A_WORD, wanted=_WORD)
    agency = top.text(
        "agency",
        form=r"ag_[0-9A-Za-z_-]{1,40}",
        wanted=Wanted("ag_ 加机构代码", "ag_ and the agency's code"),
        required=True,
    )
    outlet = top.text(
        "outlet",
        form=OUTLET_ID.pattern,
        wanted=Wanted("out_ 加网点代码", "out_ and the outlet's code"),
        required=True,
    )
    bank_code = top.text(
        "bank_code", form=r"[0-9A-Za-z]{3,14}", wanted=Wanted("银行代码", "the code of a bank"), required=True
    )
    insured = top.object("insured", required=True)
    category = insured.text("category", form=_A_WORD, wanted=_WORD, required=True)
    district = insured.text("district", form=_SIX, wanted=_REGION, required=True)
    unit_code = insured.text("unit_code", form=r"[0-9A-Za-z_-]{1,32}", wanted=Wanted("单位编号", "the code of a unit"))
    insured.close()
    person = _person(top.object("person", required=True))
    guardian, proxy = _agent(top.object("guardian")), _agent(top.object("proxy"))
    documents = _documents(top)
    confirmed = _confirmed(top.object("confirmation"))
    inline = _photo(top.object("photo"))
    collect = top.object("collect")
    collect_by = collect.word("by", get_args(Collector), default="person")
    collect.close()
    notify = top.object("notify")
    notify.text("channel", form=_A_WORD, wanted=_WORD)
    notify.close()
    top.close()
    if errors or person is None:
        return tuple(errors)
    return Submission(
        external_ref=external_ref,
        source=source,
        region=region,
        agency=agency,
        window=window,
        category=category,
        district=district,
        person=person,
        bank_code=bank_code,
        outlet=outlet,
        kind=cast("Kind", kind),
        priority=cast("Priority", priority),
        lane="urgent" if priority == "urgent" else "normal",
        unit_code=unit_code,
        guardian=guardian,
        proxy=proxy,
        documents=documents,
        confirmed=confirmed,
        collect_by=cast("Collector", collect_by),
        photo=inline or photo,
    )


def reason(code: str, pointer: str, *, zh: str = "", en: str = "") -> Reason:
    """The reason of a code of `CODES`, at a place; `zh` and `en` say what is wanted there.

    Raises:
        KeyError: no such code.
    """
    texts = CODES[code]
    return Reason(code=code, zh=texts[0].format(zh=zh), en=texts[1].format(en=en), pointer=pointer)


def looks_personal(reference: str) -> bool:
    """Whether a reference looks like an identity or phone number, which may not stand in an address."""
    text = normalise_number(reference)
    if any(_is_date(match[2]) for match in _CITIZEN_WITHIN.finditer(text)) or _OLD_CITIZEN_WITHIN.search(text):
        return True
    if _MADE_REFERENCE.fullmatch(reference):
        return False
    digits_only = re.sub(r"[-_. :/]", "", text)
    return bool(_PHONE_WITHIN.search(text) or _PHONE.fullmatch(digits_only)) or resident_id_problem(digits_only) is None


def normalise_phone(phone: str) -> str:
    """A phone number without spaces, hyphens, brackets and the country code of China."""
    digits = _PHONE_FILLER.sub("", normalise_number(phone))
    return re.sub(r"^(\+|00)?86(?=1[0-9]{10}$)", "", digits)


# ------------------------------------------------------------------------------------------------------------ the reader


class JsonObject:
    """A JSON object read field by field. Notes every error, answers something harmless, goes on; `close` refuses the rest.

    An object that is absent (None) answers the same and notes nothing.
    """

    def __init__(self, value: object, pointer: str, errors: list[Reason], *, required: bool = True) -> None:
        self.pointer = pointer
        self.errors = errors
        self.present = isinstance(value, Mapping)
        self._left: dict[object, object] = dict(value) if isinstance(value, Mapping) else {}
        if value is None and required:
            self.note("required")
        elif value is not None and not self.present:
            self.note("format", wanted=_OBJECT)

    def at(self, name: str) -> str:
        return f"{self.pointer}/{name}"

    def note(self, code: str, name: str | None = None, *, wanted: Wanted = _TEXT) -> None:
        self.errors.append(reason(code, self.pointer if name is None else self.at(name), zh=wanted.zh, en=wanted.en))

    def take(self, name: str) -> object:
        return self._left.pop(name, None)

    def object(self, name: str, *, required: bool = False) -> Self:
        return type(self)(self.take(name), self.at(name), self.errors, required=required and self.present)

    def raw(self, name: str, *, at_most: int, required: bool = False) -> str:
        """A text with single spaces and nothing around it; "" where there is none."""
        value = self.take(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            if required and self.present:
                self.note("required", name)
            return ""
        if not isinstance(value, str):
            self.note("format", name)
            return ""
        if len(value) > at_most:
            self.note("length", name, wanted=Wanted(f"至多 {at_most} 个字符", f"at most {at_most} characters"))
            return ""
        text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", value)).strip()
        if not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs", "Cn") for char in text):
            self.note("format", name, wanted=Wanted("不含控制字符的文本", "text without control characters"))
            return ""
        return text

    def text(self, name: str, *, form: str, wanted: Wanted, required: bool = False) -> str:
        text = self.raw(name, at_most=200, required=required)
        if text and not re.fullmatch(form, text):
            self.note("format", name, wanted=wanted)
            return ""
        return text

    def word(self, name: str, words: Collection[str], *, default: str = "", required: bool = False) -> str:
        text = self.raw(name, at_most=200, required=required)
        if text and text not in words:
            told = " / ".join(words)
            self.note("format", name, wanted=Wanted(f"以下之一: {told}", f"one of {told}"))
            return default
        return text or default

    def day(self, name: str) -> date | None:
        text = self.raw(name, at_most=40)
        if not text:
            return None
        try:
            if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                return date.fromisoformat(text)
        except ValueError:
            pass
        self.note("date.invalid", name, wanted=_DATE)
        return None

    def name(self) -> str:
        text = self.raw("name", at_most=200, required=True)
        if not text:
            return ""
        try:
            name = normalise_name(text)
            problem = name_problem(name)
        except ValueError:
            problem, name = "characters", ""
        if problem == "length":
            self.note("length", "name", wanted=Wanted("至多 50 字节 (GB 18030)", "at most 50 bytes of GB 18030"))
        elif problem is not None:
            self.note("name.characters", "name")
        return name if problem is None else ""

    def phone(self) -> str:
        text = self.raw("phone", at_most=40)
        phone = normalise_phone(text)
        if text and not _PHONE.fullmatch(phone):
            self.note("phone.invalid", "phone")
            return ""
        return phone

    def number(self, id_type: str) -> str:
        """The number of a document; "" where it is missing or wrong."""
        number = normalise_number(self.raw("id_number", at_most=40, required=True))
        if not number or not id_type:
            return ""
        problem = _number_problem(id_type, number)
        if problem is not None:
            self.note(problem[0], "id_number", wanted=problem[1])
        return number if problem is None else ""

    def close(self) -> None:
        for key in self._left:
            # A key that could itself be a person's name or number is not repeated.
            self.note("unknown_field", key if isinstance(key, str) and _SPEAKABLE_KEY.fullmatch(key) else None)


# -------------------------------------------------------------------------------------------------------------- the parts


def _external_ref(top: JsonObject) -> str:
    text = top.raw("external_ref", at_most=64, required=True)
    if text and looks_personal(text):
        top.note("external_ref.personal", "external_ref")
    return text


def _number_problem(id_type: str, number: str) -> tuple[str, Wanted] | None:
    if id_type in _EIGHTEEN or (id_type == "foreigner_pr" and number[:1].isdigit()):
        match resident_id_problem(number):
            case None:
                return None
            case "checksum":
                return "id_number.checksum", _EIGHTEEN_WANTED
            case "date":
                return "date.invalid", Wanted("号码中真实的出生日期", "a real birth date within the number")
        return ("format" if len(number) == 18 else "length"), _EIGHTEEN_WANTED
    form, wanted = _DOCUMENT_FORMS[id_type]
    return None if re.fullmatch(form, number) else ("format", wanted)


def _person(raw: JsonObject) -> Person | None:
    known = len(raw.errors)
    name = raw.name()
    id_type = raw.word("id_type", ID_TYPES, required=True)
    id_number = raw.number(id_type)
    alpha3 = Wanted("3 位国籍代码", "three letters of ISO 3166")
    nationality = raw.text("nationality", form=r"[A-Z]{3}", wanted=alpha3, required=id_type == "passport") or "CHN"
    social = _social_security_number(raw, id_type=id_type, id_number=id_number, nationality=nationality)
    sex, birth_date = _told_by_number(raw, number=id_number if id_type in _EIGHTEEN else social)
    ethnic = raw.text(
        "ethnic", form=r"(0[1-9]|[1-4][0-9]|5[0-6]|9[78])", wanted=Wanted("2 位民族代码", "two digits of GB/T 3304")
    )
    birth_place = raw.text("birth_place", form=_SIX, wanted=_REGION)
    valid_from, valid_to = raw.day("id_valid_from"), raw.day("id_valid_to")
    if valid_from and valid_to and valid_to < valid_from:
        raw.note(
            "date.invalid", "id_valid_to", wanted=Wanted("不早于有效期起的日期", "a date not before id_valid_from")
        )
    phone, address = raw.phone(), raw.raw("address", at_most=200)
    occupation = raw.text("occupation", form=r"[0-9A-Za-z]{1,10}", wanted=Wanted("职业代码", "a code of GB/T 6565"))
    raw.close()
    if len(raw.errors) > known or birth_date is None:
        return None
    return Person(
        name=name,
        id_type=cast("IdType", id_type),
        id_number=id_number,
        social_security_number=social,
        sex=cast("Sex", sex),
        ethnic=ethnic or OTHER_ETHNIC_GROUP,
        birth_date=birth_date,
        birth_place=birth_place or "000000",
        nationality=nationality,
        phone=phone,
        address=address,
        occupation=occupation,
        id_valid_from=valid_from,
        id_valid_to=valid_to,
    )


def _social_security_number(raw: JsonObject, *, id_type: str, id_number: str, nationality: str) -> str:
    given = normalise_number(raw.raw("social_security_number", at_most=40))
    # A citizen's passport does not tell the citizen number.
    citizen_abroad = id_type == "passport" and nationality == "CHN"
    told = bool(id_number) and not citizen_abroad
    follows = social_security_number(cast("IdType", id_type), id_number, nationality=nationality) if told else None
    if not given:
        if follows is None and id_number:
            raw.note("required", "social_security_number")
        return follows or ""
    contradicts = id_type in _CITIZEN_DOCUMENTS and follows is not None and given != follows
    if contradicts or social_security_number_problem(given) is not None:
        raw.note("social_security_number.format", "social_security_number", wanted=_SSN_WANTED)
        return ""
    return given


def _told_by_number(raw: JsonObject, *, number: str) -> tuple[str, date | None]:
    """Sex and birth date as given or, where they are left out, as the number tells; what contradicts it is an error."""
    sex, born = raw.word("sex", get_args(Sex)), raw.day("birth_date")
    wrong = {error.pointer for error in raw.errors}
    if number and resident_id_problem(number) is None:
        told = resident_facts(number)
        if sex in ("1", "2") and sex != told.sex:
            raw.note("format", "sex", wanted=Wanted("与证件号码相符的性别", "the sex that the number tells"))
        if born is not None and born != told.birth_date:
            raw.note(
                "date.invalid", "birth_date", wanted=Wanted("与证件号码相符的日期", "the date that the number tells")
            )
        return sex or told.sex, born or told.birth_date
    if raw.present and not wrong & {raw.at("id_number"), raw.at("id_type"), raw.at("social_security_number")}:
        for name, value in (("sex", sex), ("birth_date", born)):
            if not value and raw.at(name) not in wrong:
                raw.note("required", name)
    return sex, born


def _agent(raw: JsonObject) -> Agent | None:
    if not raw.present:
        return None
    id_type = raw.word("id_type", ID_TYPES, required=True)
    name, id_number = raw.name(), raw.number(id_type)
    relation, phone = raw.raw("relation", at_most=20), raw.phone()
    document = raw.text("document", form=_A_REFERENCE, wanted=Wanted("上传编号", "the id of an upload"))
    raw.close()
    return Agent(
        name=name,
        id_type=cast("IdType", id_type),
        id_number=id_number,
        relation=relation,
        phone=phone,
        document=document,
    )


def _documents(top: JsonObject) -> tuple[Document, ...]:
    value = top.take("documents")
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        top.note("format", "documents", wanted=Wanted("数组", "a list"))
        return ()
    if len(value) > DOCUMENTS_MAX:
        top.note("length", "documents", wanted=Wanted(f"至多 {DOCUMENTS_MAX} 项", f"at most {DOCUMENTS_MAX} items"))
        return ()
    documents = []
    for at, item in enumerate(value):
        raw = JsonObject(item, f"{top.at('documents')}/{at}", top.errors)
        kind = raw.text("type", form=_A_WORD, wanted=_WORD, required=True)
        upload = raw.text("upload", form=_A_REFERENCE, wanted=Wanted("上传编号", "the id of an upload"))
        raw.close()
        documents.append(Document(type=kind, reference=upload))
    return tuple(documents)


def _confirmed(raw: JsonObject) -> bool:
    """Whether the person confirmed the data; an instant without an offset says nothing."""
    raw.text("method", form=_A_WORD, wanted=_WORD, required=True)
    raw.text("evidence", form=_A_REFERENCE, wanted=Wanted("上传编号", "the id of an upload"))
    signed_at = raw.raw("signed_at", at_most=40)
    if signed_at and not _is_instant(signed_at):
        raw.note(
            "date.invalid", "signed_at", wanted=Wanted("带时区的 RFC 3339 时间", "an RFC 3339 time with its offset")
        )
    raw.close()
    return raw.present


def _photo(raw: JsonObject) -> bytes:
    upload = raw.text("upload", form=_A_REFERENCE, wanted=Wanted("上传编号", "the id of an upload"))
    inline = raw.take("base64")
    raw.close()
    if inline is None:
        if (
            raw.present
            and not upload
            and not any((error.pointer or "").startswith(raw.pointer) for error in raw.errors)
        ):
            raw.note("required", "upload")
        return b""
    wanted = Wanted("1 MiB 以内的 Base64", "Base64 of at most 1 MiB")
    if upload or not isinstance(inline, str):
        raw.note("format", "base64", wanted=wanted)
        return b""
    if len(inline) > INLINE_PHOTO_BYTES_MAX * 4 // 3 + 4:
        raw.note("length", "base64", wanted=wanted)
        return b""
    try:
        return base64.b64decode(inline, validate=True)
    except (binascii.Error, ValueError):
        raw.note("format", "base64", wanted=wanted)
        return b""


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_date(digits: str) -> bool:
    try:
        return 1800 <= int(digits[:4]) < 2200 and bool(date(int(digits[:4]), int(digits[4:6]), int(digits[6:])))
    except ValueError:
        return False
