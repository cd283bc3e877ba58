"""A real trainer beside extractor and catalog: its server, and no worker."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc.aio

from polytok import channels
from polytok.trainer.v1 import saes_pb2, trainings_pb2, trainings_pb2_grpc
from services.runtime import settings
from services.trainer.server.app import TrainerApp
from services.trainer.server.repository import trainings
from services.trainer.server.settings import TrainerServerSettings
from tests.extractor import harness
from tests.support import serving


@dataclasses.dataclass
class TrainerHarness:
    """A trainer that serves."""

    trainer: TrainerApp
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.stub = cast("Any", trainings_pb2_grpc.TrainingServiceStub(self.channel))

    async def create(self, name: str, hook: str = harness.HOOK, **source: Any) -> trainings_pb2.Training:
        """Start a training on an extraction, or on what is given."""
        request = trainings_pb2.CreateTrainingRequest(
            training_id=name,
            source=trainings_pb2.TrainingSource(**source),
            saes=[saes_pb2.Sae(hook=hook, d_sae=16, topk=saes_pb2.TopK(k=2))],
            parameters=trainings_pb2.TrainingParameters(batch_size=4, total_samples=8),
        )
        return await self.stub.CreateTraining(request)

    async def get(self, name: str) -> trainings_pb2.Training:
        """Read a training."""
        return await self.stub.GetTraining(trainings_pb2.GetTrainingRequest(name=name))

    async def ended(self) -> list[str]:
        """Return the trainings that ended and still have to let go of something."""
        async with self.trainer.database.connection() as conn:
            return [record.resource for record in await trainings.list_holders(conn, needed=False)]

    async def pause(self, name: str) -> trainings_pb2.Training:
        """Have a training stop at a checkpoint."""
        return await self.stub.PauseTraining(trainings_pb2.PauseTrainingRequest(name=name))

    async def cancel(self, name: str) -> trainings_pb2.Training:
        """Stop a training for good."""
        return await self.stub.CancelTraining(trainings_pb2.CancelTrainingRequest(name=name))

    async def retry(self, name: str) -> trainings_pb2.Training:
        """Train again."""
        return await self.stub.RetryTraining(trainings_pb2.RetryTrainingRequest(name=name))

    async def delete(self, name: str) -> None:
        """Delete a training."""
        await self.stub.DeleteTraining(trainings_pb2.DeleteTrainingRequest(name=name))


@contextlib.asynccontextmanager
async def run_trainer(
    extractor: harness.ExtractorHarness,
    database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
) -> AsyncIterator[TrainerHarness]:
    """Run a trainer."""
    trainer = TrainerApp(
        database=database_settings,
        messages=messaging_settings,
        storage=extractor.storage,
        server=settings.ServerSettings(port=0, drain_seconds=0),
        jobs=settings.JobSettings(backoff_seconds=0, max_attempts=2),
        catalog=channels.open_async_channel(extractor.catalog.address),
        extractor=channels.open_async_channel(extractor.address),
        settings=TrainerServerSettings(hooks_seconds=50),
    )
    async with serving.serving(trainer) as (channel, _address):
        yield TrainerHarness(trainer, channel)
