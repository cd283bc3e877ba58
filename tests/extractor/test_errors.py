"""What a worker's error is stays on extractions and trainings: class, violations and metadata."""

import asyncio
import uuid

import pytest
import sqlalchemy as sa

from polytok import errors
from polytok.client import watch_stream
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.jobs import failures
from services.trainer.server import tables
from services.trainer.server.migrations.schema import runner
from tests.extractor import trainer_harness
from tests.support import messages

SENT = errors.InvalidArgument(
    "It is so.",
    reason="HOOK_NOT_FOUND",
    metadata={"hook": "x"},
    violations=[errors.FieldViolation("parameters.hooks[0]", "is not there")],
)


def check(record) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        watch_stream.ready(record)
    messages.check_names(caught.value.message, record.name, SENT.message)
    assert vars(caught.value) == vars(SENT) | {"message": caught.value.message}


async def test_of_an_extraction(extractor, tokenized):
    created = await extractor.create("mine")
    await (await extractor.take(created.job)).fail_as(SENT)
    check(await extractor.get(created.name))
    assert not (await extractor.retry(created.name)).HasField("error")


async def test_of_a_training(extractor, tokenized, migrated_database_settings, messaging_settings):
    await extractor.finish(await extractor.create("mine"))
    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    async with trainer_harness.run_trainer(extractor, migrated_database_settings, messaging_settings) as trainer:
        created = await trainer.create("t1", extraction="extractions/mine")
        tasks, leases = tables.jobs.tasks, leases_pb2_grpc.LeaseServiceStub(trainer.channel)
        async with trainer.trainer.database.connection() as conn:
            task = str((await conn.execute(sa.select(tasks.c.id))).scalar_one())
        lease = await leases.AcquireLease(
            leases_pb2.AcquireLeaseRequest(task_id=task, worker="fake-worker", request_id=str(uuid.uuid4()))
        )
        reported = failures.to_task_error(SENT)
        await leases.FailTask(leases_pb2.FailTaskRequest(task_id=task, epoch=lease.epoch, error=reported))
        check(await trainer.get(created.name))
        assert not (await trainer.retry(created.name)).HasField("error")
