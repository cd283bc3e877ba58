"""Running SQL in a revision."""

import logging
import time
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from polytok import errors

_log = logging.getLogger(__name__)

# Below Postgres' deadlock_timeout (1 s): in a deadlock with live traffic it is the migration that gives way, always.
_LOCK_TIMEOUT_MILLISECONDS = 400
_LOCK_PATIENCE_SECONDS = 120.0
_LOCK_NOT_AVAILABLE = "55P03"


def run(*statements: str) -> None:
    """Run statements as they are written; a colon in them names no parameter."""
    bind = op.get_bind()
    for statement in statements:
        bind.exec_driver_sql(statement)


def run_with(statement: str, parameter: str) -> None:
    """Run a statement with a parameter, $1."""
    op.get_bind().exec_driver_sql(statement, (parameter,))


def value(statement: str) -> int:
    """Run a statement that gives one number."""
    return int(op.get_bind().exec_driver_sql(statement).scalar_one() or 0)


def flag(statement: str) -> bool:
    """Run a statement that answers yes or no."""
    return bool(op.get_bind().exec_driver_sql(statement).scalar_one())


def rows(statement: str) -> list[tuple[object, ...]]:
    """Run a statement that gives rows."""
    return [tuple(row) for row in op.get_bind().exec_driver_sql(statement)]


def run_locking(*statements: str) -> None:
    """Run statements that need strong locks without making live traffic queue behind them.

    A statement that waits for a strong lock makes every later one on the table wait too. So this waits briefly, lets
    the others pass, and tries again.

    Several tables need `lock_tables` first, in the order in which live traffic writes them: in another order each try
    can end in a deadlock with the next transaction, for as long as there is traffic.
    """
    _patiently(lambda: run(*statements))


def lock_tables(*tables: str) -> str:
    """Return a statement that locks tables one after the other, without a round trip in which traffic comes between."""
    return f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"


def _patiently(action: Callable[[], None]) -> None:
    bind = op.get_bind()
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    pause = 0.05
    while True:
        savepoint = bind.begin_nested()
        try:
            run(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_MILLISECONDS}ms'")
            action()
            savepoint.commit()
            return
        except sa.exc.DBAPIError as error:
            savepoint.rollback()
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            if time.monotonic() > deadline:
                raise errors.Unavailable(
                    f"A transaction has kept the tables locked for {_LOCK_PATIENCE_SECONDS:.0f} s; nothing was "
                    f"changed by this revision. End that transaction (see pg_stat_activity) and migrate again."
                ) from error
            _log.info("waiting for a lock on the tables")
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
