"""A process of a service that owns records and their jobs: database, server, jobs, watching, put together once.

Any number of such processes may share one database, one NATS and one storage.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import grpc.aio
import sqlalchemy as sa
from google.protobuf.descriptor import FileDescriptor

from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.jobs.api import LeaseServicer
from services.jobs.background_tasks import JobBackgroundTasks
from services.jobs.model import JobHandler
from services.jobs.progress import ProgressHub
from services.jobs.store import JobStore
from services.jobs.tables import JobTables
from services.records.api import Dependencies
from services.records.garbage_collection import GarbageCollectionPolicy, GarbageCollectionSettings, GarbageCollector
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions
from services.records.watch import Watch
from services.runtime import messaging, process, settings
from services.runtime.database import open_database
from services.runtime.notifications import Listener
from services.runtime.process import StopSignal
from services.runtime.rpc import channel
from services.runtime.rpc.server import Server
from services.runtime.storage import Storage
from services.runtime.telemetry import endpoint, logging, tracing

_CONNECT_SECONDS = 10.0


class RecordApp:
    """One process of such a service.

    `name` is the one under which workers know its LeaseService, and the Postgres channel on which the uids of changed
    records are announced; `handlers` has one for each kind of job; `answers` is the table of request ids.
    """

    def __init__(
        self,
        name: str,
        *,
        database: settings.DatabaseSettings,
        messages: settings.MessagingSettings,
        storage: Storage,
        server: settings.ServerSettings,
        jobs: settings.JobSettings,
        collection: GarbageCollectionSettings,
        policy: GarbageCollectionPolicy,
        answers: sa.Table,
        tables: JobTables,
        handlers: Mapping[str, JobHandler],
        search_path: str = "public",
    ) -> None:
        self.name = name
        self._messages = messages
        self._jobs = jobs
        self.database = open_database(database, search_path=search_path)
        self._listener = Listener(database)
        self.watch = Watch(self.database, self._listener, name)
        self.store = JobStore(tables, handlers, jobs, name)
        self.queue = self.store.queue_health
        folders = StorageFolders(self.database, storage, policy.is_used)
        self.garbage_collector = GarbageCollector(self.database, storage, folders, policy, collection)
        transactions = IdempotentTransactions(self.database, answers)
        self.shared = Dependencies(self.database, storage, self.store, folders, self.watch, transactions)
        self._server = Server(server, service=name)
        self.serve(
            leases_pb2_grpc.add_LeaseServiceServicer_to_server,
            LeaseServicer(self.database, self.store),
            leases_pb2.DESCRIPTOR,
            "LeaseService",
        )

    def serve(self, add: Callable[[Any, Any], None], servicer: object, contract: FileDescriptor, service: str) -> None:
        """Serve one service of a contract; `add` is what protoc made for it."""
        self._server.add(add, servicer, contract.services_by_name[service].full_name)

    def listen(self, callback: Callable[[str], None]) -> None:
        """Call back with the uid of every record that changed in whichever replica, "" where any may have."""
        self._listener.subscribe(self.name, callback)

    async def start(self) -> int:
        """Serve; return the port. It serves whether or not NATS is there: what is created runs once it is."""
        return await self._server.start()

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the side tasks, for `process.supervise`."""
        return {
            "listener": self._listener.run(),
            "queue": self._run_queue_tasks(stop),
            "garbage collector": self.garbage_collector.run(),
        }

    async def _run_queue_tasks(self, stop: StopSignal) -> None:
        """Connect to NATS, for as long as that takes, and run all that needs it."""
        connecting = asyncio.create_task(messaging.connect(self._messages, self.name), name="connect")
        try:
            await asyncio.wait({connecting}, timeout=_CONNECT_SECONDS)
            if not connecting.done():
                self.queue.fail("NATS cannot be reached. What is created runs late, or once it can.")
            client = await connecting
        except BaseException:
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=_CONNECT_SECONDS)
            if connecting.done() and not connecting.cancelled() and not connecting.exception():
                await messaging.close(connecting.result())
            raise
        self.queue.recover()
        try:
            subjects = messaging.Subjects(self._messages.namespace)
            hub = ProgressHub(client, subjects, self.store)
            self.watch.hear(hub)
            engine = JobBackgroundTasks(self.database, self.store, client, subjects, self._jobs, self._listener)
            await process.supervise(stop=stop, tasks={**engine.tasks(), "progress": hub.run()})
        finally:
            await messaging.close(client)

    async def missing(self) -> str:
        """Return what keeps calls from being answered, or an empty string.

        The queue does not matter for that, nor for leases; `queue` has its state.
        """
        return "" if await self.database.check() else "database: Postgres cannot be reached."

    async def stop(self) -> None:
        """Let the calls that run end, and close what was opened."""
        await self._server.drain()
        await self.database.close()


def connect(
    opened: contextlib.AsyncExitStack, address: str, peers: settings.PeerSettings, service: str
) -> grpc.aio.Channel:
    """Open a channel to another service, which `opened` closes."""
    connected = channel.open_channel(
        address,
        tls_ca=peers.tls_ca,
        tls_certificate=peers.tls_certificate,
        tls_key=peers.tls_key,
        service=service,
    )
    opened.push_async_callback(connected.close)
    return connected


async def serve(
    stop: StopSignal,
    make: Callable[[settings.ServerSettings, contextlib.AsyncExitStack], RecordApp],
    *,
    telemetry: settings.TelemetrySettings,
    name: str,
) -> None:
    """Run the `main` of such a service: logs, traces, the app, its probes, and serving until a signal comes.

    `make` registers with the stack what it opens. Everything opened is closed, however far the start has come.
    """
    logging.configure(telemetry, name)
    tracing.configure(telemetry, name)
    server = settings.ServerSettings()
    async with contextlib.AsyncExitStack() as opened:
        app = make(server, opened)
        probes = endpoint.Endpoint(telemetry, app.missing, lambda: app.queue.trouble)
        # The probes are answered for as long as calls are.
        opened.push_async_callback(probes.close)
        opened.push_async_callback(app.stop)
        port = await app.start()
        await probes.start()
        process.write_ready_file(address=f"{server.host}:{port}", metrics=probes.port)
        await process.supervise(stop=stop, tasks=app.tasks(stop))
