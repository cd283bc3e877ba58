"""Write activations as Arrow files, full rows only."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import torch
from torch import Tensor

from services.extractor.worker import arrow_columns
from services.runtime.storage import StagedFile, Storage, blocks

FILE_BYTES = 512 * 2**20
"""Number of bytes after which a file ends and the next begins."""
BLOCK_BYTES = 256 * 2**10
"""Size of the blocks that are checksummed, so that a part of a file can be checked when it is read."""
_BATCH_BYTES = 64 * 2**20
"""Maximum size of an Arrow record batch: lists count their numbers in 31 bits."""


@dataclass(frozen=True)
class WrittenFile:
    """A file in the storage, under its key."""

    key: str
    num_rows: int
    size_bytes: int
    sha256: str
    block_digests: bytes
    """One digest per `BLOCK_BYTES` (`services.runtime.storage.blocks`)."""


class ActivationWriter:
    """Buffers vectors and writes rows of them; a file appears under its key when it is complete.

    Vectors that fill no row when the block ends are in no file; `left_over` counts them.
    """

    def __init__(
        self, storage: Storage, prefix: str, widths: Mapping[str, int], context_size: int, storage_dtype: str
    ) -> None:
        """Name the files `{prefix}-00000.arrow` and so on; `widths` maps each hook to the numbers per vector."""
        self._storage = storage
        self._prefix = prefix
        self._widths = dict(widths)
        self._context_size = context_size
        self._storage_dtype = storage_dtype
        self._schema = arrow_columns.features(widths, context_size, storage_dtype).arrow_schema
        self._pending: dict[str, Tensor] = {}
        self._stack = contextlib.ExitStack()
        self._staged: StagedFile | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._num_rows = 0
        self.files: list[WrittenFile] = []
        self.left_over = 0

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        self.left_over = len(self._pending[arrow_columns.TOKEN_IDS]) if self._pending else 0
        self._end_file()

    def write(self, token_ids: Tensor, row_index: Tensor, position: Tensor, values: Mapping[str, Tensor]) -> None:
        """Append vectors {hook: [n, width]} in the storage's number format with their origins [n], on the CPU."""
        columns = {arrow_columns.column(hook, self._storage_dtype): values[hook] for hook in self._widths}
        columns |= {
            arrow_columns.TOKEN_IDS: token_ids,
            arrow_columns.ROW_INDEX: row_index,
            arrow_columns.POSITION: position,
        }
        if self._pending:
            columns = {name: torch.cat([self._pending[name], value]) for name, value in columns.items()}
        whole = len(columns[arrow_columns.TOKEN_IDS]) // self._context_size * self._context_size
        step = self._rows_at_once() * self._context_size
        for first in range(0, whole, step):
            self._write({name: value[first : min(first + step, whole)] for name, value in columns.items()})
        # A copy, so that a few last vectors do not keep a large tensor alive.
        rest = {name: value[whole:].clone() for name, value in columns.items()}
        self._pending = rest if len(rest[arrow_columns.TOKEN_IDS]) else {}

    def _rows_at_once(self) -> int:
        row = self._context_size * arrow_columns.bytes_per_vector(self._widths, self._storage_dtype)
        return max(1, _BATCH_BYTES // row)

    def _write(self, columns: Mapping[str, Tensor]) -> None:
        arrays = [
            (arrow_columns.vectors if isinstance(field.type, pa.ExtensionType) else arrow_columns.lists)(
                columns[field.name], self._context_size, field.type
            )
            for field in self._schema
        ]
        stream = self._stream or self._begin_file()
        stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._num_rows += len(arrays[0])
        if self._staged is not None and self._staged.size >= FILE_BYTES:
            self._end_file()

    def _begin_file(self) -> pa.RecordBatchStreamWriter:
        self._key = f"{self._prefix}-{len(self.files):05d}.arrow"
        self._staged = self._stack.enter_context(self._storage.create(self._key))
        self._blocks = blocks.Hasher(BLOCK_BYTES)
        self._staged.watch(self._blocks.update)
        self._stream = self._stack.enter_context(pa.ipc.new_stream(self._staged, self._schema))
        return self._stream

    def _end_file(self) -> None:
        if self._staged is None:
            return
        self._stack.close()
        digests = self._blocks.digests()
        self.files.append(WrittenFile(self._key, self._num_rows, self._staged.size, self._staged.sha256, digests))
        self._staged = self._stream = None
        self._num_rows = 0
