"""A station over a box of virtual blanks, on directories that outlive it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from card_personalization.keys.software import SoftwareKeys
from card_personalization.profiles import CardProfile
from card_personalization.simulator import CardStore, Fault
from card_personalization.station import Station


@dataclass(frozen=True)
class Bench:
    """A station, its box of blanks, and where both keep their files."""

    station: Station
    store: CardStore
    directory: Path
    profile: CardProfile

    def reopened(self) -> "Bench":
        """The same directories after the host died: new objects, healthy cards."""
        return bench_at(self.directory, self.profile)


def bench_at(directory: Path, profile: CardProfile, *, faults: dict[str, Iterable[Fault]] | None = None) -> Bench:
    store = CardStore(directory / "cards", faults=faults)
    station = Station(
        keys=SoftwareKeys.demo(), profile=profile, journal_dir=directory / "journal", connect=store.insert
    )
    return Bench(station, store, directory, profile)
