"""Tokenizations: one dataset as token ids for one model."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Unpack

from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.catalog.v1.tokenizations_pb2_grpc import TokenizationServiceStub
from polytok.client import resource_names, sync, tokenization_arguments, watch_stream
from polytok.client.collection import CancellableCollection
from polytok.client.resource_names import Reference


class _Tokenizations(CancellableCollection[pb.Tokenization]):
    """A tokenization is named by its dataset, model and variant, or by one reference alone.

    One reference is `docs/gpt2`, the full name, the uid or the record.
    """

    _stub_class = TokenizationServiceStub
    _messages = pb
    _kind = "Tokenization"

    @sync.method
    async def create(
        self,
        dataset: Reference,
        model: Reference,
        *,
        variant: str = "",
        request_id: str = "",
        **parameters: Unpack[tokenization_arguments.Parameters],
    ) -> pb.Tokenization:
        """Start tokenizing a dataset for a model; `Parameters` describes how.

        Returns the existing tokenization if its dataset, model, variant and parameters are the same. Raises NotFound,
        AlreadyExists (other parameters), FailedPrecondition (dataset or model not READY), InvalidArgument.
        """
        record: pb.Tokenization = await self._call(
            "CreateTokenization",
            parent=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
            parameters=tokenization_arguments.to_message(parameters),
            request_id=request_id,
        )
        return record

    @sync.method
    async def get(self, dataset: Reference, model: Reference | None = None, *, variant: str = "") -> pb.Tokenization:
        """Return one tokenization. Raises NotFound."""
        return await self._change("Get", self._name(dataset, model, variant))

    @sync.iterator
    async def list(
        self, dataset: Reference = "-", *, model: Reference | None = None, states: Sequence[str] = ()
    ) -> AsyncGenerator[pb.Tokenization, None]:
        """Yield all tokenizations, newest first, page by page; of one dataset, one model or some states if given."""
        of_model = "" if model is None else resource_names.model(model)
        async for record in self._list(states, parent=resource_names.dataset(dataset), model=of_model):
            yield record

    @sync.method
    async def delete(
        self,
        dataset: Reference,
        model: Reference | None = None,
        *,
        variant: str = "",
        etag: str = "",
        request_id: str = "",
    ) -> None:
        """Delete a tokenization and its files. Raises NotFound, FailedPrecondition (held), Aborted (etag)."""
        await self._delete(self._name(dataset, model, variant), etag, request_id)

    @sync.method
    async def cancel(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", request_id: str = ""
    ) -> pb.Tokenization:
        """Cancel a tokenization. Raises NotFound, FailedPrecondition."""
        return await self._change("Cancel", self._name(dataset, model, variant), request_id=request_id)

    @sync.method
    async def retry(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", request_id: str = ""
    ) -> pb.Tokenization:
        """Tokenize again after ERROR or CANCELLED. Raises NotFound, FailedPrecondition."""
        return await self._change("Retry", self._name(dataset, model, variant), request_id=request_id)

    @sync.method
    async def repair(
        self,
        dataset: Reference,
        model: Reference | None = None,
        *,
        variant: str = "",
        checksums_only: bool = False,
        request_id: str = "",
    ) -> pb.Tokenization:
        """Start rebuilding missing or damaged files; `repairing` follows it.

        Encodes every document again with the reference engine, which finds wrong ids too. With `checksums_only`, only
        compares files with their checksums. Tokenizations that share the files are repaired with them, and only one
        repair of them runs at a time. Raises NotFound, FailedPrecondition (not READY).
        """
        name = self._name(dataset, model, variant)
        return await self._change("Repair", name, checksums_only=checksums_only, request_id=request_id)

    @sync.iterator
    async def repairing(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = ""
    ) -> AsyncGenerator[pb.Repair, None]:
        """Yield the last repair of a tokenization as it is, then after every change, until it is DONE or failed."""
        name = self._name(dataset, model, variant)

        async def versions(seconds: float | None) -> AsyncGenerator[Any, None]:
            async for response in self._stream("WatchTokenization", seconds, name=name, repair=True):
                yield response.tokenization.repair

        async for repair in watch_stream.follow(self._transport, versions):
            yield repair

    @sync.method
    async def resolve(self, dataset: Reference, model: Reference, *, variant: str = "") -> pb.Tokenization:
        """Return the READY tokenization of a dataset for a model. Raises NotFound, FailedPrecondition (not READY)."""
        response = await self._call(
            "ResolveTokenization",
            dataset=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
        )
        record: pb.Tokenization = response.tokenization
        return record

    @sync.iterator
    async def watch(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = ""
    ) -> AsyncGenerator[pb.Tokenization, None]:
        """Yield the tokenization as it is, then after every change, until its state is terminal. Raises NotFound."""
        async for record in self._watch(self._name(dataset, model, variant)):
            yield record

    @sync.method
    async def wait(
        self,
        dataset: Reference,
        model: Reference | None = None,
        *,
        variant: str = "",
        timeout: float | None = None,  # noqa: ASYNC109  the name that callers expect
    ) -> pb.Tokenization:
        """Return the tokenization once it is READY.

        Raises FailedPrecondition with the error's reason if it failed, Cancelled, or DeadlineExceeded after `timeout`
        seconds.
        """
        return await self._wait(self._name(dataset, model, variant), timeout)

    def _name(self, resource: Reference, model: Reference | None = None, variant: str = "") -> str:
        return resource_names.tokenization(resource, model, variant)


class Tokenizations(_Tokenizations, sync.SyncMixin):
    """Tokenizations, for `polytok.Client`."""


class AsyncTokenizations(_Tokenizations, sync.AsyncMixin):
    """Tokenizations, for `polytok.AsyncClient`."""
