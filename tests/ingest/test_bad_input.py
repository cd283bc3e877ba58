"""Bad input: what a user reads, and that no file is left behind."""

import bz2
import gzip
import lzma
import os
import pathlib
import tempfile
from collections.abc import Iterator

import pyarrow as pa
import pytest
import zstandard

from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits
from tests.ingest import ingests
from tests.ingest.ingests import Ingest
from tests.ingest.test_files import arrow, jsonl, parquet

ROWS = jsonl([{"text": f"row {number} {os.urandom(300).hex()}"} for number in range(3000)])
TABLE = pa.table({"text": [os.urandom(300).hex() for _ in range(3000)]})
SHARD_BYTES = 100_000
"""Small, so that shards are finished before what is bad is met."""


def refused(
    ingest: Ingest,
    *uris: pathlib.Path | str,
    format: FileSource.Format.ValueType = FileSource.FORMAT_UNSPECIFIED,  # noqa: A002
) -> errors.PolytokError:
    with pytest.raises(errors.PolytokError) as caught:
        ingest.files(*uris, format=format, shard_bytes=SHARD_BYTES)
    return caught.value


def check(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str, reason: str) -> None:
    (source / name).write_bytes(content)
    error = refused(ingest, source / name)
    assert error.message.replace(f"{source}/", "") == message
    assert (error.reason, error.retryable) == (reason, False)
    left = [key for key in ingest.stored() if not key.endswith(".arrow")]
    assert left == [], "no manifest and nothing half-written"


def check_nothing_left(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str) -> None:
    check(ingest, source, name, content, message, "SOURCE_INVALID")
    assert ingest.stored() == []


ONE_A_LINE = "Write one object a line, as `jq -c` does."
MEND_LINE = "Mend the line, or name another format."
NAME_IT = "Give the file the ending of what it is, or name its format."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", ROWS + b'{"text": \n', f"a.jsonl, line 3001: not JSON (Expecting value at column 10). {MEND_LINE}"),
        (
            "a.jsonl",
            b'{"a": 1}\n\n{"a": 2,}\n',
            f"a.jsonl, line 3: not JSON (Expecting property name enclosed in double quotes at column 9). {MEND_LINE}",
        ),
        ("a.jsonl", b"id,text\n1,x\n", f"a.jsonl, line 1: not JSON (Expecting value at column 1). {MEND_LINE}"),
        ("a.jsonl", b'[\n {"a": 1}\n]\n', f"a.jsonl, line 1: not JSON (Expecting value at column 2). {ONE_A_LINE}"),
        (
            "a.jsonl",
            b'{"a": "\t"}\n',
            f"a.jsonl, line 1: not JSON (Invalid control character at column 8). {MEND_LINE}",
        ),
        ("a.jsonl", b'[{"a": 1}]\n', f"a.jsonl, line 1: a JSON array, not an object. {ONE_A_LINE}"),
        ("a.jsonl", b'{"a": 1}\n"x"\n', f"a.jsonl, line 2: a JSON string, not an object. {ONE_A_LINE}"),
        (
            "a.jsonl",
            b'{"a": 1}\n\n{"a": "x"}\n',
            "a.jsonl, line 3: column 'a' holds a string, and a number in the lines"
            " before. Make the values of a column the same type.",
        ),
        (
            "a.jsonl",
            b'{"a": 1, "a": 2}\n',
            f"a.jsonl, line 1: not JSON that can be read (Column(/a) was specified twice). {MEND_LINE}",
        ),
        (
            "a.jsonl",
            b'{"a": "\\ud800"}\n',
            f"a.jsonl, line 1: not JSON that can be read (The surrogate pair in string is invalid). {MEND_LINE}",
        ),
        ("a.jsonl", b"{}\n{}\n", "a.jsonl has rows without any column. Give each row at least one."),
        ("a.jsonl", b'{"a":' * 100_000, "a.jsonl, line 1: nested too deeply. Flatten the object."),
    ],
)
def test_bad_json(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str) -> None:
    check_nothing_left(ingest, source, name, content, message)


def test_a_type_that_changes_after_many_lines(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 40)
    content = b'{"id": 1, "t": "x"}\n' * 6 + b'{"id": "7", "t": "x"}\n'
    message = (
        "a.jsonl, lines 7 to 7: column 'id' holds string, and int64 in the lines before."
        " Make the values of a column the same type."
    )
    check_nothing_left(ingest, source, "a.jsonl", content, message)


RAGGED = "Mend the row, and quote cells that hold commas or line ends."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1,2\n3,4,5\n", f"a.csv, row 3 (the header is row 1): 3 cells, and the header has 2. {RAGGED}"),
        (
            "a.csv",
            b"a,b\n" + b"1,some longer text\n" * 200_000 + b"2\n",
            f"a.csv, row 200002 (the header is row 1): 1 cells, and the header has 2. {RAGGED}",
        ),
        ("a.csv", b"a,a\n1,2\n", "a.csv has two columns named 'a'. Rename one in the header."),
        ("a.csv", b'a,b\n1,"x\n2,y\n', "a.csv ends inside a quoted cell. Close the quotation, or copy it again."),
        (
            "a.csv",
            b'a,b\n1,"' + b"x" * 10_000,
            "a.csv ends inside a quoted cell. Close the quotation, or copy it again.",
        ),
    ],
)
def test_bad_csv(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str) -> None:
    check_nothing_left(ingest, source, name, content, message)


LATIN = "Convert the file to UTF-8, as with `iconv -f LATIN1 -t UTF-8` if it is Latin-1."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nfine \xe9t\xe9\n", f"a.txt, line 2: not UTF-8 (byte 0xe9 at offset 10 of the file). {LATIN}"),
        ("a.csv", b"text\nfine\n\xff\n", f"a.csv, line 3: not UTF-8 (byte 0xff at offset 10 of the file). {LATIN}"),
        (
            "a.jsonl",
            ROWS + b'{"text": "\xff"}\n',
            f"a.jsonl, line 3001: not UTF-8 (byte 0xff at offset {len(ROWS) + 10} of the file). {LATIN}",
        ),
        (
            "a.jsonl",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            "a.jsonl is to be read as jsonl, and is a PNG image. Give the file the ending of what it is, or name its"
            " format.",
        ),
        (
            "a.jsonl",
            b'{"a":\xff\0',
            "a.jsonl is not text: it holds NUL bytes, the first at offset 6. Give the file the ending of what it is, or"
            " leave it out.",
        ),
        ("a.txt", b"cut \xf0\x9f\x99", f"a.txt, line 1: not UTF-8 (byte 0xf0 at offset 4 of the file). {LATIN}"),
        (
            "a.txt",
            "x\n".encode("utf-16"),
            "a.txt is UTF-16, not UTF-8. Convert it, as with `iconv -f UTF-16 -t UTF-8`.",
        ),
    ],
)
@pytest.mark.parametrize("block_bytes", [limits.BLOCK_BYTES, 1000, 7])
def test_not_utf8(
    ingest: Ingest,
    source: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    message: str,
    block_bytes: int,
) -> None:
    if block_bytes == 7 and len(content) > 1000:
        # Byte by byte, nearly: the beginning and the end say as much as the whole.
        cut = len(ROWS) - len(ROWS.splitlines(keepends=True)[-1])
        content = content[cut:]
        message = message.replace("line 3001", "line 2").replace(f"{len(ROWS) + 10} of", f"{len(ROWS) - cut + 10} of")
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    check_nothing_left(ingest, source, name, content, message)


def test_parquet_and_arrow_with_text_that_is_not_utf8(ingest: Ingest, source: pathlib.Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.table({"id": [1], "text": bad})
    for name, content in (("a.parquet", parquet(table)), ("a.arrow", arrow(table, stream=True))):
        message = f"{name}, column 'text' holds text that is not UTF-8. Write the file again."
        check_nothing_left(ingest, source, name, content, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"text\nx\n", f"a.parquet is not a Parquet file: it begins with b'text\\nx\\n'. {NAME_IT}"),
        ("a.parquet", gzip.compress(b"x"), f"a.parquet is not a Parquet file: it is compressed with gzip. {NAME_IT}"),
        ("a.arrow", b"PAR1....", f"a.arrow is not an Arrow file: it is a Parquet file. {NAME_IT}"),
        ("a.jsonl", parquet(TABLE), f"a.jsonl is to be read as jsonl, and is a Parquet file. {NAME_IT}"),
        (
            "a.txt",
            zstandard.compress(b"x"),
            f"a.txt is to be read as text, and is compressed with Zstandard. {NAME_IT}",
        ),
        ("a.csv", b"PK\x03\x04rest", f"a.csv is to be read as csv, and is a ZIP archive. {NAME_IT}"),
        ("a.csv", b'{"text": "x", "n": 1}\n', f"a.csv is to be read as csv, and is JSON. {NAME_IT}"),
        (
            "a.csv.gz",
            gzip.compress(b'[\n{"a": 1},\n{"a": 2}]'),
            f"a.csv.gz is to be read as csv, and is JSON. {NAME_IT}",
        ),
        (
            "a.parquet.gz",
            gzip.compress(parquet(TABLE)),
            "a.parquet.gz: Parquet cannot be read through gzip. Unpack it.",
        ),
        (
            "a.jsonl.gz",
            b'{"a": 1}\n',
            "a.jsonl.gz is not whole gzip data (zlib inflate failed: incorrect header check). Copy or make it again.",
        ),
        (
            "a.jsonl.xz",
            b'{"a": 1}\n',
            "a.jsonl.xz is not whole xz data (Input format not supported by decoder). Copy or make it again.",
        ),
        (
            "a.md",
            b"x",
            "a.md has an ending that tells no format. Name the format, or use one of .arrow, .csv, .json,"
            " .jsonl, .ndjson, .parquet, .text, .tsv, .txt, each also compressed as .gz, .zst, .bz2, .xz.",
        ),
    ],
)
def test_not_what_its_name_says(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str) -> None:
    check_nothing_left(ingest, source, name, content, message)


COMPRESSED = {
    "gz": ("gzip", gzip.compress(ROWS)),
    "zst": ("zstd", zstandard.compress(ROWS)),
    "bz2": ("bz2", bz2.compress(ROWS)),
    "xz": ("xz", lzma.compress(ROWS)),
}


@pytest.mark.parametrize("ending", COMPRESSED)
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_compressed_file_that_was_cut_off(ingest: Ingest, source: pathlib.Path, ending: str, share: float) -> None:
    word, content = COMPRESSED[ending]
    check_nothing_left(
        ingest,
        source,
        f"a.jsonl.{ending}",
        content[: int(len(content) * share)],
        f"a.jsonl.{ending} ends in the middle of its {word} data. Copy it again.",
    )


@pytest.mark.parametrize(
    ("name", "content", "format_name"),
    [
        ("a.parquet", parquet(TABLE, row_group_size=100), "Parquet"),
        ("a.arrow", arrow(TABLE, stream=True, rows=100), "Arrow"),
        ("b.arrow", arrow(TABLE, stream=False, rows=100), "Arrow"),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.6, 0.999])
def test_a_binary_file_that_was_cut_off(
    ingest: Ingest, source: pathlib.Path, name: str, content: bytes, format_name: str, share: float
) -> None:
    (source / name).write_bytes(content[: int(len(content) * share)])
    error = refused(ingest, source / name)
    start, _, end = error.message.replace(f"{source}/", "").partition(" (")
    assert start == f"{name} is not whole {format_name}" or error.message.endswith("its end is missing.")
    assert end.endswith("It may have been cut off: copy or write it again.")
    assert (error.reason, error.retryable) == ("SOURCE_INVALID", False)
    assert ingest.stored() == []


def test_an_arrow_file_without_its_end(ingest: Ingest, source: pathlib.Path) -> None:
    content = arrow(TABLE, stream=False, rows=100)
    message = "a.arrow is not whole Arrow: its end is missing. Copy or write it again."
    check_nothing_left(ingest, source, "a.arrow", content[:-4], message)


def test_a_damaged_parquet_page(ingest: Ingest, source: pathlib.Path) -> None:
    content = bytearray(parquet(TABLE, row_group_size=500, compression="zstd", use_dictionary=False))
    content[len(content) // 2 :][:2000] = bytes(2000)
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (source / "a.parquet").write_bytes(content)
    error = refused(ingest, source / "a.parquet")
    assert error.message.startswith(f"{source}/a.parquet is not whole Parquet (")
    assert (error.reason, error.retryable) == ("SOURCE_INVALID", False)
    assert ingest.stored() == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty. Give a file with at least one row."),
        ("a.parquet", b"", "a.parquet is empty. Give a file with at least one row."),
        ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz has no rows. Give a source with at least one row."),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows. Give a source with at least one row."),
        ("a.csv", b"a,b\n", "a.csv has no rows. Give a source with at least one row."),
        ("a.csv", b"a,b", "a.csv has no rows. Give a source with at least one row."),
        ("a.parquet", parquet(TABLE.slice(0, 0)), "a.parquet has no rows. Give a source with at least one row."),
    ],
)
def test_empty(ingest: Ingest, source: pathlib.Path, name: str, content: bytes, message: str) -> None:
    check(ingest, source, name, content, message, "SOURCE_EMPTY")
    assert ingest.stored() == []


def test_several_empty_files(ingest: Ingest, source: pathlib.Path) -> None:
    for name in ("a.csv", "b.csv"):
        (source / name).write_bytes(b"")
    error = refused(ingest, source)
    assert error.message == (
        f"All 2 files are empty, {source}/a.csv the first of them. Give files with at least one row."
    )
    for name in ("a.csv", "b.csv"):
        (source / name).write_bytes(b"text\n")
    error = refused(ingest, source)
    assert error.message == "None of the 2 parts of the source has rows. Give a source with at least one row."
    assert error.reason == "SOURCE_EMPTY"


def test_an_empty_compressed_file_was_never_whole(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.txt.gz").write_bytes(b"")
    (source / "b.txt.gz").write_bytes(gzip.compress(b"x\n"))
    error = refused(ingest, source)
    assert error.message == f"{source}/a.txt.gz is not gzip data: it has no bytes. Copy it again."


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_row_too_long_to_hold(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, ends: bool
) -> None:
    monkeypatch.setattr(limits, "ROW_BYTES", 3 << 20)
    monkeypatch.setattr(limits, "CSV_ROW_BYTES", 3 << 20)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 20)
    head, tail = {"a.txt": (b"", b""), "a.jsonl": (b'{"a": "', b'"}'), "a.csv": (b'a\n"', b'"')}[name]
    first = {"a.txt": b"x\n", "a.jsonl": b'{"a": "x"}\n', "a.csv": b""}[name]
    content = first + head + b"x" * (7 << 20) + tail + b"\n" * ends
    message = (
        "a.csv has a row longer than 3 MiB, the most that a row of CSV may hold."
        " Write the file as Parquet or jsonl, or check that every quotation is closed."
        if name == "a.csv"
        else f"{name}, line 2 is longer than 3 MiB, the most that a row may hold."
        " Split it, or check that the file has line ends."
    )
    check_nothing_left(ingest, source, name, content, message)


def test_an_arrow_file_with_too_large_a_batch(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catalog.ingest.sources.arrow._MESSAGE_BYTES", 1 << 20)
    check_nothing_left(
        ingest,
        source,
        "a.arrow",
        arrow(pa.table({"text": ["x" * 1000] * 5000}), stream=True),
        "a.arrow has a record batch of 4 MiB; 1 MiB is the most. Write it again in smaller batches, or as Parquet.",
    )


MISSING = "does not exist, or not on the machine of the worker. Check the path."


@pytest.mark.parametrize(
    ("uri", "message", "reason"),
    [
        ("/nowhere/a.jsonl", f"/nowhere/a.jsonl {MISSING}", "SOURCE_NOT_FOUND"),
        ("file:///nowhere/a.jsonl", f"/nowhere/a.jsonl {MISSING}", "SOURCE_NOT_FOUND"),
        ("memory://nowhere/a.jsonl", f"memory://nowhere/a.jsonl {MISSING}", "SOURCE_NOT_FOUND"),
        (
            "/nowhere/*.jsonl",
            "/nowhere/*.jsonl matches no file on the machine of the worker. Check the pattern.",
            "SOURCE_NOT_FOUND",
        ),
        (
            "a.jsonl",
            "a.jsonl is a relative path, and the workers run elsewhere. Give an absolute path or a URI.",
            "INVALID_FIELD",
        ),
        (
            "~/a.jsonl",
            "~/a.jsonl is a relative path, and the workers run elsewhere. Give an absolute path or a URI.",
            "INVALID_FIELD",
        ),
        ("/tmp/a\0b", "/tmp/a\\0b has a NUL character in it. Take it out.", "INVALID_FIELD"),
        (
            "ftp://u:secret@host/a.csv?sig=secret",
            "ftp://host/a.csv has the scheme 'ftp', which is not supported."
            " Use a path, or s3, gs, az, abfs, http or https.",
            "INVALID_FIELD",
        ),
        (
            "nonsense://x",
            "nonsense://x has the scheme 'nonsense', which is not supported."
            " Use a path, or s3, gs, az, abfs, http or https.",
            "INVALID_FIELD",
        ),
        (
            "hf://datasets/o/n/a.csv",
            "hf://datasets/o/n/a.csv is on the hub. Give the repository as a hub source instead.",
            "INVALID_FIELD",
        ),
        (
            "zip://a.csv::/tmp/x.zip",
            "zip://a.csv::/tmp/x.zip chains file systems with '::', which is not supported."
            " Unpack the archive and name its files.",
            "INVALID_FIELD",
        ),
        (
            "/dev/zero",
            "/dev/zero lies in a folder of the system's own (/dev/zero), which is never read. Name a file with data.",
            "SOURCE_REFUSED",
        ),
    ],
)
def test_places_that_cannot_be_read(ingest: Ingest, uri: str, message: str, reason: str) -> None:
    error = refused(ingest, uri)
    assert (error.message, error.reason, error.retryable) == (message, reason, False)
    assert ingest.stored() == []


def test_files_outside_of_the_roots(ingest: Ingest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.txt"
    allowed.mkdir()
    secret.write_text("root:x")
    (allowed / "docs.txt").symlink_to(secret)
    monkeypatch.setenv("POLYTOK_SOURCE_ROOTS", str(allowed))
    for uri in (secret, allowed / "docs.txt", allowed):
        error = refused(ingest, uri)
        assert error.message.endswith(
            f" is outside of what may be read here: {allowed}. Copy it to one of them, or have its folder added to "
            "POLYTOK_SOURCE_ROOTS of the workers."
        )
        assert (error.reason, error.retryable) == ("SOURCE_REFUSED", False)
    part = tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri=str(allowed / "docs.txt"), format=FileSource.FORMAT_TEXT))
    with pytest.raises(errors.PermissionDenied, match="outside of what may be read"):
        ingest.read(part)
    assert ingest.stored() == []


def test_a_name_longer_than_names_can_be(ingest: Ingest) -> None:
    error = refused(ingest, "/tmp/" + "x" * 300)
    assert (error.reason, error.retryable) == ("SOURCE_NOT_FOUND", False)


def test_a_file_system_whose_package_is_missing(ingest: Ingest) -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        error = refused(ingest, "s3://key:secret@bucket/a.csv")
        assert error.message == (
            "s3://bucket/a.csv needs a package that the worker lacks (Install s3fs to access S3). Install it, or copy"
            " the files to a local folder."
        )
        assert (error.reason, error.retryable) == ("SOURCE_NOT_FOUND", False)
    else:
        pytest.skip("s3fs is installed")


def test_a_folder_without_data(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "README.md").write_text("x")
    error = refused(ingest, source)
    assert error.message == (
        f"The folder {source} holds no file with an ending of .arrow, .csv, .json, .jsonl, .ndjson, .parquet, .text,"
        f" .tsv, .txt. Name the files, as by {source}/*."
    )
    assert error.reason == "SOURCE_NOT_FOUND"
    assert refused(ingest, source, format=FileSource.FORMAT_CSV).message == (
        f"The folder {source} holds no file with an ending for csv. Name the files, as by {source}/*."
    )


def test_mixed_formats(ingest: Ingest, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{"text": "x"}\n')
    (source / "b.csv").write_text("text\nx\n")
    error = refused(ingest, source)
    assert error.message == (
        f"The source mixes formats: {source}/a.jsonl is jsonl, {source}/b.csv is csv."
        " Register them as separate datasets."
    )
    assert error.reason == "SOURCE_INVALID"


@pytest.fixture
def unprivileged() -> Iterator[pathlib.Path]:
    """A folder that anybody may enter, and a test that runs as nobody, as root may read everything."""
    with tempfile.TemporaryDirectory(prefix="polytok-test-") as folder:
        path = pathlib.Path(folder)
        path.chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            yield path
        finally:
            os.seteuid(user)


def plan_and_read(ingest: Ingest, path: pathlib.Path) -> None:
    for part in ingest.plan(ingests.files(path)):
        ingest.read(part)


@pytest.mark.parametrize("closed", ["a.txt", "folder"])
def test_a_file_that_may_not_be_read(ingest: Ingest, unprivileged: pathlib.Path, closed: str) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    (unprivileged / "folder").mkdir()
    name = "folder/a.txt" if closed == "folder" else "a.txt"
    (unprivileged / name).write_text("x\n")
    (unprivileged / closed).chmod(0)
    os.seteuid(user)
    with pytest.raises(errors.PolytokError) as caught:
        plan_and_read(ingest, unprivileged / name)
    os.seteuid(os.getuid())
    (unprivileged / closed).chmod(0o700)
    error = caught.value
    assert error.message == f"{unprivileged}/{name} may not be read by the worker's user. Give it the right to read."
    assert (error.reason, error.retryable) == ("SOURCE_NOT_FOUND", False)


def test_a_disk_that_fails_is_tried_again(ingest: Ingest, tmp_path: pathlib.Path) -> None:
    # What was a file when it was found, and is none now, is one of the ways in which reading fails.
    path = tmp_path / "a.txt"
    path.mkdir()
    file = tasks_pb2.FilePart(uri=str(path), format=FileSource.FORMAT_TEXT)
    part = tasks_pb2.IngestPart(file=file)
    with pytest.raises(errors.Unavailable) as caught:
        ingest.read(part)
    assert caught.value.message == f"{path} could not be read: Is a directory."
    assert (caught.value.reason, caught.value.retryable) == ("STORAGE_FAILED", True)
    assert ingest.stored() == []


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_parquet_file_with_too_large_a_page(
    ingest: Ingest, source: pathlib.Path, monkeypatch: pytest.MonkeyPatch, use_dictionary: bool
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
    check_nothing_left(
        ingest,
        source,
        "a.parquet",
        long,
        "a.parquet, column 'text' has a page of 10 MiB in row group 0; 4 MiB is the most."
        " Write it again with smaller row groups.",
    )
