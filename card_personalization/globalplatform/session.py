"""Opens a secure channel to the selected application as the profile's rules say, and sends commands in it.

The only place where rules, keys and a card's answer meet. Must not know what the commands in the channel are for.
"""

from __future__ import annotations

from enum import StrEnum

from card_personalization.apdu import SW_OK, Apdu, Channel, Commands
from card_personalization.errors import AuthenticationFailed, ChannelRefused, KeyCheckFailed
from card_personalization.globalplatform.commands import initialize_update
from card_personalization.globalplatform.messaging import SecureMessaging
from card_personalization.globalplatform.offer import Offer
from card_personalization.globalplatform.rules import ChallengeCheck, ChannelRules, Protocol
from card_personalization.globalplatform.scp02 import Scp02, predicted_challenge
from card_personalization.globalplatform.scp03 import Scp03
from card_personalization.keys.base import Dek, KeyStore
from card_personalization.keys.primitives import same


class ChannelWarning(StrEnum):
    """What was seen while opening a channel that the rules let pass; to be recorded by the caller."""

    CHALLENGE_NOT_REPRODUCED = "challenge-not-reproduced"


class SecuredChannel(Commands):
    """Commands in one session. Any failure ends it: it can only raise afterwards, and after a reset it has to be closed.

    `counter` is the card's sequence counter, None where it tells none: between two sessions of one card it must rise. `dek`
    enciphers secrets for this card. `option` is i.
    """

    __slots__ = ("_channel", "_messaging", "counter", "dek", "kdd", "key_version", "max_data", "option", "warnings")

    def __init__(
        self,
        channel: Commands,
        messaging: SecureMessaging,
        *,
        dek: Dek,
        offer: Offer,
        option: int,
        warnings: tuple[ChannelWarning, ...],
    ) -> None:
        self._channel = channel
        self._messaging = messaging
        self.dek = dek
        self.kdd = offer.kdd
        self.key_version = offer.key_version
        self.option = option
        self.counter = None if offer.counter is None else int.from_bytes(offer.counter, "big")
        self.max_data = messaging.max_data
        self.warnings = warnings

    def exchange(self, apdu: Apdu) -> tuple[bytes, int]:
        """The plain answer as it is.

        Raises:
            ChannelBroken: an answer the card alone cannot have made, or the session is over.
            CardLost: no answer; the session is over.
            ValueError: more than `max_data` bytes of data.
        """
        wrapped = self._messaging.wrap(apdu)
        try:
            body, sw = self._channel.exchange(wrapped)
        except BaseException:
            self.close()
            raise
        return self._messaging.unwrap(body, sw), sw

    def close(self) -> None:
        """Drop the session's keys. May be called twice."""
        self._messaging.close()


def open_channel(
    channel: Channel,
    rules: ChannelRules,
    keys: KeyStore,
    *,
    aid: bytes,
    kdd: bytes | None = None,
    key_version: int = 0,
) -> SecuredChannel:
    """Authenticate with the application `aid`, which the caller has selected.

    `kdd` takes the place of the key diversification data in the card's answer, for cards that leave it empty there (GET DATA
    00CF has it then). `key_version` 0 lets the card choose its keys; what it chose is checked either way.

    Raises:
        ChannelRefused: protocol, i, key version or challenge are not what the rules allow, or the card's cryptogram is wrong.
            Only INITIALIZE UPDATE was sent.
        AuthenticationFailed: the card refused EXTERNAL AUTHENTICATE; that cost a try and is not to be repeated.
        ApduError: the card refused INITIALIZE UPDATE.
        KeyRefused: the store lacks the key.
        CardLost: no answer.
    """
    host_challenge = keys.random(16 if rules.s16 else 8)
    offer = Offer.parse(channel.send(initialize_update(host_challenge, key_version=key_version)))
    option = _allowed(offer, rules)
    card = offer.kdd if kdd is None else kdd
    begin = _begin_scp02 if rules.protocol is Protocol.SCP02 else _begin_scp03
    messaging, dek, predicted = begin(rules, keys, kdd=card, aid=aid, host_challenge=host_challenge, offer=offer)
    warnings = _judged(predicted, offer, rules)
    body, sw = channel.exchange(messaging.authentication)
    if sw != SW_OK:
        messaging.close()
        raise AuthenticationFailed(body, sw)
    return SecuredChannel(channel, messaging, dek=dek, offer=offer, option=option, warnings=warnings)


def _allowed(offer: Offer, rules: ChannelRules) -> int:
    if offer.protocol is not rules.protocol:
        raise ChannelRefused(
            f"the card offers {offer.protocol}, the profile asks for {rules.protocol}（安全通道协议不符）"
        )
    option = next(iter(rules.options)) if offer.option is None else offer.option
    if option not in rules.options:
        raise ChannelRefused(f"the card offers i = {option:02X}, which the profile does not allow（安全通道选项不符）")
    if offer.key_version not in rules.key_versions:
        raise KeyCheckFailed(
            f"the card offers key version {offer.key_version:02X}, which the profile does not allow（密钥版本不符）"
        )
    return option


def _begin_scp02(
    rules: ChannelRules, keys: KeyStore, *, kdd: bytes, aid: bytes, host_challenge: bytes, offer: Offer
) -> tuple[SecureMessaging, Dek, bytes | None]:
    session = keys.scp02_session(rules.key, method=rules.method, kdd=kdd, counter=offer.counter or b"")
    messaging = Scp02(session, level=rules.level, host_challenge=host_challenge, offer=offer)
    predicted = predicted_challenge(session, aid) if all(map(rules.predictable, rules.options)) else None
    return messaging, session.dek, predicted


def _begin_scp03(
    rules: ChannelRules, keys: KeyStore, *, kdd: bytes, aid: bytes, host_challenge: bytes, offer: Offer
) -> tuple[SecureMessaging, Dek, bytes | None]:
    session = keys.scp03_session(
        rules.key, method=rules.method, kdd=kdd, host_challenge=host_challenge, card_challenge=offer.challenge
    )
    messaging = Scp03(session, level=rules.level, host_challenge=host_challenge, offer=offer)
    if offer.counter is None or rules.challenge is ChallengeCheck.OFF:
        return messaging, session.dek, None
    predicted = keys.scp03_challenge(
        rules.key, method=rules.method, kdd=kdd, counter=offer.counter, aid=aid, size=len(offer.challenge)
    )
    return messaging, session.dek, predicted


def _judged(predicted: bytes | None, offer: Offer, rules: ChannelRules) -> tuple[ChannelWarning, ...]:
    if predicted is None or rules.challenge is ChallengeCheck.OFF or same(predicted, offer.challenge):
        return ()
    if rules.challenge is ChallengeCheck.REQUIRE:
        raise ChannelRefused("the card's challenge does not follow from its counter（卡片随机数与计数器不符）")
    return (ChannelWarning.CHALLENGE_NOT_REPRODUCED,)
