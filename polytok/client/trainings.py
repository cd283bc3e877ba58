"""Trainings: sparse autoencoders, trained on the activations of a model over a tokenization."""

import asyncio
from collections.abc import AsyncGenerator, MutableSequence, Sequence
from typing import NamedTuple, Unpack

from polytok import errors
from polytok.client import (
    downloads,
    files,
    message_builder,
    resource_names,
    sync,
    training_arguments,
    watch_stream,
)
from polytok.client.collection import CancellableCollection
from polytok.trainer.v1 import metrics_pb2, saes_pb2
from polytok.trainer.v1 import trainings_pb2 as pb
from polytok.trainer.v1.trainings_pb2_grpc import TrainingServiceStub

Reference = resource_names.Reference

_FULL_MESSAGE = 1000
_PAGE = 10_000


class Update(NamedTuple):
    """A version of a training, and the metrics since the previous update."""

    training: pb.Training
    metrics: Sequence[metrics_pb2.Metrics]
    """A row replaces an earlier one of the same autoencoder, step and kind."""


class _Trainings(CancellableCollection[pb.Training]):
    _stub_class = TrainingServiceStub
    _messages = pb
    _kind = "Training"

    @sync.method
    async def create(
        self,
        dataset: Reference | None = None,
        model: Reference | None = None,
        *,
        saes: Sequence[training_arguments.Sae | saes_pb2.Sae],
        variant: str = "",
        live: training_arguments.Live | None = None,
        extraction: Reference | None = None,
        name: str = "",
        request_id: str = "",
        **parameters: Unpack[training_arguments.Parameters],
    ) -> pb.Training:
        """Start a training on a dataset's tokenization for a model, or on an extraction.

        Returns the existing training if everything is the same; without a name, one is generated. Raises NotFound,
        AlreadyExists (another training of that name), FailedPrecondition (not READY, or it does not fit the model),
        InvalidArgument.
        """
        record: pb.Training = await self._call(
            "CreateTraining",
            training_id=name,
            source=_source(dataset, model, variant, live, extraction),
            saes=[training_arguments.to_message(sae) for sae in saes],
            parameters=training_arguments.parameters(parameters),
            request_id=request_id,
        )
        return record

    @sync.method
    async def pause(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Request that a training writes a checkpoint and stops. Raises NotFound, FailedPrecondition."""
        return await self._change("Pause", self._name(training), request_id=request_id)

    @sync.method
    async def resume(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Continue a paused training from its checkpoint. Raises NotFound, FailedPrecondition."""
        return await self._change("Resume", self._name(training), request_id=request_id)

    @sync.method
    async def retry(self, training: Reference, *, from_start: bool = False, request_id: str = "") -> pb.Training:
        """Train again after ERROR, from its last checkpoint unless `from_start`, or after CANCELLED, from the start.

        Raises NotFound, FailedPrecondition.
        """
        return await self._change("Retry", self._name(training), from_start=from_start, request_id=request_id)

    @sync.iterator
    async def follow(self, training: Reference) -> AsyncGenerator[Update, None]:
        """Yield the training with all metrics so far, then every change with new metrics, to a terminal state."""
        found: list[metrics_pb2.Metrics] = []
        versions = self._versions(self._name(training), found)
        async for record in watch_stream.follow(self._transport, versions):
            yield Update(record, tuple(found))
            found.clear()

    @sync.iterator
    async def metrics(
        self, training: Reference, *, sae: str = "", after_step: int = 0
    ) -> AsyncGenerator[metrics_pb2.Metrics, None]:
        """Yield the metrics of a training by step, those of one autoencoder if it is given. Raises NotFound."""
        parent = self._name(training)
        async for row in self._pages("ListMetrics", "metrics", _PAGE, parent=parent, sae=sae, after_step=after_step):
            yield row

    @sync.method
    async def checkpoints(self, training: Reference) -> Sequence[pb.Checkpoint]:
        """Return the checkpoints from which a training can resume, oldest first. Raises NotFound."""
        response = await self._call("ListCheckpoints", parent=self._name(training))
        return list(response.checkpoints)

    @sync.method
    async def path(self, training: Reference, sae: str = "") -> str:
        """Return the folder of an autoencoder, which SAELens's `SAE.load_from_disk` opens.

        `sae` may be left out if there is only one. Files in an object store are copied once to the user's cache folder.
        Raises NotFound, FailedPrecondition (not READY), InvalidArgument, and DataLoss for damaged files.
        """
        record = await self._change("Get", self._name(training))
        # Copying takes a while and must not block an event loop.
        is_async = isinstance(self, sync.AsyncMixin)
        return await asyncio.to_thread(sae_path, record, sae) if is_async else sae_path(record, sae)

    def _versions(
        self, name: str, metrics: MutableSequence[metrics_pb2.Metrics] | None = None
    ) -> watch_stream.OpenStream[pb.Training]:
        """Return versions of a training; appends its metrics to `metrics` if given."""
        cursor = 0

        async def versions(seconds: float | None) -> AsyncGenerator[pb.Training, None]:
            nonlocal cursor
            wanted = {"cursor": cursor, "without_metrics": metrics is None}
            async for response in self._stream("WatchTraining", seconds, name=name, **wanted):
                cursor = response.next_cursor
                if metrics is not None:
                    metrics.extend(response.metrics)
                # After a full message there is another of the same record.
                if len(response.metrics) < _FULL_MESSAGE:
                    yield response.training

        return versions


def _source(
    dataset: Reference | None,
    model: Reference | None,
    variant: str,
    live: training_arguments.Live | None,
    extraction: Reference | None,
) -> pb.TrainingSource:
    if extraction is not None:
        if dataset is not None or model is not None or variant or live:
            raise errors.InvalidArgument(
                "extraction cannot be combined with dataset, model, variant or live: it already has them."
            )
        return message_builder.build(pb.TrainingSource, extraction=resource_names.resource("extractions", extraction))
    if dataset is None or model is None:
        raise errors.InvalidArgument("Name the dataset and the model to train on, or an extraction.")
    return message_builder.build(
        pb.TrainingSource,
        live=training_arguments.live(resource_names.dataset(dataset), resource_names.model(model), variant, live or {}),
    )


def sae_path(training: pb.Training, sae: str = "") -> str:
    """Return the local folder of an autoencoder of a READY training; downloads it from an object store if needed."""
    watch_stream.ready(training)
    known = {result.name: result.path for result in training.results}
    if not sae and len(known) == 1:
        sae = next(iter(known))
    if sae in known:
        path = known[sae]
        if not files.is_remote(path):
            return path
        return str(files.local_copy(downloads.autoencoder(training, sae), "autoencoders"))
    what = f"{training.name} has no autoencoder {sae!r}" if sae else f"{training.name} has {len(known)} autoencoders"
    raise errors.InvalidArgument(f"{what}; name one of: {', '.join(known)}.")


class Trainings(_Trainings, sync.SyncMixin):
    """Trainings, for `polytok.Client`."""


class AsyncTrainings(_Trainings, sync.AsyncMixin):
    """Trainings, for `polytok.AsyncClient`."""
