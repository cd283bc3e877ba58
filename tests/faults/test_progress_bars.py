"""What people see of a tokenization goes forward only, whatever happens to those who tell them."""

import nats

from polytok.jobs.v1 import leases_pb2, messages_pb2
from services.runtime import messaging
from tests.faults.stack_harness import WORKERS, StackHarness, eventually
from tests.faults.watcher import Watcher


async def tell_of_progress(harness: StackHarness, job: str) -> None:
    """Tell people, as a worker would, that the tasks under way are nearly done; the rows know nothing of it yet."""
    client = await nats.connect(harness.stack.facts["nats_url"])
    for task, epoch in await harness.rows(
        "SELECT id, epoch FROM job_tasks WHERE job_id = $1::uuid AND state = 'RUNNING'", job
    ):
        event = messages_pb2.ProgressEvent(
            task_id=str(task), job_id=job, epoch=epoch, progress=leases_pb2.TaskProgress(done=900, total=1000)
        )
        await client.publish(messaging.Subjects("polytok").progress(task), event.SerializeToString())
    await client.close()


async def test_progress_survives_catalog_restart(harness: StackHarness) -> None:
    async with harness.held(*WORKERS):
        record = await harness.create("bar")
        watcher = Watcher(harness.client.tokenizations.watch(record))
        await harness.busy(record, running=2)

        async def is_shown() -> bool:
            # Again and again: what does not listen yet has missed it.
            await tell_of_progress(harness, record.job)
            return any(version.progress > 2 for version in watcher.seen)

        await eventually(is_shown, "the progress is shown")
        # The one that comes next has not heard of it.
        await harness.killed("catalog")
        seen = len(watcher.seen)

        async def is_watching_again() -> bool:
            return len(watcher.seen) > seen

        await eventually(is_watching_again, "the watch goes on")
    await harness.wait("bar")
    await watcher.verify()
