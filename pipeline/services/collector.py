"""Who may take a card, and what they show for it (KL-19, DL-12, WH-24; WH-11, DL-16(3), SG-10). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from pipeline.application import Application
from pipeline.errors import Refused
from pipeline.identifiers import normalise_number
from pipeline.person import Agent, Person
from pipeline.policy import Collector, Policy

Taker = Literal["holder", "guardian", "proxy", "unit"]
COLLECTORS: Mapping[Taker, Collector] = {"holder": "person", "guardian": "guardian", "proxy": "proxy", "unit": "unit"}
MANDATE = "mandate"
_PAPERS = {
    MANDATE: ("委托书", "the mandate"),
    "holder_document": ("持卡人身份证件原件", "the holder's own identity document"),
    "introduction_letter": ("单位介绍信", "the unit's letter of introduction"),
}
_CITIZEN_NUMBER = frozenset({"resident_id", "household_book"})
"""Two documents that carry the same number: who applied with one may collect with the other (SG-10 names both)."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Shown:
    """Who stands at the counter, and what they show.

    The document is their own. `agent` is who the papers name, for who is not on record; `papers` maps each paper to where it is filed.
    """

    taken_by: Taker
    document_type: str
    document_number: str
    valid_to: date | None
    agent: Agent | None
    papers: Mapping[str, str]

    def sealed(self) -> dict[str, Any]:
        """All of it that is personal, as it is kept."""
        return {
            "document_number": normalise_number(self.document_number),
            "agent": asdict(self.agent) if self.agent else None,
            "papers": dict(self.papers),
        }


def admit(shown: Shown, app: Application, policy: Policy, *, today: date) -> None:
    """Let who stands at the counter take the card.

    Raises:
        Refused: the region does not let them; their document is over, or another's; or a paper is missing.
    """
    who = policy.collection.who
    if COLLECTORS[shown.taken_by] not in who.value:
        raise Refused(
            "本地区不允许由该类人员代领",
            f"this region does not let a {shown.taken_by} collect",
            code="not-permitted-by-policy",
            rule=who.rule,
        )
    if not shown.document_number.strip():
        raise Refused(
            "请出示并登记领卡人本人的身份证件", "needs the collector's own identity document", code="required"
        )
    if shown.valid_to is not None and shown.valid_to < today:
        raise Refused(
            "出示的身份证件已过期，请出示有效证件",
            "the identity document has expired: a valid one is needed",
            code="document-expired",
            rule=who.rule,
        )
    needed = policy.collection.papers_of(COLLECTORS[shown.taken_by])
    _show_papers(shown, needed.value, rule=needed.rule)
    match shown.taken_by:
        case "holder":
            _same_person(shown, app.person)
        case "guardian":
            _same_person(shown, app.guardian)
        case "proxy" if app.proxy is None or not _is(shown, app.proxy):
            _named(shown)
            _show_papers(shown, (MANDATE,), rule="KL-19")
        case "unit":
            _named(shown)


def _is(shown: Shown, person: Person | Agent) -> bool:
    alike = shown.document_type == person.id_type or {shown.document_type, person.id_type} <= _CITIZEN_NUMBER
    return alike and normalise_number(shown.document_number) == normalise_number(person.id_number)


def _same_person(shown: Shown, expected: Person | Agent | None) -> None:
    """The card serves its holder only (KL-19, DL-12, WH-24)."""
    if expected is None or not _is(shown, expected):
        raise Refused(
            "出示的证件与卡的持有人（或登记的监护人）不符",
            "the document shown is not that of the holder, or of the guardian on record",
            code="not-the-holder",
            rule="KL-19",
        )


def _named(shown: Shown) -> None:
    """Who acts for another and is not on record is named by their papers, and shows their own document."""
    agent = shown.agent
    if agent is None or not agent.name.strip() or not (agent.relation.strip() or shown.taken_by == "unit"):
        raise Refused(
            "请登记代领人的姓名、证件及与持卡人的关系",
            "whoever collects for another gives name, document and relation to the holder",
            code="agent-missing",
            rule="KL-19",
        )
    if not _is(shown, agent):
        raise Refused(
            "出示的证件与委托（介绍）材料上的代领人不符",
            "the document shown is not that of whom the papers name",
            code="not-the-agent",
            rule="KL-19",
        )


def _show_papers(shown: Shown, needed: tuple[str, ...], *, rule: str | None) -> None:
    missing = [_PAPERS.get(paper, (paper, paper)) for paper in needed if not shown.papers.get(paper, "").strip()]
    if missing:
        zh, en = "、".join(zh for zh, _ in missing), ", ".join(en for _, en in missing)
        raise Refused(f"缺少代领材料: {zh}", f"papers are missing: {en}", code="papers-missing", rule=rule)
