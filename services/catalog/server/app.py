"""The catalog as a whole: what it is made of, and the one place where that is put together."""

from collections.abc import Coroutine, Mapping
from typing import Any

from polytok.catalog.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    tokenizations_pb2,
    tokenizations_pb2_grpc,
)
from services.catalog.server import garbage_collection, tables
from services.catalog.server.api.datasets import DatasetServicer
from services.catalog.server.api.models import ModelServicer
from services.catalog.server.api.tokenizations import TokenizationServicer
from services.catalog.server.jobs import datasets as dataset_jobs
from services.catalog.server.jobs import models as model_jobs
from services.catalog.server.jobs import repairs as repair_jobs
from services.catalog.server.jobs import tokenizations as tokenization_jobs
from services.catalog.server.migrations import SEARCH_PATH
from services.catalog.server.service.sharing import SharedTokenizationResolver
from services.catalog.server.service.tokenizations import TokenizationService
from services.catalog.server.settings import SERVICE_NAME, CatalogSettings
from services.records.app import RecordApp
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings
from services.runtime.storage import Storage


class CatalogApp(RecordApp):
    """One catalog process; any number of them may share one database, one NATS and one storage."""

    def __init__(
        self,
        *,
        database: DatabaseSettings,
        messages: MessagingSettings,
        storage: Storage,
        server: ServerSettings,
        jobs: JobSettings,
        settings: CatalogSettings,
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
            search_path=SEARCH_PATH,
            handlers={
                dataset_jobs.KIND: dataset_jobs.DatasetJobHandler(storage, settings.shard_bytes),
                model_jobs.KIND: model_jobs.ModelJobHandler(),
                tokenization_jobs.KIND: tokenization_jobs.TokenizationJobHandler(storage),
                repair_jobs.KIND: repair_jobs.RepairJobHandler(storage),
            },
        )
        self.waiting = SharedTokenizationResolver(
            self.database, self._listener, TokenizationService(self.store, self.shared.folders)
        )
        self.serve(
            datasets_pb2_grpc.add_DatasetServiceServicer_to_server,
            DatasetServicer(self.shared, settings.upload_bytes, check_paths=settings.check_paths),
            datasets_pb2.DESCRIPTOR,
            "DatasetService",
        )
        self.serve(
            models_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(self.shared, check_paths=settings.check_paths),
            models_pb2.DESCRIPTOR,
            "ModelService",
        )
        self.serve(
            tokenizations_pb2_grpc.add_TokenizationServiceServicer_to_server,
            TokenizationServicer(self.shared),
            tokenizations_pb2.DESCRIPTOR,
            "TokenizationService",
        )

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the side tasks, for `process.supervise`."""
        return {**super().tasks(stop), "waiting": self.waiting.run()}
