"""Stock: what people do with blanks. Each verb locks what it moves, and writes rows, ledger and audit in one transaction.

Blanks are received, issued to a station under a production job (制卡批次), given back unused, written off, destroyed. What the
line does with them between is the personalisation stage's. A refusal changes nothing, and names serials or lines of the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.errors import Conflict, NotFound, Refused
from pipeline.identifiers import BLANK_SERIAL, normalise_number
from pipeline.services.context import Context
from pipeline.services.operate import let_go
from pipeline.store import applications, audit, stock
from pipeline.store.engine import Tx
from pipeline.store.stock import Act, JobFigures
from pipeline.store.types import Record

CENTRE = "centre"
"""Where blanks lie in stock unless told otherwise."""

Adjustment = Literal["missing", "found"]
Finding = Literal["spoiled", "read-again"]
"""What two people decide of a card whose chip they read: it is scrap, or the station is to read it once more."""

_NAMED = 5


# --------------------------------------------------------------------------------------------------------- in and out


def receive(
    context: Context,
    lines: Sequence[str],
    *,
    blank_type: str,
    lot: str,
    note: str | None = None,
    location: str = CENTRE,
    actor: str,
) -> int:
    """Blanks come into stock by a list with a serial a line; a list with a fault is refused whole. `note`: the delivery note.

    Returns how many.

    Raises:
        Refused: no line, an empty or malformed one, a serial that stands twice in the list or was received before.
    """
    now = context.now()
    serials = _listed(lines)
    with context.store.transaction() as tx:
        act = Act(at=now, actor=_person(actor), document=note)
        new = set(stock.receive(tx, serials, blank_type=blank_type, lot=lot, location=location, act=act))
        if known := [n for n, serial in enumerate(serials, 1) if serial not in new]:
            raise _faulty(known, "序列号已登记过", "received before", code="blank.known")
        detail = {"count": len(serials), "type": blank_type, "location": location, "note": note}
        audit.append(tx, actor=actor, action="blank.receive", target=lot, now=now, detail=detail)
    return len(serials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Blanks that went to a station."""

    job_id: str
    serials: tuple[str, ...]


def issue(
    context: Context,
    wanted: int | Sequence[str],
    *,
    station: str,
    blank_type: str,
    job_id: str | None = None,
    location: str = CENTRE,
    actor: str,
) -> Issued:
    """Blanks go to a station, so many or by their serials: under a new production job, or under one that is open there.

    Raises:
        NotFound: no such job, or no such blank.
        Conflict: the job is closed or another station's, a blank is not free in stock, or there are not so many.
        Refused: nothing was asked for, or a serial is malformed or named twice.
    """
    now = context.now()
    with context.store.transaction() as tx:
        if job_id is None:
            job_id = stock.open_job(tx, blank_type=blank_type, station=station, actor=_person(actor), now=now)
        elif (job := _open_job(tx, job_id)).station != station or job.type != blank_type:
            raise Conflict(
                f"制卡批次 {job_id} 属于工位 {job.station}、卡型 {job.type}",
                f"production job {job_id} is of station {job.station} and type {job.type}",
            )
        if isinstance(wanted, int):
            serials = _counted(tx, wanted, blank_type=blank_type, location=location)
        else:
            serials = _listed(wanted)
            rows = _known(tx, serials)
            free = {s for s, row in rows.items() if _free(row) and row.type == blank_type}
            _all_in(serials, free, rows, "不在库中或卡型不符", "are not free in stock, or of another type")
        stock.issue(tx, serials, job_id=job_id, station=station, act=Act(at=now, actor=actor))
        detail = {"count": len(serials), "station": station, "type": blank_type}
        audit.append(tx, actor=actor, action="blank.issue", target=job_id, now=now, detail=detail)
    return Issued(job_id=job_id, serials=tuple(serials))


def _counted(tx: Tx, count: int, *, blank_type: str, location: str) -> list[str]:
    if count < 1:
        raise Refused("发放数量至少为 1", "at least one blank is issued", code="required")
    serials = stock.pick(tx, blank_type=blank_type, location=location, count=count)
    if len(serials) < count:
        raise Conflict(
            f"{location} 只有 {len(serials)} 张未发放的 {blank_type} 空白卡，需要 {count} 张；请先入库",
            f"{location} has {len(serials)} blanks of type {blank_type} to issue, not {count}: receive some first",
            code="blank.shortage",
        )
    return serials


def give_back(
    context: Context, job_id: str, counted: int | Sequence[str], *, location: str = CENTRE, actor: str
) -> int:
    """Unused blanks of a job are counted and go back into stock: by their serials, or all of them by their number.

    A number that is not what the books say is refused: it is counted again, or what is missing is adjusted by two people.
    Returns how many.

    Raises:
        NotFound: no such job, or no such blank.
        Conflict: the job is closed, a blank is not an unused one of it, or the count differs.
        Refused: a serial is malformed or named twice, or none is.
    """
    now = context.now()
    with context.store.transaction() as tx:
        _open_job(tx, job_id)
        unused = stock.unused(tx, job_id)
        if not isinstance(counted, int):
            serials = _listed(counted)
            rows = _known(tx, serials)
            _all_in(serials, set(unused), rows, f"不是批次 {job_id} 未用的空白卡", f"are not unused blanks of {job_id}")
        elif counted == len(unused):
            serials = unused
        else:
            raise Conflict(
                f"清点为 {counted} 张，系统记录未用 {len(unused)} 张；请重新清点，缺失的须双人登记 (zhika blank adjust)",
                f"counted {counted}, but {len(unused)} are on the books as unused: count again, or two people adjust what is missing",
                code="blank.count-differs",
            )
        stock.give_back(tx, serials, location=location, act=Act(at=now, actor=_person(actor)))
        detail = {"count": len(serials), "location": location}
        audit.append(tx, actor=actor, action="blank.return", target=job_id, now=now, detail=detail)
    return len(serials)


# -------------------------------------------------------------------------------------------------------- writing off


def spoil(context: Context, serials: Sequence[str], *, reason: str, actor: str) -> int:
    """Blanks that nothing was written on are damaged: they will not become cards. Returns how many.

    Raises:
        NotFound: no such blank.
        Conflict: one is not in stock or unused at its station.
        Refused: no reason, no serial, or a malformed one.
    """
    listed = _listed(serials)
    act = Act(at=context.now(), actor=_person(actor), reason=_because(reason))
    with context.store.transaction() as tx:
        _written_off(tx, listed, "spoiled", ("stocked",), act, action="blank.spoil", target=None)
    return len(listed)


def adjust(context: Context, serials: Sequence[str], *, as_: Adjustment, reason: str, actor: str, witness: str) -> int:
    """Two people put the books right: a blank is missing, or a missing one was found; that one becomes scrap. Returns how many.

    Raises:
        NotFound: no such blank.
        Conflict: one is not where it could be missed, or was not missing.
        Refused: no reason, no serial, or not two people.
    """
    listed = _listed(serials)
    act = _two_people(context.now(), actor, witness, reason)
    states = ("stocked",) if as_ == "missing" else ("missing",)
    with context.store.transaction() as tx:
        _written_off(tx, listed, as_, states, act, action="blank.adjust", target=None)
    return len(listed)


def destroy(
    context: Context, serials: Sequence[str], *, certificate: str, reason: str, actor: str, witness: str
) -> Mapping[str, str]:
    """Two people destroy spoiled blanks under a certificate; returns why each of them was spoiled, for the paper.

    Raises:
        NotFound: no such blank.
        Conflict: one is not spoiled, or the certificate was used before.
        Refused: no certificate, no reason, no serial, or not two people.
    """
    listed = _listed(serials)
    if not certificate.strip():
        raise Refused("销毁须有证明编号", "a destruction needs the number of its certificate", code="required")
    act = _two_people(context.now(), actor, witness, reason, document=certificate.strip())
    with context.store.transaction() as tx:
        if stock.certificate_known(tx, certificate.strip()):
            raise Conflict(
                f"销毁证明 {certificate} 已使用过",
                f"certificate {certificate} was used before",
                code="blank.certificate-used",
            )
        rows = _written_off(
            tx, listed, "destroyed", ("spoiled", "test"), act, action="blank.destroy", target=act.document
        )
    return {serial: str(rows[serial].problem or "") for serial in listed}


def settle(context: Context, serial: str, *, as_: Finding, reason: str, actor: str, witness: str) -> str | None:
    """Two people have read a card whose chip the station could not tell; its application goes on. Returns the application.

    `spoiled`: the blank is written off and the card is made on another one. `read-again`: the blank stays bound, and its station
    reads it once more. It never goes back into stock, and never to another person. Only a blank that was set aside untouched, and
    so has no application, can be taken by any when it is to be read again.

    Raises:
        NotFound: no such blank.
        Conflict: it is not in quarantine, or its application is being worked on.
        Refused: no reason, or not two people.
    """
    now = context.now()
    act = _two_people(now, actor, witness, reason)
    [serial] = _listed([serial])
    with context.store.transaction() as tx:
        # The application first, then the blank: everybody's order.
        application_id: str | None = _known(tx, [serial], lock=False)[serial].application_id
        held = applications.load(tx, [application_id] if application_id else [], lock=True).get(application_id or "")
        row = _known(tx, [serial])[serial]
        if row.application_id != application_id or row.state not in stock.UNSETTLED:
            raise Conflict(
                f"空白卡 {serial} 不在隔离中（{row.state}）", f"blank {serial} is not in quarantine (it is {row.state})"
            )
        if held is not None and held.application.status != "held":
            raise Conflict(
                f"申领 {application_id} 未被挂起，工位正在处理空白卡 {serial}",
                f"application {application_id} is not held: its station is working on blank {serial}",
            )
        if as_ == "spoiled":
            stock.write_off(tx, [serial], "spoiled", act)
        elif held is None:
            stock.put_back(tx, [serial], act)
        detail = {"as": as_, "reason": act.reason, "witness": witness, "application": application_id}
        audit.append(tx, actor=actor, action="blank.settle", target=serial, now=now, detail=detail)
        if held is not None:
            let_go(tx, [held.application.id], reason=f"blank {as_}: {act.reason}", actor=actor, now=now)
    return application_id


def _written_off(
    tx: Tx, serials: Sequence[str], event: str, states: Sequence[str], act: Act, *, action: str, target: str | None
) -> dict[str, Record]:
    rows = _known(tx, serials)
    wanted = " / ".join(states)
    _all_in(
        serials,
        {s for s, row in rows.items() if row.state in states},
        rows,
        f"的状态不是 {wanted}",
        f"are not {wanted}",
    )
    stock.write_off(tx, serials, event, act)
    why = {serial: rows[serial].problem or act.reason for serial in serials}
    detail = {"as": event, "reason": act.reason, "witness": act.witness, "blanks": why}
    audit.append(tx, actor=act.actor or "", action=action, target=target or serials[0], now=act.at, detail=detail)
    return rows


# ----------------------------------------------------------------------------------------------------- production jobs


def close_job(context: Context, job_id: str, *, actor: str) -> JobFigures:
    """Sign a production job whose blanks are all accounted for. Whoever opened it does not sign it.

    Raises:
        NotFound: no such job.
        Conflict: it is closed, its blanks do not add up, or some are still out.
        Refused: the same person opened it.
    """
    now = context.now()
    with context.store.transaction() as tx:
        job = _open_job(tx, job_id)
        if _same(job.opened_by, _person(actor)):
            raise Refused(
                f"批次由 {job.opened_by} 开立，须由另一人关闭",
                f"{job.opened_by} opened this job: another person closes it",
                code="same-person",
            )
        figures = stock.figures(tx, [job_id])[job_id]
        if not figures.balanced:
            raise Conflict(
                f"批次不平衡：发放 {figures.issued} ≠ 成品 {figures.good} + 报废 {figures.spoiled} + 退回 {figures.returned}"
                f" + 缺失 {figures.missing}；未用 {figures.unused}，制卡中 {figures.in_hand}，隔离 {figures.quarantined}，"
                f"去向不明 {figures.unaccounted}",
                f"the job does not balance: issued {figures.issued}, good {figures.good}, spoiled {figures.spoiled},"
                f" returned {figures.returned}, missing {figures.missing}; still out: {figures.unused} unused,"
                f" {figures.in_hand} in hand, {figures.quarantined} in quarantine; unaccounted {figures.unaccounted}",
                code="blank.unbalanced",
            )
        stock.close_job(tx, job_id, figures, actor=actor, now=now)
        detail = {"opened_by": job.opened_by, "issued": figures.issued, "good": figures.good}
        detail |= {"spoiled": figures.spoiled, "returned": figures.returned, "missing": figures.missing}
        audit.append(tx, actor=actor, action="blank.job_close", target=job_id, now=now, detail=detail)
    return figures


def _open_job(tx: Tx, job_id: str) -> Record:
    job = stock.job(tx, job_id)
    if job is None:
        raise NotFound(f"没有制卡批次 {job_id}", f"no such production job: {job_id}")
    if job.state != "open":
        raise Conflict(f"制卡批次 {job_id} 已关闭", f"production job {job_id} is closed")
    return job


# ------------------------------------------------------------------------------------------------------------- looking


def history(context: Context, serial: str) -> list[Record]:
    """What befell a blank, oldest first.

    Raises:
        NotFound: no such blank.
        Refused: a malformed serial.
    """
    [serial] = _listed([serial])
    with context.store.transaction() as tx:
        _known(tx, [serial], lock=False)
        return stock.lines(tx, serial)


# ------------------------------------------------------------------------------------------------------------- judging


def _listed(lines: Sequence[str]) -> list[str]:
    """The serials of a list, as they are kept; lines count from 1.

    Raises:
        Refused: no line, a malformed one, or a serial that stands twice.
    """
    serials = [normalise_number(line) for line in lines]
    if not serials:
        raise Refused("没有给出空白卡序列号", "no serial was given", code="required")
    if wrong := [n for n, serial in enumerate(serials, 1) if not BLANK_SERIAL.fullmatch(serial)]:
        raise _faulty(
            wrong,
            "不是空白卡序列号（数字、大写字母和 . _ / -，至多 40 个）",
            "no serial of a blank (digits, letters and . _ / -, at most 40)",
            code="blank.serial",
        )
    first: dict[str, int] = {}
    twice = [n for n, serial in enumerate(serials, 1) if first.setdefault(serial, n) != n]
    if twice:
        raise _faulty(twice, "与前面的行重复", "the same serial as in a line before", code="blank.duplicate")
    return serials


def _faulty(lines: Sequence[int], zh: str, en: str, *, code: str) -> Refused:
    named = [str(n) for n in lines[:_NAMED]]
    more = len(lines) > _NAMED
    return Refused(
        f"第 {'、'.join(named)} 行{f'等 {len(lines)} 行' if more else ''}{zh}",
        f"line {', '.join(named)}{f' and {len(lines) - _NAMED} more' if more else ''}: {en}",
        code=code,
    )


def _known(tx: Tx, serials: Sequence[str], *, lock: bool = True) -> dict[str, Record]:
    rows = stock.find(tx, serials, lock=lock)
    if strange := [serial for serial in serials if serial not in rows]:
        raise NotFound(f"没有空白卡 {_some(strange)}", f"no such blank: {_some(strange)}", code="blank.unknown")
    return rows


def _free(row: Record) -> bool:
    return row.state == "stocked" and row.station is None


def _all_in(serials: Sequence[str], allowed: set[str], rows: Mapping[str, Record], zh: str, en: str) -> None:
    if strange := [serial for serial in serials if serial not in allowed]:
        named = _some([f"{s} ({rows[s].state}, {rows[s].location})" for s in strange])
        raise Conflict(f"空白卡 {named} {zh}", f"blanks {named} {en}", code="blank.wrong-state")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" … ({len(names)})" if len(names) > _NAMED else "")


def _two_people(now: datetime, actor: str, witness: str, reason: str, *, document: str | None = None) -> Act:
    """An act of two people.

    Raises:
        Refused: one of them is not named, both are the same, or no reason is given.
    """
    if _same(_person(actor), _person(witness)):
        raise Refused("经办人与见证人必须是两个人", "the witness must be another person", code="same-person")
    return Act(at=now, actor=actor, witness=witness, reason=_because(reason), document=document)


def _person(name: str) -> str:
    if not name.strip():
        raise Refused("须写明操作人", "name the person who does it", code="required")
    return name


def _same(one: str, other: str) -> bool:
    return normalise_number(one) == normalise_number(other)


def _because(reason: str) -> str:
    if not reason.strip():
        raise Refused("须写明原因", "give the reason", code="required")
    return reason.strip()
