"""JSON files that are objects, over any number of lines."""

import json
import pathlib

import pytest

from polytok.catalog.v1.datasets_pb2 import FileSource
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import refused
from tests.support.messages import check_names

JSON, JSONL = FileSource.FORMAT_JSON, FileSource.FORMAT_JSONL
ROWS = [{"id": 1, "text": "one\ntwo", "tags": ["a"]}, {"id": 2, "text": "}{", "tags": []}]


@pytest.mark.parametrize("format", [JSON, JSONL])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("separator", ["\n", "\n\n", ""])
def test_consecutive_objects(
    ingest: IngestHarness,
    source: pathlib.Path,
    format: FileSource.Format.ValueType,  # noqa: A002
    indent: int | None,
    separator: str,
) -> None:
    if separator == "" and indent is None:
        pytest.skip("two objects on one line are not JSON lines")
    (source / "a.json").write_text(separator.join(json.dumps(row, indent=indent) for row in ROWS))
    ingest.files(source / "a.json", format=format)
    assert ingest.dataset().to_list() == ROWS


@pytest.mark.parametrize("format", [JSON, JSONL])
@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_per_file(
    ingest: IngestHarness,
    source: pathlib.Path,
    format: FileSource.Format.ValueType,  # noqa: A002
    indent: int | None,
) -> None:
    for number, row in enumerate(ROWS):
        (source / f"{number}.json").write_text(json.dumps(row, indent=indent))
    ingest.files(source, format=format)
    assert ingest.dataset().to_list() == ROWS


def test_an_object_with_rows_is_a_document(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.json").write_text(json.dumps({"version": 1, "data": ROWS}, indent=2))
    ingest.files(source / "a.json")
    assert ingest.dataset().to_list() == ROWS


def test_what_is_between_objects(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{\n"a": 1\n}\n{\n"a": 2\n}\n7\n')
    check_names(refused(ingest, source / "a.jsonl").message, "line 7", "number")


def test_an_array_named_jsonl(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text(json.dumps(ROWS, indent=2))
    check_names(refused(ingest, source / "a.jsonl").message, "line 1", "json")
    ingest.files(source / "a.jsonl", format=JSON)
    assert ingest.dataset().to_list() == ROWS
