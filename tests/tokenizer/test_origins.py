"""A row without text is named by the file that its user knows."""

import pyarrow as pa
import pytest

from polytok import errors
from services.runtime.storage import Storage
from services.tokenizer.text import columns, shard_reader
from tests.support.messages import words
from tests.tokenizer import task_runner


def test_the_message_names_the_source_row(storage: Storage) -> None:
    about = {b"polytok.sources": b'[[0, "other.jsonl", 7], [3, "notes.jsonl", 103]]'}
    schema = pa.schema([("text", pa.string())], metadata=about)
    batches = [pa.record_batch([texts], schema=schema) for texts in (["a", "b", "c"], ["d", None])]
    shard = task_runner.raw_shard(storage, batches)
    with pytest.raises(errors.InvalidArgument) as caught, shard_reader.open_verified(storage, shard) as file:
        list(shard_reader.pieces(file, shard, columns.TextColumn(""), dataset="datasets/docs", first_row=1000))
    assert caught.value.reason == "COLUMN_INVALID"
    assert {"text", "1004", "datasets/docs", "104", "notes.jsonl"} <= words(caught.value.message)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"7", b"[]", b"[[1, 'a', 0]]", b'[[1, "a", 0]]', b'[[0, "a", "x"]]', b'[[0, "a"]]', b"[" * 100_000],
)
def test_shards_without_a_valid_origin(value: bytes | None) -> None:
    about = {} if value is None else {b"polytok.sources": value}
    assert columns.origin(pa.schema([("text", pa.string())], metadata=about)) is None
