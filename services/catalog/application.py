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
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.catalog import tables
from services.catalog.folders import Folders
from services.catalog.handlers import datasets as dataset_jobs
from services.catalog.handlers import models as model_jobs
from services.catalog.handlers import tokenizations as tokenization_jobs
from services.catalog.servicers.datasets import DatasetServicer
from services.catalog.servicers.models import ModelServicer
from services.catalog.servicers.parts import Parts
from services.catalog.servicers.tokenizations import TokenizationServicer
from services.catalog.settings import CatalogSettings
from services.catalog.sweeper import Sweeper
from services.catalog.watch import Watch
from services.runtime import messaging, process
from services.runtime.database import open_database
from services.runtime.jobs.engine import JobEngine
from services.runtime.jobs.progress import ProgressHub
from services.runtime.jobs.service import LeaseServicer
from services.runtime.jobs.store import JobStore
from services.runtime.notifications import Listener
from services.runtime.process import Stopping
from services.runtime.rpc.server import Server
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings
from services.runtime.storage import Storage

OWNER = "catalog"
"""The name under which workers know the LeaseService of this service."""


class Catalog:
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
        self._messages = messages
        self._jobs = jobs
        self.database = open_database(database)
        self._listener = Listener(database)
        self._watch = Watch(self.database, self._listener)
        self.store = JobStore(
            tables.jobs,
            {
                dataset_jobs.KIND: dataset_jobs.DatasetIngestion(storage, settings.shard_bytes),
                model_jobs.KIND: model_jobs.ModelInspection(),
                tokenization_jobs.KIND: tokenization_jobs.Tokenizing(storage),
            },
            jobs,
            OWNER,
        )
        folders = Folders(self.database, storage)
        self.sweeper = Sweeper(self.database, storage, folders, settings)
        self._server = Server(server, service=OWNER)
        self._serve(Parts(self.database, storage, self.store, folders, self._watch))

    def _serve(self, shared: Parts) -> None:
        add = self._server.add
        add(
            datasets_pb2_grpc.add_DatasetServiceServicer_to_server,
            DatasetServicer(shared),
            datasets_pb2.DESCRIPTOR.services_by_name["DatasetService"].full_name,
        )
        add(
            models_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(shared),
            models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
        )
        add(
            tokenizations_pb2_grpc.add_TokenizationServiceServicer_to_server,
            TokenizationServicer(shared),
            tokenizations_pb2.DESCRIPTOR.services_by_name["TokenizationService"].full_name,
        )
        add(
            leases_pb2_grpc.add_LeaseServiceServicer_to_server,
            LeaseServicer(self.database, self.store),
            leases_pb2.DESCRIPTOR.services_by_name["LeaseService"].full_name,
        )

    async def start(self) -> int:
        """Serves; answers the port. It serves whether or not NATS is there: what is created runs once it is."""
        return await self._server.start()

    def tasks(self, stop: Stopping) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The side tasks, for `process.supervise`."""
        return {"listener": self._listener.run(), "sweeper": self.sweeper.run(), "doorbell": self._doorbell(stop)}

    async def _doorbell(self, stop: Stopping) -> None:
        """Connects to NATS, for as long as that takes, and runs all that needs it."""
        client = await messaging.connect(self._messages, OWNER)
        try:
            subjects = messaging.Subjects(self._messages.namespace)
            hub = ProgressHub(client, subjects, self.store)
            self._watch.hear(hub)
            engine = JobEngine(self.database, self.store, client, subjects, self._jobs, self._listener)
            await process.supervise(stop=stop, tasks={**engine.tasks(), "progress": hub.run()})
        finally:
            await client.close()

    async def ready(self) -> bool:
        """Whether calls can be answered."""
        return await self.database.check()

    async def stop(self) -> None:
        """Lets the calls that run end, and closes what was opened."""
        await self._server.drain()
        await self.database.close()
