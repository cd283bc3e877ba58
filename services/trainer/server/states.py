"""The states of a training, and which calls fit which."""

from polytok import errors
from services.records.lifecycle import Lifecycle

TRAINING = Lifecycle(
    first="QUEUED",
    live=frozenset({"QUEUED", "PROCESSING"}),
    terminal=frozenset({"READY", "ERROR", "CANCELLED"}),
    making="being trained",
    wait="polytok training watch {}",
    retry="polytok training retry {}",
)
HOLDING = frozenset({"QUEUED", "PROCESSING", "PAUSED"})
"""States in which the tokenization is needed."""


def require_pausable(resource: str, status: str) -> None:
    """Raise unless it runs, or will."""
    if not TRAINING.is_live(status):
        raise _wrong(resource, status, "only one that is QUEUED or PROCESSING can be paused.")


def require_paused(resource: str, identifier: str, status: str) -> None:
    """Raise unless it is PAUSED."""
    if status == "PAUSED":
        return
    if TRAINING.is_live(status):
        advice = "only PAUSED can be resumed. It is being trained already."
    elif status == "READY":
        advice = "only PAUSED can be resumed."
    else:
        advice = f"only PAUSED can be resumed; `{TRAINING.retry.format(identifier)}` trains again."
    raise _wrong(resource, status, advice)


def require_cancellable(resource: str, status: str) -> None:
    """Raise unless it is on its way."""
    if status not in HOLDING:
        raise _wrong(resource, status, "only one that is QUEUED, PROCESSING or PAUSED can be cancelled.")


def require_retryable(resource: str, identifier: str, status: str) -> None:
    """Raise unless it ended without becoming READY."""
    if status == "PAUSED":
        raise _wrong(resource, status, f"`polytok training resume {identifier}` goes on with it.")
    TRAINING.require_retryable(resource, status)


def _wrong(resource: str, status: str, advice: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        f"{resource} is {status}; {advice}", metadata={"resource": resource, "state": status}
    )
