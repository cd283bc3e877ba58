"""Compare the rows of a file with the rows of its documents, instead of writing them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytok.tokenizer.v1 import tokenizer_pb2
from services.runtime.storage import Storage
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Ids

Finding = tokenizer_pb2.VerifyFinding

_MOST = 1000
"""Maximum number of findings per file."""


class _Lists(NamedTuple):
    """A column of lists."""

    values: NDArray[Any]
    offsets: NDArray[Any]

    def part(self, first: int, stop: int) -> "_Lists":
        """Return some of the rows."""
        offsets = self.offsets[first : stop + 1]
        return _Lists(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def row(self, row: int) -> NDArray[Any]:
        """Return one of them."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def equals(self, other: "_Lists") -> bool:
        """Return whether all rows are equal."""
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.values, other.values)


class Comparison:
    """The comparison of one file, as a context manager. Every column is compared, including padding and masks."""

    def __init__(self, storage: Storage, folder: str, name: str, origin: str) -> None:
        """`origin` is added to every finding. Without a name, no row is expected."""
        self._storage = storage
        self._folder = folder
        self._name = name
        self._origin = origin
        self._stack = contextlib.ExitStack()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._row = 0
        self.findings: list[Finding] = []
        """The differences, one per row."""

    def __enter__(self) -> "Comparison":
        if self._name:
            file = self._stack.enter_context(self._storage.open(f"{self._folder}/{self._name}"))
            self._batches = iter(self._stack.enter_context(pa.ipc.open_stream(file)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, rows: SequenceRows) -> None:
        """Compare the file's next rows with these."""
        done = 0
        while done < rows.ids.num_rows:
            batch = self._next()
            if batch is None:
                for _ in range(done, rows.ids.num_rows):
                    self._find("the sequence is missing")
                return
            taken = min(batch.num_rows, rows.ids.num_rows - done)
            self._compare(rows, done, batch.slice(0, taken))
            self._batch = batch.slice(taken)
            done += taken

    def finish(self) -> None:
        """Report the rows that are left in the file."""
        while (batch := self._next()) is not None:
            for _ in range(batch.num_rows):
                self._find("no document of the dataset produces it")
            self._batch = None

    def _next(self) -> pa.RecordBatch | None:
        """Return the rest of the file's current batch, or the next batch; None at the end."""
        while self._batch is None or not self._batch.num_rows:
            self._batch = next(self._batches, None)
            if self._batch is None:
                return None
        return self._batch

    def _compare(self, rows: SequenceRows, first: int, batch: pa.RecordBatch) -> None:
        stop = first + batch.num_rows
        mask = np.ones(len(rows.ids.values), np.int8) if rows.mask is None else rows.mask
        made = {"input_ids": _Lists(*rows.ids), "attention_mask": _Lists(mask, rows.ids.offsets)}
        if rows.document_starts is not None:
            made["document_starts"] = _Lists(*rows.document_starts)
        expected = {name: lists.part(first, stop) for name, lists in made.items()}
        found = {name: _column(batch, name) for name in expected}
        if all(expected[name].equals(found[name]) for name in expected):
            self._row += batch.num_rows
            return
        for row in range(batch.num_rows):
            self._find(_difference({name: (expected[name].row(row), found[name].row(row)) for name in expected}))

    def _find(self, difference: str) -> None:
        if difference and len(self.findings) < _MOST:
            where = f"{self._name}, row {self._row}" if self._name else "A sequence is missing from all files"
            self.findings.append(
                Finding(
                    kind=Finding.KIND_WRONG_IDS,
                    file=self._name,
                    row=self._row,
                    message=f"{where}: {difference}.{self._origin}",
                )
            )
        self._row += 1


def differs(expected: Ids, found: Ids | None) -> str:
    """Return how the ids of a sequence differ from the reference's, or an empty string."""
    if found is None:
        return "the sequence is missing"
    if np.array_equal(expected, found):
        return ""
    if len(expected) != len(found):
        return f"it has {len(found)} tokens, but the reference returns {len(expected)}"
    place = int(np.argmax(expected != found))
    return f"token {place} is {found[place]}, but the reference returns {expected[place]}"


def _difference(columns: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> str:
    if difference := differs(*columns["input_ids"]):
        return difference
    wrong = [name for name, (expected, found) in columns.items() if not np.array_equal(expected, found)]
    return f"its {' and '.join(wrong)} do not match its ids" if wrong else ""


def _column(batch: pa.RecordBatch, name: str) -> _Lists:
    if name not in batch.schema.names:
        return _Lists(np.empty(0, np.int32), np.zeros(batch.num_rows + 1, np.int64))
    lists = batch.column(name)
    return _Lists(lists.values.to_numpy(), lists.offsets.to_numpy()).part(0, len(lists))
