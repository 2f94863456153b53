"""A bundle is opened and its cards are scanned: each one of the packing list is there, missing or damaged, and there may be others.

What differs opens a discrepancy; the rest goes on. The same for bundles that arrive at an outlet and for those that come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import Conflict, Refused
from pipeline.identifiers import BLANK_SERIAL, normalise_number
from pipeline.services.acts import bundle_event, not_personal, tell, two_people
from pipeline.store import applications, audit, custody, discrepancies, handing
from pipeline.store.applications import Claimed
from pipeline.store.custody import Place
from pipeline.store.discrepancies import Difference
from pipeline.store.engine import Tx
from pipeline.store.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the person who opened a bundle tells of it: cards by id or serial.

    `received` None: all that is not told otherwise; of a disputed bundle, nothing that was told missing: who finds it names it.
    """

    received: Sequence[str] | None = None
    missing: Sequence[str] = ()
    extra: Sequence[str] = ()
    damaged: Sequence[str] = ()
    seal_intact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was signed for: cards by id, extra ones by serial; the discrepancies that this opened, and how the bundle stands now."""

    bundle_id: str
    received: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    extra: tuple[str, ...]
    discrepancies: tuple[str, ...]
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """Cards that are there, as they stood before, and their applications, locked. `strays` are ours, but not of this list."""

    received: tuple[Record, ...]
    damaged: tuple[Record, ...]
    strays: tuple[Record, ...]
    apps: Mapping[str, Claimed]
    receipt: Receipt

    @property
    def here(self) -> tuple[Record, ...]:
        """Every card that was taken in."""
        return (*self.received, *self.damaged, *self.strays)


def scan_in(tx: Tx, bundle: Record, told: Told, *, taker: Place, actor: str, now: datetime) -> Scanned:
    """Sign for a bundle that is locked: its cards change hands, what differs opens a discrepancy, the bundle and the event follow.

    A card that was missing and is there now settles its discrepancy.

    Raises:
        Refused: a card that is not on the packing list or is told of twice, an extra one that is on it, no serial or what may be
            somebody's number, or one person as both parties.
    """
    two_people(bundle.carrier or "", actor)
    under_way = [row for row in custody.cards_in(tx, bundle.id) if row.custody == "courier"]
    serials = _serials(told.extra)
    extra = custody.cards_by_serial(tx, serials) if serials else {}
    apps = applications.load(tx, [row.application_id for row in (*under_way, *extra.values())], lock=True)
    # Only now nobody else moves them.
    listed = {row.id: row for row in custody.cards_in(tx, bundle.id) if row.custody == "courier"}
    extra = custody.cards_by_serial(tx, serials) if serials else {}
    _not_on_list(bundle, extra)
    for serial in serials:
        if serial not in extra:  # one of ours is known to be a serial, whatever it looks like
            not_personal(serial, "多出的卡的序列号", "the serial of an extra card")
    received, missing, damaged = _sorted(tx, bundle, told, listed)
    strays = tuple(row for row in extra.values() if _astray(row, taker))
    here = (*received, *damaged, *strays)
    custody.hand_on(
        tx,
        here,
        taker=taker,
        now=now,
        given_by=bundle.carrier,
        taken_by=actor,
        bundle_id=bundle.id,
        seal_no=bundle.seal_no,
        into=bundle.id,
    )
    custody.mark_cards(tx, [row.id for row in damaged], return_reason="damaged")
    discrepancies.turned_up(tx, bundle.id, [row.id for row in here], by=actor, now=now)
    found = [Difference(kind="missing", card_id=row.id, serial=row.blank_serial) for row in missing]
    found += [Difference(kind="damaged", card_id=row.id, serial=row.blank_serial) for row in damaged]
    found += [Difference(kind="extra", card_id=extra[s].id if s in extra else None, serial=s) for s in serials]
    found += [] if told.seal_intact else [Difference(kind="seal", serial=bundle.seal_no)]
    opened = discrepancies.open_(tx, bundle.id, found, by=actor, now=now)
    status = "disputed" if discrepancies.count_open(tx, bundle.id) else "received"
    custody.mark(tx, bundle.id, status=status, received_at=bundle.received_at or now)
    counts = {"cards": len(received), "missing": len(missing), "damaged": len(damaged), "extra": len(serials)}
    settled = "bundle.settled" if bundle.status == "disputed" else "bundle.received"
    kind = "bundle.disputed" if status == "disputed" else settled
    tell(tx, bundle_event(kind, bundle, now, **counts, seal_intact=told.seal_intact), now=now)
    receipt = Receipt(
        bundle_id=bundle.id,
        received=tuple(row.id for row in received),
        missing=tuple(row.id for row in missing),
        damaged=tuple(row.id for row in damaged),
        extra=serials,
        discrepancies=opened,
        status=status,
    )
    detail = {**counts, "seal_intact": told.seal_intact, "discrepancies": list(opened)}
    action = "bundle.receive" if bundle.direction == "out" else "bundle.receive_back"
    audit.append(tx, actor=actor, action=action, target=bundle.id, now=now, detail=detail)
    return Scanned(received=received, damaged=damaged, strays=strays, apps=apps, receipt=receipt)


def _serials(extra: Sequence[str]) -> tuple[str, ...]:
    """Serials of extra cards, as they are kept.

    Raises:
        Refused: one is none; it is not repeated, since it may be anything.
    """
    serials = tuple(dict.fromkeys(normalise_number(typed) for typed in extra))
    for n, serial in enumerate(serials, 1):
        if not BLANK_SERIAL.fullmatch(serial):
            raise Refused(
                f"第 {n} 张多出的卡：请填写卡面序列号",
                f"extra card {n}: give the serial on the card",
                code="card-serial",
            )
    return serials


def _not_on_list(bundle: Record, extra: Mapping[str, Record]) -> None:
    # What was settled as lost is on no list any more.
    if own := sorted(s for s, row in extra.items() if row.bundle_id == bundle.id and row.custody != "lost"):
        raise Refused(
            f"{'、'.join(own)} 属于本箱装箱单，请按收到登记",
            f"{', '.join(own)} is of this bundle: report it as received",
            code="card-in-bundle",
        )


def _sorted(
    tx: Tx, bundle: Record, told: Told, listed: Mapping[str, Record]
) -> tuple[tuple[Record, ...], tuple[Record, ...], tuple[Record, ...]]:
    """The cards still under way, as received, missing, damaged."""
    known = {name: row.id for row in listed.values() for name in (row.id, row.blank_serial)}
    damaged = _named(told.damaged, known)
    elsewhere = _found_elsewhere(tx, bundle, [name for name in told.missing if _as_kept(name) not in known])
    missing = _named([name for name in told.missing if name not in elsewhere], known)
    if told.received is None:
        absent = discrepancies.still_missing(tx, bundle.id)
        received = [i for i in listed if i not in {*missing, *damaged, *absent}]
    else:
        received = _named(told.received, known)
    missing += [i for i in listed if i not in {*received, *missing, *damaged}]
    if len({*received, *missing, *damaged}) < len(received) + len(missing) + len(damaged):
        raise Refused(
            "同一张卡被登记了两种情况，请核对",
            "a card is told of in two ways: it is received, missing or damaged",
            code="card-named-twice",
        )
    as_rows = [tuple(listed[i] for i in ids) for ids in (received, missing, damaged)]
    return as_rows[0], as_rows[1], as_rows[2]


def _named(names: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Ids of cards that were named by id or serial."""
    if strange := [name for name in names if _as_kept(name) not in known]:
        raise Refused(
            f"有 {len(strange)} 张卡不在装箱单上或已签收，请按多出的卡登记",
            f"{len(strange)} cards are not on the packing list or were signed for already: report them as extra",
            code="card-not-in-bundle",
        )
    return list(dict.fromkeys(known[_as_kept(name)] for name in names))


def _found_elsewhere(tx: Tx, bundle: Record, names: Sequence[str]) -> set[str]:
    """Those of the names that are on the printed list, but whose card has meanwhile been scanned somewhere else."""
    printed = {name: entry["card"] for entry in bundle.manifest or () for name in (entry["card"], entry["serial"])}
    asked = {name: printed[_as_kept(name)] for name in names if _as_kept(name) in printed}
    rows = handing.cards(tx, list(asked.values())) if asked else {}
    return {name for name, card in asked.items() if rows[card].bundle_id != bundle.id}


def _as_kept(name: str) -> str:
    return name.strip() if name.strip().startswith("card_") else normalise_number(name)


def _astray(row: Record, taker: Place) -> bool:
    """Whether a card that was scanned, but is on another list or on none, is to be taken in.

    One that is on the books of a person or a bank, or as destroyed, is not ours to move: it stays a discrepancy.
    """
    return row.custody in ("centre", "courier", "lost", "outlet") and Place(row.custody, row.place) != taker


def must_be_settled(tx: Tx, bundle: Record) -> None:
    """Refuse while a discrepancy of a bundle is open.

    Raises:
        Conflict: there is one.
    """
    if count := discrepancies.count_open(tx, bundle.id):
        raise Conflict(
            f"卡箱 {bundle.id} 还有 {count} 项差异未处理，处理后才能关闭",
            f"bundle {bundle.id} has {count} open discrepancies: settle them, then close it",
            code="discrepancy-open",
        )
