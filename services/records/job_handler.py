"""What job handlers have in common: a job changes the record that it works on, and shows its failure there."""

from collections.abc import Mapping
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs.failures import Failure
from services.jobs.model import Job, JobHandler
from services.records import lifecycle
from services.records.repository import RecordRepository


class RecordJobHandler(JobHandler):
    """A handler whose record has `status`, `error_reason`, `error_message`, `error` and `completed_at`."""

    repository: ClassVar[RecordRepository[Any, Any]]
    on_ending: ClassVar[Mapping[str, Any]] = {}
    """What else changes in a record whose job fails or is cancelled."""

    async def change(self, conn: AsyncConnection, job: Job, **values: Any) -> None:
        """Change the record of a job, if it still exists."""
        record = await self.repository.find_by_job(conn, job.id)
        if record is not None:
            await self.repository.update(conn, record.id, **values)

    async def progressed(self, conn: AsyncConnection, job: Job, percent: float) -> None:
        """Show how much is done."""
        await self.repository.progress(conn, job.id, lifecycle.shown_progress(percent))

    async def failed(self, conn: AsyncConnection, job: Job, failure: Failure) -> None:
        """Write the failure into the record."""
        await self._end(conn, job, status="ERROR", **failure.columns())

    async def cancelled(self, conn: AsyncConnection, job: Job) -> None:
        """Mark the record."""
        await self._end(conn, job, status="CANCELLED")

    async def _end(self, conn: AsyncConnection, job: Job, **values: Any) -> None:
        await self.change(conn, job, completed_at=sa.func.clock_timestamp(), **self.on_ending, **values)
