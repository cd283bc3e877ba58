"""JSON documents: an array of objects, alone or in a field, in bounded memory and with the place of what is wrong."""

import json
import pathlib
from typing import Any

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import ingests
from tests.ingest.ingests import Ingest

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
def test_a_document_is_its_rows_wherever_blocks_end(
    ingest: Ingest,
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


def test_a_named_field_is_the_one_that_counts(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.json").write_text(json.dumps({"train": [{"a": 1}, {"a": 2}], "test": [{"a": 3}], "none": []}))
    ingest.files(source / "a.json", json_field="test")
    assert ingest.dataset()["a"][:] == [3]
    ingest.files(source / "a.json", json_field="train")
    assert ingest.dataset()["a"][:] == [1, 2]


def test_a_row_that_has_a_list_of_objects_is_a_row_where_others_follow(ingest: Ingest, source: pathlib.Path) -> None:
    row = {"messages": [{"role": "user"}]}
    (source / "a.json").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    ingest.files(source / "a.json")
    assert list(ingest.dataset()) == [row, row]
    (source / "a.json").write_text(json.dumps(row))
    ingest.files(source / "a.json", format=FileSource.FORMAT_JSONL)
    assert list(ingest.dataset()) == [row]


def test_documents_and_lines_go_together(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.json").write_text('[{"a": 1}]')
    (source / "b.jsonl").write_text('{"a": 2}\n')
    (source / "c.json").write_text("[]")
    ingest.files(source)
    assert ingest.dataset()["a"][:] == [1, 2]


def test_columns_come_and_go_from_row_to_row(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The column that is new comes with the row after a full record batch.
    monkeypatch.setattr(limits, "BATCH_ROWS", 3)
    rows: list[dict[str, Any]] = [{"a": number} for number in range(6)] + [{"b": "2020-01-01"}, {"a": 0.5}]
    (source / "a.json").write_text(json.dumps(rows, indent=1))
    ingest.files(source / "a.json")
    assert list(ingest.dataset()) == [{"a": row.get("a"), "b": row.get("b")} for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n {"a": 1},\n 7\n]', "line 3: each element should be an object, and here is a number."),
        ('["x"]', "line 1: each element should be an object, and here is a string."),
        ('[{"a": 1},\n]', "line 2: each element should be an object, and here is ']'."),
        ('[{"a": 1}\n {"a": 2}]', "line 2: there should be ',' or ']', and there is '{'. Mend the file."),
        ('[{"a": 1},\n {"a": 2}', "line 2: there should be ',' or ']', and there is the end of the file."),
        ('[{"a": 1},\n {"a": "', "line 2: the file ends inside what begins here or before."),
        ('[{"a": 1}]\n[', "line 2: something follows the end of the array or object."),
        ('{\n"a": 1}\n{\n"a": 2}', "line 2: the file is an object in which no field holds a list of objects"),
        ('{"a": 1}', "the file is an object in which no field holds a list of objects; its fields: 'a'."),
        ('{"a": [{}],\n"b": [{}]}', "line 2: two fields hold lists of objects, 'a' and 'b'."),
        ('{"a": [{"b": 1}],}', "line 1: there should be the name of a field in quotation marks."),
        ('{"a": [1, ', "line 1: the file ends inside what begins here or before."),
        ('"text"', "line 1: JSON rows are an array of objects"),
        (
            '[\n{"a": 1},\n{"b":\n  oops}\n]',
            "line 4: not JSON (Expecting value at column 3). Mend the line, or name another format.",
        ),
        ('[{"a": 1},\n{"a": "x"}]', "line 2: column 'a' holds a string, and a number in the lines before."),
        ('[{"a": [}]}]', "line 1: there should be ',' or ']', and there is '}'."),
        ('[{"a": [}}]', "line 1: not JSON (Expecting value at column 8)."),
    ],
)
def test_what_is_wrong_is_told_with_its_line(ingest: Ingest, source: pathlib.Path, content: str, message: str) -> None:
    path = source / "a.json"
    path.write_text(content)
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path)
    assert message in caught.value.message.removeprefix(f"{path}, ")
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}]', "line 1: the file is an array, and has no field 'rows'. Leave json_field out."),
        ('{"b": [{}]}', "line 1: the file is an object without a field 'rows'; its fields: 'b'."),
        ('{"rows": {}}', "line 1: the field 'rows' is to hold the rows, and is no array."),
    ],
)
def test_a_field_that_is_not_there(ingest: Ingest, source: pathlib.Path, content: str, message: str) -> None:
    path = source / "a.json"
    path.write_text(content)
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, json_field="rows")
    assert message in caught.value.message


def test_a_row_that_is_too_long(ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 16)
    path = source / "a.json"
    path.write_text(json.dumps([{"a": "x"}, {"a": "x" * (1 << 20)}], indent=1))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path)
    assert caught.value.message == (
        f"{path}, line 5: an object longer than 1 MiB, the most that a row may hold, begins here. Split it."
    )
    # What lies beside the rows may be of any length.
    path.write_text(json.dumps({"skipped": ['\\"' * (1 << 20)], "rows": [{"a": "x"}]}))
    ingest.files(path)
    assert ingest.dataset()["a"][:] == ["x"]


def test_an_option_of_another_format_is_refused(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("text\nx\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(ingests.files(source / "a.csv", json_field="rows"))
    assert caught.value.message == (
        "source.files.json_field: belongs to JSON files, and these are of another format. Leave it out."
    )


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", "|"), ("a.tsv", ";"), ("a.csv", "\t")])
def test_any_character_may_separate_cells(ingest: Ingest, source: pathlib.Path, name: str, delimiter: str) -> None:
    (source / name).write_text(f'id{delimiter}text\n1{delimiter}"a{delimiter}b"\n')
    ingest.files(source / name, delimiter=delimiter)
    assert ingest.dataset()[:] == {"id": [1], "text": [f"a{delimiter}b"]}
