"""Repositories of the Hugging Face hub, and local folders with the same layout.

The `datasets` library finds the files of a configuration and split and streams their rows, so that only the result is
stored. Where it has a choice, it is configured to use small batches.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Generator, Iterator
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import limits
from services.catalog.ingest.sources import content_validation, hub_errors
from services.runtime.source_allowlist import SourceAllowlist

_READ_ROWS = 256
_TIMEOUT_SECONDS = 30


def parts(source: datasets_pb2.HubSource) -> list[tasks_pb2.HubPart]:
    """Return the shards of a split, all of one commit even if a branch moves while they are read."""
    pinned = datasets_pb2.HubSource()
    pinned.CopyFrom(source)
    with hub_errors.explained(source):
        if not _is_folder(source):
            about = huggingface_hub.HfApi().dataset_info(
                source.repo_id, revision=source.revision or None, timeout=_TIMEOUT_SECONDS
            )
            pinned.revision = about.sha or source.revision
        with _streamed(pinned) as stream:
            count = min(stream.num_shards, limits.PARTS)
    return [tasks_pb2.HubPart(source=pinned, index=index, count=count) for index in range(count)]


class HubShard:
    """One shard of a split."""

    has_types = True

    def __init__(self, part: tasks_pb2.HubPart) -> None:
        self.name = f"{part.source.repo_id}, split {part.source.split!r}, shard {part.index + 1} of {part.count}"
        """The name in messages."""
        self._part = part
        self._rows = 0

    def progress(self) -> tuple[int, int]:
        """Return the rows read; the total is unknown."""
        return self._rows, 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield its rows."""
        with hub_errors.explained(self._part.source), _streamed(self._part.source) as stream:
            shard = stream.shard(num_shards=self._part.count, index=self._part.index).with_format("arrow")
            for table in shard.iter(batch_size=_READ_ROWS):
                self._rows += table.num_rows
                for batch in table.to_batches():
                    content_validation.validate(batch, self.name)
                    yield batch


def _is_folder(source: datasets_pb2.HubSource) -> bool:
    return pathlib.PurePath(source.repo_id).is_absolute()


@contextlib.contextmanager
def _streamed(source: datasets_pb2.HubSource) -> Generator[Any]:
    roots = SourceAllowlist()
    roots.check_repository(source.repo_id)
    if _is_folder(source) and not pathlib.Path(source.repo_id).is_dir():
        raise hub_errors.no_folder(source)
    with tempfile.TemporaryDirectory(prefix="polytok-hub-") as cache:
        builder = datasets.load_dataset_builder(
            source.repo_id,
            source.config or None,
            revision=source.revision or None,
            # Streaming needs no cache, but a lock and a folder are created anyway.
            cache_dir=cache,
        )
        if _is_folder(source):
            for files in (builder.config.data_files or {}).values():
                for file in files:  # a link may lead elsewhere
                    roots.check(str(file))
        if hasattr(builder.config, "batch_size"):
            # Otherwise a row group as a whole, which may exceed the memory.
            builder.config.batch_size = _READ_ROWS
        yield builder.as_streaming_dataset(split=source.split)
