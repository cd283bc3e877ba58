"""Limits how often something happens, such as a report of progress."""

import time


class Throttle:
    """Lets something happen at most once in a number of seconds; the first time is immediate."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = 0.0

    def ready(self, *, force: bool = False) -> bool:
        """Return whether it may happen now; if so, or if forced, the next interval begins."""
        if self.seconds_left() > 0 and not force:
            return False
        self.restart()
        return True

    def seconds_left(self) -> float:
        """Return how long it has to wait; 0 or less if it may happen now."""
        return self._due - time.monotonic()

    def restart(self) -> None:
        """Begin an interval now."""
        self._due = time.monotonic() + self._seconds
