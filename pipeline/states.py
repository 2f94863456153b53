"""The application's state machine, as data. `docs/states.md` is generated from here and a test compares the two.

No status is assigned anywhere else: the store writes a status only through `transitions.check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

STAGES: tuple[str, ...] = ("validation", "photo", "account", "personalisation", "dispatch", "collection")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One status: the stage whose work it is, the public wording, and where it may go.

    `public` is (code, 中文, English) as applicants read it. `live` statuses count towards "one live application per person and
    card type"; the same list stands in the partial unique index.
    """

    stage: str | None
    public: tuple[str, str, str]
    to: frozenset[str]
    live: bool = True


def _s(stage: str | None, code: str, zh: str, en: str, *to: str, live: bool = True) -> Status:
    return Status(stage=stage, public=(code, zh, en), to=frozenset(to), live=live)


_STOPS = ("awaiting_correction", "held", "rejected", "cancelled")

STATUSES: MappingProxyType[str, Status] = MappingProxyType(
    {
        "received": _s("validation", "accepted", "已受理", "Accepted", "validation", "cancelled"),
        "validation": _s("validation", "reviewing", "审核中", "In review", "photo", *_STOPS),
        "photo": _s("photo", "reviewing", "审核中", "In review", "account", *_STOPS),
        "account": _s("account", "account_opening", "银行开户中", "Opening account", "personalisation", *_STOPS),
        "personalisation": _s(
            "personalisation",
            "producing",
            "制卡中",
            "In production",
            # The account the card was to carry is being closed, or was: another one is opened first.
            "account",
            "dispatch",
            "held",
            "collected",
            "cancelled",
        ),
        "dispatch": _s("dispatch", "produced", "已制卡", "Produced", "delivered", "held", "account", "personalisation"),
        "delivered": _s(
            "collection",
            "at_outlet",
            "网点签收",
            "Arrived at outlet",
            "notified",
            "collected",
            "uncollected",
            "returned",
        ),
        "notified": _s("collection", "ready", "待领取", "Ready to collect", "collected", "uncollected", "returned"),
        # Back only to where it was handed over from, within the counter's time for an undo.
        "collected": _s(
            None,
            "collected",
            "已领取",
            "Collected",
            "personalisation",
            "delivered",
            "notified",
            "uncollected",
            "recalled",
            live=False,
        ),
        "uncollected": _s("collection", "overdue", "逾期未领", "Overdue", "collected", "recalled", "returned"),
        "recalled": _s("collection", "overdue", "逾期未领", "Overdue", "returned", "collected"),
        # A card that is made again goes by the account stage where it carries a bank card number: that is another one then.
        "returned": _s(
            "collection", "sealed", "逾期封存", "Returned", "reissued", "account", "personalisation", "destroyed"
        ),
        # Not delivered but lost or damaged on its second way: made again.
        "reissued": _s("collection", "shipped", "已寄出", "Shipped again", "delivered", "account", "personalisation"),
        "destroyed": _s(None, "closed", "已销毁，需重新申领", "Destroyed", live=False),
        "awaiting_correction": _s(
            None, "needs_correction", "待补正", "Needs correction", "validation", "rejected", "cancelled"
        ),
        "held": _s(
            None,
            "reviewing",
            "审核中",
            "In review",
            "validation",
            "photo",
            "account",
            "personalisation",
            "dispatch",
            "awaiting_correction",
            "rejected",
            "cancelled",
        ),
        "rejected": _s(None, "rejected", "审核未通过", "Not approved", "validation", live=False),
        "cancelled": _s(None, "withdrawn", "已撤销", "Withdrawn", live=False),
    }
)

LIVE: tuple[str, ...] = tuple(name for name, status in STATUSES.items() if status.live)
_HELD_PUBLIC = {
    "account": ("account_problem", "开户失败(处理中)", "Account problem"),
    "personalisation": ("production_problem", "制卡失败(处理中)", "Production problem"),
    "dispatch": ("production_problem", "制卡失败(处理中)", "Production problem"),
}


def public_status(
    status: str, *, held_from: str | None = None, bundle: str | None = None, ending: str | None = None
) -> tuple[str, str, str]:
    """What an applicant is told: (code, 中文, English). A pure table over status, held stage, bundle state and ending."""
    if status == "held" and held_from in _HELD_PUBLIC:
        return _HELD_PUBLIC[held_from]
    if status == "dispatch" and bundle == "shipped":
        return ("shipped", "已寄出", "Shipped")
    if status == "returned" and ending == "abandoned":
        return ("given_up", "放弃领取", "Given up")
    return STATUSES[status].public


def diagram() -> str:
    """`docs/states.md`, whole: a picture and the table."""
    lines = [
        "# The states of an application",
        "",
        "Generated from `pipeline/states.py` by `make docs`; a test compares the two. Do not edit.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> received",
    ]
    for name, status in STATUSES.items():
        lines += [f"    {name} --> {to}" for to in sorted(status.to)]
        if not status.to:
            lines.append(f"    {name} --> [*]")
    lines += [
        "```",
        "",
        "| status | stage | public | 对外 | English | live | goes to |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, status in STATUSES.items():
        code, zh, en = status.public
        goes = ", ".join(sorted(status.to)) or "end"
        lines.append(
            f"| `{name}` | {status.stage or '–'} | `{code}` | {zh} | {en} | {'yes' if status.live else 'no'} | {goes} |"
        )
    return "\n".join(lines) + "\n"
