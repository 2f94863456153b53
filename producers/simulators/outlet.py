"""The people at the other end, simulated: couriers, outlets' clerks and applicants. They only use the services that real ones do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.services import bundles as bundling
from pipeline.services import counter, returns
from pipeline.services.context import Context
from pipeline.store import applications, views
from pipeline.store import custody as store

COURIER = "courier_1"
ACTOR = "outlet-simulator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Every outlet of the installation. `comes(acceptance number)` says whether an applicant will ever come for the card."""

    context: Context
    comes: Callable[[str], bool]

    def ship(self) -> int:
        """The courier fetches every sealed bundle."""
        bundles = self._bundles("sealed", "out")
        for bundle in bundles:
            bundling.ship(self.context, bundle.id, carrier=COURIER, actor="dispatcher")
        return len(bundles)

    def receive(self) -> int:
        """Outlets sign for what arrives."""
        bundles = self._bundles("shipped", "out")
        for bundle in bundles:
            bundling.receive(
                self.context, bundle.id, outlet=bundle.outlet, seal_no=bundle.seal_no, actor=f"clerk@{bundle.outlet}"
            )
        return len(bundles)

    def give_notices(self) -> int:
        """Clerks tell applicants whose card has come."""
        told = 0
        for outlet, card in self._cards("delivered"):
            counter.give_notice(self.context, card.card, outlet=outlet, method="sms", actor=f"clerk@{outlet}")
            told += 1
        return told

    def collect(self) -> int:
        """Applicants who come take their card."""
        taken = 0
        for outlet, card in self._cards("notified"):
            if self.comes(card.acceptance_no):
                self._hand_over(card, outlet)
                taken += 1
        return taken

    def collect_at_centre(self) -> int:
        """Applicants with an urgent card take it at the centre's own counter."""
        with self.context.store.transaction() as tx:
            cards = views.at_centre_counter(tx)
        for card in cards:
            self._hand_over(card, None)
        return len(cards)

    def send_back(self) -> int:
        """Outlets give the courier what was called back, and the centre signs for it."""
        back = 0
        with self.context.store.transaction() as tx:
            outlets = views.outlets_with_cards(tx)
        for outlet in outlets:
            with self.context.store.transaction() as tx:
                cards = [row.card for row in views.at_outlet(tx, outlet, statuses=("recalled",))]
            if cards:
                seal = "B" + hashlib.sha256("".join(cards).encode()).hexdigest()[:10].upper()
                returns.send_back(
                    self.context, cards, outlet=outlet, seal_no=seal, carrier=COURIER, actor=f"clerk@{outlet}"
                )
                back += len(cards)
        for bundle in self._bundles("shipped", "back"):
            returns.receive_back(self.context, bundle.id, seal_no=bundle.seal_no, actor="storekeeper")
        return back

    def _hand_over(self, card: Any, outlet: str | None) -> None:
        with self.context.store.transaction() as tx:
            app = applications.load(tx, [card.application])[card.application].application
            fee = views.fees_due(tx, card.application)
        by: counter.Taker = "guardian" if app.guardian else "proxy" if app.proxy else "holder"
        agent = app.guardian or app.proxy
        counter.hand_over(
            self.context,
            card.card,
            outlet=outlet,
            serial=card.blank_serial,
            taken_by=by,
            document_type=agent.id_type if agent else app.person.id_type,
            document_number=agent.id_number if agent else app.person.id_number,
            fee_receipt=f"R-{card.card[-8:]}" if fee else None,
            actor=f"clerk@{outlet or 'centre'}",
        )

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


def nine_in_ten(acceptance_no: str) -> bool:
    """Most applicants come; who does not is fixed by the acceptance number, so a sample always tells the same story."""
    return hashlib.sha256(acceptance_no.encode()).digest()[0] % 10 != 0
