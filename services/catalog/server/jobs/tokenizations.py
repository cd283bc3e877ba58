"""Jobs of kind `tokenization`: a task per raw shard, or the stages of `tokenization_stages`, then a publishing task."""

import itertools
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server import messages
from services.catalog.server.domain import names, records
from services.catalog.server.jobs import mismatches, stage_results, tokenization_stages
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.tokenizations import tokenizations
from services.jobs import payloads
from services.jobs.model import Job, NewTask, TaskResult
from services.records import publication
from services.records.job_handler import RecordJobHandler
from services.runtime.storage import Storage

KIND = "tokenization"
_IN_COLUMNS = ("num_tokens", "num_sequences", "avg_seq_length")


def first_tasks(
    tokenization: records.Tokenization,
    shards: Sequence[records.Shard],
    distrusted: Sequence[str] = (),
    *,
    reference_only: bool = False,
) -> list[NewTask]:
    """Return the tasks that a job begins with: one a shard, weighed by its text, and the work that will be with it.

    None of them uses an engine that is `distrusted`, named with its version.
    """
    tokenizer = tokenizer_of(tokenization)
    parameters = messages.parameters(tokenization)
    first_rows = list(itertools.accumulate((shard.num_rows for shard in shards), initial=0))
    # A shuffle takes the documents of a sample from anywhere.
    if parameters.HasField("max_documents") and not parameters.HasField("shuffle_seed"):
        shards = [shard for shard, row in zip(shards, first_rows, strict=False) if row < parameters.max_documents]
    kind = (
        tokenization_stages.ENCODE
        if tokenization_stages.needs_multi_shard_plan(parameters, len(shards))
        else tokenization_stages.SHARD
    )
    ahead = tokenization_stages.work_ahead(parameters, kind)
    return [
        NewTask(
            kind=kind,
            payload=payloads.to_any(
                tasks_pb2.TokenizeShardTask(
                    shard=catalog_tasks_pb2.RawShard(
                        key=shard.key,
                        num_rows=shard.num_rows,
                        size_bytes=shard.size_bytes,
                        sha256=shard.sha256,
                        text_bytes=shard.text_bytes,
                    ),
                    tokenizer=tokenizer,
                    parameters=parameters,
                    tokenized_key=tokenization.tokenized_path,
                    ordinal=ordinal,
                    count=len(shards),
                    dataset=names.dataset(tokenization.dataset_name),
                    first_row=first_row,
                    model=names.model(tokenization.model_name),
                    date=_date(tokenization),
                    dataset_rows=first_rows[-1],
                    distrusted_engines=distrusted,
                    reference_only=reference_only,
                )
            ),
            ordinal=ordinal,
            weight=max(1, shard.text_bytes) * tokenization_stages.WORK[kind],
            ahead=max(1, shard.text_bytes) * ahead,
        )
        for ordinal, (shard, first_row) in enumerate(zip(shards, first_rows, strict=False))
    ]


def _date(tokenization: records.Tokenization) -> str:
    """Return the date that chat templates receive."""
    return tokenization.created_at.astimezone(UTC).date().isoformat()


def tokenizer_of(tokenization: records.Tokenization) -> tasks_pb2.TokenizerReference:
    """Return where its tokenizer is."""
    return tasks_pb2.TokenizerReference(
        repo_id=tokenization.tokenizer_repo_id,
        revision=tokenization.tokenizer_revision,
        fingerprint=tokenization.tokenizer_fingerprint,
        chat_template_fingerprint=tokenization.chat_template_fingerprint,
    )


async def publishing(
    conn: AsyncConnection, tokenization: records.Tokenization, shards: Sequence[tasks_pb2.TokenizeShardResult]
) -> tasks_pb2.PublishTokenizationTask:
    """Return what the task that publishes these files is given."""
    dataset = await datasets.get(conn, str(tokenization.dataset_id))
    task = tasks_pb2.PublishTokenizationTask(
        name=tokenization.resource,
        tokenized_key=tokenization.tokenized_path,
        shards=shards,
        tokenizer=tokenizer_of(tokenization),
        parameters=messages.parameters(tokenization),
        vocab_size=tokenization.vocab_size,
        dataset_fingerprint=dataset.fingerprint,
    )
    if task.parameters.HasField("chat"):
        task.date = _date(tokenization)
    return task


def published(found: tasks_pb2.PublishTokenizationResult) -> dict[str, Any]:
    """Return the columns of a tokenization that tell what was published."""
    statistics = json_format.MessageToDict(found.statistics, preserving_proto_field_name=True)
    return {
        **{field: getattr(found.statistics, field) for field in _IN_COLUMNS},
        "statistics": {field: value for field, value in statistics.items() if field not in _IN_COLUMNS},
        "manifest_digest": found.manifest_digest,
    }


class TokenizationJobHandler(RecordJobHandler):
    """Brings a tokenization from QUEUED through PROCESSING to READY, ERROR or CANCELLED; its dataset stays as it is."""

    repository = tokenizations

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def started(self, conn: AsyncConnection, job: Job) -> None:
        """Record that a worker has begun."""
        await self.change(conn, job, status="PROCESSING", started_at=sa.func.clock_timestamp())

    async def next_stage(
        self, conn: AsyncConnection, job: Job, stage: int, results: Sequence[TaskResult]
    ) -> Sequence[NewTask]:
        """Shards, what more it takes, then publish."""
        tokenization = await tokenizations.find_by_job(conn, job.id)
        if tokenization is None or results[0].kind == tokenization_stages.PUBLISH:
            return []
        if results[0].kind in mismatches.ENCODING:
            results = await stage_results.latest_results(conn, job, {results[0].kind})
            if wrong := await mismatches.find(conn, tokenization.tokenizer_fingerprint, results):
                shards = await datasets.shards(conn, tokenization.dataset_id)
                tasks = first_tasks(tokenization, shards, wrong.engines, reference_only=True)
                return [task for task in tasks if task.ordinal in wrong.ordinals]
        if results[0].kind not in {tokenization_stages.SHARD, tokenization_stages.ASSEMBLE}:
            return await tokenization_stages.next_tasks(
                conn, job, stage, results, tokenization, tokenizer_of(tokenization)
            )
        found = payloads.from_any(results, tasks_pb2.TokenizeShardResult)
        files = [file for shard in found for file in shard.files]
        publication.check_inside(tokenization.tokenized_path, tokenization_stages.keys(files))
        # Readers see them once the record is READY.
        await tokenizations.replace_files(
            conn,
            tokenization.id,
            [records.File(file.key, file.num_rows, file.size_bytes, file.sha256) for file in files],
        )
        task = await publishing(conn, tokenization, found)
        task.counted.extend(await tokenization_stages.collect_counts(conn, job))
        return [
            NewTask(
                kind=tokenization_stages.PUBLISH,
                payload=payloads.to_any(task),
                weight=tokenization_stages.WORK[tokenization_stages.PUBLISH],
            )
        ]

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish the files."""
        tokenization = await tokenizations.find_by_job(conn, job.id)
        if tokenization is None:
            return
        (found,) = payloads.from_any(results, tasks_pb2.PublishTokenizationResult)
        await publication.publish(self._storage, tokenization.tokenized_path, found.staged_files)
        await self.change(
            conn,
            job,
            status="READY",
            progress=100.0,
            **published(found),
            completed_at=sa.func.clock_timestamp(),
        )

    async def record(self, conn: AsyncConnection, job: Job, epoch: int, reports: Sequence[bytes]) -> None:
        """Distrust engines, from the moment that one mismatch is found."""
        await mismatches.keep(conn, job.resource, reports)
