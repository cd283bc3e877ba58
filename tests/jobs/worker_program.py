"""A worker process; the address of the owner is its argument."""

import pathlib
import sys

from polytok import channels
from polytok.jobs.v1 import leases_pb2_grpc
from services.jobs.worker import Worker
from services.runtime import messaging, process
from services.runtime.settings import JobSettings, MessagingSettings, WorkerSettings


async def main(stop: process.StopSignal) -> None:
    settings = MessagingSettings()
    client = await messaging.connect(settings, "worker")
    async with channels.open_async_channel(sys.argv[1]) as channel:
        worker = Worker(
            WorkerSettings(),
            JobSettings(),
            client,
            messaging.Subjects(settings.namespace),
            "records",
            ["test.run"],
            {"testowner": leases_pb2_grpc.LeaseServiceStub(channel)},
            [sys.executable, str(pathlib.Path(__file__).with_name("fake_task_process.py"))],
        )
        await process.supervise(stop=stop, tasks={"worker": worker.run(stop)}, drain_seconds=60)
    await client.close()


if __name__ == "__main__":
    process.run(main)
