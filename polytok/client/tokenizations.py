"""Tokenizations: one dataset as token ids for one model."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Unpack

from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.catalog.v1.tokenizations_pb2_grpc import TokenizationServiceStub
from polytok.client import collection, message_builder, resource_names, sync, tokenization_arguments, watch_stream

Reference = resource_names.Reference


class Methods(collection.Resource):
    """The calls, written once for both clients.

    A tokenization is named by its dataset and its model (and variant), or by one reference alone: `docs/gpt2`, its
    full name, its uid or its record.
    """

    @property
    def _stub(self) -> TokenizationServiceStub:
        return self._via.stub(TokenizationServiceStub)

    @sync.operation
    async def create(
        self,
        dataset: Reference,
        model: Reference,
        *,
        variant: str = "",
        request_id: str = "",
        **how: Unpack[tokenization_arguments.Parameters],
    ) -> pb.Tokenization:
        """Start to tokenize a dataset for a model; see `Parameters` for how.

        The same parameters for the same dataset, model and variant give the tokenization that exists. Raises
        NotFound, AlreadyExists (other parameters), FailedPrecondition (dataset or model not READY), InvalidArgument.
        """
        request = message_builder.build(
            pb.CreateTokenizationRequest,
            parent=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
            parameters=tokenization_arguments.to_message(how),
            request_id=request_id,
        )
        return await self._via.unary(self._stub.CreateTokenization, request)

    @sync.operation
    async def get(self, dataset: Reference, model: Reference | None = None, *, variant: str = "") -> pb.Tokenization:
        """Read one tokenization. Raises NotFound."""
        request = message_builder.build(
            pb.GetTokenizationRequest, name=resource_names.tokenization(dataset, model, variant)
        )
        return await self._via.unary(self._stub.GetTokenization, request)

    @sync.iteration
    async def list(
        self, dataset: Reference = "-", *, model: Reference | None = None, states: Sequence[str] = ()
    ) -> AsyncGenerator[pb.Tokenization, None]:
        """Yield all tokenizations, newest first, page by page; of one dataset, one model or some states if given."""
        wanted = collection.states(pb.Tokenization.State, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListTokenizationsRequest,
                parent=resource_names.dataset(dataset),
                model="" if model is None else resource_names.model(model),
                page_size=collection.PAGE_SIZE,
                page_token=token,
                states=wanted,
            )
            reply = await self._via.unary(self._stub.ListTokenizations, request)
            return reply.tokenizations, reply.next_page_token

        async for tokenization in collection.pages(fetch):
            yield tokenization

    @sync.operation
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
        name = resource_names.tokenization(dataset, model, variant)
        request = message_builder.build(pb.DeleteTokenizationRequest, name=name, etag=etag, request_id=request_id)
        await self._via.unary(self._stub.DeleteTokenization, request)

    @sync.operation
    async def cancel(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", request_id: str = ""
    ) -> pb.Tokenization:
        """Stop a tokenization. Raises NotFound, FailedPrecondition."""
        name = resource_names.tokenization(dataset, model, variant)
        request = message_builder.build(pb.CancelTokenizationRequest, name=name, request_id=request_id)
        return await self._via.unary(self._stub.CancelTokenization, request)

    @sync.operation
    async def retry(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", request_id: str = ""
    ) -> pb.Tokenization:
        """Tokeniz again after ERROR or CANCELLED. Raises NotFound, FailedPrecondition."""
        name = resource_names.tokenization(dataset, model, variant)
        request = message_builder.build(pb.RetryTokenizationRequest, name=name, request_id=request_id)
        return await self._via.unary(self._stub.RetryTokenization, request)

    @sync.operation
    async def repair(
        self,
        dataset: Reference,
        model: Reference | None = None,
        *,
        variant: str = "",
        checksums_only: bool = False,
        request_id: str = "",
    ) -> pb.Tokenization:
        """Begin to make those files again that are not what they should be; `repairing` follows it.

        The reference encodes every document again, so that wrong ids are found too; with `checksums_only` files are
        compared with their checksums and no more. Whoever shares the files has them repaired along; one repair of them
        is under way at a time. Raises NotFound, FailedPrecondition (not READY).
        """
        name = resource_names.tokenization(dataset, model, variant)
        request = message_builder.build(
            pb.RepairTokenizationRequest, name=name, checksums_only=checksums_only, request_id=request_id
        )
        return await self._via.unary(self._stub.RepairTokenization, request)

    @sync.iteration
    async def repairing(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = ""
    ) -> AsyncGenerator[pb.Repair, None]:
        """Yield the last repair of a tokenization as it is, then after every change, until it is DONE or failed."""
        name = resource_names.tokenization(dataset, model, variant)

        async def replies(seconds: float | None) -> AsyncGenerator[Any, None]:
            request = message_builder.build(pb.WatchTokenizationRequest, name=name, repair=True)
            async for reply in self._via.stream(self._stub.WatchTokenization, request, seconds):
                yield reply.tokenization.repair

        async for repair in watch_stream.follow(self._via, replies):
            yield repair

    @sync.operation
    async def resolve(self, dataset: Reference, model: Reference, *, variant: str = "") -> pb.Tokenization:
        """Return the READY tokenization of a dataset for a model. Raises NotFound, FailedPrecondition (not READY)."""
        return await self._resolve(dataset, model, variant)

    @sync.iteration
    async def watch(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = ""
    ) -> AsyncGenerator[pb.Tokenization, None]:
        """Yield the tokenization as it is, then after every change, to its terminal state. Raises NotFound."""
        stream = self._stream(resource_names.tokenization(dataset, model, variant))
        async for record in watch_stream.follow(self._via, stream):
            yield record

    @sync.operation
    async def wait(
        self,
        dataset: Reference,
        model: Reference | None = None,
        *,
        variant: str = "",
        timeout: float | None = None,  # noqa: ASYNC109  the name that callers expect
    ) -> pb.Tokenization:
        """Return the tokenization once it is READY.

        Raises FailedPrecondition with the error's reason if it failed, Cancelled, or DeadlineExceeded after so many
        seconds.
        """
        stream = self._stream(resource_names.tokenization(dataset, model, variant))
        return await watch_stream.until_ready(self._via, stream, timeout)

    async def _resolve(self, dataset: Reference, model: Reference, variant: str) -> pb.Tokenization:
        request = message_builder.build(
            pb.ResolveTokenizationRequest,
            dataset=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
        )
        reply = await self._via.unary(self._stub.ResolveTokenization, request)
        return reply.tokenization

    def _stream(self, name: str) -> watch_stream.Open[pb.Tokenization]:
        request = message_builder.build(pb.WatchTokenizationRequest, name=name)

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Tokenization, None]:
            async for reply in self._via.stream(self._stub.WatchTokenization, request, seconds):
                yield reply.tokenization

        return replies


class Tokenizations(Methods, sync.Blocking):
    """Tokenizations, for `polytok.Client`."""


class AsyncTokenizations(Methods, sync.Awaitable):
    """Tokenizations, for `polytok.AsyncClient`."""
