"""The tasks `tokenize.measure` and `tokenize.assemble`: from staged documents to one of the files."""

import contextlib

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.prefetch import PrefetchIterator
from services.runtime.storage import Storage
from services.tokenizer.files import arrangement, output, sequence_factory, shard_writer, staging
from services.tokenizer.files.arrangement import StagedDocuments
from services.tokenizer.models import loader
from services.tokenizer.sequences import packing, packing_offsets

_FOLLOWING_ROWS = 64


def measure(
    task: stages_pb2.ArrangedTask, storage: Storage, tokenizers: loader.TokenizerCache, context: TaskContext
) -> stages_pb2.MeasureResult:
    """Compute how a file's documents move the places at which sequences start."""
    arranged = arrangement.read(storage, task)
    documents = StagedDocuments(storage, arranged, task.parameters)
    start, stop = arranged.bounds[task.ordinal], arranged.bounds[task.ordinal + 1]
    packed = create_packer(task.parameters, tokenizers.get(task.tokenizer))
    moved = packing_offsets.identity_offsets(packed.length)
    done = 0
    for piece in documents.pieces(start, stop):
        moved = packed.advance_offsets(piece, moved)
        done += piece.num_rows
        context.report(done, stop - start)
    key = staging.key(task.tokenized_key, "phases", task.ordinal, task.count, context.tag)
    written = staging.write(storage, key, moved)
    return stages_pb2.MeasureResult(phases_key=written.key, phases_sha256=written.sha256)


def create_packer(parameters: tokenizations_pb2.TokenizationParameters, tokenizer: loader.Tokenizer) -> packing.Packer:
    """Return the packer that concatenates documents."""
    packed = sequence_factory.create_sequencer(parameters, tokenizer)
    if not isinstance(packed, packing.Packer):
        raise errors.Internal("Only concatenated documents have phases.", retryable=False)
    return packed


def assemble(
    task: stages_pb2.ArrangedTask, storage: Storage, tokenizers: loader.TokenizerCache, context: TaskContext
) -> tasks_pb2.TokenizeShardResult:
    """Write a file."""
    arranged = arrangement.read(storage, task)
    documents = StagedDocuments(storage, arranged, task.parameters)
    start, stop = arranged.bounds[task.ordinal], arranged.bounds[task.ordinal + 1]
    key = f"{task.tokenized_key}/shard-{task.ordinal:05d}-of-{task.count:05d}-{context.tag}.arrow"
    with (
        shard_writer.ShardWriter(storage, key) as writer,
        PrefetchIterator(documents.pieces(start, stop), "gather") as pieces,
        contextlib.closing(output.Output(task.parameters, tokenizers.get(task.tokenizer), writer)) as made,
    ):
        phase = arranged.phases[task.ordinal] if arranged.phases else None
        if phase:
            made.skip(phase)
        done = 0
        for piece in pieces:
            made.add(piece)
            done += piece.num_rows
            context.report(done, stop - start)
        if phase is not None:
            # The last sequence continues in the documents of the next file, and perhaps of others.
            made.complete(documents.pieces(stop, arranged.bounds[-1], _FOLLOWING_ROWS))
        total = made.finish()
    for file in writer.files:
        if len(arranged.phases) > 1:
            file.phase = phase or 0
    for file in writer.files:
        file.counts_key, file.counts_sha256 = made.counts.write(
            storage, staging.key(task.tokenized_key, "counts", task.ordinal, task.count, context.tag)
        )
    total.num_files = len(writer.files)
    total.size_bytes = sum(file.size_bytes for file in writer.files)
    return tasks_pb2.TokenizeShardResult(files=writer.files, statistics=total, lengths=made.lengths.message())
