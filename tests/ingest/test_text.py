"""What is a row of a text file: a line is in test_files; here the whole file, and what separators separate."""

import gzip
import pathlib

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import ingests
from tests.ingest.ingests import Ingest

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
def test_rows_between_separators_wherever_blocks_end(
    ingest: Ingest,
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


def test_a_row_a_file_keeps_every_character(ingest: Ingest, source: pathlib.Path) -> None:
    texts = ["one\r\ntwo\n\n", "\n", "", "grüße 漢字 🙂\0"]
    for number, text in enumerate(texts):
        (source / f"{number}.txt").write_bytes(text.encode())
    (source / "9.txt.gz").write_bytes(gzip.compress("\ufeffmark".encode()))
    result = ingest.files(source, text_rows=FILE)
    assert ingest.dataset()["text"][:] == [texts[0], texts[1], texts[3], "mark"]
    assert len(result.shards) == 1, "many small files are read together"


def test_files_that_are_rows_are_read_in_groups(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        (source / f"{number}.txt").write_text(str(number) * 10)
    monkeypatch.setattr(limits, "PART_FILES", 3)
    wanted = ingests.files(source, text_rows=FILE)
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
    assert caught.value.message == f"{source} stands for 7 files; 6 is the most. Join them into larger ones."


def test_a_file_that_cannot_be_a_row_is_named(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.txt").write_text("fine\n")
    (source / "b.txt").write_bytes(b"fine\n\xff")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source, text_rows=FILE)
    assert caught.value.message.startswith(f"{source}/b.txt, line 2: not UTF-8")
    assert ingest.stored() == []


def test_rows_that_are_too_long(ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 16)
    path = source / "a.txt"
    path.write_text("fits\n\nx\ny\n\n" + "long line\n" * (1 << 17) + "\nfits\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, text_rows=SEPARATED)
    assert caught.value.message == (
        f"{path}: the text that begins on line 6 is longer than 1 MiB, the most that a row may hold, without a"
        " separator. Split it, or name the separator that it has."
    )
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(path, text_rows=FILE)
    assert caught.value.message == (
        f"{path} is longer than 1 MiB, the most that a row may hold. Split the file, or make a row of each line or of"
        " what stands between separators."
    )
    assert ingest.stored() == []


def test_rows_of_text_are_no_rows_of_other_formats(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("text\nx\n")
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(ingests.files(source / "a.csv", text_rows=FILE))
    assert caught.value.message == (
        "source.files.text_rows: belongs to text files, and these are of another format. Leave it out."
    )


@pytest.mark.parametrize("text_rows", [FILE, SEPARATED])
def test_files_without_rows(ingest: Ingest, source: pathlib.Path, text_rows: FileSource.TextRows.ValueType) -> None:
    (source / "a.txt.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.files(source, text_rows=text_rows)
    assert caught.value.message == f"{source}/a.txt.gz has no rows. Give a source with at least one row."
    assert caught.value.reason == "SOURCE_EMPTY"
