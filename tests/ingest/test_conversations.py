"""Columns of lists of objects, as conversations are: kept as they are, of one type in all files."""

import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytok import errors
from services.catalog.ingest import limits, texts
from tests.ingest.ingests import Ingest

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    [{"content": "No role first", "role": "user", "name": "kim"}],
    [],
    [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": "-3", "tool_call_id": "2020-01-01"},
    ],
]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def write(path: pathlib.Path, chats: list[Any], column: str = "messages") -> pathlib.Path:
    path.write_text("".join(json.dumps({"id": number, column: chat}) + "\n" for number, chat in enumerate(chats)))
    return path


@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow"])
def test_every_turn_comes_back_with_the_keys_that_it_had(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ending: str, block_bytes: int
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    path = source / f"a.{ending}"
    table = pa.table({"id": range(len(CHATS)), "messages": pa.array(CHATS)})
    if ending == "jsonl":
        write(path, CHATS)
    elif ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    result = ingest.files(path)
    assert [without_nulls(chat) for chat in ingest.dataset()["messages"]] == without_nulls(CHATS)
    (kind,) = {column.type for column in result.columns if column.name == "messages"}
    assert kind.startswith("list<item: struct<")
    for field in ("role: string", "content: string", "name: string", "city: string", "tool_call_id: string"):
        assert field in kind


def test_files_with_other_keys_become_one_type(ingest: Ingest, source: pathlib.Path) -> None:
    files = [write(source / f"{place}.jsonl", [chat]) for place, chat in enumerate(CHATS)]
    result = ingest.files(*files)
    schemas = {str(batch.schema.field("messages").type) for shard in result.shards for batch in ingest.batches(shard)}
    assert len(schemas) == 1
    assert [without_nulls(chat) for chat in ingest.dataset()["messages"]] == without_nulls(CHATS)


def test_values_of_two_types_are_refused_by_name(ingest: Ingest, source: pathlib.Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(write(source / "a.jsonl", [CHATS[0], parts]))
    assert caught.value.message == (
        f"{source}/a.jsonl, line 2: column 'messages/[]/content' holds an array, and a string in the lines before."
        " Make the values of a column the same type."
    )
    one, two = write(source / "b.jsonl", [CHATS[0]]), write(source / "c.jsonl", [parts])
    with pytest.raises(errors.InvalidArgument, match=r"Column 'messages' holds .*list.* in .*c\.jsonl, and list<"):
        ingest.files(one, two)


def python_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(map(python_bytes, value.values()))
    return sum(map(python_bytes, value)) if isinstance(value, list) else 0


def test_text_is_measured_wherever_it_stands(ingest: Ingest, source: pathlib.Path) -> None:
    rows = [*CHATS, None, [None, {"role": "ü"}]]
    batch = pa.record_batch(
        {
            "messages": pa.array(rows),
            "text": ["a", None, "漢", "", "b", "c"],
            "pair": pa.array([["x", "yy"], None, ["", None], ["z", "z"], None, ["1", "2"]], pa.list_(pa.string(), 2)),
            "n": range(6),
        }
    )
    expected = [python_bytes(row) for row in batch.to_pylist()]
    assert texts.sizes(batch).tolist() == expected
    assert texts.sizes(batch.slice(2, 3)).tolist() == expected[2:5]
    assert texts.sizes(batch.slice(0, 0)).tolist() == []
    result = ingest.files(write(source / "a.jsonl", CHATS * 50), shard_bytes=500)
    assert len(result.shards) > 5
    assert sum(shard.text_bytes for shard in result.shards) == 50 * sum(map(python_bytes, CHATS))
    assert np.mean([shard.text_bytes for shard in result.shards[:-1]]) == pytest.approx(500, rel=0.1)
