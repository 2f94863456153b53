"""A station over a box of virtual blanks, on directories that outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from card_personalization.keys.software import SoftwareKeys
from card_personalization.plan import CardOrder, build
from card_personalization.profiles import CardProfile
from card_personalization.simulator import CardStore, Fault
from card_personalization.station import Report, Station
from card_personalization.transport.base import CardConnection

Connect = Callable[[], CardConnection]


@dataclass(frozen=True)
class Bench:
    """A station, its box of blanks, and where both keep their files."""

    station: Station
    store: CardStore
    directory: Path
    profile: CardProfile

    def personalise(self, order: CardOrder, serial: str, connect: Connect | None = None) -> Report:
        """As the station does it, with the blank from the box unless another one is put in."""
        return self.station.personalise(
            build(self.profile, order), serial, connect or partial(self.store.insert, serial)
        )

    def recover(self, order: CardOrder, serial: str, connect: Connect | None = None) -> Report:
        """As `personalise`, settling what was begun."""
        return self.station.recover(build(self.profile, order), serial, connect or partial(self.store.insert, serial))

    def reopened(self) -> Bench:
        """The same directories after the host died: new objects, healthy cards."""
        return bench_at(self.directory, self.profile)


def bench_at(directory: Path, profile: CardProfile, *, faults: dict[str, Iterable[Fault]] | None = None) -> Bench:
    store = CardStore(directory / "cards", faults=faults)
    station = Station(keys=SoftwareKeys.demo(), journal_dir=directory / "journal")
    return Bench(station, store, directory, profile)
