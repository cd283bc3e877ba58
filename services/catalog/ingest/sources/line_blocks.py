"""Text in blocks of whole lines."""

from collections.abc import Iterator
from typing import NamedTuple

from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources.utf8 import Utf8


class Block(NamedTuple):
    """A block of whole lines."""

    data: bytes
    """The lines with their line endings; only the last line of a file may lack one."""
    first_line: int
    """Number of the first line, from 1."""


def blocks(source: Utf8, name: str) -> Iterator[Block]:
    """Split the input after line endings. Reject a line that is too long to hold in memory."""
    number = 1
    begun: list[bytes] = []
    begun_bytes = 0
    while chunk := source.read(limits.BLOCK_BYTES):
        end = chunk.rfind(b"\n") + 1
        first_end = chunk.find(b"\n") if end else len(chunk)
        if begun_bytes + first_end > limits.ROW_BYTES:
            raise source_errors.invalid(
                f"{name}, line {number} is longer than the row limit of {limits.ROW_BYTES >> 20} MiB."
                " Split it, or check that the file has line endings."
            )
        if not end:
            begun.append(chunk)
            begun_bytes += len(chunk)
            continue
        data = b"".join((*begun, chunk[:end]))
        yield Block(data, number)
        number = source.line_ends + 1
        begun = [chunk[end:]]
        begun_bytes = len(chunk) - end
    if rest := b"".join(begun):
        yield Block(rest, number)
