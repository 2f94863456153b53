"""Erase: the photos of applications that ended longer ago than their own policy keeps them, and pictures that were replaced.

    retire     one tx a page: applications whose time is over let go of their objects, which are remembered as retired
    check      one tx a batch: which retired objects does anybody name
    remove     the object store, outside any transaction; an object put of late stays until its reference shows
    forget     one tx: what is gone is not remembered any more, and the audit log says so

A process that dies in between leaves objects retired; the next run goes on. No application names what is being removed.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pipeline.errors import NotFound, TransientError
from pipeline.services.context import Context
from pipeline.store import audit, erasures
from pipeline.store.erasures import Holding, Retired

log = logging.getLogger("zhika.erase")
PAGE = 1000
"""Applications that one transaction looks at."""
CHUNK = 100
"""Objects that one batch removes: some tenths of a second of a slow disk."""
GRACE = timedelta(hours=1)
"""How long after a put its reference may be committed: far longer than any transaction may take."""
LATE = timedelta(days=1)
"""What was let go of this long ago and is still on the disk is overdue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What one batch did.

    `shared` objects stay for other applications; `left` ones are tried again by the next run, `late` of them since a day or more.
    `unknown`: ended applications whose policy is not kept, so that nobody can say when their time is over.
    """

    applications: int = 0
    objects: int = 0
    shared: int = 0
    left: int = 0
    late: int = 0
    unknown: int = 0

    @property
    def overdue(self) -> int:
        return self.late + self.unknown

    def __add__(self, other: Erased) -> Erased:
        return Erased(
            applications=self.applications + other.applications,
            objects=self.objects + other.objects,
            shared=self.shared + other.shared,
            left=self.left + other.left,
            late=self.late + other.late,
            unknown=self.unknown + other.unknown,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a run would begin with. `objects` counts those too that others need; `unknown` as in `Erased`."""

    applications: int
    objects: int
    unknown: int


@dataclass(frozen=True, slots=True)
class _Terms:
    """How long photos are kept, by region and version of its policy; None where that version is not kept."""

    context: Context
    known: dict[tuple[str, str], timedelta | None] = field(default_factory=dict)

    def sort(self, page: Sequence[Holding]) -> tuple[list[Holding], int]:
        """Those of a page whose time is over, and how many have ended without a policy that says when it is."""
        now = self.context.now()
        terms = [(item, self._of(item.region, item.version)) for item in page if item.ended]
        over = [item for item, keep in terms if keep is not None and item.updated_at < now - keep]
        return over, sum(keep is None for _, keep in terms)

    def _of(self, region: str, version: str) -> timedelta | None:
        if (region, version) not in self.known:
            try:
                keep = timedelta(days=self.context.policies.of(region, version).photo.keep_days.value)
            except NotFound:
                log.warning("photos stay: policy %s of region %s is not kept; restore its file", version, region)
                keep = None
            self.known[region, version] = keep
        return self.known[region, version]


def erase(context: Context, *, actor: str, unused_for: timedelta = GRACE) -> Iterator[Erased]:
    """Erase all that is due, a bounded batch at a time. Any number of processes may, at once and as often as they like.

    Raises:
        TransientError: the database is away; what was begun is finished by the next run.
    """
    terms = _Terms(context)
    last = ("", "")
    while True:
        with context.store.transaction() as tx:
            page = erasures.holding(tx, after=last, limit=PAGE)
            over, unknown = terms.sort(page)
            count = erasures.retire(tx, over, now=context.now()) if over else 0
        if not page:
            break
        last = page[-1].key
        yield Erased(applications=count, unknown=unknown)
    last = ("", "")
    while True:
        with context.store.transaction() as tx:
            retired = erasures.retired(tx, after=last, limit=CHUNK)
        if not retired:
            return
        last = retired[-1].key
        yield _remove(context, retired, actor=actor, unused_for=unused_for)


def foresee(context: Context) -> Foreseen:
    """What a run would find now; changes nothing.

    Raises:
        TransientError: the database is away.
    """
    terms = _Terms(context)
    with context.store.transaction() as tx:
        objects = erasures.waiting(tx)
    applications, unknown, last = 0, 0, ("", "")
    while True:
        with context.store.transaction() as tx:
            page = erasures.holding(tx, after=last, limit=PAGE)
            over, of_page = terms.sort(page)
            objects += erasures.objects(tx, over) if over else 0
        if not page:
            return Foreseen(applications=applications, objects=objects, unknown=unknown)
        last = page[-1].key
        applications, unknown = applications + len(over), unknown + of_page


def _remove(context: Context, retired: Sequence[Retired], *, actor: str, unused_for: timedelta) -> Erased:
    loose = dict.fromkeys(item.name for item in retired if not item.named)
    gone = {name for name in loose if _removed(context, name, unused_for)}
    done = [item for item in retired if item.named or item.name in gone]
    now = context.now()
    with context.store.transaction() as tx:
        ours = erasures.forget(tx, done)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for item in done:
            if item.key in ours and not item.own:
                counts[item.application_id]["shared" if item.named else "objects"] += 1
        for application_id, count in counts.items():
            detail = {"objects": count["objects"], "shared": count["shared"]}
            audit.append(tx, actor=actor, action="photo.erased", target=application_id, now=now, detail=detail)
    left = [item for item in retired if not item.named and item.name not in gone]
    return Erased(
        objects=len(gone),
        shared=sum(count["shared"] for count in counts.values()),
        left=len(left),
        late=sum(item.at < now - LATE for item in left),
    )


def _removed(context: Context, name: str, unused_for: timedelta) -> bool:
    try:
        return context.objects.erase(name, unused_for=unused_for) != "in_use"
    except TransientError as error:
        log.warning("a retired object stays for now: %s", error)
        return False
