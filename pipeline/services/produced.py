"""What a produced card must carry: the order it was made from, put together again from the database."""

from __future__ import annotations

from pipeline.errors import Defect, NotFound
from pipeline.ports import EncodeOrder
from pipeline.services.context import Context
from pipeline.store import accounts, applications, views


def order_of_chip(context: Context, chip_id: str) -> EncodeOrder:
    """The order behind the chip of a produced card; it carries no picture.

    Raises:
        NotFound: no card of this installation has this chip.
        Defect: the bank of the application is gone from its region's policy.
    """
    with context.store.transaction() as tx:
        card = views.card_of_chip(tx, chip_id)
        if card is None:
            raise NotFound("本系统没有制作过这张卡", "no card made here has this chip")
        application = applications.load(tx, [card.application_id])[card.application_id].application
        number = None if card.sealed is None else accounts.number_of_card(tx, card.id, card.sealed)
    policy = context.policies.of(application.region, application.policy_version)
    bank = policy.banks.get(application.bank_code)
    if bank is None:
        raise Defect(f"region {application.region} has no bank {application.bank_code}")
    _, profile = policy.kind_of_card(application.bank_code, account=card.account_id is not None)
    return EncodeOrder(
        application_id=application.id,
        blank_serial=card.blank_serial,
        profile=profile,
        holder=application.person,
        card_number=card.card_number,
        city=policy.city,
        initialiser_tail=policy.initialiser_tail.value,
        issued=card.issued_on,
        expires=card.expires_on,
        bank_name=bank.zh,
        bank_card_number=number,
    )
