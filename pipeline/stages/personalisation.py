"""The personalisation stage: a blank becomes the person's card.

A blank is bound to the application before a card is touched and stays bound until its fate is known. An application whose worker
died goes back to the station that took the blank: only its journal knows what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import ClassVar, Self

from card_personalization.errors import FaceError, PlanError, Problem
from pipeline.clock import civil_date
from pipeline.deadlines import expires_on
from pipeline.errors import Defect, NotFound, OutcomeUnknown, TransientError, ZhikaError
from pipeline.outcomes import Advance, Hold, Outcome, Reason, Wait
from pipeline.person import Person
from pipeline.policy import Policy
from pipeline.ports import EncodeOrder, Encoder, EncodeReport, ObjectStore, StationStopped
from pipeline.retry import disposition, exhausted
from pipeline.stages.base import AccountFact, BlankFact, CallFact, Case, Decision, Fact, Intent, Need, Reconciler

NEXT = "dispatch"
BACK = "account"
"""Where an application goes whose account ends before its card is begun."""

AT_COUNTER = "centre.counter"
"""Why an urgent card waits: the centre hands it over itself (WH-8)."""

NO_CARD_AGAIN = timedelta(seconds=2)
"""How soon an application asks again after it found no blank in a reader."""

ELSEWHERE_AGAIN = timedelta(minutes=1)
"""How long an application stays away from a station that does not hold its blank, or has none left while others do."""

STOPPED_AGAIN = timedelta(seconds=30)
"""How long an application waits whose station has stopped until an operator lets it go on."""

SHORTAGE = Reason(
    code="blank.shortage",
    zh="没有领到制卡工位的此类空白卡，发放后继续",
    en="No blank of this kind is issued to a station: issue some, then release",
)
_CHIP_UNKNOWN = Reason(
    code="chip.unknown",
    zh="芯片写入结果无法确定，空白卡已隔离，须人工读卡核实",
    en="What the chip holds is not known; the blank is in quarantine: read it and decide",
)


class BlankUntouched(TransientError):
    """The station could not begin: nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBlank(Intent):
    """Bind a blank of this type, and the next card number of the region, to the application at this station.

    `serials` are the blanks in the station's readers; None: any blank that is issued to the station.
    """

    blank_type: str
    number_prefix: str
    issued_on: date
    station: str
    serials: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankGrant:
    """The blank and the numbers that were bound."""

    serial: str
    card_number: str
    issued_on: date


@dataclass(frozen=True, slots=True, kw_only=True)
class CardProduced(Fact):
    """The card exists, read back from its chip. `face`: the object that holds what was printed.

    `bank_card_number` is the one it was made with; None: it has no account.
    """

    application_id: str
    person_id: str
    account_id: str | None
    bank_card_number: str | None = field(repr=False)
    serial: str
    card_number: str
    chip_id: str
    issued_on: date
    expires_on: date
    face: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankSpoiled(Fact):
    """The blank is ruined."""

    serial: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankReturned(Fact):
    """Nothing was written: the blank stays with its station and can be taken again.

    With a `problem` it is taken after all others; the second time it is set aside.
    """

    serial: str
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankQuarantined(Fact):
    """What the blank holds is not known: it stays bound and is kept apart."""

    serial: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRequest:
    """One card to make, or with `recover` to settle. The last three are empty until a blank was granted."""

    recover: bool
    intent: TakeBlank | None
    application_id: str
    profile: str
    holder: Person
    city: str
    initialiser_tail: str
    validity_years: int
    bank_name: str
    bank_card_number: str | None = field(default=None, repr=False)
    picture_name: str
    serial: str = ""
    card_number: str = ""
    issued: date | None = None

    def granted(self, grant: BlankGrant) -> Self:
        """The request with its blank."""
        return replace(self, serial=grant.serial, card_number=grant.card_number, issued=grant.issued_on)

    @property
    def issued_on(self) -> date:
        """The 发卡日期.

        Raises:
            Defect: no blank was granted.
        """
        if self.issued is None or not self.serial:
            raise Defect("a card without a blank was asked for")
        return self.issued

    @property
    def expires_on(self) -> date:
        """The 卡有效期; chip, face and record carry this one."""
        return expires_on(self.issued_on, self.validity_years)

    def order(self, picture: bytes) -> EncodeOrder:
        """The order for the station."""
        return EncodeOrder(
            application_id=self.application_id,
            blank_serial=self.serial,
            profile=self.profile,
            holder=self.holder,
            card_number=self.card_number,
            city=self.city,
            initialiser_tail=self.initialiser_tail,
            issued=self.issued_on,
            expires=self.expires_on,
            bank_name=self.bank_name,
            bank_card_number=self.bank_card_number,
            picture=picture,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReply:
    """What became of a request. `problems` are those of data that cannot stand on a card; then there is no `report`.

    Nor is there one when the station has `stopped` and did nothing.
    """

    request: CardRequest
    report: EncodeReport | None = None
    stopped: bool = False
    face: str | None = None
    problems: tuple[Problem, ...] = ()


class Personalisation:
    """`stages.base.Stage` for cards. Only the station that took a blank can end what it began."""

    name: ClassVar[str] = "personalisation"
    chunk: int = 8
    needs: ClassVar[frozenset[Need]] = frozenset({"account", "calls", "blank", "card"})
    reconciler: ClassVar[Reconciler] = "station"
    lease: timedelta = timedelta(seconds=180)

    def __init__(self, encoder: Encoder, *, objects: ObjectStore) -> None:
        self._encoder = encoder
        self._objects = objects

    def prepare(self, case: Case, policy: Policy, now: datetime) -> CardRequest | Decision:
        """Take a blank, or settle the one that is bound; an application that has its card goes on with it.

        No card is begun on an account that ends: the account stage waits for that and opens another.

        Raises:
            Defect: a blank is bound, but the numbers bound with it are not there.
        """
        application = case.application
        blank: BlankFact | None = case.facts.get("blank")
        if case.facts.get("card") is not None:
            return Decision(_produced(case))
        if blank is not None and blank.station != self._encoder.station:
            return Decision(Wait(now + ELSEWHERE_AGAIN, "station.elsewhere"))
        if blank is None and _account_ends(case):
            return Decision(Advance(BACK))
        if (obstacle := _obstacle(case, policy)) is not None:
            return Decision(Hold(obstacle))
        account: AccountFact | None = case.facts.get("account")
        blank_type, profile = policy.kind_of_card(application.bank_code, account=account is not None)
        request = CardRequest(
            recover=blank is not None,
            intent=None if blank is not None else self._intent(policy, blank_type, now),
            application_id=case.id,
            profile=profile,
            holder=application.person,
            city=policy.city,
            initialiser_tail=policy.initialiser_tail.value,
            validity_years=policy.validity_years.value,
            bank_name=policy.banks[application.bank_code].zh,
            bank_card_number=None if account is None else account.bank_card_number,
            picture_name=application.photo_result or "",
        )
        if blank is None:
            return request
        if application.card_number is None or application.issued_on is None:
            raise Defect("a blank is bound to an application without card number or date of issue")
        grant = BlankGrant(serial=blank.serial, card_number=application.card_number, issued_on=application.issued_on)
        return request.granted(grant)

    def act(self, requests: Mapping[str, CardRequest]) -> Mapping[str, CardReply | Exception]:
        """Settle what was begun in one call, make what is new in another, and keep the faces.

        A station that serves nobody at present is a reply to each of its rows.
        """
        replies: dict[str, CardReply | Exception] = {}
        orders: dict[str, EncodeOrder] = {}
        for application_id, request in requests.items():
            order = self._order(request)
            if isinstance(order, EncodeOrder):
                orders[application_id] = order
            else:
                replies[application_id] = order
        begun = [order for i, order in orders.items() if requests[i].recover]
        new = [order for i, order in orders.items() if not requests[i].recover]
        made = {**_called(self._encoder.recover, begun), **_called(self._encoder.personalise, new)}
        return replies | {i: self._reply(requests[i], result) for i, result in made.items()}

    def settle(self, case: Case, reply: CardReply, policy: Policy, now: datetime) -> Decision:
        """What the blank became decides: the card, another blank, another try, or an operator."""
        request, report = reply.request, reply.report
        if reply.stopped:
            unused = () if request.recover else (BlankReturned(serial=request.serial),)
            return Decision(Wait(now + STOPPED_AGAIN, "station.stopped"), unused)
        if report is None:
            return Decision(Hold(_card_data(reply.problems)), (_unfit(request),))
        problem = report.problem or report.verdict
        tries, most = case.application.attempts, policy.max_attempts.value
        match report.verdict:
            case "verified":
                return Decision(_produced(case), (_card(case, reply, report),))
            case "spoiled":
                last = tries >= most
                outcome = Hold(exhausted(f"blank.spoiled ({tries}x)")) if last else Wait(now, "blank.spoiled")
                return Decision(outcome, (BlankSpoiled(serial=request.serial, problem=problem),))
            case "untouched" if report.problem is not None:  # the blank's fault, not this application's
                returned = BlankReturned(serial=request.serial, problem=report.problem)
                return Decision(Wait(now, "station.blank_refused"), (returned,))
            case "untouched":
                again = disposition(BlankUntouched(), attempts=tries, max_attempts=most, now=now, trace="").outcome
                return Decision(again or Wait(now, "blank.untouched"), (BlankReturned(serial=request.serial),))
            case "unknown":
                return Decision(Hold(_CHIP_UNKNOWN), (BlankQuarantined(serial=request.serial, problem=problem),))

    def failed(self, case: Case, request: CardRequest, error: BaseException) -> tuple[Fact, ...]:
        """Nothing: the blank stays bound until the station has told its fate."""
        return ()

    def _intent(self, policy: Policy, blank_type: str, now: datetime) -> TakeBlank:
        return TakeBlank(
            blank_type=blank_type,
            number_prefix=policy.card_number_prefix.value,
            issued_on=civil_date(now),
            station=self._encoder.station,
            serials=self._encoder.loaded(),
        )

    def _order(self, request: CardRequest) -> EncodeOrder | CardReply | Exception:
        try:
            return request.order(self._objects.get(request.picture_name))
        except NotFound:
            return CardReply(request=request, problems=(Problem("photo", "erased", "is no longer kept"),))
        except ZhikaError as error:
            return error

    def _reply(self, request: CardRequest, result: EncodeReport | Exception) -> CardReply | Exception:
        if isinstance(result, PlanError | FaceError):
            return CardReply(request=request, problems=result.problems)
        if isinstance(result, StationStopped):
            return CardReply(request=request, stopped=True)
        if isinstance(result, Exception):
            return result
        try:
            face = self._objects.put(result.face) if result.verdict == "verified" and result.face else None
        except ZhikaError as error:  # the card is good; asked again, the station tells so again
            return error
        return CardReply(request=request, report=replace(result, face=b""), face=face)


def _called(
    call: Callable[[Sequence[EncodeOrder]], Mapping[str, EncodeReport | Exception]], orders: Sequence[EncodeOrder]
) -> dict[str, EncodeReport | Exception]:
    """The station's answers; an error of the whole call, and an answer left out, belong to every order concerned."""
    ids = [order.application_id for order in orders]
    if not ids:
        return {}
    try:
        answers = call(orders)
    except ZhikaError as error:
        return dict.fromkeys(ids, error)
    return {i: answers.get(i) or OutcomeUnknown("the station gave no answer to this order") for i in ids}


def _produced(case: Case) -> Outcome:
    return Wait(None, AT_COUNTER) if case.application.priority == "urgent" else Advance(NEXT)


def _card(case: Case, reply: CardReply, report: EncodeReport) -> CardProduced:
    account: AccountFact | None = case.facts.get("account")
    if report.chip_id is None:
        raise Defect("a verified card without the id of its chip")
    return CardProduced(
        application_id=case.id,
        person_id=case.application.person_id,
        account_id=None if account is None else account.id,
        bank_card_number=reply.request.bank_card_number,
        serial=reply.request.serial,
        card_number=reply.request.card_number,
        chip_id=report.chip_id,
        issued_on=reply.request.issued_on,
        expires_on=reply.request.expires_on,
        face=reply.face,
    )


def _account_ends(case: Case) -> bool:
    """Whether the account the card was to carry is being closed, or was closed since: the bank opened one, and none is there."""
    account: AccountFact | None = case.facts.get("account")
    if account is not None:
        return account.closing
    calls: Sequence[CallFact] = case.facts.get("calls", ())
    opened = [call.state for call in calls if call.operation == "open_account"]
    return opened[-1:] == ["done"]


def _unfit(request: CardRequest) -> Fact:
    """Data is judged before a card is touched, but a card that was begun before may hold anything."""
    if request.recover:
        return BlankQuarantined(
            serial=request.serial, problem="the order of a card that was begun can no longer be made"
        )
    return BlankReturned(serial=request.serial)


def _obstacle(case: Case, policy: Policy) -> Reason | None:
    """Why no card can be made, told before a blank is taken."""
    application = case.application
    if application.photo_result is None:
        return Reason(code="card.data", zh="没有制卡照片", en="There is no picture for the card", pointer="/photo")
    if application.bank_code not in policy.banks:
        zh, en = "该地区没有这家合作银行", "The region has no such cooperating bank"
        return Reason(code="card.data", zh=zh, en=en, pointer="/bank_code")
    if case.facts.get("account") is None and policy.exception_path.value == "hold":
        zh, en = "没有银行账户，按地区规定须人工处理", "There is no bank account: the region has a person decide"
        return Reason(code="account.missing", zh=zh, en=en, rule=policy.exception_path.rule)
    return None


# Problem.field → what people call it, and where it stands in the application.
_FIELDS: Mapping[str, tuple[str, str]] = {
    "name": ("姓名", "/person/name"),
    "name_extension": ("姓名", "/person/name"),
    "social_security_number": ("社会保障号码", "/person/social_security_number"),
    "sex": ("性别", "/person/sex"),
    "ethnic": ("民族", "/person/ethnic"),
    "birth_place": ("出生地", "/person/birth_place"),
    "birth_date": ("出生日期", "/person/birth_date"),
    "photo": ("照片", "/photo"),
}


def _card_data(problems: tuple[Problem, ...]) -> Reason:
    """Everything that keeps the data off a card; the pointer is that of the first field the applicant gave."""
    zh = "、".join(f"{_FIELDS.get(p.field, (p.field, ''))[0]}({p.code})" for p in problems)
    pointer = next((_FIELDS[p.field][1] for p in problems if p.field in _FIELDS), None)
    return Reason(
        code="card.data",
        zh=f"以下内容无法写入或印制在卡上，请更正：{zh}",
        en="This cannot stand on the card; correct it: " + "; ".join(map(str, problems)),
        pointer=pointer,
    )
