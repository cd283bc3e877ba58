"""The error hierarchy shared by client and services.

PolytokError
├── InvalidArgument       invalid input: the message names the field and the fix
├── NotFound              no resource, file or column of that name
├── AlreadyExists         the name is taken; the message says what differs
├── FailedPrecondition    valid call in the wrong state: not READY, held
├── Aborted               lost a race: a lease was fenced, an etag is stale
├── PermissionDenied      credentials are missing or rejected
├── ResourceExhausted     a limit was reached
├── Cancelled             the work was cancelled
├── DeadlineExceeded      no response in time    (retryable)
├── Unavailable           a service is away      (retryable)
├── DataLoss              stored data is damaged
└── Internal              a bug in Polytok

Domain code raises these; services map them to a gRPC status with google.rpc.ErrorInfo and BadRequest details
(AIP-193), and the client maps the status back to the same class. No framework is imported here.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

DOMAIN = "polytok.dev"
"""The `domain` of every google.rpc.ErrorInfo that Polytok sends."""


class FieldViolation(NamedTuple):
    """An invalid field of a request, and why it is invalid."""

    field: str
    description: str


class PolytokError(Exception):
    """Base class of every error that Polytok raises.

    `message` says what is wrong and what to do; `reason` is a `polytok.errors.v1.ErrorReason` without its prefix, for
    programs; `metadata` holds short values; `violations` lists the invalid fields; `retryable` says whether the same
    call may succeed later without any change.
    """

    default_reason: ClassVar[str] = "INTERNAL"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retryable = self.default_retryable if retryable is None else retryable


class InvalidArgument(PolytokError):
    """The input is invalid."""

    default_reason = "INVALID_FIELD"


class NotFound(PolytokError):
    """The resource does not exist."""

    default_reason = "RESOURCE_NOT_FOUND"


class AlreadyExists(PolytokError):
    """Another resource has that name."""

    default_reason = "RESOURCE_EXISTS"


class FailedPrecondition(PolytokError):
    """The system is not in the state that the call needs."""

    default_reason = "WRONG_STATE"


class Aborted(PolytokError):
    """The caller lost a race."""

    default_reason = "LEASE_LOST"


class PermissionDenied(PolytokError):
    """Credentials are missing or rejected."""

    default_reason = "HUB_UNAVAILABLE"


class ResourceExhausted(PolytokError):
    """A limit was reached."""

    default_reason = "STORAGE_FAILED"


class Cancelled(PolytokError):
    """The work was cancelled."""

    default_reason = "CANCELLED"


class DeadlineExceeded(PolytokError):
    """No response arrived in time; the call may have been executed."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class Unavailable(PolytokError):
    """A service is unavailable."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class DataLoss(PolytokError):
    """Stored data is damaged."""

    default_reason = "CHECKSUM_MISMATCH"


class Internal(PolytokError):
    """A bug in Polytok."""

    default_retryable = True
