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
    │   └── CardSwapped            it is another one than the reader held before
    ├── ApduError          the card answered, and said no
    │   └── AuthenticationFailed   it refused our key; trying again costs the card a try
    ├── ChannelError       the card's side of a secure channel is not what it must be
    │   ├── ChannelRefused         none was begun and the card is as it was: look at card and profile
    │   └── ChannelBroken          it is gone for good: what the card took last is to be read back in a new one
    └── CardLost           no answer: pulled, mute or torn; what it did last is not known
        ├── CardMute               it lets the reader wait: suspect; the other readers go on
        └── ReaderError            no card was reached, or is reached any more
            ├── NoUsableCard       none in the reader, or one that does not answer to reset: put a card in
            ├── ReaderBusy         another program holds the reader: end that program; it is never shared
            ├── ReaderGone         unplugged: the other readers go on
            ├── ServiceDown        pcscd is not there: wait for it and list the readers again
            └── StaleHandle        a handle of a pcscd that was restarted: drop it

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
    """A profile file is wrong at one key; `line` counts from 1."""

    def __init__(self, file: str, key: str, text: str, *, line: int | None = None) -> None:
        super().__init__(f"{file}{'' if line is None else f':{line}'}: {key}: {text}")
        self.file = file
        self.key = key
        self.line = line


class KeyRefused(CardError):
    """A key is missing, malformed or must not be used here; the message names the key, never its value."""


class JournalConflict(CardError):
    """Another attempt took this blank between our look at the journal and our first entry."""


class UnknownCard(CardError):
    """The chip in the reader is not of the kind the profile describes."""


class CardSwapped(UnknownCard):
    """Another card is in the reader than the one the work was begun on. Nothing was sent to it but questions."""


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


class ChannelError(CardError):
    """A secure channel cannot be had, or is over; the message carries no data."""


class ChannelRefused(ChannelError):
    """The card offers another secure channel than the profile allows, or does not prove its keys; it was told nothing yet."""


class KeyCheckFailed(ChannelRefused):
    """The card has other keys than ours, or another version of them: every further card would lose a try."""


class ChannelBroken(ChannelError):
    """A secure channel saw a wrong MAC or was used after its end."""


class CounterAlarm(ChannelError):
    """The sequence counter of a chip did not rise between two sessions: it may not be the chip it says it is."""


class CardLost(CardError):
    """The card gave no answer. Whether it carried out the last command is not known."""


class CardMute(CardLost):
    """The card has been given too long for one answer; its state is not known until it is read in a reader again."""


class ReaderError(CardLost):
    """A reader, not a card, is at fault; a subclass says in both languages what and what to do, this one adds which."""

    zh = "读卡器无法使用"
    en = "the reader cannot be used"

    def __init__(self, reader: str, hresult: int | None = None) -> None:
        code = "" if hresult is None else f" [{hresult:08X}]"
        super().__init__(f"{reader}: {self.zh} / {self.en}{code}")
        self.reader = reader
        self.hresult = hresult


class NoUsableCard(ReaderError):
    """Nothing in the reader answers to reset."""

    zh = "没有可用的卡，请放入卡片"
    en = "no usable card: put a card in"


class ReaderBusy(ReaderError):
    """Another program holds the reader."""

    zh = "被其他程序占用，请关闭该程序"
    en = "another program holds it: end that program"


class ReaderGone(ReaderError):
    """The reader was unplugged."""

    zh = "读卡器已断开，请重新连接"
    en = "the reader is gone: plug it in again"


class ServiceDown(ReaderError):
    """The PC/SC service does not answer."""

    zh = "智能卡服务 pcscd 未运行，请启动"
    en = "the smart card service pcscd does not answer: start it"


class StaleHandle(ReaderError):
    """The handle belongs to a PC/SC service that was restarted meanwhile."""

    zh = "智能卡服务已重启，需重新连接"
    en = "the smart card service was restarted: connect again"
