"""LeaseService: the job store over gRPC (polytok/jobs/v1/leases.proto)."""

import uuid
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2

from polytok import errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.jobs.failures import Failure
from services.jobs.store import JobStore
from services.runtime.database import Database

Context = grpc.aio.ServicerContext[Any, Any]


class LeaseServicer(leases_pb2_grpc.LeaseServiceServicer):
    """Serves the leases of one store. Requests are already validated."""

    def __init__(self, database: Database, store: JobStore) -> None:
        self._database = database
        self._store = store

    async def AcquireLease(  # noqa: N802
        self, request: leases_pb2.AcquireLeaseRequest, context: Context
    ) -> leases_pb2.AcquireLeaseResponse:
        """Lease a task to a worker."""
        task_id = uuid.UUID(request.task_id)
        async with self._database.transaction() as conn:
            lease = await self._store.acquire(conn, task_id, request.worker, uuid.UUID(request.request_id))
        if lease is None:
            raise errors.FailedPrecondition(
                f"Task {task_id} is not available: it is finished, delayed, or leased by another worker.",
                reason="TASK_UNAVAILABLE",
                metadata={"task": str(task_id)},
            )
        return leases_pb2.AcquireLeaseResponse(
            epoch=lease.epoch,
            ttl=_duration(lease.ttl),
            payload=any_pb2.Any.FromString(lease.payload),
            kind=lease.kind,
            resource=lease.resource,
            resume_point=lease.resume_point,
            attempt=lease.attempt,
            job_id=str(lease.job_id),
        )

    async def ExtendLease(  # noqa: N802
        self, request: leases_pb2.ExtendLeaseRequest, context: Context
    ) -> leases_pb2.ExtendLeaseResponse:
        """Extend a lease."""
        progress = (request.progress.done, request.progress.total) if request.HasField("progress") else None
        async with self._database.transaction() as conn:
            extension = await self._store.extend(
                conn,
                uuid.UUID(request.task_id),
                request.epoch,
                progress,
                request.resume_point,
                [report.SerializeToString() for report in request.reports],
            )
        return leases_pb2.ExtendLeaseResponse(ttl=_duration(extension.ttl), pause_requested=extension.pause_requested)

    async def CompleteTask(  # noqa: N802
        self, request: leases_pb2.CompleteTaskRequest, context: Context
    ) -> leases_pb2.CompleteTaskResponse:
        """Complete a task."""
        result = request.result.SerializeToString()
        async with self._database.transaction() as conn:
            await self._store.complete(conn, uuid.UUID(request.task_id), request.epoch, result)
        return leases_pb2.CompleteTaskResponse()

    async def FailTask(  # noqa: N802
        self, request: leases_pb2.FailTaskRequest, context: Context
    ) -> leases_pb2.FailTaskResponse:
        """Fail an attempt."""
        failure = Failure.from_message(request.error)
        async with self._database.transaction() as conn:
            will_retry = await self._store.fail(conn, uuid.UUID(request.task_id), request.epoch, failure)
        return leases_pb2.FailTaskResponse(will_retry=will_retry)

    async def ReleaseLease(  # noqa: N802
        self, request: leases_pb2.ReleaseLeaseRequest, context: Context
    ) -> leases_pb2.ReleaseLeaseResponse:
        """Release a task before its lease expires."""
        async with self._database.transaction() as conn:
            await self._store.release(conn, uuid.UUID(request.task_id), request.epoch, request.resume_point)
        return leases_pb2.ReleaseLeaseResponse()

    async def ListOverdueTasks(  # noqa: N802
        self, request: leases_pb2.ListOverdueTasksRequest, context: Context
    ) -> leases_pb2.ListOverdueTasksResponse:
        """List tasks that have waited too long."""
        async with self._database.connection() as conn:
            overdue = await self._store.overdue(conn, request.kinds, queue_unavailable=request.queue_unavailable)
        return leases_pb2.ListOverdueTasksResponse(task_ids=[str(task_id) for task_id in overdue])


def _duration(value: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(value)
    return duration
