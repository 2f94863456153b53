"""A personalisation station in this process: `ports.Encoder` over the card package.

Plan and face are made before a card is used, so that data that cannot be written or printed costs no blank. Real readers and
virtual cards differ only in the pool of readers; `open_simulated` is the station of the demo and the tests.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from card_personalization.errors import CardLost, FaceError, KeyRefused, NoUsableCard, PlanError
from card_personalization.face import render
from card_personalization.identity import by_atr
from card_personalization.keys.base import KeyStore
from card_personalization.keys.software import SoftwareKeys
from card_personalization.plan import CardOrder, Holder, Plan, build
from card_personalization.pool import Connect, Event, EventKind, Outcome, Pool, ReaderStatus
from card_personalization.profiles import CardProfile
from card_personalization.readers import CardReader, VirtualReader
from card_personalization.simulator.connection import CardStore, VirtualConnection
from card_personalization.simulator.faults import Fault, FaultPlan
from card_personalization.station import Report, Station, Verdict
from card_personalization.transport.tracing import TracedConnection
from pipeline.errors import Conflict, Defect, NeedsOperator, NotFound, OutcomeUnknown, TransientError
from pipeline.gateways.halt import Halt
from pipeline.ports import CardNotThere, EncodeOrder, EncodeReport, Printer, PrintJob, StationStopped

log = logging.getLogger("zhika.encoder")

MEMORY_FAILS = Fault("UPDATE RECORD", 3, "sw", sw=0x6581)
"""A blank whose memory fails in the middle of the first file (ISO/IEC 7816-4: 6581) and does not heal."""

STOPPED = "stopped"
"""The file in a station's directory that keeps it stopped."""

_OUTCOMES = {Verdict.VERIFIED: Outcome.GOOD, Verdict.SPOILED: Outcome.SPOILED, Verdict.UNKNOWN: Outcome.UNKNOWN}
_Work = Callable[[Station, Plan, str, Connect], Report]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What an order needs before a card is used."""

    plan: Plan
    face: bytes = field(repr=False)


class LocalEncoder:
    """One station: its readers, its keys and its journal.

    Refused keys, and cards that are spoiled one after the other, stop it: it takes no blank until `authorise`, in this process
    and in the next ones. Replies are values: an `EncodeReport`, or an exception that belongs to its order alone:

    - `PlanError`, `FaceError` (card package): the data cannot stand on a card; `problems` name every field; no card was touched.
    - `NeedsOperator`: a key is missing or expired, nothing was written and the station has stopped; or the face was not printed.
    - `StationStopped`: no card was touched for this order.
    - `OutcomeUnknown`: the card is not in a reader, or the journal or printer did not answer: `recover` tells what became of it.
    - `Defect`: no such profile, or a fault of ours.
    """

    def __init__(
        self,
        station: str,
        *,
        readers: Sequence[CardReader],
        keys: KeyStore,
        journal_dir: Path,
        halt_file: Path,
        profiles: Mapping[str, CardProfile],
        printer: Printer | None = None,
        watchdog_s: float = 30.0,
        trace: bool = False,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`profiles` go by name; `halt_file` is there while the station has stopped; `release` is called once by `close`.

        `trace` offers every command and answer, without their bodies, to the log of `transport.tracing`.

        Raises:
            ValueError: no reader.
            OSError: `halt_file` cannot be read.
        """
        if not readers:
            raise ValueError("a station has at least one reader")
        self.station = station
        self._cards = Station(keys=keys, journal_dir=journal_dir)
        self._pool = Pool(readers, classify=_outcome, on_event=_tell, identify=by_atr, watchdog_s=watchdog_s)
        self._profiles = dict(profiles)
        self._fetches = any(reader.feed is not None for reader in readers)
        self._demo = keys.is_demo
        self._printer = printer
        self._release = release
        self._trace = trace
        self._halt = Halt(halt_file, station=station)
        self._in_hand: dict[str, str] = {}
        self._ready = ThreadPoolExecutor(1, thread_name_prefix=f"ready-{station}")

    def loaded(self) -> tuple[str, ...] | None:
        """Serials of the blanks that lie in readers and wait for work; None when a reader fetches whatever is asked for.

        None of them is offered while the station has stopped.
        """
        if self._halt.reason is not None:
            return ()
        if self._fetches:
            return None
        return tuple(serial for serial in self._pool.loaded() if serial is not None)

    def personalise(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        """Make cards, by application id. A card lost on the way is put in again and settled once.

        Raises:
            StationStopped: a person puts it right and authorises it.
        """
        return self._all(orders, _made)

    def recover(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]:
        """Settle cards whose end is not known, by application id; one that was begun is finished for the same order.

        Raises:
            StationStopped: a person puts it right and authorises it.
        """
        return self._all(orders, Station.recover)

    def status(self) -> tuple[ReaderStatus, ...]:
        """The readers at this moment."""
        return self._pool.status()

    def open_attempts(self) -> int:
        """How many cards were begun and have no end in the journal."""
        return len(self._cards.open_attempts())

    @property
    def stopped(self) -> str | None:
        """Why the station has stopped, and how it is made to go on; None while it works."""
        return self._halt.reason

    def authorise(self) -> None:
        """An operator has put right what stopped the station: go on.

        Raises:
            OSError: the station's directory cannot be written; it stays stopped.
        """
        self._halt.go_on()

    def in_hand(self, serial: str | None) -> str | None:
        """The application whose card is being made on this blank."""
        return None if serial is None else self._in_hand.get(serial)

    def drain(self, reader: str, *, draining: bool) -> None:
        """Let a reader finish its card and take no more, or take cards again.

        Raises:
            KeyError: no such reader.
        """
        (self._pool.drain if draining else self._pool.resume)(reader)

    def close(self) -> None:
        """Finish the cards in hand and let the station go; it can be called twice."""
        self._pool.close()
        self._ready.shutdown()
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
        pending = [(order, self._begin(order, work)) for order in orders]
        begun = work is Station.recover
        return {order.application_id: self._reply(order, future, begun=begun) for order, future in pending}

    def _begin(self, order: EncodeOrder, work: _Work) -> Future[tuple[Report, bytes]]:
        serial = order.blank_serial

        def job(connect: Connect, ready: _Prepared) -> tuple[Report, bytes]:
            self._go_on()
            self._in_hand[serial] = order.application_id
            try:
                report = work(self._cards, ready.plan, serial, self._traced(connect))
            except KeyRefused as error:
                self._keys_refused(str(error))
                raise
            finally:
                self._in_hand.pop(serial, None)
            self._learn(report)
            return report, ready.face

        ready = self._ready.submit(self._prepared, order)  # while the cards before it are being made
        return self._pool.submit(serial, job, prepare=ready.result)

    def _traced(self, connect: Connect) -> Connect:
        return (lambda: TracedConnection(connect())) if self._trace else connect

    def _learn(self, report: Report) -> None:
        """Stop before the next card when this one tells that it would fare no better."""
        if report.keys_refused:
            self._keys_refused(str(report.problem))
        elif report.verdict is Verdict.VERIFIED:
            self._halt.good()
        elif report.verdict is Verdict.SPOILED or (report.verdict is Verdict.UNTOUCHED and report.problem is not None):
            self._halt.spoiled(report.serial, report.problem)

    def _keys_refused(self, problem: str) -> None:
        self._halt.stop(f"密钥不可用或与卡片不符 / a key cannot be used, or the card has another one: {problem}")

    def _prepared(self, order: EncodeOrder) -> _Prepared:
        profile = self._profiles.get(order.profile)
        if profile is None:
            raise Defect(f"encoder {self.station}: no card profile {order.profile!r}")
        plan = build(profile, card_order(order))
        return _Prepared(plan, render(profile.face, plan.face, order.picture, demo=self._demo))

    def _reply(
        self, order: EncodeOrder, future: Future[tuple[Report, bytes]], *, begun: bool
    ) -> EncodeReport | Exception:
        try:
            report, face = future.result()
            if report.verdict is Verdict.VERIFIED:
                self._print(order, report, face)
        except (PlanError, FaceError, TransientError, OutcomeUnknown, NeedsOperator, Defect) as error:
            return error
        except KeyRefused as error:  # it names the key, not its value
            return NeedsOperator(
                "encoder.key",
                f"encoder {self.station}: {error}",
                zh=f"制卡工位 {self.station} 的密钥不可用，工位已停止，本次未向卡片写入：{error}",
                en=f"A key of station {self.station} cannot be used; the station stopped and wrote nothing: {error}",
            )
        except NoUsableCard:
            if not begun:
                return EncodeReport(verdict="untouched")
            log.warning("station %s: put the blank %s into a reader again", self.station, order.blank_serial)
            return CardNotThere(f"put the blank {order.blank_serial} into a reader of station {self.station} again")
        except (CardLost, OSError) as error:
            return OutcomeUnknown(f"encoder {self.station}: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - a fault of ours with one card must not cost its neighbours
            return Defect(f"encoder {self.station}: {type(error).__name__}")
        return _encode_report(report, face)

    def _print(self, order: EncodeOrder, report: Report, face: bytes) -> None:
        """Print a verified card's face, unless the printer has it already; a job that failed is followed by another copy.

        Raises:
            NeedsOperator: the printer could not print it.
            TransientError: the printer certainly did not take it.
            OutcomeUnknown: it may have.
        """
        if (printer := self._printer) is None:
            return
        for copy in count(1):
            job = PrintJob(card_id=f"{order.application_id}-{report.card_id}", sides=(face,), copy=copy)
            known = printer.find(job.name)
            if known is not None and known.state == "failed":
                continue
            printout = known or printer.print(job)
            if printout.state == "failed":
                reasons = ", ".join(printout.reasons) or "-"
                raise NeedsOperator(
                    "print.failed",
                    zh=f"卡面打印失败（{reasons}）；芯片已写好并核对，处理打印机后继续",
                    en=f"The face was not printed ({reasons}); the chip is written and verified: see to the printer, then release",
                )
            return

    def _go_on(self) -> None:
        if (reason := self._halt.reason) is not None:
            raise StationStopped(f"encoder stopped: station {self.station}: {reason}")


def _tell(event: Event) -> None:
    """What an operator has to know of a reader goes to the log."""
    if event.kind in (EventKind.ALARM, EventKind.READER_DOWN):
        log.warning("reader %s: %s %s", event.reader, event.kind, event.text)
    elif event.kind is EventKind.READER_UP:
        log.info("reader %s: %s", event.reader, event.kind)


def _outcome(result: tuple[Report, bytes]) -> Outcome | None:
    return _OUTCOMES.get(result[0].verdict)


def _made(station: Station, plan: Plan, serial: str, connect: Connect) -> Report:
    """Personalise; a card whose end is not known is looked at once more, unless it refused our key.

    A blank reported untouched stays so: recovering writes nothing to it, and could not tell more.
    """
    report = station.personalise(plan, serial, connect)
    if report.verdict is Verdict.UNKNOWN and not report.keys_refused:
        return station.recover(plan, serial, connect)
    return report


def card_order(order: EncodeOrder) -> CardOrder:
    """An order as the card package knows it."""
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
        initialiser_tail=order.initialiser_tail,
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
        self, directory: Path, *, spoil: frozenset[int], city: str, faults: Mapping[str, Iterable[Fault]]
    ) -> None:
        super().__init__(directory, faults=faults, city=city)
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
    printer: Printer | None = None,
    trace: bool = False,
) -> LocalEncoder:
    """A station over virtual cards: blanks in `directory/cards`, journal in `directory/journal`; both survive a kill.

    Demonstration keys; each face says DEMO. `faults` go by blank serial; with `spoil` the n-th blank (from 1) that this process
    takes in hand is ruined by its memory. `city` stands on the blanks until they are written.

    Raises:
        Conflict: another process is this station, or this process already is.
        OSError: the directory cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    release = locked(directory / "lock", station)
    box = _Box(directory / "cards", spoil=spoil, city=city, faults=faults or {})
    return LocalEncoder(
        station,
        readers=[VirtualReader(f"virtual {number}", box.insert) for number in range(1, readers + 1)],
        keys=SoftwareKeys.demo(),
        journal_dir=directory / "journal",
        halt_file=directory / STOPPED,
        profiles=profiles,
        printer=printer,
        trace=trace,
        release=release,
    )


def open_pcsc(
    directory: Path,
    station: str,
    *,
    names: Sequence[str],
    keys: KeyStore,
    profiles: Mapping[str, CardProfile],
    printer: Printer | None = None,
    watchdog_s: float = 30.0,
    trace: bool = False,
) -> LocalEncoder:
    """A station over PC/SC readers, those that `names` name by a part that is theirs alone, or all; journal in `directory/journal`.

    Raises:
        Conflict: another process is this station, or a name fits no reader or several.
        ServiceDown: pcscd does not answer.
        OSError: the directory cannot be used.
    """
    from card_personalization.transport.pcsc import PcscReader, list_readers

    directory.mkdir(parents=True, exist_ok=True)
    there = list_readers()
    chosen = [chosen_reader(name, there) for name in names] or list(there)
    if not chosen:
        raise Conflict("没有读卡器；请连接读卡器", "there is no reader: connect one", code="reader.none")
    return LocalEncoder(
        station,
        readers=[PcscReader(name) for name in chosen],
        keys=keys,
        journal_dir=directory / "journal",
        halt_file=directory / STOPPED,
        profiles=profiles,
        printer=printer,
        watchdog_s=watchdog_s,
        trace=trace,
        release=locked(directory / "lock", station),
    )


def chosen_reader(name: str, readers: Sequence[str]) -> str:
    """The reader called `name`, or the only one whose name has it as a part.

    Raises:
        NotFound: none.
        Conflict: several.
    """
    found = [reader for reader in readers if reader == name] or [reader for reader in readers if name in reader]
    listed = ", ".join(readers) or "-"
    if not found:
        raise NotFound(f"没有读卡器 {name}；现有：{listed}", f"no reader {name}: there are {listed}")
    if len(found) > 1:
        raise Conflict(
            f"{name} 对应多个读卡器：{listed}", f"{name} fits several readers: {listed}", code="reader.ambiguous"
        )
    return found[0]


def locked(path: Path, station: str) -> Callable[[], None]:
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
