"""What is a row of a text file: a line is in test_files; here the whole file, and what separators separate."""

import gzip
import pathlib

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import harness
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

FILE = FileSource.TEXT_ROWS_FILE
SEPARATED = FileSource.TEXT_ROWS_SEPARATED


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 4 << 20])
@pytest.mark.parametrize(
    ("content", "separator", "rows"),
    [
        ("one\ntwo\n\nthree\n", "", ["one\ntwo", "three"]),
        ("\n\r\n\none\r\ntwo\r\n\r\n\n\r\nthree", "", ["one\r\ntwo", "three"]),
        ("one\n \ntwo\n\n\n", "", ["one\n \ntwo"]),
        ("mac\r\rone\n\n\rtwo\r\n\n", "", ["mac\r\rone", "\rtwo"]),
        ("grüße\n\n漢字 🙂\n\n", "", ["grüße", "漢字 🙂"]),
        ("a<|end|>b\n<|end|><|end|> c <|end|>\n", "<|end|>", ["a", "b\n", " c "]),
        ("<|end|>a<|end|\r\n", "<|end|>", ["a<|end|\r\n"]),
        ("a\n---\nb\n---\n\n---\nc\n", "\n---\n", ["a", "b", "c\n"]),
        ("aaaab", "aa", ["b"]),
        ("ä🙂ö🙂\r\n", "🙂", ["ä", "ö"]),
        ("a.b*c", ".b*", ["a", "c"]),
    ],
)
def test_separated_rows_do_not_depend_on_blocks(
    ingest: IngestHarness,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    separator: str,
    rows: list[str],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    (source / "a.txt").write_bytes(content.encode())
    ingest.files(source / "a.txt", text_rows=SEPARATED, text_separator=separator)
    assert ingest.dataset()["text"][:] == rows


def test_file_as_row_keeps_every_character(ingest: IngestHarness, source: pathlib.Path) -> None:
    texts = ["one\r\ntwo\n\n", "\n", "", "grüße 漢字 🙂\0"]
    for number, text in enumerate(texts):
        (source / f"{number}.txt").write_bytes(text.encode())
    (source / "9.txt.gz").write_bytes(gzip.compress("\ufeffmark".encode()))
    result = ingest.files(source, text_rows=FILE)
    assert ingest.dataset()["text"][:] == [texts[0], texts[1], texts[3], "mark"]
    assert len(result.shards) == 1, "many small files are read together"


def test_files_as_rows_are_read_in_groups(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        (source / f"{number}.txt").write_text(str(number) * 10)
    monkeypatch.setattr(limits, "PART_FILES", 3)
    wanted = harness.files(source, text_rows=FILE)
    parts = ingest.plan(wanted)
    assert [len(part.documents.documents) for part in parts] == [3, 3, 1]
    reports: list[tuple[int, int]] = []
    ingest.read(parts[0], report=lambda done, total: reports.append((done, total)))
    assert reports[0] == (0, 3)
    assert reports == sorted(reports)
    ingest.files(source, text_rows=FILE)
    assert ingest.dataset()["text"][:] == [str(number) * 10 for number in range(7)]
    monkeypatch.setattr(limits, "PART_BYTES", 20)
    assert [len(part.documents.documents) for part in ingest.plan(wanted)] == [2, 2, 2, 1]
    # More than that many files are refused where each is a task of its own.
    monkeypatch.setattr(limits, "DOCUMENTS", 6)
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(wanted)
    check_names(caught.value.message, source, 7, 6)
    assert caught.value.reason == "SOURCE_INVALID"


def test_bad_file_among_rows_is_named(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.txt").write_text("fine\n")
    (source / "b.txt").write_bytes(b"fine\n\xff")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source, text_rows=FILE)
    check_names(caught.value.message, source / "b.txt", "line 2", "UTF-8")
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


def test_oversized_rows(ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 16)
    path = source / "a.txt"
    path.write_text("fits\n\nx\ny\n\n" + "long line\n" * (1 << 17) + "\nfits\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, text_rows=SEPARATED)
    check_names(caught.value.message, path, "line 6", "1 MiB")
    assert caught.value.reason == "SOURCE_INVALID"
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, text_rows=FILE)
    check_names(caught.value.message, path, "1 MiB")
    assert caught.value.reason == "SOURCE_INVALID"
    assert ingest.stored() == []


def test_text_rows_of_another_format(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("text\nx\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(harness.files(source / "a.csv", text_rows=FILE))
    assert [violation.field for violation in caught.value.violations] == ["source.files.text_rows"]
    check_names(caught.value.message, "text")


@pytest.mark.parametrize("text_rows", [FILE, SEPARATED])
def test_files_without_rows(
    ingest: IngestHarness, source: pathlib.Path, text_rows: FileSource.TextRows.ValueType
) -> None:
    (source / "a.txt.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source, text_rows=text_rows)
    check_names(caught.value.message, source / "a.txt.gz")
    assert caught.value.reason == "SOURCE_EMPTY"
