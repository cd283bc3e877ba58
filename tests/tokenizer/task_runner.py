"""Raw shards, and tasks run on them as the worker's child runs them."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import pyarrow as pa

from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.catalog.v1 import tokenizations_pb2
from polytok.jobs.v1 import messages_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from services.tokenizer import settings
from services.tokenizer.engines import selection
from services.tokenizer.models import loader
from services.tokenizer.worker.tasks import publish_task, shard_task

Parameters = tokenizations_pb2.TokenizationParameters
TOKENIZED = "datasets/d/raw_tokenized_m"


def raw_shard(
    storage: Storage, batches: Sequence[pa.RecordBatch], *, key: str = "datasets/d/raw/part-00000.arrow"
) -> catalog_tasks_pb2.RawShard:
    """Write a raw shard as the ingest does."""
    with storage.create(key) as staged, pa.ipc.new_stream(staged, batches[0].schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return catalog_tasks_pb2.RawShard(
        key=key,
        num_rows=sum(batch.num_rows for batch in batches),
        size_bytes=staged.size,
        sha256=staged.sha256,
        text_bytes=sum(batch.column(0).nbytes for batch in batches),
    )


def text_shard(storage: Storage, *batches: Sequence[str | None], **more: Any) -> catalog_tasks_pb2.RawShard:
    """Write a raw shard with a column of text."""
    return raw_shard(storage, [pa.record_batch({"text": pa.array(batch, pa.string())}) for batch in batches], **more)


def shared_proofs_selector(wanted: str = "auto") -> selection.EngineSelector:
    """Return a selector that reads and writes the proofs of the whole run."""
    return selection.EngineSelector(wanted, folder=settings.TokenizerSettings().proofs_folder)


class TaskRunner:
    """Runs tasks on a storage with one tokenizer; keeps the events that a worker would have seen."""

    def __init__(self, storage: Storage, folder: object, selector: selection.EngineSelector | None = None) -> None:
        self.storage = storage
        self.reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
        self.tokenizers = loader.TokenizerCache(2)
        self.selector = selector or shared_proofs_selector()
        self.reference.fingerprint = self.tokenizers.get(self.reference).fingerprint
        self.events: list[messages_pb2.TaskEvent] = []

    def context(self, epoch: int = 1) -> TaskContext:
        """Return a context of an attempt."""
        return TaskContext(str(uuid.UUID(int=7 << 96)), epoch, b"", self.events.append)

    def tokenize(
        self,
        shard: catalog_tasks_pb2.RawShard,
        parameters: Parameters,
        *,
        ordinal: int = 0,
        count: int = 1,
        epoch: int = 1,
        first_row: int = 0,
    ) -> tasks_pb2.TokenizeShardResult:
        """Run `tokenize.shard`."""
        task = tasks_pb2.TokenizeShardTask(
            shard=shard,
            tokenizer=self.reference,
            parameters=parameters,
            tokenized_key=TOKENIZED,
            ordinal=ordinal,
            count=count,
            first_row=first_row,
        )
        return shard_task.tokenize(task, self.storage, self.tokenizers, self.selector, self.context(epoch))

    def publish(
        self,
        results: Sequence[tasks_pb2.TokenizeShardResult],
        parameters: Parameters,
        *,
        vocab_size: int = 0,
        raw: Sequence[catalog_tasks_pb2.RawShard] = (),
        counted: Sequence[tokenizations_pb2.TokenizationStatistics] = (),
    ) -> tasks_pb2.PublishTokenizationResult:
        """Run `tokenize.publish`."""
        task = tasks_pb2.PublishTokenizationTask(
            name="datasets/docs/tokenizations/small",
            tokenized_key=TOKENIZED,
            shards=results,
            tokenizer=self.reference,
            parameters=parameters,
            vocab_size=vocab_size or self.tokenizers.get(self.reference).vocab_size,
            dataset_fingerprint=hashlib.sha256("".join(shard.sha256 for shard in raw).encode()).hexdigest(),
            counted=counted,
        )
        return publish_task.publish(task, self.storage, self.tokenizers, self.context())


def opened(storage: Storage, result: tasks_pb2.PublishTokenizationResult) -> datasets.Dataset:
    """Return the staged files their final names, as the catalog does, and open the folder."""
    for staged in result.staged_files:
        assert storage.sha256(staged.staged_key) == staged.sha256
        storage.move(staged.staged_key, staged.final_key)
    return opened_folder(storage)


def opened_folder(storage: Storage) -> datasets.Dataset:
    """Open the folder of a tokenization that was published."""
    return datasets.load_from_disk(storage.uri(TOKENIZED))


def rows(storage: Storage, result: tasks_pb2.TokenizeShardResult) -> list[list[int]]:
    """Return the sequences of a shard's files."""
    found: list[list[int]] = []
    for file in result.files:
        with storage.open(file.key) as opened_file, pa.ipc.open_stream(opened_file) as stream:
            found += stream.read_all()["input_ids"].to_pylist()
    return found


Refusal = Callable[[], object]
