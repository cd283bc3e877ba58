"""Models: the tokenizers and weights that datasets are tokenized for."""

from collections.abc import Mapping

from polytok.catalog.v1 import models_pb2 as pb
from polytok.catalog.v1.models_pb2_grpc import ModelServiceStub
from polytok.client import message_builder, source_arguments, sync
from polytok.client.collection import SourceCollection


class _Models(SourceCollection[pb.Model]):
    _stub_class = ModelServiceStub
    _messages = pb
    _kind = "Model"

    @sync.method
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
        """Register a model and start reading its tokenizer.

        `repository` is `owner/name` on the Hugging Face hub or the path of a local folder in that layout. `tokenizer`
        is the same, for a tokenizer stored elsewhere. Returns the existing model if id and source are the same.
        Raises AlreadyExists, InvalidArgument.
        """
        model = message_builder.build(
            pb.Model,
            repo_id=source_arguments.repository(repository),
            revision=revision,
            tokenizer_repo_id=source_arguments.repository(tokenizer) if tokenizer else "",
            metadata=metadata or {},
        )
        record: pb.Model = await self._call("CreateModel", model_id=model_id, model=model, request_id=request_id)
        return record


class Models(_Models, sync.SyncMixin):
    """Models, for `polytok.Client`."""


class AsyncModels(_Models, sync.AsyncMixin):
    """Models, for `polytok.AsyncClient`."""
