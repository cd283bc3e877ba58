"""The SQL of the outbox: dispatches to be published, and tasks whose message was lost."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs.model import TaskState
from services.jobs.tables import JobTables

_CLOCK = sa.func.clock_timestamp()


def any_of(ids: Sequence[uuid.UUID]) -> sa.ColumnElement[Any]:
    """Match any of the ids."""
    # One array parameter: an IN list of thousands would be as many parameters.
    return sa.any_(sa.literal(list(ids), sa.ARRAY(sa.Uuid)))


class Outbox:
    """Statements on the outbox."""

    def __init__(self, tables: JobTables) -> None:
        self._jobs, self._tasks, self._outbox = tables.jobs, tables.tasks, tables.outbox

    async def clear(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        """Delete the dispatches of a job, except those locked by a dispatcher, which deletes them itself."""
        tasks, outbox = self._tasks, self._outbox
        free = sa.select(outbox.c.task_id, outbox.c.dispatch).join(tasks, tasks.c.id == outbox.c.task_id)
        free = free.where(tasks.c.job_id == job_id).with_for_update(of=outbox, skip_locked=True)
        await conn.execute(outbox.delete().where(sa.tuple_(outbox.c.task_id, outbox.c.dispatch).in_(free)))

    async def find_undispatched(self, conn: AsyncConnection) -> Sequence[sa.Row[uuid.UUID, str, int]]:
        """Return tasks that are due and have no outbox row: id, kind and number of the last dispatch."""
        table = self._tasks
        dispatched = sa.exists().where(
            self._outbox.c.task_id == table.c.id, self._outbox.c.dispatch == table.c.dispatch
        )
        query = sa.select(table.c.id, table.c.kind, table.c.dispatch)
        query = query.where(table.c.state == TaskState.READY.value, table.c.not_before <= _CLOCK, ~dispatched)
        return (await conn.execute(query)).all()

    async def overdue(
        self, conn: AsyncConnection, kinds: Sequence[str] | None, waited: timedelta, limit: int
    ) -> Sequence[sa.Row[uuid.UUID, str]]:
        """Return tasks (id, kind) that have been due for longer than `waited`, oldest first; None means any kind."""
        table = self._tasks
        query = sa.select(table.c.id, table.c.kind).where(table.c.state == TaskState.READY.value)
        query = query.where(table.c.not_before <= _CLOCK - waited)
        if kinds is not None:
            query = query.where(table.c.kind == sa.any_(sa.literal(list(kinds), sa.ARRAY(sa.Text))))
        return (await conn.execute(query.order_by(table.c.not_before, table.c.ordinal).limit(limit))).all()

    async def redispatch(self, conn: AsyncConnection, dispatches: dict[uuid.UUID, int]) -> int:
        """Put tasks back into the outbox that have not moved since the given dispatch; return how many.

        Tasks locked by others are moving: skipping them also avoids deadlocks between two writers of many rows.
        """
        table = self._tasks
        query = sa.select(table.c.id, table.c.dispatch).with_for_update(skip_locked=True)
        query = query.where(table.c.id == any_of(list(dispatches)), table.c.state == TaskState.READY.value)
        locked = [row for row in await conn.execute(query) if row.dispatch == dispatches[row.id]]
        if locked:
            again = table.update().where(table.c.id == any_of([row.id for row in locked]))
            await conn.execute(again.values(dispatch=table.c.dispatch + 1))
            entries = [{"task_id": row.id, "dispatch": row.dispatch + 1} for row in locked]
            await conn.execute(self._outbox.insert(), entries)
        return len(locked)

    async def next_due(self, conn: AsyncConnection) -> float | None:
        """Return the seconds until the first outbox row is due, 0 or less if it is; None if the outbox is empty."""
        first = (await conn.execute(sa.select(sa.func.min(self._outbox.c.due_at) - _CLOCK))).scalar_one()
        return None if first is None else float(first.total_seconds())

    async def lock_due(self, conn: AsyncConnection, limit: int) -> Sequence[sa.Row[Any]]:
        """Lock due outbox rows, except those locked by others; `live` says whether they still need publishing."""
        outbox, tasks, jobs = self._outbox, self._tasks, self._jobs
        ready = sa.and_(tasks.c.state == TaskState.READY.value, tasks.c.dispatch == outbox.c.dispatch)
        query = (
            sa.select(outbox.c.task_id, outbox.c.dispatch, tasks.c.kind, jobs.c.trace, ready.label("live"))
            .outerjoin_from(outbox, tasks, tasks.c.id == outbox.c.task_id)
            .outerjoin(jobs, jobs.c.id == tasks.c.job_id)
            .where(outbox.c.due_at <= _CLOCK)
            .order_by(outbox.c.due_at)
            .limit(limit)
            .with_for_update(of=outbox, skip_locked=True)
        )
        return (await conn.execute(query)).all()

    async def drop(self, conn: AsyncConnection, dispatched: Sequence[sa.Row[Any]]) -> None:
        """Delete rows of the outbox."""
        if dispatched:
            keys = [(row.task_id, row.dispatch) for row in dispatched]
            await conn.execute(
                self._outbox.delete().where(sa.tuple_(self._outbox.c.task_id, self._outbox.c.dispatch).in_(keys))
            )
