"""Structured logs on standard error, one JSON document per line, without secrets.

A library module gets its logger from `get(__name__)`; `main` calls `configure` once.
"""

import contextlib
import logging as standard
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace

from services.runtime.settings import TelemetrySettings

get = structlog.get_logger

_SECRET_KEY = re.compile(r"password|passwd|secret|token$|authorization|api_?key|credential|cookie", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://)[^/@\s]*@", re.IGNORECASE)
_REDACTED = "[redacted]"

Event = MutableMapping[str, Any]


def configure(settings: TelemetrySettings, service: str) -> None:
    """Configure the logs of this process, including those of libraries."""
    level = standard.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_origin(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if settings.log_format == "json"
        else _console(sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = standard.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    # Libraries are noisy below warning, and may log what they send.
    standard.basicConfig(handlers=[handler], level=max(level, standard.WARNING), force=True)


class _Lossy:
    """A stream that drops what cannot be written: a log on a full disk stops no service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or drop the text."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, ignoring failures."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _with_origin(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: Event) -> Event:
        event["service"] = service
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
        return event

    return add


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """Redact values under keys that name a secret, and user and password in URLs."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = _REDACTED
        else:
            event[key] = _clean(value)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1{_REDACTED}@", value) if "://" in value else value
    if isinstance(value, dict):
        return {k: _REDACTED if isinstance(k, str) and _SECRET_KEY.search(k) else _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _console(colors: bool) -> structlog.dev.ConsoleRenderer:
    # The default would print every local variable of every frame, including secrets and messages of many megabytes.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


# Until `configure` is called, and in programs that never do: warnings only, and never on standard output.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(),
        structlog.processors.format_exc_info,
        redact,
        _console(False),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(standard.WARNING),
    logger_factory=lambda *_arguments: structlog.WriteLogger(cast("TextIO", _Lossy(sys.stderr))),
)
