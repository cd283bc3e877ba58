"""The documents of a raw shard: the texts of a column, or its conversations rendered with a chat template."""

from collections.abc import Iterator

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.storage.checksums import CheckedFile
from services.tokenizer.models import loader
from services.tokenizer.text import chat_templates, columns, shard_reader


def read_documents(
    task: tasks_pb2.TokenizeShardTask,
    file: CheckedFile,
    tokenizer: loader.Tokenizer,
    counted: tokenizations_pb2.TokenizationStatistics,
) -> Iterator[shard_reader.TextSlice]:
    """Yield the documents that a task selects, like `shard_reader.pieces`, and count how they were rendered."""
    made_of = column(task, tokenizer, counted)
    return shard_reader.pieces(file, task.shard, made_of, dataset=task.dataset, first_row=task.first_row)


def column(
    task: tasks_pb2.TokenizeShardTask,
    tokenizer: loader.Tokenizer,
    counted: tokenizations_pb2.TokenizationStatistics | None = None,
) -> shard_reader.Column:
    """Return the column of the documents."""
    parameters = task.parameters
    if parameters.HasField("chat"):
        return chat_templates.ConversationColumn(
            parameters.text_column,
            parameters.chat,
            tokenizer,
            model=task.model,
            date=task.date,
            counted=counted,
            null_allowed=columns.is_null_allowed(parameters),
        )
    return columns.TextColumn(parameters.text_column, null_allowed=columns.is_null_allowed(parameters))
