"""Datasets: corpora, read once into Arrow files."""

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from polytok import errors
from polytok.catalog.v1 import datasets_pb2 as pb
from polytok.catalog.v1.datasets_pb2_grpc import DatasetServiceStub
from polytok.client import message_builder, source_arguments, sync
from polytok.client import row_upload as uploading
from polytok.client.collection import CancellableCollection, SourceCollection

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Rows: TypeAlias = "Dataset | pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch] | AsyncIterable[pa.RecordBatch]"
"""Rows to upload. The synchronous client accepts no asynchronous iterators."""


class _Datasets(SourceCollection[pb.Dataset], CancellableCollection[pb.Dataset]):
    _stub_class = DatasetServiceStub
    _messages = pb
    _kind = "Dataset"

    @sync.method
    async def create(
        self,
        dataset_id: str,
        *,
        files: source_arguments.Path | Sequence[source_arguments.Path] | None = None,
        format: str | None = None,  # noqa: A002  the established name
        hub: str | None = None,
        split: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        delimiter: str | None = None,
        json_field: str | None = None,
        text_rows: str | None = None,
        text_separator: str | None = None,
        columns: str | Sequence[str] | None = None,
        rows: "Rows | None" = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Dataset:
        """Register a dataset and start reading it from files, a Hugging Face hub repository, or rows in memory.

        `files` are paths, folders, globs or fsspec URIs (jsonl, json, csv, tsv, parquet, text, arrow, compressed or
        not). The format is inferred from each file name unless given. `delimiter` separates the cells of CSV.
        `json_field` is the field with the rows in a JSON file that is one object with several lists. `text_rows` is
        the unit of a text file that becomes a row: `line`, `file`, or `separated`, by the `text_separator` or else by
        blank lines. `columns` are the columns to read; by default all.

        `rows` are a `datasets.Dataset`, a `pyarrow.Table`, or an iterable of record batches. They are stored by the
        catalog when this returns. An interrupted upload leaves nothing behind and is not retried, because an iterator
        can be read only once.

        Returns the existing dataset if id and source are the same. Raises AlreadyExists, InvalidArgument,
        ResourceExhausted (too many rows for the catalog).
        """
        if rows is not None:
            options_given = (
                files,
                format,
                hub,
                split,
                config,
                revision,
                delimiter,
                json_field,
                text_rows,
                text_separator,
                columns,
            )
            if any(option is not None for option in options_given):
                raise errors.InvalidArgument("rows cannot be combined with files, hub or their options.")
            upload = uploading.upload(dataset_id, rows, metadata, request_id)
            uploaded: pb.Dataset = await self._transport.upload(self._stub.UploadDataset, upload)
            return uploaded
        options = source_arguments.FileOptions(delimiter, json_field, text_rows, text_separator)
        source = source_arguments.dataset(files, format, hub, split, config, revision, options, columns)
        dataset = message_builder.build(pb.Dataset, source=source, metadata=metadata or {})
        record: pb.Dataset = await self._call(
            "CreateDataset", dataset_id=dataset_id, dataset=dataset, request_id=request_id
        )
        return record


class Datasets(_Datasets, sync.SyncMixin):
    """Datasets, for `polytok.Client`."""


class AsyncDatasets(_Datasets, sync.AsyncMixin):
    """Datasets, for `polytok.AsyncClient`."""
