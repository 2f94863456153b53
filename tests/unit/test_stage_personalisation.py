"""The personalisation stage: one card an application, and every blank accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization.errors import FaceError, PlanError, Problem
from config.policies import load_policies
from pipeline.application import Application
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.objects import ObjectMemory
from pipeline.outcomes import Advance, Hold, Reason, Wait
from pipeline.policy import Policy, Sourced
from pipeline.ports import EncodeOrder, EncodeReport, StationStopped, Verdict
from pipeline.stages.base import AccountFact, Acting, BlankFact, CardFact, Case, Decision, Stage
from pipeline.stages.personalisation import (
    SHORTAGE,
    BlankGrant,
    BlankQuarantined,
    BlankReturned,
    BlankSpoiled,
    CardProduced,
    CardReply,
    CardRequest,
    Personalisation,
    TakeBlank,
)
from pipeline.transitions import move
from tests.support.applications import an_application

POLICY = load_policies().of("420100")
# Past midnight in China, still the day before in UTC.
NOW = datetime(2026, 11, 24, 17, 0, tzinfo=UTC)
OBJECTS = ObjectMemory(key=bytes(32))
PICTURE = OBJECTS.put(b"picture")
ACCOUNT = AccountFact(id="acc_1", bank_card_number="6200000000000000018", account_ref="ref")
BLANK = BlankFact(serial="B1", station="S1")
GRANT = BlankGrant(serial="B1", card_number="A00000019", issued_on=date(2026, 11, 25))
VERIFIED = EncodeReport(verdict="verified", chip_id="C1", atr="3B", face=b"face")


def application(number: int = 1, **changed: Any) -> Application:
    told = {"stage": "personalisation", "policy_version": POLICY.version, "received_at": NOW, "photo_result": PICTURE}
    return an_application(number, **(told | changed))


def case(of: Application | None = None, **facts: Any) -> Case:
    return Case(application=of or application(), facts={"account": ACCOUNT, "blank": None, "card": None, **facts})


def begun(*, number: int = 1, **changed: Any) -> Case:
    """An application whose blank was taken before."""
    numbers = {"card_number": GRANT.card_number, "issued_on": GRANT.issued_on, **changed}
    return case(application(number, **numbers), blank=BLANK)


class Bench:
    """A station that answers as it is told and notes its orders."""

    station = "S1"

    def __init__(self, answer: Any = VERIFIED) -> None:
        self.answer = answer
        self.made: list[list[EncodeOrder]] = []
        self.recovered: list[list[EncodeOrder]] = []

    def loaded(self) -> tuple[str, ...] | None:
        return None

    def personalise(self, orders: Sequence[EncodeOrder]) -> dict[str, Any]:
        self.made.append(list(orders))
        return self._answered(orders)

    def recover(self, orders: Sequence[EncodeOrder]) -> dict[str, Any]:
        self.recovered.append(list(orders))
        return self._answered(orders)

    def _answered(self, orders: Sequence[EncodeOrder]) -> dict[str, Any]:
        if isinstance(self.answer, type):
            raise self.answer()
        return self.answer if isinstance(self.answer, dict) else {o.application_id: self.answer for o in orders}


def stage(bench: Bench | None = None) -> Personalisation:
    return Personalisation(bench or Bench(), objects=OBJECTS)


def prepared(about: Case, *, policy: Policy = POLICY) -> CardRequest:
    request = stage().prepare(about, policy, NOW)
    assert isinstance(request, CardRequest)
    return request if request.intent is None else request.granted(GRANT)


def held(about: Case, *, policy: Policy = POLICY) -> Reason:
    decision = stage().prepare(about, policy, NOW)
    assert isinstance(decision, Decision)
    assert isinstance(decision.outcome, Hold)
    assert decision.facts == ()
    return decision.outcome.reason


def settled(about: Case, report: EncodeReport, *, face: str | None = None) -> Decision:
    reply = CardReply(request=prepared(about), report=report, face=face)
    return stage().settle(about, reply, POLICY, NOW)


def ruled(exception_path: str) -> Policy:
    return POLICY.model_copy(update={"exception_path": Sourced[Any](value=exception_path, rule="KL-25")})


def test_it_is_a_stage_whose_requests_act() -> None:
    made: Stage = stage()
    assert (made.name, made.reconciler) == ("personalisation", "station")
    assert {"account", "blank"} <= made.needs
    assert isinstance(prepared(case()), Acting)


# ------------------------------------------------------------------------------------------------------------- prepare


def test_a_blank_is_taken_before_anything_is_made() -> None:
    request = stage().prepare(case(), POLICY, NOW)
    assert isinstance(request, CardRequest)
    assert request.recover is False
    assert request.intent == TakeBlank(
        blank_type=POLICY.card_profile.value,
        number_prefix=POLICY.card_number_prefix.value,
        issued_on=date(2026, 11, 25),
        station="S1",
    )
    with pytest.raises(Defect, match="without a blank"):
        request.order(b"")


def test_the_order_carries_the_blank_the_numbers_and_one_set_of_dates() -> None:
    order = prepared(case()).order(b"picture")
    assert (order.blank_serial, order.card_number, order.profile) == ("B1", "A00000019", POLICY.card_profile.value)
    assert (order.issued, order.expires) == (date(2026, 11, 25), date(2026 + POLICY.validity_years.value, 11, 25))
    assert (order.city, order.bank_name, order.bank_card_number) == ("420100", "中国建设银行", ACCOUNT.bank_card_number)
    assert (order.holder, order.picture) == (application().person, b"picture")


def test_a_blank_that_is_bound_is_settled_and_no_other_is_taken() -> None:
    request = prepared(begun())
    assert (request.recover, request.intent) == (True, None)
    assert (request.serial, request.card_number, request.issued) == ("B1", GRANT.card_number, GRANT.issued_on)


def test_another_stations_blank_is_left_to_that_station() -> None:
    about = case(begun().application, blank=BlankFact(serial="B1", station="S2"))
    assert stage().prepare(about, POLICY, NOW) == Decision(Wait(NOW + timedelta(minutes=1), "station.elsewhere"))


@pytest.mark.parametrize("missing", ["card_number", "issued_on"])
def test_a_blank_without_its_numbers_is_a_defect(missing: str) -> None:
    lost: dict[str, Any] = {missing: None}
    with pytest.raises(Defect, match="without card number"):
        stage().prepare(begun(**lost), POLICY, NOW)


@pytest.mark.rule("KL-22")
@pytest.mark.parametrize(
    ("priority", "outcome"), [("normal", Advance("dispatch")), ("urgent", Wait(None, "centre.counter"))]
)
def test_an_application_that_has_its_card_gets_no_second_one(priority: str, outcome: object) -> None:
    card = CardFact(id="card_1", serial="B1", custody="centre", place="centre")
    assert stage().prepare(case(application(priority=priority), card=card), POLICY, NOW) == Decision(outcome)  # type: ignore[arg-type]


def test_what_stands_in_the_way_is_told_before_a_blank_is_taken() -> None:
    assert held(case(application(photo_result=None))).pointer == "/photo"
    assert held(case(application(bank_code="00000"))).pointer == "/bank_code"


@pytest.mark.rule("KL-25")
def test_without_an_account_the_region_says_what_follows() -> None:
    reason = held(case(account=None), policy=ruled("hold"))
    assert (reason.code, reason.rule) == ("account.missing", "KL-25")
    assert prepared(case(account=None), policy=ruled("without_financial")).bank_card_number is None


# ----------------------------------------------------------------------------------------------------------------- act


def acted(bench: Bench, *cases: Case) -> dict[str, Any]:
    return dict(stage(bench).act({about.id: prepared(about) for about in cases}))


def test_without_an_account_the_card_is_of_the_kind_without_financial_application() -> None:
    request = stage().prepare(case(account=None), ruled("without_financial"), NOW)
    assert isinstance(request, CardRequest)
    assert request.intent is not None
    kind = POLICY.card_profile_without_account.value
    assert (request.intent.blank_type, request.profile, request.bank_card_number) == (kind, kind, None)


def test_a_bank_with_a_profile_of_its_own_writes_it_on_the_regions_blanks() -> None:
    code = case().application.bank_code
    banks = {**POLICY.banks, code: POLICY.banks[code].model_copy(update={"card_profile": "ssc2-ccb"})}
    request = stage().prepare(case(), POLICY.model_copy(update={"banks": banks}), NOW)
    assert isinstance(request, CardRequest)
    assert request.intent is not None
    assert (request.intent.blank_type, request.profile) == (POLICY.card_profile.value, "ssc2-ccb")


def test_a_chunk_is_one_call_for_what_was_begun_and_one_for_what_is_new() -> None:
    bench = Bench()
    replies = acted(bench, case(), case(application(2)), begun(number=3))
    assert [[o.application_id for o in part] for part in bench.made] == [["app_1", "app_2"]]
    assert [[o.application_id for o in part] for part in bench.recovered] == [["app_3"]]
    assert set(replies) == {"app_1", "app_2", "app_3"}


def test_the_face_is_kept_and_the_reply_does_not_carry_it_along() -> None:
    reply = acted(Bench(), case())["app_1"]
    assert OBJECTS.get(reply.face) == b"face"
    assert reply.report == replace(VERIFIED, face=b"")


@pytest.mark.parametrize("verdict", ["untouched", "spoiled", "unknown"])
def test_no_face_is_kept_of_a_card_that_is_none(verdict: Verdict) -> None:
    assert acted(Bench(EncodeReport(verdict=verdict, face=b"face")), case())["app_1"].face is None


@pytest.mark.parametrize("error", [PlanError, FaceError])
def test_data_that_cannot_stand_on_a_card_comes_back_as_problems(error: type[PlanError | FaceError]) -> None:
    problems = (Problem("name", "no-glyph", "holds a character that the font cannot draw"),)
    reply = acted(Bench({"app_1": error(problems)}), case())["app_1"]
    assert (reply.report, reply.problems) == (None, problems)


def test_an_erased_picture_is_a_problem_of_its_row_alone() -> None:
    bench = Bench()
    replies = acted(bench, case(application(1, photo_result="0" * 64)), case(application(2)))
    assert [p.field for p in replies["app_1"].problems] == ["photo"]
    assert replies["app_2"].report.verdict == "verified"


def test_a_station_that_serves_nobody_is_each_rows_own_error() -> None:
    replies = acted(Bench(TransientError), case(), begun(number=2))
    assert {type(reply) for reply in replies.values()} == {TransientError}


def test_a_station_that_has_stopped_gives_unused_blanks_back_and_keeps_those_that_were_begun() -> None:
    for attempts in (1, POLICY.max_attempts.value):
        new, old = case(application(attempts=attempts)), begun(number=2, attempts=attempts)
        replies = acted(Bench(StationStopped), new, old)
        outcome = Wait(NOW + timedelta(seconds=30), "station.stopped")
        assert stage().settle(new, replies["app_1"], POLICY, NOW) == Decision(outcome, (BlankReturned(serial="B1"),))
        assert stage().settle(old, replies["app_2"], POLICY, NOW) == Decision(outcome)


def test_an_answer_left_out_is_unknown() -> None:
    assert isinstance(acted(Bench({}), case())["app_1"], OutcomeUnknown)


def test_an_error_of_one_order_is_that_rows_alone() -> None:
    replies = acted(Bench({"app_1": Defect("x"), "app_2": VERIFIED}), case(), case(application(2)))
    assert isinstance(replies["app_1"], Defect)
    assert replies["app_2"].report.verdict == "verified"


def test_a_face_that_could_not_be_kept_leaves_the_card_to_be_asked_for_again() -> None:
    class Full(ObjectMemory):
        def put(self, data: bytes) -> str:
            raise TransientError("the disk is full")

    objects = Full(key=bytes(32))
    objects._objects = OBJECTS._objects
    made = Personalisation(Bench(), objects=objects)
    assert isinstance(made.act({"app_1": prepared(case())})["app_1"], TransientError)


# -------------------------------------------------------------------------------------------------------------- settle


def test_a_verified_card_goes_on_with_everything_the_chip_and_the_face_say() -> None:
    card = CardProduced(
        application_id="app_1",
        person_id="per_1",
        account_id="acc_1",
        bank_card_number=ACCOUNT.bank_card_number,
        serial="B1",
        card_number="A00000019",
        chip_id="C1",
        issued_on=date(2026, 11, 25),
        expires_on=date(2026 + POLICY.validity_years.value, 11, 25),
        face="face",
    )
    assert settled(case(), VERIFIED, face="face") == Decision(Advance("dispatch"), (card,))
    assert settled(begun(), VERIFIED, face="face") == Decision(Advance("dispatch"), (card,))


@pytest.mark.rule("WH-8")
def test_an_urgent_card_stays_at_the_centres_own_counter() -> None:
    decision = settled(case(application(priority="urgent")), VERIFIED)
    assert decision.outcome == Wait(None, "centre.counter")
    assert isinstance(decision.facts[0], CardProduced)


def test_a_verified_card_without_the_id_of_its_chip_is_a_defect() -> None:
    with pytest.raises(Defect, match="chip"):
        settled(case(), replace(VERIFIED, chip_id=None))


def test_a_spoiled_blank_is_followed_by_another_until_the_tries_are_used_up() -> None:
    report = EncodeReport(verdict="spoiled", problem="memory fails")
    fact = BlankSpoiled(serial="B1", problem="memory fails")
    most = POLICY.max_attempts.value
    assert settled(case(), report) == Decision(Wait(NOW, "blank.spoiled"), (fact,))
    last = settled(case(application(attempts=most)), report)
    assert isinstance(last.outcome, Hold)
    assert (last.outcome.reason.code, last.facts) == ("technical.exhausted", (fact,))


def test_an_untouched_blank_goes_back_and_the_application_tries_again_later_and_later() -> None:
    outcomes = [
        settled(case(application(attempts=n)), EncodeReport(verdict="untouched"))
        for n in range(1, POLICY.max_attempts.value + 1)
    ]
    assert all(decision.facts == (BlankReturned(serial="B1"),) for decision in outcomes)
    *waits, last = [decision.outcome for decision in outcomes]
    untils = [wait.until for wait in waits if isinstance(wait, Wait) and wait.until is not None]
    assert len(untils) == len(waits) > 1
    assert untils[0] > NOW
    assert untils == sorted(untils)
    assert isinstance(last, Hold)


def test_a_blank_that_cannot_be_written_is_named_with_its_problem_and_another_is_taken_at_once() -> None:
    report = EncodeReport(verdict="untouched", problem="the card cannot be read")
    for attempts in (1, POLICY.max_attempts.value):
        assert settled(case(application(attempts=attempts)), report) == Decision(
            Wait(NOW, "station.blank_refused"), (BlankReturned(serial="B1", problem="the card cannot be read"),)
        )


def test_a_chip_nobody_can_vouch_for_is_kept_apart_and_held() -> None:
    decision = settled(begun(), EncodeReport(verdict="unknown", problem="the card was lost"))
    assert decision.facts == (BlankQuarantined(serial="B1", problem="the card was lost"),)
    assert isinstance(decision.outcome, Hold)
    assert decision.outcome.reason.code == "chip.unknown"


PROBLEMS = (
    Problem("city", "city", "is not the 6-digit code of a city"),
    Problem("name", "no-glyph", "holds a character that the font cannot draw"),
    Problem("sex", "disagrees", "differs from the one in the social security number"),
)


def test_data_that_cannot_stand_on_a_card_is_held_with_every_problem_and_the_persons_field() -> None:
    about = case()
    decision = stage().settle(about, CardReply(request=prepared(about), problems=PROBLEMS), POLICY, NOW)
    assert isinstance(decision.outcome, Hold)
    reason = decision.outcome.reason
    assert (reason.code, reason.pointer) == ("card.data", "/person/name")
    assert all(told in reason.zh for told in ("姓名(no-glyph)", "性别(disagrees)", "city(city)"))
    assert all(problem.text in reason.en for problem in PROBLEMS)
    assert decision.facts == (BlankReturned(serial="B1"),)


def test_a_card_that_was_begun_never_goes_back_into_stock_because_of_its_data() -> None:
    about = begun()
    decision = stage().settle(about, CardReply(request=prepared(about), problems=PROBLEMS), POLICY, NOW)
    assert isinstance(decision.facts[0], BlankQuarantined)


@given(
    verdict=st.sampled_from(get_args(Verdict)),
    priority=st.sampled_from(["normal", "urgent"]),
    attempts=st.integers(1, 20),
    recovering=st.booleans(),
)
def test_every_verdict_accounts_for_the_blank_once_and_leads_where_the_states_allow(
    verdict: Verdict, priority: str, attempts: int, recovering: bool
) -> None:
    changed: dict[str, Any] = {"priority": priority, "attempts": attempts}
    about = begun(**changed) if recovering else case(application(**changed))
    decision = settled(about, EncodeReport(verdict=verdict, chip_id="C1"))
    (fact,) = decision.facts
    assert isinstance(fact, CardProduced) == (verdict == "verified")
    assert isinstance(fact, BlankReturned) == (verdict == "untouched")
    assert getattr(fact, "serial", None) == "B1"
    move("personalisation", "personalisation", decision.outcome, now=NOW)


def test_an_error_leaves_the_blank_bound() -> None:
    about = case()
    for error in (TransientError(), OutcomeUnknown(), Defect(), ValueError()):
        assert stage().failed(about, prepared(about), error) == ()


def test_requests_replies_and_reasons_show_no_personal_data() -> None:
    about = case()
    request = prepared(about)
    shown = repr((request, request.order(b"picture"), CardReply(request=request, problems=PROBLEMS), SHORTAGE))
    person = about.application.person
    assert not any(secret in shown for secret in (person.name, person.id_number, ACCOUNT.bank_card_number))
