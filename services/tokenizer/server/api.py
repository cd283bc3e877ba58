"""TokenizerService (polytok/tokenizer/v1/tokenizer.proto)."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2, tokenizer_pb2_grpc
from services.jobs.subprocess_client import SubprocessClient
from services.tokenizer.server.catalog_client import CatalogClient
from services.tokenizer.server.verification_service import VerificationService

Context = grpc.aio.ServicerContext[Any, Any]

NAME = tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name
"""The service's full name."""


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Serves the methods of TokenizerService."""

    def __init__(self, catalog: CatalogClient, answering: SubprocessClient, verification: VerificationService) -> None:
        self._catalog = catalog
        self._answering = answering
        self._verifying = verification

    async def Inspect(  # noqa: N802
        self, request: tokenizer_pb2.InspectRequest, context: Context
    ) -> tokenizer_pb2.InspectResponse:
        """Describe the tokenizer of a model."""
        model = await self._catalog.model(request.model)
        reference = _reference(model)
        # The template shown is the one that the model was registered with, or none.
        reference.chat_template_fingerprint = model.chat_template_fingerprint
        answer = await self._answering.ask("inspect", reference, tokenizer_pb2.InspectResponse)
        answer.model = model.name
        return answer

    async def Encode(  # noqa: N802
        self, request: tokenizer_pb2.EncodeRequest, context: Context
    ) -> tokenizer_pb2.EncodeResponse:
        """Encode a text for one model."""
        return tokenizer_pb2.EncodeResponse(
            encoding=await self._encode(await self._catalog.model(request.model), request)
        )

    async def Compare(  # noqa: N802
        self, request: tokenizer_pb2.CompareRequest, context: Context
    ) -> tokenizer_pb2.CompareResponse:
        """Encode a text for several models."""
        # All models first: an unknown name is reported before any tokenizer is loaded.
        models = [await self._catalog.model(name) for name in request.models]
        return tokenizer_pb2.CompareResponse(encodings=[await self._encode(model, request) for model in models])

    async def Verify(  # noqa: N802
        self, request: tokenizer_pb2.VerifyRequest, context: Context
    ) -> AsyncGenerator[tokenizer_pb2.VerifyResponse]:
        """Verify the files of a tokenization."""
        async for response in self._verifying.run(request.name, request.sample, every_document=request.every_document):
            yield response

    async def _encode(
        self, model: models_pb2.Model, request: tokenizer_pb2.EncodeRequest | tokenizer_pb2.CompareRequest
    ) -> tokenizer_pb2.Encoding:
        with_special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        task = answers_pb2.EncodeTask(tokenizer=_reference(model), text=request.text, add_special_tokens=with_special)
        answer = await self._answering.ask("encode", task, tokenizer_pb2.Encoding)
        answer.model = model.name
        return answer


def _reference(model: models_pb2.Model) -> tasks_pb2.TokenizerReference:
    apart = bool(model.tokenizer_repo_id)
    return tasks_pb2.TokenizerReference(
        repo_id=model.tokenizer_repo_id if apart else model.repo_id,
        revision=model.tokenizer_commit if apart else model.commit or model.revision,
        fingerprint=model.tokenizer_fingerprint,
    )
