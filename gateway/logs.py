import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.redact import redact

__all__ = ["configure_logging"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Their own words repeat ours, or are of interest only to who debugs them.
_QUIETER: Final = {
    "uvicorn.error": logging.WARNING,
    "asyncio": logging.WARNING,
    "websockets": logging.WARNING,
}


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the setting's own name
    *,
    stream: TextIO | None = None,
) -> None:
    """One line per event on `stream` (stderr), from structlog and the standard library alike.

    `auto` is console on a terminal, else JSON. Secrets are taken out whoever logged them (gateway.redact).
    """
    stream = stream or sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.processors.format_exc_info,
        _take_out_secrets,
        _console_renderer(stream) if console else _render_json,
    ]
    # Straight to the stream: by way of the standard library a line costs three times as much, and a crowd
    # that reconnects writes one for each client.
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda name="": _Lines(name, stream),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(_LEVELS[level] if level == "debug" else max(least, _LEVELS[level]))


class _Lines:
    """What structlog hands finished lines to."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        """Whoever logs does not fail because nobody reads it: as logging.StreamHandler has it."""
        with suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def _console_renderer(stream: TextIO) -> Processor:
    # An exception is text by then: secrets have been taken out of it.
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event", "logger") if name in event}
    return json.dumps({**first, **event}, default=str, ensure_ascii=False)  # unlike orjson, takes any number


def _take_out_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: _redacted(value) for name, value in event.items()}


def _redacted(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    return redact(str(value))
