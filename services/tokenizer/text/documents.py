"""The documents of a raw shard: the texts of a column, or its conversations as a chat template renders them."""

from collections.abc import Iterator

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.storage.checksums import CheckedFile
from services.tokenizer.models import loading
from services.tokenizer.text import chats, columns, reading


def of(
    task: tasks_pb2.TokenizeShardTask,
    file: CheckedFile,
    tokenizer: loading.Tokenizer,
    counted: tokenizations_pb2.TokenizationStatistics,
) -> Iterator[reading.Slice]:
    """Yield the documents that a task asks for, as `reading.pieces` does, and count how they were rendered."""
    made_of = column(task, tokenizer, counted)
    return reading.pieces(file, task.shard, made_of, dataset=task.dataset, first_row=task.first_row)


def column(
    task: tasks_pb2.TokenizeShardTask,
    tokenizer: loading.Tokenizer,
    counted: tokenizations_pb2.TokenizationStatistics | None = None,
) -> reading.Column:
    """Return the column that they are made of."""
    parameters = task.parameters
    if parameters.HasField("chat"):
        return chats.Conversations(
            parameters.text_column, parameters.chat, tokenizer, model=task.model, date=task.date, counted=counted
        )
    return columns.Texts(parameters.text_column)
