"""What can go wrong, grouped by what the caller does next.

    ZhikaError
    ├── TransientError      certainly not done: try again by schedule
    ├── OutcomeUnknown      may have been done: ask, never repeat
    ├── NeedsOperator       a person decides: hold
    ├── StaleMessage        somebody else has moved the work on: drop and count
    ├── Defect              a fault of ours: park, alert, go on with the others
    └── Refused             the caller asked for what may not be; `code`, zh and en tell why
        ├── NotFound
        └── Conflict

A docstring is the default message, so text and documentation cannot drift apart.
"""

from __future__ import annotations

from typing import ClassVar


class ZhikaError(Exception):
    """Something went wrong in zhika."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class TransientError(ZhikaError):
    """The other side certainly did not do it; try again later."""


class OutcomeUnknown(ZhikaError):
    """The other side may have done it; ask before anything else."""


class NeedsOperator(ZhikaError):
    """A person has to decide. `zh` and `en` are shown to operators: they hold nothing of the person's."""

    def __init__(
        self, reason: str, message: str | None = None, *, zh: str = "需要人工处理", en: str = "A person has to decide"
    ) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.zh = zh
        self.en = en


class StaleMessage(ZhikaError):
    """The work this message spoke of has moved on."""


class Defect(ZhikaError):
    """A fault in zhika itself."""


class Refused(ZhikaError):
    """The request is refused."""

    code: ClassVar[str] = "refused"

    def __init__(self, zh: str, en: str, *, code: str | None = None, rule: str | None = None) -> None:
        super().__init__(f"{zh} / {en}")
        self.reason_code = code or self.code
        self.zh = zh
        self.en = en
        self.rule = rule


class NotFound(Refused):
    """What was named does not exist."""

    code = "not-found"


class Conflict(Refused):
    """What was asked contradicts what is."""

    code = "wrong-state"
