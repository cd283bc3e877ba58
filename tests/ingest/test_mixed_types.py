"""Columns whose values have no common type."""

import json
import pathlib
import random

import pytest

from services.catalog.ingest import limits
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import refused
from tests.support.messages import check_names

JSON = "extension<arrow.json>"


def types(result: object) -> dict[str, str]:
    return {column.name: column.type for column in result.columns}  # type: ignore[attr-defined]


MIXED = {
    "string": [5, "x", None, 2**60 + 1],
    "float": [1.5, 9007199254740993, "x"],
    "boolean": [True, 0, "no"],
    "list": [[1], "x", []],
    "items": [[1, "a"], [], [None]],
    "object": [1.5, {"a": 1}, "x"],
    "depth": [[1], [[1]]],
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_json_column_of_mixed_types(ingest: IngestHarness, source: pathlib.Path, kind: str) -> None:
    values = MIXED[kind]
    lines = [json.dumps({"text": f"row {row}", "meta": value}) for row, value in enumerate(values)]
    (source / "a.jsonl").write_text("\n".join(lines))
    assert types(ingest.files(source / "a.jsonl")) == {"text": "string", "meta": JSON}
    found = ingest.dataset()["meta"][:]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("kind", MIXED)
def test_types_that_differ_between_files(ingest: IngestHarness, source: pathlib.Path, kind: str) -> None:
    for row, value in enumerate(MIXED[kind]):
        (source / f"{row}.json").write_text(json.dumps([{"text": f"row {row}", "meta": value}]))
    assert types(ingest.files(source)) == {"text": "string", "meta": JSON}
    assert ingest.dataset()["meta"][:] == MIXED[kind]


def test_a_type_that_changes_late(ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 12)
    numbers = random.Random(7)
    values = [*(numbers.random() for _ in range(2000)), "x", *range(10)]
    (source / "a.jsonl").write_text("\n".join(json.dumps({"text": "t", "meta": value}) for value in values))
    # `datasets` decodes the texts with fewer digits.
    found = [
        text
        for shard in ingest.files(source / "a.jsonl").shards
        for batch in ingest.batches(shard)
        for text in batch["meta"].storage.to_pylist()
    ]
    assert found == [json.dumps(value) for value in values]


def test_lists_that_are_empty_or_null_have_any_type(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{"a": []}\n{"a": null}\n{"a": [null]}\n{"a": [1, 2.5]}\n')
    assert types(ingest.files(source)) == {"a": "list<item: double>"}


def test_csv_cells_are_text_if_any_file_has_text(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("text,n\n007,1\n,2\n1.50,3\n")
    (source / "b.csv").write_text("text,n\nwords,4.5\n")
    assert types(ingest.files(source)) == {"text": "string", "n": "double"}
    assert ingest.dataset()["text"][:] == ["007", "", "1.50", "words"]


def test_types_in_files_are_not_changed(ingest: IngestHarness, source: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, values in (("a", [1, 2]), ("b", ["x"])):
        pq.write_table(pa.table({"text": ["t"] * len(values), "meta": values}), source / f"{name}.parquet")
    error = refused(ingest, source)
    check_names(error.message, "'meta'", "int64", "string", "a.parquet", "b.parquet", "columns")
    ingest.files(source, columns=["text"])
    assert ingest.dataset().column_names == ["text"]
    assert ingest.dataset()["text"][:] == ["t", "t", "t"]
