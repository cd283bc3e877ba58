"""Models: what datasets are tokenized for."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from polytok.catalog.v1 import models_pb2 as pb
from polytok.catalog.v1.models_pb2_grpc import ModelServiceStub
from polytok.client import collection, message_builder, resource_names, source_arguments, sync, watch_stream


class Methods(collection.Resource):
    """The calls, written once for both clients. A model is named by its id, its full name, its uid or its record."""

    @property
    def _stub(self) -> ModelServiceStub:
        return self._via.stub(ModelServiceStub)

    @sync.operation
    async def create(
        self,
        model_id: str,
        repository: str,
        *,
        revision: str = "",
        tokenizer: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Model:
        """Register a model and has its tokenizer read.

        `repository` is `owner/name` on the Hugging Face hub or the path of a local folder in that layout; so is
        `tokenizer`, where the tokenizer lies elsewhere. The same id with the same source gives the model that
        exists. Raises AlreadyExists, InvalidArgument.
        """
        model = message_builder.build(
            pb.Model,
            repo_id=source_arguments.repository(repository),
            revision=revision,
            tokenizer_repo_id=source_arguments.repository(tokenizer) if tokenizer else "",
            metadata=metadata or {},
        )
        request = message_builder.build(pb.CreateModelRequest, model_id=model_id, model=model, request_id=request_id)
        return await self._via.unary(self._stub.CreateModel, request)

    @sync.operation
    async def get(self, model: resource_names.Reference) -> pb.Model:
        """Read one model. Raises NotFound."""
        return await self._via.unary(
            self._stub.GetModel, message_builder.build(pb.GetModelRequest, name=resource_names.model(model))
        )

    @sync.iteration
    async def list(self, *, states: Sequence[str] = ()) -> AsyncGenerator[pb.Model, None]:
        """Yield all models, newest first, page by page; of some states only (`READY`, `ERROR`, …) if given."""
        wanted = collection.states(pb.Model.State, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListModelsRequest, page_size=collection.PAGE_SIZE, page_token=token, states=wanted
            )
            reply = await self._via.unary(self._stub.ListModels, request)
            return reply.models, reply.next_page_token

        async for model in collection.pages(fetch):
            yield model

    @sync.operation
    async def update(
        self, model: resource_names.Reference, *, metadata: Mapping[str, str], etag: str = "", request_id: str = ""
    ) -> pb.Model:
        """Replace the metadata, if the model still has this etag. Raises NotFound, Aborted."""
        request = message_builder.build(
            pb.UpdateModelRequest,
            model=message_builder.build(pb.Model, name=resource_names.model(model), metadata=metadata, etag=etag),
            request_id=request_id,
        )
        request.update_mask.paths.append("metadata")
        return await self._via.unary(self._stub.UpdateModel, request)

    @sync.operation
    async def delete(
        self, model: resource_names.Reference, *, force: bool = False, etag: str = "", request_id: str = ""
    ) -> None:
        """Delete a model; with force, its tokenizations too. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.DeleteModelRequest, name=resource_names.model(model), force=force, etag=etag, request_id=request_id
        )
        await self._via.unary(self._stub.DeleteModel, request)

    @sync.operation
    async def retry(self, model: resource_names.Reference, *, request_id: str = "") -> pb.Model:
        """Read a model's tokenizer again after ERROR. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(pb.RetryModelRequest, name=resource_names.model(model), request_id=request_id)
        return await self._via.unary(self._stub.RetryModel, request)

    @sync.iteration
    async def watch(self, model: resource_names.Reference) -> AsyncGenerator[pb.Model, None]:
        """Yield the model as it is, then after every change, to its terminal state. Raises NotFound."""
        async for record in watch_stream.follow(self._via, self._stream(model)):
            yield record

    @sync.operation
    async def wait(self, model: resource_names.Reference, *, timeout: float | None = None) -> pb.Model:  # noqa: ASYNC109
        """Return the model once it is READY.

        Raises FailedPrecondition with the error's reason if it failed, or DeadlineExceeded after so many seconds.
        """
        return await watch_stream.until_ready(self._via, self._stream(model), timeout)

    def _stream(self, model: resource_names.Reference) -> watch_stream.Open[pb.Model]:
        request = message_builder.build(pb.WatchModelRequest, name=resource_names.model(model))

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Model, None]:
            async for reply in self._via.stream(self._stub.WatchModel, request, seconds):
                yield reply.model

        return replies


class Models(Methods, sync.Blocking):
    """Models, for `polytok.Client`."""


class AsyncModels(Methods, sync.Awaitable):
    """Models, for `polytok.AsyncClient`."""
