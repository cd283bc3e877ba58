"""Extractions: what models compute on the way, for the tokens of a tokenization."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, TypedDict, Unpack

from polytok import errors
from polytok.client import collection, message_builder, resource_names, sync, watch_stream
from polytok.extractor.v1 import extractions_pb2 as pb
from polytok.extractor.v1.extractions_pb2_grpc import ExtractionServiceStub

Reference = resource_names.Reference
NumberFormat = Literal["float32", "float16", "bfloat16"]

_ESTIMATE_SECONDS = 330.0


class Parameters(TypedDict, total=False):
    """What is extracted and how; what is left out takes its default (docs/extracting.md)."""

    context_size: int | None
    """Tokens of each sequence at most, and activations in a row of the files; by default the longest sequence."""
    max_sequences: int | None
    """Sequences at most, from the first."""
    max_tokens: int | None
    """Tokens at most: so many whole sequences, from the first, as do not exceed them."""
    batch_size: int | None
    """Sequences in one forward pass; by default what is fast and fits."""
    compute_format: NumberFormat | None
    """The model's numbers; float32 by default."""
    storage_format: NumberFormat | None
    """The files' numbers; those of the model by default."""
    exclude_special_tokens: bool | None
    """Leaves out the activations of the tokenizer's special tokens; the model still sees them."""
    excluded_token_ids: Sequence[int] | None
    """Leaves out the activations of these tokens too."""
    excluded_positions: Sequence[int] | None
    """Leaves out the activations at these places of every sequence, from 0."""
    nonfinite: Literal["fail", "keep"] | None
    """What happens when the model gives NaN or infinity: fail, or keep and count them."""
    compile: bool | None
    """Compiles the model with torch.compile."""


class Methods(collection.Resource):
    """The calls, written once for both clients.

    An extraction is named by its id, its full name, its uid or its record.
    """

    @property
    def _stub(self) -> ExtractionServiceStub:
        return self._via.stub(ExtractionServiceStub)

    @sync.operation
    async def create(
        self,
        dataset: Reference,
        model: Reference,
        *,
        hooks: Sequence[str],
        variant: str = "",
        name: str = "",
        request_id: str = "",
        **how: Unpack[Parameters],
    ) -> pb.Extraction:
        """Start to extract what a model computes at these hooks, for the tokens of a dataset's tokenization.

        The same again gives the extraction that exists; without a name, one is made up. Raises NotFound (no such
        tokenization: the message names the command that makes it), FailedPrecondition (not READY, does not fit),
        AlreadyExists (other parameters under that name), InvalidArgument.
        """
        request = message_builder.build(
            pb.CreateExtractionRequest,
            extraction_id=name,
            dataset=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
            parameters=_parameters(hooks, how),
            request_id=request_id,
        )
        return await self._via.unary(self._stub.CreateExtraction, request)

    @sync.operation
    async def get(self, extraction: Reference) -> pb.Extraction:
        """Read one extraction. Raises NotFound."""
        request = message_builder.build(pb.GetExtractionRequest, name=resource_names.extraction(extraction))
        return await self._via.unary(self._stub.GetExtraction, request)

    @sync.iteration
    async def list(
        self, dataset: Reference | None = None, *, model: Reference | None = None, states: Sequence[str] = ()
    ) -> AsyncGenerator[pb.Extraction, None]:
        """Yield all extractions, newest first, page by page; of one dataset, one model or some states if given."""
        wanted = collection.states(pb.Extraction.State, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListExtractionsRequest,
                dataset="" if dataset is None else resource_names.dataset(dataset),
                model="" if model is None else resource_names.model(model),
                page_size=collection.PAGE_SIZE,
                page_token=token,
                states=wanted,
            )
            reply = await self._via.unary(self._stub.ListExtractions, request)
            return reply.extractions, reply.next_page_token

        async for extraction in collection.pages(fetch):
            yield extraction

    @sync.operation
    async def delete(self, extraction: Reference, *, etag: str = "", request_id: str = "") -> None:
        """Delete an extraction and its files, and stop it if it is being made. Raises NotFound, Aborted (etag)."""
        request = message_builder.build(
            pb.DeleteExtractionRequest, name=resource_names.extraction(extraction), etag=etag, request_id=request_id
        )
        await self._via.unary(self._stub.DeleteExtraction, request)

    @sync.operation
    async def cancel(self, extraction: Reference, *, request_id: str = "") -> pb.Extraction:
        """Stop an extraction. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.CancelExtractionRequest, name=resource_names.extraction(extraction), request_id=request_id
        )
        return await self._via.unary(self._stub.CancelExtraction, request)

    @sync.operation
    async def retry(self, extraction: Reference, *, request_id: str = "") -> pb.Extraction:
        """Extract again after ERROR or CANCELLED. Raises NotFound, FailedPrecondition, and what `create` raises."""
        request = message_builder.build(
            pb.RetryExtractionRequest, name=resource_names.extraction(extraction), request_id=request_id
        )
        return await self._via.unary(self._stub.RetryExtraction, request)

    @sync.iteration
    async def watch(self, extraction: Reference) -> AsyncGenerator[pb.Extraction, None]:
        """Yield the extraction as it is, then after every change, to its terminal state. Raises NotFound."""
        async for record in watch_stream.follow(self._via, self._stream(resource_names.extraction(extraction))):
            yield record

    @sync.operation
    async def wait(
        self,
        extraction: Reference,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the name that callers expect
    ) -> pb.Extraction:
        """Return the extraction once it is READY.

        Raises FailedPrecondition with the error's reason if it failed, Cancelled, or DeadlineExceeded after so many
        seconds.
        """
        return await watch_stream.until_ready(self._via, self._stream(resource_names.extraction(extraction)), timeout)

    @sync.operation
    async def estimate(
        self,
        dataset: Reference,
        model: Reference,
        *,
        hooks: Sequence[str],
        variant: str = "",
        **how: Unpack[Parameters],
    ) -> pb.EstimateExtractionResponse:
        """Return what an extraction would take: bytes, memory and, from a short trial on a worker, time.

        Makes nothing. Raises what `create` raises and what would stop the extraction; DeadlineExceeded when no worker
        is free.
        """
        request = message_builder.build(
            pb.EstimateExtractionRequest,
            dataset=resource_names.dataset(dataset),
            model=resource_names.model(model),
            variant=variant,
            parameters=_parameters(hooks, how),
        )
        return await self._via.unary(self._stub.EstimateExtraction, request, _ESTIMATE_SECONDS)

    def _stream(self, name: str) -> watch_stream.Open[pb.Extraction]:
        request = message_builder.build(pb.WatchExtractionRequest, name=name)

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Extraction, None]:
            async for reply in self._via.stream(self._stub.WatchExtraction, request, seconds):
                yield reply.extraction

        return replies


def _parameters(hooks: Sequence[str], how: Parameters) -> pb.ExtractionParameters:
    given: dict[str, Any] = {name: value for name, value in how.items() if value is not None}
    unknown = given.keys() - Parameters.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(
            f"{', '.join(sorted(unknown))}: no such parameter; there are {', '.join(Parameters.__annotations__)}."
        )
    for field in ("compute_format", "storage_format"):
        if field in given:
            given[field] = _value(field, given[field], "NUMBER_FORMAT_", pb.NumberFormat)
    if "nonfinite" in given:
        given["nonfinite"] = _value("nonfinite", given["nonfinite"], "NONFINITE_", pb.ExtractionParameters.Nonfinite)
    names_of_hooks = [hooks] if isinstance(hooks, str) else hooks
    return message_builder.build(pb.ExtractionParameters, hooks=names_of_hooks, **given)


def _value(field: str, word: str, prefix: str, enum: Any) -> Any:
    known = {name.removeprefix(prefix).lower(): value for name, value in enum.items() if value}
    if str(word).lower() not in known:
        raise errors.InvalidArgument(f"{field}: {word!r} is none of {', '.join(known)}.")
    return known[str(word).lower()]


class Extractions(Methods, sync.Blocking):
    """Extractions, for `polytok.Client`."""


class AsyncExtractions(Methods, sync.Awaitable):
    """Extractions, for `polytok.AsyncClient`."""
