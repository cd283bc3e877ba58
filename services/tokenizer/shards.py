"""The task `tokenize.shard`: one raw shard to one file of token ids."""

import contextlib

from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.jobs.child import TaskContext
from services.runtime.storage import Storage
from services.tokenizer import loading, output, reading, writing
from services.tokenizer.engines import Engine, reference


def tokenize(
    task: tasks_pb2.TokenizeShardTask, storage: Storage, tokenizers: loading.Tokenizers, context: TaskContext
) -> tasks_pb2.TokenizeShardResult:
    """Reads, encodes and writes, a bounded piece at a time."""
    tokenizer = tokenizers.get(task.tokenizer)
    engine: Engine = reference.Reference(tokenizer.backend)
    key = f"{task.tokenized_key}/shard-{task.ordinal:05d}-of-{task.count:05d}-{context.tag}.arrow"
    num_documents = text_bytes = 0
    # The reader's block is the inner one: bytes that were not the right ones must not become a file.
    with (
        writing.ShardWriter(storage, key) as writer,
        contextlib.closing(output.Output(task.parameters, tokenizer, writer)) as made,
        reading.verified(storage, task.shard) as file,
    ):
        for piece in reading.slices(file, task.shard, task.parameters.text_column):
            made.add(engine.encode(piece.texts))
            num_documents, text_bytes = num_documents + len(piece.texts), text_bytes + piece.text_bytes
            context.report(piece.position, task.shard.size_bytes)
        total = made.finish()
    total.engine = engine.name
    total.num_documents, total.text_bytes = num_documents, text_bytes
    total.num_files = len(writer.files)
    total.size_bytes = sum(file.size_bytes for file in writer.files)
    return tasks_pb2.TokenizeShardResult(files=writer.files, statistics=total)
