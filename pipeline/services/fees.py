"""Fees and waivers: what was paid, who need not pay, and what an agency accounts for each month (WH-13, WH-14, DL-18)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Literal

from pipeline.clock import SHANGHAI
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services.acts import not_personal, policy_of
from pipeline.services.context import Context
from pipeline.store import applications, audit, views
from pipeline.store import fees as store
from pipeline.store.engine import Tx
from pipeline.store.fees import Total
from pipeline.store.types import Record

Method = Literal["bank", "cash", "online"]
_MONTHS_A_YEAR = 12
_STANDS = {"due": ("未缴", "still due"), "paid": ("已缴", "paid"), "waived": ("已减免", "waived"),
           "refunded": ("已退", "refunded")}  # fmt: skip


def of(context: Context, name: str) -> list[Record]:
    """The fees of an application, by its id, acceptance number or external reference.

    Raises:
        NotFound: no such application.
    """
    with context.store.transaction() as tx:
        application_id = views.find(tx, name)
        if application_id is None:
            raise NotFound(f"没有申领 {name}", f"no such application: {name}")
        return store.of(tx, application_id)


def pay(context: Context, fee_id: str, *, amount_fen: int, method: Method, receipt_no: str, actor: str) -> None:
    """A fee was paid, whole, by this receipt (WH-13). The same receipt told again changes nothing.

    Raises:
        NotFound: no such fee.
        Conflict: it is settled in another way.
        Refused: no receipt, one that may be somebody's number, or another amount than is due.
    """
    receipt_no = _given(receipt_no, "缴费收据号", "the number of the receipt")
    now = context.now()
    with context.store.transaction() as tx:
        fee = _locked(tx, fee_id)
        if fee.status == "paid" and fee.receipt_no == receipt_no:
            return
        _must_be(fee, "due")
        if amount_fen != fee.amount_fen:
            raise Refused(
                f"应缴 {_yuan(fee.amount_fen)} 元，与所报金额不符，请核对收据",
                f"{fee.amount_fen} fen are due, not {amount_fen}: compare with the receipt",
                code="amount-mismatch",
            )
        store.pay(tx, [fee.id], receipt_no=receipt_no, method=method, actor=actor, now=now)
        audit.append(tx, actor=actor, action="fee.pay", target=fee.id, now=now, detail={"receipt_no": receipt_no})


def waive(context: Context, fee_id: str, *, ground: str, evidence: str, actor: str) -> None:
    """A fee is not asked for. `ground` is a word of the region's policy, `evidence` where the proof is filed (WH-14, DL-18).

    The same waiver told again changes nothing.

    Raises:
        NotFound: no such fee.
        Conflict: it is settled in another way.
        Refused: the region does not waive, or not on this ground; no evidence, or what may be somebody's number.
    """
    evidence = _given(evidence, "证明材料的编号", "where the proof is filed")
    now = context.now()
    with context.store.transaction() as tx:
        fee = _locked(tx, fee_id)
        if (fee.status, fee.ground, fee.evidence) == ("waived", ground, evidence):
            return
        _must_be(fee, "due")
        claimed = applications.load(tx, [fee.application_id])[fee.application_id]
        grounds = policy_of(context, claimed).fees.waivers
        if ground not in grounds.value:
            told = ", ".join(grounds.value)
            raise Refused(
                f"本地区不以此理由减免，可用理由: {told}" if told else "本地区不减免该费用，请按收据缴费",
                f"not a ground for a waiver here; there are: {told}"
                if told
                else "this region waives no fee: take the receipt",
                code="not-permitted-by-policy",
                rule=grounds.rule or (fee.rule if fee.rule != "default" else None),
            )
        store.waive(tx, fee.id, ground=ground, evidence=evidence, actor=actor, now=now)
        detail = {"ground": ground, "evidence": evidence}
        audit.append(tx, actor=actor, action="fee.waive", target=fee.id, now=now, detail=detail)


def refund(context: Context, fee_id: str, *, refund_no: str, actor: str) -> None:
    """A paid fee was given back under this number. It is not due again. The same refund told again changes nothing.

    Raises:
        NotFound: no such fee.
        Conflict: it is not paid.
        Refused: no number, or one that may be somebody's own.
    """
    refund_no = _given(refund_no, "退费凭证号", "the number of the refund")
    now = context.now()
    with context.store.transaction() as tx:
        fee = _locked(tx, fee_id)
        if fee.status == "refunded" and fee.refund_no == refund_no:
            return
        _must_be(fee, "paid")
        store.refund(tx, fee.id, refund_no=refund_no, actor=actor, now=now)
        audit.append(tx, actor=actor, action="fee.refund", target=fee.id, now=now, detail={"refund_no": refund_no})


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """An agency's month. `charged` arose in it, `due` was open at its end; `waivers` go to the centre for approval (WH-14)."""

    agency: str
    month: str
    charged: Total
    paid: Total
    waived: Total
    refunded: Total
    due: Total
    waivers: tuple[Record, ...]


def statement(context: Context, agency: str, month: date) -> Statement:
    """What an agency accounts for in a civil month of China; any day of the month names it (WH-13, WH-14).

    Raises:
        NotFound: nothing was ever handed in at this agency.
    """
    since = _midnight(month.year, month.month)
    years, next_month = divmod(month.month, _MONTHS_A_YEAR)
    until = _midnight(month.year + years, next_month + 1)
    with context.store.transaction() as tx:
        if not store.knows_agency(tx, agency):
            raise NotFound(f"没有经办机构 {agency}", f"no such agency: {agency}")
        totals = store.totals(tx, agency, since=since, until=until)
        waivers = store.waivers(tx, agency, since=since, until=until)
    return Statement(agency=agency, month=f"{month:%Y-%m}", waivers=tuple(waivers), **totals)


def _midnight(year: int, month: int) -> datetime:
    return datetime.combine(date(year, month, 1), time(), tzinfo=SHANGHAI)


def _locked(tx: Tx, fee_id: str) -> Record:
    fee = store.get(tx, fee_id)
    if fee is None:
        raise NotFound(f"没有费用 {fee_id}", f"no such fee: {fee_id}")
    return fee


def _must_be(fee: Record, status: str) -> None:
    if fee.status != status:
        zh, en = _STANDS[fee.status]
        raise Conflict(
            f"该费用{zh}，请核对收据或减免登记", f"the fee is {en}: look at its receipt or waiver", code="fee-settled"
        )


def _given(text: str, zh: str, en: str) -> str:
    if not text.strip():
        raise Refused(f"请填写{zh}", f"needs {en}", code="required")
    return not_personal(text.strip(), zh, en)


def _yuan(fen: int) -> str:
    return f"{fen / 100:.2f}"
