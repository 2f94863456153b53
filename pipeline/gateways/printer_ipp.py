"""A card printer over IPP (RFC 8010, RFC 8011): a CUPS queue, or a printer that speaks it itself.

Every job is one Print-Job request, sent once under the job's own name, and only after the printer was asked whether it knows
that name. How the exchange ended is told precisely:

    no connection, HTTP 503 or 401 …, not accepting jobs, busy …           TransientError   certainly not taken
    cut or timed out after sending, any other failure, an answer that
    cannot be read                                                         OutcomeUnknown   may have been taken
    the printer cannot do what is asked, the request is wrong              Defect           print it elsewhere

What the printer remembers is what `find` can tell: a queue must keep its job history, with names, longer than it takes to ask
(CUPS: PreserveJobHistory, on by default). The document is a PDF of card-sized pages; it is the only thing that carries
personal data.
"""

from __future__ import annotations

import itertools
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import httpx2

from card_personalization.sheet import card
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways import ipp
from pipeline.gateways.ipp import Attribute, Delimiter, Group, Message, Operation, Syntax
from pipeline.ports import Printing, PrintJob, Printout

_PORT = 631
_PDF = "application/pdf"
_USER = "zhika"
_MAX_REPLY_BYTES = 4 * 1024 * 1024

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_OURS = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL)
_HTTP_OK = 200
_HTTP_NOT_TAKEN = frozenset({401, 403, 404, 405, 408, 421, 425, 426, 429, 503})
_HTTP_WRONG_REQUEST = frozenset({400, 411, 413, 414, 415, 431})

_FIRST_ERROR = 0x0400
_NOT_TAKEN = {
    0x0401: "client-error-forbidden",
    0x0402: "client-error-not-authenticated",
    0x0403: "client-error-not-authorized",
    0x0406: "client-error-not-found",
    0x0502: "server-error-service-unavailable",
    0x0505: "server-error-temporary-error",
    0x0506: "server-error-not-accepting-jobs",
    0x0507: "server-error-busy",
    0x050A: "server-error-printer-is-deactivated",
    0x050B: "server-error-too-many-jobs",
}
_WRONG_REQUEST = {
    0x0400: "client-error-bad-request",
    0x0408: "client-error-request-entity-too-large",
    0x0409: "client-error-request-value-too-long",
    0x040A: "client-error-document-format-not-supported",
    0x040B: "client-error-attributes-or-values-not-supported",
    0x040E: "client-error-conflicting-attributes",
    0x0501: "server-error-operation-not-supported",
    0x0503: "server-error-version-not-supported",
}

_STATES: dict[int, Printing] = {3: "taken", 4: "taken", 5: "taken", 6: "taken", 7: "failed", 8: "failed", 9: "printed"}
"""job-state (RFC 8011, 5.3.7): pending, pending-held, processing, processing-stopped, canceled, aborted, completed."""
_WITH_ERRORS = "job-completed-with-errors"
_STOPPED = 5
_HARMLESS = ("-report", "-warning")


class PrinterIpp:
    """The printer at `uri`, `ipp://host[:631]/path` or `ipps://…`; safe between threads.

    `timeout_s` bounds each step of an exchange. `media` is a PWG 5101.1 size name; without it the queue's default holds, which for
    a card printer is the card. With `ca` (PEM) it trusts these authorities instead of the system's.

    Raises:
        ValueError: `uri` is not ipp(s), carries a user or a query, or `ca` is given for plain ipp.
        OSError: `ca` cannot be read (`ssl.SSLError` when it is none).
    """

    def __init__(self, uri: str, *, media: str | None = None, timeout_s: float = 10.0, ca: Path | None = None) -> None:
        self._uri = uri
        self._media = media
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._url = _http(uri, secure=ca is not None)
        self._client = httpx2.Client(
            verify=ssl.create_default_context(cafile=ca),
            trust_env=False,
            headers={"User-Agent": "zhika", "Content-Type": ipp.MEDIA_TYPE, "Accept-Encoding": "identity"},
            timeout=timeout_s,
            limits=httpx2.Limits(max_keepalive_connections=0),  # a printer closes an idle connection when it likes
        )

    def __repr__(self) -> str:
        return f"PrinterIpp({self._uri})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def print(self, job: PrintJob) -> Printout:
        """Print a job, unless the printer knows one of its name already.

        Raises:
            FaceError: the sides are no faces of a card.
            TransientError: certainly not taken.
            OutcomeUnknown: it may have been taken; `find` tells.
            Defect: this printer cannot do what is asked.
        """
        document = card(job.sides)
        if known := self.find(job.name):
            return known
        answer = self._exchange(Operation.PRINT_JOB, self._print_job(job), document=document)
        return next((_printout(group, job.name) for group in answer.grouped(Delimiter.JOB)), _taken(job.name))

    def find(self, name: str) -> Printout | None:
        """What became of a job; of several under one name, the one that went furthest.

        Raises:
            TransientError: the printer could not be asked, or hides the names of its jobs.
            Defect: this printer cannot be asked for jobs.
        """
        # In this order a job that ends between the two questions is seen by the second.
        jobs = [job for which in ("not-completed", "completed") for job in self._jobs(which)]
        if any(job.text("job-name") is None for job in jobs):
            raise TransientError("the printer hides the names of its jobs: let the user zhika see them")
        found = [_printout(job, name) for job in jobs if job.text("job-name") == name]
        return min(found, key=lambda printout: ("printed", "taken", "failed").index(printout.state), default=None)

    def hindrances(self) -> tuple[str, ...]:
        """What keeps the printer from printing now, by its own keywords.

        Raises:
            TransientError: it could not be asked.
            Defect: it cannot be asked this.
        """
        wanted = (
            "printer-state",
            "printer-state-reasons",
            "printer-is-accepting-jobs",
            "document-format-supported",
        )
        answer = self._ask(Operation.GET_PRINTER_ATTRIBUTES, _requested(wanted))
        (printer, *_) = (*answer.grouped(Delimiter.PRINTER), Group(Delimiter.PRINTER, ()))
        reasons = [str(reason) for reason in printer.values("printer-state-reasons")]
        found = [reason for reason in reasons if reason != "none" and not reason.endswith(_HARMLESS)]
        if printer.number("printer-state") == _STOPPED:
            found.append("stopped")
        if printer.values("printer-is-accepting-jobs") != (True,):
            found.append("not-accepting-jobs")
        if _PDF not in printer.values("document-format-supported"):
            found.append("document-format-not-supported")
        return tuple(found)

    def _print_job(self, job: PrintJob) -> tuple[Group, ...]:
        operation = (
            Attribute("job-name", Syntax.NAME, (job.name,)),
            Attribute("ipp-attribute-fidelity", Syntax.BOOLEAN, (True,)),
            Attribute("document-format", Syntax.MIME_TYPE, (_PDF,)),
        )
        template = []
        if len(job.sides) > 1:
            template.append(Attribute("sides", Syntax.KEYWORD, ("two-sided-long-edge",)))
        if self._media is not None:
            template.append(Attribute("media", Syntax.KEYWORD, (self._media,)))
        groups = (Group(Delimiter.OPERATION, operation), Group(Delimiter.JOB, tuple(template)))
        return groups if template else groups[:1]

    def _jobs(self, which: str) -> tuple[Group, ...]:
        wanted = ("job-id", "job-name", "job-state", "job-state-reasons")
        selected = Attribute("which-jobs", Syntax.KEYWORD, (which,))
        return self._ask(Operation.GET_JOBS, selected, _requested(wanted)).grouped(Delimiter.JOB)

    def _ask(self, operation: Operation, *attributes: Attribute) -> Message:
        """Ask what changes nothing: however it fails, it can be asked again."""
        try:
            return self._exchange(operation, (Group(Delimiter.OPERATION, attributes),))
        except OutcomeUnknown as error:
            raise TransientError(str(error)) from error

    def _exchange(self, operation: Operation, groups: tuple[Group, ...], *, document: bytes = b"") -> Message:
        number = next(self._numbers)
        target = (
            Attribute("printer-uri", Syntax.URI, (self._uri,)),
            Attribute("requesting-user-name", Syntax.NAME, (_USER,)),
        )
        first, *others = groups
        opened = Group(first.delimiter, (*target, *first.attributes))
        content = ipp.encode(ipp.request(operation, number, opened, *others)) + document
        try:
            status, body = self._send(content)
        except _NOT_SENT as error:
            raise TransientError(f"the printer is out of reach: {type(error).__name__}") from error
        except _OURS as error:
            raise Defect(f"no request could be made: {type(error).__name__}") from error
        except Exception as error:  # whatever broke, the printer may have it
            raise OutcomeUnknown(f"the exchange with the printer broke off: {type(error).__name__}") from error
        return _judged(_checked(status, body), number)

    def _send(self, content: bytes) -> tuple[int, bytes | None]:
        """HTTP status and body; no body when it is too long or trickles in too slowly."""
        until = time.monotonic() + self._timeout_s
        with self._client.stream("POST", self._url, content=content) as response:
            body = bytearray()
            for chunk in cast("httpx2.SyncByteStream", response.stream):
                body += chunk
                if len(body) > _MAX_REPLY_BYTES or time.monotonic() > until:
                    return response.status_code, None
            return response.status_code, bytes(body)


def _http(uri: str, *, secure: bool) -> str:
    parsed = httpx2.URL(uri)
    if parsed.scheme not in ("ipp", "ipps") or not parsed.host:
        raise ValueError("a printer's address is ipp(s)://host[:port]/path")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError("a printer's address carries neither a user nor a query")
    if secure and parsed.scheme != "ipps":
        raise ValueError("a certificate authority needs an ipps address")
    scheme = {"ipp": "http", "ipps": "https"}[parsed.scheme]
    return str(parsed.copy_with(scheme=scheme, port=parsed.port or _PORT))


def _requested(names: tuple[str, ...]) -> Attribute:
    return Attribute("requested-attributes", Syntax.KEYWORD, names)


def _checked(status: int, body: bytes | None) -> bytes:
    """The body of a request that HTTP carried well."""
    if status in _HTTP_WRONG_REQUEST:
        raise Defect(f"the printer refuses the request: HTTP {status}")
    if status in _HTTP_NOT_TAKEN:
        raise TransientError(f"the printer did not take it: HTTP {status}")
    if status != _HTTP_OK:
        raise OutcomeUnknown(f"the printer failed: HTTP {status}")
    if body is None:
        raise OutcomeUnknown("the printer's answer is too long, or trickles in too slowly")
    return body


def _judged(body: bytes, number: int) -> Message:
    """The answer, if it is one to this request and says that it was done."""
    try:
        answer, _ = ipp.decode(body)
    except ValueError as error:
        raise OutcomeUnknown("the printer's answer cannot be read") from error
    if answer.request_id != number:
        raise OutcomeUnknown("the printer's answer is to another request")
    if answer.code < _FIRST_ERROR:
        return answer
    if (name := _NOT_TAKEN.get(answer.code)) is not None:
        raise TransientError(f"the printer did not take it: {name}")
    if (name := _WRONG_REQUEST.get(answer.code)) is not None:
        wrong = sorted(each.name for group in answer.grouped(Delimiter.UNSUPPORTED) for each in group.attributes)
        raise Defect(f"the printer refuses the request: {name} {', '.join(wrong)}".rstrip())
    raise OutcomeUnknown(f"the printer failed: IPP status 0x{answer.code:04x}")


def _printout(job: Group, name: str) -> Printout:
    reasons = tuple(str(reason) for reason in job.values("job-state-reasons") if reason != "none")
    state = _STATES.get(job.number("job-state") or 0, "taken")
    if state == "printed" and _WITH_ERRORS in reasons:
        state = "failed"
    return Printout(job=name, state=state, reasons=reasons)


def _taken(name: str) -> Printout:
    return Printout(job=name, state="taken")
