"""Which key store an installation has, and where its ceremonies find custodians, log and safe.

A store is imported where it is built, so that an installation without a token needs no PKCS#11 library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from card_personalization.keys.base import KeyInfo, KeyStore
from card_personalization.keys.ceremony_log import CeremonyLog, WitnessedSafe
from card_personalization.keys.custody import Custody, Stretching
from card_personalization.keys.files import read_secret
from card_personalization.keys.software import SoftwareKeys
from card_personalization.keys.vault import Vault
from config.settings import BadConfiguration, Settings
from pipeline.clock import civil_date

if TYPE_CHECKING:
    from card_personalization.keys.pkcs11 import Pkcs11Keys
    from card_personalization.keys.pkcs11.session import Vet

_DEMONSTRATIONS = ("demo", "test")
_WITHOUT_KEYS = (*_DEMONSTRATIONS, "development")


def china_today() -> date:
    """The civil date of China, which the last days of keys are in."""
    return civil_date(datetime.now(UTC))


def key_store(settings: Settings, *, today: Callable[[], date] = china_today) -> KeyStore:
    """The store of an installation.

    Raises:
        BadConfiguration: none is configured where there must be one, or it lacks its library.
        KeyRefused: it does not open, a key in it must not be used here, or no ceremony in the log made it.
    """
    match store_of(settings):
        case "demo":
            return SoftwareKeys.demo()
        case "vault":
            custody = custody_of(settings)
            vault = open_vault(settings, custody)
            log_of(settings, custody).vet(vault.keys())
            contents = vault.contents
            return SoftwareKeys(
                contents.entries, digest_key=contents.digest_key, demo=is_demonstration(settings), today=today
            )
        case "pkcs11":
            return _token(settings, today=today, vet=log_of(settings, custody_of(settings)).vet)


def every_key(settings: Settings) -> tuple[KeyInfo, ...]:
    """What is kept, by name and version, whether a ceremony made it or not: for those who compare, not for those who use.

    Raises:
        BadConfiguration: none is configured where there must be one, or it lacks its library.
        KeyRefused: it does not open.
    """
    match store_of(settings):
        case "demo":
            return SoftwareKeys.demo().keys()
        case "vault":
            kept = open_vault(settings, custody_of(settings)).keys()
            return tuple(sorted(kept, key=lambda info: (info.name, info.version)))
        case "pkcs11":
            with _token(settings, today=china_today) as token:
                return token.keys()


def store_of(settings: Settings) -> Literal["demo", "vault", "pkcs11"]:
    """Which of the three it is.

    Raises:
        BadConfiguration: there is no default here, or test keys are asked for where they must not be.
    """
    store = settings.keys.store
    if store is None and settings.env in _WITHOUT_KEYS:
        return "demo"
    if store is None:
        raise BadConfiguration(
            [
                "ZHIKA_KEYS__STORE: 生产环境必须设置密钥库 vault 或 pkcs11"
                " / a production installation needs a key store: set it to vault or pkcs11, then run `zhika keys init`"
            ]
        )
    if store == "demo" and settings.env not in _WITHOUT_KEYS:
        raise BadConfiguration(
            ["ZHIKA_KEYS__STORE: 生产环境不得使用公开的测试密钥 published test keys are refused in production"]
        )
    return store


def is_demonstration(settings: Settings) -> bool:
    """Whether only published test keys may be in a safe here."""
    return settings.env in _DEMONSTRATIONS


def custody_of(settings: Settings) -> Custody:
    """The custodians of the installation.

    Raises:
        KeyRefused: none are enrolled yet, or their file is altered.
    """
    return Custody.load(_custodians(settings))


def log_of(settings: Settings, custody: Custody) -> CeremonyLog:
    """What was done to its keys."""
    return CeremonyLog(path=settings.keys_dir / "ceremonies.log", custody=custody)


@contextmanager
def open_safe(settings: Settings, custody: Custody) -> Iterator[WitnessedSafe]:
    """Where a ceremony puts keys, each with its line in the log.

    Raises:
        BadConfiguration: the demo store takes no keys, or something that opens the safe is not set.
        KeyRefused: the safe does not open.
    """
    log = log_of(settings, custody)
    if _kept_in(settings) == "vault":
        yield WitnessedSafe(open_vault(settings, custody), log=log, now=_now)
    else:
        with _token(settings, today=china_today, writable=True) as token:
            yield WitnessedSafe(token, log=log, now=_now)


def begin(settings: Settings, passphrases: dict[str, str], *, stretching: Stretching | None = None) -> Custody:
    """Enrol two custodians, make the vault or the digest key in the token, and open the log; `stretching` is what guessing costs.

    Raises:
        BadConfiguration: the demo store takes no keys, or something that opens the safe is not set.
        KeyRefused: the passphrases will not do, or all this was begun before; it is left as it is.
    """
    kind = _kept_in(settings)
    custody, control = Custody.enrol(passphrases, stretching=stretching)
    custody.save(_custodians(settings))
    try:
        if kind == "vault":
            Vault.create(
                _vault(settings),
                passphrase=_passphrase(settings),
                custody=custody,
                control=control,
                stretching=stretching,
            )
        else:
            with _token(settings, today=china_today, writable=True) as token:
                token.begin()
    except BaseException:
        _custodians(settings).unlink()
        raise
    log_of(settings, custody).note("begun", control=control, at=_now())
    return custody


def open_vault(settings: Settings, custody: Custody) -> Vault:
    """The vault, opened with the operating passphrase.

    Raises:
        BadConfiguration: no passphrase file is set.
        KeyRefused: it does not open.
    """
    return Vault(_vault(settings), passphrase=_passphrase(settings), custody=custody, demo=is_demonstration(settings))


def _kept_in(settings: Settings) -> Literal["vault", "pkcs11"]:
    store = store_of(settings)
    if store == "demo":
        raise BadConfiguration(
            [
                "ZHIKA_KEYS__STORE: 演示密钥库不保存密钥，请设为 vault 或 pkcs11"
                " / the demo store keeps no keys: set it to vault or pkcs11"
            ]
        )
    return store


def _custodians(settings: Settings) -> Path:
    return settings.keys_dir / "custodians.json"


def _vault(settings: Settings) -> Path:
    return settings.keys_dir / "vault.json"


def _now() -> datetime:
    return datetime.now(UTC)


def _passphrase(settings: Settings) -> bytes:
    path = settings.keys.passphrase_file
    if path is None:
        raise _not_set("passphrase_file")
    return read_secret(path)


def _token(
    settings: Settings, *, today: Callable[[], date], vet: Vet = lambda _: None, writable: bool = False
) -> Pkcs11Keys:
    module, token, pin_file = settings.keys.module, settings.keys.token, settings.keys.pin_file
    if module is None or token is None or pin_file is None:
        raise _not_set(*(name for name in ("module", "token", "pin_file") if not getattr(settings.keys, name)))
    try:
        from card_personalization.keys.pkcs11 import Pkcs11Keys
    except ImportError:
        raise BadConfiguration(
            ["ZHIKA_KEYS__STORE: 缺少 PKCS#11 库 the PKCS#11 library is missing: pip install 'zhika[hsm]'"]
        ) from None
    return Pkcs11Keys(
        module,
        token=token,
        pin=lambda: read_secret(pin_file).decode(),
        demo=is_demonstration(settings),
        today=today,
        vet=vet,
        writable=writable,
    )


def _not_set(*names: str) -> BadConfiguration:
    return BadConfiguration(
        [f"ZHIKA_KEYS__{name.upper()}: 未设置，密钥库需要它 is not set, and the key store needs it" for name in names]
    )
