"""The error tree, one for client and services.

PolytokError
├── InvalidArgument       bad input: the message names the field and the mend
├── NotFound              no resource, file or column of that name
├── AlreadyExists         another resource of that name, and what differs
├── FailedPrecondition    right call, wrong moment: not READY, held, wrong state
├── Aborted               lost a race: a lease was fenced, an etag is stale
├── PermissionDenied      credentials are missing or refused
├── ResourceExhausted     a limit was hit
├── Cancelled             somebody stopped it
├── DeadlineExceeded      no answer in time      (may be tried again)
├── Unavailable           a peer is away         (may be tried again)
├── DataLoss              stored bytes are not what was written
└── Internal              a defect of Polytok

Domain code raises these; services map them to a gRPC status with google.rpc.ErrorInfo and BadRequest details
(AIP-193), and the client maps the status back to the same class. No framework is imported here.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

DOMAIN = "polytok.dev"
"""The `domain` of every google.rpc.ErrorInfo that Polytok sends."""


class FieldViolation(NamedTuple):
    """A field of a request that is wrong, and why."""

    field: str
    description: str


class PolytokError(Exception):
    """Anything that Polytok raises.

    `message` says what is wrong and what to do; `reason` is a `polytok.errors.v1.ErrorReason` without its prefix,
    for programs; `metadata` holds short facts; `violations` lists the fields that are wrong; `retryable` tells
    whether the same call may succeed later without anybody changing anything.
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
    """The input is wrong."""

    default_reason = "INVALID_FIELD"


class NotFound(PolytokError):
    """There is no such thing."""

    default_reason = "RESOURCE_NOT_FOUND"


class AlreadyExists(PolytokError):
    """There is another thing of that name."""

    default_reason = "RESOURCE_EXISTS"


class FailedPrecondition(PolytokError):
    """The system is not in the state that the call needs."""

    default_reason = "WRONG_STATE"


class Aborted(PolytokError):
    """The caller lost a race."""

    default_reason = "LEASE_LOST"


class PermissionDenied(PolytokError):
    """Credentials are missing or refused."""

    default_reason = "HUB_UNAVAILABLE"


class ResourceExhausted(PolytokError):
    """A limit was hit."""

    default_reason = "STORAGE_FAILED"


class Cancelled(PolytokError):
    """Somebody stopped the work."""

    default_reason = "CANCELLED"


class DeadlineExceeded(PolytokError):
    """No answer came in time; what was asked for may have happened."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class Unavailable(PolytokError):
    """A peer is away."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class DataLoss(PolytokError):
    """Stored bytes are not what was written."""

    default_reason = "CHECKSUM_MISMATCH"


class Internal(PolytokError):
    """A defect of Polytok."""

    default_retryable = True
