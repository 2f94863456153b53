"""The validation stage: may this person have this card, is this the right office, and does the data hold together?

One pass, nothing asked of the world. Everything found is told at once; the worst of it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from operator import itemgetter
from types import MappingProxyType
from typing import ClassVar, Literal

from pipeline.application import Application
from pipeline.clock import civil_date
from pipeline.identifiers import (
    NumberProblem,
    ResidentFacts,
    name_problem,
    resident_facts,
    resident_id_problem,
    social_security_number,
    social_security_number_problem,
)
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reason, Reject
from pipeline.person import Agent, IdType, Person
from pipeline.policy import Category, Policy
from pipeline.stages.base import Case, Decision, Need, Reconciler, RegisterFacts, Thinking

Disposition = Literal["reject", "correct", "hold"]

VERIFIED = "identity_verification"
"""Type of the document that holds the register's answer to a verification; it ends the doubt about an identity."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a reason's code means: what follows from it, and what people read.

    `{what}` is filled in, never with personal data.
    """

    disposition: Disposition
    zh: str
    en: str
    final: bool = False


CODES: MappingProxyType[str, Code] = MappingProxyType(
    {
        "required": Code("correct", "缺少{what}，请补填", "{what} is missing; please fill it in"),
        "format": Code("correct", "{what}格式不正确，请核对后重填", "{what} is not in its form; please check it"),
        "date.invalid": Code(
            "correct", "{what}中的日期不存在，请核对后重填", "the date in {what} cannot be; please check it"
        ),
        "id_number.checksum": Code(
            "correct",
            "{what}校验位不正确，请核对证件后重填",
            "the check digit of {what} is wrong; please compare it with the document",
        ),
        "social_security_number.format": Code(
            "correct",
            "社会保障号码不符合编号规则，请核对后重填",
            "the social security number breaks its numbering rule; please check it",
        ),
        "social_security_number.mismatch": Code(
            "correct",
            "社会保障号码与证件号码不一致，请核对后重填",
            "the social security number does not agree with the document's number; please check both",
        ),
        "person.sex_mismatch": Code(
            "correct",
            "性别与公民身份号码不一致，请核对后重填",
            "the sex does not agree with the citizen number; please check both",
        ),
        "person.birth_date_mismatch": Code(
            "correct",
            "出生日期与公民身份号码不一致，请核对后重填",
            "the birth date does not agree with the citizen number; please check both",
        ),
        "name.characters": Code(
            "correct",
            "姓名含有不能制卡的字符，请按证件重填",
            "the name has characters no card can carry; please write it as the document does",
        ),
        "length": Code(
            "correct",
            "姓名过长，卡内无法完整记录，请与经办机构联系",
            "the name is longer than a card can hold; please ask the agency",
        ),
        "document.missing": Code("correct", "缺少{what}，请补交", "{what} is missing; please hand it in"),
        "document.expired": Code(
            "correct",
            "身份证件已过有效期，请换证后补正",
            "the identity document has expired; please renew it and correct the application",
        ),
        "confirmation.missing": Code(
            "correct",
            "申请人尚未确认个人信息，请确认后补正",
            "the applicant has not confirmed the data; please have it confirmed",
        ),
        "bank.unknown_code": Code(
            "correct",
            "所选银行不是本地区合作银行，请另选",
            "the bank chosen does not issue cards in this region; please choose another",
        ),
        "eligibility.not_covered": Code(
            "reject", "不属于本地区社会保障卡发放对象：{what}", "not entitled to a card of this region: {what}"
        ),
        "window.not_competent": Code("reject", "受理窗口不正确，{what}", "this office is not competent; {what}"),
        "urgent.wrong_window": Code("reject", "不能在此办理急制卡，{what}", "urgent cards are not made here; {what}"),
        "guardian.required": Code(
            "reject",
            "未达规定年龄须由监护人代为申领，缺少{what}",
            "below the region's age one applies through a guardian; {what} is missing",
        ),
        "card.exists": Code(
            "reject",
            "本人已有有效的社会保障卡，如需新卡请办理补领或换领",
            "the person holds a valid card already; a new one comes by replacement or exchange",
            final=True,
        ),
        "identity.verification": Code(
            "hold",
            "证件不能确认本人社会保障号码，待核验",
            "the document does not settle the social security number; to be verified",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class What:
    """What a text speaks of, in both languages."""

    zh: str
    en: str


def found(code: str, pointer: str, *, rule: str | None = None, what: What | None = None) -> Reason:
    """A reason of `CODES` at a field of the application.

    Raises:
        KeyError: no such code.
    """
    meant = CODES[code]
    zh, en = (meant.zh.format(what=what.zh), meant.en.format(what=what.en)) if what else (meant.zh, meant.en)
    return Reason(code=code, zh=zh, en=en, rule=rule, pointer=pointer, final=meant.final)


class Validation(Thinking):
    """`stages.base.Stage` for the rules of who, where and with what. Decides in `prepare`."""

    name: ClassVar[str] = "validation"
    needs: ClassVar[frozenset[Need]] = frozenset({"register"})
    reconciler: ClassVar[Reconciler] = "none"
    chunk: int = 200
    lease: timedelta = timedelta(seconds=60)

    def prepare(self, case: Case, policy: Policy, now: datetime) -> Decision:
        """Go on to the photo, or say everything that stands in the way."""
        reasons = findings(case.application, case.facts["register"], policy, civil_date(now))
        return Decision(verdict(reasons))


def verdict(reasons: Iterable[Reason]) -> Outcome:
    """The worst decides: refusals before corrections before doubts; those of the same weight are told together."""
    by: dict[Disposition, tuple[Reason, ...]] = {}
    for reason in reasons:
        weight = CODES[reason.code].disposition
        by[weight] = (*by.get(weight, ()), reason)
    if "reject" in by:
        return Reject(by["reject"])
    if "correct" in by:
        return Correct(by["correct"])
    return Hold(by["hold"][0]) if "hold" in by else Advance("photo")


def findings(application: Application, register: RegisterFacts, policy: Policy, today: date) -> Iterator[Reason]:
    """All that stands in the way of a card, by `today`'s civil date in China."""
    person = application.person
    numbers = _read(person)
    born = numbers.bearer.birth_date if numbers.bearer else person.birth_date
    yield from _name(person, policy)
    yield from _numbers(application, numbers, policy)
    yield from _identity_document(person, policy, today)
    yield from _papers(application, policy)
    yield from _eligibility(application, born, policy, today)
    yield from _guardian(application, born, policy, today)
    yield from _proxy(application, policy)
    yield from _office(application, policy)
    if application.bank_code not in policy.banks:
        yield found("bank.unknown_code", "#/bank_code")
    if register.card_exists and application.kind == "first" and policy.eligibility.one_valid_card.value:
        yield found("card.exists", "#/kind", rule=policy.eligibility.one_valid_card.rule)


# -------------------------------------------------------------------------------------------------------- who it is for

_NAME = What("姓名", "the name")
_ID_NUMBER = What("证件号码", "the document's number")
_SOCIAL = What("社会保障号码", "the social security number")
_NAME_CODES = {"empty": "required", "characters": "name.characters", "length": "length"}
_NUMBER_CODES: dict[NumberProblem, str] = {"form": "format", "date": "date.invalid", "checksum": "id_number.checksum"}
_CARRIES_CITIZEN_NUMBER = frozenset({"resident_id", "household_book", "hmt_residence"})
_OFFICERS = frozenset({"military_id", "police_id"})


def _name(person: Person, policy: Policy) -> Iterator[Reason]:
    if problem := name_problem(person.name):
        yield found(_NAME_CODES[problem], "#/person/name", rule=policy.required.confirmation.rule, what=_NAME)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What is wrong with the document's number and the social security number, and whom a good citizen number names."""

    document: NumberProblem | None
    social: NumberProblem | None
    bearer: ResidentFacts | None
    same: bool


def _read(person: Person) -> _Numbers:
    number, social = person.id_number, person.social_security_number
    citizen = _is_citizen_number(person.id_type, number)
    bearer = _facts(number) if citizen else None
    document = None if bearer else _document_problem(person.id_type, number)
    if citizen and social == number:
        return _Numbers(document, document, bearer, same=True)
    return _Numbers(document, _social_problem(person), bearer or _facts(social), same=False)


def _facts(number: str) -> ResidentFacts | None:
    try:
        return resident_facts(number)
    except ValueError:
        return None


def _numbers(application: Application, numbers: _Numbers, policy: Policy) -> Iterator[Reason]:
    """Numbers that are absent or badly formed, that disagree, or that name somebody else (DL-16(1), GB 11643)."""
    person, rule = application.person, policy.required.confirmation.rule
    if not person.id_number:
        yield found("required", "#/person/id_number", rule=rule, what=_ID_NUMBER)
    elif numbers.document:
        yield found(_NUMBER_CODES[numbers.document], "#/person/id_number", rule=rule, what=_ID_NUMBER)
    if not person.social_security_number:
        yield found("required", "#/person/social_security_number", rule=rule, what=_SOCIAL)
    elif numbers.social:
        yield found("social_security_number.format", "#/person/social_security_number", rule=rule)
    elif not numbers.document and not numbers.same:
        yield from _agreement(application, policy)
    bearer = numbers.bearer
    if bearer is not None and bearer.sex != person.sex:
        yield found("person.sex_mismatch", "#/person/sex", rule=rule)
    if bearer is not None and bearer.birth_date != person.birth_date:
        yield found("person.birth_date_mismatch", "#/person/birth_date", rule=rule)


def _document_problem(id_type: IdType, number: str) -> NumberProblem | None:
    if _is_citizen_number(id_type, number):
        return resident_id_problem(number)
    if id_type in _OFFICERS:
        return None if number else "form"
    return None if social_security_number(id_type, number) else "form"


def _is_citizen_number(id_type: IdType, number: str) -> bool:
    return id_type in _CARRIES_CITIZEN_NUMBER or (id_type == "foreigner_pr" and number[:1].isdigit())


def _social_problem(person: Person) -> NumberProblem | None:
    judge = resident_id_problem if _has_citizen_number(person) else social_security_number_problem
    return judge(person.social_security_number)


def _has_citizen_number(person: Person) -> bool:
    """Whether the document stands beside a citizen number that it does not tell."""
    return person.id_type in _OFFICERS or (person.id_type == "passport" and person.nationality == "CHN")


def _agreement(application: Application, policy: Policy) -> Iterator[Reason]:
    """A document that is the number must agree; where the number follows from it, a difference is a doubt (DL-6)."""
    person = application.person
    if _has_citizen_number(person):
        return
    follows = social_security_number(person.id_type, person.id_number, nationality=person.nationality)
    if follows == person.social_security_number:
        return
    if _is_citizen_number(person.id_type, person.id_number) or not policy.identity_verification.value:
        yield found(
            "social_security_number.mismatch", "#/person/social_security_number", rule=policy.required.confirmation.rule
        )
    elif not any(document.type == VERIFIED for document in application.documents):
        yield found("identity.verification", "#/person/social_security_number", rule=policy.identity_verification.rule)


# ---------------------------------------------------------------------------------------------------- what is handed in

_DOCUMENTS = {
    "application_form": What("申领登记表（受理单）", "the application form"),
    "identity_copy": What("身份证件复印件", "a copy of the identity document"),
    "mandate": What("委托书", "the mandate"),
}
_FIELDS = {
    "phone": What("联系电话", "the phone number"),
    "address": What("通讯地址", "the address"),
    "occupation": What("职业", "the occupation"),
}
_ACCEPTED_DOCUMENT = What("本地区认可的身份证件", "an identity document this region accepts")
_UNIT = What("单位编号（由用人单位或学校统一申领）", "the code of the employer or school, which applies for its people")


def _identity_document(person: Person, policy: Policy, today: date) -> Iterator[Reason]:
    required = policy.required
    if person.id_type not in required.id_types.value:
        yield found("document.missing", "#/person/id_type", rule=required.id_types.rule, what=_ACCEPTED_DOCUMENT)
    if person.id_valid_to is not None and person.id_valid_to < today:
        yield found("document.expired", "#/person/id_valid_to", rule=required.id_types.rule)


def _papers(application: Application, policy: Policy) -> Iterator[Reason]:
    """Form, copies, fields and the confirmation (KL-7, WH-7, DL-16, SG-8)."""
    required = policy.required
    yield from _missing_documents(application, required.documents.value, required.documents.rule)
    for name in required.fields.value:
        if not getattr(application.person, name).strip():
            yield found("required", f"#/person/{name}", rule=required.fields.rule, what=_FIELDS[name])
    if required.confirmation.value and not application.confirmed:
        yield found("confirmation.missing", "#/confirmation", rule=required.confirmation.rule)


def _missing_documents(application: Application, types: tuple[str, ...], rule: str | None) -> Iterator[Reason]:
    for type_ in types:
        if not any(document.type == type_ for document in application.documents):
            what = _DOCUMENTS.get(type_) or What(f"材料 {type_}", f"the document {type_}")
            yield found("document.missing", "#/documents", rule=rule, what=what)


# ----------------------------------------------------------------------------------------------------- who may have one


def _eligibility(application: Application, born: date, policy: Policy, today: date) -> Iterator[Reason]:
    """Who is served at all (KL-6, DL-4, WH-4, SG-7), and by whom a first card is applied for (DL-14, LN-8.3)."""
    category, limits = policy.categories.get(application.category), policy.eligibility
    if category is None:
        what = What("未知的人员类别", "an unknown category of people")
        yield found("eligibility.not_covered", "#/insured/category", rule=limits.minimum_age.rule, what=what)
        return
    if not category.covered:
        yield found(
            "eligibility.not_covered", "#/insured/category", rule=category.rule, what=What(category.zh, category.en)
        )
    if category.local_hukou and not policy.has_district(application.district):
        what = What("非本市户口", "the household is not registered in this region")
        yield found("eligibility.not_covered", "#/insured/district", rule=category.rule, what=what)
    yield from _age(born, category, policy, today)
    by = category.apply_by
    if by is not None and by.value == "unit" and application.kind == "first" and not application.unit_code:
        yield found("required", "#/insured/unit_code", rule=by.rule, what=_UNIT)


def _age(born: date, category: Category, policy: Policy, today: date) -> Iterator[Reason]:
    """Old enough for the category and for the region; whichever asks for more years is the rule that is named."""
    if born > today:
        what = What("出生日期", "the birth date")
        yield found("date.invalid", "#/person/birth_date", rule=policy.required.confirmation.rule, what=what)
        return
    general = policy.eligibility.minimum_age
    years, rule = max((general.value, general.rule), (category.minimum_age, category.rule), key=itemgetter(0))
    if _younger(born, years, today):
        what = What(f"未满{years}周岁", f"under {years} years of age")
        yield found("eligibility.not_covered", "#/person/birth_date", rule=rule, what=what)


def _younger(born: date, years: int, today: date) -> bool:
    return (today.year - years, today.month, today.day) < (born.year, born.month, born.day)


# ------------------------------------------------------------------------------------------------- who acts for another


def _guardian(application: Application, born: date, policy: Policy, today: date) -> Iterator[Reason]:
    """Who is too young to apply does so through a guardian, who is named with number and relation (DL-14)."""
    under, guardian = policy.eligibility.guardian_under_age, application.guardian
    if born <= today and _younger(born, under.value, today):
        if guardian is None:
            yield found("guardian.required", "#/guardian", rule=under.rule, what=What("监护人信息", "the guardian"))
        else:
            for field, what in _absent(guardian, ("name", "id_number", "relation")):
                yield found("guardian.required", f"#/guardian/{field}", rule=under.rule, what=what)
    if guardian is not None:
        yield from _agent_number(guardian, "#/guardian/id_number", under.rule)


def _proxy(application: Application, policy: Policy) -> Iterator[Reason]:
    """Who acts with a mandate is named and shows it (WH-7, SG-8)."""
    proxy, documents = application.proxy, policy.required.proxy_documents
    if proxy is None:
        return
    for field, what in _absent(proxy, ("name", "id_number")):
        yield found("required", f"#/proxy/{field}", rule=documents.rule, what=what)
    yield from _agent_number(proxy, "#/proxy/id_number", documents.rule)
    yield from _missing_documents(application, documents.value, documents.rule)


_AGENT_FIELDS = {
    "name": _NAME,
    "id_number": _ID_NUMBER,
    "relation": What("与申请人的关系", "the relation to the applicant"),
}


def _absent(agent: Agent, fields: tuple[str, ...]) -> Iterator[tuple[str, What]]:
    return ((field, _AGENT_FIELDS[field]) for field in fields if not getattr(agent, field).strip())


def _agent_number(agent: Agent, pointer: str, rule: str | None) -> Iterator[Reason]:
    problem = _document_problem(agent.id_type, agent.id_number) if agent.id_number.strip() else None
    if problem:
        yield found(_NUMBER_CODES[problem], pointer, rule=rule, what=_ID_NUMBER)


# ------------------------------------------------------------------------------------------------------ at which office


def _office(application: Application, policy: Policy) -> Iterator[Reason]:
    """The one competent office (KL-4, DL-15, SG-8, LN-8.3), for urgent cards its own (WH-8).

    Not judged where the intake system did not say at which kind of office the application was handed in.
    """
    urgent, window = policy.urgent, application.window
    if application.priority == "urgent" and not urgent.offered.value:
        what = What("本地区不办理急制卡，请按普通申领办理", "this region makes none; please apply in the normal way")
        yield found("urgent.wrong_window", "#/priority", rule=urgent.offered.rule, what=what)
        return
    category = policy.categories.get(application.category)
    if not window or category is None or not category.covered:
        return
    competent = policy.window_for(
        category=application.category,
        district=application.district,
        kind=application.kind,
        priority=application.priority,
    )
    if window != competent.value:
        code = "urgent.wrong_window" if application.priority == "urgent" else "window.not_competent"
        office = policy.windows[competent.value]
        yield found(
            code, "#/agency", rule=competent.rule, what=What(f"请到{office.zh}办理", f"please apply at: {office.en}")
        )
    elif window not in policy.city_windows:
        yield from _own_district(application, policy)


def _own_district(application: Application, policy: Policy) -> Iterator[Reason]:
    """An office not of the whole city serves its own district only, and a sub-region serves itself (KL-4, WH-30)."""
    district = application.district
    there = policy.districts.get(district)
    if there is not None and there.sub_region and district != policy.code:
        yield _elsewhere(there.rule)
    elif policy.parent is not None and district != policy.code:
        yield _elsewhere(policy.window.rule)
    elif not policy.has_district(district) or (
        policy.same_district.value and _agency_district(application.agency) != district
    ):
        yield _elsewhere(policy.same_district.rule)


def _elsewhere(rule: str | None) -> Reason:
    what = What(
        "请到参保地（户口所在地）所属区县的窗口办理",
        "please apply in the district where the person is insured or registered",
    )
    return found("window.not_competent", "#/agency", rule=rule, what=what)


_AGENCY_DIGITS = 8


def _agency_district(agency: str) -> str:
    """The district (GB/T 2260) in an agency's code, `ag_` + six digits + two of its own; empty for any other code."""
    digits = agency.removeprefix("ag_")
    return digits[:6] if len(digits) == _AGENCY_DIGITS and digits.isdecimal() else ""
