"""The tokenizer's worker, `python -m services.tokenizer`: runs tasks, and serves TokenizerService."""

import contextlib
import os
import sys

from polytok.jobs.v1 import leases_pb2_grpc
from polytok.tokenizer.v1 import tokenizer_pb2_grpc
from services.jobs.subprocess_client import SubprocessClient
from services.jobs.worker import Worker
from services.runtime import malloc_tuning, messaging, process
from services.runtime.process import StopSignal
from services.runtime.rpc import channel
from services.runtime.rpc.server import Server
from services.runtime.settings import (
    JobSettings,
    MessagingSettings,
    PeerSettings,
    ServerSettings,
    StorageSettings,
    TelemetrySettings,
    WorkerSettings,
)
from services.runtime.telemetry import endpoint, logging, tracing
from services.tokenizer.server import api
from services.tokenizer.server.catalog_client import CatalogClient
from services.tokenizer.server.verification_service import VerificationService
from services.tokenizer.settings import TokenizerSettings

_POOL = "tokenizer"
_KINDS = (
    "model.inspect",
    "tokenize.shard",
    "tokenize.encode",
    "tokenize.arrange",
    "tokenize.duplicates",
    "tokenize.measure",
    "tokenize.assemble",
    "tokenize.publish",
    "repair.check",
    "repair.restore",
)
_OWNER = "catalog"
_CHILD = (sys.executable, "-m", "services.tokenizer.worker.child")
_ANSWERS = (sys.executable, "-m", "services.tokenizer.server.encode_process")


async def main(stopping: StopSignal) -> None:
    """Work until asked to stop."""
    # For the task process, which inherits this environment.
    os.environ.update(malloc_tuning.huge_pages())
    telemetry = TelemetrySettings()
    logging.configure(telemetry, _POOL)
    tracing.configure(telemetry, _POOL)
    settings = WorkerSettings()
    messages = MessagingSettings()
    peers = PeerSettings()
    listening = ServerSettings()
    # Read by the task process, and here too: an invalid setting stops the service at once instead of failing one task
    # process after another.
    StorageSettings()
    TokenizerSettings()
    async with contextlib.AsyncExitStack() as opened:
        client = await messaging.connect(messages, settings.name)
        opened.push_async_callback(messaging.close, client)
        catalog = channel.open_channel(
            peers.catalog_address,
            tls_ca=peers.tls_ca,
            tls_certificate=peers.tls_certificate,
            tls_key=peers.tls_key,
            service=_POOL,
        )
        opened.push_async_callback(catalog.close)
        worker = Worker(
            settings,
            JobSettings(),
            client,
            messaging.Subjects(messages.namespace),
            _POOL,
            _KINDS,
            {_OWNER: leases_pb2_grpc.LeaseServiceStub(catalog)},
            _CHILD,
        )
        metrics = endpoint.Endpoint(telemetry, worker.missing, worker.queue_trouble)
        opened.push_async_callback(metrics.close)
        answering = SubprocessClient(
            _ANSWERS, service=f"{_POOL}-answers", about="The tokenizer", memory_bytes=settings.memory_bytes
        )
        opened.push_async_callback(answering.close)
        records = CatalogClient(catalog)
        verification = VerificationService(
            records, _ANSWERS, service=f"{_POOL}-verify", memory_bytes=settings.memory_bytes
        )
        servicer = api.TokenizerServicer(records, answering, verification)
        server = Server(listening, service=_POOL)
        opened.push_async_callback(server.drain)
        server.add(tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server, servicer, api.NAME)
        port = await server.start()
        await metrics.start()
        process.write_ready_file(address=f"{listening.host}:{port}", metrics=metrics.port)
        await worker.run(stopping)
