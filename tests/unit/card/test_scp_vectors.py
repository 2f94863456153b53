"""SCP02 and SCP03 against every published and computed session there is a record of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scp_cards import kdf, retail

from card_personalization.apdu import Apdu, Channel
from card_personalization.globalplatform.messaging import SecureMessaging
from card_personalization.globalplatform.offer import Offer
from card_personalization.globalplatform.rules import (
    ChallengeCheck,
    ChannelRules,
    Level,
    Protocol,
    largest_data,
)
from card_personalization.globalplatform.scp02 import Scp02, predicted_challenge
from card_personalization.globalplatform.scp03 import Scp03
from card_personalization.globalplatform.session import open_channel
from card_personalization.keys.base import Algorithm, Diversification, KeyRef, Scp02Keys, Scp03Keys, Usage
from card_personalization.keys.primitives import (
    StaticKeys,
    check_value,
    scp02_material,
    scp03_challenge,
    scp03_material,
)
from card_personalization.keys.software import SecretKey, SessionDek, SoftwareKeys

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "scp.json").read_text())
SCP02 = VECTORS["scp02"]
SCP03 = VECTORS["scp03"] + VECTORS["scp03_s16"]
SESSIONS = {vector["name"]: vector for vector in SCP02 + SCP03}
Vector = dict[str, Any]


def octets(vector: Vector, name: str) -> bytes:
    return bytes.fromhex(vector[name])


def parsed(raw: bytes) -> Apdu:
    le = None if len(raw) == 4 or (len(raw) == 5 + raw[4] and len(raw) > 5) else raw[-1] or 256
    data = raw[5 : 5 + raw[4]] if len(raw) > 5 else b""
    return Apdu(raw[0], raw[1], raw[2], raw[3], data, le)


def static(vector: Vector) -> StaticKeys:
    return StaticKeys(**{name: bytes.fromhex(key) for name, key in vector["static_keys"].items()})


class RecordedKeys(SoftwareKeys):
    """The store of one recorded session: its three static keys, and the host challenge that was used."""

    def __init__(self, vector: Vector) -> None:
        super().__init__([], digest_key=bytes(32))
        self._vector = vector

    def random(self, size: int) -> bytes:
        challenge = octets(self._vector, "host_challenge")
        assert len(challenge) == size
        return challenge

    def scp02_session(self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes) -> Scp02Keys:
        material = scp02_material(static(self._vector), counter)
        return Scp02Keys(s_enc=material.s_enc, c_mac=material.c_mac, dek=SessionDek(bytes, block=8, store=self))

    def scp03_session(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, host_challenge: bytes, card_challenge: bytes
    ) -> Scp03Keys:
        material = scp03_material(static(self._vector), host_challenge=host_challenge, card_challenge=card_challenge)
        return Scp03Keys(**material._asdict(), dek=SessionDek(bytes, block=16, store=self))

    def scp03_challenge(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes, aid: bytes, size: int
    ) -> bytes:
        return scp03_challenge(static(self._vector), counter=counter, aid=aid, size=size)


class Recorded:
    """A connection that plays a recorded session back and insists on the recorded commands."""

    atr = b""

    def __init__(self, vector: Vector) -> None:
        self._script = list(self._lines(vector))

    @staticmethod
    def _lines(vector: Vector) -> Iterator[tuple[str, str, int]]:
        yield vector["initialize_update"], vector["initialize_update_response"], 0x9000
        yield vector["external_authenticate"], "", 0x9000
        for command in vector["commands"]:
            if "response_wrapped" in command:
                yield command["wrapped"], command["response_wrapped"], int(command["sw"], 16)

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        asked, answer, sw = self._script.pop(0)
        assert apdu.hex() == asked
        return bytes.fromhex(answer), sw


def machine(vector: Vector) -> SecureMessaging:
    offer = Offer.parse(octets(vector, "initialize_update_response"))
    host = octets(vector, "host_challenge")
    level = Level(int(vector["security_level"], 16))
    keys = RecordedKeys(vector)
    if offer.protocol is Protocol.SCP02:
        session02 = keys.scp02_session(
            KeyRef("x"), method=Diversification.NONE, kdd=offer.kdd, counter=offer.counter or b""
        )
        return Scp02(session02, level=level, host_challenge=host, offer=offer)
    session03 = keys.scp03_session(
        KeyRef("x"),
        method=Diversification.NONE,
        kdd=offer.kdd,
        host_challenge=host,
        card_challenge=offer.challenge,
    )
    return Scp03(session03, level=level, host_challenge=host, offer=offer)


@pytest.mark.parametrize("name", [vector["name"] for vector in SCP02])
def test_session_keys_of_scp02(name: str) -> None:
    vector = SESSIONS[name]
    material = scp02_material(static(vector), octets(vector, "sequence_counter"))
    assert {field: key.hex() for field, key in material._asdict().items()} == {
        field: vector["session_keys"][field] for field in ("s_enc", "c_mac", "s_dek")
    }


@pytest.mark.parametrize("name", [vector["name"] for vector in SCP03])
def test_session_keys_of_scp03(name: str) -> None:
    vector = SESSIONS[name]
    material = scp03_material(
        static(vector),
        host_challenge=octets(vector, "host_challenge"),
        card_challenge=octets(vector, "card_challenge"),
    )
    assert {field: key.hex() for field, key in material._asdict().items()} == vector["session_keys"]


@pytest.mark.parametrize("name", SESSIONS)
def test_an_offer_is_taken_apart(name: str) -> None:
    vector = SESSIONS[name]
    offer = Offer.parse(octets(vector, "initialize_update_response"))
    assert offer.challenge.hex() == vector["card_challenge"]
    assert offer.cryptogram.hex() == vector["card_cryptogram"]
    if offer.protocol is Protocol.SCP03:
        assert offer.option == int(vector["i"], 16)
    if "sequence_counter" in vector and offer.counter is not None:
        assert offer.counter.hex() == vector["sequence_counter"]


@pytest.mark.parametrize("name", SESSIONS)
def test_every_command_and_answer_of_a_session(name: str) -> None:
    vector = SESSIONS[name]
    messaging = machine(vector)
    assert bytes(messaging.authentication).hex() == vector["external_authenticate"]
    for command in vector["commands"]:
        plain = parsed(bytes.fromhex(command["plain"]))
        assert bytes(plain).hex() == command["plain"]
        assert bytes(messaging.wrap(plain)).hex() == command["wrapped"]
        if "response_wrapped" in command:
            body = messaging.unwrap(bytes.fromhex(command["response_wrapped"]), int(command["sw"], 16))
            assert body.hex() == command["response_plain"]


@pytest.mark.parametrize("name", SESSIONS)
def test_a_recorded_session_is_opened_by_the_rules(name: str) -> None:
    vector = SESSIONS[name]
    offer = Offer.parse(octets(vector, "initialize_update_response"))
    asked = octets(vector, "initialize_update")
    aids = {entry["session"]: bytes.fromhex(entry["aid"]) for entry in VECTORS["pseudo_random_card_challenge"]}
    rules = ChannelRules(
        protocol=offer.protocol,
        options=frozenset({int(vector["i"], 16)}),
        key_versions=frozenset({offer.key_version}),
        level=Level(int(vector["security_level"], 16)),
        key=KeyRef("x"),
        method=Diversification.NONE,
        challenge=ChallengeCheck.REQUIRE if name in aids else ChallengeCheck.OFF,
    )
    line = Channel(Recorded(vector), t0="t0_note" in vector)
    channel = open_channel(line, rules, RecordedKeys(vector), aid=aids.get(name, b""), key_version=asked[2])
    assert channel.warnings == ()
    assert channel.kdd == offer.kdd
    assert channel.max_data == rules.max_data


@pytest.mark.parametrize("entry", VECTORS["pseudo_random_card_challenge"], ids=lambda entry: entry["session"])
def test_a_pseudo_random_challenge_follows_from_the_counter(entry: Vector) -> None:
    vector, aid = SESSIONS[entry["session"]], bytes.fromhex(entry["aid"])
    counter = bytes.fromhex(entry["sequence_counter"])
    if entry["scp"] == "02":
        session = RecordedKeys(vector).scp02_session(KeyRef("x"), method=Diversification.NONE, kdd=b"", counter=counter)
        assert predicted_challenge(session, aid).hex() == entry["card_challenge"]
        assert retail(session.c_mac, aid, bytes(8))[:6].hex() == entry["card_challenge"]
    else:
        predicted = scp03_challenge(static(vector), counter=counter, aid=aid, size=8)
        assert predicted.hex() == entry["card_challenge"]
        assert kdf(static(vector).enc, 2, 8, counter + aid) == predicted


def test_secrets_under_the_session_dek_of_the_worked_personalisation() -> None:
    vector = SESSIONS["computed-scp02-emv-cps-level03"]
    kmc = SecretKey(
        name="KMC",
        algorithm=Algorithm.TRIPLE_DES,
        usage=Usage.CARD_MANAGEMENT,
        owner="DEMO",
        value=octets(vector, "kmc"),
    )
    keys = SoftwareKeys([kmc], digest_key=bytes(32), demo=True)
    session = keys.scp02_session(
        kmc.ref, method=Diversification.EMV, kdd=octets(vector, "kdd"), counter=octets(vector, "sequence_counter")
    )
    for example in vector["s_dek_examples"]:
        plain = octets(example, "plain")
        assert session.dek.encrypt(plain).hex() == example["cipher"]
        if kcvs := example.get("dgi_9000_kcvs"):
            parts = [plain[at : at + 16] for at in range(0, 48, 16)]
            assert b"".join(check_value(Algorithm.TRIPLE_DES, part) for part in parts).hex() == kcvs


@pytest.mark.parametrize(
    ("level", "mac", "block", "room"),
    [
        (0x00, 8, 8, 255),
        (0x01, 8, 8, 247),
        (0x03, 8, 8, 239),
        (0x11, 8, 16, 247),
        (0x33, 8, 16, 239),
        (0x01, 16, 16, 239),
        (0x33, 16, 16, 223),
    ],
)
def test_how_much_a_command_carries(level: int, mac: int, block: int, room: int) -> None:
    assert largest_data(Level(level), mac=mac, block=block) == room
