"""Carries out the parts of a plan on one card, telling the journal before each step that changes it.

Binds what the plan left open: the 识别码 by the chip's serial and the key store, authentication by the card's challenge, card keys
by the session. Must not decide what a failure means for the blank: it raises, and the journal knows how far it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest

from card_personalization.apdu import SW_OK, Apdu, Channel, Ins
from card_personalization.atr import Atr
from card_personalization.emv import CardKeysRecipe, CheckValuesRecipe, Filled
from card_personalization.encoding import identifier_body
from card_personalization.errors import ApduError, AuthenticationFailed, KeyCheckFailed, UnknownCard
from card_personalization.globalplatform.commands import Dgi, Encryption, Structure, store_dgis
from card_personalization.globalplatform.session import SecuredChannel, open_channel
from card_personalization.journal import Recorder
from card_personalization.keys.base import CardKeys, Dek, Factors, KeyStore
from card_personalization.plan import (
    BY_NAME,
    Authenticate,
    OpenChannel,
    Part,
    ProveKey,
    Send,
    Step,
    StoreData,
    WriteIdentifier,
    update_record,
)
from card_personalization.profiles import Authentication, CardKey, Diversify

_CHALLENGE = 8
_MAC = 4


def personalize(parts: Sequence[Part], *, channel: Channel, atr: Atr, keys: KeyStore, recorder: Recorder) -> None:
    """Send every step; returns when the card has acknowledged the last one.

    Raises:
        ApduError: the card refused a step.
        AuthenticationFailed: it refused a key of ours.
        ChannelRefused: its side of a secure channel is not what the profile demands.
        KeyCheckFailed: it has other keys than ours.
        ChannelBroken: an answer in the channel was not the card's own.
        CounterAlarm: its sequence counter has not risen since the last channel.
        UnknownCard: its challenge is none; CardSwapped: another chip answers in the secure channel.
        CardLost: no answer.
        KeyRefused: the store lacks a key.
        JournalConflict: another attempt on this blank has begun.
    """
    steps = [step for part in parts for step in part.steps]
    work = _Work(channel, atr, keys, recorder)
    for at, step in enumerate(steps):
        work.do(step, following=next((_first(later) for later in steps[at + 1 :] if later.mutating), None))
    recorder.personalised()


def _first(step: Step) -> str:
    """The journal's name for the first command of a mutating step."""
    return f"{step.id} 0" if isinstance(step, StoreData) else step.id


def identifier(*, city: str, atr: Atr, keys: KeyStore, key: CardKey) -> bytes:
    """The 16 bytes of the 卡的识别码 of this chip: 12 bytes and the left half of their retail MAC (LD/T 32).

    Raises:
        EncodingError: the city is no city code.
        KeyRefused: the store lacks the key.
    """
    body = identifier_body(city=city, serial=atr.serial)
    return body + keys.mac(key.ref, factors=factors(key, atr), data=body)[:_MAC]


def factors(key: CardKey, atr: Atr) -> Factors:
    """The inputs that lead from a master to this card's key, as the profile says."""
    return (atr.factor,) if key.diversify is Diversify.ATR else ()


@dataclass(slots=True)
class _Work:
    """One card under way. `secured` is the open secure channel; a SELECT by name ends it."""

    channel: Channel
    atr: Atr
    keys: KeyStore
    recorder: Recorder
    secured: SecuredChannel | None = None

    def do(self, step: Step, *, following: str | None) -> None:
        """`following` is the next mutating command, None when there is none."""
        match step:
            case Send():
                if step.apdu.ins == Ins.SELECT and step.apdu.p1 == BY_NAME:
                    self.secured = None
                self._send(step, following)
            case WriteIdentifier():
                value = identifier(city=step.city, atr=self.atr, keys=self.keys, key=step.key)
                self._mutate(step.id, update_record(step.record, value), following)
            case StoreData():
                self._store(step, following)
            case Authenticate():
                self._authenticate(step)
            case ProveKey():
                self._prove(step)
            case OpenChannel():
                self._open(step)

    def _send(self, step: Send, following: str | None) -> None:
        if step.mutating:
            self._mutate(step.id, step.apdu, following)
        else:
            (self.secured or self.channel).send(step.apdu)

    def _mutate(self, name: str, apdu: Apdu, following: str | None) -> None:
        self.recorder.sending(name, last=following is None)
        if following is not None:
            self.recorder.coming(following)
        body, sw = (self.secured or self.channel).exchange(apdu)
        self.recorder.answered(name, sw)
        if sw != SW_OK:
            raise ApduError(body, sw)

    def _store(self, step: StoreData, following: str | None) -> None:
        if self.secured is None:
            raise ValueError("STORE DATA needs an open secure channel")
        dgis = _bound(step.groups, self.keys, self.secured.dek)
        structure = Structure.DGI if step.dgi_format else Structure.UNNAMED
        commands = store_dgis(dgis, max_data=self.secured.max_data, structure=structure)
        names = [f"{step.id} {apdu.p2}" for apdu in commands]
        for name, apdu, later in zip(names, commands, [*names[1:], following], strict=True):
            self._mutate(name, apdu, later)

    def _open(self, step: OpenChannel) -> None:
        try:
            self.secured = open_channel(self.channel, step.rules, self.keys, aid=step.aid)
        except AuthenticationFailed as error:
            self.recorder.refused(step.id, error.sw)
            raise
        self.recorder.opened_channel(
            step.aid, self.secured.counter, kdd=self.secured.kdd, warnings=tuple(self.secured.warnings)
        )

    def _prove(self, step: ProveKey) -> None:
        challenge, original = self.keys.random(_CHALLENGE), self.keys.random(_CHALLENGE)
        expected = self._proof(step.key, challenge, original)
        found = self.channel.send(
            Apdu(0x00, Ins.INTERNAL_AUTHENTICATE, 0, step.key.id, challenge + original, le=_CHALLENGE)
        )
        if not compare_digest(found, expected[:_CHALLENGE]):
            raise KeyCheckFailed(f"the chip has another {step.key.ref} than ours（芯片密钥 {step.key.ref.name} 不符）")

    def _proof(self, key: CardKey, challenge: bytes, original: bytes) -> bytes:
        return self.keys.external_authentication(
            key.ref,
            factors=factors(key, self.atr),
            challenge=challenge,
            original=original,
            process_key=key.authentication is Authentication.PROCESS_KEY,
        )

    def _authenticate(self, step: Authenticate) -> None:
        challenge = self.channel.send(Apdu(0x00, Ins.GET_CHALLENGE, 0, 0, le=_CHALLENGE))
        if len(challenge) != _CHALLENGE:
            raise UnknownCard(f"the card's challenge is not of {_CHALLENGE} bytes（卡片随机数长度不符）")
        proof = self._proof(step.key, challenge, self.keys.random(_CHALLENGE))
        body, sw = self.channel.exchange(Apdu(0x00, Ins.EXTERNAL_AUTHENTICATE, 0, step.key.id, proof))
        if sw != SW_OK:
            self.recorder.refused(step.id, sw)
            raise AuthenticationFailed(body, sw)


def _bound(groups: Sequence[Filled], keys: KeyStore, dek: Dek) -> list[Dgi]:
    """The groups with their recipes carried out; card keys and their check values come from one derivation."""
    made: dict[CardKeysRecipe, CardKeys] = {}

    def card_keys(recipe: CardKeysRecipe) -> CardKeys:
        if recipe not in made:
            made[recipe] = keys.card_keys(recipe.refs, factor=recipe.factor, dek=dek)
        return made[recipe]

    def value(filled: Filled) -> bytes:
        match filled.value:
            case bytes():
                return filled.value
            case CardKeysRecipe():
                return card_keys(filled.value).ciphertext
            case CheckValuesRecipe():
                return b"".join(card_keys(filled.value.keys).kcvs)
            case _:
                return keys.pin_block(dek)

    return [
        Dgi(tag=f.group.id, value=value(f), encryption=Encryption.ALL if f.group.encrypted else Encryption.NONE)
        for f in groups
    ]
