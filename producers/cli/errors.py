"""What a command's failure looks like: one line that tells what to do, and an exit code that says what kind it is."""

from __future__ import annotations

import logging
import sys

from card_personalization.errors import (
    ApduError,
    CardError,
    KeyRefused,
    ProfileError,
    ReaderBusy,
    ReaderGone,
    ServiceDown,
    StaleHandle,
    UnknownCard,
)
from config.policies import PolicyFileError
from config.settings import BadConfiguration
from pipeline.errors import Conflict, NotFound, Refused, TransientError, ZhikaError

DONE, FAILED, USAGE, NOT_FOUND, REFUSED, PARTLY = 0, 1, 2, 3, 4, 5
DOWN, BUSY, BAD_CONFIGURATION, INTERRUPTED = 69, 75, 78, 130


def report(error: BaseException) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    match error:
        case BadConfiguration():
            for problem in error.problems:
                _say(f"配置错误 bad configuration: {problem}")
            return BAD_CONFIGURATION
        case PolicyFileError():
            _say(f"配置错误 bad configuration: {error}")
            return BAD_CONFIGURATION
        case NotFound():
            _say(f"{error.reason_code}: {error}")
            return NOT_FOUND
        case Conflict() if error.reason_code == "database-in-use":
            _say(f"{error.reason_code}: {error}")
            return BUSY
        case Refused():
            _say(f"{error.reason_code}: {error}")
            return REFUSED
        case KeyRefused():
            _say(f"密钥不可用 key refused: {error}")
            return REFUSED
        case ReaderBusy():
            _say(f"读卡器 reader {error}")
            return BUSY
        case ServiceDown() | StaleHandle():
            _say(f"读卡器 reader {error}")
            return DOWN
        case ReaderGone():
            _say(f"读卡器 reader {error}")
            return NOT_FOUND
        case ProfileError():
            _say(f"配置错误 bad configuration: {error}")
            return BAD_CONFIGURATION
        case ApduError() | UnknownCard():
            _say(f"不是所要的卡，或无法读取 not a card of this kind, or it cannot be read: {error}")
            return REFUSED
        case CardError():
            _say(f"卡片 card: {error}")
            return REFUSED
        case TransientError():
            _say(f"服务不可用，请稍后重试 service unavailable, try again: {error}")
            return DOWN
        case ZhikaError():
            _say(f"失败 failed: {error}")
            return FAILED
        case OSError():
            _say(f"失败 failed: {error.strerror or type(error).__name__}: {error.filename or ''}".rstrip(": "))
            return FAILED
        case _:
            logging.getLogger("zhika.cli").debug("internal error", exc_info=error)
            _say(f"内部错误 internal error: {type(error).__name__}; ZHIKA_LOG_LEVEL=debug shows where")
            return FAILED


def _say(text: str) -> None:
    print(f"zhika: {text}", file=sys.stderr)
