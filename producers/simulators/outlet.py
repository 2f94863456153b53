"""The people at the other end, simulated: couriers, outlets' clerks, applicants and the centre's storekeeper.

They only use the services that real ones do. What goes wrong on the way is fixed by the acceptance number (`applicants`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.application import Application
from pipeline.errors import Conflict
from pipeline.services import bundles as bundling
from pipeline.services import counter, destruction, discrepancies, fees, returns, storage
from pipeline.services.context import Context
from pipeline.store import applications, destructions, handing, views
from pipeline.store import custody as store
from pipeline.store import discrepancies as differences
from pipeline.store.applications import Claimed
from producers.simulators.applicants import (
    Chance,
    asks_again,
    broken,
    nine_in_ten,
    nobody,
    one_in,
    overlooked,
    refuser,
    visit,
    waiver,
)

__all__ = ["COURIER", "Outlets", "broken", "nine_in_ten", "refuser"]

COURIER = "courier_1"
STOREKEEPER, WITNESS = "storekeeper", "auditor"
_PAYS_AHEAD = one_in(3, "pays ahead")
_WRONG_TRAY = one_in(15, "wrong tray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Every outlet of the installation, and the centre's store.

    `comes(acceptance number)` says whether an applicant will ever come for the card by themselves, `mislaid` whether a card is
    overlooked when its bundle is opened, `damaged` whether it arrives broken: it is made again then, which takes a blank. `refuses`
    says whether they do not want the card when they hear of it.
    """

    context: Context
    comes: Chance
    mislaid: Chance = overlooked
    damaged: Chance = nobody
    refuses: Chance = nobody

    def seal(self) -> int:
        """The dispatcher closes every bundle as full as it is."""
        bundles = self._bundles("packing", "out")
        for bundle in bundles:
            with _somebody_was_quicker():
                bundling.seal_now(self.context, bundle.id, actor="dispatcher")
        return len(bundles)

    def ship(self) -> int:
        """The courier fetches every sealed bundle."""
        bundles = self._bundles("sealed", "out")
        for bundle in bundles:
            with _somebody_was_quicker():
                bundling.ship(self.context, bundle.id, carrier=COURIER, actor="dispatcher")
        return len(bundles)

    def receive(self) -> int:
        """Outlets look again for what they missed, then sign for what arrives. Returns how many bundles."""
        looked = sum(self._look_again(bundle) for bundle in self._bundles("disputed", "out"))
        bundles = self._bundles("shipped", "out")
        for bundle in bundles:
            listed = self._listed(bundle)
            mislaid = [card for card, app in listed.items() if self.mislaid(app.acceptance_no)]
            spoilt = [card for card, app in listed.items() if card not in mislaid and self._arrives_broken(app)]
            bundling.receive(
                self.context,
                bundle.id,
                outlet=bundle.outlet,
                seal_no=bundle.seal_no,
                missing=mislaid,
                damaged=spoilt,
                actor=_clerk(bundle.outlet),
            )
        return looked + len(bundles)

    def give_notices(self) -> int:
        """Clerks tell applicants whose card has come."""
        told = 0
        for outlet, card in self._cards("delivered"):
            with _somebody_was_quicker():
                counter.give_notice(self.context, card.card, outlet=outlet, method="sms", actor=_clerk(outlet))
                told += 1
        return told

    def collect(self) -> int:
        """Applicants who come take their card."""
        taken = 0
        for outlet, card in self._cards("notified"):
            if self.refuses(card.acceptance_no):
                continue
            if self.comes(card.acceptance_no) or self._asked_again(card):
                with _somebody_was_quicker():
                    self._hand_over(card, outlet)
                    taken += 1
        return taken

    def refuse(self) -> int:
        """Clerks set aside the cards of applicants who do not want them."""
        refused = 0
        for outlet, card in self._cards("notified"):
            if self.refuses(card.acceptance_no):
                with _somebody_was_quicker():
                    returns.ask_back(self.context, card.card, outlet=outlet, reason="refused", actor=_clerk(outlet))
                    refused += 1
        return refused

    def collect_at_centre(self) -> int:
        """Applicants with an urgent card take it at the centre's own counter."""
        with self.context.store.transaction() as tx:
            cards = views.at_centre_counter(tx)
        for card in cards:
            self._hand_over(card, None)
        return len(cards)

    def send_back(self) -> int:
        """Outlets give the courier what was called back or set aside, and the storekeeper signs for it. Returns how many cards."""
        waiting: dict[str, list[str]] = defaultdict(list)
        with self.context.store.transaction() as tx:
            for row in handing.going_back(tx):
                waiting[row.outlet].append(row.card)
        for outlet, cards in waiting.items():
            seal = "B" + hashlib.sha256("".join(cards).encode()).hexdigest()[:10].upper()
            returns.send_back(self.context, cards, outlet=outlet, seal_no=seal, carrier=COURIER, actor=_clerk(outlet))
        for bundle in self._bundles("shipped", "back"):
            returns.receive_back(self.context, bundle.id, seal_no=bundle.seal_no, actor=STOREKEEPER)
        return sum(map(len, waiting.values()))

    def reissue(self) -> int:
        """Every second one who did not come asks the storekeeper for the card, where the region gives it out again (WH-11)."""
        with self.context.store.transaction() as tx:
            stored = [
                row.application for row in destructions.stored(tx, now=self.context.now()) if row.ending == "kept"
            ]
            apps = applications.load(tx, stored)
        asking = [claimed.application for claimed in apps.values() if asks_again(claimed.application.acceptance_no)]
        sent = 0
        for app in asking:
            if self.context.policies.of(app.region, app.policy_version).returned.reissue.value:
                with _somebody_was_quicker():
                    storage.reissue(self.context, app.id, outlet=app.outlet, actor=STOREKEEPER)
                    sent += 1
        return sent

    def destroy(self) -> int:
        """The storekeeper and a witness destroy what is due (WH-12). Returns how many cards."""
        with self.context.store.transaction() as tx:
            due = destructions.stored(tx, now=self.context.now(), due=True)
        if not due:
            return 0
        cards = [row.card for row in due]
        with _somebody_was_quicker():
            listed = destruction.list_for_destruction(self.context, cards, reason="到期或作废", actor=STOREKEEPER)
            destruction.destroy(self.context, listed, destroyed_by=STOREKEEPER, witness=WITNESS, actor=STOREKEEPER)
        return len(cards)

    def _look_again(self, bundle: Any) -> bool:
        """What was mislaid turns up, and what was damaged goes back. Whether there was anything to look for."""
        with self.context.store.transaction() as tx:
            open_ = differences.listing(tx, bundle_id=bundle.id, state="open")
            under_way = {card.id for card in store.cards_in(tx, bundle.id) if card.custody == "courier"}
        found = [one.card_id for one in open_ if one.kind == "missing" and one.card_id in under_way]
        if found:
            bundling.receive(
                self.context,
                bundle.id,
                outlet=bundle.outlet,
                seal_no=bundle.seal_no,
                received=found,
                actor=_clerk(bundle.outlet),
            )
        for one in open_:
            if one.kind == "damaged":
                discrepancies.settle(self.context, one.id, resolution="sent_back", actor=_clerk(bundle.outlet))
        return bool(open_)

    def _hand_over(self, card: Any, outlet: str | None) -> None:
        with self.context.store.transaction() as tx:
            claimed = applications.load(tx, [card.application])[card.application]
        app, clerk = claimed.application, _clerk(outlet or "centre")
        seen = visit(app, self.context.policies.of(app.region, app.policy_version))
        receipt = self._receipt(claimed, clerk)

        def once() -> str:
            return counter.hand_over(
                self.context,
                card.card,
                outlet=outlet,
                serial=card.blank_serial,
                taken_by=seen.taken_by,
                document_type=seen.shows.id_type,
                document_number=seen.shows.id_number,
                agent=seen.agent,
                papers=seen.papers,
                fee_receipt=receipt,
                actor=clerk,
            )

        handed = once()
        if _WRONG_TRAY(app.acceptance_no):
            counter.revert(self.context, handed, outlet=outlet, actor=clerk, reason="拿错卡，当场更正")
            once()

    def _receipt(self, claimed: Claimed, clerk: str) -> str | None:
        """The receipt that is shown at the counter, unless the fee is waived or was paid ahead."""
        app = claimed.application
        due = [fee for fee in fees.of(self.context, app.id) if fee.status == "due"]
        if not due:
            return None
        ground = waiver(app, self.context.policies.of(app.region, app.policy_version))
        receipt = f"R-{app.acceptance_no}"
        for fee in due:
            if ground is not None:
                fees.waive(self.context, fee.id, ground=ground, evidence=f"W-{app.acceptance_no}", actor=clerk)
            elif _PAYS_AHEAD(app.acceptance_no):
                fees.pay(
                    self.context, fee.id, amount_fen=fee.amount_fen, method="bank", receipt_no=receipt, actor=clerk
                )
        return receipt

    def _asked_again(self, card: Any) -> bool:
        """Whether a card was sent out again because its holder had asked for it."""
        return "reissued" in self._way(card.application)

    def _arrives_broken(self, app: Application) -> bool:
        """Whether a card breaks on its way; the one that is made instead does not."""
        return self.damaged(app.acceptance_no) and self._way(app.id).count("dispatch") == 1

    def _way(self, application_id: str) -> list[str]:
        with self.context.store.transaction() as tx:
            return [step.to for step in views.history(tx, application_id) if step.to != step.frm]

    def _listed(self, bundle: Any) -> dict[str, Application]:
        """By card of a bundle's packing list: its application."""
        by_application = {entry["application"]: entry["card"] for entry in bundle.manifest}
        with self.context.store.transaction() as tx:
            apps = applications.load(tx, list(by_application))
        return {card: apps[i].application for i, card in by_application.items()}

    def _bundles(self, status: str, direction: str) -> list[Any]:
        with self.context.store.transaction() as tx:
            return list(store.bundles(tx, status=status, direction=direction))

    def _cards(self, status: str) -> list[tuple[str, Any]]:
        with self.context.store.transaction() as tx:
            return [
                (outlet, card)
                for outlet in views.outlets_with_cards(tx)
                for card in views.at_outlet(tx, outlet, statuses=(status,))
            ]


def _clerk(place: str) -> str:
    return f"clerk@{place}"


@contextmanager
def _somebody_was_quicker() -> Iterator[None]:
    """A card or bundle that has moved on since it was looked up, or that was set aside by hand, is left alone."""
    try:
        yield
    except Conflict:
        return
