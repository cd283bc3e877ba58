"""Small files become one shard."""

import json
import pathlib

from services.tokenizer.text import columns
from tests.ingest.harness import IngestHarness


def test_fifty_files_make_one_shard(ingest: IngestHarness, source: pathlib.Path) -> None:
    for number in range(50):
        rows = [{"text": f"{number} {row}"} for row in range(number % 3 + 1)]
        (source / f"{number:02}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shard,) = ingest.files(source).shards
    expected = [(f"{number} {row}", f"{number:02}.jsonl", row) for number in range(50) for row in range(number % 3 + 1)]
    assert ingest.dataset()["text"][:] == [text for text, _, _ in expected]
    assert shard.num_rows == len(expected)
    origin = columns.origin(ingest.batches(shard)[0].schema)
    assert origin is not None
    for place, (_, name, row) in enumerate(expected):
        assert origin.of_row(place).endswith(f"row {row} of {name}")


def test_shards_end_at_their_size(ingest: IngestHarness, source: pathlib.Path) -> None:
    for number in range(40):
        (source / f"{number:02}.txt").write_text("x" * 100)
    result = ingest.files(source, shard_bytes=16 << 10)
    assert len(result.shards) > 1
    assert all(shard.size_bytes <= 16 << 10 for shard in result.shards)
    assert [row["text"] for row in ingest.dataset()] == ["x" * 100] * 40


def test_large_files_are_not_written_again(ingest: IngestHarness, source: pathlib.Path) -> None:
    for number in range(2):
        (source / f"{number:02}.txt").write_text("x" * 5000)
    result = ingest.files(source, shard_bytes=16 << 10)
    assert [shard.num_rows for shard in result.shards] == [1, 1]
    assert len([key for key in ingest.stored() if key.endswith(".arrow")]) == 2
