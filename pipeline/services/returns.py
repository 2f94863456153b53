"""Cards on their way back: called back, given to the courier, signed for at the centre."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services.acts import bundle_in, move, moved_card_event, policy_of, same_seal, tell, typed_seal
from pipeline.services.context import Context
from pipeline.store import applications, audit, custody, handing, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE, Place


def send_back(context: Context, card_ids: Sequence[str], *, outlet: str, seal_no: str, carrier: str, actor: str) -> str:
    """The courier takes cards back from an outlet: outlet → courier. Returns the bundle.

    Raises:
        Refused: no card named, or one is not at this outlet or not called back.
    """
    now = context.now()
    if not card_ids:
        raise Refused("没有选择卡片", "no card was named", code="required")
    with context.store.transaction() as tx:
        named = handing.cards(tx, card_ids)
        apps = applications.load(tx, [row.application_id for row in named.values()], lock=True)
        rows = handing.cards(tx, card_ids)
        for card_id in card_ids:
            row = rows.get(card_id)
            if row is None or (row.custody, row.place) != ("outlet", outlet):
                raise NotFound(f"本网点没有卡片 {card_id}", f"this outlet does not hold card {card_id}")
            if apps[row.application_id].application.status != "recalled":
                raise Conflict(f"卡片 {card_id} 未被召回", f"card {card_id} was not called back")
        chosen = [rows[card_id] for card_id in card_ids]
        manifest = [{"card": r.id, "serial": r.blank_serial, "application": r.application_id} for r in chosen]
        region = context.policies.of(apps[chosen[0].application_id].application.region).city
        seal_no = typed_seal(seal_no)
        bundle_id = custody.open_back(
            tx, outlet=outlet, region=region, seal_no=seal_no, carrier=carrier, manifest=manifest, now=now
        )
        custody.hand_on(
            tx,
            chosen,
            taker=Place("courier", carrier),
            now=now,
            given_by=actor,
            taken_by=carrier,
            bundle_id=bundle_id,
            seal_no=seal_no,
            into=bundle_id,
        )
        audit.append(
            tx, actor=actor, action="bundle.send_back", target=bundle_id, now=now, detail={"cards": len(chosen)}
        )
    return bundle_id


def receive_back(context: Context, bundle_id: str, *, seal_no: str, actor: str) -> int:
    """The centre signs for cards that come back: courier → centre; their applications are returned.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not under way.
        Refused: the seal is another one.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("shipped",), "back")
        same_seal(bundle, seal_no)
        cards = custody.cards_in(tx, bundle_id)
        apps = applications.load(tx, [row.application_id for row in cards], lock=True)
        custody.hand_on(
            tx,
            cards,
            taker=CENTRE,
            now=now,
            given_by=bundle.carrier,
            taken_by=actor,
            bundle_id=bundle_id,
            seal_no=bundle.seal_no,
        )
        custody.mark(tx, bundle_id, status="closed", received_at=now)
        by_ending: dict[str, dict[str, Claimed]] = {}
        for i, claimed in apps.items():
            if claimed.application.status == "recalled":
                by_ending.setdefault(policy_of(context, claimed).collection.ending.value, {})[i] = claimed
        for ending, members in by_ending.items():
            move(tx, members, "returned", now=now, actor=actor, why=bundle_id, ending=ending)
            timers.cancel(tx, list(members), now=now)
        for row in cards:
            tell(tx, moved_card_event("card.returned", row, apps[row.application_id]), now=now)
        audit.append(
            tx, actor=actor, action="bundle.receive_back", target=bundle_id, now=now, detail={"cards": len(cards)}
        )
        return len(cards)
