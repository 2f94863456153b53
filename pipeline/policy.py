"""A region's rules as one typed, frozen value, read from `config/regions/<region>.toml`.

Every rule is a `Sourced` value: `rule` names the article it comes from, `default` says what the text leaves open and why this
value stands there; both when an article gives the duty but not the number. Knows no file system and no region by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pipeline.application import Kind, Priority
from pipeline.person import IdType
from pipeline.photo.findings import CATALOGUE

T = TypeVar("T")
Code = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1)]
RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,3}-[0-9]+(\.[0-9]+)?(\([0-9]+\))?$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Collector = Literal["person", "unit", "proxy", "guardian"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sourced(_Value, Generic[T]):
    """A value with the article it comes from, the reason it is a default, or both."""

    value: T
    rule: RuleId | None = None
    default: Text | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.rule is None and self.default is None:
            raise ValueError("须注明 rule(条款) 或 default(默认理由) / needs a rule or the reason of a default")
        return self


Unit = Literal["same_day", "days", "working_days", "months", "end_of_next_month"]


class Span(_Value):
    """A length of time as the regulations count it. `same_day` and `end_of_next_month` have no count."""

    unit: Unit
    count: Count = 0

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if (self.count > 0) != (self.unit in ("days", "working_days", "months")):
            raise ValueError("该单位与 count 不符 / this unit and its count do not go together")
        return self


class Category(_Value):
    """A group of people: whether they are covered, who applies for them, and the kind of office that serves them.

    `apply_by` `unit`: the employer or school applies for a first card. `local_hukou`: the district is that of the hukou and
    must lie in the region. `by_district` names other offices for some districts; without `window` the region's own holds.
    """

    zh: Text
    en: Text
    rule: RuleId | None = None
    covered: bool = True
    minimum_age: Count = 0
    local_hukou: bool = False
    apply_by: Sourced[Literal["unit", "person", "any"]] | None = None
    window: Sourced[Word] | None = None
    by_district: Mapping[Code, Sourced[Word]] = {}


class District(_Value):
    """A district of the region. `sub_region`: it runs its own acceptance, with its own policy (WH-30)."""

    zh: Text
    en: Text
    sub_region: bool = False
    rule: RuleId | None = None


class Window(_Value):
    """A kind of office, as people read it."""

    zh: Text
    en: Text


class Eligibility(_Value):
    """Limits for everybody, beside those of a category (KL-6, DL-4, WH-4, SG-7)."""

    minimum_age: Sourced[Count]
    guardian_under_age: Sourced[Count]
    one_valid_card: Sourced[bool]


class Required(_Value):
    """What is handed in (KL-7, WH-7, DL-16, SG-8).

    `documents`, and what a proxy shows beside them, are document types; `fields` are fields of the person.
    """

    documents: Sourced[tuple[Word, ...]]
    proxy_documents: Sourced[tuple[Word, ...]]
    fields: Sourced[tuple[Literal["phone", "address", "occupation"], ...]]
    id_types: Sourced[tuple[IdType, ...]]
    photo: Sourced[bool]
    confirmation: Sourced[bool]


class Urgent(_Value):
    """Urgent cards: whether there are any, and the one office that takes them (WH-8, LN-8.3)."""

    offered: Sourced[bool]
    window: Sourced[Word | Literal[""]]


class Deadlines(_Value):
    """How long making a card may take, by kind, and for an urgent one (WH-8, SG-9, DL-16(3), DL-20)."""

    first: Sourced[Span]
    replacement: Sourced[Span]
    exchange: Sourced[Span]
    urgent: Sourced[Span]


class Collection(_Value):
    """How long a card waits for its holder, what starts that clock, and what becomes of the card (WH-11, SG-10).

    `papers`: what each kind of collector shows beside the identity document that is read at the counter (WH-11, SG-10, DL-16(3)).
    """

    starts: Sourced[Literal["notice", "acceptance"]]
    within: Sourced[Span]
    ending: Sourced[Literal["kept", "abandoned"]]
    after_due: Sourced[bool]
    who: Sourced[tuple[Collector, ...]]
    papers: Mapping[Collector, Sourced[tuple[Word, ...]]] = {}
    reminder_days: Sourced[tuple[Positive, ...]]

    def papers_of(self, collector: Collector) -> Sourced[tuple[str, ...]]:
        """What this kind of collector has to show."""
        return self.papers.get(collector) or Sourced[tuple[str, ...]](value=(), default="none is asked for")


class Returned(_Value):
    """What becomes of a card that came back to the centre (WH-11, WH-12, SG-10).

    It is stored for `storage`, may be given out again meanwhile if `reissue`, and is then destroyed. `close_account`: when its
    financial application ends at the bank.
    """

    storage: Sourced[Span]
    reissue: Sourced[bool]
    close_account: Sourced[Literal["on_return", "on_destruction", "never"]]


class Fees(_Value):
    """Fees in fen by kind of application, and when nothing is charged (KL-6, KL-8, WH-13, WH-14, DL-18)."""

    first: Sourced[Count]
    replacement: Sourced[Count]
    exchange: Sourced[Count]
    temporary_lost: Sourced[Count]
    waivers: Sourced[tuple[Word, ...]]
    receipt_to_collect: Sourced[bool]


def _may_warn(code: str) -> str:
    warnings = [known for known, entry in CATALOGUE.items() if "warn" in entry.levels]
    if code not in warnings:
        told = ", ".join(warnings)
        raise ValueError(f"{code!r} 不是照片警告代码，可用 / is no code of a photo's warnings; there are: {told}")
    return code


class Photo(_Value):
    """The picture on the card (DL-16(2)): its profile in `config/photo`, what a person looks at, and how long photos are kept.

    `hold_codes` are the warnings that hold a photo for an operator; `replace_background` allows another plain background to be
    made white; `keep_days` counts from the application's end, then the upload and the picture are erased.
    """

    profile: Sourced[Text]
    hold_codes: Sourced[tuple[Annotated[str, AfterValidator(_may_warn)], ...]]
    replace_background: Sourced[bool]
    keep_days: Sourced[Positive]


class Bank(_Value):
    """A cooperating bank as people and the card's face name it.

    `card_profile`: what this bank writes on the region's blanks, where that is not what the region's own profile says.
    """

    zh: Text
    en: Text
    card_profile: Text | None = None
    rule: RuleId | None = None
    default: Text | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.rule is None and self.default is None:
            raise ValueError("须注明 rule(条款) 或 default(默认理由) / needs a rule or the reason of a default")
        return self


class Policy(_Value):
    """All a region decides for itself. `code` is a city, or one of its sub-regions with `parent` the city."""

    key: Word
    code: Code
    parent: Code | None = None
    zh: Text
    en: Text
    label: Text
    effective: date
    regulation: Text

    districts: Mapping[Code, District]
    windows: Mapping[Word, Window]
    window: Sourced[Word]
    remake_window: Sourced[Word] | None = None
    same_district: Sourced[bool]
    city_windows: tuple[Word, ...] = ()
    categories: Mapping[Word, Category]
    eligibility: Eligibility
    required: Required
    urgent: Urgent

    deadlines: Deadlines
    validity_years: Sourced[Positive]
    notice_within_working_days: Sourced[Positive]
    collection: Collection
    returned: Returned
    receive_within_h: Sourced[Positive]
    acceptance_notice: Sourced[bool]
    fees: Fees

    banks: Mapping[str, Bank]
    photo: Photo
    card_profile: Sourced[Text]
    card_profile_without_account: Sourced[Text]
    card_number_prefix: Sourced[Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,2}$")]]
    initialiser_tail: Sourced[Annotated[str, StringConstraints(pattern=r"^[0-9]{8}$")]]
    bundle_size: Sourced[Positive]
    seal_after_minutes: Sourced[Positive]
    max_attempts: Sourced[Positive]
    correct_within_days: Sourced[Positive]
    reopen_within_days: Sourced[Positive]
    exception_path: Sourced[Literal["without_financial", "hold"]]
    identity_verification: Sourced[bool]

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal characters of the content; two policies that rule alike in all things share it."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def version(self) -> str:
        """What an application keeps of the policy it was accepted under: label and digest."""
        return f"{self.label}+{self.digest}"

    def kind_of_card(self, bank_code: str, *, account: bool) -> tuple[str, str]:
        """The kind of blank and the card profile for an application with or without an account at this bank (KL-25)."""
        if not account:
            return self.card_profile_without_account.value, self.card_profile_without_account.value
        return self.card_profile.value, self.banks[bank_code].card_profile or self.card_profile.value

    @property
    def city(self) -> str:
        """The prefecture's code: what the chip carries."""
        return self.parent or self.code

    def window_for(
        self, *, category: str, district: str, kind: Kind = "first", priority: Priority = "normal"
    ) -> Sourced[str]:
        """The one competent kind of office (KL-4, DL-15, SG-8, LN-8.3, WH-8).

        Raises:
            KeyError: the region has no such category.
        """
        own = self.categories[category]
        if priority == "urgent" and self.urgent.offered.value:
            return self.urgent.window
        if kind != "first" and self.remake_window is not None:
            return self.remake_window
        return own.by_district.get(district) or own.window or self.window

    def deadline(self, *, kind: Kind, priority: Priority) -> Sourced[Span]:
        """How long making this kind of card may take."""
        if priority == "urgent":
            return self.deadlines.urgent
        return {
            "first": self.deadlines.first,
            "replacement": self.deadlines.replacement,
            "exchange": self.deadlines.exchange,
        }[kind]

    def fee(self, kind: Kind) -> Sourced[int]:
        """What this kind of card costs, in fen."""
        return {"first": self.fees.first, "replacement": self.fees.replacement, "exchange": self.fees.exchange}[kind]

    def has_district(self, district: str) -> bool:
        """Whether a code is the region itself or one of its districts."""
        return district in (self.code, self.city) or district in self.districts

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        used = {self.window.value, *self.city_windows}
        used |= {self.remake_window.value} if self.remake_window else set()
        used |= {self.urgent.window.value} if self.urgent.offered.value else set()
        for category in self.categories.values():
            used |= {category.window.value} if category.window else set()
            used |= {sourced.value for sourced in category.by_district.values()}
        if unknown := sorted(used - set(self.windows)):
            raise ValueError(f"未定义的窗口 / windows not defined: {', '.join(unknown) or '-'}")
        for category in self.categories.values():
            if strange := sorted(set(category.by_district) - set(self.districts)):
                raise ValueError(f"未定义的区县 / districts not defined: {', '.join(strange)}")
        if self.code[4:] != "00" and self.parent is None:
            raise ValueError("code 应为地市代码 / code is that of a city (ends in 00)")
        return self


def read(raw: Mapping[str, Any]) -> tuple[Policy, ...]:
    """A region's policy and those of its sub-regions, which inherit it and override parts (WH-30).

    A sub-region is a district with `sub_region = true`; its `override` table has the shape of the file. Other districts
    override nothing.

    Raises:
        pydantic.ValidationError: the content is not a policy.
    """
    overrides = {}
    districts = {}
    for code, district in _table(raw.get("districts")).items():
        plain = dict(_table(district))
        if plain.get("sub_region"):
            overrides[code] = _table(plain.pop("override", {}))
        districts[code] = plain
    base = {**raw, "districts": districts}
    city = Policy.model_validate(base)
    return city, *(
        Policy.model_validate(
            _merged(
                base,
                {
                    **overrides[code],
                    "code": code,
                    "parent": city.code,
                    "zh": city.zh + district.zh,
                    "en": f"{district.en}, {city.en}",
                },
            )
        )
        for code, district in city.districts.items()
        if district.sub_region
    )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; a sourced value is replaced whole, so that a value never borrows another's source."""
    result = dict(base)
    for key, value in over.items():
        old = base.get(key)
        whole = not isinstance(value, Mapping) or not isinstance(old, Mapping) or "value" in value
        result[key] = value if whole else _merged(old, value)  # type: ignore[arg-type]
    return result
