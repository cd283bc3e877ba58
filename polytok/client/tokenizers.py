"""Tokenizers of models: what they are, and what they make of a text."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from polytok import errors
from polytok.client import collection, message_builder, resource_names, sync
from polytok.tokenizer.v1 import tokenizer_pb2 as pb
from polytok.tokenizer.v1.tokenizer_pb2_grpc import TokenizerServiceStub

Sample = int | Literal["all"]
"""How many documents are encoded again."""


class Methods(collection.Resource):
    """The calls, written once for both clients; they go to a tokenizer worker, not to the catalog."""

    @property
    def _stub(self) -> TokenizerServiceStub:
        return self._via.stub(TokenizerServiceStub)

    @sync.operation
    async def inspect(self, model: resource_names.Reference) -> pb.InspectResponse:
        """Describe the tokenizer of a model. Raises NotFound, FailedPrecondition (not READY, cannot be loaded)."""
        return await self._via.unary(
            self._stub.Inspect, message_builder.build(pb.InspectRequest, model=resource_names.model(model))
        )

    @sync.operation
    async def encode(
        self, text: str, model: resource_names.Reference, *, add_special_tokens: bool = True
    ) -> pb.Encoding:
        """Return the tokens of a text: id, piece, and the bytes of the text's UTF-8 that each stands for.

        Raises as `inspect` does, and InvalidArgument for a text of more than 1 MiB.
        """
        request = message_builder.build(
            pb.EncodeRequest, model=resource_names.model(model), text=_utf8(text), add_special_tokens=add_special_tokens
        )
        return (await self._via.unary(self._stub.Encode, request)).encoding

    @sync.operation
    async def compare(
        self, text: str, models: Sequence[resource_names.Reference], *, add_special_tokens: bool = True
    ) -> Sequence[pb.Encoding]:
        """Return the tokens of a text for several models, in their order.

        Raises as `encode` does; the text has 64 KiB at most, and there are 16 models at most.
        """
        request = message_builder.build(
            pb.CompareRequest,
            models=[resource_names.model(model) for model in models],
            text=_utf8(text),
            add_special_tokens=add_special_tokens,
        )
        reply: Any = await self._via.unary(self._stub.Compare, request)
        return list(reply.encodings)

    @sync.iteration
    async def verifying(
        self,
        dataset: resource_names.Reference,
        model: resource_names.Reference | None = None,
        *,
        variant: str = "",
        sample: Sample = 0,
    ) -> AsyncGenerator[pb.VerifyResponse, None]:
        """Verify a READY tokenization, named as in `Client.tokenizations`: progress, then the result, which is last.

        Every file is read and compared with its checksum, and `sample` documents, or with "all" every one, are encoded
        again with the reference. Raises NotFound, FailedPrecondition, Aborted (it changed meanwhile), DataLoss (the
        dataset's own files are damaged).
        """
        request = _verification(resource_names.tokenization(dataset, model, variant), sample)
        async for response in self._via.stream(self._stub.Verify, request, None):
            yield response

    @sync.operation
    async def verify(
        self,
        dataset: resource_names.Reference,
        model: resource_names.Reference | None = None,
        *,
        variant: str = "",
        sample: Sample = 0,
    ) -> pb.VerifyResult:
        """Return what `verifying` found; nothing is wrong where it has no findings."""
        request = _verification(resource_names.tokenization(dataset, model, variant), sample)
        async for response in self._via.stream(self._stub.Verify, request, None):
            if response.HasField("result"):
                return response.result
        raise errors.Internal("The tokenizer ended a verification without a result.")


def _verification(name: str, sample: Sample) -> pb.VerifyRequest:
    if isinstance(sample, str) and sample != "all":
        described = "it takes a number of documents, or 'all'"
        raise errors.InvalidArgument(
            f"sample cannot be {sample!r}: {described}.", violations=[errors.FieldViolation("sample", f"{described}.")]
        )
    if sample == "all":
        return message_builder.build(pb.VerifyRequest, name=name, every_document=True)
    return message_builder.build(pb.VerifyRequest, name=name, sample=sample)


def _utf8(text: str) -> str:
    if not isinstance(text, str):
        raise errors.InvalidArgument(f"text is a str, not a {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidArgument(
            f"The text has no UTF-8: character {error.start} is {text[error.start]!r}, half of a pair or a byte that "
            "was not decoded. Replace it, or read the text as what it is."
        ) from error
    return text


class Tokenizers(Methods, sync.Blocking):
    """Tokenizers, for `polytok.Client`."""


class AsyncTokenizers(Methods, sync.Awaitable):
    """Tokenizers, for `polytok.AsyncClient`."""
