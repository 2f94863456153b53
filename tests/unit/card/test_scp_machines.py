"""Properties of the two secure channel machines, against a card's side that shares no code with them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scp_cards import Rejected, Scp02Side, Scp03Side, ScpCard

from card_personalization.apdu import Apdu
from card_personalization.errors import ChannelBroken, ChannelRefused
from card_personalization.globalplatform.messaging import SecureMessaging
from card_personalization.globalplatform.offer import Offer
from card_personalization.globalplatform.rules import SCP02_LEVELS, SCP03_LEVELS, Level
from card_personalization.globalplatform.scp02 import Scp02
from card_personalization.globalplatform.scp03 import Scp03
from card_personalization.keys.base import Dek, Diversification, KeyRef, Scp02Keys, Scp03Keys
from card_personalization.keys.primitives import StaticKeys, scp03_material
from card_personalization.keys.software import SoftwareKeys

KMC = KeyRef("KMC")
HOST = bytes(range(0xA0, 0xA8))
HEADERS = st.tuples(st.sampled_from([0x80, 0x00]), *[st.integers(0, 255)] * 3)
COMMANDS = st.lists(st.tuples(HEADERS, st.binary(max_size=223)), min_size=1, max_size=6)
MACHINES = [(2, 0x15, 16, level) for level in sorted(SCP02_LEVELS)] + [
    (3, i, size, level) for i in (0x70, 0x71) for size in (16, 24, 32) for level in sorted(SCP03_LEVELS)
]


def dek() -> Dek:
    keys = SoftwareKeys.demo()
    return keys.scp02_session(KMC, method=Diversification.NONE, kdd=bytes(10), counter=b"\x00\x01").dek


def begun(scp: int, i: int, size: int, level: int) -> tuple[SecureMessaging, Scp02Side | Scp03Side]:
    """A machine and a card that have authenticated each other."""
    static = bytes(range(0x40, 0x40 + size))
    card = ScpCard(scp=scp, i=i, static=static)
    host = HOST * (card.size // 8)
    body, _ = card.transmit(bytes((0x80, 0x50, 0, 0, len(host))) + host)
    offer = Offer.parse(body)
    messaging: SecureMessaging
    if scp == 2:
        session02 = SoftwareKeys.demo().scp02_session(
            KMC, method=Diversification.NONE, kdd=offer.kdd, counter=offer.counter or b""
        )
        messaging = Scp02(session02, level=Level(level), host_challenge=host, offer=offer)
    else:
        material = scp03_material(
            StaticKeys(static, static, static), host_challenge=host, card_challenge=offer.challenge
        )
        session03 = Scp03Keys(**material._asdict(), dek=dek())
        messaging = Scp03(session03, level=Level(level), host_challenge=host, offer=offer)
    assert card.transmit(bytes(messaging.authentication)) == (b"", 0x9000)
    assert card.side is not None
    return messaging, card.side


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@settings(max_examples=25)
@given(commands=COMMANDS, answers=st.lists(st.binary(max_size=200), min_size=6, max_size=6))
def test_a_card_understands_every_command_and_the_host_every_answer(
    machine: tuple[int, int, int, int],
    commands: list[tuple[tuple[int, int, int, int], bytes]],
    answers: list[bytes],
) -> None:
    messaging, card = begun(*machine)
    for ((cla, ins, p1, p2), data), answer in zip(commands, answers, strict=False):
        wrapped = bytes(messaging.wrap(Apdu(cla, ins, p1, p2, data)))
        if card.level & 1:
            assert card.receive(wrapped) == (bytes((cla | 4, ins, p1, p2)), data)
        else:
            assert wrapped == bytes(Apdu(cla, ins, p1, p2, data))
        for_line = card.answer(answer, 0x9000)
        assert messaging.unwrap(for_line, 0x9000) == answer


@pytest.mark.parametrize("machine", [machine for machine in MACHINES if machine[3] & 1], ids=str)
@settings(max_examples=25)
@given(data=st.binary(max_size=223), at=st.integers(0), flip=st.integers(1, 255))
def test_a_card_rejects_a_command_with_any_byte_changed(
    machine: tuple[int, int, int, int], data: bytes, at: int, flip: int
) -> None:
    messaging, card = begun(*machine)
    wrapped = bytearray(bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 0, data))))
    place = at % len(wrapped)
    if place == 4:
        place = 5
    wrapped[place] ^= flip
    with pytest.raises((Rejected, AssertionError)):
        card.receive(bytes(wrapped))


@pytest.mark.parametrize("machine", [machine for machine in MACHINES if machine[3] & 0x10], ids=str)
@settings(max_examples=25)
@given(
    body=st.binary(max_size=60),
    sw=st.sampled_from([0x9000, 0x6310, 0x6281]),
    at=st.integers(0),
    flip=st.integers(1, 255),
)
def test_any_byte_changed_in_an_answer_closes_the_channel(
    machine: tuple[int, int, int, int], body: bytes, sw: int, at: int, flip: int
) -> None:
    messaging, card = begun(*machine)
    card.receive(bytes(messaging.wrap(Apdu(0x80, 0xCA, 0, 0x66, le=256))))
    answer = bytearray(card.answer(body, sw))
    answer[at % len(answer)] ^= flip
    with pytest.raises(ChannelBroken, match="MAC"):
        messaging.unwrap(bytes(answer), sw)
    with pytest.raises(ChannelBroken, match="closed"):
        messaging.wrap(Apdu(0x80, 0xCA, 0, 0x66, le=256))


@pytest.mark.parametrize("machine", [machine for machine in MACHINES if machine[3] & 0x10], ids=str)
@pytest.mark.parametrize(
    ("answer", "sw"),
    [
        (b"", 0x9000),
        (b"\x01", 0x9000),
        (b"", 0x6310),
        (bytes(7), 0x9000),
        (bytes(16), 0x6A80),
    ],
    ids=["no R-MAC", "too short", "no R-MAC on a warning", "seven bytes", "data on an error"],
)
def test_an_answer_without_its_mac_closes_the_channel(
    machine: tuple[int, int, int, int], answer: bytes, sw: int
) -> None:
    messaging, card = begun(*machine)
    card.receive(bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 0, b"data"))))
    with pytest.raises(ChannelBroken):
        messaging.unwrap(answer, sw)
    with pytest.raises(ChannelBroken, match="closed"):
        messaging.unwrap(b"", 0x9000)


def test_another_status_word_than_the_card_gave_closes_the_channel() -> None:
    messaging, card = begun(3, 0x70, 16, 0x11)
    card.receive(bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 0, b"data"))))
    with pytest.raises(ChannelBroken):
        messaging.unwrap(card.answer(b"", 0x6310), 0x9000)


def test_an_error_has_no_mac_and_leaves_the_channel_open() -> None:
    messaging, card = begun(3, 0x70, 16, 0x33)
    card.receive(bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 0, b"first"))))
    assert messaging.unwrap(card.answer(b"", 0x6A88), 0x6A88) == b""
    assert card.receive(bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 1, b"second"))))[1] == b"second"
    assert messaging.unwrap(card.answer(b"answer", 0x9000), 0x9000) == b"answer"


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("sw", [0x6982, 0x6987, 0x6988])
def test_a_security_status_word_closes_the_channel(machine: tuple[int, int, int, int], sw: int) -> None:
    messaging, _ = begun(*machine)
    messaging.wrap(Apdu(0x80, 0xE2, 0, 0, b"data"))
    assert messaging.unwrap(b"", sw) == b""
    with pytest.raises(ChannelBroken, match="closed"):
        messaging.wrap(Apdu(0x80, 0xE2, 0, 0, b"data"))


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_a_full_command_fits_and_a_fuller_one_changes_nothing(machine: tuple[int, int, int, int]) -> None:
    messaging, card = begun(*machine)
    with pytest.raises(ValueError, match="do not fit"):
        messaging.wrap(Apdu(0x80, 0xE2, 0, 0, bytes(messaging.max_data + 1)))
    full = bytes(messaging.max_data)
    wrapped = bytes(messaging.wrap(Apdu(0x80, 0xE2, 0, 0, full)))
    assert len(wrapped) <= 260
    assert not card.level & 1 or card.receive(wrapped)[1] == full


@pytest.mark.parametrize(("scp", "i"), [(2, 0x15), (3, 0x70), (3, 0x71)])
@settings(max_examples=25)
@given(at=st.integers(0), flip=st.integers(1, 255))
def test_a_wrong_card_cryptogram_or_challenge_makes_no_session(scp: int, i: int, at: int, flip: int) -> None:
    card = ScpCard(scp=scp, i=i)
    host = HOST * (card.size // 8)
    body = bytearray(card.transmit(bytes((0x80, 0x50, 0, 0, len(host))) + host)[0])
    start = 14 if scp == 2 else 13
    end = 28 if scp == 2 else 13 + 2 * card.size
    body[start + at % (end - start)] ^= flip
    offer = Offer.parse(bytes(body))
    with pytest.raises(ChannelRefused, match="does not prove"):
        if scp == 2:
            keys = SoftwareKeys.demo().scp02_session(
                KMC, method=Diversification.NONE, kdd=offer.kdd, counter=offer.counter or b""
            )
            Scp02(keys, level=Level(1), host_challenge=host, offer=offer)
        else:
            session = SoftwareKeys.demo().scp03_session(
                KeyRef("KMC-AES"),
                method=Diversification.NONE,
                kdd=offer.kdd,
                host_challenge=host,
                card_challenge=offer.challenge,
            )
            Scp03(session, level=Level(1), host_challenge=host, offer=offer)


@pytest.mark.parametrize("level", [0x02, 0x10, 0x11, 0x13, 0x20, 0x33])
def test_scp02_has_no_such_level(level: int) -> None:
    offer = Offer.parse(ScpCard(scp=2, i=0x15).transmit(bytes((0x80, 0x50, 0, 0, 8)) + HOST)[0])
    keys = Scp02Keys(s_enc=bytes(16), c_mac=bytes(16), dek=dek())
    with pytest.raises(ValueError, match="no level"):
        Scp02(keys, level=Level(level), host_challenge=HOST, offer=offer)


@pytest.mark.parametrize("level", [0x02, 0x10, 0x12, 0x20, 0x21, 0x23, 0x31])
def test_scp03_has_no_such_level(level: int) -> None:
    offer = Offer.parse(ScpCard(scp=3, i=0x70).transmit(bytes((0x80, 0x50, 0, 0, 8)) + HOST)[0])
    keys = Scp03Keys(s_enc=bytes(16), s_mac=bytes(16), s_rmac=bytes(16), dek=dek())
    with pytest.raises(ValueError, match="no level"):
        Scp03(keys, level=Level(level), host_challenge=HOST, offer=offer)


def test_no_session_key_shows_in_a_repr() -> None:
    for machine in ((2, 0x15, 16, 3), (3, 0x70, 16, 0x33)):
        messaging, _ = begun(*machine)
        assert repr(messaging) in ("Scp02(level=03, open=True)", "Scp03(level=33, open=True)")
        messaging.close()
        messaging.close()
        assert repr(messaging).endswith("open=False)")
