"""Datasets: corpora, read once into Arrow files."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from polytok import errors
from polytok.catalog.v1 import datasets_pb2 as pb
from polytok.catalog.v1.datasets_pb2_grpc import DatasetServiceStub
from polytok.client import collection, message_builder, resource_names, source_arguments, sync, watch_stream
from polytok.client import row_upload as uploading

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Rows: TypeAlias = "Dataset | pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch] | AsyncIterable[pa.RecordBatch]"
"""Rows that a caller has. The synchronous client takes no asynchronous iterators."""

_STATES = pb.Dataset.State


class Methods(collection.Resource):
    """The calls, written once for both clients. A dataset is named by its id, its full name, its uid or its record."""

    @property
    def _stub(self) -> DatasetServiceStub:
        return self._via.stub(DatasetServiceStub)

    @sync.operation
    async def create(
        self,
        dataset_id: str,
        *,
        files: source_arguments.Path | Sequence[source_arguments.Path] | None = None,
        format: str | None = None,  # noqa: A002  the word that users know
        hub: str | None = None,
        split: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        delimiter: str | None = None,
        json_field: str | None = None,
        text_rows: str | None = None,
        text_separator: str | None = None,
        rows: "Rows | None" = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Dataset:
        """Register a dataset, of files, of a repository of the Hugging Face hub or of rows, and start to read it in.

        `files` are paths, folders, globs or fsspec URIs (jsonl, json, csv, tsv, parquet, text, arrow, compressed or
        not); the format is taken from each name unless given. `delimiter` separates the cells of CSV. `json_field` is
        the field with the rows, where a file of JSON is one object with several lists. `text_rows` says what is a row
        of a text file: `line`, `file`, or `separated`, by the `text_separator` or else by blank lines.

        `rows` are a `datasets.Dataset`, a `pyarrow.Table`, or record batches one after another; they are sent to the
        catalog, and are on its disk when this returns. An upload that breaks off leaves nothing there, and is not tried
        again by itself, as an iterator has no second time.

        The same id with the same source gives the dataset that exists. Raises AlreadyExists, InvalidArgument,
        ResourceExhausted (more rows than the catalog takes).
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
            )
            if any(option is not None for option in options_given):
                raise errors.InvalidArgument(
                    "Rows come alone: leave out files, hub and the options that belong to them."
                )
            upload = uploading.upload(dataset_id, rows, metadata, request_id)
            return await self._via.upload(self._stub.UploadDataset, upload)
        options = source_arguments.FileOptions(delimiter, json_field, text_rows, text_separator)
        source = source_arguments.dataset(files, format, hub, split, config, revision, options)
        dataset = message_builder.build(pb.Dataset, source=source, metadata=metadata or {})
        request = message_builder.build(
            pb.CreateDatasetRequest, dataset_id=dataset_id, dataset=dataset, request_id=request_id
        )
        return await self._via.unary(self._stub.CreateDataset, request)

    @sync.operation
    async def get(self, dataset: resource_names.Reference) -> pb.Dataset:
        """Read one dataset. Raises NotFound."""
        return await self._via.unary(
            self._stub.GetDataset, message_builder.build(pb.GetDatasetRequest, name=resource_names.dataset(dataset))
        )

    @sync.iteration
    async def list(self, *, states: Sequence[str] = ()) -> AsyncGenerator[pb.Dataset, None]:
        """Yield all datasets, newest first, page by page; of some states only (`READY`, `ERROR`, …) if given."""
        wanted = collection.states(_STATES, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListDatasetsRequest, page_size=collection.PAGE_SIZE, page_token=token, states=wanted
            )
            reply = await self._via.unary(self._stub.ListDatasets, request)
            return reply.datasets, reply.next_page_token

        async for dataset in collection.pages(fetch):
            yield dataset

    @sync.operation
    async def update(
        self, dataset: resource_names.Reference, *, metadata: Mapping[str, str], etag: str = "", request_id: str = ""
    ) -> pb.Dataset:
        """Replace the metadata, if the dataset still has this etag. Raises NotFound, Aborted."""
        request = message_builder.build(
            pb.UpdateDatasetRequest,
            dataset=message_builder.build(
                pb.Dataset, name=resource_names.dataset(dataset), metadata=metadata, etag=etag
            ),
            request_id=request_id,
        )
        request.update_mask.paths.append("metadata")
        return await self._via.unary(self._stub.UpdateDataset, request)

    @sync.operation
    async def delete(
        self, dataset: resource_names.Reference, *, force: bool = False, etag: str = "", request_id: str = ""
    ) -> None:
        """Delete a dataset and its files; with force, its tokenizations too. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.DeleteDatasetRequest, name=resource_names.dataset(dataset), force=force, etag=etag, request_id=request_id
        )
        await self._via.unary(self._stub.DeleteDataset, request)

    @sync.operation
    async def cancel(self, dataset: resource_names.Reference, *, request_id: str = "") -> pb.Dataset:
        """Stop reading a dataset in. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.CancelDatasetRequest, name=resource_names.dataset(dataset), request_id=request_id
        )
        return await self._via.unary(self._stub.CancelDataset, request)

    @sync.operation
    async def retry(self, dataset: resource_names.Reference, *, request_id: str = "") -> pb.Dataset:
        """Read a dataset in again after ERROR or CANCELLED. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.RetryDatasetRequest, name=resource_names.dataset(dataset), request_id=request_id
        )
        return await self._via.unary(self._stub.RetryDataset, request)

    @sync.iteration
    async def watch(self, dataset: resource_names.Reference) -> AsyncGenerator[pb.Dataset, None]:
        """Yield the dataset as it is, then after every change, to its terminal state. Raises NotFound."""
        async for record in watch_stream.follow(self._via, self._stream(dataset)):
            yield record

    @sync.operation
    async def wait(self, dataset: resource_names.Reference, *, timeout: float | None = None) -> pb.Dataset:  # noqa: ASYNC109
        """Return the dataset once it is READY.

        Raises FailedPrecondition with the error's reason if it failed, Cancelled, or DeadlineExceeded after so many
        seconds.
        """
        return await watch_stream.until_ready(self._via, self._stream(dataset), timeout)

    def _stream(self, dataset: resource_names.Reference) -> watch_stream.Open[pb.Dataset]:
        request = message_builder.build(pb.WatchDatasetRequest, name=resource_names.dataset(dataset))

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Dataset, None]:
            async for reply in self._via.stream(self._stub.WatchDataset, request, seconds):
                yield reply.dataset

        return replies


class Datasets(Methods, sync.Blocking):
    """Datasets, for `polytok.Client`."""


class AsyncDatasets(Methods, sync.Awaitable):
    """Datasets, for `polytok.AsyncClient`."""
