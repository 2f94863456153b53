"""Hosts that others wrote against the virtual card: pcscd and vpcd between them, no code of ours on the host's side.

yubikit (the library of yubikey-manager) speaks SCP03, py-gp SCP02 and SCP03; pyemv derives card keys.
"""

from __future__ import annotations

import io
import sys
import time
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cryptography.utils
import pytest
from PIL import Image
from pyemv import kd
from smartcard import scard
from smartcard.pcsc.PCSCCardConnection import PCSCCardConnection
from ykman.pcsc import ScardSmartCardConnection
from yubikit.core.smartcard import ApduError
from yubikit.core.smartcard.scp import KeyRef, Scp03KeyParams, ScpKid, ScpState, StaticKeys
from yubikit.securitydomain import SecurityDomainSession

from card_personalization.profiles import load_profile
from card_personalization.simulator import CardStore
from card_personalization.simulator.configuration import DEBIT
from card_personalization.simulator.inspection import DomainView
from pipeline.gateways.encoder import open_simulated
from pipeline.identifiers import gb11643_check
from pipeline.person import Person
from pipeline.ports import EncodeOrder, EncodeReport
from tests.support.cli import ROOT, Cli, cli
from tests.support.pcscd import Pcscd, need_pcscd
from tests.support.simulated_cards import simulated

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # the peers' own

TEST_KEY = bytes(range(0x40, 0x50))
OTHER_KEYS = StaticKeys(b"\x51" * 16, b"\x52" * 16, b"\x53" * 16)
EVERY_KVN = (0x00, 0x20)
ISSUER_DOMAIN = "A000000151000000"
STATUS_OF_DOMAIN = "80F28002024F0000"
GET_STATUS = (0x80, 0xF2, 0x40, 0x02, bytes.fromhex("4F00"))
KINDS = {
    "scp02-15": ("--keys", "none"),
    "scp02-55": ("--keys", "none", "--i", "55"),
    "scp02-emv": (),
    "scp03-70": ("--scp", "03"),
    "scp03-60": ("--scp", "03", "--i", "60"),
    "scp03-10": ("--scp", "03", "--i", "10"),
    "for one test": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A reader for each kind of card, with such a card in it; the last one is for a test that wants a card of its own."""

    pcscd: Pcscd
    zhika: Cli

    def reader(self, kind: str) -> str:
        return self.pcscd.readers[[*KINDS].index(kind)]

    def port(self, kind: str) -> int:
        return self.pcscd.ports[[*KINDS].index(kind)]

    def serial(self, kind: str) -> str:
        return f"{self.port(kind):08X}"

    @contextmanager
    def card(self, *arguments: str) -> Iterator[str]:
        """A card in the last reader; the reader's name."""
        with simulated(self.zhika, "--vpcd", f"127.0.0.1:{self.port('for one test')}", "--state", "own", *arguments):
            yield self.reader("for one test")
        time.sleep(1)  # until the reader has seen it leave

    def domain(self) -> DomainView:
        """The security domain of that card."""
        return CardStore(self.zhika.directory / "own").inspect(self.serial("for one test")).domain


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("peers")
    pcscd = Pcscd(directory / "pcscd", pairs=4, pcscd=need_pcscd())
    pcscd.start()
    with cli(directory / "zhika", ZHIKA_ENV="test") as zhika, ExitStack() as stack:
        stack.callback(pcscd.kill)
        made = Bench(pcscd=pcscd, zhika=zhika)
        for kind, arguments in [*KINDS.items()][:-1]:
            stack.enter_context(simulated(zhika, "--vpcd", f"127.0.0.1:{made.port(kind)}", *arguments))
        yield made
        stack.pop_all().close()


@pytest.fixture(autouse=True)
def _emptied(bench: Bench) -> None:
    """The card of a test is a new one."""
    for file in (bench.zhika.directory / "own").glob("*.card"):
        file.unlink()


# ------------------------------------------------------------------------------------------------------------- yubikit


@contextmanager
def yubikit(reader: str) -> Iterator[SecurityDomainSession]:
    """A session of yubikit with the security domain, which selects it."""
    connection = ScardSmartCardConnection(PCSCCardConnection(reader))
    try:
        yield SecurityDomainSession(connection)
    finally:
        connection.close()


def keys(kvn: int, values: StaticKeys = StaticKeys.default()) -> Scp03KeyParams:  # noqa: B008 - a value
    return Scp03KeyParams(KeyRef(ScpKid.SCP03, kvn), values)


@pytest.mark.parametrize("kvn", EVERY_KVN)
@pytest.mark.parametrize("kind", ["scp03-70", "scp03-60"])
def test_yubikit_runs_secured_commands_at_its_level_33(bench: Bench, kind: str, kvn: int) -> None:
    with yubikit(bench.reader(kind)) as domain:
        domain.authenticate(keys(kvn))
        assert bench.serial(kind).lower() in domain.get_data(0x9F7F).hex()
        assert domain.get_data(0x0066).hex().endswith(f"2a864886fc6b0403{kind[-2:]}")
        assert DEBIT in domain.protocol.send_apdu(*GET_STATUS)
        assert domain.get_data(0x00E0).startswith(b"\xe0")


def test_yubikit_is_told_what_an_error_is_in_the_channel_and_can_go_on(bench: Bench) -> None:
    with yubikit(bench.reader("scp03-70")) as domain:
        domain.authenticate(keys(0))
        with pytest.raises(ApduError) as told:
            domain.get_data(0x7F00)
        assert told.value.sw == 0x6A88
        assert domain.get_data(0x0042)


def test_yubikit_finds_the_level_refused_that_the_card_does_not_offer(bench: Bench) -> None:
    with yubikit(bench.reader("scp03-10")) as domain:
        domain.authenticate(keys(0))  # does not look at the answer to EXTERNAL AUTHENTICATE
        with pytest.raises(ApduError) as told:
            domain.protocol.send_apdu(*GET_STATUS)
        assert told.value.sw == 0x6982


def test_yubikit_finds_out_that_its_keys_or_their_version_are_not_the_cards(bench: Bench) -> None:
    with yubikit(bench.reader("scp03-70")) as domain:
        for wrong in (keys(0x20, OTHER_KEYS), keys(0x21)):
            with pytest.raises(ValueError, match="Incorrect SCP parameters"):
                domain.authenticate(wrong)


def test_a_wrong_mac_of_yubikit_closes_the_channel(bench: Bench) -> None:
    with yubikit(bench.reader("scp03-70")) as domain:
        domain.authenticate(keys(0))
        state = domain.protocol._processor.state
        right = state.mac
        for mac in (lambda message: bytes(8), right):
            state.mac = mac
            with pytest.raises(ApduError) as told:
                domain.protocol.send_apdu(*GET_STATUS)
            assert told.value.sw == 0x6982
        domain.authenticate(keys(0))
        assert DEBIT in domain.protocol.send_apdu(*GET_STATUS)


def test_yubikit_puts_a_key_version_on_the_card_uses_it_and_deletes_it(bench: Bench) -> None:
    with bench.card("--scp", "03") as reader, yubikit(reader) as domain:
        domain.authenticate(keys(0x20))
        domain.put_key(KeyRef(ScpKid.SCP03, 0x30), OTHER_KEYS)
        domain.authenticate(keys(0x30, OTHER_KEYS))
        assert bytes.fromhex("C00401308810") in domain.get_data(0x00E0)
        domain.delete_key(kvn=0x30)
        with pytest.raises(ValueError, match="Incorrect SCP parameters"):
            domain.authenticate(keys(0x30, OTHER_KEYS))
        domain.authenticate(keys(0x20))


def test_failed_authentications_are_counted_until_the_domain_is_closed_for_ever(bench: Bench) -> None:
    with bench.card("--scp", "03") as reader:
        with yubikit(reader) as domain:
            for _ in range(10):
                ScpState.scp03_init(domain.protocol.send_apdu, keys(0))
                with pytest.raises(ApduError) as told:
                    domain.protocol.send_apdu(0x84, 0x82, 0x33, 0x00, bytes(16))
                assert told.value.sw == 0x6300
        assert bench.domain().failures == 10
        with yubikit(reader) as domain, pytest.raises(ApduError) as told:
            domain.authenticate(keys(0))
        assert told.value.sw == 0x6985
    with bench.card("--scp", "03") as reader, yubikit(reader) as domain, pytest.raises(ApduError) as told:
        domain.authenticate(keys(0))
    assert told.value.sw == 0x6985


def test_a_good_authentication_forgives_the_failed_ones(bench: Bench) -> None:
    with bench.card("--scp", "03") as reader, yubikit(reader) as domain:
        ScpState.scp03_init(domain.protocol.send_apdu, keys(0))
        with pytest.raises(ApduError):
            domain.protocol.send_apdu(0x84, 0x82, 0x33, 0x00, bytes(16))
        assert bench.domain().failures == 1
        domain.authenticate(keys(0))
        assert bench.domain().failures == 0


# --------------------------------------------------------------------------------------------------------------- py-gp


@pytest.fixture(scope="module")
def pygp() -> Any:
    """py-gp as it stands, on the libraries of today: a decorator that is gone, and pyscard in place of its own copy for Windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cryptography.utils, "register_interface", lambda interface: lambda kind: kind, raising=False)
        pcsc = types.ModuleType("pygp.connection.pcsc")
        vars(pcsc).update({name: value for name, value in vars(scard).items() if not name.startswith("__")})
        patch.setitem(sys.modules, "pygp.connection.pcsc", pcsc)
        import pygp

        yield pygp


class Refused(Exception):
    """py-gp raises BaseException."""


@contextmanager
def session(pygp: Any, reader: str) -> Iterator[Any]:
    """py-gp at a card, with the security domain selected."""
    pygp.terminal(reader)
    try:
        pygp.card()
        yield pygp
    finally:
        sys.modules["pygp.connection.connection"].card_disconnect(scard.SCARD_UNPOWER_CARD)
        pygp.close()


def authenticate(
    pygp: Any, key: tuple[bytes, bytes, bytes], *, kvn: int = 0, level: int = 0x01, i: str | None = None
) -> None:
    try:
        pygp.auth(*(part.hex().upper() for part in key), None, i, f"{kvn:02X}", securitylevel=level)
    except BaseException as error:
        if type(error) is not BaseException:
            raise
        raise Refused(str(error)) from None


LEVELS = {
    "scp02-15": (0x00, 0x01, 0x03),
    "scp02-55": (0x00, 0x01, 0x03),
    "scp03-70": (0x00, 0x01, 0x03, 0x11, 0x13, 0x33),
    "scp03-60": (0x00, 0x01, 0x03, 0x11, 0x13, 0x33),
    "scp03-10": (0x00, 0x01, 0x03),
}
ALL_THREE = (TEST_KEY, TEST_KEY, TEST_KEY)


@pytest.mark.parametrize("kvn", EVERY_KVN)
@pytest.mark.parametrize(("kind", "level"), [(kind, level) for kind, levels in LEVELS.items() for level in levels])
def test_py_gp_runs_commands_at_every_level(bench: Bench, pygp: Any, kind: str, level: int, kvn: int) -> None:
    with session(pygp, bench.reader(kind)) as host:
        authenticate(host, ALL_THREE, kvn=kvn, level=level, i=kind[-2:] if kind.startswith("scp02") else None)
        host.get_data("9F7F")
        assert bench.serial(kind) in host.last_response()
        host.send(STATUS_OF_DOMAIN)  # its own get_status takes an R-MAC for data
        assert ISSUER_DOMAIN in host.last_response()
        assert host.last_status() == "9000"


@pytest.mark.parametrize("kind", ["scp02-15", "scp03-70"])
def test_py_gp_finds_out_that_its_keys_or_their_version_are_not_the_cards(bench: Bench, pygp: Any, kind: str) -> None:
    with session(pygp, bench.reader(kind)) as host:
        with pytest.raises(Refused, match="card cryptogram"):
            authenticate(host, (TEST_KEY[::-1],) * 3, i=kind[-2:])
        with pytest.raises(Refused):
            authenticate(host, ALL_THREE, kvn=0x21, i=kind[-2:])
        assert host.last_status() == "6A88"


def test_py_gp_opens_the_usual_card_with_keys_of_emv_cps(bench: Bench, pygp: Any) -> None:
    """The card's keys from the master and the last six bytes of its diversification data, computed by py-gp."""
    triple_des = sys.modules["pygp.crypto"].DES3_ECB
    with session(pygp, bench.reader("scp02-emv")) as host:
        host.get_data("00CF")
        factor = host.last_response()[-12:]
        derived = tuple(
            bytes.fromhex(triple_des(f"{factor}F0{number:02X}{factor}0F{number:02X}", TEST_KEY.hex()))
            for number in (1, 2, 3)
        )
        authenticate(host, derived, level=0x03, i="15")
        host.get_status_isd()
        assert ISSUER_DOMAIN in host.last_response()


def test_the_usual_card_has_the_test_key_itself_for_either_protocol(bench: Bench, pygp: Any) -> None:
    reader = bench.reader("scp02-emv")
    with yubikit(reader) as domain:
        domain.authenticate(keys(0x30))
        assert DEBIT in domain.protocol.send_apdu(*GET_STATUS)
    with session(pygp, reader) as host:
        authenticate(host, ALL_THREE, kvn=0x21, level=0x03, i="15")
        host.send(STATUS_OF_DOMAIN)
        assert ISSUER_DOMAIN in host.last_response()


@pytest.mark.parametrize(
    ("arguments", "algorithm", "i"), [(("--keys", "none"), "DES", "15"), (("--scp", "03"), "AES", "70")]
)
def test_py_gp_replaces_the_keys_of_a_card(
    bench: Bench, pygp: Any, arguments: tuple[str, ...], algorithm: str, i: str
) -> None:
    fresh = tuple(bytes(range(start, start + 16)) for start in (0x10, 0x60, 0xA0))
    with bench.card(*arguments) as reader:
        with session(pygp, reader) as host:
            authenticate(host, ALL_THREE, i=i)
            for number, value in enumerate(fresh, 1):
                host.set_key(f"20/{number}/{algorithm}/{value.hex().upper()}")
            host.put_scp_key("20", replace=True)
            assert host.last_status() == "9000"
        with session(pygp, reader) as host:
            with pytest.raises(Refused, match="card cryptogram"):
                authenticate(host, ALL_THREE, i=i)
            authenticate(host, fresh, kvn=0x20, level=0x03, i=i)
            host.get_status_isd()
            assert ISSUER_DOMAIN in host.last_response()


def test_py_gp_is_counted_when_it_goes_on_with_a_wrong_proof(bench: Bench, pygp: Any) -> None:
    with bench.card("--keys", "none") as reader, session(pygp, reader) as host:
        proof = host.init_update(*(TEST_KEY.hex().upper(),) * 3, None, "15", "00")
        with pytest.raises(BaseException, match="Authentication Failed"):
            host.ext_auth(proof[:-2] + f"{int(proof[-2:], 16) ^ 1:02X}", 0x01)
        assert host.last_status() == "6300"
        assert bench.domain().failures == 1


# --------------------------------------------------------------------------------------------------------------- pyemv


def _picture() -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (358, 441), (90, 140, 200)).save(output, "JPEG")
    return output.getvalue()


PROFILE = load_profile(ROOT / "config" / "cards" / "ssc2.toml")
ISSUER_MASTERS = tuple(
    bytes.fromhex(master)
    for master in (
        "0123456789ABCDEFFEDCBA9876543210",
        "101112131415161718191A1B1C1D1E1F",
        "202122232425262728292A2B2C2D2E2F",
    )
)


@pytest.mark.parametrize("pan", ["6200000000000005", "6200000000000000018"])
def test_pyemv_derives_the_keys_that_a_personalised_card_carries(tmp_path: Path, pan: str) -> None:
    first17 = "99900119491231001"
    number = first17 + gb11643_check(first17)
    order = EncodeOrder(
        application_id="app_1",
        blank_serial="00000001",
        profile=PROFILE.name,
        holder=Person(
            name="测试甲",
            id_type="resident_id",
            id_number=number,
            social_security_number=number,
            sex="1",
            ethnic="01",
            birth_date=date(1949, 12, 31),
            birth_place="420100",
        ),
        card_number="A0000002X",
        city="420100",
        initialiser_tail="42010001",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="中国建设银行",
        bank_card_number=pan,
        picture=_picture(),
    )
    with open_simulated(tmp_path, "S1", profiles={PROFILE.name: PROFILE}) as encoder:
        made = encoder.personalise([order])["app_1"]
    assert isinstance(made, EncodeReport), made
    assert made.verdict == "verified", made.problem
    assert PROFILE.issuer is not None
    derived = (kd.derive_icc_mk_a(master, pan, PROFILE.issuer.pan_sequence) for master in ISSUER_MASTERS)
    triple_des = kd._tools.encrypt_tdes_ecb
    check_values = b"".join(triple_des(key, bytes(8))[:3] for key in derived)
    assert CardStore(tmp_path / "cards").inspect("00000001").applications[DEBIT].kcvs == check_values
