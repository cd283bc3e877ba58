"""Tokenizers of models: inspect them, encode texts, verify tokenizations."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from polytok import errors
from polytok.client import resource_names, sync
from polytok.client.collection import Service
from polytok.client.resource_names import Reference
from polytok.tokenizer.v1 import tokenizer_pb2 as pb
from polytok.tokenizer.v1.tokenizer_pb2_grpc import TokenizerServiceStub

Sample = int | Literal["all"]
"""Number of documents that are encoded again."""


class _Tokenizers(Service):
    _stub_class = TokenizerServiceStub
    _messages = pb

    @sync.method
    async def inspect(self, model: Reference) -> pb.InspectResponse:
        """Describe the tokenizer of a model. Raises NotFound, FailedPrecondition (not READY, cannot be loaded)."""
        response: pb.InspectResponse = await self._call("Inspect", model=resource_names.model(model))
        return response

    @sync.method
    async def encode(self, text: str, model: Reference, *, add_special_tokens: bool = True) -> pb.Encoding:
        """Return the tokens of a text: id, piece, and the bytes of the text's UTF-8 that each covers.

        Raises as `inspect` does, and InvalidArgument for a text of more than 1 MiB.
        """
        response = await self._call(
            "Encode", model=resource_names.model(model), text=_utf8(text), add_special_tokens=add_special_tokens
        )
        encoding: pb.Encoding = response.encoding
        return encoding

    @sync.method
    async def compare(
        self, text: str, models: Sequence[Reference], *, add_special_tokens: bool = True
    ) -> Sequence[pb.Encoding]:
        """Return the tokens of a text for several models, in their order.

        Raises as `encode` does, for a text of more than 64 KiB or more than 16 models.
        """
        names = [resource_names.model(model) for model in models]
        response = await self._call("Compare", models=names, text=_utf8(text), add_special_tokens=add_special_tokens)
        return list(response.encodings)

    @sync.iterator
    async def verifying(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", sample: Sample = 0
    ) -> AsyncGenerator[pb.VerifyResponse, None]:
        """Verify a READY tokenization, named as in `Client.tokenizations`: yields progress, and the result last.

        Compares every file with its checksum, and encodes `sample` documents, or with "all" every one, again with the
        reference engine. Raises NotFound, FailedPrecondition, Aborted (it changed meanwhile), DataLoss (the dataset's
        own files are damaged).
        """
        async for response in self._verify(dataset, model, variant, sample):
            yield response

    @sync.method
    async def verify(
        self, dataset: Reference, model: Reference | None = None, *, variant: str = "", sample: Sample = 0
    ) -> pb.VerifyResult:
        """Return the result of `verifying`; without findings, nothing is wrong."""
        async for response in self._verify(dataset, model, variant, sample):
            if response.HasField("result"):
                result: pb.VerifyResult = response.result
                return result
        raise errors.Internal("The tokenizer ended a verification without a result.")

    def _verify(
        self, dataset: Reference, model: Reference | None, variant: str, sample: Sample
    ) -> AsyncGenerator[pb.VerifyResponse, None]:
        if isinstance(sample, str) and sample != "all":
            described = "it takes a number of documents, or 'all'"
            raise errors.InvalidArgument(
                f"sample cannot be {sample!r}: {described}.",
                violations=[errors.FieldViolation("sample", f"{described}.")],
            )
        wanted: dict[str, Any] = {"every_document": True} if sample == "all" else {"sample": sample}
        return self._stream("Verify", name=resource_names.tokenization(dataset, model, variant), **wanted)


def _utf8(text: str) -> str:
    if not isinstance(text, str):
        raise errors.InvalidArgument(f"text is a str, not a {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidArgument(
            f"The text cannot be encoded as UTF-8: character {error.start} is {text[error.start]!r}, a lone surrogate. "
            "Replace it, or decode the text with the right encoding."
        ) from error
    return text


class Tokenizers(_Tokenizers, sync.SyncMixin):
    """Tokenizers, for `polytok.Client`."""


class AsyncTokenizers(_Tokenizers, sync.AsyncMixin):
    """Tokenizers, for `polytok.AsyncClient`."""
