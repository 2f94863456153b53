"""What a bank's refusal means here: its codes and wordings as a table, ours beside them.

There is no common list of codes or wordings: both are ours, and a bank's words are mapped by adding to the table. A bank's own code is
looked up first, then its wording by the phrases below; what neither matches is for an operator. A bank's free text is shown to
nobody: it may hold anything, a person's data too. What our own side finds unwritable names a field in a form of its own, and is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.outcomes import Reason

Disposition = Literal["correct", "hold", "reject", "wait", "exception"]
"""What follows a refusal. `exception`: this person cannot have an account here; the region says what then (KL-25)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of refusal: the reason as people read it and what follows.

    `code` and `wordings` are what gateways hand on from the banks; a wording matches wherever it stands in the bank's text.
    """

    reason: Reason
    disposition: Disposition
    code: str
    wordings: tuple[str, ...] = ()


def _refusal(
    code: str,
    disposition: Disposition,
    zh: str,
    en: str,
    *wordings: str,
    pointer: str | None = None,
) -> Refusal:
    reason = Reason(code=f"bank.{code}", zh=zh, en=en, pointer=pointer, final=disposition == "reject")
    return Refusal(reason=reason, disposition=disposition, code=code, wordings=wordings)


# The order counts: the first wording that matches wins, so the narrower stand first.
TABLE: tuple[Refusal, ...] = (
    _refusal(
        "name_mismatch", "correct",
        "银行核实姓名与证件号码不符，请核对后重新提交", "The bank found that name and document number do not belong together; check both",
        "姓名与证件号不符", "姓名与证件号码不符", "联网核查失败", pointer="/person/name",
    ),
    _refusal(
        "id_invalid", "correct",
        "银行无法识别证件号码，请核对后重新提交", "The bank cannot read the document number; check it",
        "证件号格式错", "证件号码格式错", pointer="/person/id_number",
    ),
    _refusal(
        "id_expired", "correct",
        "证件已过有效期，请更换证件后重新提交", "The identity document has expired; send a valid one",
        "证件过期", "证件已过期", pointer="/person/id_valid_to",
    ),
    _refusal(
        "phone_invalid", "correct",
        "手机号码无效或已被他人使用，请更正后重新提交", "The mobile number is invalid or used for another person; correct it",
        "手机号无效", "手机号码无效", "一号多人", pointer="/person/phone",
    ),
    _refusal(
        "nine_items_missing", "correct",
        "银行开户所需的个人信息不全，请补齐后重新提交", "Particulars that a bank needs for an account are missing; complete them",
        "九项信息不全", pointer="/person",
    ),
    _refusal(
        "guardian_required", "correct",
        "未满16周岁须由监护人办理，请补充监护人信息", "Under 16 a guardian has to act; add the guardian",
        "未满16周岁无监护人", "无监护人", pointer="/guardian",
    ),
    _refusal(
        "field_too_long", "correct",
        "有信息超出银行允许的长度，请缩短后重新提交", "Something is longer than the bank can take; shorten it",
        "字段超长", pointer="/person",
    ),
    _refusal(
        "card_exists", "hold",
        "申请人在该银行已有社保卡账户，须人工核实", "The bank has issued this person a social security card before; to be looked into",
        "已有本行社保卡",
    ),
    _refusal(
        "account_exists", "hold",
        "申请人在该银行已有账户，须人工核实", "The person has an account of this class at the bank; to be looked into",
        "已有Ⅰ类户", "已有I类户",
    ),
    _refusal(
        "not_eligible", "exception",
        "申请人不符合该银行的开户条件", "This person cannot have an account at this bank",
        "不符合开户条件", "未成年人不予开户", "外籍人士不予开户",
    ),
    _refusal("duplicate_record", "hold", "银行提示记录重复，须人工核实", "The bank reports a double record; to be looked into", "记录重复"),
    _refusal("customer_ambiguous", "hold", "银行客户信息不唯一，须人工核实", "The bank knows several customers like this; to be looked into",
             "客户信息多重"),
    _refusal("rare_character", "hold", "银行系统无法处理姓名中的生僻字，须人工办理", "The bank cannot write a character of the name; done by hand",
             "生僻字无法处理", pointer="/person/name"),
    _refusal("verification_unavailable", "wait", "银行暂时无法联网核查，将自动重试", "The bank cannot verify identities at present; tried again by itself",
             "公安库网络异常"),
    _refusal(
        "not_supported", "hold",
        "该银行的批量文件无法表示此项内容或业务，须人工核对网点、代码等资料或改由其他方式办理",
        "The bank's batch files cannot say this; check outlet and codes, or do it by another way",
        "批量文件不支持",
    ),
    _refusal("deceased", "reject", "银行核查结果不支持开户", "The bank's check does not allow an account", "已死亡"),
    _refusal("listed", "reject", "银行依规定不予开户，请向开户银行咨询", "The bank may not open an account; ask the bank", "黑名单", "涉案名单"),
)  # fmt: skip

OTHER = Refusal(
    reason=Reason(
        code="bank.other",
        zh="银行未予开户，须人工核实原因",
        en="The bank did not open the account; its reason is being looked into",
    ),
    disposition="hold",
    code="",
)


FIELDS: Mapping[str, str] = {
    "name": "/person/name", "sex": "/person/sex", "id_type": "/person/id_type", "id_number": "/person/id_number",
    "ethnic": "/person/ethnic", "nationality": "/person/nationality", "birth_place": "/person/birth_place",
    "birth_date": "/person/birth_date", "mobile": "/person/phone", "address": "/person/address", "outlet": "/outlet",
    "guardian_name": "/guardian/name", "guardian_sex": "/guardian/id_number", "guardian_id_type": "/guardian/id_type",
    "guardian_id_number": "/guardian/id_number", "key": "",
}  # fmt: skip
"""Fields that a file to a bank may have no room for, and where in an application each comes from."""

_UNWRITABLE = re.compile(rf"(?:超过 ([0-9]{{1,3}}) 字节|GBK 无法表示的字符)：({'|'.join(FIELDS)})")


def too_long(field: str, most_bytes: int) -> str:
    """The text of a refusal of ours: a field has more bytes of GBK than the bank's record."""
    return f"超过 {most_bytes} 字节：{field}"


def not_in_gbk(field: str) -> str:
    """The text of a refusal of ours: a field holds a character that GBK has not."""
    return f"GBK 无法表示的字符：{field}"


def refusal(code: str, text: str) -> Refusal:
    """What a bank's refusal means: by its code, else by its wording, else `OTHER`. A refusal of ours names its field."""
    by_code = next((entry for entry in TABLE if entry.code == code), None)
    by_wording = next((entry for entry in TABLE if any(wording in text for wording in entry.wordings)), None)
    found = by_code or by_wording or OTHER
    named = _UNWRITABLE.fullmatch(text)
    return found if named is None else replace(found, reason=_naming(found.reason, text, named[2], named[1]))


def _naming(reason: Reason, text: str, field: str, most_bytes: str | None) -> Reason:
    told = f"longer than {most_bytes} bytes" if most_bytes else "a character that GBK has not"
    pointer = FIELDS[field] or reason.pointer
    return replace(reason, zh=f"{reason.zh}（{text}）", en=f"{reason.en} ({told}: {field})", pointer=pointer)
