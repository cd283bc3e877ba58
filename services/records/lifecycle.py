"""The states of a kind of resource, and which calls fit which. Free of any framework."""

from collections.abc import Callable
from dataclasses import dataclass

from polytok import errors


@dataclass(frozen=True)
class Lifecycle:
    """The states of one kind of resource, and the words for what it does on its way to READY."""

    first: str
    live: frozenset[str]
    terminal: frozenset[str]
    making: str
    wait: str
    """The command that waits for it; `{}` is the id."""
    retry: str
    """The command that tries again; `{}` is the id."""

    def is_live(self, status: str) -> bool:
        """Return whether a job is at it."""
        return status in self.live

    def require_ready(self, name: str, command_id: str, status: str, error_message: str) -> None:
        """Raise unless it is READY; the message says what to do."""
        require_ready(
            name, status, error_message, wait=self.wait.format(command_id), retry=self.retry.format(command_id)
        )

    def require_cancellable(self, name: str, status: str) -> None:
        """Raise unless a job is at it."""
        if status not in self.live:
            raise errors.FailedPrecondition(
                f"{name} is {status}; only one that is {_any_of(self.live, key=_order)} can be cancelled.",
                metadata={"resource": name, "state": status},
            )

    def require_retryable(self, name: str, status: str) -> None:
        """Raise unless it ended without becoming READY."""
        failed = self.terminal - {"READY"}
        if status not in failed:
            advice = f" It is {self.making} already." if status in self.live else ""
            raise errors.FailedPrecondition(
                f"{name} is {status}; only {_any_of(failed, key=_order)} can be retried.{advice}",
                metadata={"resource": name, "state": status},
            )


def require_ready(name: str, status: str, error_message: str, *, wait: str, retry: str) -> None:
    """Raise unless a record is READY; the message names the command that waits for it or tries again."""
    if status == "READY":
        return
    if status == "ERROR":
        advice = f"fix the cause and try again with `{retry}`. Its error: {error_message}"
    elif status == "CANCELLED":
        advice = f"start it again with `{retry}`."
    else:
        advice = f"wait until it is READY: `{wait}` shows how far it is."
    raise errors.FailedPrecondition(
        f"{name} is {status}; {advice}", reason="NOT_READY", metadata={"resource": name, "state": status}
    )


def shown_progress(percent: float) -> float:
    """Progress of a job that is at it: all its tasks may be done, yet it is not published."""
    return min(percent, 99.0)


_ORDER = ("PENDING", "QUEUED", "DOWNLOADING", "PROCESSING", "PAUSED", "READY", "ERROR", "CANCELLED")


def _order(state: str) -> int:
    return _ORDER.index(state)


def _any_of(states: frozenset[str], key: Callable[[str], int]) -> str:
    *rest, last = sorted(states, key=key)
    return f"{', '.join(rest)} or {last}" if rest else last
