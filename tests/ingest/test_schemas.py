"""Columns: what is inferred, what is widened without loss, and what does not fit together."""

import json
import pathlib

import datasets
import pyarrow as pa
import pytest

from polytok import errors
from services.catalog.ingest import limits, shards
from tests.ingest.harness import IngestHarness
from tests.ingest.test_files import arrow, jsonl, parquet
from tests.support.messages import check_names


@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
def test_json_columns_do_not_depend_on_blocks(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    rows: list[dict[str, object]] = [
        {"text": "2020-01-01", "n": 1, "maybe": None},
        {"text": "2020-01-02", "n": 2, "tags": []},
        {"text": "not a date", "n": 2.5, "tags": ["x"], "meta": {"a": 1}},
        {"text": "x", "maybe": "y", "meta": {"b": "2020-01-01", "a": 2}},
    ]
    (source / "a.jsonl").write_bytes(jsonl(rows))
    result = ingest.files(source / "a.jsonl", shard_bytes=1)
    types = {column.name: column.type for column in result.columns}
    assert types.pop("tags").startswith("list<")
    assert types == {"text": "string", "n": "double", "maybe": "string", "meta": "extension<arrow.json>"}
    dataset = ingest.dataset()
    assert dataset["text"][:] == [row["text"] for row in rows]
    assert dataset["n"][:] == [1.0, 2.0, 2.5, None]
    assert dataset["maybe"][:] == [None, None, None, "y"]
    assert dataset["meta"][:] == [row.get("meta") for row in rows]
    # Rows that were written before the columns were known are gone.
    listed = {shard.key for shard in result.shards}
    assert {key for key in ingest.stored() if key.endswith(".arrow")} == listed


def test_later_cells_widen_csv_columns(ingest: IngestHarness, source: pathlib.Path) -> None:
    rows = 300_000
    lines = [f"{number},{number},{number},,2020-01-01,true" for number in range(rows)]
    (source / "a.csv").write_text("\n".join(["id,n,code,empty,day,flag", *lines, "7,1.5,007,NA,x,false"]) + "\n")
    result = ingest.files(source / "a.csv", shard_bytes=1 << 20)
    assert {column.name: column.type for column in result.columns} == {
        "id": "int64", "n": "double", "code": "int64", "empty": "string", "day": "string", "flag": "bool",
    }  # fmt: skip
    (source / "b.csv").write_text("\n".join(["id,code", *("1,1" for _ in range(rows)), "2,00a", "3,"]) + "\n")
    ingest.files(source / "b.csv", shard_bytes=1 << 20)
    dataset = ingest.dataset()
    assert dataset.num_rows == rows + 2
    assert dataset[-2:] == {"id": [2, 3], "code": ["00a", ""]}
    assert dataset[0] == {"id": 1, "code": "1"}


def test_a_csv_column_of_text_keeps_every_cell(ingest: IngestHarness, source: pathlib.Path) -> None:
    cells = ["NA", "null", "", "1", "2020-01-01", "true", " x "]
    (source / "a.csv").write_text("id,text\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))
    ingest.files(source / "a.csv")
    assert ingest.dataset()["text"][:] == cells


def test_special_layouts_become_plain(ingest: IngestHarness, source: pathlib.Path) -> None:
    dictionary = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table({
        "large": pa.array(["x", "y", None], pa.large_string()),
        "view": pa.array(["x", "y", "z"], pa.string_view()),
        "words": dictionary,
        "lists": pa.array([["x"], [], None], pa.large_list(pa.large_string())),
        "map": pa.array([[("k", 1)], [], []], pa.map_(pa.string(), pa.int64())),
        "runs": pa.RunEndEncodedArray.from_arrays([2, 3], ["x", "y"]),
        "nested": pa.StructArray.from_arrays([dictionary], ["word"]),
    })  # fmt: skip
    (source / "a.arrow").write_bytes(arrow(table, stream=True))
    ingest.files(source / "a.arrow")
    dataset = ingest.dataset()
    assert dataset.features["large"] == datasets.Value("string")
    assert dataset["large"][:] == ["x", "y", None]
    assert dataset["view"][:] == ["x", "y", "z"]
    assert dataset["words"][:] == ["a", "b", "a"]
    assert dataset["lists"][:] == [["x"], [], None]
    assert dataset["map"][:] == [[{"key": "k", "value": 1}], [], []]
    assert dataset["runs"][:] == ["x", "x", "y"]
    assert dataset["nested"][:] == [{"word": "a"}, {"word": "b"}, {"word": "a"}]


def test_features_of_parquet_files_are_kept(ingest: IngestHarness, source: pathlib.Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features).to_parquet(source / "a.parquet")
    result = ingest.files(source / "a.parquet")
    assert ingest.dataset().features == features
    assert datasets.Features.from_dict(json.loads(result.features_json)) == features


def test_types_widen_across_files(ingest: IngestHarness, source: pathlib.Path) -> None:
    first = pa.table({"text": pa.array(["a", "b"]), "n": pa.array([1, 2], pa.int32())})
    second = pa.table({"text": pa.array([None, "c"], pa.large_string()), "n": pa.array([0.5, 1])})
    third = pa.table({"n": pa.array([1 << 40]), "text": pa.nulls(1)})
    for name, table in (("a", first), ("b", second), ("c", third)):
        (source / f"{name}.parquet").write_bytes(parquet(table))
    result = ingest.files(source)
    assert [(column.name, column.type) for column in result.columns] == [("text", "string"), ("n", "double")]
    assert ingest.dataset()[:] == {"text": ["a", "b", None, "c", None], "n": [1, 2, 0.5, 1, float(1 << 40)]}
    for shard in result.shards:
        assert ingest.storage.sha256(shard.key) == shard.sha256
        assert [batch.schema.names for batch in ingest.batches(shard)] == [["text", "n"]]


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"text": ["a"]}, {"body": ["a"]}, ("a.parquet", "b.parquet", "'text'")),
        ({"text": ["a"]}, {"text": ["a"], "id": [1]}, ("a.parquet", "b.parquet", "'id'")),
        ({"x": ["a"]}, {"x": [1]}, ("a.parquet", "b.parquet", "'x'", "int64", "string")),
        ({"x": [(1 << 53) + 1]}, {"x": [0.5]}, ("a.parquet", "'x'", (1 << 53) + 1)),
    ],
)
def test_incompatible_files(
    ingest: IngestHarness,
    source: pathlib.Path,
    first: dict[str, list[object]],
    second: dict[str, list[object]],
    names: tuple[object, ...],
) -> None:
    (source / "a.parquet").write_bytes(parquet(pa.table(first)))
    (source / "b.parquet").write_bytes(parquet(pa.table(second)))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source)
    check_names(caught.value.message, *names)
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_INVALID", False)
    # The shards of the parts are another task's; the publication itself leaves nothing.
    assert [key for key in ingest.stored() if "publish" in key or "json" in key] == []


def test_number_too_large_for_a_double(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{"n": 9007199254740993}\n' * 600_000 + '{"n": 0.5}\n')
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source / "a.jsonl")
    check_names(caught.value.message, source / "a.jsonl", "'n'", 9007199254740993)
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


def test_type_that_datasets_cannot_load(ingest: IngestHarness, source: pathlib.Path) -> None:
    table = pa.table({"text": ["x"], "gap": pa.array([pa.MonthDayNano([1, 2, 3])])})
    (source / "a.arrow").write_bytes(arrow(table, stream=True))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source / "a.arrow")
    check_names(caught.value.message, source / "a.arrow", "'gap'", "month_day_nano_interval")
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


def test_shards_record_where_rows_come_from(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text("".join(f'{{"n": {number}, "text": "{"x" * 10}"}}\n' for number in range(10)))
    # The decimal makes the other file's shards be written again.
    (source / "b.jsonl").write_text('{"n": 0.5, "text": "y"}\n')
    (source / "c.jsonl").write_text('{"text": "z"}\n{"text": "z", "n": 1}\n')
    result = ingest.files(source, shard_bytes=40)
    about = []
    for shard in result.shards:
        (batch,) = ingest.batches(shard)
        about += json.loads(batch.schema.metadata[shards.SOURCES])
        assert batch.num_rows == shard.num_rows
    assert about == [[0, "a.jsonl", 0], [0, "a.jsonl", 4], [0, "a.jsonl", 8], [0, "b.jsonl", 0], [0, "c.jsonl", 0]]
    assert ingest.dataset()["n"][:] == [*range(10), 0.5, None, 1]
    # The folder is not recorded, and does not change the fingerprint.
    fingerprint = result.fingerprint
    source.rename(source.with_name("elsewhere"))
    assert ingest.files(source.with_name("elsewhere"), shard_bytes=40).fingerprint == fingerprint
