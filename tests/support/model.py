"""A line told a second time, as simply as can be: what must be refused, where each card is, and what each bank was asked.

It shares nothing with the product but words. Each act answers with the code of a refusal, or with what the act does to the books;
what the line does by itself (making cards, packing them, its clocks) is adopted by `saw`, which fails on what may not be.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

CHINA = ZoneInfo("Asia/Shanghai")
CENTRE = ("centre", "centre")
LOST = ("lost", "lost")
HOLDER = ("holder", "holder")
MAKING = ("received", "validation", "photo", "account", "personalisation")
STOPPED = ("held", "awaiting_correction")
UNDER_WAY = ("dispatch", "reissued")
WAITING = ("delivered", "notified")
OVERDUE = ("uncollected", "recalled")
OVER = ("collected", "destroyed", "rejected", "cancelled")
ENDINGS = {
    "misrouted": "misrouted", "refused": "refused", "damaged": "damaged", "wrong_data": "damaged", "unreadable": "damaged",
}  # fmt: skip
MAY_SETTLE = {
    ("out", "missing"): ("arrived", "lost"),
    ("out", "extra"): ("arrived", "forwarded", "sent_back", "not_ours"),
    ("out", "damaged"): ("sent_back",),
    ("out", "seal"): ("accepted", "sent_back"),
    ("back", "missing"): ("arrived", "lost"),
    ("back", "extra"): ("accepted", "not_ours"),
    ("back", "damaged"): ("accepted",),
    ("back", "seal"): ("accepted",),
}
UNDO_WITHIN = timedelta(minutes=5)

Effect = Callable[[datetime], None]
Verdict = str | Effect
"""The code of the refusal that must come, or what the act does."""


@dataclass(frozen=True)
class Region:
    """What two cities rule of cards that nobody fetches (WH-11, WH-13, SG-10)."""

    code: str
    from_notice: bool
    within: tuple[int, int]
    """Months and days."""
    after_due: bool
    ending: str
    storage_months: int
    gives_out_again: bool
    closes: str
    charges: bool


WUHAN = Region("420100", True, (6, 0), True, "kept", 24, True, "on_destruction", True)
SHAOGUAN = Region("440200", False, (0, 90), False, "abandoned", 3, False, "on_return", False)


@dataclass
class Account:
    """An account as the bank is to have it. `said` is every instruction about it, in order, with the card it named."""

    id: str
    person: int
    said: list[tuple[str, str]] = field(default_factory=list)
    declined: set[int] = field(default_factory=set)
    """Places in `said` of what the bank declined for good: the account is as if it had not been said."""
    closed: bool = False

    def stands(self) -> list[str]:
        return [op for n, (op, _) in enumerate(self.said) if n not in self.declined]

    def may(self, operation: str) -> str | None:
        """The code of the refusal to tell the bank."""
        told = self.stands()
        switched = [op for op in told if op in ("freeze_financial", "release_financial")][-1:]
        if self.closed:
            return "account-closed"
        if operation == "release_financial" and switched != ["freeze_financial"]:
            return "not-frozen"
        if operation == "freeze_financial" and switched == ["freeze_financial"]:
            return "told-already"
        return "told-already" if operation == "close_account" and operation in told else None

    def say(self, operation: str, card: str) -> None:
        """As a part of another act: nothing is said twice."""
        if self.may(operation) is None:
            self.said.append((operation, card))


@dataclass
class App:
    """An application. `due` is when its card is called back, `arrived` whether its outlet is still to be told of the card."""

    id: str
    person: int
    region: Region
    outlet: str
    received: datetime
    status: str = "received"
    fee_due: bool = False
    ending: str | None = None
    due: datetime | None = None
    arrived: bool = False
    storage_until: datetime | None = None


@dataclass
class Card:
    """A produced card. `box` is the bundle it lay in last, `giver` who gave it to its holder, `ready` how often that was told."""

    id: str
    serial: str
    app: App
    account: Account | None
    at: tuple[str, str] = CENTRE
    status: str = "produced"
    aside: str | None = None
    box: Box | None = None
    giver: tuple[str, str] | None = None
    listed: str | None = None
    ready: int = 0


@dataclass
class Box:
    """A bundle; `open` are its unsettled differences: (kind, serial) → card."""

    id: str
    direction: str
    outlet: str
    status: str
    seal: str = ""
    carrier: str = ""
    open: dict[tuple[str, str], Card | None] = field(default_factory=dict)

    @property
    def goes_to(self) -> tuple[str, str]:
        return CENTRE if self.direction == "back" else ("outlet", self.outlet)


@dataclass
class HandOver:
    card: Card
    key: str
    place: tuple[str, str]
    at: datetime
    before: tuple[str, datetime | None, bool]
    """Status, due and arrived, as an undo brings them back."""
    id: str = ""
    reverted: bool = False


def made_again(card: Card | None) -> str:
    """Where an application goes for its next card: the number that the bank gave a card ends with that card (KL-10)."""
    return "personalisation" if card is not None and card.account is None else "account"


def day_end(day: date) -> datetime:
    return datetime.combine(day, time(23, 59, 59), tzinfo=CHINA)


def later(at: datetime, months: int, days: int = 0) -> datetime:
    """The end of the civil day that many months and days on."""
    day = at.astimezone(CHINA).date() + timedelta(days=days)
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return day_end(date(year, month, min(day.day, monthrange(year, month)[1])))


class Model:
    """The books of the line."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.cards: dict[str, Card] = {}
        self.boxes: dict[str, Box] = {}
        self.accounts: dict[str, Account] = {}
        self.handed: list[HandOver] = []
        self.lists: dict[str, str] = {}
        """Lists of cards to be destroyed, and how they stand."""

    # ------------------------------------------------------------------------------------------------------ questions

    def live(self, person: int) -> App | None:
        """The application that keeps a person from applying; one whose card was given up does not (SG-10)."""
        mine = [a for a in self.apps.values() if a.person == person and a.status not in OVER]
        return next((a for a in mine if a.ending != "abandoned"), None)

    def card_of(self, app: App) -> Card | None:
        """The card of an application that is good for something."""
        mine = [c for c in self.cards.values() if c.app is app and c.status in ("produced", "issued")]
        assert len(mine) <= 1, "an application has two cards"
        return mine[0] if mine else None

    def inside(self, box: Box) -> list[Card]:
        return [c for c in self.cards.values() if c.box is box]

    def under_way(self, box: Box) -> list[Card]:
        return [c for c in self.inside(box) if c.at[0] == "courier"]

    def due_to_be_destroyed(self, now: datetime) -> list[Card]:
        return [c for c in self.cards.values() if c.at == CENTRE and c.listed is None and self._is_due(c, now)]

    def _is_due(self, card: Card, now: datetime) -> bool:
        over = card.app.storage_until
        returned = card.status == "produced" and card.app.status == "returned"
        return card.status == "voided" or (returned and over is not None and over <= now)

    # -------------------------------------------------------------------------------------------- what acts do in common

    def _stop(self, app: App) -> None:
        app.due, app.arrived = None, False

    def _deliver(self, app: App, now: datetime) -> None:
        if app.status not in UNDER_WAY:
            return
        app.status, app.arrived = "delivered", True
        if not app.region.from_notice:
            due = later(app.received, *app.region.within)
            app.due = due if due > now else later(now, *app.region.within)

    def _make_again(self, card: Card) -> None:
        card.status = "voided"
        card.app.status, card.app.ending = made_again(card), None
        self._stop(card.app)

    def _come_back(self, card: Card, ending: str, now: datetime) -> None:
        app = card.app
        self._stop(app)
        app.status, app.ending = "returned", ending
        app.storage_until = later(now, app.region.storage_months)
        if ending == app.region.ending and app.region.closes == "on_return":
            self._close_unused([card])

    def _close_unused(self, ended: Sequence[Card]) -> None:
        """The accounts of cards that ended are closed, unless their person still uses them (KL-10)."""
        over = [c.app for c in ended]
        for card in ended:
            account = card.account
            carried = any(
                c.account is account and c.status in ("produced", "issued") and c.app.ending != "abandoned"
                for c in self.cards.values()
                if c not in ended
            )
            wanted = any(
                a.person == card.app.person and a.status not in OVER and a.ending != "abandoned"
                for a in self.apps.values()
                if a not in over
            )
            if account is not None and not carried and not wanted:
                account.say("close_account", card.id)

    def _to_be_collected(self, card: Card) -> bool:
        return card.status == "produced" and card.app.status not in (*OVER, "returned")

    def _take_in(self, cards: Iterable[Card], now: datetime) -> None:
        """Cards are at the centre again."""
        for card in cards:
            app = card.app
            if card.status != "produced":
                continue
            if app.status in (*WAITING, *OVERDUE):
                reason = card.aside or ("uncollected" if app.status in OVERDUE else "misrouted")
                self._come_back(card, ENDINGS.get(reason, app.region.ending), now)
            elif app.status in UNDER_WAY and ENDINGS.get(card.aside or "") == "damaged":
                self._make_again(card)
            elif app.status in UNDER_WAY:
                card.aside = card.box = None  # it is packed again

    def _at(self, card: Card, outlet: str) -> str | None:
        """What is refused of a card that somebody at this outlet speaks of."""
        if card.at == HOLDER and card.giver == ("outlet", outlet):
            return "already-collected"
        if card.at != ("outlet", outlet):
            return "not-found"
        if card.aside not in (None, "uncollected", "recalled"):
            return "going-back"
        if card.status == "voided":
            return "card-void"
        return "card-packed" if self._packed(card) else None

    def _packed(self, card: Card) -> bool:
        """Whether a card lies in a sealed box and waits for the courier."""
        return card.box is not None and (card.box.direction, card.box.status) == ("out", "sealed")

    # -------------------------------------------------------------------------------------------------------- applying

    def apply(self, person: int) -> str | None:
        return "duplicate-active-application" if self.live(person) else None

    def cancel(self, app: App) -> Verdict:
        if app.status not in (*MAKING, *STOPPED) or self.card_of(app):
            return "too-late"

        def effect(_: datetime) -> None:
            app.status = "cancelled"

        return effect

    # --------------------------------------------------------------------------------------------------------- bundles

    def seal(self, box: Box) -> Verdict:
        if box.direction != "out":
            return "not-found"
        if box.status != "packing" or not self.inside(box):
            return "wrong-state"

        def effect(_: datetime) -> None:
            box.status = "sealed"

        return effect

    def ship(self, box: Box, carrier: str, actor: str) -> Verdict:
        if carrier == actor:
            return "same-person"
        if box.direction != "out":
            return "not-found"
        if box.status != "sealed":
            return "wrong-state"
        if any(c.at[0] not in ("centre", "outlet") or c.aside or c.status != "produced" for c in self.inside(box)):
            return "card-not-ready"

        def effect(_: datetime) -> None:
            box.status, box.carrier = "shipped", carrier
            for card in self.inside(box):
                card.at = ("courier", carrier)

        return effect

    def receive(
        self,
        box: Box,
        *,
        place: str | None,
        seal: str,
        actor: str,
        missing: Sequence[Card],
        damaged: Sequence[Card],
        extra: Sequence[Card | str],
        seal_intact: bool,
    ) -> Verdict:
        """`place`: the outlet that signs, or None for the centre."""
        if box.direction != ("back" if place is None else "out") or (place is not None and place != box.outlet):
            return "not-found"
        if box.status not in ("shipped", "disputed"):
            return "wrong-state"
        if seal != box.seal:
            return "seal-mismatch"
        if actor == box.carrier:
            return "same-person"
        if any(isinstance(card, Card) and card.box is box and card.at != LOST for card in extra):
            return "card-in-bundle"
        if {c.id for c in missing} & {c.id for c in damaged}:
            return "card-named-twice"

        def effect(now: datetime) -> None:
            here = box.goes_to
            told = [*missing, *damaged, *(c for (kind, _), c in box.open.items() if kind == "missing")]
            received = [c for c in self.under_way(box) if c not in told]
            ours = [c for c in extra if isinstance(c, Card)]
            strays = [c for c in ours if c.at[0] in ("centre", "courier", "lost", "outlet") and c.at != here]
            for card in (*received, *damaged, *strays):
                card.at, card.box = here, box
                box.open.pop(("missing", card.serial), None)
            for card in damaged:
                card.aside = "damaged"
            found = {("missing", c.serial): c for c in missing} | {("damaged", c.serial): c for c in damaged}
            found |= {("extra", c.serial): c for c in ours}
            opened: dict[tuple[str, str], Card | None] = {**found}
            opened |= {("extra", serial): None for serial in extra if isinstance(serial, str)}
            opened |= {} if seal_intact else {("seal", box.seal): None}
            for name, about in opened.items():
                box.open.setdefault(name, about)
            box.status = "disputed" if box.open else "received"
            if box.direction == "back":
                self._take_in((*received, *damaged, *strays), now)
            else:
                for card in received:
                    if card.status == "produced":
                        self._deliver(card.app, now)

        return effect

    def settle(self, box: Box, name: tuple[str, str], resolution: str, actor: str) -> Verdict:
        if name not in box.open:
            return "settled"
        kind, card = name[0], box.open[name]
        if resolution not in MAY_SETTLE[box.direction, kind]:
            return "resolution"
        decided: Verdict = {
            "missing": self._settle_missing,
            "extra": self._settle_extra,
            "damaged": self._settle_damaged,
            "seal": self._settle_seal,
        }[kind](box, card, resolution, actor)
        if isinstance(decided, str):
            return decided
        does = decided

        def effect(now: datetime) -> None:
            does(now)
            del box.open[name]
            box.status = "disputed" if box.open else "received"

        return effect

    def _settle_missing(self, box: Box, card: Any, resolution: str, actor: str) -> Verdict:
        still_out = card.at[0] == "courier" and card.box is box
        if resolution == "lost" and not still_out:
            return "card-found"
        if still_out and actor == box.carrier:
            return "same-person"

        def effect(now: datetime) -> None:
            if not still_out:
                return
            if resolution == "arrived":
                card.at = box.goes_to
                if box.direction == "back":
                    self._take_in([card], now)
                elif card.status == "produced":
                    self._deliver(card.app, now)
                return
            card.at = LOST
            if card.status != "produced":
                return
            if card.app.status in UNDER_WAY:
                self._make_again(card)
                return
            card.status = "voided"
            if card.app.status in (*WAITING, *OVERDUE):
                given_up = card.app.status in OVERDUE and card.aside in (None, "uncollected", "recalled")
                self._come_back(card, card.app.region.ending if given_up else "damaged", now)

        return effect

    def _settle_extra(self, box: Box, card: Card | None, resolution: str, actor: str) -> Verdict:
        here = card is not None and card.at == box.goes_to
        if resolution == "not_ours":
            return "ours" if here else _nothing
        if card is None:
            return "not-ours"
        if resolution == "accepted":
            return _nothing
        if not here:
            return "wrong-state"
        if self._packed(card):
            return _nothing if resolution == "forwarded" else "card-packed"
        mine = card

        def send_back(_: datetime) -> None:
            mine.aside = mine.aside or "misrouted"

        if resolution == "sent_back":
            return send_back
        waits = card.status == "produced" and card.app.status in (*UNDER_WAY, *WAITING, *OVERDUE)
        if resolution == "forwarded" and card.aside is not None:
            waits = False
        if not waits or (card.app.outlet == box.outlet) != (resolution == "arrived"):
            return "resolution"

        def effect(now: datetime) -> None:
            if resolution == "arrived":
                self._deliver(mine.app, now)
            else:
                mine.box = None  # a box of its own

        return effect

    def _settle_damaged(self, box: Box, card: Any, resolution: str, actor: str) -> Verdict:
        def effect(_: datetime) -> None:
            if resolution == "sent_back" and card.status == "produced" and card.app.status in UNDER_WAY:
                self._make_again(card)

        return effect

    def _settle_seal(self, box: Box, _card: Any, resolution: str, actor: str) -> Verdict:
        def effect(_: datetime) -> None:
            if resolution == "accepted":
                return
            for card in self.inside(box):
                if card.at == box.goes_to and card.aside is None:
                    card.aside = "damaged"
                    if card.status == "produced" and card.app.status in (*WAITING, *OVERDUE):
                        self._stop(card.app)

        return effect

    def close(self, box: Box) -> Verdict:
        if box.open:
            return "discrepancy-open"
        if box.status != "received":
            return "wrong-state"

        def effect(_: datetime) -> None:
            box.status = "closed"

        return effect

    # ------------------------------------------------------------------------------------------------------- the counter

    def notice(self, card: Card, outlet: str) -> Verdict:
        app = card.app
        if (code := self._at(card, outlet)) is not None:
            return code
        if card.status != "produced":
            return "card-void"
        if app.status not in WAITING:
            return "wrong-state"

        def effect(now: datetime) -> None:
            if app.status == "delivered":
                app.status = "notified"
                if app.region.from_notice:
                    app.due = later(now, *app.region.within)

        return effect

    def hand_over(self, card: Card, outlet: str, *, key: str, serial: str, receipt: bool, papers: bool) -> Verdict:
        app = card.app
        if (code := self._at(card, outlet)) is not None:
            return code
        if card.status != "produced":
            return "card-void"
        if card.account is not None and (card.account.closed or "close_account" in card.account.stands()):
            return "account-closed"
        if app.status not in (*WAITING, *(OVERDUE if app.region.after_due else ())):
            return "wrong-state"
        if serial != card.serial:
            return "serial-mismatch"
        if not papers:
            return "papers-missing"
        if app.fee_due and not receipt:
            return "fee-due"

        def effect(now: datetime) -> None:
            before = (app.status, app.due, app.arrived)
            self.handed.append(HandOver(card=card, key=key, place=card.at, at=now, before=before))
            self._stop(app)
            card.giver, card.at, card.status = card.at, HOLDER, "issued"
            app.status, app.fee_due = "collected", False

        return effect

    def revert(self, handed: HandOver, outlet: str, now: datetime) -> Verdict:
        card, app = handed.card, handed.card.app
        if card.giver != ("outlet", outlet):
            return "not-found"
        if handed.reverted:
            return "already-reverted"
        if now - handed.at > UNDO_WITHIN:
            return "too-late"
        if (card.status, app.status) != ("issued", "collected"):
            return "wrong-state"
        if self.live(app.person):
            return "newer-application"

        def effect(_: datetime) -> None:
            handed.reverted = True
            card.at, card.status = handed.place, "produced"
            app.status, app.due, app.arrived = handed.before

        return effect

    # -------------------------------------------------------------------------------------------------- the way back

    def ask_back(self, card: Card, outlet: str, reason: str) -> Verdict:
        app = card.app
        if (code := self._at(card, outlet)) is not None:
            return code
        if card.status != "produced":
            return "card-void"
        if app.status not in (("recalled",) if reason in OVERDUE else (*WAITING, "recalled")):
            return "wrong-state"

        def effect(_: datetime) -> None:
            card.aside = reason
            self._stop(app)

        return effect

    def send_back(self, cards: Sequence[Card], outlet: str, carrier: str, actor: str) -> Verdict:
        if carrier == actor:
            return "same-person"
        for card in cards:
            if card.at != ("outlet", outlet):
                return "not-found"
            if card.aside is None and card.app.status != "recalled":
                return "wrong-state"

        def effect(_: datetime) -> None:
            for card in cards:
                card.aside = card.aside or "uncollected"
                card.at, card.box = ("courier", carrier), None

        return effect

    def reissue(self, app: App, outlet: str) -> Verdict:
        card = self.card_of(app)
        if app.status != "returned" or (card is not None and card.at != CENTRE):
            return "wrong-state"
        if app.ending == "damaged" or card is None:
            return "to-be-remade"
        if app.ending != "misrouted" and not app.region.gives_out_again:
            return "not-permitted-by-policy"
        if card.listed:
            return "listed"
        if card.account is not None and (card.account.closed or "close_account" in card.account.stands()):
            return "account-closed"
        stored = card

        def effect(_: datetime) -> None:
            self._stop(app)
            app.status, app.outlet, app.ending, app.storage_until = "reissued", outlet, None, None
            stored.aside = stored.box = None

        return effect

    def remake(self, app: App) -> Verdict:
        card = self.card_of(app)
        if app.status != "returned" or (card is not None and card.at != CENTRE):
            return "wrong-state"
        if app.ending == "abandoned":
            return "given-up"
        if card is not None and app.ending != "damaged":
            return "to-be-reissued"
        if card is not None and card.listed:
            return "listed"

        def effect(_: datetime) -> None:
            if card is not None:
                card.status = "voided"
            app.status, app.ending, app.storage_until = made_again(card), None, None

        return effect

    def found(self, card: Card) -> Verdict:
        if card.at != LOST:
            return "wrong-state"

        def effect(_: datetime) -> None:
            card.at = CENTRE

        return effect

    def list_for_destruction(self, cards: Sequence[Card] | None, now: datetime) -> Verdict:
        """The list's name is learnt from what is listed: `saw_list`."""
        if cards is None:
            return _nothing if self.due_to_be_destroyed(now) else "none-due"
        for card in cards:
            returned = card.status == "produced" and card.app.status == "returned"
            if card.at != CENTRE or not (card.status == "voided" or returned):
                return "not-in-storage"
        for card in cards:
            if card.listed:
                return "listed"
            if not self._is_due(card, now):
                return "storage-runs"
        return _nothing

    def saw_list(self, name: str, cards: Iterable[Card]) -> None:
        self.lists[name] = "listed"
        for card in cards:
            card.listed = name

    def destroy(self, name: str, by: str, witness: str) -> Verdict:
        listed = [c for c in self.cards.values() if c.listed == name]
        if by == witness:
            return "same-person"
        if self.lists[name] != "listed":
            return "wrong-state"
        if any(card.at != CENTRE for card in listed):
            return "list-changed"

        def effect(_: datetime) -> None:
            ended = [c for c in listed if c.status == "produced" and c.app.status == "returned"]
            self._close_unused(ended)
            for card in ended:
                card.app.status = "destroyed"
            for card in listed:
                card.at, card.status, card.listed = ("destroyed", name), "destroyed", None
            self.lists[name] = "done"

        return effect

    def withdraw(self, name: str) -> Verdict:
        if self.lists[name] != "listed":
            return "wrong-state"

        def effect(_: datetime) -> None:
            self.lists[name] = "withdrawn"
            for card in self.cards.values():
                card.listed = None if card.listed == name else card.listed

        return effect

    # --------------------------------------------------------------------------------------------------------- the bank

    def instruct(self, card: Card, operation: str) -> Verdict:
        account = card.account
        if account is None:
            return "no-account"
        if (code := account.may(operation)) is not None:
            return code
        waiting = [c for c in self.cards.values() if c.account is account and self._to_be_collected(c)]
        if operation == "close_account" and waiting:
            return "to-be-collected"
        told = account

        def effect(_: datetime) -> None:
            told.said.append((operation, card.id))

        return effect

    # ------------------------------------------------------------------------------- what the line did by itself, adopted

    def saw_app(self, app: App, row: Any, now: datetime) -> None:
        """An application stands where it should, or has gone on by itself to where it may."""
        was, app.status = app.status, row.status
        if was == row.status:
            return
        if was in MAKING:
            may = row.status in (*MAKING[MAKING.index(was) :], *STOPPED, "dispatch", "rejected")
        else:
            rung = app.due is not None and app.due <= now and was in WAITING
            may = (rung and row.status in OVERDUE) or (was, row.status) == ("uncollected", "recalled")
            over = app.storage_until is not None and app.storage_until <= now and self.card_of(app) is None
            if over and (was, row.status) == ("returned", "destroyed"):
                # Its card was lost on its way back and not made again: there is nothing to destroy.
                may = True
                self._close_unused([c for c in self.cards.values() if c.app is app and c.account is not None][-1:])
        assert may, f"an application went from {was} to {row.status} by itself"
        if row.status in OVERDUE:
            self._stop(app)

    def saw_new_card(self, row: Any) -> None:
        """A card was made: for an application that waits for one, at the centre, and the bank is to hear of it."""
        app = self.apps[row.application_id]
        account = self.accounts[row.account_id] if row.account_id else None
        assert (row.custody, row.place) == CENTRE
        assert app.status == "dispatch" and self.card_of(app) is None, (
            f"a card too many: its application is {app.status}"
        )
        self.cards[row.id] = Card(id=row.id, serial=row.blank_serial, app=app, account=account)
        if account is not None and not account.closed:
            account.said.append(("card_produced", row.id))

    def saw_card(self, card: Card, row: Any, box: Box | None) -> None:
        """A card is where it should be; one that is to be packed has got a box."""
        place, state = (row.custody, row.place), (row.status, row.return_reason)
        assert place == card.at, f"a card is at {place}, not at {card.at}"
        assert state == (card.status, card.aside), f"a card is {state}, not {(card.status, card.aside)}"
        if card.box is None and box is not None:
            going = "back" if card.at[0] == "courier" else "out"
            assert (box.direction, box.status) in (("back", "shipped"), ("out", "packing"), ("out", "sealed"))
            assert box.direction == going
            assert going == "back" or box.outlet == card.app.outlet
            card.box = box
        assert card.box is box, "a card lies in another box"

    def saw_box(self, row: Any) -> Box:
        """A bundle stands as it should, or was sealed or closed by time."""
        box = self.boxes.get(row.id)
        if box is None:
            box = self.boxes[row.id] = Box(row.id, row.direction, row.outlet, row.status)
        if (box.status, row.status) in (("packing", "sealed"), ("received", "closed")):
            box.status = row.status
        box.seal, box.carrier = row.seal_no or "", row.carrier or ""
        assert box.status == row.status, f"a bundle is {row.status}, not {box.status}"
        return box

    def saw_account(self, row: Any, person: int) -> None:
        """An account was opened."""
        if row.id not in self.accounts:
            self.accounts[row.id] = Account(id=row.id, person=person)

    def saw_calls(self, row: Any, calls: Sequence[Any]) -> None:
        """What was asked of an account is written down in order and once; it ends or is frozen only as was asked."""
        account = self.accounts[row.id]
        assert [(call.operation, call.card_id) for call in calls] == account.said
        done = [call.operation for call in calls if call.state == "done"]
        switched = [op for op in done if op in ("freeze_financial", "release_financial")][-1:]
        assert (row.frozen_at is not None) == (switched == ["freeze_financial"])
        assert (row.status == "closed") == ("close_account" in done)
        account.closed = row.status == "closed"

    def saw_ready(self, told: Mapping[str, int]) -> None:
        """Each outlet hears of each delivery once."""
        for card in self.cards.values():
            fresh = told.get(card.id, 0) - card.ready
            assert fresh == 0 or (fresh == 1 and card.app.arrived), "card.ready was told once too often"
            if fresh:
                card.ready, card.app.arrived = card.ready + 1, False


def _nothing(_: datetime) -> None:
    """It changes nothing that is in these books."""
