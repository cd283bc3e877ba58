"""The copy, batch by batch."""

import logging
import time

from polytok import errors
from services.catalog.server.migrations import execution

_log = logging.getLogger(__name__)

# Old code that wants to change one of the rows waits for the rest of its batch: tens of milliseconds.
_SIZE = 100
_PATIENCE_SECONDS = 120.0
_LEFT = """
    SELECT count(*) FROM public.datasets AS d
    WHERE NOT EXISTS (SELECT FROM rollout.links AS l WHERE l.dataset_id = d.id)
      AND NOT EXISTS (SELECT FROM rollout.unsynced AS u WHERE u.dataset_id = d.id)
"""


def copy() -> None:
    """Take over every dataset that was not yet. Outside a transaction, each batch commits."""
    copied = 0
    waiting_since = time.monotonic()
    while True:
        seen = execution.value(f"SELECT rollout.copy_batch({_SIZE})")
        copied += seen
        if seen:
            waiting_since = time.monotonic()
            continue
        # A row that is neither taken over nor given is locked: somebody is changing it, and its trigger takes it over.
        left = execution.value(_LEFT)
        if not left:
            break
        if time.monotonic() - waiting_since > _PATIENCE_SECONDS:
            raise errors.Unavailable(
                f"Transactions have kept {left} rows of the old datasets locked for {_PATIENCE_SECONDS:.0f} s. End "
                f"them (see pg_stat_activity) and migrate again; it goes on where it stopped."
            )
        time.sleep(0.1)
    _log.info("took over %d datasets", copied)


def check_complete() -> None:
    """Refuse to go on while something that old code wrote is not in the new tables."""
    if execution.value("SELECT rollout.resync()") == 0:
        return
    problems = execution.rows("SELECT dataset_id, problem FROM rollout.unsynced ORDER BY dataset_id LIMIT 5")
    listed = "; ".join(f"{dataset}: {problem}" for dataset, problem in problems)
    raise errors.FailedPrecondition(
        f"Some old datasets cannot be taken over, so the old tables stay. Fix these rows of public.datasets and "
        f"migrate again. {listed}"
    )
