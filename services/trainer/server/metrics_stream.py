"""Metrics as they come: streams of them, and pages."""

import uuid
from collections.abc import AsyncGenerator

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.trainer.v1 import trainings_pb2
from services.records import pagination
from services.records.watch import Watch
from services.runtime.database import Database
from services.runtime.storage import Storage
from services.trainer.server import messages, metrics_repository, models, states
from services.trainer.server.repository import trainings

_A_MESSAGE = 1000
_PAGE = 1000
_LARGEST_PAGE = 10_000


class MetricsStream:
    """Reads trainings and their metrics for those who follow them."""

    def __init__(self, database: Database, storage: Storage, watch: Watch) -> None:
        self._database = database
        self._storage = storage
        self._watch = watch

    async def follow(
        self, uid: uuid.UUID, request: trainings_pb2.WatchTrainingRequest
    ) -> AsyncGenerator[trainings_pb2.WatchTrainingResponse]:
        """Return a training and its new metrics whenever one of the two changed; ends once it is at rest."""

        async def read(conn: AsyncConnection) -> models.Training | None:
            return await trainings.find_by_uid(conn, uid)

        cursor = request.cursor
        async for record, percent in self._watch.follow(uid, states.TRAINING, read):
            message = messages.training(record, self._storage)
            message.progress = percent
            while True:
                found = [] if request.without_metrics else await self._since(uid, cursor)
                cursor = found[-1].seq if found else cursor
                yield trainings_pb2.WatchTrainingResponse(
                    training=message, metrics=[messages.metrics(row) for row in found], next_cursor=cursor
                )
                if len(found) < _A_MESSAGE:
                    break

    async def _since(self, uid: uuid.UUID, cursor: int) -> list[models.Measurement]:
        async with self._database.connection() as conn:
            return await metrics_repository.list_since(conn, uid, cursor, _A_MESSAGE)

    async def page(
        self, record: models.Training, request: trainings_pb2.ListMetricsRequest
    ) -> trainings_pb2.ListMetricsResponse:
        """Return a page of the metrics of a training."""
        limit = min(request.page_size or _PAGE, _LARGEST_PAGE)
        parts = pagination.read(request, int, str, str)
        after = metrics_repository.MetricsCursor(*parts) if parts else None
        async with self._database.connection() as conn:
            found = await metrics_repository.page(
                conn, record.id, sae=request.sae, after_step=request.after_step, after=after, limit=limit + 1
            )
        page, token = found[:limit], ""
        if len(found) > limit:
            last = page[-1]
            token = pagination.write(request, last.step, last.sae, last.kind)
        return trainings_pb2.ListMetricsResponse(metrics=[messages.metrics(row) for row in page], next_page_token=token)
