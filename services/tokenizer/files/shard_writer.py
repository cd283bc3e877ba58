"""Write sequences as Arrow files that `datasets` opens."""

import contextlib
import json
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.storage import Storage
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Offsets

_COLUMNS = {"input_ids": pa.int32(), "attention_mask": pa.int8()}
_DOCUMENT_STARTS = {"document_starts": pa.int32()}

_BATCH_TOKENS = 1 << 20
_BATCH_ROWS = 10_000


def describe_features(*, document_starts: bool) -> dict[str, Any]:
    """Return the columns as `datasets` features."""
    # `Sequence` is read by every version of `datasets`; those from 4 on call it `List`.
    return {
        name: {"feature": {"dtype": str(kind), "_type": "Value"}, "_type": "Sequence"}
        for name, kind in (_COLUMNS | _DOCUMENT_STARTS if document_starts else _COLUMNS).items()
    }


def _schema(*, document_starts: bool) -> pa.Schema:
    return pa.schema(
        {name: pa.list_(kind) for name, kind in (_COLUMNS | _DOCUMENT_STARTS if document_starts else _COLUMNS).items()},
        metadata={
            "huggingface": json.dumps({"info": {"features": describe_features(document_starts=document_starts)}})
        },
    )


class ShardWriter:
    """Writes one file, which appears when the block ends without an error; without rows there is no file."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._stack = contextlib.ExitStack()
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._pending: list[SequenceRows] = []
        self._pending_tokens = 0
        self._pending_rows = 0
        self._num_rows = 0
        self.files: list[tasks_pb2.TokenizedFile] = []
        """The file, after the end of the block."""

    def __enter__(self) -> "ShardWriter":
        return self

    def write(self, rows: SequenceRows) -> None:
        """Append sequences."""
        self._pending.append(rows)
        self._pending_tokens += len(rows.ids.values)
        self._pending_rows += rows.ids.num_rows
        if self._pending_tokens >= _BATCH_TOKENS or self._pending_rows >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        pending = self._pending
        rows = ragged.concatenate([part.ids for part in pending])
        starts = [part.document_starts for part in pending if part.document_starts is not None]
        self._pending, self._pending_tokens, self._pending_rows = [], 0, 0
        if not rows.num_rows:
            return
        if self._stream is None:
            self._staged = self._stack.enter_context(self._storage.create(self._key))
            self._schema = _schema(document_starts=bool(starts))
            self._stream = self._stack.enter_context(pa.ipc.new_stream(self._staged, self._schema))
        masks = [part.mask for part in pending if part.mask is not None]
        mask = np.concatenate(masks) if masks else np.ones(len(rows.values), np.int8)
        lists = [_lists(rows.offsets, rows.values), _lists(rows.offsets, mask)]
        if starts:
            joined = ragged.concatenate(starts)
            lists.append(_lists(joined.offsets, joined.values))
        self._stream.write_batch(pa.RecordBatch.from_arrays(lists, schema=self._schema))
        self._num_rows += rows.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._flush()
        if self._stream is not None:
            self.files.append(
                tasks_pb2.TokenizedFile(
                    key=self._key,
                    num_rows=self._num_rows,
                    size_bytes=self._staged.size,
                    sha256=self._staged.sha256,
                )
            )


def _lists(offsets: Offsets, values: NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
