"""`zhika outlet` and `zhika fee` as commands: a card goes to a proxy, comes back, and the month is accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.clock import SHANGHAI, civil_date
from pipeline.identifiers import gb11643_check
from pipeline.services import stock as stocking
from pipeline.store import applications, views
from producers.embedded import embedded, wait_quiet
from producers.file_intake import take_file
from producers.simulators.applicants import nobody
from producers.simulators.bank import BankServer
from producers.simulators.intake import make_sample
from producers.simulators.outlet import Outlets
from tests.support.cli import Cli, Finished, cli, given_away, together

SEVENTEEN = "99900119750615123"
AGENT = {
    "name": "代领样例",
    "id_type": "resident_id",
    "id_number": SEVENTEEN + gb11643_check(SEVENTEEN),
    "relation": "兄弟",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """An installation that nobody runs, and two adults' cards of Wuhan that have come to their outlets."""

    zhika: Cli
    cards: list[dict[str, Any]]
    agency: str
    number: str

    def hand_over(self, card: dict[str, Any], *told: str | Path, stdin: str = "") -> Finished:
        where = ("--outlet", card["outlet"], "--serial", card["blank_serial"])
        return self.zhika.run("outlet", "hand-over", card["card"], *where, *told, stdin=stdin)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    directory = tmp_path_factory.mktemp("outlet")
    data = directory / "data"
    with BankServer(ledger_path=directory / "bank.db") as bank:
        settings = load(OnlyGiven, env="test", data_dir=data, log_level="error", banks={"default": {"url": bank.url}})
        installation = Installation(settings)
        _make_cards(installation, directory)
        with installation.store.transaction() as tx:
            waiting = [
                {**row._asdict(), "outlet": outlet}
                for outlet in views.outlets_with_cards(tx)
                for row in views.at_outlet(tx, outlet, statuses=("delivered",))
            ]
            apps = {i: c.application for i, c in applications.load(tx, [row["application"] for row in waiting]).items()}
        installation.close()
    plain = [row for row in waiting if apps[row["application"]].collect_by == "person"]
    first = apps[plain[0]["application"]]
    (directory / "agent.json").write_text(json.dumps(AGENT), encoding="utf-8")
    with cli(directory, ZHIKA_ENV="test", ZHIKA_DATA_DIR=str(data)) as made:
        yield Counter(zhika=made, cards=plain[:2], agency=first.agency, number=first.person.id_number)


def _make_cards(installation: Installation, directory: Path) -> None:
    context = installation.context
    today = civil_date(context.now())
    sample = make_sample(
        directory / "in", applications=14, seed=1, policies=installation.policies, today=today, only="wuhan"
    )
    blanks = [f"5B{n:04d}" for n in range(40)]
    stocking.receive(context, blanks, blank_type="ssc2", lot="L1", note="D-1", actor="keeper")
    stocking.issue(context, blanks, station=installation.settings.encoders.station, blank_type="ssc2", actor="keeper")
    people = Outlets(context=context, comes=nobody, mislaid=nobody)
    with embedded(installation, sweep_every_s=0.2):
        for path in sample.files:
            take_file(context, installation.policies, path, source="wuhan", actor="intake")
        assert wait_quiet(installation, timeout_s=60)
        people.seal()
        people.ship()
        people.receive()
        assert wait_quiet(installation, timeout_s=60)


def _fails(done: Finished, code: int, *told: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    for word in told:
        assert word in done.stderr


def test_a_wrong_command_line_ends_with_2(counter: Counter) -> None:
    (counter.zhika.directory / "bad.json").write_text('{"name": "代领样例", "shoe_size": "43"}', encoding="utf-8")
    (counter.zhika.directory / "bytes").write_bytes("代领样例 43".encode("gb18030"))
    act = ("outlet", "hand-over", "c", "--serial", "s", "--outlet", "o", "--agent-file")
    wrong: dict[tuple[str, ...], str] = {
        (*act, "bad.json"): "--agent-file",
        (*act, "agent.json", "--paper", "x"): "--paper",
        (*act, "bytes"): "--agent-file",
        (*act[:-1], "--document-number-file", "bytes"): "--document-number-file",
        ("fee", "statement", "ag_1", "--month", "9999-12"): "--month",
        ("fee", "statement", "ag_1", "--month", "0001-01"): "--month",
        ("fee", "pay", "fee_1", "--amount-fen", "2000", "--receipt", "R", "--method", "barter"): "--method",
    }
    ends = together(partial(counter.zhika.run, *arguments) for arguments in wrong)
    for done, told in zip(ends, wrong.values(), strict=True):
        _fails(done, 2, told)
        assert "43" not in done.stderr


def test_a_card_goes_to_a_proxy_comes_back_and_goes_to_its_holder(counter: Counter) -> None:
    zhika, [card, _] = counter.zhika, counter.cards
    waiting = zhika.lines("outlet", "notices", "--outlet", card["outlet"])
    [mine] = [row for row in waiting if row["card"] == card["card"]]
    assert set(mine) == {
        "outlet", "card", "application", "acceptance_no", "blank_serial", "delivered_at", "notify_by"
    }  # fmt: skip
    early = f"{card['delivered_at'].astimezone(SHANGHAI) - timedelta(days=1):%Y-%m-%dT%H:%M}"
    where = ("--outlet", card["outlet"])
    _fails(zhika.run("outlet", "notice", card["card"], *where, "--at", early), 4, "before-delivery", "早于")

    proxy = ("--by", "proxy", "--agent-file", "agent.json")
    paid = ("--fee-receipt", "R-1")
    _fails(counter.hand_over(card, *proxy, *paid), 4, "papers-missing", "委托书")
    handed = counter.hand_over(card, *proxy, *paid, "--paper", "mandate=2026-031", "--key", "k-1")
    again = counter.hand_over(card, *proxy, *paid, "--paper", "mandate=2026-031", "--key", "k-1")
    assert handed.stdout == again.stdout, (handed.stderr, again.stderr)
    name = json.loads(handed.stdout)["id"]

    back = zhika.run("outlet", "revert", name, *where, "--reason", "the proxy took the wrong one")
    assert (back.returncode, back.stdout, back.stderr) == (0, "", "")
    own = ("--document-number-file", "-", "--document-valid-to")
    _fails(counter.hand_over(card, *own, "2020-01-01", stdin=counter.number), 4, "document-expired")
    done = counter.hand_over(card, *own, "2099-01-01", stdin=counter.number)
    assert done.returncode == 0, done.stderr
    told = zhika.json("application", "show", card["application"], "--json")
    assert [step["to"] for step in told["timeline"]][-3:] == ["collected", "delivered", "collected"]


def test_fees_are_listed_waived_given_back_and_accounted_for(counter: Counter) -> None:
    zhika, [paid, other] = counter.zhika, counter.cards
    [fee] = zhika.lines("fee", "list", paid["application"])
    [due] = zhika.lines("fee", "list", other["application"])
    assert (fee["status"], fee["receipt_no"], due["status"], due["amount_fen"]) == ("paid", "R-1", "due", 2000)
    odd = zhika.run("fee", "waive", due["id"], "--ground", "poor", "--evidence", "file 3")
    _fails(odd, 4, "not-permitted-by-policy", "disabled")
    for arguments in (
        ("waive", due["id"], "--ground", "disabled", "--evidence", "file 3"),
        ("refund", fee["id"], "--number", "B-1"),
    ):
        assert zhika.run("fee", *arguments).returncode == 0
    month = f"{paid['delivered_at'].astimezone(SHANGHAI):%Y-%m}"
    told = zhika.json("fee", "statement", counter.agency, "--month", month, "-o", "json")
    assert set(told) == {"agency", "month", "charged", "paid", "waived", "refunded", "due", "waivers"}
    assert (told["paid"], told["refunded"]) == ({"fees": 1, "fen": 2000}, {"fees": 1, "fen": 2000})
    table = zhika.run("fee", "statement", counter.agency, "--month", month)
    assert "减免 waived" in table.stdout


def test_no_command_gave_anybody_away(counter: Counter) -> None:
    values = frozenset({AGENT["name"], AGENT["id_number"], counter.number})
    assert given_away(values, counter.zhika.said()) == 0
