"""Webhooks from the command line: set up, tried, verified, and refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.clock import SystemClock
from pipeline.webhook_signing import ID, SIGNATURE, TIMESTAMP, Signer, SigningKey
from producers.cli import errors
from producers.cli.main import app
from producers.simulators.receiver import Receiver
from tests.support.cli import ROOT

NETWORKS = json.dumps(["127.0.0.0/8"])


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Cli:
    """The command within this process: each start of one of its own would take longer than all that is tried here."""

    heard: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> Said:
        result = CliRunner().invoke(app, list(arguments))
        error = result.exception
        stderr, code = result.stderr, result.exit_code
        if error is not None and not isinstance(error, SystemExit):
            with redirect_stderr(StringIO()) as written:
                code = errors.report(error)
            stderr += written.getvalue()
        self.heard += [result.stdout, stderr]
        return Said(code, result.stdout, stderr)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in [name for name in os.environ if name.startswith("ZHIKA_")]:
        monkeypatch.delenv(name)
    told = {"ENV": "test", "DATA_DIR": str(tmp_path / "data"), "LOG_LEVEL": "error"}
    for name, value in (told | {"WEBHOOKS__ALLOW": NETWORKS, "WEBHOOKS__PLAIN_HTTP": NETWORKS}).items():
        monkeypatch.setenv(f"ZHIKA_{name}", value)
    monkeypatch.chdir(tmp_path)
    made = Cli()
    assert made.run("db", "migrate").returncode == 0
    return made


def told(cli: Cli, *arguments: str, code: int = 0) -> Any:
    done = cli.run("webhook", *arguments, "-o", "json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_an_endpoint_from_its_first_day_to_its_last(cli: Cli) -> None:
    with Receiver() as receiver:
        url = f"{receiver.url}/hook"
        made = told(cli, "create", url, "--outlet", "out_42010601", "--region", "420100", "--signature", "hmac")
        receiver.script({}, {"/hook": [made["key"]]})
        trial = told(cli, "test", made["id"])
        assert trial["delivered"]
        assert receiver.received["/hook"] == {trial["event_id"]: 1}
        rotated = told(cli, "rotate", made["id"])
        assert rotated["key"] != made["key"]
        told(cli, "disable", made["id"], "--reason", "moving")
        [listed] = told(cli, "list")
        assert (listed["url"], listed["state"], listed["disabled_why"], listed["owed"]) == (
            url,
            "disabled",
            "moving",
            0,
        )
        assert "sealed" not in listed
        refused = cli.run("webhook", "recover", made["id"], "--since", "2026-01-01T00:00:00Z")
        assert (refused.returncode, "enable it first" in refused.stderr) == (4, True)
        told(cli, "enable", made["id"])
        recovered = told(cli, "recover", made["id"], "--since", "2026-01-01T00:00:00+08:00")
        assert recovered == {"requeued": 0, "created": 0}
        assert told(cli, "deliveries", made["id"]) == []
        receiver.script({"/hook": "fail"})
        failed = told(cli, "test", made["id"], code=1)
        assert [step["ok"] for step in failed["steps"]] == [True, True, False]
        told(cli, "delete", made["id"])
        assert told(cli, "list") == []
    assert cli.run("webhook", "enable", made["id"]).returncode == 3
    assert cli.run("webhook", "resend", "dlv_none").returncode == 3
    everything = "".join(cli.heard)
    assert everything.count(made["key"]) == 1


def test_an_address_that_is_not_listed_is_refused_and_told_where_to_list_it(cli: Cli) -> None:
    asked = ("webhook", "create", "https://10.9.9.9/hook", "--outlet", "out_1", "--region", "420100")
    done = cli.run(*asked)
    assert done.returncode == 4
    assert "url-not-allowed" in done.stderr
    assert "ZHIKA_WEBHOOKS__ALLOW" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("webhook", "create", "http://a..b/x", "--outlet", "out_1", "--region", "420100"), 4, "url-not-allowed"),
        (("webhook", "create", f"http://{'a' * 70}.b/x", "--outlet", "out_1", "--region", "420100"), 4, "url-not-allowed"),
        (("webhook", "create", "http://127.0.0.1:8080/x", "--outlet", "out_1", "--region", "420100", "--type", "card.nonsense"), 4, "card.ready"),
        (("webhook", "recover", "wh_1", "--since", "0001-01-01T00:00:00+14:00"), 2, "--since"),
        (("webhook", "recover", "wh_1", "--since", "9999-12-31T23:59:59-12:00"), 2, "--since"),
        (("webhook", "deliveries", "nope"), 3, "not-found"),
        (("event", "tail", "--after", "9" * 19), 4, "bad-cursor"),
        (("event", "tail", "--after", "9" * 23), 4, "bad-cursor"),
        (("event", "tail", "--after", "9" * 5000), 4, "bad-cursor"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_named(cli: Cli, arguments: tuple[str, ...], code: int, named: str) -> None:
    done = cli.run(*arguments)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "internal error" not in done.stderr


def test_deliveries_of_a_deleted_endpoint_can_still_be_read(cli: Cli) -> None:
    made = told(cli, "create", "http://127.0.0.1:8080/x", "--outlet", "out_1", "--region", "420100")
    told(cli, "delete", made["id"])
    assert told(cli, "deliveries", made["id"]) == []


def test_a_network_that_is_none_is_a_bad_configuration_by_name(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_WEBHOOKS__ALLOW", '["10.0.0.1/8"]')
    done = cli.run("webhook", "list")
    assert done.returncode == 78
    assert "ZHIKA_WEBHOOKS__ALLOW" in done.stderr


def test_a_delivery_is_verified_by_hand_as_its_receiver_would(cli: Cli, tmp_path: Path) -> None:
    key = SigningKey.new("ed25519", random=lambda n: bytes(n))
    body, keys = tmp_path / "body", tmp_path / "keys"
    body.write_bytes(b'{"a":1}')
    keys.write_text(f"{key.receiver_text}\n")
    headers = Signer([key]).headers("evt_1", SystemClock().now(), body.read_bytes())
    asked = ("verify", str(body), "--key-file", str(keys), "--id", headers[ID], "--timestamp", headers[TIMESTAMP])
    assert told(cli, *asked, "--signature", headers[SIGNATURE]) == {"ok": True}
    body.write_bytes(b'{"a":2}')
    done = cli.run("webhook", *asked, "--signature", headers[SIGNATURE])
    assert (done.returncode, "signature-mismatch" in done.stderr) == (4, True)


@contextmanager
def simulated(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "producers.cli.main", "simulate", "outlet", "--bind", "127.0.0.1:0", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            yield child.stderr.readline().split()[-1]
        finally:
            child.terminate()
    assert child.returncode == 0


def test_the_simulated_outlet_verifies_with_the_keys_of_its_file(cli: Cli, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(SigningKey.new("hmac", random=lambda n: b"x" * n).text)
    with simulated("--secret-file", str(secrets)) as url:
        made = told(cli, "create", f"{url}/hook", "--outlet", "out_1", "--region", "420100")
        assert told(cli, "test", made["id"], code=1)["steps"][-1]["detail"] == "HTTP 401"
    done = cli.run("simulate", "outlet", "--faults", "explode=1")
    assert done.returncode == 2
