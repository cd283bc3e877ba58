"""Columns of objects, as conversations are: from JSON kept as they are, from Arrow of one type in all files."""

import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import Column
from services.catalog.ingest import limits, text_size
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

JSON = "extension<arrow.json>"
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
def test_turns_keep_their_keys(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ending: str, block_bytes: int
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
    (column,) = (column for column in result.columns if column.name == "messages")
    if ending == "jsonl":
        assert ingest.dataset()["messages"][:] == CHATS
        assert (column.type, column.content) == (JSON, Column.CONTENT_CONVERSATIONS)
        return
    assert [without_nulls(chat) for chat in ingest.dataset()["messages"]] == without_nulls(CHATS)
    kind = column.type
    assert kind.startswith("list<item: struct<")
    for field in ("role: string", "content: string", "name: string", "city: string", "tool_call_id: string"):
        assert field in kind


def test_files_with_other_keys_get_one_type(ingest: IngestHarness, source: pathlib.Path) -> None:
    files = [write(source / f"{place}.jsonl", [chat]) for place, chat in enumerate(CHATS)]
    result = ingest.files(*files)
    schemas = {str(batch.schema.field("messages").type) for shard in result.shards for batch in ingest.batches(shard)}
    assert len(schemas) == 1
    assert [without_nulls(chat) for chat in ingest.dataset()["messages"]] == without_nulls(CHATS)


EXACT = (
    '{"messages": [{"role": "user", "content": "a", "x": 1}], "n": 1}',
    '{"n": 2, "messages": [{"x": 1.5, "content": [{"type": "text", "text": "b"}], "role": "user"}], "tools": "[]"}',
    '{"messages": [{"role": "user", "content": null, "x": 9007199254740993, "y": {"b": null, "a": 1e3}}], "n": 3}',
    '{"messages": [ {"role" : "\\u0075ser", "content": "\\ud83d\\ude00", "x": 12345678901234567890123} ], "n": null}',
    '{"messages": null, "tools": [{"name": "f"}, null], "n": 5, "meta": {}}',
    '{"messages": [], "tools": [], "n": 6, "meta": {"stars": "unknown", "stars": 5}}',
)
"""Rows that no one type of Arrow holds."""


@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_objects_of_json_are_what_the_file_says(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ending: str, block_bytes: int
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    text = "\n".join(EXACT) if ending == "jsonl" else "[" + ",\n".join(EXACT) + "]"
    (source / f"a.{ending}").write_text(text)
    result = ingest.files(source / f"a.{ending}")
    expected = [json.loads(row) for row in EXACT]
    found: dict[str, list[Any]] = {}
    for shard in result.shards:
        for batch in ingest.batches(shard):
            for field, column in zip(batch.schema, batch.columns, strict=True):
                values = column.to_pylist()
                if str(field.type) == JSON:
                    values = [value and json.loads(value) for value in values]
                found.setdefault(field.name, []).extend(values)
    # As text, so that the order of keys counts, and 1 is not 1.0.
    for name in ("messages", "n", "tools", "meta"):
        assert list(map(repr, found[name])) == [repr(row.get(name)) for row in expected]
    assert {column.name: (column.type, column.content) for column in result.columns} == {
        "messages": (JSON, Column.CONTENT_CONVERSATIONS),
        "n": ("int64", Column.CONTENT_UNSPECIFIED),
        "tools": (JSON, Column.CONTENT_UNSPECIFIED),
        "meta": (JSON, Column.CONTENT_UNSPECIFIED),
    }


def test_files_without_objects_are_json_too(ingest: IngestHarness, source: pathlib.Path) -> None:
    values = ['"[{}]"', "[]", "null", "7", "true", '["a", null]', '{"a": 1}']
    files = [source / f"{place}.jsonl" for place, _ in enumerate(values)]
    for file, value in zip(files, values, strict=True):
        file.write_text('{"tools": ' + value + "}\n")
    ingest.files(*files)
    assert ingest.dataset()["tools"][:] == [json.loads(value) for value in values]
    (source / "8.jsonl").write_text('{"tools": [1, 1.50]}\n')
    (shard,) = ingest.files(*files, source / "8.jsonl").shards
    texts = [text for batch in ingest.batches(shard) for text in batch["tools"].storage.to_pylist()]
    assert texts == [None if value == "null" else value for value in values] + ["[1, 1.50]"]


def test_lists_within_lists(ingest: IngestHarness, source: pathlib.Path) -> None:
    deep = '{"x": ' + "[" * 900 + "{}" + "]" * 900 + "}"
    (source / "a.jsonl").write_text(deep + "\n")
    assert ingest.files(source / "a.jsonl").columns[0].type == JSON
    assert ingest.batches(ingest.files(source / "a.jsonl").shards[0])[0]["x"].to_pylist() == [deep[6:-1]]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ('{"messages": [{"role": "user"]}', "column 30"),
        ('{"messages": [{"n": ' + "9" * 5000 + "}]}", "number"),
        ('{"messages": ' + "[" * 5000 + "]" * 5000 + "}", "nested"),
    ],
)
def test_bad_objects_are_named_by_line(ingest: IngestHarness, source: pathlib.Path, row: str, name: str) -> None:
    (source / "a.jsonl").write_text(EXACT[0] + "\n" + row + "\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source / "a.jsonl")
    assert caught.value.reason == "SOURCE_INVALID"
    check_names(caught.value.message, source / "a.jsonl", "line 2", name)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_json_within_lists_and_objects_of_arrow(ingest: IngestHarness, source: pathlib.Path, ending: str) -> None:
    turns = pa.ListArray.from_arrays(
        pa.array([0, 1, 3]), pa.array(['{"role":"user","content":"a"}', "null", '{"from":"b"}'], pa.json_())
    )
    stars = pa.StructArray.from_arrays([pa.array(["5", '"unknown"'], pa.json_())], ["stars"])
    table = pa.table({"text": ["one", "two"], "messages": turns, "meta": stars})
    path = source / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    result = ingest.files(path)
    kept = ingest.dataset()
    assert kept["messages"][:] == [[{"role": "user", "content": "a"}], [None, {"from": "b"}]]
    assert kept["meta"][:] == [{"stars": 5}, {"stars": "unknown"}]
    contents = {column.name: column.content for column in result.columns}
    assert contents == {"text": 0, "messages": Column.CONTENT_CONVERSATIONS, "meta": 0}


@pytest.mark.parametrize(
    ("values", "is_chat"),
    [
        ([[], [{"role": "assistant", "tool_calls": []}]], True),
        ([[{"from": "human"}], [{"value": "x"}]], True),
        ([[{"role": "user"}]], False),
        ([[{"role": 1, "content": "x"}]], False),
        ([[{"type": "function"}], "x", [{"role": "user", "content": "x"}]], False),
        ([{"role": "user", "content": "x"}], False),
    ],
)
def test_what_conversations_are(
    ingest: IngestHarness, source: pathlib.Path, values: list[Any], *, is_chat: bool
) -> None:
    path = source / "a.jsonl"
    path.write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    (column,) = ingest.files(path).columns
    assert (column.content == Column.CONTENT_CONVERSATIONS) == is_chat


def python_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(map(python_bytes, value.values()))
    return sum(map(python_bytes, value)) if isinstance(value, list) else 0


def test_text_sizes(ingest: IngestHarness, source: pathlib.Path) -> None:
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
    assert text_size.text_bytes_per_row(batch).tolist() == expected
    assert text_size.text_bytes_per_row(batch.slice(2, 3)).tolist() == expected[2:5]
    assert text_size.text_bytes_per_row(batch.slice(0, 0)).tolist() == []
    result = ingest.files(write(source / "a.jsonl", CHATS * 50), shard_bytes=500)
    assert len(result.shards) > 5
    # Of JSON, all of it counts.
    assert sum(shard.text_bytes for shard in result.shards) == 50 * sum(len(json.dumps(chat)) for chat in CHATS)
    assert np.mean([shard.text_bytes for shard in result.shards[:-1]]) == pytest.approx(500, rel=0.3)
