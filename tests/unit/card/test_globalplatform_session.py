"""Opening a secure channel: what the rules let a card offer, and what ends a channel."""

from collections.abc import Callable
from typing import Any

import pytest
from scp_cards import KMC as STATIC
from scp_cards import Plain, ScpCard

from card_personalization.apdu import Apdu, Channel
from card_personalization.errors import (
    ApduError,
    AuthenticationFailed,
    CardLost,
    ChannelBroken,
    ChannelRefused,
    KeyRefused,
)
from card_personalization.globalplatform.rules import ChallengeCheck, ChannelRules, Level, Protocol
from card_personalization.globalplatform.session import ChannelWarning, SecuredChannel, open_channel
from card_personalization.keys.base import Diversification, KeyRef
from card_personalization.keys.primitives import Aes
from card_personalization.keys.software import SoftwareKeys

AID = bytes.fromhex("A000000151000000")
STORE = Apdu(0x80, 0xE2, 0x00, 0x00, b"a data grouping")
READ = Apdu(0x80, 0xCA, 0x00, 0x66, le=256)


def rules(scp: int, **changes: Any) -> ChannelRules:
    values: dict[str, Any] = {
        "protocol": Protocol.SCP02 if scp == 2 else Protocol.SCP03,
        "options": frozenset({0x15} if scp == 2 else {0x70}),
        "key_versions": frozenset({0x20}),
        "level": Level(0x03 if scp == 2 else 0x33),
        "key": KeyRef("KMC" if scp == 2 else "KMC-AES"),
        "method": Diversification.NONE,
    }
    return ChannelRules(**values | changes)


def opened(card: ScpCard, **changes: Any) -> SecuredChannel:
    return open_channel(Channel(card), rules(card.scp, **changes), SoftwareKeys.demo(), aid=AID)


def refusing(sw: int) -> Callable[[Plain], tuple[bytes, int]]:
    return lambda plain: (b"", sw)


CARDS = [(2, 0x15), (2, 0x55), (3, 0x60), (3, 0x61), (3, 0x70), (3, 0x71)]


@pytest.mark.parametrize(("scp", "i"), CARDS)
def test_a_card_within_the_rules_gets_its_channel(scp: int, i: int) -> None:
    card = ScpCard(scp=scp, i=i, counter=0x1234)
    channel = opened(card, options=frozenset({i}), challenge=ChallengeCheck.WARN)
    assert (channel.option, channel.key_version, channel.kdd) == (i, 0x20, bytes(range(10)))
    assert channel.counter == (None if scp == 3 and not i & 0x10 else 0x1234)
    assert channel.warnings == ()
    assert channel.send(STORE) == STORE.data
    assert channel.send(READ) == b""
    assert channel.send(STORE) == STORE.data
    assert STORE.data not in b"".join(card.asked)


def test_each_session_has_a_fresh_challenge() -> None:
    card = ScpCard(scp=3, i=0x70)
    opened(card)
    card.authenticated = False
    opened(card)
    first, second = (asked[5:13] for asked in card.asked if asked[1] == 0x50)
    assert first != second


@pytest.mark.parametrize(
    ("scp", "i", "changes", "reason"),
    [
        (3, 0x70, {"protocol": Protocol.SCP02, "options": frozenset({0x15}), "level": Level(3)}, "asks for scp02"),
        (2, 0x15, {"protocol": Protocol.SCP03, "options": frozenset({0x70}), "level": Level(3)}, "asks for scp03"),
        (3, 0x10, {}, "i = 10"),
        (3, 0x60, {"options": frozenset({0x70})}, "i = 60"),
        (3, 0x70, {"key_versions": frozenset({0x30, 0x31})}, "key version 20"),
        (2, 0x15, {"key_versions": frozenset({0x01})}, "key version 20"),
    ],
)
def test_an_offer_beyond_the_rules_is_refused_before_anything_is_sent(
    scp: int, i: int, changes: dict[str, Any], reason: str
) -> None:
    card = ScpCard(scp=scp, i=i)
    with pytest.raises(ChannelRefused, match=reason):
        opened(card, **changes)
    assert [asked[1] for asked in card.asked] == [0x50]


@pytest.mark.parametrize(("scp", "i"), CARDS)
@pytest.mark.parametrize(
    "change", [lambda body: body[:-1], lambda body: body + b"\x00", lambda body: b"", lambda body: body[:12]]
)
def test_an_answer_of_another_length_is_refused(scp: int, i: int, change: Callable[[bytes], bytes]) -> None:
    card = ScpCard(scp=scp, i=i, offer=change)
    with pytest.raises(ChannelRefused):
        opened(card, options=frozenset({i}))
    assert [asked[1] for asked in card.asked] == [0x50]


@pytest.mark.parametrize(("scp", "i"), CARDS)
def test_a_card_with_other_keys_is_not_authenticated_to(scp: int, i: int) -> None:
    card = ScpCard(scp=scp, i=i, static=STATIC[::-1])
    with pytest.raises(ChannelRefused, match="does not prove"):
        opened(card, options=frozenset({i}))
    assert [asked[1] for asked in card.asked] == [0x50]


@pytest.mark.parametrize(("scp", "i"), [(2, 0x55), (3, 0x70), (3, 0x71)])
def test_a_challenge_that_does_not_follow_from_the_counter(scp: int, i: int) -> None:
    def card() -> ScpCard:
        return ScpCard(scp=scp, i=i, aid=b"another")

    allowed = frozenset({i})
    warned = opened(card(), options=allowed, challenge=ChallengeCheck.WARN)
    assert warned.warnings == (ChannelWarning.CHALLENGE_NOT_REPRODUCED,)
    assert opened(card(), options=allowed, challenge=ChallengeCheck.OFF).warnings == ()
    strict = card()
    with pytest.raises(ChannelRefused, match="does not follow"):
        opened(strict, options=allowed, challenge=ChallengeCheck.REQUIRE)
    assert [asked[1] for asked in strict.asked] == [0x50]


@pytest.mark.parametrize("scp", [2, 3])
def test_a_refused_authentication_is_told_and_not_repeated(scp: int) -> None:
    card = ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70, verdict=0x6300)
    with pytest.raises(AuthenticationFailed) as caught:
        opened(card)
    assert caught.value.sw == 0x6300
    assert [asked[1] for asked in card.asked] == [0x50, 0x82]


def test_a_refused_initialize_update_is_an_answer_of_the_card() -> None:
    class Refusing:
        def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
            return b"", 0x6A88

    with pytest.raises(ApduError) as caught:
        open_channel(Channel(Refusing()), rules(2), SoftwareKeys.demo(), aid=AID)
    assert caught.value.sw == 0x6A88
    assert not isinstance(caught.value, AuthenticationFailed)


def test_a_key_that_is_not_there_costs_the_card_nothing() -> None:
    card = ScpCard(scp=2, i=0x15)
    with pytest.raises(KeyRefused):
        opened(card, key=KeyRef("KMC", 9))
    assert [asked[1] for asked in card.asked] == [0x50]


@pytest.mark.parametrize("scp", [2, 3])
@pytest.mark.parametrize("sw", [0x6982, 0x6987, 0x6988])
def test_a_security_status_word_ends_the_channel(scp: int, sw: int) -> None:
    card = ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70, handler=refusing(sw))
    channel = opened(card)
    with pytest.raises(ApduError) as caught:
        channel.send(STORE)
    assert caught.value.sw == sw
    sent = len(card.asked)
    with pytest.raises(ChannelBroken):
        channel.send(STORE)
    assert len(card.asked) == sent


def test_another_error_leaves_the_channel_open() -> None:
    card = ScpCard(scp=3, i=0x70, handler=refusing(0x6A88))
    channel = opened(card)
    assert channel.exchange(STORE) == (b"", 0x6A88)
    card.handler = lambda plain: (b"fine", 0x9000)
    assert channel.send(STORE) == b"fine"


@pytest.mark.parametrize("scp", [2, 3])
def test_a_lost_card_ends_the_channel(scp: int) -> None:
    def pulled(plain: Plain) -> tuple[bytes, int]:
        raise CardLost("pulled")

    card = ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70, handler=pulled)
    channel = opened(card)
    with pytest.raises(CardLost):
        channel.send(STORE)
    with pytest.raises(ChannelBroken, match="closed"):
        channel.exchange(STORE)


def test_a_forged_answer_ends_the_channel() -> None:
    card = ScpCard(scp=3, i=0x70, line=lambda body, sw: (body[:-1] + bytes((body[-1] ^ 1,)), sw))
    channel = opened(card)
    with pytest.raises(ChannelBroken, match="MAC"):
        channel.send(STORE)
    with pytest.raises(ChannelBroken, match="closed"):
        channel.send(STORE)


@pytest.mark.parametrize("scp", [2, 3])
def test_a_closed_channel_sends_nothing(scp: int) -> None:
    card = ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70)
    channel = opened(card)
    channel.close()
    with pytest.raises(ChannelBroken):
        channel.send(STORE)
    assert [asked[1] for asked in card.asked] == [0x50, 0x82]


@pytest.mark.parametrize("scp", [2, 3])
def test_a_command_beyond_the_channels_room_is_not_sent(scp: int) -> None:
    card = ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70)
    channel = opened(card)
    with pytest.raises(ValueError, match="do not fit"):
        channel.send(Apdu(0x80, 0xE2, 0, 0, bytes(channel.max_data + 1)))
    assert channel.send(Apdu(0x80, 0xE2, 0, 0, bytes(channel.max_data))) == bytes(channel.max_data)


@pytest.mark.parametrize(("scp", "level"), [(2, 0x00), (2, 0x01), (3, 0x00), (3, 0x01), (3, 0x13)])
def test_every_level_a_protocol_has_can_be_used(scp: int, level: int) -> None:
    channel = opened(ScpCard(scp=scp, i=0x15 if scp == 2 else 0x70), level=Level(level))
    assert channel.send(STORE) == STORE.data
    assert channel.send(READ) == b""


def test_a_repetition_for_le_is_the_same_wrapped_command() -> None:
    """6Cxx and 61xx belong to the line: the card executes once, and the channel goes on in step."""
    card = ScpCard(scp=3, i=0x70)
    channel = opened(card)
    transmit, held = card.transmit, [b""]

    def t0(apdu: bytes, /) -> tuple[bytes, int]:
        if apdu[1] == 0xC0:
            card.asked.append(apdu)
            return held[0], 0x9000
        if apdu[-1] == 0 and len(apdu) > 5 + apdu[4]:
            card.asked.append(apdu)
            return b"", 0x6C20
        held[0], sw = transmit(apdu)
        return b"", 0x6100 | len(held[0]) if sw == 0x9000 else sw

    card.transmit = t0  # type: ignore[method-assign]
    for _ in range(3):
        card.asked.clear()
        assert channel.send(Apdu(0x80, 0xCA, 0, 0x66, b"criteria", le=256)) == b"criteria"
        refused, repeated, fetched = card.asked
        assert repeated[:-1] == refused[:-1]
        assert repeated[-1] == 0x20
        assert fetched.hex().startswith("00c00000")


def test_the_data_encryption_key_is_the_cards() -> None:
    channel = opened(ScpCard(scp=3, i=0x70))
    assert channel.dek.encrypt(bytes(16)) == Aes(STATIC).encrypt(bytes(16))


def test_key_diversification_data_from_elsewhere_takes_the_place_of_the_answers() -> None:
    card = ScpCard(scp=2, i=0x15)
    diversified = rules(2, method=Diversification.EMV)
    with pytest.raises(ChannelRefused, match="does not prove"):
        open_channel(Channel(card), diversified, SoftwareKeys.demo(), aid=AID, kdd=b"0123456789")


@pytest.mark.parametrize(
    ("scp", "changes", "reason"),
    [
        (2, {"level": Level(0x13)}, "SCP02 has no level 13"),
        (2, {"options": frozenset({0x15, 0x55})}, "one of them"),
        (2, {"options": frozenset({0x1A})}, "i = 15"),
        (3, {"level": Level(0x31)}, "SCP03 has no level 31"),
        (3, {"options": frozenset({0x70, 0x71})}, "S8 and S16"),
        (3, {"options": frozenset({0x82})}, "no such i"),
        (3, {"options": frozenset({0x70, 0x10})}, "does not offer level 33"),
        (3, {"options": frozenset({0x20}), "level": Level(0x33)}, "does not offer level 33"),
        (3, {"options": frozenset({0x00}), "level": Level(0x11)}, "does not offer level 11"),
        (2, {"options": frozenset()}, "no option"),
        (2, {"key_versions": frozenset()}, "no key version"),
        (2, {"challenge": ChallengeCheck.REQUIRE}, "makes it random"),
        (3, {"options": frozenset({0x60}), "challenge": ChallengeCheck.REQUIRE}, "makes it random"),
    ],
)
def test_rules_that_contradict_themselves_are_refused_when_made(scp: int, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rules(scp, **changes)


@pytest.mark.parametrize(
    ("scp", "options", "level", "room"),
    [
        (2, {0x15}, 0x01, 247),
        (2, {0x15}, 0x03, 239),
        (3, {0x70}, 0x11, 247),
        (3, {0x71}, 0x11, 239),
        (3, {0x71}, 0x33, 223),
    ],
)
def test_the_room_in_a_command_is_known_from_the_rules(scp: int, options: set[int], level: int, room: int) -> None:
    made = rules(scp, options=frozenset(options), level=Level(level))
    assert made.max_data == room
    assert made.dek_block == (8 if scp == 2 else 16)
