"""Writes sequences as Arrow files that `datasets` opens."""

import contextlib
import json
from types import TracebackType

import numpy as np
import pyarrow as pa

from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.storage import Storage
from services.tokenizer import ragged
from services.tokenizer.sequences import Rows

# `Sequence` is read by every version of `datasets`; those from 4 on call it `List`.
FEATURES = {
    "input_ids": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"},
    "attention_mask": {"feature": {"dtype": "int8", "_type": "Value"}, "_type": "Sequence"},
}
"""The columns, as `datasets` describes them."""

SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.int32())), ("attention_mask", pa.list_(pa.int8()))],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
"""The columns, as Arrow describes them."""

_BATCH_TOKENS = 1 << 20
_BATCH_ROWS = 10_000


class ShardWriter:
    """Writes one file, which appears when the block ends well; without rows there is none."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._stack = contextlib.ExitStack()
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._pending: list[Rows] = []
        self._pending_tokens = 0
        self._pending_rows = 0
        self._num_rows = 0
        self.files: list[tasks_pb2.TokenizedFile] = []
        """The file, once the block has ended."""

    def __enter__(self) -> "ShardWriter":
        return self

    def write(self, rows: Rows) -> None:
        """Appends sequences."""
        self._pending.append(rows)
        self._pending_tokens += len(rows.ids.values)
        self._pending_rows += rows.ids.num_rows
        if self._pending_tokens >= _BATCH_TOKENS or self._pending_rows >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = ragged.concatenate([part.ids for part in self._pending])
        masks = [np.ones(len(part.ids.values), np.int8) if part.mask is None else part.mask for part in self._pending]
        self._pending, self._pending_tokens, self._pending_rows = [], 0, 0
        if not rows.num_rows:
            return
        if self._stream is None:
            self._staged = self._stack.enter_context(self._storage.create(self._key))
            self._stream = self._stack.enter_context(pa.ipc.new_stream(self._staged, SCHEMA))
        offsets = pa.array(rows.offsets.astype(np.int32))
        mask = np.concatenate(masks)
        lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (rows.values, mask)]
        self._stream.write_batch(pa.RecordBatch.from_arrays(lists, schema=SCHEMA))
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
