"""The extractor as a whole: what it is made of, and the one place where that is put together."""

from collections.abc import Coroutine, Mapping
from typing import Any

import grpc.aio

from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc
from services.activations import structure_cache
from services.extractor.server import estimates, garbage_collection, tables
from services.extractor.server import jobs as job_handlers
from services.extractor.server.api import ExtractionServicer
from services.extractor.server.repository import extractions
from services.extractor.server.service import ExtractionService, create_hold
from services.extractor.server.settings import SERVICE_NAME, ExtractorSettings
from services.records import hold_client
from services.records.acquired_holds import RecordHolds
from services.records.app import RecordApp
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings
from services.runtime.storage import Storage


class ExtractorApp(RecordApp):
    """One extractor process; any number of them may share one database, one NATS and one storage."""

    def __init__(
        self,
        *,
        database: DatabaseSettings,
        messages: MessagingSettings,
        storage: Storage,
        server: ServerSettings,
        jobs: JobSettings,
        settings: ExtractorSettings,
        catalog: grpc.aio.Channel,
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
            handlers={
                job_handlers.KIND: job_handlers.ExtractionJobHandler(storage),
                estimates.KIND: estimates.EstimateJobHandler(),
            },
        )
        self._channel = catalog
        self.structures = structure_cache.ModelStructureCache(service=SERVICE_NAME, seconds=settings.hooks_seconds)
        records = hold_client.CatalogClient(catalog)
        holds = RecordHolds(self.database, extractions, lambda record: [create_hold(record)])
        self.keeper = hold_client.HoldRenewer(records, holds, renew_seconds=settings.renew_seconds)
        # An extraction that ended, in this replica or another, releases its tokenization once that is committed.
        self.listen(lambda _: self.keeper.wake())
        servicer = ExtractionServicer(
            self.shared,
            ExtractionService(self.store, self.shared.folders, records, self.structures, settings.range_bytes),
            estimates.EstimateService(self.database, self.store, self.watch, settings.estimate_seconds),
            self.keeper,
        )
        self.serve(
            extractions_pb2_grpc.add_ExtractionServiceServicer_to_server,
            servicer,
            extractions_pb2.DESCRIPTOR,
            "ExtractionService",
        )

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the side tasks, for `process.supervise`."""
        return {**super().tasks(stop), "holds": self.keeper.run()}

    async def stop(self) -> None:
        """Let the calls that run end, and close what was opened."""
        await super().stop()
        await self.structures.close()
        await self._channel.close()
