"""What every printer promises, on a directory and on a real IPP printer; and how the line to one can break."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from card_personalization import png
from card_personalization.errors import FaceError
from card_personalization.sheet import card
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways import ipp
from pipeline.gateways.ipp import Attribute, Delimiter, Group, Message, Operation, Syntax
from pipeline.gateways.printer_file import PrinterDirectory
from pipeline.gateways.printer_ipp import PrinterIpp
from pipeline.ports import Printer, PrintJob, Printout
from tests.support.needs import lacking

TOOLS = ("ippeveprinter", "dbus-daemon")
FACE = png.encode([b"\0" + b"\xc0\x10\x20" * 1011] * 638, width_px=1011, height_px=638, dpi=300)
JOB = PrintJob(card_id="card_01k0", sides=(FACE,))


@dataclass(frozen=True)
class Bench:
    """A printer and where what it printed can be counted. `address` is empty for a printer without a line."""

    printer: Printer
    output: Path
    address: str = ""

    def printed(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.output.glob("*.pdf"))]


def settled(printer: Printer, name: str) -> Printout:
    """What became of a job once it is at rest."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        printout = printer.find(name)
        if printout is not None and printout.state != "taken":
            return printout
        time.sleep(0.05)
    raise AssertionError("the job never came to rest")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def ipp_printer(directory: Path, *options: str, filter_program: str = "true") -> Iterator[str]:
    """A real IPP printer, the one of CUPS, with a message bus of its own; its address. Spooled documents stay.

    `filter_program` gets each document and says by its exit status whether it was printed.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        lacking(f"{', '.join(missing)}: missing; install cups-ipp-utils and dbus-daemon")
    port = free_port()
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert bus.stdout is not None
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.stdout.readline().strip()}
    command = ["ippeveprinter", "-p", str(port), "-n", "localhost", "-r", "off", "-d", str(directory), "-k"]
    command += ["-f", "application/pdf", "-c", shutil.which(filter_program) or "", *options, "cards"]
    with (directory / "log").open("wb") as log:
        printer = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(100):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert printer.poll() is None, (directory / "log").read_text()
            time.sleep(0.05)
        yield f"ipp://127.0.0.1:{port}/ipp/print"
    finally:
        for process in (printer, bus):
            process.terminate()
            process.wait(10)
        bus.stdout.close()


@pytest.fixture(params=["directory", "ipp"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "directory":
        yield Bench(PrinterDirectory(tmp_path / "printed"), tmp_path / "printed")
        return
    with ipp_printer(tmp_path) as address, PrinterIpp(address) as printer:
        yield Bench(printer, tmp_path, address)


@pytest.fixture
def ipp_bench(tmp_path: Path) -> Iterator[Bench]:
    with ipp_printer(tmp_path) as address, PrinterIpp(address) as printer:
        yield Bench(printer, tmp_path, address)


# ----------------------------------------------------------------------------------------------------- every printer


def test_a_job_is_printed_and_found(bench: Bench) -> None:
    assert bench.printer.find(JOB.name) is None
    assert bench.printer.print(JOB).state in ("taken", "printed")
    assert settled(bench.printer, JOB.name).state == "printed"
    assert bench.printed() == [card([FACE])]


def test_a_job_of_the_same_name_is_never_printed_twice(bench: Bench) -> None:
    bench.printer.print(JOB)
    again = bench.printer.print(JOB)
    assert again.job == JOB.name
    settled(bench.printer, JOB.name)
    assert bench.printer.print(JOB).state == "printed"
    assert len(bench.printed()) == 1


def test_another_copy_is_another_job(bench: Bench) -> None:
    second = PrintJob(card_id=JOB.card_id, sides=(FACE,), copy=2)
    for job in (JOB, second):
        bench.printer.print(job)
        settled(bench.printer, job.name)
    assert JOB.name != second.name
    assert len(bench.printed()) == 2


def test_what_was_never_printed_is_not_found(bench: Bench) -> None:
    bench.printer.print(JOB)
    for name in ("card_01k0", "card_01k0-2", "../card_01k0-1", ""):
        assert bench.printer.find(name) is None


def test_a_printer_that_is_well_has_no_hindrance(bench: Bench) -> None:
    assert bench.printer.hindrances() == ()


def test_what_is_no_face_is_refused_before_anything_is_sent(bench: Bench) -> None:
    job = PrintJob(card_id="card_2", sides=(b"not a picture",))
    with pytest.raises(FaceError, match="not a PNG"):
        bench.printer.print(job)
    assert bench.printer.find(job.name) is None


@pytest.mark.parametrize(("card_id", "sides"), [("", (FACE,)), ("../x", (FACE,)), ("x" * 64, (FACE,)), ("card_1", ())])
def test_a_job_without_a_fit_name_or_a_side_is_refused(card_id: str, sides: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="print job"):
        PrintJob(card_id=card_id, sides=sides)


# ------------------------------------------------------------------------------------------------------- a directory


def test_a_job_that_meets_its_own_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    printer = PrinterDirectory(tmp_path)
    printer.print(JOB)
    (file,) = tmp_path.iterdir()
    before = file.stat()
    printer.print(JOB)
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()] == [
        (file, before.st_ino, before.st_mtime_ns)
    ]


@pytest.mark.rule("WH-22")
def test_only_this_user_can_read_what_a_directory_printed(tmp_path: Path) -> None:
    PrinterDirectory(tmp_path / "printed").print(JOB)
    (file,) = (tmp_path / "printed").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_directory_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    printer = PrinterDirectory(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TransientError, match="No space left"):
            printer.print(JOB)
    assert list(tmp_path.iterdir()) == []
    assert printer.print(JOB).state == "printed"


# ------------------------------------------------------------------------------------------------- a real IPP printer


def test_a_failed_job_is_told_as_failed_and_not_sent_again(tmp_path: Path) -> None:
    with ipp_printer(tmp_path, filter_program="false") as address, PrinterIpp(address) as printer:
        printer.print(JOB)
        printout = settled(printer, JOB.name)
        assert printout.state == "failed"
        assert printout.reasons
        assert printer.print(JOB) == printout


def test_a_size_the_printer_does_not_have_is_a_defect_and_prints_nothing(ipp_bench: Bench) -> None:
    with PrinterIpp(ipp_bench.address, media="iso_a0_841x1189mm") as printer:
        with pytest.raises(Defect, match=r"attributes-or-values-not-supported media"):
            printer.print(JOB)
        assert printer.find(JOB.name) is None
    assert ipp_bench.printed() == []


def test_two_sides_are_refused_by_a_printer_of_one(ipp_bench: Bench) -> None:
    """Printed as two pages they would be two cards."""
    with pytest.raises(Defect, match="sides"):
        ipp_bench.printer.print(PrintJob(card_id="card_2", sides=(FACE, FACE)))
    assert ipp_bench.printed() == []


def test_two_sides_are_one_job_where_the_printer_can(tmp_path: Path) -> None:
    with ipp_printer(tmp_path, "-2") as address, PrinterIpp(address) as printer:
        printer.print(PrintJob(card_id="card_2", sides=(FACE, FACE)))
        assert settled(printer, "card_2-1").state == "printed"
    assert [path.read_bytes() for path in tmp_path.glob("*.pdf")] == [card([FACE, FACE])]


def test_a_printer_that_cannot_take_pdf_says_so(tmp_path: Path) -> None:
    with ipp_printer(tmp_path, "-f", "image/urf") as address, PrinterIpp(address) as printer:
        assert printer.hindrances() == ("document-format-not-supported",)
        with pytest.raises(Defect, match="not-supported document-format"):
            printer.print(JOB)


def test_the_printer_is_a_whole_process_away(ipp_bench: Bench) -> None:
    """Another adapter, as after a restart of ours, finds the job and prints nothing."""
    ipp_bench.printer.print(JOB)
    with PrinterIpp(ipp_bench.address) as restarted:
        assert restarted.print(JOB).job == JOB.name
        settled(restarted, JOB.name)
    assert len(ipp_bench.printed()) == 1


# ------------------------------------------------------------------------------------------------ the line breaks


class Line:
    """A TCP line to a printer that lets `whole` exchanges through, then does as told to every further one.

    `cut`: the request arrives whole, the answer is lost. `hold`: the same, and the line stays open in silence.
    """

    def __init__(self, address: str, *, fault: str, whole: int) -> None:
        host, port = address.removeprefix("ipp://").split("/")[0].split(":")
        self._target, self._fault, self._whole = (host, int(port)), fault, whole
        self._server = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.address = f"ipp://127.0.0.1:{self._server.getsockname()[1]}/ipp/print"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as printer:
            threading.Thread(target=_pump, args=(client, printer), daemon=True).start()
            first = printer.recv(65536)
            self._whole -= 1
            if self._whole < 0 and self._fault == "hold":
                self._held.append(client)
                return
            while self._whole >= 0 and first:
                client.sendall(first)
                first = printer.recv(65536)
            client.shutdown(socket.SHUT_RDWR)
            client.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)
        for client in self._held:
            client.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("fault", ["cut", "hold"])
def test_a_lost_answer_is_unknown_until_asked_and_printed_once(ipp_bench: Bench, fault: str) -> None:
    line = Line(ipp_bench.address, fault=fault, whole=2)  # both questions before a job get through
    try:
        with PrinterIpp(line.address, timeout_s=1) as printer, pytest.raises(OutcomeUnknown, match="broke off"):
            printer.print(JOB)
    finally:
        line.close()
    assert settled(ipp_bench.printer, JOB.name).state == "printed"
    assert ipp_bench.printer.print(JOB).state == "printed"
    assert len(ipp_bench.printed()) == 1


def test_a_question_whose_answer_is_lost_can_be_asked_again_and_nothing_was_sent(ipp_bench: Bench) -> None:
    line = Line(ipp_bench.address, fault="cut", whole=0)
    try:
        with PrinterIpp(line.address, timeout_s=1) as printer:
            for ask in (lambda: printer.find(JOB.name), printer.hindrances, lambda: printer.print(JOB)):
                with pytest.raises(TransientError, match="broke off"):
                    ask()
    finally:
        line.close()
    assert ipp_bench.printer.find(JOB.name) is None


def test_no_printer_at_all_is_certainly_not_taken() -> None:
    address = f"ipp://127.0.0.1:{free_port()}/ipp/print"
    with PrinterIpp(address) as printer, pytest.raises(TransientError, match="out of reach"):
        printer.print(JOB)


# ------------------------------------------------------------------------------------------- a printer that answers so


@contextmanager
def answering(answer: Callable[[Message], tuple[int, bytes]]) -> Iterator[PrinterIpp]:
    """A printer of which each answer is told: HTTP status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked, _ = ipp.decode(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(asked)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with PrinterIpp(f"ipp://127.0.0.1:{server.server_port}/ipp/print", timeout_s=2) as printer:
            yield printer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(asked: Message, status: int = 0, *groups: Group, request_id: int | None = None) -> bytes:
    number = asked.request_id if request_id is None else request_id
    return ipp.encode(Message(code=status, request_id=number, groups=(Group(Delimiter.OPERATION, ()), *groups)))


def job(state: int, *reasons: str, name: str | None = JOB.name) -> Group:
    attributes = [Attribute("job-state", Syntax.ENUM, (state,))]
    if name is not None:
        attributes.append(Attribute("job-name", Syntax.NAME, (name,)))
    if reasons:
        attributes.append(Attribute("job-state-reasons", Syntax.KEYWORD, reasons))
    return Group(Delimiter.JOB, tuple(attributes))


@pytest.mark.parametrize(
    ("http", "status", "error"),
    [
        (200, 0x0506, TransientError),
        (200, 0x0507, TransientError),
        (200, 0x0403, TransientError),
        (200, 0x040A, Defect),
        (200, 0x0400, Defect),
        (200, 0x0500, OutcomeUnknown),
        (200, 0x0508, OutcomeUnknown),
        (200, 0x0411, OutcomeUnknown),
        (503, 0, TransientError),
        (401, 0, TransientError),
        (413, 0, Defect),
        (500, 0, OutcomeUnknown),
        (302, 0, OutcomeUnknown),
    ],
)
def test_a_refusal_says_whether_the_job_may_have_been_taken(http: int, status: int, error: type[Exception]) -> None:
    def answer(asked: Message) -> tuple[int, bytes]:
        return (http, reply(asked, status)) if asked.code == Operation.PRINT_JOB else (200, reply(asked))

    with answering(answer) as printer, pytest.raises(error):
        printer.print(JOB)


@pytest.mark.parametrize("body", [b"", b"<html>", None], ids=["empty", "html", "to another request"])
def test_an_answer_that_cannot_be_trusted_is_unknown(body: bytes | None) -> None:
    def answer(asked: Message) -> tuple[int, bytes]:
        if asked.code != Operation.PRINT_JOB:
            return 200, reply(asked)
        return 200, reply(asked, request_id=asked.request_id + 1) if body is None else body

    with answering(answer) as printer, pytest.raises(OutcomeUnknown, match="answer"):
        printer.print(JOB)


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ([job(3)], "taken"),
        ([job(4, "job-hold-until-specified")], "taken"),
        ([job(6, "printer-stopped")], "taken"),
        ([job(7, "job-canceled-by-operator")], "failed"),
        ([job(8, "aborted-by-system")], "failed"),
        ([job(9, "job-completed-successfully")], "printed"),
        ([job(9, "job-completed-with-errors")], "failed"),
        ([job(8), job(9), job(3)], "printed"),
        ([job(8), job(5)], "taken"),
        ([job(9, name="other")], None),
        ([], None),
    ],
)
def test_what_became_of_a_job_is_what_the_printer_says(jobs: list[Group], state: str | None) -> None:
    def answer(asked: Message) -> tuple[int, bytes]:
        completed = asked.groups[0].text("which-jobs") == "completed"
        return 200, reply(asked, 0, *(each for each in jobs if ((each.number("job-state") or 0) > 6) == completed))

    with answering(answer) as printer:
        found = printer.find(JOB.name)
    assert (found and found.state) == state


def test_a_printer_that_hides_its_jobs_names_cannot_tell() -> None:
    def answer(asked: Message) -> tuple[int, bytes]:
        return 200, reply(asked, 0, job(9, name=None))

    with answering(answer) as printer, pytest.raises(TransientError, match="hides the names"):
        printer.find(JOB.name)


def test_what_keeps_a_printer_from_printing_is_told() -> None:
    attributes = (
        Attribute("printer-state", Syntax.ENUM, (5,)),
        Attribute("printer-state-reasons", Syntax.KEYWORD, ("media-empty-error", "toner-low-warning", "moving-report")),
        Attribute("printer-is-accepting-jobs", Syntax.BOOLEAN, (False,)),
        Attribute("document-format-supported", Syntax.MIME_TYPE, ("application/pdf",)),
    )
    with answering(lambda asked: (200, reply(asked, 0, Group(Delimiter.PRINTER, attributes)))) as printer:
        assert printer.hindrances() == ("media-empty-error", "stopped", "not-accepting-jobs")


@pytest.mark.parametrize(
    "uri", ["http://printer/", "ipp://", "ipp://user:secret@printer/", "ipp://printer/?a=b", "printer:631"]
)
def test_an_address_that_is_none_of_a_printer_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="a printer's address"):
        PrinterIpp(uri)


def test_an_authority_without_encryption_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ipps"):
        PrinterIpp("ipp://printer/ipp/print", ca=tmp_path / "ca.pem")


@pytest.mark.rule("WH-22")
def test_nothing_on_a_card_shows_in_a_job(bench: Bench) -> None:
    assert "sides" not in repr(JOB)
    assert "PNG" not in repr(JOB)
    assert "PNG" not in repr(bench.printer)
