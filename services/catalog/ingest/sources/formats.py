"""Detect formats of files by their name and their first bytes."""

import pathlib
import re
from typing import NamedTuple, TypeAlias

from polytok.catalog.v1 import datasets_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import source_errors

Format: TypeAlias = datasets_pb2.FileSource.Format.ValueType
"""One of the formats of a FileSource."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
"""Extensions of supported compressed files."""

_ENDINGS = {
    ".jsonl": FileSource.FORMAT_JSONL,
    ".ndjson": FileSource.FORMAT_JSONL,
    ".json": FileSource.FORMAT_JSON,
    ".csv": FileSource.FORMAT_CSV,
    ".tsv": FileSource.FORMAT_CSV,
    ".parquet": FileSource.FORMAT_PARQUET,
    ".txt": FileSource.FORMAT_TEXT,
    ".text": FileSource.FORMAT_TEXT,
    ".arrow": FileSource.FORMAT_ARROW,
}

_WORDS = {
    FileSource.FORMAT_JSONL: "jsonl",
    FileSource.FORMAT_JSON: "json",
    FileSource.FORMAT_CSV: "csv",
    FileSource.FORMAT_PARQUET: "parquet",
    FileSource.FORMAT_TEXT: "text",
    FileSource.FORMAT_ARROW: "arrow",
}

_MAGICS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)
_JSON = re.compile(rb'\s*(\{\s*"|\[\s*[\[{"])')
"""How JSON begins, and no table header does."""


class Name(NamedTuple):
    """What a file's name says about it."""

    format: Format
    """FORMAT_UNSPECIFIED if the name does not say."""
    compression: str
    """gzip, zstd, bz2, xz, or empty."""
    tabs: bool
    """Whether cells are separated by tabs instead of commas."""


def of_name(uri: str) -> Name:
    """Parse the extensions of a file's name; `docs.jsonl.gz` is JSON lines, compressed."""
    path = pathlib.PurePosixPath(source_errors.redact_uri(uri).lower())
    compression = COMPRESSIONS.get(path.suffix, "")
    ending = pathlib.PurePosixPath(path.stem).suffix if compression else path.suffix
    return Name(_ENDINGS.get(ending, FileSource.FORMAT_UNSPECIFIED), compression, ending == ".tsv")


def kind(chosen: Format) -> Format:
    """Return what identifies files of one kind: JSON rows are the same in lines and in an array."""
    return FileSource.FORMAT_JSONL if chosen == FileSource.FORMAT_JSON else chosen


def display_name(chosen: Format) -> str:
    """Return the name of a format on the command line."""
    return _WORDS[chosen]


def known() -> str:
    """Return the extensions that identify a format, for messages."""
    return ", ".join(sorted(_ENDINGS))


def check_content(name: str, chosen: Format, head: bytes) -> None:
    """Reject a file whose first bytes contradict the format: text, Parquet or Arrow."""
    found = next((what for magic, what in _MAGICS if head.startswith(magic)), "")
    if chosen == FileSource.FORMAT_CSV and _JSON.match(head):
        found = "JSON"
    if chosen == FileSource.FORMAT_PARQUET:
        if not head.startswith(b"PAR1"):
            raise source_errors.invalid(f"{name} is not a Parquet file: {_what(found, head)}. {_ADVICE}")
    elif chosen == FileSource.FORMAT_ARROW:
        if "Arrow" not in found:
            raise source_errors.invalid(f"{name} is not an Arrow file: {_what(found, head)}. {_ADVICE}")
    elif found == "UTF-16 text":
        raise source_errors.invalid(f"{name} is UTF-16, not UTF-8. Convert it: `iconv -f UTF-16 -t UTF-8`.")
    elif found:
        raise source_errors.invalid(f"{name} should be {display_name(chosen)} but is {found}. {_ADVICE}")


_ADVICE = "Rename the file with the right extension, or name its format."


def _what(found: str, head: bytes) -> str:
    if found:
        return f"it is {found}"
    return "it is empty" if not head else f"it begins with {head[:8]!r}"
