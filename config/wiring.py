"""Which adapter stands behind which port: the only module that knows them all. Adapters are imported where they are built, so a
process needs only what its role needs."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from config.policies import Policies, load_policies
from config.settings import BadConfiguration, Bank, Settings
from pipeline.calendar import ChineseCalendar
from pipeline.clock import Clock, SystemClock
from pipeline.errors import Defect, NeedsOperator
from pipeline.ports import BankGateway, FileExchange, ObjectStore, Printer
from pipeline.services.context import Context
from pipeline.stages.bank_calls import Patience
from pipeline.stages.base import Stage
from pipeline.states import STAGES
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer, derive
from pipeline.webhooks import WebhookSender

if TYPE_CHECKING:
    from card_personalization.keys.base import KeyStore
    from card_personalization.profiles import CardProfile
    from pipeline.gateways.encoder import LocalEncoder
    from pipeline.gateways.photo_pool import PhotoPool
    from pipeline.photo.profile import PhotoProfile

HERE = Path(__file__).parent
SWITCH_S = 0.0005
"""How long a thread whose card has answered waits for the interpreter at most: at the usual 5 ms cards wait for each other."""


class Installation:
    """Everything of one installation, built when it is first asked for."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        bank: Callable[[str], BankGateway] | None = None,
        spoil: frozenset[int] = frozenset(),
    ) -> None:
        """`bank` replaces the configured banks; `spoil` names virtual blanks that fail, by order of insertion (demo only)."""
        self.settings = settings
        self.clock = clock or SystemClock()
        self._bank = bank
        self._spoil = spoil
        self._gateways: dict[str, BankGateway] = {}
        self._connecting = threading.Lock()

    # ---------------------------------------------------------------------------------------------------- foundations

    @cached_property
    def master(self) -> bytes:
        """The installation's key.

        Raises:
            Defect: there is none, or it is not 32 bytes; in production it is never made by itself.
        """
        path = self.settings.installation_key
        if not path.exists():
            if self.settings.env == "production":
                raise Defect(f"no installation key at {path}: set ZHIKA_KEY_FILE")
            _make_key(path)
        key = path.read_bytes()
        if len(key) != 32:
            raise Defect(f"{path} must hold exactly 32 bytes")
        return key

    @cached_property
    def store(self) -> Store:
        """The database, its schema brought to this release."""
        store = Store(self.settings.database.url, Sealer(self.master), pool_size=self.settings.workers.threads + 2)
        store.migrate(now=self.clock.now())
        return store.open()

    @cached_property
    def policies(self) -> Policies:
        """The regions."""
        return load_policies()

    @cached_property
    def objects(self) -> ObjectStore:
        """Where photos and faces are kept."""
        from pipeline.gateways.objects import ObjectDirectory

        return ObjectDirectory(self.settings.data_dir / "objects", key=derive(self.master, "objects"))

    @cached_property
    def context(self) -> Context:
        """What services are given."""
        return Context(
            store=self.store, clock=self.clock, policies=self.policies, calendar=ChineseCalendar(), objects=self.objects
        )

    # --------------------------------------------------------------------------------------------------------- stages

    def stages(self, names: Sequence[str] = STAGES) -> dict[str, Stage]:
        """Stages by name, ready to run."""
        built = {name: self._stage(name) for name in names}
        if (lease_s := self.settings.workers.lease_s) is not None:
            for stage in built.values():
                stage.lease = timedelta(seconds=lease_s)
        return built

    def _stage(self, name: str) -> Stage:
        match name:
            case "validation":
                from pipeline.stages.validation import Validation

                return Validation()
            case "photo":
                from config.metered import MeteredPhotos
                from pipeline.stages.photo import Photo

                return Photo(MeteredPhotos(self.photo_normaliser), objects=self.objects, profiles=self.photo_profiles)
            case "account":
                from pipeline.stages.account import Account

                return Account(
                    self.bank,
                    key_secret=derive(self.master, "account-keys"),
                    clock=self.clock,
                    patience=self.patience,
                )
            case "personalisation":
                from pipeline.stages.personalisation import Personalisation

                return Personalisation(self.encoder, objects=self.objects)
            case "dispatch":
                from pipeline.stages.dispatch import Dispatch

                return Dispatch()
            case "collection":
                from pipeline.stages.collection import Collection

                return Collection(self.context.calendar)
        raise Defect(f"no stage {name!r}: there are {', '.join(STAGES)}")

    @cached_property
    def photo_profiles(self) -> dict[str, PhotoProfile]:
        """Pictures by the name of their profile.

        Raises:
            Defect: a profile is wrong.
        """
        from pipeline.photo.profile import load_profiles

        return load_profiles(HERE / "photo")

    @cached_property
    def photo_normaliser(self) -> PhotoPool:
        """This process's photo processes; none runs before there is a photo, so what they need is looked at here.

        Raises:
            Defect: a photo profile is wrong, or a model is not the file that was tried.
        """
        from pipeline.gateways.photo_pool import PhotoPool
        from pipeline.gateways.photo_process import Limits
        from pipeline.photo import weights

        weights.checked()
        told = self.settings.photo
        return PhotoPool(
            self.photo_profiles,
            processes=told.processes,
            limits=Limits(cpu_s=told.cpu_s, wall_s=told.wall_s, memory_mb=told.memory_mb),
            recycle_after=told.recycle_after,
        )

    @property
    def patience(self) -> Patience:
        """How long banks are waited for."""
        told = self.settings.accounts
        return Patience(
            deadline=timedelta(seconds=told.deadline_s), settle_after=timedelta(seconds=told.settle_after_s)
        )

    def bank(self, code: str) -> BankGateway:
        """The gateway of a cooperating bank.

        Raises:
            NeedsOperator: it is not connected.
        """
        return (self._bank or self._configured_bank)(code)

    def _configured_bank(self, code: str) -> BankGateway:
        with self._connecting:  # threads share a bank's connections and what they learn of it
            if code not in self._gateways:
                self._gateways[code] = self._connected_bank(code)
            return self._gateways[code]

    def _connected_bank(self, code: str) -> BankGateway:
        banks = self.settings.banks
        wanted = banks.get(code) or banks.get("default")
        if wanted is None:
            name = f"ZHIKA_BANKS__{code}__URL"
            zh, en = f"未配置银行 {code}：请设置 {name}", f"no bank is configured for {code}: set {name}"
            raise NeedsOperator("bank.not_connected", en, zh=zh, en=en)
        instant = None if wanted.url is None else self._instant_bank(code, wanted, wanted.url)
        if wanted.out_dir is not None and wanted.in_dir is not None:
            from pipeline.gateways.bank_files.exchange import DirectoryExchange

            exchange = DirectoryExchange(wanted.out_dir, wanted.in_dir)
            return self._files_bank(code, wanted, exchange, instant)
        if instant is None:
            raise Defect(f"bank {code} has neither an address nor directories")
        return instant

    def _files_bank(self, code: str, wanted: Bank, exchange: FileExchange, others: BankGateway | None) -> BankGateway:
        from pipeline.gateways.bank_files.gateway import BankFiles, Terms
        from pipeline.store.bank_files import BankFileJournal

        terms = Terms(
            sender=wanted.file_sender or code,
            passed=wanted.file_passed,
            failed=wanted.file_failed,
            card_number_in_reserved=wanted.file_card_numbers,
            card_digits=wanted.file_card_digits,
            id_types=wanted.file_id_types,
            every=timedelta(seconds=wanted.file_every_s),
            max_rows=wanted.file_max_rows,
            reply_within=timedelta(hours=wanted.file_reply_hours),
            quiet=timedelta(seconds=wanted.file_quiet_s),
        )
        return BankFiles(
            terms,
            journal=BankFileJournal(self.store, code),
            exchange=exchange,
            objects=self.objects,
            clock=self.clock,
            others=others,
        )

    def _instant_bank(self, code: str, wanted: Bank, url: str) -> BankGateway:
        from pipeline.gateways.bank_breaker import BankBreaker
        from pipeline.gateways.bank_http import BankHttp

        gateway = BankHttp(
            url,
            bank_code=code,
            clock=self.clock,
            max_connections=wanted.connections,
            cert=wanted.cert,
            cert_key=wanted.cert_key,
            ca=wanted.ca,
        )
        return BankBreaker(
            gateway,
            name=code,
            clock=self.clock,
            failures=wanted.breaker_failures,
            open_for=timedelta(seconds=wanted.breaker_open_s),
        )

    @cached_property
    def card_profiles(self) -> dict[str, CardProfile]:
        """Kinds of card by name.

        Raises:
            ProfileError: a profile is wrong.
        """
        from card_personalization.profiles import load_profile

        profiles = (load_profile(path) for path in sorted((HERE / "cards").glob("*.toml")))
        return {profile.name: profile for profile in profiles}

    @cached_property
    def keys(self) -> KeyStore:
        """The key store.

        Raises:
            BadConfiguration: none is configured where there must be one.
            KeyRefused: it does not open, or a key in it must not be used here.
        """
        from config.keys import key_store

        return key_store(self.settings)

    @cached_property
    def encoder(self) -> LocalEncoder:
        """This process's personalisation station.

        Raises:
            BadConfiguration: test keys with real readers.
            Conflict: another process is this station.
            Defect: virtual cards in production.
            ServiceDown: pcscd does not answer.
        """
        from config.keys import is_demonstration
        from pipeline.gateways.encoder import open_pcsc, open_simulated

        sys.setswitchinterval(SWITCH_S)
        encoders = self.settings.encoders
        directory = self.settings.data_dir / "encoders" / encoders.station
        if not encoders.virtual:
            if self.keys.is_demo and not is_demonstration(self.settings):
                raise BadConfiguration(
                    [
                        "ZHIKA_KEYS__STORE: 公开的测试密钥不得用于真实读卡器；请设为 vault 或 pkcs11，测试装置请设 ZHIKA_ENV=test"
                        " / published test keys are refused in real readers: set it to vault or pkcs11,"
                        " or ZHIKA_ENV=test where no card leaves the bench"
                    ]
                )
            return open_pcsc(
                directory,
                encoders.station,
                names=encoders.names,
                keys=self.keys,
                profiles=self.card_profiles,
                printer=self.printer,
                watchdog_s=encoders.watchdog_s,
                trace=encoders.trace,
            )
        if self.settings.env == "production":
            raise Defect("virtual cards are refused in production")
        return open_simulated(
            directory,
            encoders.station,
            profiles=self.card_profiles,
            spoil=self._spoil,
            readers=encoders.readers,
            printer=self.printer,
            trace=encoders.trace,
        )

    @cached_property
    def printer(self) -> Printer | None:
        """The card printer, if there is one."""
        where = self.settings.encoders.printer
        if not where:
            return None
        if where.startswith(("ipp://", "ipps://")):
            from pipeline.gateways.printer_ipp import PrinterIpp

            return PrinterIpp(where)
        from pipeline.gateways.printer_file import PrinterDirectory

        return PrinterDirectory(Path(where))

    @cached_property
    def webhooks(self) -> WebhookSender:
        """Sends webhooks to outlets."""
        from pipeline.gateways.addresses import AllowList
        from pipeline.gateways.webhook import WebhookPoster

        told = self.settings.webhooks
        allowed = AllowList(allow=told.allow, plain_http=told.plain_http)
        return WebhookPoster(
            allowed, clock=self.clock, ca=told.ca, timeout_s=told.timeout_s, connections=told.connections
        )

    def close(self) -> None:
        """Let go of everything that was built."""
        if "webhooks" in self.__dict__:
            self.webhooks.close()
        if "encoder" in self.__dict__:
            self.encoder.close()
        if "photo_normaliser" in self.__dict__:
            self.photo_normaliser.close()
        if "keys" in self.__dict__ and (release := getattr(self.keys, "close", None)) is not None:
            release()
        for gateway in self._gateways.values():
            close = getattr(gateway, "close", None)
            if close is not None:
                close()
        if "store" in self.__dict__:
            self.store.close()


def _make_key(path: Path) -> None:
    """A new key, readable by its owner only; when two processes try at once, the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(32))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
