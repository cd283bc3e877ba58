"""Reading only some columns."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytok import errors
from services.catalog.ingest import limits
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

ROWS = [{"id": 1, "text": "a", "label": "x"}, {"id": 2, "text": "b", "label": "y"}]


def write(folder: pathlib.Path, kind: str) -> pathlib.Path:
    path, table = folder / f"a.{kind}", pa.Table.from_pylist(ROWS)
    match kind:
        case "parquet":
            pq.write_table(table, path)
        case "arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        case "csv":
            path.write_text("id,text,label\n1,a,x\n2,b,y\n")
        case _:
            path.write_text('{"id": 1, "text": "a", "label": "x"}\n{"id": 2, "text": "b", "label": "y"}\n')
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl", "json"])
def test_only_these_columns_are_stored(ingest: IngestHarness, source: pathlib.Path, kind: str) -> None:
    result = ingest.files(write(source, kind), columns=["label", "text"])
    assert [column.name for column in result.columns] == ["text", "label"]
    assert ingest.dataset().to_list() == [{"text": row["text"], "label": row["label"]} for row in ROWS]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl", "json"])
def test_a_missing_column(ingest: IngestHarness, source: pathlib.Path, kind: str) -> None:
    with pytest.raises(errors.NotFound) as caught:
        ingest.files(write(source, kind), columns=["labels"])
    assert caught.value.reason == "COLUMN_NOT_FOUND"
    assert [violation.field for violation in caught.value.violations] == ["dataset.source.columns"]
    check_names(caught.value.message, f"a.{kind}", "'labels'", "'label'", "id", "text")
    assert ingest.stored() == []


def test_a_column_that_only_late_rows_have(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 10)
    (source / "a.jsonl").write_text('{"text": "a", "n": 1}\n' * 200 + '{"text": "b", "late": "x"}\n')
    ingest.files(source, columns=["late", "text"])
    assert ingest.dataset()[199:]["late"] == [None, "x"]


def test_other_columns_may_differ_between_files(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{"text": "a", "url": "x"}\n')
    (source / "b.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source)
    check_names(caught.value.message, "'url'", "columns")
    ingest.files(source, columns=["text"])
    assert ingest.dataset()["text"][:] == ["a", "b"]
