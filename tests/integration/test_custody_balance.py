"""Whatever people do with cards in whatever order, every card is in one place, by its own row and by the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from pipeline.application import Submission
from pipeline.errors import Refused
from pipeline.services import bundles, counter, returns


class People:
    """Does a random thing with a random card or bundle, right or wrong."""

    def __init__(self, line: Any, random: Random, ids: list[str]) -> None:
        self.line = line
        self.random = random
        self.ids = ids

    def act(self) -> None:
        verb = self.random.choice(
            [self.ship, self.receive, self.notice, self.hand_over, self.back, self.back_in, self.time]
        )
        with suppress(Refused):  # people try what may not be, too
            verb()

    def one(self, items: list[Any]) -> Any:
        return self.random.choice(items) if items else None

    def outlet(self, right: str) -> str:
        return right if self.random.random() < 0.9 else "out_42010699"

    def ship(self) -> None:
        if bundle := self.one(self.line.bundles("sealed") + self.line.bundles("shipped")):
            bundles.ship(self.line.context, bundle.id, carrier="courier", actor="a")

    def receive(self) -> None:
        if bundle := self.one(self.line.bundles("shipped")):
            listed = [entry["card"] for entry in bundle.manifest]
            here = (
                self.random.sample(listed, self.random.randint(0, len(listed))) if self.random.random() < 0.3 else None
            )
            told = {"outlet": self.outlet(bundle.outlet), "seal_no": bundle.seal_no, "received": here}
            bundles.receive(self.line.context, bundle.id, actor="a", **told)

    def card(self) -> Any:
        return self.line.card(self.random.choice(self.ids))

    def notice(self) -> None:
        card = self.card()
        counter.give_notice(self.line.context, card.id, outlet=self.outlet(card.place), method="sms", actor="a")

    def hand_over(self) -> None:
        i = self.random.choice(self.ids)
        self.line.hand_over(i, outlet=self.outlet(self.line.card(i).place))

    def back(self) -> None:
        self.line.call_back(self.random.choice(self.ids))

    def back_in(self) -> None:
        if bundle := self.one(self.line.bundles("shipped", "back")):
            returns.receive_back(self.line.context, bundle.id, seal_no=bundle.seal_no, actor="a")

    def time(self) -> None:
        self.line.later(days=self.random.choice([1, 30, 200]))


EXPECTED = {
    "dispatch": {"centre", "courier"},
    "delivered": {"outlet"},
    "notified": {"outlet"},
    "uncollected": {"outlet"},
    "recalled": {"outlet", "courier"},
    "returned": {"centre"},
    "collected": {"holder"},
}


@pytest.mark.parametrize("seed", range(3))
def test_every_card_is_in_one_place_at_every_step(line: Any, submission: Callable[..., Submission], seed: int) -> None:
    random = Random(seed)
    ids = line.accept(*(submission(n, outlet=f"out_4201060{n % 2}") for n in range(1, 7)))
    line.run()
    line.later(hours=5)
    people = People(line, random, ids)
    for _ in range(30):
        people.act()
        places = line.balanced()
        assert sum(places.values()) == len(ids)
        for i in ids:
            assert line.card(i).custody in EXPECTED[line.status(i)]
    collected = Counter(line.status(i) for i in ids)["collected"]
    assert line.events("card.collected") == collected
