"""Whatever people do with cards in whatever order, every card is in one place, by its own row and by the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, get_args

import pytest

from pipeline.application import Submission
from pipeline.errors import Refused
from pipeline.services import bundles, counter, destruction, discrepancies, returns, storage
from pipeline.store import custody, destructions, stock
from pipeline.store import discrepancies as books

RESOLUTIONS = get_args(discrepancies.Resolution)


class People:
    """Does a random thing with a random card or bundle, right or wrong."""

    def __init__(self, line: Any, random: Random, ids: list[str]) -> None:
        self.line = line
        self.random = random
        self.ids = ids
        self.done: Counter[str] = Counter()

    def act(self) -> None:
        usual = [self.ship, self.receive, self.notice, self.hand_over, self.back, self.back_in, self.time]
        rare = [self.settle, self.settle, self.aside, self.again, self.make, self.list, self.destroy, self.find]
        for _ in range(15):  # people try what may not be, too
            verb = self.random.choice([*usual, *usual, *rare])
            with suppress(Refused):
                verb()
                self.done[verb.__name__] += 1
                return

    def one(self, items: list[Any]) -> Any:
        if not items:
            raise Refused("没有", "there is none")
        return self.random.choice(items)

    def outlet(self, right: str) -> str:
        return right if self.random.random() < 0.9 else "out_42010699"

    def ship(self) -> None:
        bundle = self.one(self.line.bundles("sealed") + self.line.bundles("shipped"))
        bundles.ship(self.line.context, bundle.id, carrier="courier", actor="a")

    def scanned(self, bundle: Any) -> dict[str, Any]:
        """What is told of a bundle's cards: mostly that all is well."""
        told: dict[str, Any] = {"seal_no": bundle.seal_no, "actor": "a"}
        if self.random.random() < 0.6:
            listed = [entry["card"] for entry in bundle.manifest]
            for card in listed:
                told.setdefault(self.random.choice(["received", "received", "missing", "damaged"]), []).append(card)
            told["extra"] = [self.card().blank_serial] if self.random.random() < 0.4 else []
            told["seal_intact"] = self.random.random() < 0.8
        return told

    def receive(self) -> None:
        bundle = self.one(self.line.bundles("shipped") + self.line.bundles("disputed"))
        bundles.receive(self.line.context, bundle.id, outlet=self.outlet(bundle.outlet), **self.scanned(bundle))

    def settle(self) -> None:
        with self.line.context.store.transaction() as tx:
            found = books.listing(tx, state="open")
        resolution = self.random.choice(RESOLUTIONS)
        discrepancies.settle(self.line.context, self.one(found).id, resolution=resolution, actor="a")

    def card(self) -> Any:
        card = self.line.card(self.random.choice(self.ids))
        return card if card is not None else self.one([])

    def notice(self) -> None:
        card = self.card()
        counter.give_notice(self.line.context, card.id, outlet=self.outlet(card.place), method="sms", actor="a")

    def hand_over(self) -> None:
        card = self.card()
        self.line.hand_over(card.application_id, outlet=self.outlet(card.place))

    def aside(self) -> None:
        card, reason = self.card(), self.random.choice(get_args(returns.Reason))
        returns.ask_back(self.line.context, card.id, outlet=self.outlet(card.place), reason=reason, actor="a")

    def back(self) -> None:
        self.line.call_back(self.card().application_id)

    def back_in(self) -> None:
        bundle = self.one(self.line.bundles("shipped", "back") + self.line.bundles("disputed", "back"))
        returns.receive_back(self.line.context, bundle.id, **self.scanned(bundle))

    def again(self) -> None:
        storage.reissue(self.line.context, self.random.choice(self.ids), outlet="out_42010601", actor="a")

    def make(self) -> None:
        storage.remake(self.line.context, self.random.choice(self.ids), reason="damaged", actor="a")

    def list(self) -> None:
        destruction.list_for_destruction(self.line.context, None, reason="waste", actor="a")

    def destroy(self) -> None:
        with self.line.context.store.transaction() as tx:
            listed = destructions.listing(tx, state="listed", limit=9)
        destruction.destroy(self.line.context, self.one(listed).id, destroyed_by="a", witness="b", actor="a")

    def find(self) -> None:
        storage.found(self.line.context, self.card().id, found_by="x", actor="a")

    def time(self) -> None:
        self.line.later(days=self.random.choice([1, 30, 200, 800]))


EXPECTED = {
    "personalisation": {None},
    "account": {None},
    "dispatch": {"centre", "courier", "outlet"},
    "reissued": {"centre", "courier", "outlet"},
    "delivered": {"outlet", "courier"},
    "notified": {"outlet", "courier"},
    "uncollected": {"outlet"},
    "recalled": {"outlet", "courier"},
    "returned": {"centre", None, "outlet"},
    "collected": {"holder"},
    "destroyed": {"destroyed", None},
}
"""Where the card of an application may be; None: it has none, since the last one was void."""


@pytest.mark.parametrize("seed", range(2))
def test_every_card_is_in_one_place_at_every_step(line: Any, submission: Callable[..., Submission], seed: int) -> None:
    random = Random(seed)
    ids = line.accept(*(submission(n, outlet=f"out_4201060{n % 2}") for n in range(1, 7)))
    line.run()
    line.later(hours=5)
    people = People(line, random, ids)
    for _ in range(40):
        people.act()
        places = line.balanced()
        assert sum(places.values()) == line.ledger_counts()["bound"]
        for i in ids:
            card = line.card(i)
            assert (card and card.custody) in EXPECTED[line.status(i)], people.done
    assert len(people.done) >= 6
    with line.context.store.transaction() as tx:
        assert custody.verify(tx).faults == 0
        assert stock.balance(tx) == stock.ledger_balance(tx)
    collected = Counter(line.status(i) for i in ids)["collected"]
    assert line.events("card.collected") == collected
