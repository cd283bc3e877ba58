"""Extractions: activations of a model at chosen hooks, for the tokens of a tokenization."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, TypedDict, Unpack

from polytok import errors
from polytok.client import message_builder, resource_names, sync
from polytok.client.collection import CancellableCollection
from polytok.extractor.v1 import extractions_pb2 as pb
from polytok.extractor.v1.extractions_pb2_grpc import ExtractionServiceStub

Reference = resource_names.Reference
NumberFormat = Literal["float32", "float16", "bfloat16"]

_ESTIMATE_SECONDS = 330.0


class Parameters(TypedDict, total=False):
    """Parameters of an extraction, all optional (docs/extracting.md)."""

    context_size: int | None
    """Maximum tokens of a sequence, and activations in a row of the files; by default the longest sequence."""
    max_sequences: int | None
    """Maximum number of sequences, from the first."""
    max_tokens: int | None
    """Maximum number of tokens, rounded down to whole sequences, from the first."""
    batch_size: int | None
    """Sequences in one forward pass; by default chosen for speed and memory."""
    compute_format: NumberFormat | None
    """Number format of the model; float32 by default."""
    storage_format: NumberFormat | None
    """Number format of the files; by default that of the model."""
    exclude_special_tokens: bool | None
    """Whether to leave out the activations of special tokens; the model still sees them."""
    excluded_token_ids: Sequence[int] | None
    """Ids of further tokens whose activations are left out."""
    excluded_positions: Sequence[int] | None
    """Positions in every sequence, from 0, whose activations are left out."""
    nonfinite: Literal["fail", "keep"] | None
    """What to do if the model returns NaN or infinity: fail, or keep and count them."""
    compile: bool | None
    """Whether to compile the model with torch.compile."""


class _Extractions(CancellableCollection[pb.Extraction]):
    _stub_class = ExtractionServiceStub
    _messages = pb
    _kind = "Extraction"

    @sync.method
    async def create(
        self,
        dataset: Reference,
        model: Reference,
        *,
        hooks: Sequence[str],
        variant: str = "",
        name: str = "",
        request_id: str = "",
        **parameters: Unpack[Parameters],
    ) -> pb.Extraction:
        """Start extracting a model's activations at these hooks, for the tokens of a dataset's tokenization.

        Returns the existing extraction if everything is the same; without a name, one is generated. Raises NotFound
        (no such tokenization: the message names the command that creates it), FailedPrecondition (not READY, does not
        fit), AlreadyExists (other parameters under that name), InvalidArgument.
        """
        record: pb.Extraction = await self._call(
            "CreateExtraction",
            extraction_id=name,
            request_id=request_id,
            **_order(dataset, model, variant, hooks, parameters),
        )
        return record

    @sync.iterator
    async def list(
        self, dataset: Reference | None = None, *, model: Reference | None = None, states: Sequence[str] = ()
    ) -> AsyncGenerator[pb.Extraction, None]:
        """Yield all extractions, newest first, page by page; of one dataset, one model or some states if given."""
        of_dataset = "" if dataset is None else resource_names.dataset(dataset)
        of_model = "" if model is None else resource_names.model(model)
        async for record in self._list(states, dataset=of_dataset, model=of_model):
            yield record

    @sync.method
    async def estimate(
        self,
        dataset: Reference,
        model: Reference,
        *,
        hooks: Sequence[str],
        variant: str = "",
        **parameters: Unpack[Parameters],
    ) -> pb.EstimateExtractionResponse:
        """Return the bytes, memory and, from a short trial on a worker, the time that an extraction would take.

        Creates nothing. Raises what `create` raises and what would stop the extraction; DeadlineExceeded when no worker
        is free.
        """
        order = _order(dataset, model, variant, hooks, parameters)
        response: pb.EstimateExtractionResponse = await self._call(
            "EstimateExtraction", seconds=_ESTIMATE_SECONDS, **order
        )
        return response


def _order(
    dataset: Reference, model: Reference, variant: str, hooks: Sequence[str], parameters: Parameters
) -> dict[str, Any]:
    """Return the fields that describe what to extract."""
    return {
        "dataset": resource_names.dataset(dataset),
        "model": resource_names.model(model),
        "variant": variant,
        "parameters": _parameters(hooks, parameters),
    }


def _parameters(hooks: Sequence[str], parameters: Parameters) -> pb.ExtractionParameters:
    given: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    unknown = given.keys() - Parameters.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(
            f"Unknown parameter {min(unknown)!r}. Expected one of: {', '.join(Parameters.__annotations__)}."
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
        raise errors.InvalidArgument(f"Unknown {field} {word!r}. Expected one of: {', '.join(known)}.")
    return known[str(word).lower()]


class Extractions(_Extractions, sync.SyncMixin):
    """Extractions, for `polytok.Client`."""


class AsyncExtractions(_Extractions, sync.AsyncMixin):
    """Extractions, for `polytok.AsyncClient`."""
