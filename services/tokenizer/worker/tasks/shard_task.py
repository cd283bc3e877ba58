"""The task `tokenize.shard`: from one raw shard to one file of token ids."""

import contextlib
import posixpath
import zlib
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import pyarrow as pa

from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.prefetch import PrefetchIterator
from services.runtime.storage import Storage
from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, EngineMismatchError, selection, spot_check, versions
from services.tokenizer.files import output, shard_writer, staging
from services.tokenizer.models import loader
from services.tokenizer.sequences.ragged import Ragged
from services.tokenizer.text import documents, preprocessing, shard_reader
from services.tokenizer.worker.tasks import shard_encoder

_log = logging.get(__name__)


Choose = Callable[[pa.Array], Engine]
"""Chooses the engine for a shard with these texts."""
Result = TypeVar("Result", tasks_pb2.TokenizeShardResult, stages_pb2.EncodeShardResult)


def tokenize(
    task: tasks_pb2.TokenizeShardTask,
    storage: Storage,
    tokenizers: loader.TokenizerCache,
    selector: selection.EngineSelector,
    context: TaskContext,
) -> tasks_pb2.TokenizeShardResult:
    """Write the shard's file."""
    return run_with_reference_fallback(
        task,
        tokenizers,
        selector,
        context,
        lambda tokenizer, choose: _tokenize(task, storage, tokenizer, choose, context),
    )


def run_with_reference_fallback(
    task: tasks_pb2.TokenizeShardTask,
    tokenizers: loader.TokenizerCache,
    selector: selection.EngineSelector,
    context: TaskContext,
    make: Callable[[loader.Tokenizer, Choose], Result],
) -> Result:
    """Process a shard's ids, and again with the reference if a fast engine turns out not to be exact.

    A mismatch is reported at once: the server discards and repeats all work of this engine on other shards.
    """
    tokenizer = tokenizers.get(task.tokenizer)
    dataset = posixpath.dirname(task.shard.key)
    distrusted = set(task.distrusted_engines)

    def sampled(texts: pa.Array) -> Engine:
        engine, exact = selector.choose(tokenizer, dataset, texts, distrusted), selector.reference(tokenizer)
        if engine is exact:
            return exact
        size = task.shard.text_bytes or task.shard.size_bytes
        return spot_check.SpotCheckedEngine(
            engine, exact, seed=zlib.crc32(task.shard.sha256.encode()), shard_bytes=size
        )

    mismatches = 0
    try:
        result = make(tokenizer, (lambda _: selector.reference(tokenizer)) if task.reference_only else sampled)
    except EngineMismatchError as error:
        _log.error("shard_encoded_again", shard=task.shard.key, engine=error.engine, detail=error.detail)
        engine = versions.format_name_and_version(error.engine)
        context.record(
            tasks_pb2.EngineMismatch(tokenizer_fingerprint=tokenizer.fingerprint, engine=engine, detail=error.detail)
        )
        selector.distrust(tokenizer, dataset, error.engine)
        distrusted.add(engine)
        mismatches = 1
        result = make(tokenizer, lambda _: selector.reference(tokenizer))
    result.statistics.num_engine_mismatches = mismatches
    result.statistics.num_shards_encoded_again = int(bool(mismatches) or task.reference_only)
    result.statistics.distrusted_engines.extend(sorted(distrusted))
    return result


@contextlib.contextmanager
def read_encoded(
    task: tasks_pb2.TokenizeShardTask,
    storage: Storage,
    tokenizer: loader.Tokenizer,
    cleaner: preprocessing.Preprocessor,
    encoder: shard_encoder.ShardEncoder,
) -> Generator[Iterable[tuple[shard_reader.TextSlice, Ragged]]]:
    """Read and encode a shard ahead of its processing in the block, a bounded piece each."""
    with (
        shard_reader.open_verified(storage, task.shard) as file,
        PrefetchIterator(
            cleaner.cleaned(documents.read_documents(task, file, tokenizer, cleaner.statistics)),
            "read",
        ) as pieces,
        PrefetchIterator(encoder.encoded(pieces), "encode") as found,
    ):
        yield found


def _tokenize(
    task: tasks_pb2.TokenizeShardTask,
    storage: Storage,
    tokenizer: loader.Tokenizer,
    choose: Choose,
    context: TaskContext,
) -> tasks_pb2.TokenizeShardResult:
    """Read, encode and write concurrently."""
    encoder = shard_encoder.ShardEncoder(choose)
    key = f"{task.tokenized_key}/shard-{task.ordinal:05d}-of-{task.count:05d}-{context.tag}.arrow"
    cleaner = preprocessing.Preprocessor(task.parameters, task.first_row)
    # The reader's block is the inner one: bytes with a wrong checksum must not become a file.
    with (
        shard_writer.ShardWriter(storage, key) as writer,
        read_encoded(task, storage, tokenizer, cleaner, encoder) as pieces,
        contextlib.closing(output.Output(task.parameters, tokenizer, writer)) as made,
    ):
        for piece, ids in pieces:
            made.add(ids)
            context.report(piece.position, task.shard.size_bytes)
        total = made.finish()
    total.MergeFrom(cleaner.statistics)
    total.MergeFrom(encoder.statistics)
    for file in writer.files:
        file.counts_key, file.counts_sha256 = made.counts.write(
            storage, staging.key(task.tokenized_key, "counts", task.ordinal, task.count, context.tag)
        )
    total.num_files = len(writer.files)
    total.size_bytes = sum(file.size_bytes for file in writer.files)
    return tasks_pb2.TokenizeShardResult(files=writer.files, statistics=total, lengths=made.lengths.message())
