"""What can go wrong with a card, grouped by what the caller does next.

::

    CardError
    ├── PlanError          the order cannot be made: correct the data (all problems at once)
    ├── FaceError          the face cannot be printed: correct the data or the template
    ├── EncodingError      one value does not fit its field (the plan turns it into a Problem)
    ├── ProfileError       the deployment is wrong: fix the named key of the named file
    ├── KeyRefused         the deployment is wrong: a key is missing or must not be used
    ├── JournalConflict    somebody else is working on this very blank: leave it alone
    ├── UnknownCard        the chip is not of the kind the profile is for
    ├── ApduError          the card answered, and said no
    │   └── AuthenticationFailed   it refused our key; trying again costs the card a try
    └── CardLost           no answer: pulled, mute or torn; what it did last is not known

A read-back that differs is not an error but a value: see `verify.Verification`. No message carries personal data.
"""

from dataclasses import dataclass


class CardError(Exception):
    """The root of everything this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an order cannot be made: the field at fault, a stable code and a sentence without its value."""

    field: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text} [{self.code}]"


class _Problems(CardError):
    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class PlanError(_Problems):
    """The order cannot be turned into a plan; `problems` names everything that is wrong with it."""


class FaceError(_Problems):
    """The face cannot be drawn as the template asks; nothing was printed."""


class EncodingError(CardError):
    """A value does not fit its field; `code` is stable, the message carries no value."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class ProfileError(CardError):
    """A profile file is wrong at one key."""

    def __init__(self, file: str, key: str, text: str) -> None:
        super().__init__(f"{file}: {key}: {text}")
        self.file = file
        self.key = key


class KeyRefused(CardError):
    """A key is missing, malformed or must not be used here; the message names the key, never its value."""


class JournalConflict(CardError):
    """Another attempt took this blank between our look at the journal and our first entry."""


class UnknownCard(CardError):
    """The chip in the reader is not of the kind the profile describes."""


class ApduError(CardError):
    """The card answered with a status word that the step does not allow."""

    def __init__(self, data: bytes, sw: int) -> None:
        super().__init__(f"status word {sw:04X}")
        self.data = data
        self.sw = sw


class AuthenticationFailed(ApduError):
    """The card refused EXTERNAL AUTHENTICATE or a PIN. Never repeated automatically: each failure costs a try."""

    @property
    def blocked(self) -> bool:
        """Whether no try is left (SW 6983, or 63C0)."""
        return self.sw in (0x6983, 0x63C0)


class CardLost(CardError):
    """The card gave no answer. Whether it carried out the last command is not known."""
