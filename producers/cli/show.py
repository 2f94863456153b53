"""`zhika application show`: one application, masked, with its timeline."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from config.wiring import Installation
from pipeline.clock import SHANGHAI
from pipeline.errors import NotFound
from pipeline.person import mask_name, mask_number
from pipeline.states import public_status
from pipeline.store import applications, custody, views
from pipeline.store.engine import Tx


def found(tx: Tx, name: str) -> str:
    """The id of the application with this id, acceptance number or external reference.

    Raises:
        NotFound: there is none.
    """
    application_id = views.find(tx, name)
    if application_id is None:
        # What was typed may be somebody's number: it is not repeated.
        raise NotFound(
            "没有这份申领；可用申领号、受理号或外部编号",
            "no such application: give its id, acceptance number or external reference",
        )
    return application_id


def case(installation: Installation, name: str) -> dict[str, Any]:
    """The application of an id, acceptance number or external reference.

    Raises:
        NotFound: there is none.
    """
    with installation.store.transaction() as tx:
        application_id = found(tx, name)
        claimed = applications.load(tx, [application_id])[application_id]
        steps = views.history(tx, application_id)
        card = views.card_row(tx, application_id)
        way = custody.history(tx, card.id) if card else []
    app, row = claimed.application, claimed.row
    code, zh, en = public_status(app.status, held_from=row.held_from, ending=row.ending)
    return {
        "id": app.id,
        "external_ref": row.external_ref,
        "acceptance_no": app.acceptance_no,
        "kind": app.kind,
        "priority": app.priority,
        "lane": app.lane,
        "region": app.region,
        "outlet": app.outlet,
        "person": {"name": mask_name(app.person.name), "id_number": mask_number(app.person.id_number)},
        "status": app.status,
        "stage": app.stage or None,
        "public_status": {"code": code, "zh": zh, "en": en},
        "work": row.work,
        "attempts": app.attempts,
        "next_try_at": row.next_try_at,
        "received_at": app.received_at,
        "due_at": app.due_at,
        "collect_by": row.collect_by,
        "ending": row.ending,
        "reasons": [asdict(reason) for reason in app.reasons],
        "card": None
        if card is None
        else {
            "id": card.id,
            "serial": card.blank_serial,
            "card_number": mask_number(card.card_number, head=2, tail=2),
            "status": card.status,
            "custody": card.custody,
            "place": card.place,
            "issued_on": card.issued_on,
            "expires_on": card.expires_on,
        },
        "timeline": [
            {
                "at": s.at,
                "from": s.frm or None,
                "to": s.to,
                "stage": s.stage,
                "outcome": s.outcome,
                "why": s.why,
                "attempt": s.attempt,
                "actor": s.actor,
            }
            for s in steps
        ],
        "custody": [
            {"at": e.at, "giver": e.giver, "taker": e.taker, "place": e.taker_place, "bundle": e.bundle_id} for e in way
        ],
        "version": app.version,
    }


def render(seen: dict[str, Any]) -> list[Any]:
    """The same for a terminal; times are China's."""
    head = (
        f"{seen['id']}  {seen['public_status']['zh']} {seen['public_status']['en']}  ({seen['status']}, {seen['work']})\n"
        f"{seen['person']['name']} {seen['person']['id_number']}  {seen['acceptance_no']}  {seen['region']} → {seen['outlet']}"
    )
    reasons = [f"  ! {r['code']} {r['rule'] or ''}: {r['zh']} / {r['en']}" for r in seen["reasons"]]
    table = Table("时间 (UTC+8)", "从 from", "到 to", "结果 outcome", "原因 why", "操作者 by")
    for step in seen["timeline"]:
        at = step["at"].astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(at, step["from"] or "", step["to"], step["outcome"], step["why"], step["actor"])
    return [head, *reasons, table]
