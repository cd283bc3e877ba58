"""Files of every format become what they hold, byte for byte."""

import bz2
import gzip
import hashlib
import json
import lzma
import pathlib
from collections.abc import Callable

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import harness
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

TEXTS = [
    "plain",
    "",
    " spaces \t kept ",
    "line\nbreak",
    "dos\r\nbreak",
    "mac\rbreak",
    "nul\0byte",
    "grüße 漢字 🙂",
    '"q"',
]


def jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table, *, stream: bool, rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


def quoted(texts: list[str]) -> bytes:
    return ("text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts)).encode()


TABLE = pa.table({"text": TEXTS})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl([{"text": text} for text in TEXTS])),
        ("a.ndjson", jsonl([{"text": text} for text in TEXTS]).replace(b"\n", b"\r\n")),
        ("a.json", jsonl([{"text": text} for text in TEXTS]).rstrip(b"\n")),
        ("a.csv", quoted(TEXTS)),
        ("a.parquet", parquet(TABLE)),
        ("a.arrow", arrow(TABLE, stream=True)),
        ("b.arrow", arrow(TABLE, stream=False)),
    ],
)
@pytest.mark.parametrize("shard_bytes", [1, 20, 1 << 20])
def test_text_is_kept_exactly(
    ingest: IngestHarness, source: pathlib.Path, name: str, content: bytes, shard_bytes: int
) -> None:
    (source / name).write_bytes(content)
    result = ingest.files(source / name, shard_bytes=shard_bytes)
    assert ingest.dataset()["text"][:] == TEXTS
    assert (result.num_rows, [column.name for column in result.columns]) == (len(TEXTS), ["text"])
    assert result.columns[0].type == "string"


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo", ["one", "two"]),
        (b"\n\nx\n\n", ["", "", "x", ""]),
        (b"mac\rstays\r\r\nend\r", ["mac\rstays\r", "end\r"]),
        (b"\xef\xbb\xbfmark\n", ["mark"]),
        ("tab\there 🙂\u2028\x85\x0c\n".encode(), ["tab\there 🙂\u2028\x85\x0c"]),
    ],
)
def test_a_line_of_text_is_a_row(ingest: IngestHarness, source: pathlib.Path, content: bytes, rows: list[str]) -> None:
    (source / "a.txt").write_bytes(content)
    ingest.files(source / "a.txt")
    assert ingest.dataset()["text"][:] == rows


COMPRESSORS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".zst", zstandard.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
]


@pytest.mark.parametrize(("ending", "compress"), COMPRESSORS)
def test_compressed_files_are_read_through(
    ingest: IngestHarness, source: pathlib.Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    first, second = jsonl([{"text": text} for text in TEXTS[:4]]), jsonl([{"text": text} for text in TEXTS[4:]])
    # Members one after another, as `cat a.gz b.gz` makes them, are one file.
    (source / f"a.jsonl{ending}").write_bytes(compress(first) + compress(second))
    ingest.files(source / f"a.jsonl{ending}")
    assert ingest.dataset()["text"][:] == TEXTS


@pytest.mark.parametrize("stream", [True, False])
def test_a_compressed_arrow_file_is_read_through(ingest: IngestHarness, source: pathlib.Path, stream: bool) -> None:
    (source / "a.arrow.gz").write_bytes(gzip.compress(arrow(TABLE, stream=stream)))
    ingest.files(source / "a.arrow.gz")
    assert ingest.dataset()["text"][:] == TEXTS


def test_files_are_read_once_in_order_of_names(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "deep").mkdir()
    for number, name in enumerate(["b.txt", "a.txt", "deep/c.txt", "_SUCCESS", ".hidden.txt", "README.md"]):
        (source / name).write_text(f"{number}\n")
    ingest.files(source, source / "*.txt", f"file://{source}/a.txt")
    assert ingest.dataset()["text"][:] == ["1", "0", "2", "4"]


def test_folder_is_filtered_by_format(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.txt").write_text("text\n")
    (source / "b.jsonl").write_text('{"text": "json"}\n')
    ingest.files(source, format=FileSource.FORMAT_JSONL)
    assert ingest.dataset()["text"][:] == ["json"]


def test_named_format_reads_any_name(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "notes").write_text("a\nb\n")
    ingest.files(source / "notes", format=FileSource.FORMAT_TEXT)
    assert ingest.dataset()["text"][:] == ["a", "b"]


def test_literal_name_wins_over_pattern(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a[1].txt").write_text("literal\n")
    (source / "a1.txt").write_text("pattern\n")
    ingest.files(source / "a[1].txt")
    assert ingest.dataset()["text"][:] == ["literal"]


def test_links_are_followed_to_files(ingest: IngestHarness, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "blob").write_text("linked\n")
    (source / "a.txt").symlink_to(tmp_path / "blob")
    for uri in (source, source / "*.txt", source / "a.txt"):
        ingest.files(uri)
        assert ingest.dataset()["text"][:] == ["linked"]
    (source / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(errors.NotFound) as caught:
        ingest.plan(harness.files(source))
    assert caught.value.reason == "SOURCE_NOT_FOUND"
    check_names(caught.value.message, source / "b.txt")


def test_a_remote_file_is_read(ingest: IngestHarness) -> None:
    with fsspec.open("memory://bucket/a.parquet", "wb") as file:
        file.write(parquet(TABLE))
    try:
        (part,) = ingest.plan(harness.files("memory://bucket/*.parquet"))
        assert (part.file.uri, part.file.format) == ("memory:///bucket/a.parquet", FileSource.FORMAT_PARQUET)
        ingest.files("memory://bucket/a.parquet")
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)
    assert ingest.dataset()["text"][:] == TEXTS


def test_tab_separated_values(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.tsv").write_text("id\ttext\n1\ta,b\n")
    ingest.files(source / "a.tsv")
    assert ingest.dataset()[:] == {"id": [1], "text": ["a,b"]}


def test_empty_file_beside_others(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.csv").write_text("")
    (source / "b.csv").write_text("text\nx\n")
    (source / "c.csv").write_text("text\n")
    result = ingest.files(source)
    assert ingest.dataset()["text"][:] == ["x"]
    assert len(result.shards) == 1


def test_shard_boundaries_do_not_depend_on_blocks(
    ingest: IngestHarness, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": number, "text": "x" * (number % 50)} for number in range(2000)]
    (source / "a.jsonl").write_bytes(jsonl(rows))
    result = ingest.files(source / "a.jsonl", shard_bytes=10_000)
    assert [shard.text_bytes for shard in result.shards[:-1]] == pytest.approx([10_000] * 4, abs=50)
    assert min(shard.text_bytes for shard in result.shards[:-1]) >= 10_000
    assert sum(shard.text_bytes for shard in result.shards) == sum(len(str(row["text"])) for row in rows)
    for shard in result.shards:
        path = ingest.storage.local_path(shard.key)
        assert path is not None
        content = path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.size_bytes, shard.sha256)
        assert shard.num_rows == sum(batch.num_rows for batch in ingest.batches(shard))
    joined = "".join(shard.sha256 for shard in result.shards)
    assert result.fingerprint == hashlib.sha256(joined.encode()).hexdigest()
    assert ingest.files(source / "a.jsonl", shard_bytes=10_000).fingerprint == result.fingerprint
    monkeypatch.setattr(limits, "BLOCK_BYTES", 777)
    again = ingest.files(source / "a.jsonl", shard_bytes=10_000)
    assert [shard.num_rows for shard in again.shards] == [shard.num_rows for shard in result.shards]


def test_shards_of_rows_without_text(ingest: IngestHarness, source: pathlib.Path) -> None:
    table = pa.table({"ids": [list(range(100))] * 30_000})
    (source / "a.arrow").write_bytes(arrow(table, stream=True))
    result = ingest.files(source / "a.arrow", shard_bytes=1 << 20)
    assert [shard.text_bytes for shard in result.shards] == [0] * len(result.shards)
    assert 3 <= len(result.shards) <= 6
    assert ingest.dataset().num_rows == 30_000


def test_record_batches_are_bounded(ingest: IngestHarness, source: pathlib.Path) -> None:
    table = pa.table({"text": ["x" * 10_000] * 5_000 + ["y"] * 30_000})
    (source / "a.arrow").write_bytes(arrow(table, stream=True))
    (source / "b.arrow").write_bytes(arrow(table, stream=False))
    result = ingest.files(source)
    for shard in result.shards:
        for batch in ingest.batches(shard):
            assert batch.num_rows <= limits.BATCH_ROWS
            assert batch.nbytes <= limits.BATCH_BYTES + 20_000
    assert ingest.dataset().num_rows == 70_000


def test_progress_counts_bytes_of_the_file(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.csv").write_bytes(quoted(["x" * 1000] * 50_000))
    (part,) = ingest.plan(harness.files(source / "a.csv"))
    reports: list[tuple[int, int]] = []
    ingest.read(part, report=lambda done, total: reports.append((done, total)))
    size = (source / "a.csv").stat().st_size
    assert part.file.size_bytes == size
    assert reports == sorted(reports)
    assert reports[-1] == (size, size)


def test_file_deleted_after_planning(ingest: IngestHarness, source: pathlib.Path) -> None:
    path = source / "a.txt"
    path.write_text("x\n")
    (part,) = ingest.plan(harness.files(path))
    path.unlink()
    with pytest.raises(errors.NotFound) as caught:
        ingest.read(part)
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_NOT_FOUND", False)
    assert ingest.stored() == []


def test_manifest_is_what_datasets_writes(ingest: IngestHarness, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (source / "a.jsonl").write_bytes(jsonl([{"id": 1, "text": "x", "tags": ["a"]}]))
    result = ingest.files(source / "a.jsonl")
    ours = ingest.dataset()
    ours.save_to_disk(tmp_path / "theirs")
    for name in ("state.json", "dataset_info.json"):
        mine, theirs = (
            json.loads((pathlib.Path(folder) / name).read_text())
            for folder in (ingest.storage.uri(harness.RAW), tmp_path / "theirs")
        )
        assert mine.keys() == theirs.keys()
    assert json.loads(result.features_json) == ours.features.to_dict()
    assert list(ours.features) == ["id", "text", "tags"]
