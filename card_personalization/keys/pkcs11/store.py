"""`KeyStore` on a token, and the `ceremony.Safe` that puts keys there: each method is one job in the token's session.

Must not know threads, logins or mechanisms.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Self

from card_personalization.errors import KeyRefused
from card_personalization.keys import ceremony
from card_personalization.keys.admission import admit, find, must_be
from card_personalization.keys.base import (
    Algorithm,
    CardKeys,
    Dek,
    Diversification,
    Factors,
    KeyInfo,
    KeyRef,
    Scp02Keys,
    Scp03Keys,
    Usage,
)
from card_personalization.keys.ceremony import KeyRequest, Witness
from card_personalization.keys.custody import DualControl
from card_personalization.keys.files import exclusive
from card_personalization.keys.pkcs11.objects import (
    FIRST,
    Master,
    TokenAes,
    des3_cbc,
    des3_ecb,
    generate,
    generate_digest_key,
    hmac_sha256,
    kcv_of,
    make_room,
    put,
    random_digits,
    retail_mac,
    spread,
)
from card_personalization.keys.pkcs11.session import Session, Vet, Worker
from card_personalization.keys.primitives import (
    AES_BLOCK,
    DES_BLOCK,
    PIN_DIGITS,
    TripleDes,
    check_value,
    odd_parity,
    offline_pin_block,
)


class SessionDek:
    """A session's DEK in process memory (SCP02) or in the token (SCP03). Only the store that made it puts secrets under it."""

    def __init__(self, encrypt: Callable[[bytes], bytes], *, block: int, store: Pkcs11Keys) -> None:
        self._encrypt = encrypt
        self._block = block
        self._store = store

    @property
    def block(self) -> int:
        """8 or 16 bytes."""
        return self._block

    def encrypt(self, data: bytes) -> bytes:
        """Whole blocks enciphered.

        Raises:
            ValueError: not whole blocks.
            KeyRefused: the token does not answer, or its session ended meanwhile.
        """
        if len(data) % self._block:
            raise ValueError(f"the data is not whole blocks of {self._block} bytes")
        return self._encrypt(data)

    def is_of(self, store: Pkcs11Keys) -> bool:
        """Whether `store` made it."""
        return self._store is store

    def __repr__(self) -> str:
        return "SessionDek(...)"


class Pkcs11Keys:
    """`KeyStore` on a token, and the `ceremony.Safe` that puts keys there. Its repr shows module and token."""

    def __init__(
        self,
        module: Path,
        *,
        token: str,
        pin: Callable[[], str],
        demo: bool = False,
        today: Callable[[], date] = date.today,
        vet: Vet = lambda _: None,
        writable: bool = False,
    ) -> None:
        """Log in and look at every key, now and whenever the token was away: `pin` is asked, `vet` may refuse what is there.

        `writable` is for ceremonies.

        Raises:
            KeyRefused: no such module or token, it is open already, the PIN is wrong, or a key must not be used here.
        """
        self._module = module
        self._token = token
        self._demo = demo
        self._today = today
        self._worker = Worker(module, token=token, pin=pin, demo=demo, vet=vet, writable=writable)

    @property
    def is_demo(self) -> bool:
        """Whether these are published test keys."""
        return self._demo

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is, by name and version."""
        infos = self._worker.do(lambda token: tuple(token.infos.values()))
        return tuple(sorted(infos, key=lambda info: (info.name, info.version)))

    def check(self, ref: KeyRef, *, usage: Usage) -> None:
        """Refuse a key that could not be used.

        Raises:
            KeyRefused: no such key or version, expired, of another usage, or the token does not answer.
        """
        self._worker.do(lambda token: find(token.infos, ref, usage=usage, today=self._today()))

    def mac(self, ref: KeyRef, *, factors: Factors, data: bytes) -> bytes:
        """Retail MAC under a 人社 card key, 8 bytes.

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: Session) -> bytes:
            master = self._master(token, ref, Usage.SOCIAL_SECURITY, Algorithm.TRIPLE_DES)
            with token.diversified(master, factors) as (whole, first):
                if first is None:
                    raise KeyRefused(
                        f"key {ref} has no {FIRST} beside it and takes no MAC itself（令牌中缺少该密钥的前半）"
                    )
                return retail_mac(whole, first, data)

        return self._worker.do(job)

    def external_authentication(
        self, ref: KeyRef, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """Authentication data and original information, 16 bytes.

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """
        levels = (*factors, original) if process_key else factors

        def job(token: Session) -> bytes:
            master = self._master(token, ref, Usage.SOCIAL_SECURITY, Algorithm.TRIPLE_DES)
            with token.diversified(master, levels) as (whole, _):
                return des3_ecb(whole, challenge) + original

        return self._worker.do(job)

    def scp02_session(self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes) -> Scp02Keys:
        """Session keys of SCP02 (GlobalPlatform card specification E.4.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: Session) -> tuple[bytes, ...]:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.TRIPLE_DES, method)
            made = []
            for number, constant in ((1, 0x0182), (2, 0x0101), (3, 0x0181)):
                with token.card_manager(master, method, kdd, number) as key:
                    made.append(des3_cbc(key, constant.to_bytes(2, "big") + counter + bytes(12)))
            return tuple(made)

        s_enc, c_mac, s_dek = self._worker.do(job)
        return Scp02Keys(
            s_enc=s_enc, c_mac=c_mac, dek=SessionDek(TripleDes(s_dek).encrypt, block=DES_BLOCK, store=self)
        )

    def scp03_session(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, host_challenge: bytes, card_challenge: bytes
    ) -> Scp03Keys:
        """Session keys of SCP03 (GlobalPlatform amendment D 6.2.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """
        context = host_challenge + card_challenge

        def job(token: Session) -> Scp03Keys:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.AES, method)
            with token.card_manager(master, method, kdd, 1) as key:
                enc = TokenAes(key)
                s_enc = enc.derive(0x04, bits=enc.bits, context=context)
            with token.card_manager(master, method, kdd, 2) as key:
                mac = TokenAes(key)
                s_mac = mac.derive(0x06, bits=mac.bits, context=context)
                s_rmac = mac.derive(0x07, bits=mac.bits, context=context)
            dek_key = token.card_manager_key(master, method, kdd, 3)
            dek = SessionDek(self._in_token(token, TokenAes(dek_key)), block=AES_BLOCK, store=self)
            if dek_key is not master.whole:
                weakref.finalize(dek, token.dropped.append, dek_key)
            return Scp03Keys(s_enc=s_enc, s_mac=s_mac, s_rmac=s_rmac, dek=dek)

        return self._worker.do(job)

    def scp03_challenge(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes, aid: bytes, size: int
    ) -> bytes:
        """The pseudo-random card challenge, `size` bytes (GlobalPlatform amendment D 6.2.2.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: Session) -> bytes:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.AES, method)
            with token.card_manager(master, method, kdd, 1) as key:
                return TokenAes(key).derive(0x02, bits=size * 8, context=counter + aid)

        return self._worker.do(job)

    def card_keys(self, refs: tuple[KeyRef, ...], *, factor: bytes, dek: Dek) -> CardKeys:
        """UDKs under `dek`, one after the other, and their check values (EMV book 2 A1.4.1, option A).

        Raises:
            KeyRefused: a key cannot be used for that, `dek` is not of this store, or the token does not answer.
        """
        self._own(dek)

        def job(token: Session) -> list[bytes]:
            masters = [self._master(token, ref, Usage.ISSUER, Algorithm.TRIPLE_DES) for ref in refs]
            return [odd_parity(des3_ecb(master.whole, spread(factor)[:16])) for master in masters]

        keys = self._worker.do(job)
        return CardKeys(
            ciphertext=dek.encrypt(b"".join(keys)),
            kcvs=tuple(check_value(Algorithm.TRIPLE_DES, key) for key in keys),
        )

    def pin_block(self, dek: Dek) -> bytes:
        """The block of a random PIN under `dek`; padded with 80 00.. where the block of `dek` is longer than the PIN's 8 bytes.

        Raises:
            KeyRefused: `dek` is not of this store, or the token does not answer.
        """
        self._own(dek)
        digits = self._worker.do(lambda token: random_digits(token.session, PIN_DIGITS))
        return dek.encrypt(offline_pin_block(digits, dek.block))

    def random(self, size: int) -> bytes:
        """Random bytes from the token.

        Raises:
            KeyRefused: the token does not answer.
        """
        return self._worker.do(lambda token: bytes(token.session.generate_random(size * 8)))

    def digest(self, data: bytes) -> bytes:
        """HMAC-SHA-256 in the token, 32 bytes.

        Raises:
            KeyRefused: the token has no digest key, or does not answer.
        """

        def job(token: Session) -> bytes:
            if token.digest_key is None:
                raise KeyRefused(
                    f"令牌 {self._token} 尚未初始化 token {self._token} has no digest key: run `zhika keys init`"
                )
            return hmac_sha256(token.digest_key, data)

        return self._worker.do(job)

    def begin(self) -> None:
        """Make the digest key in a token that has nothing of ours.

        Raises:
            KeyRefused: it has one already, or does not answer.
        """

        def job(token: Session) -> None:
            if token.digest_key is not None:
                raise KeyRefused(f"令牌 {self._token} 已初始化 token {self._token} was begun already")
            token.digest_key = generate_digest_key(token.session)

        self._worker.do(job)

    def generate(self, request: KeyRequest, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Make a random key inside the token; it was never outside.

        Raises:
            KeyRefused: that version is there, only published test keys may be here, or the token does not answer.
        """
        del control

        def agree(kcv: bytes) -> None:
            admit(request.info(kcv), demo=self._demo)
            witness(request.info(kcv))

        return self._keep(request, lambda session: generate(session, request, agree=agree))

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl, witness: Witness) -> KeyInfo:
        """Put a key into the token.

        Raises:
            KeyRefused: that version is there, it is weak, published outside a demonstration, or the token does not answer.
        """
        del control
        info = ceremony.admitted(request, value, demo=self._demo)

        def make(session: Any) -> tuple[Any, Any | None]:
            witness(info)
            return put(session, request, value)

        return self._keep(request, make)

    def close(self) -> None:
        """Log out and let the module go."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pkcs11Keys({str(self._module)!r}, token={self._token!r}, demo={self._demo})"

    def _master(
        self,
        token: Session,
        ref: KeyRef,
        usage: Usage,
        algorithm: Algorithm,
        method: Diversification = Diversification.NONE,
    ) -> Master:
        must_be(find(token.infos, ref, usage=usage, today=self._today()), algorithm, method=method)
        return token.masters[ref]

    def _own(self, dek: Dek) -> None:
        if not isinstance(dek, SessionDek) or not dek.is_of(self):
            raise KeyRefused("the DEK is not of this key store（会话密钥不属于本密钥库）")

    def _in_token(self, token: Session, key: TokenAes) -> Callable[[bytes], bytes]:
        def job(now: Session, data: bytes) -> bytes:
            if now is not token:
                raise KeyRefused(
                    f"令牌 {self._token} 已重新连接 token {self._token} was away: open a new session with the card"
                )
            return key.encrypt_cbc(data)

        return lambda data: self._worker.do(lambda now: job(now, data))

    def _keep(self, request: KeyRequest, make: Callable[[Any], tuple[Any, Any | None]]) -> KeyInfo:
        def job(token: Session) -> KeyInfo:
            with exclusive(self._module):
                make_room(token.session, request)
                whole, first = make(token.session)
            info = request.info(kcv_of(whole, request.kind.algorithm))
            token.infos[request.ref] = info
            token.masters[request.ref] = Master(info=info, whole=whole, first=first)
            return info

        return self._worker.do(job)
