"""What bank tests tell a bank: sample people and every kind of instruction about them."""

from __future__ import annotations

from datetime import date
from itertools import count

from pipeline.person import Person
from pipeline.ports import (
    ActivateFinancial,
    BindCard,
    CardProduced,
    CloseAccount,
    Done,
    FreezeFinancial,
    Instruction,
    OpenAccount,
    ReleaseFinancial,
    UpdateHolder,
)

BANK = "95533"
_keys = count(1)


def sample_person(number: int = 1, *, phone: str = "13800000000") -> Person:
    """The sample person of that number."""
    return Person(
        name=f"李梅{number}", id_type="resident_id", id_number=f"9990011949{number:08d}",
        social_security_number="", sex="2", ethnic="01", birth_date=date(1949, 12, 31), phone=phone,
        address="北京市朝阳区", occupation="80000", id_valid_from=date(2015, 1, 1), id_valid_to=date(9999, 12, 31),
    )  # fmt: skip


def opening(number: int = 1, *, key: str | None = None, phone: str = "13800000000") -> OpenAccount:
    """The instruction to open an account for the sample person of that number."""
    return OpenAccount(
        key=key or f"oa-{number}-1", bank_code=BANK, branch="42010601", region="420100",
        holder=sample_person(number, phone=phone),
    )  # fmt: skip


def binding(account: Done, number: int = 1, *, key: str | None = None) -> BindCard:
    """A new card for the sample person's account."""
    return BindCard(
        key=key or _key("bc"), bank_code=BANK, branch="42010601", region="420100", account_ref=account.account_ref,
        holder=sample_person(number),
    )  # fmt: skip


def produced(account: Done, *, key: str | None = None) -> CardProduced:
    """The card of an account was made."""
    return CardProduced(
        key=key or _key("cp"), bank_code=BANK, account_ref=account.account_ref, card_number=account.card_number,
        chip_id="4250DC000001", card_serial="S0000001", issued=date(2026, 11, 23), expires=date(2036, 11, 23),
    )  # fmt: skip


def activating(account: Done, *, key: str | None = None) -> ActivateFinancial:
    """The card is in its holder's hands."""
    return ActivateFinancial(
        key=key or _key("af"), bank_code=BANK, account_ref=account.account_ref, card_number=account.card_number
    )


def freezing(account: Done, *, key: str | None = None) -> FreezeFinancial:
    """The card is reported lost."""
    return FreezeFinancial(
        key=key or _key("ff"), bank_code=BANK, account_ref=account.account_ref, card_number=account.card_number,
        reason="loss",
    )  # fmt: skip


def releasing(account: Done, *, key: str | None = None) -> ReleaseFinancial:
    """The card is found again."""
    return ReleaseFinancial(
        key=key or _key("rf"), bank_code=BANK, account_ref=account.account_ref, card_number=account.card_number,
        reason="found",
    )  # fmt: skip


def updating(account: Done, number: int = 1, *, phone: str = "13900000000", key: str | None = None) -> UpdateHolder:
    """The sample person has another telephone."""
    return UpdateHolder(
        key=key or _key("uh"),
        bank_code=BANK,
        account_ref=account.account_ref,
        holder=sample_person(number, phone=phone),
    )


def closing(account: Done, *, key: str | None = None) -> CloseAccount:
    """The account ends."""
    return CloseAccount(key=key or _key("ca"), bank_code=BANK, account_ref=account.account_ref, reason="destroyed")


def all_about(account: Done) -> list[Instruction]:
    """One instruction of each kind about an account, in the order of a card's life."""
    return [
        produced(account), activating(account), updating(account), freezing(account), releasing(account),
        binding(account), closing(account),
    ]  # fmt: skip


def _key(prefix: str) -> str:
    return f"{prefix}-{next(_keys)}"
