"""What an installation is told: `ZHIKA_<GROUP>__<KEY>` in the environment, over `zhika.toml` in the working directory.

Secrets come as files, never as values.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Environment = Literal["production", "development", "demo", "test"]


class BadConfiguration(ValueError):
    """The configuration cannot work; `problems` name each key and how to put it right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Database(_Group):
    """`sqlite:///file` (one process) or `postgresql://user:password@host/name`."""

    url: str

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return url


class Broker(_Group):
    """`inprocess://` or `amqp://user:password@host/vhost`; `quorum` for a cluster."""

    url: str = "inprocess://"
    quorum: bool = False

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if url != "inprocess://" and not url.startswith(("amqp://", "amqps://")):
            raise ValueError("must be inprocess:// or begin with amqp://")
        return url


class Bank(_Group):
    """How one cooperating bank is reached. The bank codes are those of the policies.

    Of a process, `connections` exchanges are under way at most. After `breaker_failures` in a row without an answer the bank is
    left alone for `breaker_open_s`; then one exchange shows whether it is back.

    A bank that exchanges batch files has `out_dir` and `in_dir` instead; with `url` too, what files cannot say goes there.
    `file_sender` is its name in file names (default: its code), `file_passed` and `file_failed` are its result codes,
    `file_id_types` its codes of documents where they are not the usual ones, `file_card_digits` the length of its cards' numbers,
    and with `file_card_numbers` result files carry these. A file goes out once its first row has waited for `file_every_s`, or with
    `file_max_rows`; its answer is expected within `file_reply_hours`. A file is read once it has stood still for `file_quiet_s`.
    """

    url: str | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    ca: Path | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 8
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_open_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    out_dir: Path | None = None
    in_dir: Path | None = None
    file_sender: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{0,15}$")] = ""
    file_passed: Annotated[str, Field(min_length=1, max_length=1)] = "0"
    file_failed: Annotated[str, Field(min_length=1, max_length=1)] = "1"
    file_id_types: dict[str, Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,2}$")]] = {}
    file_card_numbers: bool = False
    file_card_digits: Annotated[int, Field(ge=16, le=19)] = 19
    file_every_s: Annotated[float, Field(gt=0)] = 1800.0
    file_max_rows: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    file_reply_hours: Annotated[float, Field(gt=0)] = 48.0
    file_quiet_s: Annotated[float, Field(ge=0)] = 10.0

    @model_validator(mode="after")
    def _reachable(self) -> Bank:
        if (self.out_dir is None) != (self.in_dir is None):
            raise ValueError("OUT_DIR and IN_DIR go together")
        if self.url is None and self.out_dir is None:
            raise ValueError("set URL, or OUT_DIR and IN_DIR for a bank that exchanges files")
        if self.out_dir is not None and self.out_dir == self.in_dir:
            raise ValueError("OUT_DIR and IN_DIR are two directories")
        if self.file_passed == self.file_failed:
            raise ValueError("FILE_PASSED and FILE_FAILED are two different codes")
        return self


class Accounts(_Group):
    """A bank call takes at most `deadline_s`; what a bank never saw is given to it again after `settle_after_s`."""

    deadline_s: Annotated[float, Field(gt=0)] = 10.0
    settle_after_s: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _long_enough(self) -> Accounts:
        if self.settle_after_s < 2 * self.deadline_s:
            raise ValueError("settle_after_s must be at least twice deadline_s: a call may still be on its way")
        return self


class Workers(_Group):
    """`threads` of one worker process; `window` bounds how many work orders of a queue lie in the broker.

    `order_lease_s` is how long the broker may keep an order, `lease_s` how long a worker may take for one (default: the stage's own).
    """

    threads: Annotated[int, Field(ge=1, le=64)] = 4
    window: Annotated[int, Field(ge=1, le=10_000)] = 16
    order_lease_s: Annotated[int, Field(ge=2)] = 600
    lease_s: Annotated[int, Field(ge=2)] | None = None


class PhotoSettings(_Group):
    """`processes` make photos for one worker, each `recycle_after` photos long and within `memory_mb` of address space.

    One photo may take `cpu_s` of CPU time and `wall_s` in all.
    """

    processes: Annotated[int, Field(ge=1, le=64)] = Field(default_factory=lambda: min(2, len(os.sched_getaffinity(0))))
    wall_s: Annotated[float, Field(gt=0)] = 10.0
    cpu_s: Annotated[int, Field(ge=1)] = 3
    memory_mb: Annotated[int, Field(ge=320)] = 768
    recycle_after: Annotated[int, Field(ge=1)] = 500


class Encoders(_Group):
    """`virtual`: cards are virtual, in `readers` readers side by side; otherwise PC/SC readers, those of `names` or all there are.

    A name may be a part of the reader's that no other reader shares. After `watchdog_s` without an answer a card counts as mute.
    `printer`: a directory for PDFs, or the address of an IPP printer; empty: nothing is printed. `trace`: each command to a card and
    its answer are logged with their header, lengths and time.
    """

    station: str = "enc_1"
    virtual: bool = True
    readers: Annotated[int, Field(ge=1, le=64)] = 2
    names: tuple[str, ...] = ()
    watchdog_s: Annotated[float, Field(gt=0)] = 30.0
    printer: str = ""
    trace: bool = False


class Keys(_Group):
    """Where card keys are kept, and what opens that place.

    `demo`: published test keys; the default of a demo, test or development installation. `vault`: an encrypted file, opened by
    the passphrase in `passphrase_file`. `pkcs11`: the token labelled `token` behind `module`, opened by the PIN in `pin_file`.
    `dir` holds the vault, the custodians and the ceremony log; empty: `keys` in the data directory.
    """

    store: Literal["demo", "vault", "pkcs11"] | None = None
    dir: Path | None = None
    passphrase_file: Path | None = None
    module: Path | None = None
    token: str | None = None
    pin_file: Path | None = None


class Metrics(_Group):
    """Where the timers serve the installation's metrics, `host:port`; empty for nowhere."""

    bind: str = "127.0.0.1:8701"

    @field_validator("bind")
    @classmethod
    def _host_and_port(cls, bind: str) -> str:
        host, colon, port = bind.rpartition(":")
        if bind and not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError("must be host:port, or empty for nowhere")
        return bind


class Webhooks(_Group):
    """Where webhooks to outlets may go: `allow` lists networks, such as `10.20.0.0/16`; nothing else is reached.

    Loopback, link-local, multicast and metadata addresses need an entry of their own, within their network. `plain_http` lists those
    that may be reached without TLS. `ca`: a PEM file of authorities instead of the system's. `connections`: how many attempts are
    under way at most.
    """

    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    plain_http: tuple[IPv4Network | IPv6Network, ...] = ()
    ca: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=30)] = 15.0
    connections: Annotated[int, Field(ge=2, le=10_000)] = 512


class FileIntake(_Group):
    """Where batch files arrive, as `<dir>/<client>/in`; empty: `intake` in the data directory."""

    dir: Path | None = None


class Settings(BaseSettings):
    """Everything an installation is told."""

    model_config = SettingsConfigDict(
        env_prefix="ZHIKA_", env_nested_delimiter="__", toml_file="zhika.toml", extra="ignore", frozen=True
    )

    env: Environment = "development"
    data_dir: Path = Path("zhika-data")
    key_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    database: Database = Field(
        default_factory=lambda known: Database(url=f"sqlite:///{known['data_dir'] / 'zhika.db'}")
    )
    broker: Broker = Broker()
    banks: dict[str, Bank] = {}
    accounts: Accounts = Accounts()
    workers: Workers = Workers()
    photo: PhotoSettings = PhotoSettings()
    encoders: Encoders = Encoders()
    keys: Keys = Keys()
    metrics: Metrics = Metrics()
    webhooks: Webhooks = Webhooks()
    file_intake: FileIntake = FileIntake()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.database.url.startswith("sqlite") and self.broker.url != "inprocess://":
            raise ValueError(
                "SQLite 只能与 inprocess:// 一起使用；使用 RabbitMQ 请配置 PostgreSQL"
                " / SQLite goes with inprocess:// only; with RabbitMQ set ZHIKA_DATABASE__URL to PostgreSQL"
            )
        return self

    @field_validator("banks")
    @classmethod
    def _directories_of_their_own(cls, banks: dict[str, Bank]) -> dict[str, Bank]:
        used = [place for bank in banks.values() for place in (bank.out_dir, bank.in_dir) if place is not None]
        if "default" in banks and banks["default"].out_dir is not None:
            raise ValueError(
                "directories are set for a bank by its code, not for DEFAULT: files name batches of one bank"
            )
        if len(used) != len(set(used)):
            raise ValueError("two banks share a directory: a file would be read for the wrong one")
        return banks

    @property
    def embedded(self) -> bool:
        """One process does everything."""
        return self.broker.url == "inprocess://"

    @property
    def intake_dir(self) -> Path:
        """Where batch files arrive."""
        return self.file_intake.dir or self.data_dir / "intake"

    @property
    def keys_dir(self) -> Path:
        """Where custodians, ceremony log and vault lie."""
        return self.keys.dir or self.data_dir / "keys"

    @property
    def installation_key(self) -> Path:
        """Where the installation's key lies."""
        return self.key_file or self.data_dir / "installation.key"


_OTHER_NAMES = ("ZHIKA_SUPERVISOR", "ZHIKA_TEST_")


def _strange_names() -> list[str]:
    """Names in the environment that look like settings and are none: a misspelt one would be ignored in silence."""
    groups = {f"ZHIKA_{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name
        for name in map(str.upper, os.environ)
        if name.startswith("ZHIKA_") and not name.startswith(_OTHER_NAMES) and name.partition("__")[0] not in groups
    )


class OnlyGiven(Settings):
    """Settings that neither the environment nor a file has a say in."""

    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def load(kind: type[Settings] = Settings, /, **given: object) -> Settings:
    """Read the configuration; `given` goes before what is read.

    Raises:
        BadConfiguration: a value cannot be used.
    """
    if kind is Settings and (strange := _strange_names()):
        known = ", ".join(f"ZHIKA_{name.upper()}" for name in Settings.model_fields)
        raise BadConfiguration([f"{name}: no such setting; there are {known}" for name in strange])
    try:
        return kind(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False, include_input=False):
            if item["type"] == "default_factory_not_called":  # follows from another problem
                continue
            name = "ZHIKA_" + "__".join(str(part).upper() for part in item["loc"]) if item["loc"] else "configuration"
            problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
        raise BadConfiguration(problems) from None
    except ValueError as error:  # a zhika.toml that is not TOML
        raise BadConfiguration([f"zhika.toml: {error}"]) from None
