"""What handlers of jobs do alike: a job that ends badly says so on the record that it works at."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs.failures import Failure
from services.jobs.model import Job


class RecordJobHandler(abc.ABC):
    """A handler whose record has `status`, `error_reason`, `error_message`, `error` and `completed_at`."""

    on_ending: ClassVar[Mapping[str, Any]] = {}
    """What else changes on a record whose job fails or is cancelled."""

    @abc.abstractmethod
    async def change(self, conn: AsyncConnection, job: Job, **values: Any) -> None:
        """Change the record of a job, if it is still there, and tells whoever watches it."""

    async def failed(self, conn: AsyncConnection, job: Job, failure: Failure) -> None:
        """Return why on the record."""
        await self._end(conn, job, status="ERROR", **failure.columns())

    async def cancelled(self, conn: AsyncConnection, job: Job) -> None:
        """Mark the record."""
        await self._end(conn, job, status="CANCELLED")

    async def _end(self, conn: AsyncConnection, job: Job, **values: Any) -> None:
        await self.change(conn, job, completed_at=sa.func.clock_timestamp(), **self.on_ending, **values)
