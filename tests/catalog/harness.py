"""A running catalog with its stubs, and a fake worker that ends tasks as a test wants."""

import contextlib
import dataclasses
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import grpc.aio
import sqlalchemy as sa
from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import channels, errors
from polytok.catalog.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    tasks_pb2,
    tokenizations_pb2,
    tokenizations_pb2_grpc,
)
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from polytok.tokenizer.v1 import tasks_pb2 as tokenizer_tasks_pb2
from services.catalog.server import tables
from services.catalog.server.app import CatalogApp
from services.catalog.server.settings import CatalogSettings
from services.jobs import failures
from services.runtime import settings
from services.runtime.database import Database
from services.runtime.storage import Storage
from tests.support import serving

TEXT = [("id", "int64"), ("text", "string"), ("label", "int64")]
M = TypeVar("M", bound=Message)
UPLOAD_BYTES = 64 << 10

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@dataclasses.dataclass
class CatalogHarness:
    """A catalog that serves."""

    catalog: CatalogApp
    database: Database
    storage: Storage
    channel: grpc.aio.Channel
    address: str

    def __post_init__(self) -> None:
        self.datasets = cast("Any", datasets_pb2_grpc.DatasetServiceStub(self.channel))
        self.models = cast("Any", models_pb2_grpc.ModelServiceStub(self.channel))
        self.tokenizations = cast("Any", tokenizations_pb2_grpc.TokenizationServiceStub(self.channel))
        self.leases = cast("Any", leases_pb2_grpc.LeaseServiceStub(self.channel))

    async def create_dataset(self, name: str, **fields: Any) -> datasets_pb2.Dataset:
        """Register a dataset of one file, or of what is given."""
        fields.setdefault("source", file_source())
        request = datasets_pb2.CreateDatasetRequest(dataset_id=name, dataset=datasets_pb2.Dataset(**fields))
        return await self.datasets.CreateDataset(request)

    async def create_model(self, name: str, **fields: Any) -> models_pb2.Model:
        """Register a model."""
        fields.setdefault("repo_id", f"/models/{name}")
        request = models_pb2.CreateModelRequest(model_id=name, model=models_pb2.Model(**fields))
        return await self.models.CreateModel(request)

    async def tokenize(
        self, dataset: str, model: str, variant: str = "", **parameters: Any
    ) -> tokenizations_pb2.Tokenization:
        """Start a tokenization."""
        return await self.tokenizations.CreateTokenization(
            tokenizations_pb2.CreateTokenizationRequest(
                parent=f"datasets/{dataset}",
                model=f"models/{model}",
                variant=variant,
                parameters=tokenizations_pb2.TokenizationParameters(**parameters),
            )
        )

    async def tokenization(self, name: str) -> tokenizations_pb2.Tokenization:
        """Read a tokenization."""
        return await self.tokenizations.GetTokenization(tokenizations_pb2.GetTokenizationRequest(name=name))

    async def dataset(self, name: str) -> datasets_pb2.Dataset:
        """Read a dataset."""
        return await self.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name=f"datasets/{name}"))

    async def count(self, table: sa.Table) -> int:
        """Rows in a table."""
        async with self.database.connection() as conn:
            return (await conn.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()


def fingerprint(tokenizer: str) -> str:
    """Return what stands for the content of a tokenizer."""
    return hashlib.sha256(tokenizer.encode()).hexdigest()


@contextlib.asynccontextmanager
async def run_catalog(
    database: Database,
    database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
) -> AsyncIterator[CatalogHarness]:
    """Run a catalog."""
    catalog = CatalogApp(
        database=database_settings,
        messages=messaging_settings,
        storage=storage,
        server=settings.ServerSettings(port=0, drain_seconds=0),
        # Nobody extends a lease in these tests.
        jobs=settings.JobSettings(lease_ttl_seconds=900, backoff_seconds=0, max_attempts=2),
        settings=CatalogSettings(garbage_grace_seconds=0, shard_bytes=1024, upload_bytes=UPLOAD_BYTES),
    )
    async with serving.serving(catalog) as (channel, address):
        yield CatalogHarness(catalog, database, storage, channel, address)


def file_source(*uris: str, **fields: Any) -> datasets_pb2.DatasetSource:
    """Return a source of files."""
    return datasets_pb2.DatasetSource(files=datasets_pb2.FileSource(uris=uris or ["/corpus/docs.jsonl"], **fields))


@contextlib.asynccontextmanager
async def expect_error(kind: type[errors.PolytokError], reason: str) -> AsyncIterator[list[errors.PolytokError]]:
    """Expect a call to fail, and return the error as a client raises it."""
    caught: list[errors.PolytokError] = []
    try:
        yield caught
    except grpc.aio.AioRpcError as error:
        found = channels.from_rpc_error(error)
        assert type(found) is kind, found
        assert found.reason == reason, found
        caught.append(found)
    else:
        raise AssertionError(f"the call was not refused as {kind.__name__}")


class FakeWorker:
    """Takes tasks through the LeaseService, and ends them as a test wants."""

    def __init__(self, catalog: CatalogHarness) -> None:
        self.catalog = catalog
        self.name = f"fake-worker-{uuid.uuid4().hex[:8]}"

    async def due(self, job: str) -> list[uuid.UUID]:
        """Return the tasks of a job that nobody has."""
        tasks = tables.jobs.tasks
        statement = (
            sa.select(tasks.c.id)
            .where(tasks.c.job_id == uuid.UUID(job), tasks.c.state == "READY")
            .order_by(tasks.c.stage, tasks.c.ordinal)
        )
        async with self.catalog.database.connection() as conn:
            return list((await conn.execute(statement)).scalars())

    async def take(self, job: str) -> "LeasedTask":
        """Lease the next task of a job."""
        task_id = (await self.due(job))[0]
        lease = await self.catalog.leases.AcquireLease(
            leases_pb2.AcquireLeaseRequest(task_id=str(task_id), worker=self.name, request_id=str(uuid.uuid4()))
        )
        return LeasedTask(self.catalog, str(task_id), lease)

    async def ingest(self, name: str, columns: list[tuple[str, str]] | None = None, rows: int = 3) -> None:
        """Make a dataset READY."""
        job = (await self.catalog.dataset(name)).job
        plan = await self.take(job)
        part = tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri="/corpus/docs.jsonl", size_bytes=10))
        await plan.complete(tasks_pb2.PlanIngestResult(parts=[part]))
        reading = await self.take(job)
        task = reading.payload(tasks_pb2.ReadPartTask)
        shard = tasks_pb2.RawShard(
            key=f"{task.raw_key}/part-00000-00000-{reading.tag}.arrow", num_rows=rows, size_bytes=9, text_bytes=5
        )
        shard.sha256 = self.catalog.storage.write_bytes(shard.key, b"raw shard")
        listed = [datasets_pb2.Column(name=column, type=kind) for column, kind in columns or TEXT]
        await reading.complete(tasks_pb2.ReadPartResult(shards=[shard] if rows else [], columns=listed))
        publishing = await self.take(job)
        result = tasks_pb2.PublishDatasetResult(
            shards=[shard] if rows else [],
            columns=listed,
            num_rows=rows,
            size_bytes=9,
            fingerprint=hashlib.sha256(shard.sha256.encode()).hexdigest(),
            features_json=json.dumps({column: {"dtype": kind} for column, kind in columns or TEXT}),
            staged_files=[publishing.stage(task.raw_key, "state.json", b"{}")],
        )
        await publishing.complete(result)

    async def inspect(
        self,
        name: str,
        context_length: int = 2048,
        special: dict[str, str] = SPECIAL,
        tokenizer: str = "",
        **found: Any,
    ) -> None:
        """Make a model READY; `tokenizer` names its tokenizer's content, which is its own by default."""
        model = await self.catalog.models.GetModel(models_pb2.GetModelRequest(name=f"models/{name}"))
        leased = await self.take(model.job)
        await leased.complete(
            tokenizer_tasks_pb2.InspectModelResult(
                tokenizer_fingerprint=fingerprint(tokenizer or name),
                tokenizer_class="GPT2Tokenizer",
                vocab_size=1000,
                special_tokens=[
                    models_pb2.SpecialToken(role=role, text=text, id=place)
                    for place, (role, text) in enumerate(special.items())
                ],
                architecture="GPT2LMHeadModel",
                d_model=64,
                n_layers=2,
                context_length=context_length,
                **found,
            )
        )

    async def tokenize_shard(self, job: str) -> "LeasedTask":
        """End the next shard of a tokenization well."""
        leased = await self.take(job)
        await leased.complete(leased.shard_result())
        return leased

    async def publish(self, job: str) -> "LeasedTask":
        """End the last task of a tokenization well."""
        leased = await self.take(job)
        await leased.complete(leased.publication())
        return leased

    async def finish(self, tokenization: tokenizations_pb2.Tokenization) -> None:
        """Make a tokenization READY."""
        while len(await self.due(tokenization.job)) > 0:
            leased = await self.take(tokenization.job)
            await leased.complete(
                leased.shard_result() if leased.lease.kind == "tokenize.shard" else leased.publication()
            )


class LeasedTask:
    """A task under a lease."""

    def __init__(self, catalog: CatalogHarness, task_id: str, lease: leases_pb2.AcquireLeaseResponse) -> None:
        self.catalog = catalog
        self.task_id = task_id
        self.lease = lease
        self.tag = f"{task_id.replace('-', '')[:12]}-e{lease.epoch}"

    def payload(self, expected: type[M]) -> M:
        """Return what is to be done."""
        message = expected()
        assert self.lease.payload.Unpack(message)
        return message

    def stage(self, folder: str, name: str, data: bytes) -> tasks_pb2.StagedFile:
        """Write a small file under an epoch's name."""
        key = f"{folder}/{name}.{self.tag}"
        digest = self.catalog.storage.write_bytes(key, data)
        return tasks_pb2.StagedFile(staged_key=key, final_key=f"{folder}/{name}", sha256=digest)

    def shard_result(self) -> tokenizer_tasks_pb2.TokenizeShardResult:
        """Return the result of a shard, its file written."""
        task = self.payload(tokenizer_tasks_pb2.TokenizeShardTask)
        key = f"{task.tokenized_key}/shard-{task.ordinal:05d}-of-{task.count:05d}-{self.tag}.arrow"
        digest = self.catalog.storage.write_bytes(key, b"token ids")
        file = tokenizer_tasks_pb2.TokenizedFile(key=key, num_rows=3, size_bytes=9, sha256=digest)
        return tokenizer_tasks_pb2.TokenizeShardResult(
            files=[file], statistics=tokenizations_pb2.TokenizationStatistics(num_tokens=30, num_sequences=3)
        )

    def publication(self) -> tokenizer_tasks_pb2.PublishTokenizationResult:
        """Return the result of the last task, its files staged."""
        task = self.payload(tokenizer_tasks_pb2.PublishTokenizationTask)
        names = ("state.json", "dataset_info.json", "polytok.json")
        return tokenizer_tasks_pb2.PublishTokenizationResult(
            statistics=tokenizations_pb2.TokenizationStatistics(
                num_tokens=30, num_sequences=3, avg_seq_length=10, num_files=1, engine="reference"
            ),
            manifest_digest="d" * 64,
            staged_files=[self.stage(task.tokenized_key, name, name.encode()) for name in names],
        )

    async def extend(self, done: int, total: int) -> None:
        """Report progress."""
        progress = leases_pb2.TaskProgress(done=done, total=total)
        await self.catalog.leases.ExtendLease(
            leases_pb2.ExtendLeaseRequest(task_id=self.task_id, epoch=self.lease.epoch, progress=progress)
        )

    async def complete(self, result: Message) -> None:
        """End the task well; a result that is refused ends it badly, as it does in a real worker."""
        packed = any_pb2.Any()
        packed.Pack(result)
        request = leases_pb2.CompleteTaskRequest(task_id=self.task_id, epoch=self.lease.epoch, result=packed)
        try:
            await self.catalog.leases.CompleteTask(request)
        except grpc.aio.AioRpcError as error:
            refusal = channels.from_rpc_error(error)
            if isinstance(refusal, errors.Aborted):
                raise
            await self.fail(refusal.reason, refusal.message, retryable=refusal.retryable)

    async def fail(self, reason: str, message: str, *, retryable: bool = False) -> bool:
        """End the attempt badly."""
        return await self.fail_as(errors.Internal(message, reason=reason, retryable=retryable))

    async def fail_as(self, error: errors.PolytokError) -> bool:
        """End the attempt with an error, as a worker tells it."""
        answer = await self.catalog.leases.FailTask(
            leases_pb2.FailTaskRequest(
                task_id=self.task_id, epoch=self.lease.epoch, error=failures.to_task_error(error)
            )
        )
        return answer.will_retry


def as_error(error: BaseException) -> errors.PolytokError:
    """Return the error of a failed call, as a client raises it."""
    assert isinstance(error, grpc.aio.AioRpcError), error
    return channels.from_rpc_error(error)
