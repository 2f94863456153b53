"""Key ceremonies as real processes, on both stores: what is asked, what is shown, how it ends, what is left behind.

Most of these processes are forked from the one that tests, and passphrases are stretched as little as the format allows. One
ceremony on each store, two at once and the one at a terminal are commands that were started; `init` stretches as it does always.
"""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pytest

from card_personalization.keys.base import Algorithm
from card_personalization.keys.custody import Stretching
from card_personalization.keys.primitives import check_value
from config import keys
from config.settings import load
from tests.support.child import zhika_with
from tests.support.cli import COMMAND, Cli, Finished, cli, together
from tests.support.forked import forked
from tests.support.softhsm import PIN, token_in

FIRST, SECOND = "张的口令 passphrase", "李的口令 passphrase"
BOTH = ("--custodian", "张保管", "--custodian", "李保管")
KMC = ("KMC", "--algorithm", "3des", "--usage", "card-management", "--owner", "武汉市")


class Forked(Cli):
    """The command in processes that need not be started."""

    __slots__ = ()

    def run(
        self,
        *arguments: str | Path,
        stdin: str = "",
        timeout_s: float = 120,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Finished:
        done = forked(
            partial(zhika_with, arguments),
            directory=self.directory,
            environment={**self.environment, **settings},
            stdin=stdin,
            timeout_s=timeout_s,
        )
        self.heard.append(done.stdout + done.stderr)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An installation in production whose custodians are enrolled."""

    zhika: Cli

    @property
    def keys(self) -> Path:
        return Path(self.zhika.settings["ZHIKA_DATA_DIR"]) / "keys"

    def run(self, *arguments: str, lines: tuple[str, ...] = (FIRST, SECOND)) -> Finished:
        return self.zhika.run("keys", *arguments, stdin="".join(f"{line}\n" for line in lines))

    def check_values(self) -> dict[tuple[str, int], str]:
        told = self.zhika.json("keys", "export-check-values", "--json")
        return {(key["name"], key["version"]): key["kcv"] for key in told["keys"]}

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.keys / "ceremonies.log").read_text(encoding="utf-8").splitlines()]


def private(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


on_both = pytest.mark.parametrize("bare", ["vault", "pkcs11"], indirect=True)


@pytest.fixture
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cli]:
    """An installation in production that has a place for keys and no custodians."""
    store = getattr(request, "param", "vault")
    common = {"ZHIKA_ENV": "production", "ZHIKA_DATA_DIR": str(tmp_path / "data"), "ZHIKA_KEYS__STORE": store}
    if store == "vault":
        passphrase = private(tmp_path / "passphrase", "operating passphrase")
        with cli(tmp_path / "here", **common, ZHIKA_KEYS__PASSPHRASE_FILE=str(passphrase)) as started:
            yield Forked(directory=started.directory, settings=started.settings)
        return
    with token_in(tmp_path / "softhsm") as token:
        opened = {
            "ZHIKA_KEYS__MODULE": str(token.module),
            "ZHIKA_KEYS__TOKEN": token.label,
            "ZHIKA_KEYS__PIN_FILE": str(private(tmp_path / "pin", token.pin)),
        }
        with cli(tmp_path / "here", **common, **opened, **token.environment) as started:
            yield Forked(directory=started.directory, settings=started.settings)


@pytest.fixture
def site(bare: Cli) -> Site:
    passphrases = {"张保管": FIRST, "李保管": SECOND}
    done = forked(
        lambda: keys.begin(load(), passphrases, stretching=Stretching(n=2**14)),
        directory=bare.directory,
        environment=bare.environment,
    )
    assert done.returncode == 0, done.stderr
    return Site(zhika=bare)


@pytest.fixture
def started(bare: Cli) -> Cli:
    """The same installation, its commands started as an operator starts them."""
    return Cli(directory=bare.directory, settings=bare.settings)


def component(size: int = 16) -> tuple[str, str, bytes]:
    value = secrets.token_bytes(size)
    return value.hex(), check_value(Algorithm.TRIPLE_DES, value).hex(), value


# ----------------------------------------------------------------------------------------------------------- generate


@on_both
def test_two_custodians_generate_a_key_and_only_its_check_value_is_shown(site: Site, started: Cli) -> None:
    done = Site(zhika=started).run("generate", *KMC, *BOTH, "--not-after", "2099-12-31", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert {key: made[key] for key in ("name", "version", "algorithm", "usage", "owner", "not_after")} == {
        "name": "KMC",
        "version": 1,
        "algorithm": "3des",
        "usage": "card-management",
        "owner": "武汉市",
        "not_after": "2099-12-31",
    }
    assert re.fullmatch("[0-9A-F]{6}", made["kcv"])
    assert site.check_values() == {("KMC", 1): made["kcv"]}
    assert [line["what"] for line in site.log()] == ["begun", "generating", "generated"]
    assert site.log()[-1]["key"] == made
    assert FIRST not in started.said() and SECOND not in started.said()


@on_both
def test_the_next_generation_is_a_new_version_and_the_old_one_stays(site: Site) -> None:
    first = json.loads(site.run("generate", *KMC, *BOTH, "--json").stdout)
    second = json.loads(site.run("generate", *KMC, *BOTH, "--json").stdout)
    assert (first["version"], second["version"]) == (1, 2)
    assert site.check_values() == {("KMC", 1): first["kcv"], ("KMC", 2): second["kcv"]}
    refused = site.run("generate", *KMC, *BOTH, "--version", "1", lines=())
    assert refused.returncode == 4
    assert "已存在" in refused.stderr and "never overwritten" in refused.stderr


@pytest.mark.parametrize("lines", [(FIRST, FIRST), (SECOND, SECOND)])
def test_a_wrong_passphrase_makes_no_key(site: Site, lines: tuple[str, ...]) -> None:
    done = site.run("generate", *KMC, *BOTH, lines=lines)
    assert done.returncode == 4
    assert "口令错误" in done.stderr and "is wrong" in done.stderr
    assert site.check_values() == {}
    assert len(site.log()) == 1


@pytest.mark.parametrize(
    ("people", "code", "why"),
    [
        (("--custodian", "张保管"), 2, "name both custodians"),
        ((), 2, "--custodian"),
        (("--custodian", "张保管", "--custodian", "张保管"), 4, "one custodian cannot be both"),
        (("--custodian", "张保管", "--custodian", "王"), 4, "is no custodian"),
    ],
)
def test_one_custodian_alone_makes_no_key(site: Site, people: tuple[str, ...], code: int, why: str) -> None:
    done = site.run("generate", *KMC, *people, lines=(FIRST, FIRST))
    assert (done.returncode, why in done.stderr) == (code, True), done.stderr
    assert site.check_values() == {}


# ------------------------------------------------------------------------------------------------------------- import


@on_both
def test_a_key_of_two_components_has_the_check_value_of_their_xor(site: Site) -> None:
    (one, one_kcv, left), (other, other_kcv, right) = component(), component()
    whole = bytes(a ^ b for a, b in zip(left, right, strict=True))
    kcv = check_value(Algorithm.TRIPLE_DES, whole).hex().upper()
    done = site.run("import", *KMC, *BOTH, lines=(FIRST, one, one_kcv, SECOND, other, other_kcv, kcv))
    assert done.returncode == 0, done.stderr
    assert kcv in done.stdout
    assert site.check_values() == {("KMC", 1): kcv}
    assert [line["what"] for line in site.log()] == ["begun", "importing", "imported"]
    everything = site.zhika.said() + "".join(
        path.read_bytes().hex() for path in site.keys.parent.parent.rglob("*") if path.is_file()
    )
    for secret in (one, other, whole.hex()):
        assert secret not in everything and secret.encode().hex() not in everything


def test_a_mistyped_component_imports_nothing(site: Site) -> None:
    (one, one_kcv, _), (other, _, _) = component(), component()
    done = site.run("import", *KMC, *BOTH, lines=(FIRST, one, one_kcv, SECOND, other, one_kcv, "000000"))
    assert done.returncode == 4
    assert "李保管 的分量与校验值不符" in done.stderr
    assert other not in done.stderr + done.stdout
    assert site.check_values() == {}


@on_both
def test_a_published_test_key_is_refused_in_production_by_name(site: Site) -> None:
    (one, one_kcv, left) = component()
    right = bytes(a ^ b for a, b in zip(left, range(0x40, 0x50), strict=True))
    other_kcv = check_value(Algorithm.TRIPLE_DES, right).hex()
    done = site.run("import", *KMC, *BOTH, lines=(FIRST, one, one_kcv, SECOND, right.hex(), other_kcv, "8BAF47"))
    assert done.returncode == 4
    assert "KMC version 1 is a published test key" in done.stderr and "测试密钥" in done.stderr
    assert site.check_values() == {}


def test_a_key_that_is_only_single_des_is_refused(site: Site) -> None:
    (one, one_kcv, left) = component()
    whole = bytes.fromhex("7C0FA4B1522E39D6" * 2)
    right = bytes(a ^ b for a, b in zip(left, whole, strict=True))
    kcvs = [check_value(Algorithm.TRIPLE_DES, value).hex() for value in (right, whole)]
    done = site.run("import", *KMC, *BOTH, lines=(FIRST, one, one_kcv, SECOND, right.hex(), *kcvs))
    assert (done.returncode, "两半相同" in done.stderr) == (4, True)


def test_too_few_lines_are_a_wrong_use(site: Site) -> None:
    done = site.run("import", *KMC, *BOTH, lines=(FIRST, "40" * 16))
    assert (done.returncode, "标准输入缺少一行" in done.stderr) == (2, True), done.stderr
    assert site.check_values() == {}


# ----------------------------------------------------------------------------------------------------------- beginning


@on_both
def test_custodians_are_enrolled_once(site: Site) -> None:
    before = {path: path.read_bytes() for path in site.keys.iterdir()}
    again = site.run("init", *BOTH)
    assert (again.returncode, "is there already" in again.stderr) == (4, True)
    assert {path: path.read_bytes() for path in site.keys.iterdir()} == before


def test_who_cannot_be_a_custodian_leaves_nothing_begun(bare: Cli) -> None:
    done = bare.run("keys", "init", *BOTH, stdin=f"{FIRST}\nshort\n")
    assert done.returncode == 4, done.stderr
    assert not (Path(bare.settings["ZHIKA_DATA_DIR"]) / "keys" / "custodians.json").exists()
    assert bare.run("keys", "init", *BOTH, stdin=f"{FIRST}\n{SECOND}\n").returncode == 0


def test_without_custodians_there_is_no_ceremony(bare: Cli) -> None:
    done = bare.run("keys", "generate", *KMC, *BOTH, stdin=f"{FIRST}\n{SECOND}\n")
    assert (done.returncode, "custodians.json" in done.stderr) == (4, True)


def test_a_place_that_is_not_configured_is_exit_78(tmp_path: Path) -> None:
    with cli(tmp_path / "here", ZHIKA_ENV="production") as started:
        zhika = Forked(directory=started.directory, settings=started.settings)
        for command in (("init", *BOTH), ("export-check-values",)):
            done = zhika.run("keys", *command, stdin=f"{FIRST}\n{SECOND}\n")
            assert (done.returncode, "ZHIKA_KEYS__STORE" in done.stderr) == (78, True), done.stderr
        done = zhika.run("keys", "init", *BOTH, stdin=f"{FIRST}\n{SECOND}\n", settings={"ZHIKA_KEYS__STORE": "vault"})
        assert (done.returncode, "ZHIKA_KEYS__PASSPHRASE_FILE" in done.stderr) == (78, True), done.stderr
        assert list(zhika.directory.rglob("custodians.json")) == []


def test_a_demonstration_shows_the_check_values_of_its_test_keys(tmp_path: Path) -> None:
    with cli(tmp_path / "here", ZHIKA_ENV="demo") as started:
        zhika = Forked(directory=started.directory, settings=started.settings)
        told = zhika.json("keys", "export-check-values", "--json")
        assert (told["store"], told["custody"]) == ("demo", None)
        assert {key["name"]: key["kcv"] for key in told["keys"]}["KMC"] == "8BAF47"
        assert "8BAF47" in zhika.run("keys", "export-check-values").stdout


# ----------------------------------------------------------------------------------------------------------- watching


@on_both
def test_a_key_without_a_ceremony_is_told_and_not_used(site: Site) -> None:
    """Whoever holds what opens the safe brings back a key whose ceremony is not in the log."""
    begun = (site.keys / "ceremonies.log").read_bytes()
    assert site.run("generate", *KMC, *BOTH).returncode == 0
    assert use(site).returncode == 0
    (site.keys / "ceremonies.log").write_bytes(begun)
    told = site.zhika.json("keys", "export-check-values", "--json", code=1)
    assert [(key["name"], key["witnessed"]) for key in told["keys"]] == [("KMC", False)]
    assert "KMC version 1" in site.zhika.run("keys", "export-check-values").stderr
    refused = use(site)
    assert (refused.returncode, "made the keys KMC version 1" in refused.stderr) == (1, True), refused.stderr


@pytest.mark.parametrize("bare", ["pkcs11"], indirect=True)
def test_a_key_made_with_the_pin_alone_stops_the_start_until_it_is_removed(site: Site) -> None:
    assert site.run("generate", *KMC, *BOTH).returncode == 0
    pkcs11_tool(site, "--keygen", "--key-type", "AES:16", "--sensitive", "--id", b"card-management/-/x".hex())
    refused = use(site)
    assert (refused.returncode, "made the keys EVIL version 1:" in refused.stderr) == (1, True), refused.stderr
    pkcs11_tool(site, "--delete-object", "--type", "secrkey")
    assert use(site).returncode == 0


def use(site: Site) -> Finished:
    """Open the keys as what makes cards does."""
    return forked(
        lambda: keys.key_store(load()).random(8), directory=site.zhika.directory, environment=site.zhika.environment
    )


def pkcs11_tool(site: Site, *arguments: str) -> None:
    """What somebody with the PIN does to the object `zhika/EVIL/1` with another program."""
    settings = site.zhika.settings
    subprocess.run(
        [
            *(
                "pkcs11-tool",
                "--module",
                settings["ZHIKA_KEYS__MODULE"],
                "--token-label",
                settings["ZHIKA_KEYS__TOKEN"],
            ),
            *("--login", "--pin", PIN, "--label", "zhika/EVIL/1", *arguments),
        ],
        env=site.zhika.environment,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("bare", ["pkcs11"], indirect=True)
def test_two_ceremonies_at_once_make_one_version_once(site: Site, started: Cli) -> None:
    def generate() -> Finished:
        return Site(zhika=started).run("generate", *KMC, *BOTH, "--version", "1")

    codes = sorted(done.returncode for done in together([generate, generate]))
    assert codes == [0, 4], started.said()
    assert [line["what"] for line in site.log()] == ["begun", "generating", "generated"]
    assert list(site.check_values()) == [("KMC", 1)]
    assert use(site).returncode == 0


def test_an_altered_log_is_told(site: Site) -> None:
    path = site.keys / "ceremonies.log"
    path.write_bytes(path.read_bytes().replace("张保管".encode(), "王保管".encode()))
    done = site.run("export-check-values", lines=())
    assert (done.returncode, "line 1 was altered" in done.stderr) == (4, True)


# ---------------------------------------------------------------------------------------------------------- a terminal


def test_at_a_terminal_nothing_that_is_typed_is_shown(site: Site) -> None:
    (one, one_kcv, left), (other, other_kcv, right) = component(), component()
    kcv = check_value(Algorithm.TRIPLE_DES, bytes(a ^ b for a, b in zip(left, right, strict=True))).hex().upper()
    typed = (FIRST, one, one_kcv, SECOND, other, other_kcv, kcv)
    shown, code = at_a_terminal(site.zhika, ("keys", "import", *KMC, *BOTH), typed)
    assert code == 0, shown
    assert "张保管" in shown and "李保管" in shown
    assert all(secret not in shown for secret in (FIRST, SECOND, one, other, one_kcv, other_kcv))
    assert shown.count(kcv) == 1, "told at the end, not echoed"


def at_a_terminal(zhika: Cli, arguments: tuple[str, ...], typed: tuple[str, ...]) -> tuple[str, int]:
    """Run a command at a terminal of its own and answer each of its questions; what the terminal showed, and the exit code."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=zhika.directory,
        env=zhika.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(slave)
    shown = b""
    answers = list(typed)
    until = time.monotonic() + 60
    try:
        while time.monotonic() < until:
            try:
                read = os.read(master, 4096)
            except OSError:
                break
            shown += read
            if answers and shown.endswith(b": "):
                os.write(master, f"{answers.pop(0)}\n".encode())
        return shown.decode(), process.wait(timeout=10)
    finally:
        os.close(master)
        process.kill()
        process.wait()
