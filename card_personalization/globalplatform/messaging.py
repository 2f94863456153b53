"""The port of a secure channel protocol: pure state, one session. Must not know cards, rules or how a session was agreed."""

from __future__ import annotations

from typing import Protocol

from card_personalization.apdu import SW_SECURITY_STATUS, SW_SM_MISSING, SW_SM_WRONG, Apdu

ENDING = frozenset({SW_SECURITY_STATUS, SW_SM_MISSING, SW_SM_WRONG})
"""Status words after which the card has no session any more."""

WRONG_CRYPTOGRAM = (
    "the card does not prove that it has our keys: nothing was sent to it（卡片密码校验不符，未向卡片发送任何内容）"
)
CLOSED = "the secure channel is closed: begin a new one（安全通道已关闭，须重新建立）"


class SecureMessaging(Protocol):
    """One session. After any wrong answer, an `ENDING` status word or `close` its keys are dropped and it can only raise."""

    @property
    def authentication(self) -> Apdu:
        """EXTERNAL AUTHENTICATE, to be sent once and as it is; its answer is not unwrapped."""

    @property
    def max_data(self) -> int:
        """Bytes of plain data `wrap` takes."""

    def wrap(self, apdu: Apdu) -> Apdu:
        """The command as it goes over the line. Every call moves the session on: what is repeated is the result.

        Raises:
            ChannelBroken: the session is over.
            ValueError: more than `max_data` bytes; the session is as it was.
        """

    def unwrap(self, body: bytes, sw: int) -> bytes:
        """The plain body of the whole answer to the command wrapped last.

        Raises:
            ChannelBroken: the answer is not what the card alone can have made, or the session is over.
        """

    def close(self) -> None:
        """End the session. May be called twice."""
