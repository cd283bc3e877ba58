"""Rows of trainings."""

import uuid
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.records.repository import HoldingRepository
from services.trainer.server import models, resource_names, states, tables
from services.trainer.server.settings import SERVICE_NAME


class TrainingRepository(HoldingRepository[models.Training]):
    """Trainings, which hold what they read until they end, also while they are paused."""

    holding = states.HOLDING

    async def advance(self, conn: AsyncConnection, uid: uuid.UUID, **values: Any) -> None:
        """Record what a report contains; this is progress, so that the etag stays as it is."""
        await conn.execute(self._table.update().where(self._table.c.id == uid).values(**values))
        await self.notify_changed(conn, uid)


trainings = TrainingRepository(
    tables.trainings,
    models.Training,
    SERVICE_NAME,
    parse_uid=resource_names.parse_uid,
    not_found_error=resource_names.not_found_error,
)
