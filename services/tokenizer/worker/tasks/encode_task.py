"""The task `tokenize.encode`: from one raw shard to staged ids, for files made from several shards."""

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from services.tokenizer.engines import selection
from services.tokenizer.files import staging
from services.tokenizer.models import loader
from services.tokenizer.sequences import packing_offsets
from services.tokenizer.text import preprocessing
from services.tokenizer.worker.tasks import assemble_task, duplicates_task, shard_encoder, shard_task


def encode(
    task: tasks_pb2.TokenizeShardTask,
    storage: Storage,
    tokenizers: loader.TokenizerCache,
    selector: selection.EngineSelector,
    context: TaskContext,
) -> stages_pb2.EncodeShardResult:
    """Stage the shard's ids, and the hashes of its texts if duplicates are dropped."""
    return shard_task.run_with_reference_fallback(
        task,
        tokenizers,
        selector,
        context,
        lambda tokenizer, choose: _encode(task, storage, tokenizer, choose, context),
    )


def _encode(
    task: tasks_pb2.TokenizeShardTask,
    storage: Storage,
    tokenizer: loader.Tokenizer,
    choose: shard_task.Choose,
    context: TaskContext,
) -> stages_pb2.EncodeShardResult:
    parameters = task.parameters
    encoder = shard_encoder.ShardEncoder(choose)
    cleaner = preprocessing.Preprocessor(parameters, task.first_row, task.dataset_rows)
    collector = duplicates_task.HashCollector(task.first_row) if parameters.filters.drop_duplicates else None
    # The file is made of exactly these documents, in this order: what `tokenize.measure` computes is computed here.
    is_final = collector is None and not parameters.HasField("shuffle_seed")
    packed = (
        assemble_task.create_packer(parameters, tokenizer)
        if is_final and packing_offsets.are_needed(parameters)
        else None
    )
    moved = packing_offsets.identity_offsets(packed.length if packed else 0)
    with (
        staging.Writer(storage, _key(task, "ids", context), task.first_row, _num_rows(task)) as writer,
        shard_task.read_encoded(task, storage, tokenizer, cleaner, encoder) as pieces,
    ):
        for piece, documents in pieces:
            assert piece.rows is not None  # set by the cleaner
            writer.write(documents, piece.rows)
            if collector is not None:
                collector.add(piece.texts, piece.rows)
            if packed is not None:
                moved = packed.advance_offsets(documents, moved)
            context.report(piece.position, task.shard.size_bytes)
    if collector is not None:
        hashes = collector.write(storage, _key(task, "hashes", context))
        writer.documents.hashes_key, writer.documents.hashes_digests_sha256 = hashes
    written = staging.write(storage, _key(task, "phases", context), moved)
    writer.documents.phases_key, writer.documents.phases_sha256 = written
    cleaner.statistics.MergeFrom(encoder.statistics)
    return stages_pb2.EncodeShardResult(documents=writer.documents, statistics=cleaner.statistics)


def _key(task: tasks_pb2.TokenizeShardTask, what: str, context: TaskContext) -> str:
    return staging.key(task.tokenized_key, what, task.ordinal, task.count, context.tag)


def _num_rows(task: tasks_pb2.TokenizeShardTask) -> int:
    parameters: tokenizations_pb2.TokenizationParameters = task.parameters
    if parameters.HasField("max_documents") and not parameters.HasField("shuffle_seed"):
        return int(min(task.shard.num_rows, parameters.max_documents - task.first_row))
    return int(task.shard.num_rows)
