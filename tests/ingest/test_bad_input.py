"""Content that cannot be read: the error names the place and what is there, and no file is left behind."""

import bz2
import gzip
import lzma
import os
import pathlib

import pyarrow as pa
import pytest
import zstandard

from services.catalog.ingest import limits
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import check_refused, refused
from tests.ingest.test_files import arrow, jsonl, parquet
from tests.support.messages import check_names

ROWS = jsonl([{"text": f"row {number} {os.urandom(300).hex()}"} for number in range(3000)])
TABLE = pa.table({"text": [os.urandom(300).hex() for _ in range(3000)]})


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (ROWS + b'{"text": \n', ("line 3001", "column 10")),
        (b'{"a": 1}\n\n{"a": 2,}\n', ("line 3", "column 9")),
        (b"id,text\n1,x\n", ("line 1", "column 1")),
        (b'[\n {"a": 1}\n]\n', ("line 1", "column 2", "`jq -c`")),
        (b'{"a": "\t"}\n', ("line 1", "column 8")),
        (b'[{"a": 1}]\n', ("line 1", "array", "`jq -c`")),
        (b'{"a": 1}\n"x"\n', ("line 2", "string", "`jq -c`")),
        (b'{"a": 1, "a": 2}\n', ("line 1", "/a")),
        (b'{"a": "\\ud800"}\n', ("line 1", "surrogate")),
        (b"{}\n{}\n", ("column",)),
        (b'{"a":' * 100_000, ("line 1", "nested")),
    ],
)
def test_bad_json(ingest: IngestHarness, source: pathlib.Path, content: bytes, names: tuple[str, ...]) -> None:
    check_refused(ingest, source, "a.jsonl", content, *names)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a,b\n1,2\n3,4,5\n", ("row 3", "3 cells", 2)),
        (b"a,b,c\n" + b"1,some longer text,x\n" * 200_000 + b"2,y\n", ("row 200002", "2 cells", 3)),
        (b"a,a\n1,2\n", ("'a'", "header")),
        (b'a,b\n1,"x\n2,y\n', ("quoted",)),
        (b'a,b\n1,"' + b"x" * 10_000, ("quoted",)),
    ],
)
def test_bad_csv(ingest: IngestHarness, source: pathlib.Path, content: bytes, names: tuple[object, ...]) -> None:
    check_refused(ingest, source, "a.csv", content, *names)


@pytest.mark.parametrize(
    ("name", "content", "line", "byte", "offset"),
    [
        ("a.txt", b"fine\nfine \xe9t\xe9\n", 2, "0xe9", 10),
        ("a.csv", b"text\nfine\n\xff\n", 3, "0xff", 10),
        ("a.jsonl", ROWS + b'{"text": "\xff"}\n', 3001, "0xff", len(ROWS) + 10),
        ("a.txt", b"cut \xf0\x9f\x99", 1, "0xf0", 4),
    ],
)
@pytest.mark.parametrize("block_bytes", [limits.BLOCK_BYTES, 1000, 7])
def test_not_utf8(
    ingest: IngestHarness,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    line: int,
    byte: str,
    offset: int,
    block_bytes: int,
) -> None:
    if block_bytes == 7 and len(content) > 1000:
        # Byte by byte, nearly: the end shows as much as the whole.
        cut = len(ROWS) - len(ROWS.splitlines(keepends=True)[-1])
        line, offset = line - content[:cut].count(b"\n"), offset - cut
        content = content[cut:]
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    check_refused(ingest, source, name, content, f"line {line}", byte, offset, "UTF-8", "LATIN1")


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ("PNG",)),
        ("a.jsonl", b'{"a":\xff\0', ("NUL", 6)),
        ("a.txt", "x\n".encode("utf-16"), ("UTF-16", "UTF-8")),
    ],
)
@pytest.mark.parametrize("block_bytes", [limits.BLOCK_BYTES, 1000, 7])
def test_not_text(
    ingest: IngestHarness,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    names: tuple[object, ...],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    check_refused(ingest, source, name, content, *names)


def test_parquet_and_arrow_not_utf8(ingest: IngestHarness, source: pathlib.Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.table({"id": [1], "text": bad})
    for name, content in (("a.parquet", parquet(table)), ("a.arrow", arrow(table, stream=True))):
        check_refused(ingest, source, name, content, "'text'", "UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.parquet", b"text\nx\n", ("Parquet", r"b'text\nx\n'")),
        ("a.parquet", gzip.compress(b"x", mtime=0), ("Parquet", "gzip")),
        ("a.arrow", b"PAR1....", ("Arrow", "Parquet")),
        ("a.jsonl", parquet(TABLE), ("Parquet",)),
        ("a.txt", zstandard.compress(b"x"), ("Zstandard",)),
        ("a.csv", b"PK\x03\x04rest", ("ZIP",)),
        ("a.csv", b'{"text": "x", "n": 1}\n', ("JSON",)),
        ("a.csv.gz", gzip.compress(b'[\n{"a": 1},\n{"a": 2}]', mtime=0), ("JSON",)),
        ("a.parquet.gz", gzip.compress(parquet(TABLE), mtime=0), ("Parquet", "gzip")),
        ("a.jsonl.gz", b'{"a": 1}\n', ("gzip", "incorrect header check")),
        ("a.jsonl.xz", b'{"a": 1}\n', ("Input format not supported by decoder",)),
        ("a.md", b"x", (".arrow", ".ndjson", ".tsv", ".gz", ".xz")),
    ],
)
def test_not_what_its_name_says(
    ingest: IngestHarness, source: pathlib.Path, name: str, content: bytes, names: tuple[str, ...]
) -> None:
    check_refused(ingest, source, name, content, *names)


COMPRESSED = {
    "gz": ("gzip", gzip.compress(ROWS, mtime=0)),
    "zst": ("zstd", zstandard.compress(ROWS)),
    "bz2": ("bz2", bz2.compress(ROWS)),
    "xz": ("xz", lzma.compress(ROWS)),
}


@pytest.mark.parametrize("ending", COMPRESSED)
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated_compressed_file(ingest: IngestHarness, source: pathlib.Path, ending: str, share: float) -> None:
    word, content = COMPRESSED[ending]
    check_refused(ingest, source, f"a.jsonl.{ending}", content[: int(len(content) * share)], word)


@pytest.mark.parametrize(
    ("name", "content", "format_name"),
    [
        ("a.parquet", parquet(TABLE, row_group_size=100), "Parquet"),
        ("a.arrow", arrow(TABLE, stream=True, rows=100), "Arrow"),
        ("b.arrow", arrow(TABLE, stream=False, rows=100), "Arrow"),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.6, 0.999])
def test_truncated_binary_file(
    ingest: IngestHarness, source: pathlib.Path, name: str, content: bytes, format_name: str, share: float
) -> None:
    check_refused(ingest, source, name, content[: int(len(content) * share)], format_name)


def test_arrow_file_without_its_footer(ingest: IngestHarness, source: pathlib.Path) -> None:
    content = arrow(TABLE, stream=False, rows=100)
    check_refused(ingest, source, "a.arrow", content[:-4], "Arrow")


def test_damaged_parquet_page(ingest: IngestHarness, source: pathlib.Path) -> None:
    content = bytearray(parquet(TABLE, row_group_size=500, compression="zstd", use_dictionary=False))
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    check_refused(ingest, source, "a.parquet", bytes(content), "Parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.parquet", b""),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl", b"\n\n"),
        ("a.csv", b"a,b\n"),
        ("a.csv", b"a,b"),
        ("a.parquet", parquet(TABLE.slice(0, 0))),
    ],
)
def test_empty_file(ingest: IngestHarness, source: pathlib.Path, name: str, content: bytes) -> None:
    check_refused(ingest, source, name, content, reason="SOURCE_EMPTY")


def test_several_empty_files(ingest: IngestHarness, source: pathlib.Path) -> None:
    for content, names in ((b"", (2, source / "a.csv")), (b"text\n", (2,))):
        for name in ("a.csv", "b.csv"):
            (source / name).write_bytes(content)
        check_names(refused(ingest, source, reason="SOURCE_EMPTY").message, *names)


def test_empty_compressed_file_is_truncated(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "b.txt.gz").write_bytes(gzip.compress(b"x\n"))
    (source / "a.txt.gz").write_bytes(b"")
    check_names(refused(ingest, source).message, source / "a.txt.gz", "gzip")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("ends", [True, False])
def test_oversized_row(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, ends: bool
) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 3 << 20)
    monkeypatch.setattr(limits, "CSV_ROW_BYTES", 3 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 20)
    head, tail = {"a.txt": (b"", b""), "a.jsonl": (b'{"a": "', b'"}'), "a.csv": (b'a\n"', b'"')}[name]
    first = {"a.txt": b"x\n", "a.jsonl": b'{"a": "x"}\n', "a.csv": b""}[name]
    content = first + head + b"x" * (7 << 20) + tail + b"\n" * ends
    where = () if name == "a.csv" else ("line 2",)
    check_refused(ingest, source, name, content, "3 MiB", *where)


def test_oversized_arrow_batch(ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.catalog.ingest.sources.arrow._MESSAGE_BYTES", 1 << 20)
    content = arrow(pa.table({"text": ["x" * 1000] * 5000}), stream=True)
    check_refused(ingest, source, "a.arrow", content, "4 MiB", "1 MiB")


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_oversized_parquet_page(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, use_dictionary: bool
) -> None:
    monkeypatch.setattr("services.catalog.ingest.sources.parquet._PAGE_BYTES", 4 << 20)
    # Pages are cut after so many rows, whatever is in these: 1024 rows of 1 KiB fit, 1024 rows of 10 KiB do not.
    short, long = (
        parquet(
            pa.table({"text": [f"{number:0{length}}" for number in range(1500)]}),
            use_dictionary=use_dictionary,
            write_batch_size=1024,
        )
        for length in (1 << 10, 10 << 10)
    )
    (source / "short.parquet").write_bytes(short)
    assert ingest.files(source / "short.parquet").num_rows == 1500
    ingest.storage.delete_tree("datasets")
    check_refused(ingest, source, "a.parquet", long, "'text'", "10 MiB", "row group 0", "4 MiB")
