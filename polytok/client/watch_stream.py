"""Watching a record until its terminal state, across restarts of the catalog."""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar

from polytok import errors
from polytok.client import resource_names, transport
from polytok.errors import codec
from polytok.errors.v1 import errors_pb2

PATIENCE_SECONDS = 60
"""How long a watch goes on asking a catalog that does not answer."""


class HasState(Protocol):
    """What has a state."""

    DESCRIPTOR: Any
    state: Any


class Record(HasState, Protocol):
    """What datasets, models and tokenizations have in common."""

    name: str
    error_reason: str
    error_message: str

    @property
    def error(self) -> errors_pb2.Error:
        """All of why it failed."""


Watched = TypeVar("Watched", bound=Record)
OpenStream = Callable[[float | None], AsyncGenerator[Watched, None]]
"""Opens a stream of a record's versions that may last so many seconds."""

_UNKNOWN = "UNKNOWN"
_KINDS = {"datasets": "dataset", "models": "model", "extractions": "extraction", "trainings": "training"}
TERMINAL_STATES = {"READY", "DONE", "ERROR", "CANCELLED", "PAUSED"}


def state(record: HasState) -> str:
    """Return the record's state as a word: READY, ERROR and so on; UNKNOWN_9 for one that only a newer server knows."""
    known = record.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number.get(record.state)
    return f"{_UNKNOWN}_{record.state}" if known is None else str(known.name).removeprefix("STATE_")


def is_terminal(record: HasState) -> bool:
    """Return whether the state stays until somebody retries, or resumes."""
    return state(record) in TERMINAL_STATES


async def follow(
    transport: transport.Transport, open_stream: OpenStream[Watched], seconds: float | None = None
) -> AsyncGenerator[Watched, None]:
    """Yield the record as it is and after every change, to its terminal state; takes up again where a stream broke."""
    clock = _RetryDeadline(seconds)
    last: Watched | None = None
    ended: Watched | None = None
    while True:
        try:
            stream = open_stream(clock.left())
            try:
                async for record in stream:
                    clock.answered()
                    _keep_progress(record, last)
                    last = record
                    yield record
                    if is_terminal(record):
                        return
            finally:
                await stream.aclose()
            clock.answered()  # a draining catalog ends streams early
            if last is not None and state(last).startswith(_UNKNOWN) and last == ended:
                # Streams end with it, and it does not change: whatever it means, the record is at rest.
                return
            ended = last
        except errors.Unavailable:
            if clock.is_patience_over():
                raise
        await transport.sleep(clock.pause())


def _keep_progress(record: Any, last: Any) -> None:
    """Leave progress where it was shown: a catalog that has just started has heard of less of it."""
    if last is None or is_terminal(record) or "progress" not in record.DESCRIPTOR.fields_by_name:
        return
    if record.job == last.job:
        record.progress = max(record.progress, last.progress)


class _RetryDeadline:
    """How long to go on, and how long to wait between two tries."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self.answered()

    def left(self) -> float | None:
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise errors.DeadlineExceeded(f"Not done within {self._timeout:g} s; the work goes on.")
        return left

    def answered(self) -> None:
        self._silent_since: float | None = None
        self._pause = 0.1

    def is_patience_over(self) -> bool:
        self._silent_since = self._silent_since or time.monotonic()
        return time.monotonic() - self._silent_since > PATIENCE_SECONDS

    def pause(self) -> float:
        pause, self._pause = self._pause, min(2.0, self._pause * 2)
        return pause


async def until_ready(
    transport: transport.Transport, open_stream: OpenStream[Watched], seconds: float | None = None
) -> Watched:
    """Return the record once it is READY; raises what ended it otherwise, or DeadlineExceeded."""
    record: Watched | None = None
    try:
        async for version in follow(transport, open_stream, seconds):
            record = version
    except errors.DeadlineExceeded:
        if record is None:
            raise
        raise errors.DeadlineExceeded(
            f"{record.name} is {state(record)} and was not READY within {seconds:g} s; the work goes on."
        ) from None
    if record is None:
        raise errors.Internal("The catalog told nothing of the record.")
    return ready(record)


def ready(record: Watched) -> Watched:
    """Return the record if it is READY; raises what ended it otherwise."""
    match state(record):
        case "READY":
            return record
        case "PAUSED":
            raise errors.FailedPrecondition(
                f"{record.name} is PAUSED; `polytok training resume {resource_names.short(record.name)}` continues it.",
                reason="NOT_READY",
            )
        case "CANCELLED":
            raise errors.Cancelled(f"{record.name} was cancelled.")
        case "ERROR":
            message = f"{record.name}: {record.error_message or 'it failed.'}"
            raise codec.from_record(record.error_reason, message, record.error)
        case word:
            advice = (
                "this client is older than the server and does not know that state. Upgrade polytok."
                if word.startswith(_UNKNOWN)
                else f"`polytok {_kind(record)} watch {resource_names.short(record.name)}` shows how far it is."
            )
            raise errors.FailedPrecondition(
                f"{record.name} is {word} and not READY yet; {advice}",
                reason="NOT_READY",
                metadata={"resource": record.name, "state": word},
            )


def _kind(record: Record) -> str:
    """Return what commands call it."""
    return "tokenization" if "/tokenizations/" in record.name else _KINDS[record.name.partition("/")[0]]
