"""A personalisation station in this process: `ports.Encoder` over the card package.

The face is drawn before a card is touched, so that data that cannot be printed costs no blank. Real readers and virtual cards
differ only in what `connect` gives a station; `open_simulated` is the station of the demo and the tests.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from card_personalization.errors import FaceError, KeyRefused, PlanError
from card_personalization.face import render
from card_personalization.keys.software import SoftwareKeys
from card_personalization.plan import CardOrder, Holder, build
from card_personalization.profiles import CardProfile
from card_personalization.simulator.connection import CardStore, VirtualConnection
from card_personalization.simulator.faults import Fault, FaultPlan
from card_personalization.station import Report, Station, Verdict
from pipeline.errors import Conflict, Defect, OutcomeUnknown, TransientError
from pipeline.ports import EncodeOrder, EncodeReport

KEY_PROBLEM = "the card refused our key"
"""How a problem begins after which every further card would lose a try of its key, until it blocks."""

MEMORY_FAILS = Fault("UPDATE RECORD", 3, "sw", sw=0x6581)
"""A blank whose memory fails in the middle of the first file (ISO/IEC 7816-4: 6581) and does not heal."""

_Work = Callable[[Station, CardOrder, str], Report]


class LocalEncoder:
    """One station: its readers, its journal, and a thread for each reader.

    Replies are values: an `EncodeReport`, or an exception that belongs to its order alone:

    - `PlanError`, `FaceError` (card package): the data cannot stand on a card; `problems` name every field; no card was touched.
    - `TransientError`: the station has stopped; no card was touched for this order.
    - `OutcomeUnknown`: the journal could not be written or read (a full disk): `recover` tells what became of the card.
    - `Defect`: no such profile, a key is missing (the station stops too), or a fault of ours.
    """

    def __init__(
        self,
        station: str,
        *,
        stations: Mapping[str, Station],
        profiles: Mapping[str, CardProfile],
        demo: bool,
        readers: int = 1,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`stations` and `profiles` go by profile name; `demo` marks each face; `release` is called once by `close`.

        Raises:
            ValueError: no reader, or a station without its profile.
        """
        if readers < 1:
            raise ValueError("a station has at least one reader")
        if missing := sorted(set(stations) - set(profiles)):
            raise ValueError(f"stations without their profile: {', '.join(missing)}")
        self.station = station
        self._stations = dict(stations)
        self._profiles = dict(profiles)
        self._demo = demo
        self._release = release
        self._stopped = threading.Event()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix=f"reader-{station}")

    def personalise(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        """Make cards, by application id. A card lost on the way is put in again and settled once.

        Raises:
            TransientError: the station has stopped; a person puts it right and starts it again.
        """
        return self._all(orders, _made)

    def recover(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        """Settle cards whose end is not known, by application id; one that was begun is finished for the same order.

        Raises:
            TransientError: the station has stopped; a person puts it right and starts it again.
        """
        return self._all(orders, Station.recover)

    def close(self) -> None:
        """Finish the cards in hand and let the station go; it can be called twice."""
        self._readers.shutdown()
        release, self._release = self._release, lambda: None
        release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all(self, orders: Sequence[EncodeOrder], work: _Work) -> Mapping[str, EncodeReport | Exception]:
        self._go_on()
        replies = self._readers.map(lambda order: self._one(order, work), orders)
        return {order.application_id: reply for order, reply in zip(orders, replies, strict=True)}

    def _one(self, order: EncodeOrder, work: _Work) -> EncodeReport | Exception:
        try:
            return self._worked(order, work)
        except (PlanError, FaceError, TransientError, Defect) as error:
            return error
        except KeyRefused as error:  # it names the key, not its value
            self._stopped.set()
            return Defect(f"encoder {self.station}: {error}")
        except OSError as error:
            return OutcomeUnknown(f"encoder {self.station}: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - a fault of ours with one card must not cost its neighbours
            return Defect(f"encoder {self.station}: {type(error).__name__}")

    def _worked(self, order: EncodeOrder, work: _Work) -> EncodeReport:
        self._go_on()
        station, profile = self._stations.get(order.profile), self._profiles.get(order.profile)
        if station is None or profile is None:
            raise Defect(f"encoder {self.station}: no card profile {order.profile!r}")
        card_order = _card_order(order)
        face = render(profile.face, build(profile, card_order).face, order.picture, demo=self._demo)
        report = work(station, card_order, order.blank_serial)
        if (report.problem or "").startswith(KEY_PROBLEM):
            self._stopped.set()
        return _encode_report(report, face)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise TransientError(
                f"encoder stopped: a key of station {self.station} was refused; put it right and start again"
            )


def _made(station: Station, order: CardOrder, serial: str) -> Report:
    """Personalise; a card whose end is not known is looked at once more, unless it refused our key.

    A blank reported untouched stays so: recovering writes nothing to it, and could not tell more.
    """
    report = station.personalise(order, serial)
    if report.verdict is Verdict.UNKNOWN and not (report.problem or "").startswith(KEY_PROBLEM):
        return station.recover(order, serial)
    return report


def _card_order(order: EncodeOrder) -> CardOrder:
    person = order.holder
    return CardOrder(
        order_id=order.application_id,
        holder=Holder(
            name=person.name,
            social_security_number=person.social_security_number,
            sex=person.sex,
            ethnic=person.ethnic,
            birth_place=person.birth_place,
            birth_date=person.birth_date,
        ),
        card_number=order.card_number,
        city=order.city,
        issued=order.issued,
        expires=order.expires,
        bank_name=order.bank_name,
        bank_card_number=order.bank_card_number,
    )


def _encode_report(report: Report, face: bytes) -> EncodeReport:
    verified = report.verdict is Verdict.VERIFIED
    return EncodeReport(
        verdict=report.verdict.value,
        chip_id=report.card_id,
        atr=report.atr.hex().upper() if report.atr else None,
        verified_fields=tuple(report.fields) if verified else (),
        problem=report.problem,
        apdus=report.apdus,
        elapsed_ms=report.elapsed_ms,
        face=face if verified else b"",
    )


# ------------------------------------------------------------------------------------------------------- virtual cards


class _Box(CardStore):
    """A box of virtual blanks of which the n-th taken in hand fails, for the n in `spoil`."""

    def __init__(
        self,
        directory: Path,
        *,
        spoil: frozenset[int],
        city: str,
        profile: CardProfile,
        faults: Mapping[str, Iterable[Fault]],
    ) -> None:
        super().__init__(
            directory,
            faults=faults,
            city=city,
            version=profile.spec_version,
            method=profile.update_key.authentication.value,
        )
        self._spoil = spoil
        self._taken: set[str] = set()
        self._taking = threading.Lock()

    def insert(self, serial: str) -> VirtualConnection:
        """Put the blank into a reader and power it."""
        with self._taking:
            if serial not in self._taken:
                self._taken.add(serial)
                if len(self._taken) in self._spoil:
                    self._faults[serial] = FaultPlan((MEMORY_FAILS,))
            return super().insert(serial)


def open_simulated(
    directory: Path,
    station: str,
    *,
    profiles: Mapping[str, CardProfile],
    faults: Mapping[str, Iterable[Fault]] | None = None,
    spoil: frozenset[int] = frozenset(),
    city: str = "420100",
    readers: int = 1,
) -> LocalEncoder:
    """A station over virtual cards: blanks in `directory/cards`, journal in `directory/journal`; both survive a kill.

    Demonstration keys; each face says DEMO. `faults` go by blank serial; with `spoil` the n-th blank (from 1, of each profile)
    that this process takes in hand is ruined by its memory. `city` stands on the blanks until they are written.

    Raises:
        Conflict: another process is this station, or this process already is.
        OSError: the directory cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    release = _locked(directory / "lock", station)
    boxes = {
        name: _Box(directory / "cards", spoil=spoil, city=city, profile=profile, faults=faults or {})
        for name, profile in profiles.items()
    }
    stations = {
        name: Station(
            keys=SoftwareKeys.demo(), profile=profile, journal_dir=directory / "journal", connect=boxes[name].insert
        )
        for name, profile in profiles.items()
    }
    return LocalEncoder(station, stations=stations, profiles=profiles, demo=True, readers=readers, release=release)


def _locked(path: Path, station: str) -> Callable[[], None]:
    """Hold the file's lock until the returned function is called or the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"制卡工位 {station} 的目录已被占用；请先停止另一个进程，或为本工位指定另一个目录",
            f"the directory of station {station} is in use: stop the other process, or give this station a directory of its own",
            code="station.in-use",
        ) from None
    return lambda: os.close(descriptor)
