"""The worker's task functions, by kind."""

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from services.catalog.ingest import plan_task, publish_task, read_task, task_kinds
from services.jobs.task_process_main import TaskContext, TaskFunction
from services.runtime.storage import Storage

_Task = TypeVar("_Task", bound=Message)


def functions(storage: Storage) -> Mapping[str, TaskFunction]:
    """Return the task functions of a task process."""

    def run_plan(payload: any_pb2.Any, _: TaskContext) -> tasks_pb2.PlanIngestResult:
        return plan_task.plan(_unpacked(payload, tasks_pb2.PlanIngestTask()))

    def run_read(payload: any_pb2.Any, context: TaskContext) -> tasks_pb2.ReadPartResult:
        return read_task.read(storage, _unpacked(payload, tasks_pb2.ReadPartTask()), context.tag, context.report)

    def run_publish(payload: any_pb2.Any, context: TaskContext) -> tasks_pb2.PublishDatasetResult:
        return publish_task.publish(
            storage, _unpacked(payload, tasks_pb2.PublishDatasetTask()), context.tag, context.report
        )

    return {task_kinds.PLAN: run_plan, task_kinds.READ: run_read, task_kinds.PUBLISH: run_publish}


def _unpacked(payload: any_pb2.Any, message: _Task) -> _Task:
    if not payload.Unpack(message):
        raise errors.Internal(
            f"The task's payload is {payload.type_url!r}, not {message.DESCRIPTOR.full_name}.", retryable=False
        )
    return message
