"""A card's own cost: host time, commands and bytes, line time against pure wire time, readers side by side, idle encoders.

Cards are virtual and whole (social security, debit, PSE, PPSE, read back); the journal is on a real disk. At line rate a card and
its reader take 12 etu a character at 115200 baud and nothing else. Both sides of every ratio are measured in this one run. Writes
`out/bench/card.json`.

    python -m benchmarks.card [--cards N] [--idle-cards N] [--readers N] [--no-pcscd]
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from pathlib import Path

from PIL import Image

from card_personalization.encoding import card_number_check, citizen_number_check
from card_personalization.face import render
from card_personalization.identity import by_atr
from card_personalization.keys.software import SoftwareKeys
from card_personalization.plan import CardOrder, Holder, Plan, build
from card_personalization.pool import Connect, Event, EventKind, Outcome, Pool, Timings
from card_personalization.profiles import CardProfile, load_profile
from card_personalization.readers import CardReader, VirtualReader
from card_personalization.simulator.connection import CardStore
from card_personalization.simulator.pace import Pace
from card_personalization.simulator.vpcd import VpcdCard, serve
from card_personalization.station import Report, Station, Verdict
from card_personalization.transport.base import CardConnection
from card_personalization.transport.pcsc import PcscReader
from config.wiring import SWITCH_S

BAUD = 115_200
CARDS = Path(__file__).parents[1] / "config" / "cards"
_NUMBERS = count(1)


@dataclass
class Line:
    """What passed between hosts and cards."""

    apdus: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Spent waiting for cards."""
    wire_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, sent: int, seconds: float) -> None:
        with self.lock:
            self.apdus += 1
            self.bytes += sent
            self.seconds += seconds


class Counted:
    """A connection that counts what passes."""

    def __init__(self, connection: CardConnection, line: Line) -> None:
        self._connection = connection
        self._line = line

    @property
    def atr(self) -> bytes:
        return self._connection.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        begun = time.perf_counter()
        body, sw = self._connection.transmit(apdu)
        self._line.note(len(apdu) + len(body) + 2, time.perf_counter() - begun)
        return body, sw

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        wire_s = getattr(self._connection, "wire_s", 0.0)
        with self._line.lock:
            self._line.wire_s += wire_s
        self._connection.close()


@dataclass(frozen=True)
class Run:
    """Cards made one after the other or side by side."""

    cards: int
    seconds: float
    line: Line
    timings: Sequence[Timings]

    @property
    def per_hour(self) -> float:
        return self.cards / self.seconds * 3600

    @property
    def idle_share(self) -> float:
        """Of the time cards lay in readers: card seen to first command, and last answer to eject."""
        idle = sum((t.seen_to_first_apdu_ms or 0) + (t.last_answer_to_eject_ms or 0) for t in self.timings)
        return idle / (idle + sum(t.worked_ms or 0 for t in self.timings))


def photo() -> bytes:
    output = io.BytesIO()
    Image.effect_noise((358, 441), 40).convert("RGB").save(output, "JPEG", quality=85)
    return output.getvalue()


def order() -> CardOrder:
    n = next(_NUMBERS)
    first17 = f"99900119900101{n % 1000:03d}"
    body = f"BE{n:06d}"
    pan = f"6299990000{n:08d}"
    digits = (int(d) * (2 - i % 2) for i, d in enumerate(reversed(pan)))
    return CardOrder(
        order_id=f"bench_{n}",
        holder=Holder(
            name="阿依古丽·买买提",
            social_security_number=first17 + citizen_number_check(first17),
            sex="1" if n % 2 else "2",
            ethnic="05",
            birth_place="999001",
            birth_date=date(1990, 1, 1),
        ),
        card_number=body + card_number_check(body),
        city="420100",
        initialiser_tail="42010001",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="汉口银行",
        bank_card_number=pan + str(-sum(d - 9 if d > 9 else d for d in digits) % 10),
    )


def serial() -> str:
    return f"{next(_NUMBERS):08X}"


class Workshop:
    """A station and the cards it makes; plan and face of the next card are made while others are being written."""

    def __init__(self, directory: Path, profile: CardProfile) -> None:
        self._station = Station(keys=SoftwareKeys.demo(), journal_dir=directory / "journal")
        self._profile = profile
        self._photo = photo()

    def prepared(self, wanted: CardOrder) -> Plan:
        """Everything the host can know before the card comes."""
        plan = build(self._profile, wanted)
        render(self._profile.face, plan.face, self._photo, demo=True)
        return plan

    def make(self, blank: str, connect: Connect, plan: Plan) -> Report:
        report = self._station.personalise(plan, blank, connect)
        if report.verdict is not Verdict.VERIFIED:
            raise SystemExit(f"a card was not verified: {report.problem}")
        return report


def pooled(
    shop: Workshop,
    readers: Sequence[CardReader],
    cards: int,
    blanks: Callable[[Pool, int], Sequence[str]],
    line: Line | None = None,
) -> Run:
    """Cards on a pool of readers, from the first seen to the last ejected."""
    timings: list[Timings] = []
    pool: Pool

    def told(event: Event) -> None:
        if event.kind is EventKind.RESULT:
            timings.extend(s.last_card for s in pool.status() if s.reader == event.reader and s.last_card)

    pool = Pool(readers, classify=lambda report: Outcome.GOOD, on_event=told, identify=by_atr)
    try:
        begun = time.perf_counter()
        with ThreadPoolExecutor(1) as preparing:
            pending: list[Future[Report]] = []
            for blank in blanks(pool, cards):
                ready = preparing.submit(shop.prepared, order())
                pending.append(pool.submit(blank, partial(shop.make, blank), prepare=ready.result))
            for future in pending:
                future.result()
        seconds = time.perf_counter() - begun
    finally:
        pool.close()
    return Run(cards, seconds, line or Line(), timings)


def fetched(_: Pool, cards: int) -> list[str]:
    """Blanks for readers that feed themselves."""
    return [serial() for _ in range(cards)]


def inserted(pool: Pool, cards: int) -> list[str]:
    """The blanks that were put into readers by hand, once all are there."""
    while len(pool.loaded()) < cards:
        time.sleep(0.01)
    return [blank for blank in pool.loaded() if blank is not None]


def virtual(store: CardStore, readers: int, line: Line) -> list[CardReader]:
    def insert(blank: str) -> CardConnection:
        return Counted(store.insert(blank), line)

    return [VirtualReader(f"virtual {n}", insert) for n in range(1, readers + 1)]


def unpaced(shop: Workshop, store: CardStore, cards: int) -> tuple[Line, list[float]]:
    """Host milliseconds of each card: all its time but what it waited for the card."""
    line, host = Line(), []
    (reader,) = virtual(store, 1, line)
    for _ in range(cards):
        blank, waited, begun = serial(), line.seconds, time.perf_counter()
        reader.feed(blank)  # type: ignore[misc] # this one feeds itself
        shop.make(blank, reader.connect, shop.prepared(order()))
        host.append((time.perf_counter() - begun - (line.seconds - waited)) * 1000)
    return line, host


# -------------------------------------------------------------------------------------------------------- over pcscd


class CountedReader(PcscReader):
    """A PC/SC reader whose cards count what passes."""

    def __init__(self, name: str, line: Line) -> None:
        super().__init__(name)
        self._line = line

    def connect(self) -> CardConnection:  # type: ignore[override] # the same card, counted
        return Counted(super().connect(), self._line)


@contextmanager
def cards_in_readers(directory: Path, ports: Sequence[int], baud: int | None) -> Iterator[None]:
    """Virtual blanks in readers of vpcd, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    blanks = [serial() for _ in ports]
    child = context.Process(target=_hold, args=(directory, dict(zip(ports, blanks, strict=True)), baud), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.terminate()
        child.join()


def _hold(directory: Path, blanks: dict[int, str], baud: int | None) -> None:
    store = CardStore(directory, pace=None if baud is None else partial(Pace, baud))
    serve(
        [VpcdCard("127.0.0.1", port, partial(store.insert, blank)) for port, blank in blanks.items()], threading.Event()
    )


def over_pcscd(shop: Workshop, directory: Path) -> dict[str, float]:
    """The same through pcscd and vpcd: host time of a card, eight readers against one at line rate; a card in each."""
    from tests.support.pcscd import Pcscd, need_pcscd

    pcscd = Pcscd(directory / "pcscd", pairs=4, pcscd=need_pcscd())
    pcscd.start()
    try:
        line = Line()
        with cards_in_readers(directory / "cards", pcscd.ports, None):
            single = [pooled(shop, [CountedReader(name, line)], 1, inserted, line) for name in pcscd.readers]
        runs: dict[int, Run] = {}
        for readers in (1, len(pcscd.readers)):
            time.sleep(1.0)  # until pcscd has seen the cards leave
            with cards_in_readers(directory / "cards", pcscd.ports[:readers], BAUD):
                runs[readers] = pooled(shop, [PcscReader(n) for n in pcscd.readers[:readers]], readers, inserted)
    finally:
        pcscd.kill()
    worked = sum(t.worked_ms or 0 for run in single for t in run.timings)
    return {
        "pcscd_host_ms": round((worked - line.seconds * 1000) / len(single), 1),
        "pcscd_card_ms": round(worked / len(single), 1),
        "pcscd_speedup_8_readers": round(runs[len(pcscd.readers)].per_hour / runs[1].per_hour, 2),
    }


# -------------------------------------------------------------------------------------------------------------- figures


def main() -> None:
    """Run everything and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=25)
    parser.add_argument("--idle-cards", type=int, default=200)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--no-pcscd", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench/card.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    sys.setswitchinterval(SWITCH_S)
    profile = load_profile(CARDS / "ssc2.toml")
    with tempfile.TemporaryDirectory(dir=given.out.parent) as scratch:
        directory = Path(scratch).resolve()
        shop = Workshop(directory, profile)
        say("cards as fast as the host can")
        unpaced(shop, CardStore(directory / "warm"), 3)
        line, host = unpaced(shop, CardStore(directory / "fast"), given.cards)
        paced = CardStore(directory / "paced", pace=partial(Pace, BAUD))
        say("one reader at line rate")
        one_line, many_line = Line(), Line()
        one = pooled(shop, virtual(paced, 1, one_line), given.cards, fetched, one_line)
        say(f"{given.readers} readers at line rate")
        many = pooled(shop, virtual(paced, given.readers, many_line), given.idle_cards, fetched, many_line)
        pcscd = {}
        if not given.no_pcscd:
            say("through pcscd and vpcd")
            pcscd = over_pcscd(shop, directory)
    figures = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": os.cpu_count(),
        "host_ms": round(statistics.median(host), 1),
        "apdus": round(line.apdus / given.cards),
        "bytes": round(line.bytes / given.cards),
        "wire_ms": round(one.line.wire_s / one.cards * 1000, 1),
        "card_ms": round(one.seconds / one.cards * 1000, 1),
        "wire_ratio": round(one.seconds / one.line.wire_s, 3),
        "readers": given.readers,
        "cards_per_hour_1_reader": round(one.per_hour),
        "cards_per_hour_all_readers": round(many.per_hour),
        "speedup_8_readers": round(many.per_hour / one.per_hour, 2),
        "idle_share": round(many.idle_share, 4),
        "change_ms": round(statistics.median(t.change_ms for t in many.timings if t.change_ms is not None), 2),
        **pcscd,
    }
    given.out.write_text(json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:28} {value}")


def say(text: str) -> None:
    print(f"... {text}", flush=True)


if __name__ == "__main__":
    main()
