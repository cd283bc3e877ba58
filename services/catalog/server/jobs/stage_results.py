"""Results of the earlier stages of a job."""

from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.jobs.model import Job, TaskResult
from services.jobs.repository import JobRepository

_rows = JobRepository(tables.jobs)


async def latest_results(conn: AsyncConnection, job: Job, kinds: Collection[str]) -> list[TaskResult]:
    """Return the results of a job's tasks of these kinds, by their places; of a task that was done again, the last."""
    found: dict[int, TaskResult] = {}
    for results in await every(conn, job):
        if results[0].kind in kinds:
            found.update({result.ordinal: result for result in results})
    return [found[ordinal] for ordinal in sorted(found)]


async def every(conn: AsyncConnection, job: Job) -> list[Sequence[TaskResult]]:
    """Return the results of every stage that there was."""
    found: list[Sequence[TaskResult]] = []
    while results := await _rows.results(conn, job.id, len(found)):
        found.append(results)
    return found


async def of_stage(conn: AsyncConnection, job: Job, stage: int) -> list[TaskResult]:
    """Return the results of one stage."""
    return await _rows.results(conn, job.id, stage)
