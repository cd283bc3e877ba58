"""TokenizerService (polytok/tokenizer/v1/tokenizer.proto)."""

from typing import Any

import grpc
import grpc.aio

from polytok import errors, transport
from polytok.catalog.v1 import models_pb2, models_pb2_grpc
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2, tokenizer_pb2_grpc
from services.tokenizer.answering import Answering

Context = grpc.aio.ServicerContext[Any, Any]

NAME = tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name
"""The service's full name."""


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Serves what tokenizers are and do."""

    def __init__(self, catalog: "models_pb2_grpc.ModelServiceAsyncStub", answering: Answering) -> None:
        self._catalog = catalog
        self._answering = answering

    async def Inspect(  # noqa: N802
        self, request: tokenizer_pb2.InspectRequest, context: Context
    ) -> tokenizer_pb2.InspectResponse:
        """Describes the tokenizer of a model."""
        model = await self._model(request.model)
        answer = await self._answering.ask("inspect", _reference(model), tokenizer_pb2.InspectResponse)
        answer.model = model.name
        return answer

    async def Encode(  # noqa: N802
        self, request: tokenizer_pb2.EncodeRequest, context: Context
    ) -> tokenizer_pb2.EncodeResponse:
        """Encodes a text for one model."""
        return tokenizer_pb2.EncodeResponse(encoding=await self._encode(await self._model(request.model), request))

    async def Compare(  # noqa: N802
        self, request: tokenizer_pb2.CompareRequest, context: Context
    ) -> tokenizer_pb2.CompareResponse:
        """Encodes a text for several models."""
        # All of them first: a name that is wrong is told before any tokenizer is loaded.
        models = [await self._model(name) for name in request.models]
        return tokenizer_pb2.CompareResponse(encodings=[await self._encode(model, request) for model in models])

    async def _encode(
        self, model: models_pb2.Model, request: tokenizer_pb2.EncodeRequest | tokenizer_pb2.CompareRequest
    ) -> tokenizer_pb2.Encoding:
        with_special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        task = answers_pb2.EncodeTask(tokenizer=_reference(model), text=request.text, add_special_tokens=with_special)
        answer = await self._answering.ask("encode", task, tokenizer_pb2.Encoding)
        answer.model = model.name
        return answer

    async def _model(self, name: str) -> models_pb2.Model:
        try:
            model: models_pb2.Model = await self._catalog.GetModel(models_pb2.GetModelRequest(name=name))
        except grpc.aio.AioRpcError as error:
            raise transport.from_rpc_error(error) from error
        if model.state != models_pb2.Model.STATE_READY:
            state = models_pb2.Model.State.Name(model.state).removeprefix("STATE_")
            why = f" ({model.error_message})" if model.error_message else ""
            advice = "register it anew, or retry it" if why else "wait until it is READY"
            raise errors.FailedPrecondition(
                f"{model.name} is {state}{why}; {advice}.", reason="NOT_READY", metadata={"resource": model.name}
            )
        return model


def _reference(model: models_pb2.Model) -> tasks_pb2.TokenizerReference:
    # A tokenizer of its own has no revision: the one that is given is the model's.
    apart = bool(model.tokenizer_repo_id)
    return tasks_pb2.TokenizerReference(
        repo_id=model.tokenizer_repo_id if apart else model.repo_id,
        revision="" if apart else model.revision,
        fingerprint=model.tokenizer_fingerprint,
    )
