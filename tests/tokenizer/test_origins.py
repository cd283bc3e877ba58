"""A row without text is named by the file that its user knows."""

import pyarrow as pa
import pytest

from polytok import errors
from services.runtime.storage import Storage
from services.tokenizer.text import columns, reading
from tests.tokenizer import jobs


def test_the_row_of_the_source_is_told(storage: Storage) -> None:
    about = {b"polytok.source": b"notes.jsonl", b"polytok.source_row": b"100"}
    schema = pa.schema([("text", pa.string())], metadata=about)
    batches = [pa.record_batch([texts], schema=schema) for texts in (["a", "b", "c"], ["d", None])]
    shard = jobs.raw_shard(storage, batches)
    with pytest.raises(errors.InvalidArgument) as caught, reading.verified(storage, shard) as file:
        list(reading.slices(file, shard, "", dataset="datasets/docs", first_row=1000))
    assert caught.value.message == (
        "Column 'text' has no value in row 1004 of datasets/docs (the first row is 0), which is row 104 of notes.jsonl."
        " Remove such rows from the source, or put an empty text there, and add the dataset again."
    )


@pytest.mark.parametrize(
    "about", [{}, {b"polytok.source": b"a"}, {b"polytok.source": b"a", b"polytok.source_row": b"x"}]
)
def test_shards_of_others_tell_nothing(about: dict[bytes, bytes]) -> None:
    assert columns.origin(pa.schema([("text", pa.string())], metadata=about)) is None
