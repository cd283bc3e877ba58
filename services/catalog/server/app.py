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
from services.catalog.server.dependencies import Dependencies
from services.catalog.server.jobs import datasets as dataset_jobs
from services.catalog.server.jobs import models as model_jobs
from services.catalog.server.jobs import repairs as repair_jobs
from services.catalog.server.jobs import tokenizations as tokenization_jobs
from services.catalog.server.migrations import SEARCH_PATH
from services.catalog.server.service.sharing import SharedTokenizationResolver
from services.catalog.server.service.tokenizations import TokenizationService
from services.catalog.server.settings import CatalogSettings
from services.records.app import RecordApp
from services.records.garbage_collection import GarbageCollector
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings
from services.runtime.storage import Storage

OWNER = "catalog"
"""The name under which workers know the LeaseService of this service."""


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
            OWNER,
            database=database,
            messages=messages,
            server=server,
            jobs=jobs,
            tables=tables.jobs,
            search_path=SEARCH_PATH,
            handlers={
                dataset_jobs.KIND: dataset_jobs.DatasetJobHandler(storage, settings.shard_bytes),
                model_jobs.KIND: model_jobs.ModelJobHandler(),
                tokenization_jobs.KIND: tokenization_jobs.TokenizationJobHandler(storage),
                repair_jobs.KIND: repair_jobs.RepairJobHandler(storage),
            },
        )
        folders = StorageFolders(self.database, storage, garbage_collection.is_used)
        self.garbage_collector = GarbageCollector(
            self.database, storage, folders, garbage_collection.house(settings), settings
        )
        transactions = IdempotentTransactions(self.database, tables.answers)
        self.waiting = SharedTokenizationResolver(
            self.database, self._listener, TokenizationService(self.store, folders)
        )
        shared = Dependencies(self.database, storage, self.store, folders, self.watch, transactions)
        self.serve(
            datasets_pb2_grpc.add_DatasetServiceServicer_to_server,
            DatasetServicer(shared, settings.upload_bytes),
            datasets_pb2.DESCRIPTOR,
            "DatasetService",
        )
        self.serve(
            models_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(shared),
            models_pb2.DESCRIPTOR,
            "ModelService",
        )
        self.serve(
            tokenizations_pb2_grpc.add_TokenizationServiceServicer_to_server,
            TokenizationServicer(shared),
            tokenizations_pb2.DESCRIPTOR,
            "TokenizationService",
        )

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the side tasks, for `process.supervise`."""
        return {**super().tasks(stop), "garbage collector": self.garbage_collector.run(), "waiting": self.waiting.run()}
