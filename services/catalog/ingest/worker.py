"""The worker process: `python -m services.catalog ingest`."""

import sys

from polytok.jobs.v1 import leases_pb2_grpc
from services.catalog.ingest import kinds
from services.runtime import messaging, process
from services.runtime.jobs.worker import Worker
from services.runtime.process import Stopping
from services.runtime.rpc import channel
from services.runtime.settings import JobSettings, MessagingSettings, PeerSettings, TelemetrySettings, WorkerSettings
from services.runtime.telemetry import endpoint, logging, tracing

_POOL = "ingest"
_OWNER = "catalog"
_CHILD = (sys.executable, "-m", "services.catalog.ingest.child")


async def run(stopping: Stopping) -> None:
    """Works until it is asked to stop."""
    telemetry = TelemetrySettings()
    logging.configure(telemetry, _POOL)
    tracing.configure(telemetry, _POOL)
    settings = WorkerSettings()
    nats_settings = MessagingSettings()
    peers = PeerSettings()
    client = await messaging.connect(nats_settings, settings.name)
    catalog = channel.open_channel(
        peers.catalog_address,
        tls_ca=peers.tls_ca,
        tls_certificate=peers.tls_certificate,
        tls_key=peers.tls_key,
        service=_POOL,
    )
    worker = Worker(
        settings,
        JobSettings(),
        client,
        messaging.Subjects(nats_settings.namespace),
        _POOL,
        kinds.ALL,
        {_OWNER: leases_pb2_grpc.LeaseServiceStub(catalog)},
        _CHILD,
    )
    metrics = await endpoint.serve(telemetry, worker.ready)
    try:
        process.announce(metrics=metrics.port)
        await worker.run(stopping)
    finally:
        await metrics.close()
        await catalog.close()
        await client.close()
