"""A pcscd of the tests' own with vpcd readers, and virtual cards to put into them.

It is given its socket the way systemd gives one, so that programs reach it by `PCSCLITE_CSOCK_NAME` and a pcscd of the
machine is left alone; it loads no driver for real readers. Where the kernel allows it, it has a /run of its own, which is where
it writes its process id and what an ordinary user may not do otherwise.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from card_personalization.errors import CardLost
from card_personalization.simulator.connection import VirtualConnection
from card_personalization.simulator.vpcd import VpcdCard
from card_personalization.transport.pcsc import list_readers
from tests.support.needs import lacking

DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_START_S = 10.0
_FIRST_FD = 3
_PORTS = range(20000, 30000, 2)
POLL_S = 0.4
"""How often pcscd looks for cards. One that leaves and returns between two looks at the time of a failed command is taken
for absent until it leaves again."""
_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Nothing that the tests started outlives them."""


def need_pcscd() -> str:
    """The path of pcscd; skips where it is missing, which with CI=true is a failure."""
    pcscd = shutil.which("pcscd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if pcscd is None or not DRIVER.exists():
        lacking("pcscd or its virtual reader is missing: run deploy/pcsc.sh as root")
    return pcscd


@cache
def socket_path() -> Path:
    """Where every pcscd of this process listens, one at a time: libpcsclite looks the name up only once."""
    directory = Path(tempfile.mkdtemp(prefix="zhika-pcscd-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "pcscd.comm"
    os.environ["PCSCLITE_CSOCK_NAME"] = str(path)
    return path


class Pcscd:
    """A running pcscd; `ports[n]` is where the card of `readers[n]` connects to."""

    def __init__(self, directory: Path, *, pairs: int = 2, pcscd: str) -> None:
        """Readers come in pairs; seven pairs at most."""
        self.directory = directory
        self._socket = socket_path()
        self.readers = tuple(f"Encoder {n} 00 0{slot}" for n in range(pairs) for slot in (0, 1))
        self._pcscd = pcscd
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "no-usb").mkdir(parents=True)
        (directory / "conf").mkdir()
        bases = _free_pairs(pairs)
        self.ports = tuple(base + slot for base in bases for slot in (0, 1))
        entries = [self._entry(n, base) for n, base in enumerate(bases)]
        (directory / "conf" / "vpcd").write_text("\n".join(entries))

    def start(self) -> None:
        """Start it; returns once it lists every reader."""
        self._socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self._socket))
            listening.listen(64)
            self._process = subprocess.Popen(
                self._command(),
                env={**os.environ, "LISTEN_FDS": "1", "PCSCLITE_HP_DROPDIR": str(self.directory / "no-usb")},
                preexec_fn=lambda: os.dup2(listening.fileno(), _FIRST_FD),
                pass_fds=(_FIRST_FD,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.directory / "log").open("ab"),
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """End it at once, as a crash would; its socket no longer answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def run(self, *command: str) -> str:
        """What a program prints that uses it."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def _entry(self, number: int, port: int) -> str:
        library = self.directory / f"libifdvpcd{number}.so"
        shutil.copy(DRIVER, library)  # the driver keeps a table by slot: entries that share a library share their slots
        return (
            f'FRIENDLYNAME "Encoder {number}"\nDEVICENAME /dev/null:{port:#06x}\n'
            f"LIBPATH {library}\nCHANNELID {port:#06x}\n"
        )

    def _command(self) -> list[str]:
        run = f"export LISTEN_PID=$$; exec {self._pcscd} -f -e -c {self.directory / 'conf'}"
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True).returncode == 0:
            return [*unshare, *_WITH_US, "sh", "-c", f"mount -t tmpfs tmpfs /run; {run}"]
        return [*_WITH_US, "sh", "-c", run]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                if len(list_readers()) == len(self.readers):
                    return
            except CardLost:
                pass
            time.sleep(0.05)
        raise RuntimeError("pcscd does not list its readers:\n" + (self.directory / "log").read_text()[-2000:])


class InsertedCard:
    """A virtual card in a reader until it is pulled; it is there again when pcscd was restarted."""

    def __init__(
        self, port: int, card: VirtualConnection, *, before: Callable[[bytes], None] = lambda apdu: None
    ) -> None:
        """`before` is called with each command; it may block, pull the card or note what came."""
        self._card = VpcdCard("127.0.0.1", port, lambda: _Heard(card, before))
        threading.Thread(target=self._card.run, daemon=True).start()

    def pull(self) -> None:
        """Take the card out."""
        self._card.stop()


class _Heard(VirtualConnection):
    """A card whose commands somebody hears first."""

    def __init__(self, card: VirtualConnection, before: Callable[[bytes], None]) -> None:
        self._heard = card
        self._before = before

    @property
    def atr(self) -> bytes:
        return self._heard.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self._before(apdu)
        return self._heard.transmit(apdu)

    def reset(self) -> None:
        self._heard.reset()

    def close(self) -> None:
        self._heard.close()


def _free_pairs(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if _free(port) and _free(port + 1):
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports for vpcd")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
