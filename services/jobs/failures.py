"""Why an attempt failed, on its way from the task process to the record."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from google.protobuf import json_format

from polytok import errors
from polytok.errors import codec
from polytok.errors.v1 import errors_pb2
from polytok.jobs.v1 import leases_pb2

_MAX_MESSAGE = 8000


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    reason: str
    """A `polytok.errors.v1.ErrorReason` without prefix."""
    message: str
    """The message that a user reads."""
    retryable: bool
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """A polytok.errors.v1.Error as JSON, with class, violations and metadata; empty from an older worker."""

    @classmethod
    def of(cls, error: errors.PolytokError) -> Self:
        """Return the failure for an error."""
        return cls(error.reason, error.message, error.retryable, codec.to_json(error))

    @classmethod
    def from_message(cls, reported: leases_pb2.TaskError) -> Self:
        """Return the failure that a worker reported."""
        details: dict[str, Any] = {}
        if reported.HasField("error"):
            details = json_format.MessageToDict(reported.error, preserving_proto_field_name=True)
        return cls(reported.reason, reported.message, reported.retryable, details)

    def columns(self) -> dict[str, Any]:
        """Return what a record stores of it."""
        return {"error_reason": self.reason, "error_message": self.message, "error": dict(self.details)}


NO_ERROR: Mapping[str, Any] = {"error_reason": "", "error_message": "", "error": {}}
"""Return what a record stores that did not fail or is tried again."""


def to_task_error(error: errors.PolytokError) -> leases_pb2.TaskError:
    """Return the message by which a worker reports an error."""
    # The contract rejects empty or unbounded messages.
    return leases_pb2.TaskError(
        reason=error.reason,
        message=(error.message or error.reason)[:_MAX_MESSAGE],
        retryable=error.retryable,
        error=codec.to_message(error),
    )


def from_task_error(reported: leases_pb2.TaskError) -> errors.PolytokError:
    """Return the error that a process or worker reported."""
    if reported.HasField("error"):
        return codec.from_message(reported.error)
    return errors.Internal(reported.message, reason=reported.reason, retryable=reported.retryable)


def to_proto(document: Mapping[str, Any]) -> errors_pb2.Error | None:
    """Return what a record shows of what it stores; None if it stores nothing."""
    return codec.from_json(document) if document else None
