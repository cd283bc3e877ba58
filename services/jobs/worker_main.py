"""The `main` of a worker that runs the tasks of one owner."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from polytok.jobs.v1 import leases_pb2_grpc
from services.jobs.worker import Worker
from services.runtime import messaging, process, settings
from services.runtime.process import StopSignal
from services.runtime.rpc import channel
from services.runtime.telemetry import endpoint, logging, tracing


class WorkerPool(NamedTuple):
    """Workers that run the same tasks."""

    name: str
    kinds: Sequence[str]
    owner: str
    """The service that owns the tasks."""
    child: Sequence[str]
    """The command line of the task process."""
    lazy: bool = False
    """Whether the task process starts with the first task: it is expensive and may not be needed."""
    pausable: bool = False
    """Whether tasks stop by themselves at a resume point when a pause is requested."""

    @property
    def service(self) -> str:
        """The name of the worker in logs, traces and metrics, always different from that of the owning service."""
        return f"{self.name}-worker" if self.name == self.owner else self.name


async def run_worker(stopping: StopSignal, pool: WorkerPool, address: str, peers: settings.TransportSettings) -> None:
    """Run tasks of a pool, whose owner is at `address`, until asked to stop."""
    telemetry = settings.TelemetrySettings()
    logging.configure(telemetry, pool.service)
    tracing.configure(telemetry, pool.service)
    worker_settings = settings.WorkerSettings()
    messages = settings.MessagingSettings()
    # The task process uses these. Read them here too, so that an error in them stops the service at once.
    settings.StorageSettings()
    async with contextlib.AsyncExitStack() as opened:
        client = await messaging.connect(messages, worker_settings.name)
        opened.push_async_callback(messaging.close, client)
        owner = channel.open_channel(
            address,
            tls_ca=peers.tls_ca,
            tls_certificate=peers.tls_certificate,
            tls_key=peers.tls_key,
            service=pool.service,
        )
        opened.push_async_callback(owner.close)
        worker = Worker(
            worker_settings,
            settings.JobSettings(),
            client,
            messaging.Subjects(messages.namespace),
            pool.name,
            pool.kinds,
            {pool.owner: leases_pb2_grpc.LeaseServiceStub(owner)},
            pool.child,
            lazy=pool.lazy,
            pausable=pool.pausable,
        )
        metrics = endpoint.Endpoint(telemetry, worker.missing, worker.queue_trouble)
        opened.push_async_callback(metrics.close)
        await metrics.start()
        process.write_ready_file(metrics=metrics.port)
        await worker.run(stopping)
