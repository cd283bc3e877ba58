"""Raw shards as the ingest writes them, and hashes to compare results."""

import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_BATCH_ROWS = 1000


def write(
    storage: pathlib.Path, folder: str, texts: pa.Array, times: int, shard_times: int = 2
) -> list[dict[str, Any]]:
    """Write the texts several times, and describe the shards; `shard_times` repetitions go into one."""
    (storage / folder).mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": texts.cast(pa.string())})
    found = []
    for ordinal, first in enumerate(range(0, times, shard_times)):
        repeats = min(shard_times, times - first)
        key = f"{folder}/part-{ordinal:05d}.arrow"
        path = storage / key
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            for _ in range(repeats):
                stream.write_table(table, max_chunksize=_BATCH_ROWS)
        found.append(
            {
                "key": key,
                "num_rows": repeats * len(table),
                "size_bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "text_bytes": repeats * size_of(texts),
            }
        )
    return found


def size_of(texts: pa.Array) -> int:
    """Return the number of bytes of text."""
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


def ids(files: Iterable[pathlib.Path]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return all ids of some files in order, and the length of each sequence."""
    columns = []
    for file in files:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            columns.append(stream.read_all()["input_ids"])
    values = [chunk.flatten().to_numpy(zero_copy_only=False).astype(np.int32) for c in columns for chunk in c.chunks]
    lengths = [pc.list_value_length(chunk).to_numpy(zero_copy_only=False) for c in columns for chunk in c.chunks]
    return np.concatenate(values), np.concatenate(lengths).astype(np.int64)


def sha256(values: NDArray[np.int32], lengths: NDArray[np.int64]) -> str:
    """Return the hash of ids and of the ends of sequences."""
    return hashlib.sha256(values.tobytes() + lengths.tobytes()).hexdigest()


def sha256_of_ids(files: Iterable[pathlib.Path]) -> str:
    """Return the hash of the content of some files."""
    return sha256(*ids(files))
