"""A PKCS#11 token in software, each test run with one of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.needs import lacking

MODULE = Path(os.environ.get("ZHIKA_TEST_PKCS11", "/usr/lib/softhsm/libsofthsm2.so"))
LABEL = "zhika-test"
PIN = "482913"
SO_PIN = "77120934"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was just initialised. `environment` is what a process needs to see it."""

    module: Path
    label: str
    pin: str
    tokens: Path
    environment: Mapping[str, str]


def need_softhsm() -> None:
    """Skip where SoftHSM is missing; with CI=true that is a failure, so that a gap cannot hide."""
    if MODULE.exists() and shutil.which("softhsm2-util"):
        return
    lacking(f"there is no {MODULE} or no softhsm2-util; install the Debian package softhsm2")


@contextmanager
def token_in(directory: Path) -> Iterator[Token]:
    """A new token in a directory, seen by this process as long as the block lasts."""
    need_softhsm()
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    config = directory / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    environment = {"SOFTHSM2_CONF": str(config)}
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        yield Token(module=MODULE, label=LABEL, pin=PIN, tokens=tokens, environment=environment)
