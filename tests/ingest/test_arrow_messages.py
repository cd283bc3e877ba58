"""Arrow files whose record batches are far larger than the file."""

import contextlib
import io
import pathlib
import struct

import pyarrow as pa
import pytest

from polytok import errors
from services.catalog.ingest.sources import arrow_messages
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import check_refused
from tests.ingest.test_files import arrow


def _compressed(table: pa.Table, compression: str, *, stream: bool = True) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    kind = pa.ipc.new_stream if stream else pa.ipc.new_file
    with kind(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("stream", [True, False])
def test_huge_batch_is_refused_before_decompression(
    ingest: IngestHarness, tmp_path: pathlib.Path, compression: str, stream: bool
) -> None:
    row = pa.array([b"\0" * 1_234_567], pa.large_binary())
    content = _compressed(pa.table({"data": row}), compression, stream=stream)
    size = struct.pack("<q", 1_234_567)
    assert size in content
    # No machine has so much memory: an attempt to decompress it would fail otherwise.
    content = content[::-1].replace(size[::-1], struct.pack(">q", 1 << 50), 1)[::-1]
    check_refused(ingest, tmp_path, "a.arrow", content, "1,073,741,824 MiB", "512 MiB")


def test_dictionary_counts_too(ingest: IngestHarness, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.catalog.ingest.sources.arrow._DECOMPRESSED_BYTES", 1 << 20)
    table = pa.table({"text": pa.array(["x" * (3 << 20)]).dictionary_encode()})
    check_refused(ingest, tmp_path, "a.arrow", _compressed(table, "zstd"), "3 MiB", "1 MiB")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("stream", [True, False])
def test_compressed_batches_are_read(
    ingest: IngestHarness, tmp_path: pathlib.Path, compression: str, stream: bool
) -> None:
    table = pa.table(
        {
            "text": [f"row {number} " * (number % 50) for number in range(5000)],
            "kind": pa.array([f"kind {number % 7}" for number in range(5000)]).dictionary_encode(),
        }
    )
    (tmp_path / "a.arrow").write_bytes(_compressed(table, compression, stream=stream))
    ingest.files(tmp_path / "a.arrow")
    assert ingest.dataset()["text"][:] == table["text"].to_pylist()


def test_size_is_that_of_the_buffers() -> None:
    table = pa.table({"number": pa.array(range(100_000), pa.int64()), "text": ["abc"] * 100_000})
    source = io.BytesIO(_compressed(table, "zstd"))
    sizes = []
    while (message := arrow_messages.read(source.read)) is not None and message.metadata:
        sizes.append(arrow_messages.decompressed_bytes(message.metadata, source.read(message.body_bytes)))
    assert sizes == [0, 100_000 * 8 + 100_001 * 4 + 300_000]


def test_wrong_byte_is_an_invalid_argument_or_harmless(ingest: IngestHarness, tmp_path: pathlib.Path) -> None:
    whole = arrow(pa.table({"text": ["a", "b", "c"]}), stream=True)
    for where in range(0, len(whole), 5):
        (tmp_path / "a.arrow").write_bytes(whole[:where] + bytes([whole[where] ^ 0xFF]) + whole[where + 1 :])
        with contextlib.suppress(errors.InvalidArgument):
            ingest.files(tmp_path / "a.arrow")
