"""The one session with a token, and the one thread that uses it.

python-pkcs11 is not thread safe and a login counts for the whole process. Must not know what is done in the session.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pkcs11

from card_personalization.errors import KeyRefused
from card_personalization.keys.admission import admit
from card_personalization.keys.base import Diversification, Factors, KeyInfo
from card_personalization.keys.pkcs11.objects import (
    DIGEST_KEY,
    Master,
    TokenAes,
    des3_child,
    find_object,
    kdf3_child,
    read_masters,
    spread,
)

T = TypeVar("T")
Vet = Callable[[Iterable[KeyInfo]], None]
"""Raises `KeyRefused` when one of the keys should not be there."""
_FINAL = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, pkcs11.PinExpired)
"""After these the PIN is not tried again: each try may be the last."""
_modules_in_use: set[Path] = set()
_modules_lock = threading.Lock()


class Session:
    """The open session and what was found in the token. For the worker thread alone."""

    def __init__(self, library: Any, session: Any) -> None:
        self._library = library
        self.session = session
        self.masters = read_masters(session)
        self.infos = {ref: master.info for ref, master in self.masters.items()}
        self.digest_key = find_object(session, DIGEST_KEY)
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
    def diversified(self, master: Master, factors: Factors) -> Iterator[tuple[Any, Any | None]]:
        """A 人社 card key and its K1‖K1‖K1, for one use."""
        if not factors:
            yield master.whole, master.first
            return
        made: list[Any] = []
        try:
            parent = master.whole
            for factor in factors[:-1]:
                parent = des3_child(parent, spread(factor))
                made.append(parent)
            whole, first = des3_child(parent, spread(factors[-1])), des3_child(parent, factors[-1] * 3)
            made += (whole, first)
            yield whole, first
        finally:
            for key in made:
                key.destroy()

    @contextmanager
    def card_manager(self, master: Master, method: Diversification, kdd: bytes, number: int) -> Iterator[Any]:
        """One of a card's three GlobalPlatform keys: 1 encryption, 2 MAC, 3 data encryption."""
        key = self.card_manager_key(master, method, kdd, number)
        try:
            yield key
        finally:
            if key is not master.whole:
                key.destroy()

    def card_manager_key(self, master: Master, method: Diversification, kdd: bytes, number: int) -> Any:
        """The same, to be kept; the master itself where nothing is diversified.

        Raises:
            ValueError: `kdd` is not 10 bytes.
        """
        if len(kdd) != 10:
            raise ValueError("key diversification data has 10 bytes")
        if method is Diversification.NONE:
            return master.whole
        if method is Diversification.KDF3:
            return kdf3_child(TokenAes(master.whole), kdd, number)
        part = kdd[4:10] if method is Diversification.EMV else kdd[0:2] + kdd[4:8]
        left, right = part + bytes((0xF0, number)), part + bytes((0x0F, number))
        return des3_child(master.whole, left + right + left)


class Worker:
    """Carries out jobs in a session, one after the other; opens it when it is needed and again when the token was away."""

    def __init__(
        self, module: Path, *, token: str, pin: Callable[[], str], demo: bool, vet: Vet, writable: bool
    ) -> None:
        """Log in and look at every key.

        Raises:
            KeyRefused: no such module or token, it is open already, the PIN is wrong, or a key must not be used here.
        """
        self._module = module.resolve()
        self._token = token
        self._pin = pin
        self._demo = demo
        self._vet = vet
        self._writable = writable
        self._open: Session | None = None
        self._refusal: str | None = None
        with _modules_lock:
            if self._module in _modules_in_use:
                raise KeyRefused(f"{module} 已被本进程打开 is open in this process already")
            _modules_in_use.add(self._module)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pkcs11")
        try:
            self.do(lambda _: None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Log out and let the module go."""
        self._thread.submit(self._drop).result()
        self._thread.shutdown()
        with _modules_lock:
            _modules_in_use.discard(self._module)

    def do(self, job: Callable[[Session], T]) -> T:
        """What a job gives back.

        Raises:
            KeyRefused: the token does not answer, or the job refuses a key.
        """
        try:
            return self._thread.submit(self._work, job).result()
        except RuntimeError as error:
            if isinstance(error, pkcs11.PKCS11Error):
                raise
            raise KeyRefused(f"令牌 {self._token} 已关闭 the key store on token {self._token} is closed") from error

    def _work(self, job: Callable[[Session], T]) -> T:
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

    def _login(self) -> Session:
        library = pkcs11.lib(str(self._module))
        try:
            session = library.get_token(token_label=self._token).open(rw=self._writable, user_pin=self._pin())
            opened = Session(library, session)
            for info in opened.infos.values():
                admit(info, demo=self._demo)
            self._vet(opened.infos.values())
        except BaseException:
            with suppress(pkcs11.PKCS11Error):
                library.finalize()
            raise
        return opened

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
