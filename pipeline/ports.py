"""What the stages ask of the world. Adapters live in `pipeline.gateways`, each with a simulated twin beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, Protocol

from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.person import Agent, Person
from pipeline.photo.result import Adjust, Normalised

# --------------------------------------------------------------------------------------------------------------- bank

Key = str
"""Idempotency key of one instruction, at most 64 ASCII characters; the same key never does a thing twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccount:
    """Open a debit account for a person (KL-2, KL-10, DL-11)."""

    key: Key
    bank_code: str
    branch: str
    region: str
    holder: Person
    guardian: Agent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BindCard:
    """Bind a new card to the account that the person has (KL-10); the answer carries the number of the new card."""

    key: Key
    bank_code: str
    branch: str
    region: str
    account_ref: str = field(repr=False)
    holder: Person


@dataclass(frozen=True, slots=True, kw_only=True)
class CardProduced:
    """A card with this bank's application was made and read back."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)
    chip_id: str
    card_serial: str
    issued: date
    expires: date


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateFinancial:
    """The account may be used from now on: the card is in its holder's hands (LN-2, KL-11)."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeFinancial:
    """Nothing may leave the account (KL-12, LN-4, DL-19, WH-15, SG-12). `reason` is a word, nothing of a person."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFinancial:
    """A freeze is over (KL-13, LN-5, DL-19, WH-16, SG-12)."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateHolder:
    """The person's particulars have changed (LN-7(2))."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    holder: Person


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAccount:
    """The account ends (KL-16, DL-22, WH-17, SG-13). A bank declines while money is on it."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    reason: str


Instruction = (
    OpenAccount
    | BindCard
    | CardProduced
    | ActivateFinancial
    | FreezeFinancial
    | ReleaseFinancial
    | UpdateHolder
    | CloseAccount
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The bank did it, about this account and this card. `account_class` is the class of account (`I`, `II`, `III`)."""

    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)
    account_class: str = "I"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The bank will not: its own code and wording."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The bank took it and answers later."""

    expected_by: datetime


BankReply = Done | Declined | Pending
BankFailure = TransientError | OutcomeUnknown


class NotTried(TransientError):
    """Nothing was sent, for a reason of ours: it tells nothing of how the bank fares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateReplies:
    """Keys whose answer has become known after the call, oldest first; the answers themselves are asked for by `find`.

    `cursor` is where to go on from; None: nothing was ever told.
    """

    keys: tuple[Key, ...] = ()
    cursor: str | None = None


class BankGateway(Protocol):
    """One cooperating bank. A refusal is a value; an exception value belongs to its key alone.

    `submit` answers every key: a reply, `TransientError` (certainly not received) or `OutcomeUnknown` (may have been).
    `find` answers every key: the bank's reply, or None when the bank never saw it.
    `collect` does what is due by itself (files out, files in) and tells which keys were answered after their call.
    `statement` is the bank's own list of what it did on a civil day in China, by key, for the comparison of the night.
    Raises: `TransientError` when nothing could be asked at all.
    """

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]: ...

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]: ...

    def collect(self, *, after: str | None, limit: int) -> LateReplies: ...

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]: ...


# -------------------------------------------------------------------------------------------------- a bank's batch files

FiledState = Literal["taken", "sent", "accepted", "answered"]
"""Waits for a file; fixed in one; passed by the bank, which still owes the card's number; answered for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFile:
    """An instruction for a batch file: what the bank is told by field, and everything it was made from, to know it again by."""

    key: Key
    told: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """An instruction as the journal has it. `row_no` is its place in its file, from 1; None until it is in one."""

    key: Key
    state: FiledState
    told: Mapping[str, str] = field(repr=False)
    taken_at: datetime
    expected_by: datetime
    row_no: int | None = None
    reply: Done | Declined | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutFile:
    """A file to the bank, fixed for good: `object` names its bytes in the object store."""

    id: str
    name: str
    object: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InFile:
    """A file from the bank, known by its name and the SHA-256 of its bytes. `batch`: the file of ours that it answers."""

    name: str
    sha256: str
    batch: str | None = None
    rows: int = 0


class FileJournal(Protocol):
    """What was told to one bank by batch files and what came back. Each method is one transaction, durable when it returns.

    `take` writes instructions down once and answers how each stands; None: its key is known with other content.
    `write` fixes a file of taken instructions in the order given, under the name made of its batch number, which no other file of the
    bank has; False, and nothing is written, when another process has been there first. `finished` are files all of whose
    instructions are answered and whose bytes are still kept.
    `received` tells what became of files of this name, by SHA-256. `settle` writes a file's answers with the file itself (None: the
    bank passed it, the card's number is still to come) and `refuse` writes down why a file was not read; False: it is known.
    `answered` lists keys in the order in which their answers became visible, by a number that only rises.
    Raises: `TransientError` when the journal cannot be reached; `settle` also when a row was answered since it was looked at.
    """

    def take(
        self, instructions: Sequence[ToFile], *, now: datetime, expected_by: datetime
    ) -> Mapping[Key, Filed | None]: ...

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Filed]: ...

    def backlog(self) -> tuple[int, datetime | None]: ...

    def taken(self, limit: int) -> Sequence[Filed]: ...

    def write(
        self, keys: Sequence[Key], *, name: Callable[[str], str], sha256: str, object: str, now: datetime
    ) -> bool: ...

    def unsent(self) -> Sequence[OutFile]: ...

    def sent(self, file_id: str, *, now: datetime) -> None: ...

    def finished(self) -> Sequence[OutFile]: ...

    def let_go(self, file_id: str) -> None: ...

    def received(self, name: str) -> Mapping[str, Literal["read", "refused"]]: ...

    def batch(self, number: str) -> Sequence[Filed]: ...

    def of_people(self, numbers: Sequence[str]) -> Mapping[str, Sequence[Filed]]: ...

    def settle(
        self, file: InFile, answers: Mapping[Key, Done | Declined | None], *, problem: str | None, now: datetime
    ) -> bool: ...

    def refuse(self, file: InFile, problem: str, *, now: datetime) -> bool: ...

    def answered(self, *, after: int, limit: int) -> Sequence[tuple[int, Key]]: ...

    def statement(self, day: date) -> Mapping[Key, Done | Declined]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A file that lies there. `mark` changes whenever the file does."""

    name: str
    size: int
    mark: str


class FileExchange(Protocol):
    """Where files are left for a bank and found from it: a directory, or a server.

    `put` makes a file appear whole or not at all, on the other side's disk when it returns; the same name again replaces it.
    `move` takes a file away into a folder of its own, under another name, unless it has changed since it was listed.
    Raises: `TransientError` when the place cannot be reached or a file has changed or gone.
    """

    def arrived(self) -> Sequence[Arrived]: ...

    def read(self, file: Arrived) -> bytes: ...

    def put(self, name: str, data: bytes) -> None: ...

    def move(self, file: Arrived, folder: Literal["history", "errors"], *, name: str) -> None: ...


# ------------------------------------------------------------------------------------------------------------ objects


class ObjectStore(Protocol):
    """Bytes under a name made from their content; encrypted at rest; erasable.

    `put` is idempotent and durable when it returns; putting the same bytes again counts as a use. Who puts commits its reference
    soon after. `get` raises `NotFound` for what was erased or never kept.
    `erase` leaves an object alone that was put within `unused_for`, since its reference may not be committed yet (`in_use`); else
    nothing is left under the name (`erased`, or `absent` when nothing was). Putting and erasing at once never loses what was put.
    Raises: `TransientError` when the store cannot be reached; nothing is told of the object then.
    """

    def put(self, data: bytes) -> str: ...

    def get(self, name: str) -> bytes: ...

    def erase(self, name: str, *, unused_for: timedelta) -> Literal["erased", "absent", "in_use"]: ...


# -------------------------------------------------------------------------------------------------------------- photo


class PhotoNormaliser(Protocol):
    """Photos in, pictures for the card out; one broken photo never harms another.

    `normalise` answers every id: `Normalised`, or the `Defect` that is this photo's alone. `replace_background` allows a plain
    background of another colour to be replaced, whatever the profile says; `adjust` moves the frame of all photos given.
    Raises: `Defect` when the installation has no such profile or its models are not the release's, `TransientError` when no photo can be made at present.
    """

    def normalise(
        self,
        photos: Mapping[str, bytes],
        *,
        profile: str,
        replace_background: bool = False,
        adjust: Adjust | None = None,
    ) -> Mapping[str, Normalised | Defect]: ...


# ------------------------------------------------------------------------------------------------------------ encoder

Verdict = Literal["verified", "untouched", "spoiled", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOrder:
    """One card to make: who it is for and which blank is bound to it."""

    application_id: str
    blank_serial: str
    profile: str
    holder: Person
    card_number: str
    city: str
    initialiser_tail: str
    issued: date
    expires: date
    bank_name: str
    bank_card_number: str | None = field(default=None, repr=False)
    picture: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeReport:
    """What happened to the blank. `face` is the printed face (PNG) of a verified card."""

    verdict: Verdict
    chip_id: str | None = None
    atr: str | None = None
    verified_fields: tuple[str, ...] = ()
    problem: str | None = None
    apdus: int = 0
    elapsed_ms: float = 0.0
    face: bytes = field(default=b"", repr=False)


class StationStopped(TransientError):
    """The station has stopped until an operator lets it go on; no card was touched for this order."""


class CardNotThere(OutcomeUnknown):
    """The card whose end is to be told lies in no reader of the station: it has to be put in again."""


class Encoder(Protocol):
    """A personalisation station: it owns readers and the journal of every chip it touched.

    One that has stopped has nothing loaded and answers `StationStopped`. `recover` is asked, never `personalise`, when an earlier attempt's end is not known.
    """

    station: str

    def loaded(self) -> tuple[str, ...] | None:
        """Serials of the blanks that lie in readers and wait for work; None when the station fetches whatever is asked for."""

    def personalise(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]: ...

    def recover(self, orders: Sequence[EncodeOrder]) -> Mapping[str, EncodeReport | Exception]: ...


# ------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingEvent:
    """An event as it leaves: `body` is a CloudEvents 1.0 JSON document, byte for byte as stored."""

    id: str
    type: str
    subject: str
    outlet: str | None
    body: bytes


Publishing = Literal["taken", "full", "no_queue"]
"""An event that the broker has surely kept; that it refused, since the queue is full; that found no queue."""


class Notifier(Protocol):
    """Carries events to outlets' queues, in the order given.

    `publish` answers by event id. An event that is missing in the answer may have been taken: it is sent again with the same id.
    Raises: `TransientError` when the broker cannot be reached; nothing was sent then.
    """

    def publish(self, events: Sequence[OutgoingEvent]) -> Mapping[str, Publishing]: ...


# ------------------------------------------------------------------------------------------------------------ printer

Printing = Literal["taken", "printed", "failed"]
"""A print job that is queued or at work; that ended well; that was cancelled or given up, perhaps with ink on the card."""

PRINT_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintJob:
    """The face of one card, PNG bytes, one for each side from the front.

    `card_id` and `copy` together are printed once, ever: to print a card's face again, a person asks for another copy.

    Raises:
        ValueError: no side, or a name that is none of a job.
    """

    card_id: str
    sides: tuple[bytes, ...] = field(repr=False)
    copy: int = 1

    def __post_init__(self) -> None:
        if not self.sides or not PRINT_JOB_NAME.fullmatch(self.name):
            raise ValueError("a print job has a side and a name of at most 64 of [A-Za-z0-9._-]")

    @property
    def name(self) -> str:
        """The job's name at the printer."""
        return f"{self.card_id}-{self.copy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Printout:
    """What became of a print job; `reasons` are the printer's own keywords."""

    job: str
    state: Printing
    reasons: tuple[str, ...] = ()


class Printer(Protocol):
    """A card printer. One caller at a time works on a job's name.

    `print` answers a job that the printer knows with what became of it, and prints nothing. It raises `TransientError`
    (certainly not taken) or `OutcomeUnknown` (may have been): then ask with `find`, never print again unasked.
    `find` answers None for a job that the printer does not know. `hindrances` names what keeps it from printing now, by IPP
    keywords; nothing does when it is empty. Both raise `TransientError` when the printer could not be asked.
    """

    def print(self, job: PrintJob) -> Printout: ...

    def find(self, name: str) -> Printout | None: ...

    def hindrances(self) -> tuple[str, ...]: ...
