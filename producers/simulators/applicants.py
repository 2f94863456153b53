"""The people who fetch cards, simulated: who comes, with what papers, and how the fee is settled.

Everything is fixed by the acceptance number, so that a sample always tells the same story. Made-up agents have numbers of an area
that is not assigned (999001).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.application import Application
from pipeline.identifiers import gb11643_check
from pipeline.person import Agent, Person
from pipeline.policy import Policy
from pipeline.services.collector import COLLECTORS, MANDATE, Taker

Chance = Callable[[str], bool]
"""Whether something befalls the application of this acceptance number."""


def one_in(n: int, what: str) -> Chance:
    """It befalls about one application in `n`; `what` keeps one chance apart from another."""
    return lambda acceptance_no: _dice(what, acceptance_no) % n == 0


def nobody(_acceptance_no: str) -> bool:
    """It never happens."""
    return False


def nine_in_ten(acceptance_no: str) -> bool:
    """Most applicants come."""
    return hashlib.sha256(acceptance_no.encode()).digest()[0] % 10 != 0


overlooked = one_in(15, "overlooked")
"""Whose card is missed when its bundle is opened, and turns up at the second look."""
broken = one_in(40, "broken")
"""Whose card arrives damaged."""
refuser = one_in(12, "refuses")
"""Who is told of the card and does not want it: it goes back to the centre."""
asks_again = one_in(2, "asks again")
"""Who did not come in time, and asks the centre for the card later."""
_SENDS_ANOTHER = one_in(12, "sends another")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Visit:
    """Who comes for a card and what they put on the counter."""

    taken_by: Taker
    shows: Person | Agent
    agent: Agent | None
    papers: Mapping[str, str]


def visit(app: Application, policy: Policy) -> Visit:
    """A guardian, a proxy on record or the unit where the application has one; else the holder, or now and then somebody they send."""
    taken_by: Taker = "guardian" if app.guardian else "proxy" if app.proxy else "holder"
    if taken_by == "holder":
        taken_by = "unit" if app.collect_by == "unit" else "proxy" if _SENDS_ANOTHER(app.acceptance_no) else "holder"
    if COLLECTORS[taken_by] not in policy.collection.who.value:
        taken_by = "holder"
    needed = policy.collection.papers_of(COLLECTORS[taken_by]).value
    stranger = _stranger(app.acceptance_no) if taken_by in ("proxy", "unit") and not app.proxy else None
    if stranger is not None and taken_by == "proxy":
        needed = (*needed, MANDATE)
    on_record = {"guardian": app.guardian, "proxy": app.proxy}.get(taken_by)
    return Visit(
        taken_by=taken_by,
        shows=stranger or on_record or app.person,
        agent=stranger,
        papers={paper: f"{paper}/{app.acceptance_no}" for paper in needed},
    )


def waiver(app: Application, policy: Policy) -> str | None:
    """The ground on which one applicant in six is let off the fee, where the region lets anybody off (WH-14, DL-18)."""
    grounds = policy.fees.waivers.value
    rolled = _dice("waiver", app.acceptance_no)
    return grounds[rolled // 6 % len(grounds)] if grounds and rolled % 6 == 0 else None


def _stranger(acceptance_no: str) -> Agent:
    first17 = f"99900119750615{_dice('stranger', acceptance_no) % 1000:03d}"
    number = first17 + gb11643_check(first17)
    return Agent(name="代领样例", id_type="resident_id", id_number=number, relation="亲友")


def _dice(what: str, acceptance_no: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{what}/{acceptance_no}".encode()).digest()[:4])
