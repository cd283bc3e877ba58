"""Why an attempt at a task failed, on its way from the worker's process to the record of what it worked at."""

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
    """What a user reads."""
    retryable: bool
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """A polytok.errors.v1.Error as JSON, for class, violations and metadata; none from an older worker."""

    @classmethod
    def of(cls, error: errors.PolytokError) -> Self:
        """Return the failure of an error."""
        return cls(error.reason, error.message, error.retryable, codec.to_json(error))

    @classmethod
    def from_message(cls, told: leases_pb2.TaskError) -> Self:
        """Return the failure that a worker told."""
        details: dict[str, Any] = {}
        if told.HasField("error"):
            details = json_format.MessageToDict(told.error, preserving_proto_field_name=True)
        return cls(told.reason, told.message, told.retryable, details)

    def columns(self) -> dict[str, Any]:
        """Return what a record keeps of it."""
        return {"error_reason": self.reason, "error_message": self.message, "error": dict(self.details)}


NO_ERROR: Mapping[str, Any] = {"error_reason": "", "error_message": "", "error": {}}
"""What a record keeps that did not fail, or is tried again."""


def to_task_error(error: errors.PolytokError) -> leases_pb2.TaskError:
    """Return what a worker tells of an error."""
    # Empty or boundless messages are refused by the contract.
    return leases_pb2.TaskError(
        reason=error.reason,
        message=(error.message or error.reason)[:_MAX_MESSAGE],
        retryable=error.retryable,
        error=codec.to_message(error),
    )


def from_task_error(told: leases_pb2.TaskError) -> errors.PolytokError:
    """Return the error that a process or a worker told."""
    if told.HasField("error"):
        return codec.from_message(told.error)
    return errors.Internal(told.message, reason=told.reason, retryable=told.retryable)


def to_proto(document: Mapping[str, Any]) -> errors_pb2.Error | None:
    """Return what a record shows of what it keeps; nothing where it keeps nothing."""
    return codec.from_json(document) if document else None
