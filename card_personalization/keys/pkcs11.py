"""A key store on a PKCS#11 token: masters lie in the token, sensitive and not extractable, and are used there.

One thread owns the one session; callers wait for it. python-pkcs11 initialises a module without locking and a login counts for
the whole process, so a module is open once per process, and not across a fork.

A master is a secret key labelled `zhika/NAME/VERSION`; its CKA_ID is the text `USAGE/LAST-DAY/OWNER` (`-` for no last day), and
neither can be modified. 3DES masters are stored as K1‖K2‖K1. Keys that appear while a store is open are seen when it is next
opened.

Inside the token: 密钥分散, `emv` and `visa2` (C_DeriveKey with DES3_ECB_ENCRYPT_DATA; the token may adjust the parity of what it
derives, which 3DES ignores), `kdf3` (the CMAC of the method's one-block message is an AES block of that message and the CMAC
subkey, hence AES_ECB_ENCRYPT_DATA), every MAC and the session keys. Composed outside, because tokens lack the mechanism:

- Retail MAC chains by DES3_CBC under a key K1‖K1‖K1, which is derived with the card key; for a 人社 master used without any
  factor it lies beside the master as `zhika/NAME/VERSION/first`. The last block is DES3_ECB under the whole key.
- UDKs are in process memory during `card_keys`: tokens do not wrap by DES3_ECB or AES_CBC.
- The SCP02 session keys, S-DEK too, are in process memory for the session. The static DEK of SCP03 stays in the token.

Must not know where masters come from or what cards they open.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT

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
from card_personalization.keys.ceremony import KeyRequest, Kind
from card_personalization.keys.custody import DualControl
from card_personalization.keys.primitives import (
    AES_BLOCK,
    DES_BLOCK,
    KCV_BYTES,
    Aes,
    TripleDes,
    check_value,
    odd_parity,
    pad80,
)

T = TypeVar("T")
_PREFIX = "zhika/"
_FIRST = "/first"
_DIGEST_KEY = "zhika-digest-key"
_DIGEST_KEY_BITS = 256
_USE = MechanismFlag.ENCRYPT | MechanismFlag.SIGN | MechanismFlag.DERIVE
_CLOSED = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
_CMAC_R128 = 0x87
"""NIST SP 800-38B 5.3."""
_PIN_DIGITS = 6
"""As on every Chinese bank card; EMV book 3 6.5.12 allows 4 to 12."""
_FINAL = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, pkcs11.PinExpired)
"""After these the PIN is not tried again: each try may be the last."""
_KEY_TYPES = {KeyType.DES3: Algorithm.TRIPLE_DES, KeyType.AES: Algorithm.AES}
_modules_in_use: set[Path] = set()
_modules_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Master:
    info: KeyInfo
    whole: Any
    first: Any | None
    """K1‖K1‖K1 of a 人社 master."""


class _TokenAes(Aes):
    """AES whose key lies in the token."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key
        self.bits = key.key_length

    def encrypt(self, data: bytes) -> bytes:
        return bytes(self.key.encrypt(data, mechanism=Mechanism.AES_ECB))

    def encrypt_cbc(self, data: bytes, iv: bytes = bytes(AES_BLOCK)) -> bytes:
        return bytes(self.key.encrypt(data, mechanism=Mechanism.AES_CBC, mechanism_param=iv))

    def mac(self, data: bytes) -> bytes:
        return bytes(self.key.sign(data, mechanism=Mechanism.AES_CMAC))


class _SessionDek:
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


class _Session:
    """The open session and what was found in the token. For the worker thread alone."""

    def __init__(self, library: Any, session: Any) -> None:
        self._library = library
        self.session = session
        self.masters = _masters(session)
        self.infos = {ref: master.info for ref, master in self.masters.items()}
        self.digest_key = _only(session, _DIGEST_KEY)
        self.dropped: deque[Any] = deque()
        """Keys in the token that nobody holds any more, destroyed before the next job."""

    def sweep(self) -> None:
        while self.dropped:
            self.dropped.popleft().destroy()

    def close(self) -> None:
        with suppress(pkcs11.PKCS11Error):
            self.session.close()
        with suppress(pkcs11.PKCS11Error):
            self._library.finalize()

    @contextmanager
    def diversified(self, master: _Master, factors: Factors) -> Iterator[tuple[Any, Any | None]]:
        """A 人社 card key and its K1‖K1‖K1, for one use."""
        if not factors:
            yield master.whole, master.first
            return
        made: list[Any] = []
        try:
            parent = master.whole
            for factor in factors[:-1]:
                parent = _des3_child(parent, _spread(factor))
                made.append(parent)
            whole, first = _des3_child(parent, _spread(factors[-1])), _des3_child(parent, factors[-1] * 3)
            made += (whole, first)
            yield whole, first
        finally:
            for key in made:
                key.destroy()

    @contextmanager
    def card_manager(self, master: _Master, method: Diversification, kdd: bytes, number: int) -> Iterator[Any]:
        """One of a card's three GlobalPlatform keys: 1 encryption, 2 MAC, 3 data encryption."""
        key = self.card_manager_key(master, method, kdd, number)
        try:
            yield key
        finally:
            if key is not master.whole:
                key.destroy()

    def card_manager_key(self, master: _Master, method: Diversification, kdd: bytes, number: int) -> Any:
        """The same, to be kept; the master itself where nothing is diversified."""
        if method is Diversification.NONE:
            return master.whole
        if method is Diversification.KDF3:
            return _kdf3_child(_TokenAes(master.whole), kdd, number)
        part = kdd[4:10] if method is Diversification.EMV else kdd[0:2] + kdd[4:8]
        left, right = part + bytes((0xF0, number)), part + bytes((0x0F, number))
        return _des3_child(master.whole, left + right + left)


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
        writable: bool = False,
    ) -> None:
        """Log in and look at every key. `pin` is asked again when the token was away; `writable` is for ceremonies.

        Raises:
            KeyRefused: no such module or token, it is open already, the PIN is wrong, or a key must not be used here.
        """
        self._module = module.resolve()
        self._token = token
        self._pin = pin
        self._demo = demo
        self._today = today
        self._writable = writable
        self._open: _Session | None = None
        self._refusal: str | None = None
        with _modules_lock:
            if self._module in _modules_in_use:
                raise KeyRefused(f"{module} 已被本进程打开 is open in this process already")
            _modules_in_use.add(self._module)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="pkcs11")
        try:
            self._do(lambda _: None)
        except BaseException:
            self.close()
            raise

    @property
    def is_demo(self) -> bool:
        """Whether these are published test keys."""
        return self._demo

    def keys(self) -> tuple[KeyInfo, ...]:
        """Every key there is, by name and version."""
        infos = self._do(lambda token: tuple(token.infos.values()))
        return tuple(sorted(infos, key=lambda info: (info.name, info.version)))

    def check(self, ref: KeyRef, *, usage: Usage) -> None:
        """Refuse a key that could not be used.

        Raises:
            KeyRefused: no such key or version, expired, of another usage, or the token does not answer.
        """
        self._do(lambda token: find(token.infos, ref, usage=usage, today=self._today()))

    def mac(self, ref: KeyRef, *, factors: Factors, data: bytes) -> bytes:
        """Retail MAC under a 人社 card key, 8 bytes.

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: _Session) -> bytes:
            master = self._master(token, ref, Usage.SOCIAL_SECURITY, Algorithm.TRIPLE_DES)
            with token.diversified(master, factors) as (whole, first):
                if first is None:
                    raise KeyRefused(
                        f"key {ref} has no {_FIRST} beside it and takes no MAC itself（令牌中缺少该密钥的前半）"
                    )
                return _retail_mac(whole, first, data)

        return self._do(job)

    def external_authentication(
        self, ref: KeyRef, *, factors: Factors, challenge: bytes, original: bytes, process_key: bool
    ) -> bytes:
        """Authentication data and original information, 16 bytes.

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """
        levels = (*factors, original) if process_key else factors

        def job(token: _Session) -> bytes:
            master = self._master(token, ref, Usage.SOCIAL_SECURITY, Algorithm.TRIPLE_DES)
            with token.diversified(master, levels) as (whole, _):
                return _des3_ecb(whole, challenge) + original

        return self._do(job)

    def scp02_session(self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes) -> Scp02Keys:
        """Session keys of SCP02 (GlobalPlatform card specification E.4.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: _Session) -> tuple[bytes, ...]:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.TRIPLE_DES, method)
            made = []
            for number, constant in ((1, 0x0182), (2, 0x0101), (3, 0x0181)):
                with token.card_manager(master, method, kdd, number) as key:
                    made.append(_des3_cbc(key, constant.to_bytes(2, "big") + counter + bytes(12)))
            return tuple(made)

        s_enc, c_mac, s_dek = self._do(job)
        return Scp02Keys(
            s_enc=s_enc, c_mac=c_mac, dek=_SessionDek(TripleDes(s_dek).encrypt, block=DES_BLOCK, store=self)
        )

    def scp03_session(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, host_challenge: bytes, card_challenge: bytes
    ) -> Scp03Keys:
        """Session keys of SCP03 (GlobalPlatform amendment D 6.2.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """
        context = host_challenge + card_challenge

        def job(token: _Session) -> Scp03Keys:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.AES, method)
            with token.card_manager(master, method, kdd, 1) as key:
                enc = _TokenAes(key)
                s_enc = enc.derive(0x04, bits=enc.bits, context=context)
            with token.card_manager(master, method, kdd, 2) as key:
                mac = _TokenAes(key)
                s_mac = mac.derive(0x06, bits=mac.bits, context=context)
                s_rmac = mac.derive(0x07, bits=mac.bits, context=context)
            dek_key = token.card_manager_key(master, method, kdd, 3)
            dek = _SessionDek(self._in_token(token, _TokenAes(dek_key)), block=AES_BLOCK, store=self)
            if dek_key is not master.whole:
                weakref.finalize(dek, token.dropped.append, dek_key)
            return Scp03Keys(s_enc=s_enc, s_mac=s_mac, s_rmac=s_rmac, dek=dek)

        return self._do(job)

    def scp03_challenge(
        self, ref: KeyRef, *, method: Diversification, kdd: bytes, counter: bytes, aid: bytes, size: int
    ) -> bytes:
        """The pseudo-random card challenge, `size` bytes (GlobalPlatform amendment D 6.2.2.1).

        Raises:
            KeyRefused: the key cannot be used for that, or the token does not answer.
        """

        def job(token: _Session) -> bytes:
            master = self._master(token, ref, Usage.CARD_MANAGEMENT, Algorithm.AES, method)
            with token.card_manager(master, method, kdd, 1) as key:
                return _TokenAes(key).derive(0x02, bits=size * 8, context=counter + aid)

        return self._do(job)

    def card_keys(self, refs: tuple[KeyRef, ...], *, factor: bytes, dek: Dek) -> CardKeys:
        """UDKs under `dek`, one after the other, and their check values (EMV book 2 A1.4.1, option A).

        Raises:
            KeyRefused: a key cannot be used for that, `dek` is not of this store, or the token does not answer.
        """
        self._own(dek)

        def job(token: _Session) -> list[bytes]:
            masters = [self._master(token, ref, Usage.ISSUER, Algorithm.TRIPLE_DES) for ref in refs]
            return [odd_parity(_des3_ecb(master.whole, _spread(factor)[:16])) for master in masters]

        keys = self._do(job)
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
        digits = self._do(lambda token: _digits(token.session, _PIN_DIGITS))
        block = bytes.fromhex(f"2{_PIN_DIGITS:X}{digits}".ljust(2 * DES_BLOCK, "F"))
        return dek.encrypt(block if dek.block == DES_BLOCK else pad80(block, dek.block))

    def random(self, size: int) -> bytes:
        """Random bytes from the token.

        Raises:
            KeyRefused: the token does not answer.
        """
        return self._do(lambda token: bytes(token.session.generate_random(size * 8)))

    def digest(self, data: bytes) -> bytes:
        """HMAC-SHA-256 in the token, 32 bytes.

        Raises:
            KeyRefused: the token has no digest key, or does not answer.
        """

        def job(token: _Session) -> bytes:
            if token.digest_key is None:
                raise KeyRefused(
                    f"令牌 {self._token} 尚未初始化 token {self._token} has no digest key: run `zhika keys init`"
                )
            return bytes(token.digest_key.sign(data, mechanism=Mechanism.SHA256_HMAC))

        return self._do(job)

    def begin(self) -> None:
        """Make the digest key in a token that has nothing of ours.

        Raises:
            KeyRefused: it has one already, or does not answer.
        """

        def job(token: _Session) -> None:
            if token.digest_key is not None:
                raise KeyRefused(f"令牌 {self._token} 已初始化 token {self._token} was begun already")
            token.digest_key = token.session.generate_key(
                KeyType.GENERIC_SECRET,
                _DIGEST_KEY_BITS,
                label=_DIGEST_KEY,
                store=True,
                capabilities=MechanismFlag.SIGN,
                template={**_CLOSED, Attribute.MODIFIABLE: False},
            )

        self._do(job)

    def generate(self, request: KeyRequest, *, control: DualControl) -> KeyInfo:
        """Make a random key inside the token; it was never outside. A 3DES key is derived from a random one that is thrown away.

        Raises:
            KeyRefused: that version is there, only published test keys may be here, or the token does not answer.
        """
        del control

        def job(token: _Session) -> KeyInfo:
            self._refuse_taken(token, request)
            if request.kind is not Kind.TRIPLE_DES:
                whole, first = _generate_aes(token.session, request), None
            else:
                whole, first = _generate_des3(token.session, request)
            return self._keep(token, request, whole, first)

        return self._do(job)

    def take(self, request: KeyRequest, value: bytes, *, control: DualControl) -> KeyInfo:
        """Put a key into the token.

        Raises:
            KeyRefused: that version is there, it is weak, published outside a demonstration, or the token does not answer.
        """
        del control
        ceremony.admitted(request, value, demo=self._demo)

        def job(token: _Session) -> KeyInfo:
            self._refuse_taken(token, request)
            if request.kind is not Kind.TRIPLE_DES:
                whole, first = _put(token.session, request, KeyType.AES, value), None
            else:
                half = value[:DES_BLOCK]
                whole = _put(token.session, request, KeyType.DES3, value + half)
                first = (
                    _put(token.session, request, KeyType.DES3, half * 3, suffix=_FIRST) if _has_first(request) else None
                )
            return self._keep(token, request, whole, first)

        return self._do(job)

    def close(self) -> None:
        """Log out and let the module go."""
        self._worker.submit(self._drop).result()
        self._worker.shutdown()
        with _modules_lock:
            _modules_in_use.discard(self._module)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pkcs11Keys({str(self._module)!r}, token={self._token!r}, demo={self._demo})"

    def _do(self, job: Callable[[_Session], T]) -> T:
        try:
            return self._worker.submit(self._work, job).result()
        except RuntimeError as error:
            if isinstance(error, pkcs11.PKCS11Error):
                raise
            raise KeyRefused(f"令牌 {self._token} 已关闭 the key store on token {self._token} is closed") from error

    def _work(self, job: Callable[[_Session], T]) -> T:
        if self._refusal is not None:
            raise KeyRefused(self._refusal)
        try:
            if self._open is None:
                self._open = self._login()
            self._open.sweep()
            return job(self._open)
        except pkcs11.PKCS11Error as error:
            self._drop()
            told = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            if isinstance(error, _FINAL):
                self._refusal = (
                    f"令牌 {self._token} 拒绝 PIN（不再重试，以免锁定） token {self._token} refused the PIN and is not asked"
                    f" again, lest it lock: correct the PIN file and start anew ({told})"
                )
                raise KeyRefused(self._refusal) from error
            raise KeyRefused(
                f"令牌 {self._token} 没有应答，请检查模块 {self._module} 和令牌"
                f" / token {self._token} did not answer: check module {self._module} and the token ({told})"
            ) from error

    def _login(self) -> _Session:
        library = pkcs11.lib(str(self._module))
        try:
            session = library.get_token(token_label=self._token).open(rw=self._writable, user_pin=self._pin())
            opened = _Session(library, session)
            for info in opened.infos.values():
                admit(info, demo=self._demo)
        except BaseException:
            with suppress(pkcs11.PKCS11Error):
                library.finalize()
            raise
        return opened

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _master(
        self,
        token: _Session,
        ref: KeyRef,
        usage: Usage,
        algorithm: Algorithm,
        method: Diversification = Diversification.NONE,
    ) -> _Master:
        must_be(find(token.infos, ref, usage=usage, today=self._today()), algorithm, method=method)
        return token.masters[ref]

    def _own(self, dek: Dek) -> None:
        if not isinstance(dek, _SessionDek) or not dek.is_of(self):
            raise KeyRefused("the DEK is not of this key store（会话密钥不属于本密钥库）")

    def _in_token(self, token: _Session, key: _TokenAes) -> Callable[[bytes], bytes]:
        def job(now: _Session, data: bytes) -> bytes:
            if now is not token:
                raise KeyRefused(
                    f"令牌 {self._token} 已重新连接 token {self._token} was away: open a new session with the card"
                )
            return key.encrypt_cbc(data)

        return lambda data: self._do(lambda now: job(now, data))

    def _refuse_taken(self, token: _Session, request: KeyRequest) -> None:
        for label in (_label(request.ref), _label(request.ref) + _FIRST):
            if any(True for _ in list(token.session.get_objects({Attribute.LABEL: label}))):
                raise KeyRefused(f"密钥 {request.ref} 已存在 is there and is never overwritten")

    def _keep(self, token: _Session, request: KeyRequest, whole: Any, first: Any | None) -> KeyInfo:
        info = request.info(_check_value(whole, request.kind.algorithm))
        try:
            admit(info, demo=self._demo)
        except KeyRefused:
            whole.destroy()
            if first is not None:
                first.destroy()
            raise
        token.infos[request.ref] = info
        token.masters[request.ref] = _Master(info=info, whole=whole, first=first)
        return info


# --------------------------------------------------------------------------------------------------------- in the token


class _StringData(ctypes.Structure):
    """CK_KEY_DERIVATION_STRING_DATA."""

    _fields_ = (("data", ctypes.c_char_p), ("length", ctypes.c_ulong))


def _des3_child(parent: Any, data: bytes, **template: Any) -> Any:
    """A 3DES key that is `data`, 24 bytes, enciphered with its parent."""
    return parent.derive_key(
        KeyType.DES3,
        len(data) * 8,
        mechanism=Mechanism.DES3_ECB_ENCRYPT_DATA,
        mechanism_param=bytes(_StringData(data, len(data))),
        capabilities=_USE,
        store="label" in template,
        label=template.get("label"),
        id=template.get("id"),
        template={**_CLOSED, Attribute.VALUE_LEN: DEFAULT, Attribute.MODIFIABLE: False},
    )


def _kdf3_child(master: _TokenAes, kdd: bytes, number: int) -> Any:
    """AES-CMAC of `i ‖ 000000 ‖ number ‖ 00 ‖ kdd` for i = 1, 2: one whole block each, so CMAC is one AES of block XOR subkey."""
    subkey = _cmac_subkey(master.encrypt(bytes(AES_BLOCK)))
    blocks = (bytes((count, 0, 0, 0, number, 0)) + kdd for count in range(1, -(-master.bits // 128) + 1))
    return master.key.derive_key(
        KeyType.AES,
        master.bits,
        mechanism=Mechanism.AES_ECB_ENCRYPT_DATA,
        mechanism_param=b"".join(_xor(block, subkey) for block in blocks),
        capabilities=_USE,
        template=_CLOSED,
    )


def _generate_aes(session: Any, request: KeyRequest) -> Any:
    return session.generate_key(
        KeyType.AES,
        request.kind.size * 8,
        label=_label(request.ref),
        id=_id(request),
        store=True,
        capabilities=_USE,
        template={**_CLOSED, Attribute.MODIFIABLE: False},
    )


def _generate_des3(session: Any, request: KeyRequest) -> tuple[Any, Any | None]:
    seed = session.generate_key(KeyType.DES3, capabilities=MechanismFlag.DERIVE, template=_CLOSED)
    try:
        left, right = bytes(session.generate_random(64)), bytes(session.generate_random(64))
        label, id_ = _label(request.ref), _id(request)
        first = _des3_child(seed, left * 3, label=label + _FIRST, id=id_) if _has_first(request) else None
        return _des3_child(seed, left + right + left, label=label, id=id_), first
    finally:
        seed.destroy()


def _put(session: Any, request: KeyRequest, key_type: KeyType, value: bytes, *, suffix: str = "") -> Any:
    return session.create_object(
        {
            **_CLOSED,
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: True,
            Attribute.MODIFIABLE: False,
            Attribute.LABEL: _label(request.ref) + suffix,
            Attribute.ID: _id(request),
            Attribute.ENCRYPT: True,
            Attribute.SIGN: True,
            Attribute.DERIVE: True,
            Attribute.DECRYPT: False,
            Attribute.WRAP: False,
            Attribute.UNWRAP: False,
            Attribute.VALUE: value,
        }
    )


def _masters(session: Any) -> dict[KeyRef, _Master]:
    found: dict[str, Any] = {}
    for key in list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})):
        if key.label.startswith(_PREFIX):
            if key.label in found:
                raise KeyRefused(f"令牌中有两个 the token has two objects {key.label}: remove the wrong one")
            if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
                raise KeyRefused(
                    f"令牌中的 {key.label} 可被读出 in the token can be read out: make it anew in a ceremony"
                )
            found[key.label] = key
    infos = {label: _info(key) for label, key in found.items() if not label.endswith(_FIRST)}
    return {
        KeyRef(info.name, info.version): _Master(info=info, whole=found[label], first=found.get(label + _FIRST))
        for label, info in infos.items()
    }


def _info(key: Any) -> KeyInfo:
    try:
        name, version = key.label.removeprefix(_PREFIX).split("/")
        usage, last_day, owner = key.id.decode().split("/", 2)
        algorithm = _KEY_TYPES[key.key_type]
        return KeyInfo(
            name=name,
            version=int(version),
            algorithm=algorithm,
            usage=Usage(usage),
            kcv=_check_value(key, algorithm),
            owner=owner,
            not_after=None if last_day == "-" else date.fromisoformat(last_day),
        )
    except (ValueError, KeyError) as error:
        raise KeyRefused(
            f"令牌中的 {key.label} 不是本系统的密钥 in the token is not a key of ours: remove it"
        ) from error


def _only(session: Any, label: str) -> Any | None:
    return next(iter(list(session.get_objects({Attribute.LABEL: label}))), None)


def _label(ref: KeyRef) -> str:
    return f"{_PREFIX}{ref.name}/{ref.version}"


def _id(request: KeyRequest) -> bytes:
    last_day = "-" if request.not_after is None else request.not_after.isoformat()
    return f"{request.usage.value}/{last_day}/{request.owner}".encode()


def _has_first(request: KeyRequest) -> bool:
    return request.usage is Usage.SOCIAL_SECURITY


def _check_value(key: Any, algorithm: Algorithm) -> bytes:
    if algorithm is Algorithm.AES:
        return _TokenAes(key).encrypt(b"\x01" * AES_BLOCK)[:KCV_BYTES]
    return _des3_ecb(key, bytes(DES_BLOCK))[:KCV_BYTES]


def _des3_ecb(key: Any, data: bytes) -> bytes:
    return bytes(key.encrypt(data, mechanism=Mechanism.DES3_ECB))


def _des3_cbc(key: Any, data: bytes) -> bytes:
    return bytes(key.encrypt(data, mechanism=Mechanism.DES3_CBC, mechanism_param=bytes(DES_BLOCK)))


def _retail_mac(whole: Any, first: Any, data: bytes) -> bytes:
    """ISO/IEC 9797-1 algorithm 3 with padding method 2 and IV zero."""
    padded = pad80(data, DES_BLOCK)
    body, last = padded[:-DES_BLOCK], padded[-DES_BLOCK:]
    chain = _des3_cbc(first, body)[-DES_BLOCK:] if body else bytes(DES_BLOCK)
    return _des3_ecb(whole, _xor(chain, last))


def _cmac_subkey(block: bytes) -> bytes:
    doubled = int.from_bytes(block, "big") << 1
    if doubled >> 128:
        doubled ^= 1 << 128 | _CMAC_R128
    return doubled.to_bytes(AES_BLOCK, "big")


def _digits(session: Any, count: int) -> str:
    """Decimal digits, all equally likely."""
    digits = ""
    while len(digits) < count:
        digits += "".join(str(byte % 10) for byte in bytes(session.generate_random(64)) if byte < 250)
    return digits[:count]


def _spread(factor: bytes) -> bytes:
    """Of a factor F the 24 bytes F ‖ ~F ‖ F, which enciphered are a 3DES key K1 ‖ K2 ‖ K1."""
    return factor + _xor(factor, b"\xff" * len(factor)) + factor


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
