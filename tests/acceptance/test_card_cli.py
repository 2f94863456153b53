"""`zhika card` as whoever has a reader meets it: pcscd with vpcd readers, cards played by the command itself, real processes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from card_personalization.atr import Atr
from card_personalization.keys.base import KeyRef
from card_personalization.keys.software import SoftwareKeys
from card_personalization.profiles import load_profile
from card_personalization.transport.pcsc import PcscConnection, PcscReader
from pipeline.gateways.encoder import open_pcsc
from pipeline.identifiers import gb11643_check
from pipeline.person import Person
from pipeline.ports import EncodeOrder, EncodeReport
from tests.support.cli import (
    COMMAND,
    ROOT,
    Cli,
    Finished,
    cli,
    given_away,
    personal_values,
    ready_line,
    start_up,
    together,
    wait_until,
)
from tests.support.pcscd import Pcscd, need_pcscd
from tests.support.ports import free_port
from tests.support.simulated_cards import simulated

SELECT = "00A404000F7378312E73682EC9E7BBE1B1A3D5CF"
PROFILE = load_profile(ROOT / "config" / "cards" / "ssc2.toml")
NAME = "欧阳虚构"
SEVENTEEN = "99900119491231001"
NUMBER = SEVENTEEN + gb11643_check(SEVENTEEN)
CARD_NUMBER = "A0000002X"
PAN = "6200000000000000018"
PERSONAL = (NAME, NUMBER, CARD_NUMBER, PAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Readers without cards, and the command."""

    pcscd: Pcscd
    zhika: Cli

    def slot(self, number: int) -> str:
        return f"127.0.0.1:{self.pcscd.ports[number]}"

    @contextmanager
    def card(self, number: int, *arguments: str) -> Iterator[str]:
        """A card in a reader; the reader's name."""
        with simulated(self.zhika, "--vpcd", self.slot(number), *arguments):
            yield self.pcscd.readers[number]
        wait_until(lambda: not _present(self.pcscd.readers[number]), timeout_s=10)
        time.sleep(0.5)  # pcscd looks twice before it takes another for a new one


def _present(name: str) -> bool:
    reader = PcscReader(name)
    reader.open()
    try:
        return reader.wait_for_card(0)
    finally:
        reader.close()


@contextmanager
def held(name: str) -> Iterator[PcscConnection]:
    """The card in a reader, exclusively."""
    reader = PcscReader(name)
    reader.open()
    assert reader.wait_for_card(5)
    connection = reader.connect()
    try:
        yield connection
    finally:
        connection.close()
        reader.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("card")
    pcscd = Pcscd(directory / "pcscd", pairs=2, pcscd=need_pcscd())
    pcscd.start()
    with cli(directory / "zhika", ZHIKA_ENV="test") as zhika:
        yield Bench(pcscd=pcscd, zhika=zhika)
    pcscd.kill()


def fails(done: Finished, code: int, *told: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in told:
        assert word in done.stderr


# ------------------------------------------------------------------------------------------------------------ simulate


def test_independent_programs_see_the_card_as_soon_as_it_says_ready(bench: Bench) -> None:
    with bench.card(0, "--serial", "0A0B0C0D"):
        told = bench.pcscd.run("opensc-tool", "-r", "0", "-a", "-s", SELECT)
    assert "3b:6d:00:00:00:81:5a:4b:31:86:60:42:01:0a:0b:0c:0d" in told
    assert "SW1=0x90, SW2=0x00" in told


def test_a_strict_card_announces_its_answer_as_t0_has_it(bench: Bench) -> None:
    with bench.card(0, "--serial", "0A0B0C0E", "--strict-t0") as name, held(name) as card:
        assert card.transmit(bytes.fromhex(SELECT)) == (b"", 0x6119)
        assert card.transmit(bytes.fromhex("00C0000000")) == (b"", 0x6C19)
        assert card.transmit(bytes.fromhex("00C0000019"))[1] == 0x9000


def test_several_cards_are_different_and_one_ready_is_for_all(bench: Bench) -> None:
    with simulated(bench.zhika, "--vpcd", bench.slot(2), "--vpcd", bench.slot(3), "--serial", "0000FFFF") as heard:
        atrs = {bench.zhika.json("card", "read", "--reader", f"1 00 0{n}", "--json")["atr"] for n in (0, 1)}
    assert {atr[-8:] for atr in atrs} == {"0000FFFF", "00010000"}
    assert heard.count("ready") == 1


def test_a_card_is_the_same_when_it_is_put_in_again(bench: Bench) -> None:
    def tries() -> Any:
        return bench.zhika.json("card", "read", "--reader", "0 00 00", "--json")["social"]["pin_tries_left"]

    for state in ("kept", "kept/0000AAAA.card"):
        serial = ("--serial", "0000AAAA") if state == "kept" else ()
        with bench.card(0, "--state", state, *serial) as name:
            before = tries()
            assert tries() == before, "asking cost a try"
            with held(name) as card:
                card.transmit(bytes.fromhex(SELECT))
                card.transmit(bytes.fromhex("0020000003000000"))
            assert tries() == before - 1


def test_a_card_that_finds_no_reader_says_so_and_waits_for_it(bench: Bench) -> None:
    port = free_port()
    process = bench.zhika.start("card", "simulate", "--vpcd", f"127.0.0.1:{port}", "--state", "alone")
    wait_until(lambda: f":{port}" in bench.zhika.said(), timeout_s=20)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    [line] = [line for line in bench.zhika.said().splitlines() if f":{port}" in line]
    assert "卡片不在读卡器中，等待读卡器 the card is in no reader, waiting for one" in line


def test_a_fault_strikes_at_its_command(bench: Bench) -> None:
    with bench.card(0, "--fault", "sw=6A82@SELECT:1x*", "--state", "faulty"):
        fails(bench.zhika.run("card", "read", "--reader", "0 00 00"), 4, "不是所要的卡", "not a card", "6A82")


def test_a_slow_line_takes_its_time(bench: Bench) -> None:
    with bench.card(0, "--baud", "9600", "--ms-per-command", "20"):
        seen = bench.zhika.json("card", "read", "--reader", "0 00 00", "--json")
    assert seen["elapsed_ms"] > 20 * 20


WRONG_LINES = {
    ("--vpcd", "35963"): "host:port",
    ("--vpcd", "127.0.0.1:99999"): "host:port",
    ("--vpcd", "127.0.0.1:1", "--vpcd", "127.0.0.1:1"): "one card",
    ("--vpcd", "127.0.0.1:1", "--serial", "XYZ"): "8 hex digits",
    ("--vpcd", "127.0.0.1:1", "--vpcd", "127.0.0.1:2", "--serial", "FFFFFFFF"): "not different",
    ("--vpcd", "127.0.0.1:1", "--fault", "fire@SELECT"): "not a fault",
    ("--vpcd", "127.0.0.1:1", "--fault", "slow@SELECT"): "slow needs seconds",
    ("--vpcd", "127.0.0.1:1", "--scp", "04"): "02",
    ("--vpcd", "127.0.0.1:1", "--scp", "03", "--i", "15"): "SCP03 i=15",
    ("--vpcd", "127.0.0.1:1", "--kvn", "XX"): "two hex digits",
    ("--vpcd", "127.0.0.1:1", "--ms-per-command", "5"): "--baud",
    ("--vpcd", "127.0.0.1:1", "--profile", "visa"): "no such kind of card",
    ("--vpcd", "127.0.0.1:1", "--state", __file__): "SERIAL.card",
    (): "--vpcd",
}


def test_a_wrong_command_line_ends_with_2_before_a_card_is_made(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        ends = together(partial(zhika.run, "card", "simulate", *arguments) for arguments in WRONG_LINES)
    for done, told in zip(ends, WRONG_LINES.values(), strict=True):
        fails(done, 2, told, "Usage: zhika")
    assert list(tmp_path.iterdir()) == []


def test_virtual_cards_are_refused_in_production(tmp_path: Path) -> None:
    with cli(tmp_path, ZHIKA_ENV="production") as zhika:
        fails(zhika.run("card", "simulate", "--vpcd", "127.0.0.1:1"), 4, "生产环境", "refused in production")
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_is_there_does_not_become_one_of_another_kind(bench: Bench) -> None:
    with bench.card(0, "--state", "kinds", "--serial", "0000BBBB"):
        pass
    again = ("--vpcd", bench.slot(0), "--state", "kinds", "--serial", "0000BBBB", "--scp", "03")
    fails(bench.zhika.run("card", "simulate", *again), 4, "card.kind", "SCP02 i=15, not SCP03 i=70")


def test_a_damaged_card_is_told_and_left_as_it_is(bench: Bench) -> None:
    damaged = bench.zhika.directory / "damaged" / "0000CCCC.card"
    damaged.parent.mkdir()
    damaged.write_text("00000000 {}\n")
    done = bench.zhika.run("card", "simulate", "--vpcd", bench.slot(0), "--state", damaged)
    fails(done, 4, "第 1 行损坏", "damaged at line 1")
    assert damaged.read_text() == "00000000 {}\n"


# ------------------------------------------------------------------------------------------------------------- reading


def test_the_readers_are_listed_with_what_lies_in_them(bench: Bench) -> None:
    with bench.card(1):
        seen = bench.zhika.json("card", "readers", "-o", "json")
        table = bench.zhika.run("card", "readers").stdout
    assert seen == {"readers": [{"name": name, "card": number == 1} for number, name in enumerate(bench.pcscd.readers)]}
    assert all(name in table for name in bench.pcscd.readers)


def test_a_blank_is_read_as_one(bench: Bench) -> None:
    with bench.card(0) as name:
        seen = bench.zhika.json("card", "read", "--reader", name, "--json")
        fails(bench.zhika.run("card", "verify", "--reader", name), 3, "空白卡", "blank")
    assert (seen["ok"], seen["blank"], seen["card_id"], seen["profile"]) == (True, True, None, "ssc2")
    assert seen["financial"] == {"aid": "A000000333010101", "pan": None, "state": "blank"}
    assert seen["social"] == {
        "card_number": None,
        "name": None,
        "social_security_number": None,
        "issued": None,
        "expires": None,
        "pin_tries_left": 5,
    }


def test_a_card_without_a_bank_has_nothing_financial(bench: Bench) -> None:
    with bench.card(0, "--profile", "ssc2-social") as name:
        assert bench.zhika.json("card", "read", "--reader", name, "--json")["financial"] is None


def _order(serial: str) -> EncodeOrder:
    picture = io.BytesIO()
    Image.new("RGB", (358, 441), (90, 140, 200)).save(picture, "JPEG")
    return EncodeOrder(
        application_id="app_1",
        blank_serial=serial,
        profile=PROFILE.name,
        holder=Person(
            name=NAME,
            id_type="resident_id",
            id_number=NUMBER,
            social_security_number=NUMBER,
            sex="1",
            ethnic="01",
            birth_date=date(1949, 12, 31),
            birth_place="420100",
        ),
        card_number=CARD_NUMBER,
        city="420100",
        initialiser_tail="42010001",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="中国建设银行",
        bank_card_number=PAN,
        picture=picture.getvalue(),
    )


def _personalised(directory: Path, name: str, serial: str) -> None:
    """Make the card in a reader, with the station that the line uses."""
    keys = SoftwareKeys.demo()
    with open_pcsc(directory, "S1", names=[name], keys=keys, profiles={PROFILE.name: PROFILE}) as encoder:
        wait_until(lambda: encoder.loaded() == (serial,), timeout_s=20)
        made = encoder.personalise([_order(serial)])["app_1"]
    assert isinstance(made, EncodeReport), made
    assert made.verdict == "verified", made.problem


def test_a_card_made_in_that_very_reader_is_read_masked_and_unmasked_with_a_trace(bench: Bench, tmp_path: Path) -> None:
    with bench.card(0, "--serial", "0000DDDD") as name:
        _personalised(tmp_path, name, "0000DDDD")
        masked, table = (
            bench.zhika.run("card", "read", "--reader", name, "--json"),
            bench.zhika.run("card", "read", "--reader", name),
        )
        shown = bench.zhika.json("card", "read", "--reader", name, "--json", "--unmasked")
        fails(bench.zhika.run("card", "verify", "--reader", name), 3, "没有制作过", "no card made here")
    assert masked.returncode == table.returncode == 0
    assert given_away(PERSONAL, masked.stdout + table.stdout + masked.stderr) == 0
    seen = json.loads(masked.stdout)
    assert seen.pop("elapsed_ms") > 0
    assert seen == {
        "ok": True,
        "reader": name,
        "atr": "3B6D000000815A4B31866042010000DDDD",
        "card_id": "420100D1560000050000DDDD",
        "profile": "ssc2",
        "blank": False,
        "social": {
            "card_number": "A0*****2X",
            "name": "欧**构",
            "social_security_number": f"9990**********{NUMBER[-4:]}",
            "issued": "2026-11-25",
            "expires": "2036-11-25",
            "pin_tries_left": 5,
        },
        "financial": {"aid": "A000000333010101", "pan": "620000*********0018", "state": "personalised"},
        "masked": True,
    }
    assert shown["masked"] is False
    social = shown["social"]
    values = social["name"], social["social_security_number"], social["card_number"], shown["financial"]["pan"]
    assert values == PERSONAL
    with closing(sqlite3.connect(bench.zhika.directory / "zhika-data" / "zhika.db")) as database:
        traces = database.execute("SELECT action, target, actor FROM audit WHERE action = 'card.read'").fetchall()
    assert [trace[:2] for trace in traces] == [("card.read", "420100D1560000050000DDDD")]
    assert traces[0][2].startswith("cli:")


def test_a_reader_that_cannot_be_used_has_its_own_exit_code(bench: Bench) -> None:
    read = partial(bench.zhika.run, "card", "read", "--reader")
    fails(read("nowhere"), 3, "没有读卡器", "no reader nowhere")
    fails(read("Encoder"), 4, "对应多个读卡器", "fits several readers")
    fails(read(bench.pcscd.readers[1]), 4, "没有可用的卡", "no usable card")
    with bench.card(0) as name, held(name):
        fails(read(name), 75, "被其他程序占用", "another program")
    nothing = {"PCSCLITE_CSOCK_NAME": str(bench.zhika.directory / "nothing.comm")}
    for command in (("read", "--reader", "x"), ("readers",), ("verify", "--reader", "x")):
        fails(bench.zhika.run("card", *command, settings=nothing), 69, "未运行", "pcscd does not answer")


def test_without_pyscard_only_readers_are_missed_and_the_way_to_install_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "without" / "smartcard").mkdir(parents=True)
    (tmp_path / "without" / "smartcard" / "__init__.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    with cli(tmp_path / "zhika") as zhika:
        without = {"PYTHONPATH": f"{tmp_path / 'without'}{os.pathsep}{ROOT}"}
        for command in (("readers",), ("read", "--reader", "x"), ("verify", "--reader", "x")):
            fails(
                zhika.run("card", *command, settings=without, fresh=True),
                78,
                "缺少 pyscard",
                "pip install 'zhika[pcsc]'",
            )
        fails(zhika.run("card", "sheet", "app_x", "--out", "x.pdf", settings=without, fresh=True), 3, "app_x")
        process = subprocess.Popen(
            [*COMMAND, "card", "simulate", "--vpcd", f"127.0.0.1:{free_port()}"],
            cwd=zhika.directory,
            env={**zhika.environment, **without},
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            assert "virtual cards ssc2" in process.stderr.readline()
            process.terminate()
            process.stderr.read()  # what it still says: leaving closes the pipe it says it to
        assert process.returncode == 0


# ------------------------------------------------------------------------------------- cards that an installation made


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Two cards that the line made in PC/SC readers and that still lie there, and whose they are."""

    zhika: Cli
    readers: tuple[str, ...]
    applications: tuple[str, ...]
    people: frozenset[str]


@pytest.fixture(scope="module")
def made(bench: Bench) -> Iterator[Made]:
    """From an intake file to two cards: one process, a simulated bank, and a station over two readers."""
    directory = bench.zhika.directory.parent / "line"
    settings = {
        "ZHIKA_ENV": "test",
        "ZHIKA_DATA_DIR": str(directory / "data"),
        "ZHIKA_WORKERS__THREADS": "2",
        "ZHIKA_METRICS__BIND": "",
        "ZHIKA_ENCODERS__VIRTUAL": "false",
        "ZHIKA_ENCODERS__NAMES": json.dumps(["1 00 00", "1 00 01"]),
    }
    slots = [option for number in (2, 3) for option in ("--vpcd", bench.slot(number))]
    with cli(directory, **settings) as zhika, simulated(zhika, *slots, "--serial", "00000001"):
        process = start_up(zhika, f"127.0.0.1:{free_port()}", "--no-outlets", "--blanks", "0")
        ready_line(zhika, process)
        (directory / "blanks").write_text("00000001\n00000002\n")
        assert zhika.run("blank", "receive", "blanks", "--lot", "L1").returncode == 0
        assert zhika.run("blank", "issue", "--station", "enc_1", "--count", "2").returncode == 0
        sample = zhika.run("simulate", "intake", "samples", "--applications", "6", "--region", "wuhan")
        [file] = [directory / name for name in sample.stdout.split()]
        assert zhika.run("batch", "upload", file).returncode == 5

        def finished() -> tuple[str, ...]:
            with closing(sqlite3.connect(directory / "data" / "zhika.db")) as database:
                return tuple(row[0] for row in database.execute("SELECT application_id FROM cards ORDER BY id"))

        wait_until(lambda: len(finished()) == 2, timeout_s=90, told=zhika.said)
        assert zhika.run("down").returncode == 0
        assert process.wait(30) == 0
        yield Made(
            zhika=zhika,
            readers=bench.pcscd.readers[2:4],
            applications=finished(),
            people=personal_values([file]),
        )


def test_a_card_of_the_line_equals_its_order(made: Made) -> None:
    seen = [made.zhika.json("card", "verify", "--reader", reader, "--json") for reader in made.readers]
    assert {case["application"] for case in seen} == set(made.applications)
    assert all(re.fullmatch(r"420100D1560000050000000[12]", case["card_id"]) for case in seen)
    assert all(case["ok"] and case["fields"] > 30 and case["differing"] == [] for case in seen)
    table = made.zhika.run("card", "verify", "--reader", made.readers[0])
    assert table.returncode == 0
    assert made.applications[0] in table.stdout or made.applications[1] in table.stdout


def test_a_card_is_read_without_giving_its_holder_away(made: Made) -> None:
    done = [made.zhika.run("card", "read", "--reader", reader, "--json") for reader in made.readers]
    assert all(json.loads(end.stdout)["financial"]["state"] == "personalised" for end in done)
    assert given_away(made.people, "".join(end.stdout + end.stderr for end in done)) == 0


def test_faces_are_printed_to_a_file_of_the_owner_alone_and_the_audit_log_knows(made: Made) -> None:
    done = made.zhika.run("card", "sheet", *made.applications, "--out", "sheet.pdf")
    assert (done.returncode, done.stdout) == (0, "sheet.pdf\n"), done.stderr
    file = made.zhika.directory / "sheet.pdf"
    document = file.read_bytes()
    assert document.startswith(b"%PDF-")
    assert (document.count(b"/Subtype /Image"), document.count(b"/Type /Page ")) == (2, 1)
    assert b"(zhika  2 cards  1/1)" in document
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(person.encode() in document for person in made.people)
    with closing(sqlite3.connect(made.zhika.directory / "data" / "zhika.db")) as database:
        traces = database.execute("SELECT target FROM audit WHERE action = 'card.sheet'").fetchall()
    assert {trace[0] for trace in traces} == set(made.applications)
    fails(made.zhika.run("card", "sheet", "app_x", "--out", "no.pdf"), 3, "没有卡面", "app_x")
    assert not (made.zhika.directory / "no.pdf").exists()


def _update(card: PcscConnection, file: str, record: str) -> None:
    """Change a record as somebody with the update key could."""
    send: Callable[[str], tuple[bytes, int]] = lambda text: card.transmit(bytes.fromhex(text))  # noqa: E731
    send(SELECT)
    challenge, _ = send("0084000008")
    proof = SoftwareKeys.demo().external_authentication(
        KeyRef("UKSSSE"),
        factors=(Atr.parse(card.atr).factor,),
        challenge=challenge,
        original=bytes(8),
        process_key=True,
    )
    assert card.transmit(bytes.fromhex("0082000410") + proof)[1] == 0x9000
    assert send(f"00A4000002{file}")[1] == 0x9000
    assert send(record)[1] == 0x9000


def test_a_card_that_was_changed_differs_in_that_field_and_no_value_is_told(made: Made) -> None:
    reader = made.readers[0]
    with held(reader) as card:
        _update(card, "EF06", "00DC0504030B0138")
        _update(card, "EF05", "00DC050406050419991231")
    seen = made.zhika.json("card", "verify", "--reader", reader, "--json", code=4)
    assert (seen["ok"], seen["differing"]) == (False, ["social.issued", "social.ethnic"])
    table = made.zhika.run("card", "verify", "--reader", reader)
    assert table.returncode == 4
    assert "social.ethnic" in table.stdout
    assert "1999" not in table.stdout
    assert made.zhika.json("card", "verify", "--reader", made.readers[1], "--json")["ok"]
