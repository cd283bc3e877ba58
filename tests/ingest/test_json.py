"""JSON documents: an array of objects, alone or in a field, in bounded memory and with the place of what is wrong."""

import json
import pathlib
from typing import Any

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import harness
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": 'quotes " and \\ and \\" and { [ ] }', "tags": ["a", "]"], "about": {"k": "}"}},
    {"id": 2, "text": "", "tags": [], "about": {"k": "\n\t\0\u2028"}},
    {"id": 3, "text": "grüße 漢字 🙂", "tags": ["\\"], "about": {"k": "\\\\"}},
    {"id": 4, "text": "\\" * 9, "tags": ['"'], "about": {"k": None}},
]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 4 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("around", ["array", "field", "field among others"])
def test_document_rows_do_not_depend_on_blocks(
    ingest: IngestHarness,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
    ascii_only: bool,
    indent: int | None,
    around: str,
) -> None:
    documents: dict[str, Any] = {
        "array": ROWS,
        "field": {"data": ROWS},
        "field among others": {
            "a": [1, [{}]],
            'a "key" }': "text \\",
            "n": -1.5,
            "t": True,
            "e": [],
            "o": {"rows": [{"x": 1}]},
            "data": ROWS,
            "z": None,
        },
    }
    (source / "a.json").write_text(json.dumps(documents[around], ensure_ascii=ascii_only, indent=indent))
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    ingest.files(source / "a.json")
    assert list(ingest.dataset()) == ROWS


def test_named_field_is_read(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.json").write_text(json.dumps({"train": [{"a": 1}, {"a": 2}], "test": [{"a": 3}], "none": []}))
    ingest.files(source / "a.json", json_field="test")
    assert ingest.dataset()["a"][:] == [3]
    ingest.files(source / "a.json", json_field="train")
    assert ingest.dataset()["a"][:] == [1, 2]


def test_row_that_holds_a_list_of_objects(ingest: IngestHarness, source: pathlib.Path) -> None:
    row = {"messages": [{"role": "user"}]}
    (source / "a.json").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    ingest.files(source / "a.json")
    assert list(ingest.dataset()) == [row, row]
    (source / "a.json").write_text(json.dumps(row))
    ingest.files(source / "a.json", format=FileSource.FORMAT_JSONL)
    assert list(ingest.dataset()) == [row]


def test_documents_and_lines_together(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.json").write_text('[{"a": 1}]')
    (source / "b.jsonl").write_text('{"a": 2}\n')
    (source / "c.json").write_text("[]")
    ingest.files(source)
    assert ingest.dataset()["a"][:] == [1, 2]


def test_columns_come_and_go_from_row_to_row(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The column that is new comes with the row after a full record batch.
    monkeypatch.setattr(limits, "BATCH_ROWS", 3)
    rows: list[dict[str, Any]] = [{"a": number} for number in range(6)] + [{"b": "2020-01-01"}, {"a": 0.5}]
    (source / "a.json").write_text(json.dumps(rows, indent=1))
    ingest.files(source / "a.json")
    assert list(ingest.dataset()) == [{"a": row.get("a"), "b": row.get("b")} for row in rows]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('[\n {"a": 1},\n 7\n]', ("line 3", "object", "number")),
        ('["x"]', ("line 1", "object", "string")),
        ('[{"a": 1},\n]', ("line 2", "object", "']'")),
        ('[{"a": 1}\n {"a": 2}]', ("line 2", "','", "']'", "'{'")),
        ('[{"a": 1},\n {"a": 2}', ("line 2", "','", "']'", "end")),
        ('[{"a": 1},\n {"a": "', ("line 2", "ends")),
        ('[{"a": 1}]\n[', ("line 2", "after")),
        ('{\n"a": 1}\n[]', ("line 2", "field", "'a'")),
        ('{"a": [{}],\n"b": [{}]}', ("line 2", "'a'", "'b'")),
        ('{"a": [{"b": 1}],}', ("line 1", "name")),
        ('{"a": [1, ', ("line 1", "ends")),
        ('"text"', ("line 1", "array")),
        ('[\n{"a": 1},\n{"b":\n  oops}\n]', ("line 4", "column 3")),
        ('[{"a": [}]}]', ("line 1", "','", "']'", "'}'")),
        ('[{"a": [}}]', ("line 1", "column 8")),
    ],
)
def test_errors_name_the_line(
    ingest: IngestHarness, source: pathlib.Path, content: str, names: tuple[str, ...]
) -> None:
    path = source / "a.json"
    path.write_text(content)
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path)
    check_names(caught.value.message, path, *names)
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


@pytest.mark.parametrize(
    ("content", "name"),
    [('[{"a": 1}]', "json_field"), ('{"b": [{}]}', "'b'"), ('{"rows": {}}', "array")],
)
def test_missing_field(ingest: IngestHarness, source: pathlib.Path, content: str, name: str) -> None:
    path = source / "a.json"
    path.write_text(content)
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, json_field="rows")
    check_names(caught.value.message, path, "line 1", "'rows'", name)
    assert caught.value.reason == "SOURCE_INVALID"


def test_oversized_row(ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 16)
    path = source / "a.json"
    path.write_text(json.dumps([{"a": "x"}, {"a": "x" * (1 << 20)}], indent=1))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path)
    check_names(caught.value.message, path, "line 5", "1 MiB")
    assert caught.value.reason == "SOURCE_INVALID"
    # What lies beside the rows may be of any length.
    path.write_text(json.dumps({"skipped": ['\\"' * (1 << 20)], "rows": [{"a": "x"}]}))
    ingest.files(path)
    assert ingest.dataset()["a"][:] == ["x"]


def test_option_of_another_format(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("text\nx\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(harness.files(source / "a.csv", json_field="rows"))
    assert [violation.field for violation in caught.value.violations] == ["source.files.json_field"]
    check_names(caught.value.message, "JSON")


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", "|"), ("a.tsv", ";"), ("a.csv", "\t")])
def test_any_character_may_separate_cells(
    ingest: IngestHarness, source: pathlib.Path, name: str, delimiter: str
) -> None:
    (source / name).write_text(f'id{delimiter}text\n1{delimiter}"a{delimiter}b"\n')
    ingest.files(source / name, delimiter=delimiter)
    assert ingest.dataset()[:] == {"id": [1], "text": [f"a{delimiter}b"]}
