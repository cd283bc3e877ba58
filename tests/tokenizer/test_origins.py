"""A row without text is named by the file that its user knows."""

import pyarrow as pa
import pytest

from polytok import errors
from services.runtime.storage import Storage
from services.tokenizer.text import columns, shard_reader
from tests.support.messages import words
from tests.tokenizer import task_runner


def test_the_message_names_the_source_row(storage: Storage) -> None:
    about = {b"polytok.source": b"notes.jsonl", b"polytok.source_row": b"100"}
    schema = pa.schema([("text", pa.string())], metadata=about)
    batches = [pa.record_batch([texts], schema=schema) for texts in (["a", "b", "c"], ["d", None])]
    shard = task_runner.raw_shard(storage, batches)
    with pytest.raises(errors.InvalidArgument) as caught, shard_reader.open_verified(storage, shard) as file:
        list(shard_reader.pieces(file, shard, columns.TextColumn(""), dataset="datasets/docs", first_row=1000))
    assert caught.value.reason == "COLUMN_INVALID"
    assert {"text", "1004", "datasets/docs", "104", "notes.jsonl"} <= words(caught.value.message)


@pytest.mark.parametrize(
    "about", [{}, {b"polytok.source": b"a"}, {b"polytok.source": b"a", b"polytok.source_row": b"x"}]
)
def test_shards_without_an_origin(about: dict[bytes, bytes]) -> None:
    assert columns.origin(pa.schema([("text", pa.string())], metadata=about)) is None
