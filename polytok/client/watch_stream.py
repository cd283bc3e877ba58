"""Watching a record until its state is terminal, across restarts of the service."""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar

from polytok import errors
from polytok.client import resource_names
from polytok.client.transport import Transport
from polytok.errors import codec
from polytok.errors.v1 import errors_pb2

PATIENCE_SECONDS = 60
"""How long a watch keeps retrying a service that does not answer."""
TERMINAL_STATES = {"READY", "DONE", "ERROR", "CANCELLED", "PAUSED"}


class HasState(Protocol):
    """A message with a state."""

    DESCRIPTOR: Any
    state: Any


class Record(HasState, Protocol):
    """The fields that all records share."""

    name: str
    error_reason: str
    error_message: str

    @property
    def error(self) -> errors_pb2.Error:
        """The error that ended the work, in full."""


Watched = TypeVar("Watched", bound=Record)
OpenStream = Callable[[float | None], AsyncGenerator[Watched, None]]
"""Opens a stream of a record's versions that may last this many seconds."""

_UNKNOWN = "UNKNOWN"


def state(record: HasState) -> str:
    """Return the name of the record's state, such as READY; UNKNOWN_9 for one that only a newer server knows."""
    known = record.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number.get(record.state)
    return f"{_UNKNOWN}_{record.state}" if known is None else str(known.name).removeprefix("STATE_")


def is_terminal(record: HasState) -> bool:
    """Return whether the state changes only by a retry or a resume."""
    return state(record) in TERMINAL_STATES


async def follow(
    transport: Transport, open_stream: OpenStream[Watched], seconds: float | None = None
) -> AsyncGenerator[Watched, None]:
    """Yield the record as it is and after every change, to a terminal state; reopens streams that break."""
    deadline = _RetryDeadline(seconds)
    last: Watched | None = None
    ended: Watched | None = None
    while True:
        try:
            stream = open_stream(deadline.left())
            try:
                async for record in stream:
                    deadline.answered()
                    _keep_progress(record, last)
                    last = record
                    yield record
                    if is_terminal(record):
                        return
            finally:
                await stream.aclose()
            deadline.answered()  # a draining service ends streams early
            if last is not None and state(last).startswith(_UNKNOWN) and last == ended:
                # The stream ended twice in this unknown state without a change, so the state is terminal.
                return
            ended = last
        except errors.Unavailable:
            if deadline.is_patience_over():
                raise
        await transport.sleep(deadline.pause())


def _keep_progress(record: Any, last: Any) -> None:
    """Never let progress decrease: a service that has just restarted knows an older figure."""
    if last is None or is_terminal(record) or "progress" not in record.DESCRIPTOR.fields_by_name:
        return
    if record.job == last.job:
        record.progress = max(record.progress, last.progress)


class _RetryDeadline:
    """Limits how long a watch lasts and keeps retrying, and spaces its retries."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self.answered()

    def left(self) -> float | None:
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise errors.DeadlineExceeded(f"Not done within {self._timeout:g} s; the work continues.")
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


async def until_ready(transport: Transport, open_stream: OpenStream[Watched], seconds: float | None = None) -> Watched:
    """Return the record once it is READY. Raises the error that ended it otherwise, or DeadlineExceeded."""
    record: Watched | None = None
    try:
        async for version in follow(transport, open_stream, seconds):
            record = version
    except errors.DeadlineExceeded:
        if record is None:
            raise
        raise errors.DeadlineExceeded(
            f"{record.name} is {state(record)}; it was not READY within {seconds:g} s. The work continues."
        ) from None
    if record is None:
        raise errors.Internal("The watch stream ended before the first update.")
    return ready(record)


def ready(record: Watched) -> Watched:
    """Return the record if it is READY. Raises the error that ended it otherwise, or FailedPrecondition."""
    match state(record):
        case "READY":
            return record
        case "PAUSED":
            raise not_ready(record, f"`polytok training resume {resource_names.short(record.name)}` continues it.")
        case "CANCELLED":
            raise errors.Cancelled(f"{record.name} was cancelled.")
        case "ERROR":
            message = f"{record.name}: {record.error_message or 'it failed.'}"
            raise codec.from_record(record.error_reason, message, record.error)
        case word if word.startswith(_UNKNOWN):
            raise not_ready(
                record, "this client is older than the server and does not know that state. Upgrade polytok."
            )
        case _:
            kind = resource_names.kind(record.name)
            raise not_ready(record, f"`polytok {kind} watch {resource_names.short(record.name)}` shows its progress.")


def not_ready(record: Record, advice: str) -> errors.FailedPrecondition:
    """Return the error of a record that is not READY."""
    return errors.FailedPrecondition(
        f"{record.name} is {state(record)}, not READY; {advice}",
        reason="NOT_READY",
        metadata={"resource": record.name, "state": state(record)},
    )
