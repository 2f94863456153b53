"""Carries out the steps of a plan on one card, telling the journal before each step that changes it.

Binds what the plan left open: the 识别码 by the chip's serial and the key store, authentication by the card's
challenge. Must not decide what a failure means for the blank: it raises, and the journal knows how far it came.
"""

from collections.abc import Callable

from card_personalization.apdu import SW_BLOCKED, SW_OK, Apdu, Channel, Ins, tries_left
from card_personalization.atr import Atr
from card_personalization.encoding import identifier_body
from card_personalization.errors import ApduError, AuthenticationFailed
from card_personalization.journal import Recorder
from card_personalization.keys.base import Factors, KeyStore
from card_personalization.plan import Authenticate, Plan, Send, WriteIdentifier, update_record
from card_personalization.profiles import Authentication, CardKey, Diversify

_CHALLENGE = 8
_MAC = 4
_REFUSALS = frozenset({0x6300, SW_BLOCKED, 0x6982, 0x6984})


def personalize(
    plan: Plan, *, channel: Channel, atr: Atr, keys: KeyStore, random: Callable[[int], bytes], recorder: Recorder
) -> None:
    """Send every step; returns when the card has acknowledged the last one.

    Raises:
        ApduError: the card refused a step.
        AuthenticationFailed: it refused the update key.
        CardLost: no answer.
        KeyRefused: the store lacks a key.
        JournalConflict: another attempt on this blank has begun.
    """
    for step in plan.steps:
        if isinstance(step, Authenticate):
            _authenticate(step, channel=channel, atr=atr, keys=keys, random=random, recorder=recorder)
        elif step.mutating:
            _mutate(step, _bound(step, atr=atr, keys=keys), channel=channel, recorder=recorder)
        else:
            channel.send(_bound(step, atr=atr, keys=keys))
    recorder.personalised()


def identifier(*, city: str, atr: Atr, keys: KeyStore, key: CardKey) -> bytes:
    """The 16 bytes of the 卡的识别码 of this chip: 12 bytes and the left half of their retail MAC (LD/T 32).

    Raises:
        EncodingError: the city is no city code.
        KeyRefused: the store lacks the key.
    """
    body = identifier_body(city=city, serial=atr.serial)
    return body + keys.mac(key.name, factors=factors(key, atr), data=body)[:_MAC]


def factors(key: CardKey, atr: Atr) -> Factors:
    """The inputs that lead from a master to this card's key, as the profile says."""
    return (atr.factor,) if key.diversify is Diversify.ATR else ()


def _bound(step: Send | WriteIdentifier, *, atr: Atr, keys: KeyStore) -> Apdu:
    if isinstance(step, Send):
        return step.apdu
    return update_record(step.record, identifier(city=step.city, atr=atr, keys=keys, key=step.key))


def _mutate(step: Send | WriteIdentifier, apdu: Apdu, *, channel: Channel, recorder: Recorder) -> None:
    recorder.sending(step.id)
    body, sw = channel.exchange(apdu)
    recorder.answered(step.id, sw)
    if sw != SW_OK:
        raise ApduError(body, sw)


def _authenticate(
    step: Authenticate,
    *,
    channel: Channel,
    atr: Atr,
    keys: KeyStore,
    random: Callable[[int], bytes],
    recorder: Recorder,
) -> None:
    challenge = channel.send(Apdu(0x00, Ins.GET_CHALLENGE, 0, 0, le=_CHALLENGE))
    proof = keys.external_authentication(
        step.key.name,
        factors=factors(step.key, atr),
        challenge=challenge,
        original=random(_CHALLENGE),
        process_key=step.key.authentication is Authentication.PROCESS_KEY,
    )
    body, sw = channel.exchange(Apdu(0x00, Ins.EXTERNAL_AUTHENTICATE, 0, step.key.id, proof))
    if sw == SW_OK:
        return
    if tries_left(sw) is None and sw not in _REFUSALS:
        raise ApduError(body, sw)
    recorder.refused(step.id, sw)
    raise AuthenticationFailed(body, sw)
