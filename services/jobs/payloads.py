"""Payloads and results: messages in a google.protobuf.Any."""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from polytok import errors
from services.jobs.model import TaskResult

Result = TypeVar("Result", bound=Message)


def to_any(message: Message) -> bytes:
    """Return the payload of a task."""
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed.SerializeToString()


def from_any(results: Sequence[TaskResult], expected: type[Result]) -> list[Result]:
    """Return the results of a stage, in the order of its tasks."""
    return [_unpacked(result, expected) for result in sorted(results, key=lambda each: each.ordinal)]


def _unpacked(result: TaskResult, expected: type[Result]) -> Result:
    message = expected()
    try:
        found = any_pb2.Any.FromString(result.result)
        right = found.Unpack(message)
    except DecodeError:
        right = False
    if not right:
        raise errors.Internal(
            f"A worker returned something other than {expected.DESCRIPTOR.name} for task {result.kind!r}: "
            "it runs another version than this service. Upgrade the older one.",
            retryable=False,
        )
    return message
