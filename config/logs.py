"""Logs: one JSON object a line off a terminal, plain lines on one. Never a person's data: what is logged are ids and types."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator

import structlog

from card_personalization.transport import tracing

_QUIET = ("pika", "alembic", "PIL", "httpx2", "httpcore")


def configure(level: str = "info", *, role: str = "", trace: bool = False) -> None:
    """Send every logger of this process to stderr; `trace` lets the traffic with cards through, whatever the level."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_text,
    ]
    on_terminal = sys.stderr.isatty()
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.addLevelName(tracing.TRACE, "TRACE")
    tracing.log.setLevel(tracing.TRACE if trace else logging.NOTSET)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING if name != "pika" else logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    if role:
        structlog.contextvars.bind_contextvars(role=role)


def _without_text(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """An exception as what it is and where it was raised. Its text stays out: a database quotes parameters in it."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else sys.exc_info()[1] if given is True else given
    if isinstance(error, BaseException):
        event["raised"] = list(_told(error))
    return event


def _told(error: BaseException) -> Iterator[str]:
    """Type and frames, the innermost cause last."""
    yield f"{type(error).__module__}.{type(error).__qualname__}"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _told(cause)
