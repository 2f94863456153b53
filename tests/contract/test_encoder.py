"""What every personalisation station promises, proved on virtual cards: one card an order, and no blank lost from sight."""

from __future__ import annotations

import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from itertools import permutations
from pathlib import Path

import pytest
from PIL import Image

from card_personalization.errors import CardLost, FaceError, PlanError
from card_personalization.keys.base import Algorithm, Usage
from card_personalization.keys.software import SecretKey, SoftwareKeys
from card_personalization.profiles import load_profile
from card_personalization.readers import VirtualReader
from card_personalization.simulator import CardStore, Fault
from card_personalization.simulator.configuration import CardManager, KeySet
from card_personalization.simulator.connection import VirtualConnection
from card_personalization.transport import tracing
from card_personalization.transport.tracing import TRACE
from config import logs
from pipeline.errors import Conflict, NeedsOperator, OutcomeUnknown
from pipeline.gateways.encoder import LocalEncoder, open_simulated
from pipeline.identifiers import card_number, gb11643_check
from pipeline.person import Person
from pipeline.ports import EncodeOrder, Encoder, EncodeReport, StationStopped

PROFILE = load_profile(Path(__file__).parents[2] / "config" / "cards" / "ssc2.toml")
PROFILES = {PROFILE.name: PROFILE}
MUTATIONS = range(1, 15)
UPDATE_RECORD = 0xDC
READ_RECORD = 0xB2
STORE_DATA = 0xE2
EXTERNAL_AUTHENTICATE = 0x82

Open = Callable[..., LocalEncoder]


def _picture() -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (358, 441), (90, 140, 200)).save(output, "JPEG")
    return output.getvalue()


PICTURE = _picture()


def order(number: int = 1, *, serial: str | None = None) -> EncodeOrder:
    first17 = f"99900119491231{number:03d}"
    person = Person(
        name="测试甲",
        id_type="resident_id",
        id_number=first17 + gb11643_check(first17),
        social_security_number=first17 + gb11643_check(first17),
        sex="1" if number % 2 else "2",
        ethnic="01",
        birth_date=date(1949, 12, 31),
        birth_place="420100",
        phone="13800000000",
    )
    return EncodeOrder(
        application_id=f"app_{number}",
        blank_serial=serial or f"B{number}",
        profile=PROFILE.name,
        holder=person,
        card_number=card_number("A", number),
        city="420100",
        initialiser_tail="42010001",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="中国建设银行",
        bank_card_number="6200000000000000018",
        picture=PICTURE,
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the station of `tmp_path` with the faults asked for."""
    open_now: list[LocalEncoder] = []

    def open_it(**options: object) -> LocalEncoder:
        encoder = open_simulated(tmp_path, "S1", profiles=PROFILES, **options)  # type: ignore[arg-type]
        open_now.append(encoder)
        return encoder

    yield open_it
    for encoder in open_now:
        encoder.close()


def report(reply: EncodeReport | Exception) -> EncodeReport:
    assert isinstance(reply, EncodeReport), reply
    return reply


def verdicts(replies: object) -> dict[str, str]:
    assert isinstance(replies, dict)
    return {
        i: reply.verdict if isinstance(reply, EncodeReport) else type(reply).__name__ for i, reply in replies.items()
    }


def box(directory: Path) -> CardStore:
    """The blanks as they lie there, without a station."""
    return CardStore(directory / "cards")


# ------------------------------------------------------------------------------------------------------- a good card


def test_a_card_is_verified_with_its_chip_and_its_face(opened: Open) -> None:
    encoder: Encoder = opened()
    made = report(encoder.personalise([order()])["app_1"])
    assert (encoder.station, made.verdict, made.problem) == ("S1", "verified", None)
    assert made.chip_id is not None
    assert made.chip_id.startswith("420100D156000005")
    assert made.atr is not None
    assert made.chip_id.endswith(made.atr[-8:])
    assert {"name", "card_number", "issued", "expires", "social_security_number"} <= set(made.verified_fields)
    with Image.open(io.BytesIO(made.face)) as face:
        assert (face.format, face.size) == ("PNG", (PROFILE.face.width_px, PROFILE.face.height_px))


def test_what_a_station_says_names_nobody(opened: Open) -> None:
    made = report(opened().personalise([order()])["app_1"])
    assert not any(secret in repr(made) for secret in ("测试甲", order().holder.id_number, order().card_number))


def test_the_same_order_again_is_read_and_gives_the_same_card(opened: Open) -> None:
    encoder = opened()
    first = report(encoder.personalise([order()])["app_1"])
    for again in (encoder.personalise([order()]), encoder.recover([order()])):
        made = report(again["app_1"])
        assert (made.verdict, made.chip_id, made.face) == ("verified", first.chip_id, first.face)
        assert made.apdus < first.apdus


def test_nothing_to_do_is_done(opened: Open) -> None:
    encoder = opened()
    assert encoder.personalise([]) == encoder.recover([]) == {}


@pytest.mark.parametrize("readers", [1, 3])
def test_what_becomes_of_a_card_does_not_depend_on_its_place_in_the_chunk(tmp_path: Path, readers: int) -> None:
    bad = replace(order(3), card_number="A00000999")
    faults = {"B2": [Fault("UPDATE RECORD", 4, "sw", sw=0x6581)]}
    expected = {"app_1": "verified", "app_2": "spoiled", "app_3": "PlanError"}
    for place, chunk in enumerate(permutations([order(1), order(2), bad])):
        station = open_simulated(tmp_path / str(place), "S1", profiles=PROFILES, faults=faults, readers=readers)
        with station as encoder:
            assert verdicts(encoder.personalise(chunk)) == expected


# ----------------------------------------------------------------------------------------------------- data and keys


@pytest.mark.parametrize(
    ("wrong", "error", "fields"),
    [
        ({"card_number": "A00000999", "city": "420102"}, PlanError, {"card_number", "city"}),
        ({"expires": date(2026, 11, 25)}, PlanError, {"expires"}),
        ({"holder": replace(order().holder, sex="9", ethnic="77")}, PlanError, {"ethnic"}),
        ({"holder": replace(order().holder, name="测" * 30)}, PlanError, {"name"}),
        ({"bank_name": "银行" * 60}, FaceError, {"bank_name"}),
        ({"picture": b"no picture"}, FaceError, {"photo"}),
    ],
)
def test_data_that_cannot_stand_on_a_card_touches_none_and_harms_no_neighbour(
    opened: Open, tmp_path: Path, wrong: dict[str, object], error: type[PlanError | FaceError], fields: set[str]
) -> None:
    broken = replace(order(1), **wrong)  # type: ignore[arg-type] # the cases above are of the fields' types
    replies = opened().personalise([broken, order(2)])
    refused = replies["app_1"]
    assert isinstance(refused, error)
    assert {problem.field for problem in refused.problems} == fields
    assert "测" not in str(refused)
    assert report(replies["app_2"]).verdict == "verified"
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["B2.card", "B2.1.jsonl"]


def test_an_unknown_kind_of_card_is_that_orders_defect(opened: Open) -> None:
    replies = opened().personalise([replace(order(1), profile="other"), order(2)])
    assert verdicts(replies) == {"app_1": "Defect", "app_2": "verified"}


def _demo(name: str, usage: Usage, first: int) -> SecretKey:
    value = bytes(range(first, first + 16))
    return SecretKey(name=name, algorithm=Algorithm.TRIPLE_DES, usage=usage, owner="DEMO", value=value)


DEMO_KEYS = [
    _demo("IRK", Usage.SOCIAL_SECURITY, 0x40),
    _demo("UKSSSE", Usage.SOCIAL_SECURITY, 0x50),
    _demo("KMC", Usage.CARD_MANAGEMENT, 0x40),
    *(_demo(name, Usage.ISSUER, 0x40) for name in ("IMK-AC", "IMK-MAC", "IMK-ENC")),
]


def _encoder(
    directory: Path, keys: SoftwareKeys, connect: Callable[[str], VirtualConnection], *, trace: bool = False
) -> LocalEncoder:
    return LocalEncoder(
        "S1",
        readers=[VirtualReader("reader", connect)],
        keys=keys,
        journal_dir=directory / "journal",
        halt_file=directory / "stopped",
        profiles=PROFILES,
        trace=trace,
    )


def foreign_box(directory: Path) -> CardStore:
    """Blanks with another UKSSSE than ours."""
    return CardStore(directory / "cards", masters={0: bytes(range(0x40, 0x50)), 4: bytes(range(16))})


def tries_left(box: CardStore, *serials: str) -> list[int]:
    return [box.inspect(serial).keys[4].left for serial in serials]


def test_a_refused_key_stops_the_station_before_it_costs_another_card_a_try(tmp_path: Path) -> None:
    foreign = foreign_box(tmp_path)
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign.insert) as encoder:
        assert (encoder.stopped, encoder.loaded()) == (None, None)
        replies = encoder.personalise([order(1), order(2), order(3)])
        assert verdicts(replies) == {"app_1": "untouched", "app_2": "StationStopped", "app_3": "StationStopped"}
        for again in (encoder.personalise, encoder.recover):
            with pytest.raises(StationStopped, match="encoder stopped"):
                again([order(4)])
    first, *others = tries_left(foreign, "B1", "B2", "B3", "B4")
    assert others == [first + 1] * 3


def test_a_station_that_has_stopped_says_why_and_offers_no_blank_even_after_a_restart(tmp_path: Path) -> None:
    foreign = foreign_box(tmp_path)
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign.insert) as encoder:
        encoder.personalise([order()])
        why = str(encoder.stopped)
    assert all(told in why for told in ("密钥", "key", "refused our key", "zhika encoder resume S1"))
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign.insert) as encoder:
        assert (encoder.stopped, encoder.loaded()) == (why, ())
        with pytest.raises(StationStopped):
            encoder.personalise([order(serial="B2")])
    assert tries_left(foreign, "B1") == [tries_left(foreign, "B2")[0] - 1]


def test_a_station_that_was_authorised_goes_on_and_its_next_start_knows(tmp_path: Path) -> None:
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign_box(tmp_path / "foreign").insert) as encoder:
        encoder.personalise([order()])
        encoder.authorise()
        assert (encoder.stopped, encoder.loaded()) == (None, None)
    with _encoder(tmp_path, SoftwareKeys.demo(), box(tmp_path).insert) as encoder:
        assert encoder.stopped is None
        assert report(encoder.personalise([order(serial="B2")])["app_1"]).verdict == "verified"


def test_a_stop_that_cannot_be_written_down_stops_this_process_all_the_same(tmp_path: Path) -> None:
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign_box(tmp_path).insert) as encoder:
        (tmp_path / "stopped").mkdir()
        assert isinstance(encoder.personalise([order()])["app_1"], OutcomeUnknown)
        assert encoder.stopped
        with pytest.raises(OSError, match="stopped"):
            encoder.authorise()
        assert encoder.loaded() == ()


FAILS = [Fault("UPDATE RECORD", 3, "sw", sw=0x6581)]
DEAD = [Fault("SELECT", 1, "mute")]


@pytest.mark.parametrize("fault", [FAILS, DEAD])
def test_three_blanks_in_a_row_that_come_to_nothing_stop_the_station(opened: Open, fault: list[Fault]) -> None:
    encoder = opened(faults={f"B{n}": fault for n in (1, 2, 4, 5, 6, 7)})
    first = encoder.personalise([order(n) for n in (1, 2, 3, 4, 5)])
    assert verdicts(first)["app_3"] == "verified"
    assert encoder.stopped is None
    last = verdicts(encoder.personalise([order(6), order(7)]))
    assert last == {"app_6": verdicts(first)["app_1"], "app_7": "StationStopped"}
    why = str(encoder.stopped)
    assert all(told in why for told in ("连续 3 张", "3 cards in a row were spoiled at S1", "resume S1"))
    encoder.authorise()
    assert report(encoder.personalise([order(8)])["app_8"]).verdict == "verified"


def test_one_blank_that_is_offered_again_and_again_does_not_stop_the_station(opened: Open) -> None:
    encoder = opened(faults={"B1": [Fault("SELECT", n, "mute") for n in range(1, 5)]})
    said = [report(encoder.personalise([order(n, serial="B1")])[f"app_{n}"]).verdict for n in range(1, 5)]
    assert said == ["untouched"] * 4
    assert encoder.stopped is None


def test_a_station_tells_how_many_cards_were_begun_and_have_no_end(opened: Open, tmp_path: Path) -> None:
    _killed_at(tmp_path, UPDATE_RECORD, 3, carried_out=True)
    encoder = opened()
    assert encoder.open_attempts() == 1
    encoder.recover([order()])
    assert encoder.open_attempts() == 0


def test_a_trace_tells_every_command_and_no_body_that_could_hold_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[tuple[bytes, bytes]] = []
    plain = VirtualConnection.transmit

    def transmit(self: VirtualConnection, apdu: bytes, /) -> tuple[bytes, int]:
        body, sw = plain(self, apdu)
        passed.append((apdu, body))
        return body, sw

    monkeypatch.setattr(VirtualConnection, "transmit", transmit)
    with caplog.at_level(TRACE, "card_personalization.apdu"):
        for name, trace in (("on", True), ("off", False)):
            with _encoder(tmp_path / name, SoftwareKeys.demo(), box(tmp_path / name).insert, trace=trace) as encoder:
                made = encoder.personalise([order()])["app_1"]
            if trace:
                assert report(made).verdict == "verified"
                lines = [r.getMessage() for r in caplog.records if r.name == "card_personalization.apdu"]
                traced = list(passed)
    assert len(lines) == sum(r.name == "card_personalization.apdu" for r in caplog.records), "it traces unasked"
    commands = [line for line in lines if " -> " in line]
    assert [line[:8] for line in commands] == [apdu[:4].hex().upper() for apdu, _ in traced]
    log = "".join(lines)
    for ins in (UPDATE_RECORD, STORE_DATA, READ_RECORD, EXTERNAL_AUTHENTICATE):
        bodies = [part for apdu, body in traced if apdu[1] == ins for part in (apdu[5:], body) if len(part) > 2]
        assert bodies
        assert not [body for body in bodies if body.hex().upper() in log]


def test_a_trace_passes_the_log_only_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        for trace in (True, False):
            logs.configure("warning", trace=trace)
            tracing.log.log(TRACE, "00B2 [3 B] -> 18 B 9000 0.10 ms")
            assert ("00B2 [3 B]" in capsys.readouterr().err) is trace
    finally:
        logs.configure("warning")
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def test_a_wrong_card_management_key_is_found_before_anything_is_written(tmp_path: Path) -> None:
    wrong = CardManager(key_sets=(KeySet(enc=bytes(16), mac=bytes(16), dek=bytes(16)),))
    foreign = CardStore(tmp_path / "cards", manager=wrong)
    with _encoder(tmp_path, SoftwareKeys.demo(), foreign.insert) as encoder:
        made = report(encoder.personalise([order()])["app_1"])
    assert made.verdict == "untouched"
    assert "prove" in str(made.problem)


def test_an_expired_key_version_leaves_the_blank_untouched_and_says_so(tmp_path: Path) -> None:
    keys = SoftwareKeys(
        [replace(key, not_after=date(2026, 11, 24)) if key.name == "UKSSSE" else key for key in DEMO_KEYS],
        digest_key=bytes(32),
        demo=True,
        today=lambda: date(2026, 11, 25),
    )
    with _encoder(tmp_path, keys, box(tmp_path).insert) as encoder:
        reply = encoder.personalise([order()])["app_1"]
    assert isinstance(reply, NeedsOperator)
    assert "UKSSSE version 1" in str(reply)
    assert not list((tmp_path / "journal").iterdir())


def test_a_missing_key_stops_the_station(tmp_path: Path) -> None:
    keys = SoftwareKeys([k for k in DEMO_KEYS if k.name == "IRK"], digest_key=bytes(32), demo=True)
    with _encoder(tmp_path, keys, box(tmp_path).insert) as encoder:
        assert verdicts(encoder.personalise([order(1), order(2)])) == {
            "app_1": "NeedsOperator",
            "app_2": "StationStopped",
        }
        assert "UKSSSE" in str(encoder.stopped)
    assert not list((tmp_path / "journal").iterdir())


def test_a_journal_that_cannot_be_written_is_no_verdict(opened: Open, tmp_path: Path) -> None:
    encoder = opened()
    (tmp_path / "journal").rmdir()
    assert isinstance(encoder.personalise([order()])["app_1"], OutcomeUnknown)
    (tmp_path / "journal").mkdir()
    assert report(encoder.recover([order()])["app_1"]).verdict == "untouched"


def test_a_station_without_a_reader_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reader"):
        LocalEncoder(
            "S1",
            readers=[],
            keys=SoftwareKeys.demo(),
            journal_dir=tmp_path,
            halt_file=tmp_path / "stopped",
            profiles=PROFILES,
        )


# ------------------------------------------------------------------------------------------------- lost and torn cards


@pytest.mark.parametrize("kind", ["tear_before", "tear_after", "mute"])
@pytest.mark.parametrize("nth", [1, 7, 14])
def test_a_card_lost_on_the_way_is_put_in_again_and_finished(opened: Open, kind: str, nth: int) -> None:
    made = report(opened(faults={"B1": [Fault("UPDATE RECORD", nth, kind)]}).personalise([order()])["app_1"])
    assert made.verdict == "verified"
    assert made.face


def test_a_card_torn_each_time_is_not_called_good_nor_given_to_another(opened: Open) -> None:
    torn = [Fault("UPDATE RECORD", nth, "tear_before") for nth in (3, 5)]
    encoder = opened(faults={"B1": torn})
    made = report(encoder.personalise([order()])["app_1"])
    assert (made.verdict, made.face, made.verified_fields) == ("unknown", b"", ())
    assert report(encoder.personalise([order(2, serial="B1")])["app_2"]).verdict == "unknown"
    assert report(encoder.recover([order()])["app_1"]).verdict == "spoiled"


def test_a_mute_blank_stays_untouched_and_serves_somebody_else(opened: Open) -> None:
    encoder = opened(faults={"B1": [Fault("SELECT", 1, "mute")]})
    assert report(encoder.personalise([order()])["app_1"]).verdict == "untouched"
    assert report(encoder.personalise([order(2, serial="B1")])["app_2"]).verdict == "verified"


def test_the_nth_blank_is_spoiled_on_demand(opened: Open) -> None:
    encoder = opened(spoil=frozenset({2}))
    assert verdicts(encoder.personalise([order(1), order(2), order(3)])) == {
        "app_1": "verified",
        "app_2": "spoiled",
        "app_3": "verified",
    }
    assert report(encoder.personalise([order(2, serial="B4")])["app_2"]).verdict == "verified"


def test_an_empty_reader_harms_nothing(tmp_path: Path) -> None:
    def empty(serial: str) -> VirtualConnection:
        raise CardLost("no card")

    with _encoder(tmp_path, SoftwareKeys.demo(), empty) as encoder:
        assert report(encoder.personalise([order()])["app_1"]).verdict == "untouched"


# --------------------------------------------------------------------------------------------------- killed processes


def _killed_at(directory: Path, ins: int, nth: int, *, carried_out: bool) -> None:
    """A process of its own personalises `order()` and is killed at the nth such command."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    seen = 0
    plain = VirtualConnection.transmit

    def transmit(self: VirtualConnection, apdu: bytes, /) -> tuple[bytes, int]:
        nonlocal seen
        seen += apdu[1] == ins
        if seen == nth and apdu[1] == ins:
            if carried_out:
                plain(self, apdu)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, apdu)

    try:
        VirtualConnection.transmit = transmit  # type: ignore[method-assign]
        open_simulated(directory, "S1", profiles=PROFILES).personalise([order()])
    finally:
        os._exit(1)  # a child that was not killed must not go on as a second test run


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("nth", MUTATIONS)
def test_a_station_killed_at_any_write_finishes_the_same_card(
    opened: Open, tmp_path: Path, nth: int, carried_out: bool
) -> None:
    _killed_at(tmp_path, UPDATE_RECORD, nth, carried_out=carried_out)
    encoder = opened()
    assert report(encoder.personalise([order(2, serial="B1")])["app_2"]).verdict == "unknown"
    made = report(encoder.recover([order()])["app_1"])
    assert (made.verdict, bool(made.face)) == ("verified", True)
    assert report(encoder.recover([order()])["app_1"]).chip_id == made.chip_id
    assert [path.name for path in (tmp_path / "cards").glob("*.card")] == ["B1.card"]


def test_a_station_killed_twice_at_the_same_card_spoils_it_and_the_order_gets_another(
    opened: Open, tmp_path: Path
) -> None:
    _killed_at(tmp_path, UPDATE_RECORD, 3, carried_out=False)
    _killed_at(tmp_path, UPDATE_RECORD, 3, carried_out=True)
    encoder = opened()
    assert report(encoder.recover([order()])["app_1"]).verdict == "spoiled"
    assert report(encoder.personalise([order(serial="B2")])["app_1"]).verdict == "verified"
    assert report(encoder.personalise([order(2, serial="B1")])["app_2"]).verdict == "spoiled"


def test_a_station_killed_before_the_first_write_leaves_the_blank_for_anybody(opened: Open, tmp_path: Path) -> None:
    _killed_at(tmp_path, EXTERNAL_AUTHENTICATE, 1, carried_out=True)
    encoder = opened()
    assert report(encoder.recover([order()])["app_1"]).verdict == "untouched"
    assert report(encoder.personalise([order(2, serial="B1")])["app_2"]).verdict == "verified"


# ------------------------------------------------------------------------------------------------- one process a station


def test_a_second_process_cannot_be_the_same_station(opened: Open, tmp_path: Path) -> None:
    opened()
    child = os.fork()
    if not child:
        code = 1
        try:
            open_simulated(tmp_path, "S1", profiles=PROFILES)
        except Conflict as refusal:
            code = 42 if refusal.reason_code == "station.in-use" and "S1" in refusal.zh and "S1" in refusal.en else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_a_station_that_was_closed_can_be_opened_again(opened: Open, tmp_path: Path) -> None:
    first = opened()
    with pytest.raises(Conflict):
        open_simulated(tmp_path, "S1", profiles=PROFILES)
    first.close()
    first.close()
    assert report(opened().personalise([order()])["app_1"]).verdict == "verified"


def test_two_stations_work_side_by_side(tmp_path: Path) -> None:
    with (
        open_simulated(tmp_path / "1", "S1", profiles=PROFILES) as one,
        open_simulated(tmp_path / "2", "S2", profiles=PROFILES) as two,
    ):
        assert report(one.personalise([order(1)])["app_1"]).verdict == "verified"
        assert report(two.personalise([order(2)])["app_2"]).verdict == "verified"
