"""The trainer's server as a whole: what it is made of, and the one place where that is put together."""

from collections.abc import Coroutine, Mapping
from typing import Any

import grpc.aio

from polytok.trainer.v1 import trainings_pb2, trainings_pb2_grpc
from services.activations import structure_cache
from services.records import hold_client
from services.records.acquired_holds import RecordHolds
from services.records.app import RecordApp
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings
from services.runtime.storage import Storage
from services.trainer.server import api, garbage_collection, inputs, metrics_stream, tables
from services.trainer.server import jobs as job_handlers
from services.trainer.server.extractor_client import ExtractorClient
from services.trainer.server.repository import trainings
from services.trainer.server.settings import SERVICE_NAME, TrainerServerSettings


class TrainerApp(RecordApp):
    """One trainer process; any number of them may share one database, one NATS and one storage."""

    def __init__(
        self,
        *,
        database: DatabaseSettings,
        messages: MessagingSettings,
        storage: Storage,
        server: ServerSettings,
        jobs: JobSettings,
        catalog: grpc.aio.Channel,
        extractor: grpc.aio.Channel | None = None,
        settings: TrainerServerSettings,
    ) -> None:
        super().__init__(
            SERVICE_NAME,
            database=database,
            messages=messages,
            server=server,
            jobs=jobs,
            storage=storage,
            collection=settings,
            policy=garbage_collection.create_policy(settings),
            answers=tables.answers,
            tables=tables.jobs,
            handlers={job_handlers.KIND: job_handlers.TrainingJobHandler(storage)},
        )
        self._channels = [catalog, *([extractor] if extractor is not None else [])]
        self.structures = structure_cache.ModelStructureCache(service=SERVICE_NAME, seconds=settings.hooks_seconds)
        records = hold_client.CatalogClient(catalog)
        extractions = ExtractorClient(extractor)
        owners = hold_client.HoldRouter({"datasets": records, "extractions": extractions})
        holds = RecordHolds(self.database, trainings, inputs.list_holds, inputs.list_live_holds)
        self.holds = hold_client.HoldRenewer(owners, holds)
        # A training that ended, in this replica or another, releases what it held once that is committed.
        self.listen(lambda _: self.holds.wake())
        servicer = api.TrainingServicer(
            self.shared,
            inputs.InputResolver(records, extractions, self.structures, storage),
            self.holds,
            metrics_stream.MetricsStream(self.database, storage, self.watch),
        )
        self.serve(
            trainings_pb2_grpc.add_TrainingServiceServicer_to_server,
            servicer,
            trainings_pb2.DESCRIPTOR,
            "TrainingService",
        )

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the side tasks, for `process.supervise`."""
        return {**super().tasks(stop), "holds": self.holds.run()}

    async def stop(self) -> None:
        """Let the calls that run end, and close what was opened."""
        await super().stop()
        await self.structures.close()
        for each in self._channels:
            await each.close()
