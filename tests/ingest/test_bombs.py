"""Small files that stand for far more than the memory: each is refused by name, before it is unpacked."""

import bz2
import gzip
import io
import lzma
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytok import errors
from services.catalog.ingest.sources import compression, parquet_pages
from services.catalog.ingest.sources.raw_file import RawFile
from services.runtime.storage import Storage
from tests.ingest.harness import IngestHarness, files
from tests.ingest.test_memory import BOUND, measured
from tests.support.messages import check_names

MEBIBYTE = 1 << 20


def varint(value: int, width: int = 0) -> bytes:
    """Return a number as Thrift's compact protocol has it, filled up to a width."""
    value, found = value << 1, []
    while value > 0x7F or len(found) + 1 < width:
        found.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*found, value])


def with_lies(path: pathlib.Path) -> None:
    """Write small sizes into the footer of a Parquet file, whatever is in its pages."""
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[-8:-4])
    footer = data[-8 - length : -8]
    group = pq.read_metadata(path).row_group(0)
    for size in {group.total_byte_size, *(group.column(n).total_uncompressed_size for n in range(group.num_columns))}:
        true = varint(size)
        assert true in footer
        footer = footer.replace(true, varint(100, len(true)))
    path.write_bytes(data[: -8 - length] + footer + data[-8:])
    group = pq.read_metadata(path).row_group(0)
    assert {group.total_byte_size, *(group.column(n).total_uncompressed_size for n in range(group.num_columns))} == {
        100
    }


def repeated(count: int, size: int) -> pa.DictionaryArray:
    """Return one long value, many times."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * size]))


def write(path: pathlib.Path, column: pa.Array, **options: object) -> None:
    pq.write_table(
        pa.table({"text": column}),
        path,
        **{"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30} | options,
    )


def refused(ingest: IngestHarness, path: pathlib.Path) -> str:
    (part,) = ingest.plan(files(path))
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.read(part)
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_INVALID", False)
    assert ingest.stored() == []
    return caught.value.message


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_late_huge_page(ingest: IngestHarness, source: pathlib.Path, lies: bool, version: str) -> None:
    path = source / "a.parquet"
    texts = [f"{number:01000}" for number in range(3000)] + ["x" * (200 * MEBIBYTE)]
    write(path, pa.array(texts), use_dictionary=False, data_page_version=version, write_batch_size=100)
    assert path.stat().st_size < MEBIBYTE
    if lies:
        with_lies(path)
    check_names(refused(ingest, path), path, "'text'", "200 MiB", "row group 0", "160 MiB")


def test_page_headers_are_seen_wherever_reads_are_cut(source: pathlib.Path) -> None:
    """Headers that two reads share, and what is passed over, are seen as well."""
    path = source / "a.parquet"
    tables = pa.table({"a": [f"{number:0500}" for number in range(300)], "b": list(range(300))})
    pq.write_table(tables, path, use_dictionary=False, data_page_size=1000, write_batch_size=10, row_group_size=100)
    metadata = pq.read_metadata(path)
    for step in (1, 7, 100, 1 << 20):
        for skipped in (0, 3):
            raw = RawFile(str(path))
            checked = parquet_pages.Checked(raw, 10_000)
            checked.watch(metadata.row_group(1), 1)
            read_through(checked, step, skipped)
            raw.seek(0)
            checked = parquet_pages.Checked(raw, 4000)
            checked.watch(metadata.row_group(1), 1)
            with pytest.raises(errors.InvalidArgument) as caught:
                read_through(checked, step, skipped)
            assert caught.value.reason == "SOURCE_INVALID"
            check_names(caught.value.message, path, "'a'", "row group 1")
            raw.close()


def read_through(checked: parquet_pages.Checked, step: int, skipped: int) -> None:
    while checked.read(step):
        checked.seek(skipped, io.SEEK_CUR)


@pytest.mark.parametrize("data", [b"\x15", b"\x15\x00\x15\xc8\x01", b"\x28\xff\xff\xff\xff\x0f", b"\x19\xf5\xff\x7f"])
def test_incomplete_header(data: bytes) -> None:
    with pytest.raises(parquet_pages.Incomplete):
        parquet_pages.header(data)


@pytest.mark.parametrize("data", [b"\x00", b"\x15\x00\x00", b"\x1b\x00", b"\x15" + b"\xff" * 11, b"\x1c" * 50])
def test_invalid_header(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"page header|number"):
        parquet_pages.header(data)


@pytest.mark.parametrize("what", ["rows", "lists"])
def test_values_repeated_without_end(storage: Storage, source: pathlib.Path, what: str) -> None:
    """No page is large: rows and lists name the same value again and again."""
    path = source / "a.parquet"
    if what == "rows":
        write(path, repeated(2000, 20 * MEBIBYTE))
    else:
        count = 200_000
        write(path, pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), repeated(count, 1 << 16)))
    with_lies(path)
    assert path.stat().st_size < 10_000
    figures = measured(storage, path)
    check_names(figures["error"], path, "row group 0", "512 MiB")
    assert figures["peak"] < BOUND


def test_long_value_repeated_within_bounds(storage: Storage, source: pathlib.Path) -> None:
    path = source / "a.parquet"
    write(path, repeated(300, MEBIBYTE))
    figures = measured(storage, path)
    assert figures["rows"] == 300
    assert figures["peak"] < BOUND


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_bomb(
    ingest: IngestHarness,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    pack: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(compression, "_EXPANDED_BYTES", 4 * MEBIBYTE)
    monkeypatch.setattr(compression, "_EXPANSION", 100)
    path = source / f"a.txt.{ending}"
    line = b"the same line again\n"
    path.write_bytes(pack(line * (3 * MEBIBYTE // len(line))))
    assert ingest.files(path).num_rows == 3 * MEBIBYTE // len(line)
    ingest.storage.delete_tree("datasets")
    path.write_bytes(pack(line * (6 * MEBIBYTE // len(line))))
    check_names(refused(ingest, path), path, 100)


def test_xz_that_needs_too_much_memory(ingest: IngestHarness, source: pathlib.Path) -> None:
    path = source / "a.txt.xz"
    # The default and the strongest preset are read, and several members with zeros between them.
    path.write_bytes(lzma.compress(b"one\n") + bytes(8) + lzma.compress(b"two\nthree\n", preset=9))
    assert ingest.files(path).num_rows == 3
    ingest.storage.delete_tree("datasets")
    # Encoding with such a dictionary takes gigabytes; its size stands in the block's header, guarded by a checksum.
    path.write_bytes(lzma.compress(b"one\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    path.write_bytes(with_dictionary(path.read_bytes(), 39))
    check_names(refused(ingest, path), path, "192 MiB")


def with_dictionary(data: bytes, size: int) -> bytes:
    """Change the size of the dictionary that an xz file of one block names: 39 stands for 3 GiB."""
    start = 12
    end = start + (data[start] + 1) * 4
    block = bytearray(data[start : end - 4])
    place = block.index(b"\x21\x01") + 2
    block[place] = size
    return data[:start] + bytes(block) + struct.pack("<I", zlib.crc32(block)) + data[end:]


def test_zip_is_not_text(ingest: IngestHarness, source: pathlib.Path) -> None:
    path = source / "a.txt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", "x" * MEBIBYTE)
    check_names(refused(ingest, path), path, "ZIP")
