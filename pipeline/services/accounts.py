"""Accounts in the card's later life: what a bank is to be told of them, and what people settle where a bank's word is missing.

To instruct is to commit the intent, in the transaction of the act that asks for it; the bank desk gives it (`services.bank_desk`),
in the order of each account. A bank is told of every freeze and every close once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pipeline.errors import Conflict, Defect, NotFound, Refused
from pipeline.identifiers import new_id, normalise_number
from pipeline.ports import Key
from pipeline.services.context import Context
from pipeline.services.operate import let_go
from pipeline.stages.account import CallSettled
from pipeline.store import accounts, audit, bank_books, bank_desk, unclaimed
from pipeline.store.bank_desk import Settled
from pipeline.store.engine import Tx
from pipeline.store.types import Record

PREFIXES: Mapping[str, str] = {
    "activate_financial": "af",
    "freeze_financial": "ff",
    "release_financial": "rf",
    "update_holder": "uh",
    "close_account": "ca",
}
"""What the key of an instruction begins with."""

Outcome = Literal["done", "declined", "not_received"]
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")


# ----------------------------------------------------------------------------------------------------------- instructing


def instruct(
    tx: Tx, *, operation: str, account_id: str, card_id: str | None, reason: str, actor: str, now: datetime
) -> Key | None:
    """Have the bank told, as part of the caller's act. `reason` is a word such as `lost` or `destroyed`: the bank gets it.

    Returns the instruction's key, or None when the bank knows or is about to be told: frozen already, activated with this card,
    not frozen at all, closing or closed. Locks the account: applications and cards are locked before.

    Raises:
        Refused: a reason that is no word; free text may hold what a bank is not to be told.
        NotFound: no such account.
        Defect: nothing that is instructed this way.
    """
    if operation not in PREFIXES:
        raise Defect(f"no instruction {operation}: there are {', '.join(PREFIXES)}")
    if not _WORD.fullmatch(reason):
        raise Refused(
            "告知银行的原因应为代码，如 lost、destroyed（小写字母、数字、下划线）",
            "the reason a bank is told is a word such as lost or destroyed (small letters, digits, underscores)",
            code="bad-reason",
        )
    account = bank_desk.lock(tx, [account_id]).get(account_id)
    if account is None:
        raise NotFound(f"没有账户 {account_id}", f"no such account: {account_id}")
    if account.status == "closed" or said_already(bank_desk.told(tx, account_id), operation, card_id):
        return None
    key = new_id(f"{PREFIXES[operation]}-", now=now, random=tx.random)
    bank_desk.add(tx, account, key=key, operation=operation, card_id=card_id, reason=reason, actor=actor, now=now)
    return key


def said_already(told: Sequence[Record], operation: str, card_id: str | None) -> bool:
    """Whether one more instruction would tell nothing new, after what was instructed and holds (`operation`, `card_id`), in order.

    A change of the holder's data is told every time: each may bring other data.
    """
    if operation in ("freeze_financial", "release_financial"):
        last = [call.operation for call in told if call.operation in ("freeze_financial", "release_financial")][-1:]
        return last == [operation] or (operation == "release_financial" and not last)
    if operation == "activate_financial":
        return any((call.operation, call.card_id) == (operation, card_id) for call in told)
    return operation == "close_account" and any(call.operation == operation for call in told)


def activate(context: Context, card_id: str, *, reason: str = "handed_over", actor: str) -> Key:
    """The account may be used: the card is in its holder's hands (LN-2, KL-11). Returns the key; raises as `freeze`."""
    return _told(context, "activate_financial", card_id, reason, actor)


def freeze(context: Context, card_id: str, *, reason: str, actor: str) -> Key:
    """Nothing may leave the card's account (KL-12, LN-4, DL-19, WH-15, SG-12). Returns the instruction's key.

    Raises:
        NotFound: no such card.
        Refused: the card has no account (`no-account`), or the reason is no word.
        Conflict: the account is closed (`account-closed`), or the bank knows or is about to be told (`told-already`).
    """
    return _told(context, "freeze_financial", card_id, reason, actor)


def release(context: Context, card_id: str, *, reason: str, actor: str) -> Key:
    """A freeze is over (KL-13, LN-5, DL-19, WH-16, SG-12). Raises as `freeze`, and `not-frozen` where nothing is to be released."""
    return _told(context, "release_financial", card_id, reason, actor)


def close(context: Context, card_id: str, *, reason: str, actor: str) -> Key:
    """The account ends (KL-16, DL-22, WH-17, SG-13); a bank declines while money is on it.

    Raises as `freeze`, and `to-be-collected` while a card of the account waits for its holder, who would be given a dead one.
    """
    return _told(context, "close_account", card_id, reason, actor)


def update_holder(context: Context, card_id: str, *, reason: str = "holder_changed", actor: str) -> Key:
    """The person's particulars have changed: the bank gets them as they are when it is told (LN-7(2)). Raises as `freeze`."""
    return _told(context, "update_holder", card_id, reason, actor)


def must_be_open(tx: Tx, card: Record) -> None:
    """A card goes to its person only with an account that lives on; one without an account passes. Locks the account.

    Raises:
        Conflict: the account is closed, or the bank is being told to close it (`account-closed`).
    """
    if card.account_id is None:
        return
    account = bank_desk.lock(tx, [card.account_id])[card.account_id]
    if account.status == "closed" or said_already(bank_desk.told(tx, account.id), "close_account", card.id):
        raise Conflict(
            "该卡的银行账户已注销，请本人重新申领",
            "the card's account is closed: the person applies anew",
            code="account-closed",
        )


def _told(context: Context, operation: str, card_id: str, reason: str, actor: str) -> Key:
    now = context.now()
    with context.store.transaction() as tx:
        account = bank_books.account_of_card(tx, card_id)
        if account is None:
            raise NotFound(f"没有卡片 {card_id}", f"no such card: {card_id}")
        if account.id is None:
            raise Refused(
                "该卡没有银行账户，无须通知银行", "the card has no account: no bank is told of it", code="no-account"
            )
        # Applications are locked before accounts, whatever comes of it.
        waiting = bank_books.to_be_collected(tx, account.id) if operation == "close_account" else None
        key = instruct(
            tx, operation=operation, account_id=account.id, card_id=card_id, reason=reason, actor=actor, now=now
        )
        if key is None:
            raise _nothing_to_tell(operation, closed=account.status == "closed")
        if waiting is not None:
            raise Conflict(
                f"卡片 {waiting} 尚待领取，不能销户；请先领取，或将卡退回中心",
                f"card {waiting} is still to be collected: close the account once it is handed over or back at the centre",
                code="to-be-collected",
            )
        detail = {"key": key, "reason": reason}
        audit.append(tx, actor=actor, action=f"bank.{operation}", target=card_id, now=now, detail=detail)
    return key


def _nothing_to_tell(operation: str, *, closed: bool) -> Conflict:
    if closed:
        return Conflict("该账户已销户", "the account is closed", code="account-closed")
    if operation == "release_financial":
        return Conflict(
            "该账户未冻结，或解冻已通知银行",
            "the account is not frozen, or its release was told already",
            code="not-frozen",
        )
    return Conflict(
        "银行已知晓，或该指令已在发送中；可用 zhika bank list 查看",
        "the bank knows, or is about to be told: see zhika bank list",
        code="told-already",
    )


# --------------------------------------------------------------------------------------------------------------- by hand


def listing(
    context: Context, *, bank_code: str | None = None, held: bool = False, limit: int = 200
) -> Sequence[Record]:
    """Instructions that are not settled, oldest first; `held`: only those that wait for a person."""
    with context.store.transaction() as tx:
        return bank_books.listing(tx, bank_code=bank_code, held=held, limit=limit)


def ask_again(context: Context, key: Key, *, actor: str) -> None:
    """The bank is asked now what became of an instruction; one that is held goes on by its answer, or is held again.

    One of an application that has ended is asked about by the desk (`services.unclaimed`).

    Raises:
        NotFound: no such instruction.
        Conflict: its end is known, or it is being asked about.
    """
    now = context.now()
    with context.store.transaction() as tx:
        call = _locked(tx, key)
        if call.state in ("done", "declined", "closed") and not call.held:
            raise Conflict("该指令已有结果", "the instruction is settled")
        if call.seq is None and not _left(tx, key):
            _release_applications(tx, key, reason="bank.asked", actor=actor, now=now)
        else:
            # What the bank declined is asked about too: it may have been told otherwise in the meantime.
            state = "unknown" if call.state == "declined" else call.state
            _write(tx, call, Settled(key=key, state=state, code=call.code, next_try_at=now), now=now)
        audit.append(tx, actor=actor, action="bank.ask", target=key, now=now)


def settle_by_hand(context: Context, key: Key, outcome: Outcome, *, by: str, approved_by: str, reason: str) -> None:
    """Two people settle what the bank told them by another way: done, declined, or never received (then it is given again).

    What it does to the account happens as if the bank had answered; later instructions about the account go on. An account that was
    opened and a card that was bound come with numbers, which only the bank's own answer may bring: they are asked about instead.

    Raises:
        NotFound: no such instruction.
        Refused: not two people, no reason, or `done` where the bank's numbers are needed (`ask-the-bank`).
        Conflict: the line is still at it by itself.
    """
    if not by.strip() or not approved_by.strip() or not reason.strip():
        raise Refused("须写明经办人、复核人和原因", "name who settles it, who approves, and why", code="required")
    if normalise_number(by) == normalise_number(approved_by):
        raise Refused("经办人与复核人必须是两个人", "who approves must be another person", code="same-person")
    now = context.now()
    with context.store.transaction() as tx:
        call = _locked(tx, key)
        if call.seq is None:
            _settle_for_stage(tx, call, outcome, reason=reason, actor=by, now=now)
        elif not call.held and call.state != "unknown":
            raise _busy()
        else:
            again = now if outcome == "not_received" else None
            code = call.code if call.state == outcome else "by_hand"
            _write(tx, call, Settled(key=key, state=outcome, code=code, next_try_at=again), now=now)
        detail = {"outcome": outcome, "approved_by": approved_by.strip(), "reason": reason.strip()}
        audit.append(tx, actor=by, action="bank.settle", target=key, now=now, detail=detail)


def _settle_for_stage(tx: Tx, call: Record, outcome: Outcome, *, reason: str, actor: str, now: datetime) -> None:
    if outcome == "done":
        raise Refused(
            "开户和换卡的结果须由银行答复带回账号与卡号：请银行补答后用 zhika bank ask 再次查询",
            "an account or a card comes with numbers that only the bank's answer brings: have it answer, then zhika bank ask",
            code="ask-the-bank",
        )
    if call.state not in ("intent", "unknown", "pending"):
        raise Conflict("该指令已有结果", "the instruction is settled")
    if not _left(tx, call.key):
        _release_applications(tx, call.key, reason=reason, actor=actor, now=now)
    accounts.write_settled(tx, [CallSettled(key=call.key, state=outcome, code="by_hand")], now=now)


def _release_applications(tx: Tx, key: Key, *, reason: str, actor: str, now: datetime) -> None:
    """The applications that wait for a person over this call go back to the account stage."""
    held = bank_books.held_up(tx, key)
    if not held:
        raise _busy()
    let_go(tx, held, reason=reason, actor=actor, now=now)


def _left(tx: Tx, key: Key) -> bool:
    """Whether no application asks about a call of the account stage any more.

    Raises:
        Conflict: the desk is just asking.
    """
    call = bank_books.find(tx, key)
    left = unclaimed.is_left(tx, key)
    if left and call is not None and call.lease_token is not None:
        raise _busy()
    return left


def _locked(tx: Tx, key: Key) -> Record:
    """The call, its account locked so that the desk settles nothing meanwhile."""
    call = bank_books.find(tx, key)
    if call is None:
        raise NotFound(f"没有银行指令 {key}", f"no such instruction: {key}")
    if call.account_id is not None:
        bank_desk.lock(tx, [call.account_id])
        call = bank_books.find(tx, key) or call
    return call


def _write(tx: Tx, call: Record, settled: Settled, *, now: datetime) -> None:
    about = [] if call.account_id is None else [call.account_id]
    if not bank_desk.settle(tx, [settled], accounts=about, token=None, now=now):
        raise _busy()


def _busy() -> Conflict:
    return Conflict(
        "该指令仍由系统自动处理，请稍后再试", "the line is still at this instruction by itself: try again later"
    )
