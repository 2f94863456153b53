"""The bank desk's process: gives what is due once a second, reads late replies, and compares books once a night."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from pipeline.clock import SHANGHAI
from pipeline.errors import TransientError
from pipeline.services import bank_desk, unclaimed
from pipeline.services.bank_desk import Banks, Differences
from pipeline.services.context import Context
from pipeline.stages.bank_calls import Patience
from pipeline.store import control

log = logging.getLogger("zhika.bank_desk")
EVERY_S = 1.0
COMPARE_FROM_H = 2
"""The hour in China from which the books of the day before are compared: by then a bank has closed them (assumed)."""

UNCLAIMED_EVERY = timedelta(minutes=1)
"""How often is looked for calls that no application asks about any more."""

AGAIN = timedelta(hours=1)
"""When a bank that could not be asked for its books is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankDesk:
    """The desk of an installation. One leads, others stand by."""

    context: Context
    banks: Banks
    patience: Patience = field(default_factory=Patience)
    every_s: float = EVERY_S

    def run(self, stopping: threading.Event) -> None:
        """Work until told to stop, as long as this process leads."""
        while not stopping.is_set():
            try:
                with control.leadership(self.context.store, "bank-desk") as leads:
                    if leads is not None:
                        log.info("bank desk leads")
                        self._lead(stopping, leads)
                    else:
                        stopping.wait(2.0)
            except TransientError as error:
                log.warning("bank desk: %s; again in a second", error)
                stopping.wait(1.0)
            except Exception as error:
                log.error("bank desk: %s", type(error).__name__, exc_info=True)
                stopping.wait(1.0)

    def _lead(self, stopping: threading.Event, leads: Callable[[], bool]) -> None:
        codes = bank_desk.codes_of(self.context)
        night = Night()
        ask_at = self.context.now()
        while not stopping.is_set() and leads():
            bank_desk.collect(self.context, self.banks, codes)
            ran = bank_desk.run(self.context, self.banks, patience=self.patience)
            now = self.context.now()
            if now >= ask_at:
                unclaimed.ask(self.context, self.banks, patience=self.patience)
                ask_at = now + UNCLAIMED_EVERY
            if (day := night.due(now)) is not None:
                codes = bank_desk.codes_of(self.context)
                compared = bank_desk.reconcile(self.context, self.banks, day, codes=codes)
                night.compared(day, complete=tell(compared), now=now)
            if not ran.busy:
                stopping.wait(self.every_s)


@dataclass(slots=True)
class Night:
    """Which day's books are compared next. Forgotten with the process: comparing twice harms nothing."""

    last: date | None = None
    not_before: datetime | None = None

    def due(self, now: datetime) -> date | None:
        """Yesterday, if its books are closed and were not compared."""
        local = now.astimezone(SHANGHAI)
        day = local.date() - timedelta(days=1)
        early = local.hour < COMPARE_FROM_H or (self.not_before is not None and now < self.not_before)
        return None if early or self.last == day else day

    def compared(self, day: date, *, complete: bool, now: datetime) -> None:
        """It was; unless `complete` it is done again."""
        self.last, self.not_before = (day, None) if complete else (self.last, now + AGAIN)


def tell(compared: tuple[Differences, ...]) -> bool:
    """Log what differs; returns whether every bank could be asked."""
    for bank in compared:
        if bank.count:
            log.error(
                "bank %s: books of %s differ: %d ours only, %d theirs only, %d different: zhika bank reconcile %s",
                bank.bank_code,
                bank.day,
                len(bank.ours_only),
                len(bank.theirs_only),
                len(bank.different),
                bank.day,
            )
        elif bank.asked:
            log.info("bank %s: books of %s agree, %d instructions", bank.bank_code, bank.day, bank.agreed)
    return all(bank.asked for bank in compared)
