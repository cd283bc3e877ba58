"""Jobs of kind `model.inspect`: a worker reads the model's tokenizer and configuration."""

from collections.abc import Sequence

from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server.domain import records
from services.catalog.server.repository.models import models
from services.jobs import payloads
from services.jobs.failures import Failure
from services.jobs.model import Job, NewTask, TaskResult
from services.records.job_handler import RecordJobHandler

KIND = "model.inspect"


def first_tasks(model: records.Model) -> list[NewTask]:
    """Return the tasks that a job begins with."""
    repo_id, revision = model.tokenizer_source
    task = tasks_pb2.InspectModelTask(
        tokenizer=tasks_pb2.TokenizerReference(repo_id=repo_id, revision=revision),
        repo_id=model.repo_id,
        revision=model.commit or model.revision,
    )
    return [NewTask(kind="model.inspect", payload=payloads.to_any(task))]


class ModelJobHandler(RecordJobHandler):
    """Brings a model from PENDING to READY or ERROR."""

    repository = models

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Write down what was found."""
        model = await models.find_by_job(conn, job.id)
        if model is None:
            return
        (found,) = payloads.from_any(results, tasks_pb2.InspectModelResult)
        await models.update(
            conn,
            model.id,
            status="READY",
            commit=found.commit,
            # Where the model's repository has the tokenizer, there is one commit.
            tokenizer_commit=found.tokenizer_commit if model.tokenizer_repo_id else "",
            tokenizer_fingerprint=found.tokenizer_fingerprint,
            chat_template_fingerprint=found.chat_template_fingerprint,
            tokenizer_class=found.tokenizer_class,
            vocab_size=found.vocab_size,
            special_tokens=[
                json_format.MessageToDict(
                    token, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                for token in found.special_tokens
            ],
            architecture=found.architecture,
            d_model=found.d_model,
            n_layers=found.n_layers,
            context_length=found.context_length,
        )

    async def failed(self, conn: AsyncConnection, job: Job, failure: Failure) -> None:
        """Write the failure into the model."""
        await self.change(conn, job, status="ERROR", **failure.columns())

    async def cancelled(self, conn: AsyncConnection, job: Job) -> None:
        """Only a deletion cancels an inspection."""
        await self.failed(conn, job, Failure.of(errors.Cancelled("The inspection was cancelled.")))

    async def progressed(self, conn: AsyncConnection, job: Job, percent: float) -> None:
        """Do nothing: a model shows no progress."""
