"""Trainings: sparse autoencoders, learned from the activations of a model over a tokenization."""

import asyncio
from collections.abc import AsyncGenerator, MutableSequence, Sequence
from typing import Any, NamedTuple, Unpack

from polytok import errors
from polytok.client import (
    collection,
    downloads,
    message_builder,
    resource_names,
    sync,
    tokenization_files,
    training_arguments,
    watch_stream,
)
from polytok.trainer.v1 import metrics_pb2, saes_pb2
from polytok.trainer.v1 import trainings_pb2 as pb
from polytok.trainer.v1.trainings_pb2_grpc import TrainingServiceStub

Reference = resource_names.Reference

_FULL_MESSAGE = 1000
_PAGE = 10_000


class Update(NamedTuple):
    """A training as it is, and the metrics that came since the update before."""

    training: pb.Training
    metrics: Sequence[metrics_pb2.Metrics]
    """A row of the same autoencoder, step and kind as an earlier one takes its place."""


class Methods(collection.Resource):
    """The calls, written once for both clients. A training is named by its id, its full name, its uid or its record."""

    @property
    def _stub(self) -> TrainingServiceStub:
        return self._via.stub(TrainingServiceStub)

    @sync.operation
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

        The same training under the same name gives the one that exists; without a name one is made up. Raises NotFound,
        AlreadyExists (another training of that name), FailedPrecondition (not READY, or it does not fit the model),
        InvalidArgument.
        """
        request = message_builder.build(
            pb.CreateTrainingRequest,
            training_id=name,
            source=_source(dataset, model, variant, live, extraction),
            saes=[_messages.to_message(sae) for sae in saes],
            parameters=_messages.parameters(parameters),
            request_id=request_id,
        )
        return await self._via.unary(self._stub.CreateTraining, request)

    @sync.operation
    async def get(self, training: Reference) -> pb.Training:
        """Read one training. Raises NotFound."""
        return await self._via.unary(
            self._stub.GetTraining, message_builder.build(pb.GetTrainingRequest, name=resource_names.training(training))
        )

    @sync.iteration
    async def list(self, *, states: Sequence[str] = ()) -> AsyncGenerator[pb.Training, None]:
        """Yield all trainings, newest first, page by page; of some states if given."""
        wanted = collection.states(pb.Training.State, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListTrainingsRequest, page_size=collection.PAGE_SIZE, page_token=token, states=wanted
            )
            reply = await self._via.unary(self._stub.ListTrainings, request)
            return reply.trainings, reply.next_page_token

        async for training in collection.pages(fetch):
            yield training

    @sync.operation
    async def delete(self, training: Reference, *, etag: str = "", request_id: str = "") -> None:
        """Delete a training with its files, and stop it if it runs. Raises NotFound, Aborted (etag)."""
        request = message_builder.build(
            pb.DeleteTrainingRequest, name=resource_names.training(training), etag=etag, request_id=request_id
        )
        await self._via.unary(self._stub.DeleteTraining, request)

    @sync.operation
    async def pause(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Have a training write a checkpoint and stop. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.PauseTrainingRequest, name=resource_names.training(training), request_id=request_id
        )
        return await self._via.unary(self._stub.PauseTraining, request)

    @sync.operation
    async def resume(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Go on with a paused training from its checkpoint. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.ResumeTrainingRequest, name=resource_names.training(training), request_id=request_id
        )
        return await self._via.unary(self._stub.ResumeTraining, request)

    @sync.operation
    async def cancel(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Stop a training for good. Raises NotFound, FailedPrecondition."""
        request = message_builder.build(
            pb.CancelTrainingRequest, name=resource_names.training(training), request_id=request_id
        )
        return await self._via.unary(self._stub.CancelTraining, request)

    @sync.operation
    async def retry(self, training: Reference, *, from_start: bool = False, request_id: str = "") -> pb.Training:
        """Train again after ERROR, from its last checkpoint unless `from_start`, or after CANCELLED, from the start.

        Raises NotFound, FailedPrecondition.
        """
        request = message_builder.build(
            pb.RetryTrainingRequest,
            name=resource_names.training(training),
            from_start=from_start,
            request_id=request_id,
        )
        return await self._via.unary(self._stub.RetryTraining, request)

    @sync.iteration
    async def watch(self, training: Reference) -> AsyncGenerator[pb.Training, None]:
        """Yield the training as it is, then after every change, until it is READY, PAUSED, failed or cancelled."""
        async for record in watch_stream.follow(
            self._via, self._stream(resource_names.training(training), [], metrics=False)
        ):
            yield record

    @sync.iteration
    async def follow(self, training: Reference) -> AsyncGenerator[Update, None]:
        """Yield the training and all its metrics so far, then every change and new metrics, until it is at rest."""
        found: list[metrics_pb2.Metrics] = []
        async for record in watch_stream.follow(
            self._via, self._stream(resource_names.training(training), found, metrics=True)
        ):
            yield Update(record, tuple(found))
            found.clear()

    @sync.operation
    async def wait(
        self,
        training: Reference,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the name that callers expect
    ) -> pb.Training:
        """Return the training once it is READY.

        Raises FailedPrecondition with the error's reason if it failed or is PAUSED, Cancelled, or DeadlineExceeded
        after so many seconds.
        """
        stream = self._stream(resource_names.training(training), [], metrics=False)
        return await watch_stream.until_ready(self._via, stream, timeout)

    @sync.iteration
    async def metrics(
        self, training: Reference, *, sae: str = "", after_step: int = 0
    ) -> AsyncGenerator[metrics_pb2.Metrics, None]:
        """Yield the metrics of a training by step, those of one autoencoder if it is given. Raises NotFound."""

        async def fetch(token: str) -> tuple[Any, str]:
            request = message_builder.build(
                pb.ListMetricsRequest,
                parent=resource_names.training(training),
                sae=sae,
                after_step=after_step,
                page_size=_PAGE,
                page_token=token,
            )
            reply = await self._via.unary(self._stub.ListMetrics, request)
            return reply.metrics, reply.next_page_token

        async for row in collection.pages(fetch):
            yield row

    @sync.operation
    async def checkpoints(self, training: Reference) -> Sequence[pb.Checkpoint]:
        """Return the checkpoints that a training can go on from, oldest first. Raises NotFound."""
        request = message_builder.build(pb.ListCheckpointsRequest, parent=resource_names.training(training))
        reply = await self._via.unary(self._stub.ListCheckpoints, request)
        return list(reply.checkpoints)

    @sync.operation
    async def path(self, training: Reference, sae: str = "") -> str:
        """Return the folder of an autoencoder, which SAELens's `SAE.load_from_disk` opens.

        `sae` may be left out where there is one. What lies in an object store is copied once to the user's cache
        folder. Raises NotFound, FailedPrecondition (not READY), InvalidArgument, and DataLoss for damaged files.
        """
        request = message_builder.build(pb.GetTrainingRequest, name=resource_names.training(training))
        record = await self._via.unary(self._stub.GetTraining, request)
        # Copying takes its time: an event loop, where there is one, goes on meanwhile.
        copying = isinstance(self, sync.Awaitable)
        return await asyncio.to_thread(sae_path, record, sae) if copying else sae_path(record, sae)

    def _stream(
        self, name: str, found: MutableSequence[metrics_pb2.Metrics], *, metrics: bool
    ) -> watch_stream.Open[pb.Training]:
        cursor = 0

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Training, None]:
            nonlocal cursor
            request = message_builder.build(
                pb.WatchTrainingRequest, name=name, cursor=cursor, without_metrics=not metrics
            )
            async for reply in self._via.stream(self._stub.WatchTraining, request, seconds):
                cursor = reply.next_cursor
                found.extend(reply.metrics)
                # After a full message there is another of the same record.
                if len(reply.metrics) < _FULL_MESSAGE:
                    yield reply.training

        return replies


_messages = training_arguments


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
                "An extraction has its dataset and model already; name it alone, or the dataset and the model."
            )
        return message_builder.build(pb.TrainingSource, extraction=resource_names.extraction(extraction))
    if dataset is None or model is None:
        raise errors.InvalidArgument("Name the dataset and the model to train on, or an extraction.")
    return message_builder.build(
        pb.TrainingSource,
        live=training_arguments.live(resource_names.dataset(dataset), resource_names.model(model), variant, live or {}),
    )


def sae_path(training: pb.Training, sae: str = "") -> str:
    """The folder of an autoencoder of a training that is READY, on this machine: copied here from an object store."""
    watch_stream.ready(training)
    known = {result.name: result.path for result in training.results}
    if not sae and len(known) == 1:
        sae = next(iter(known))
    if sae in known:
        path = known[sae]
        if not tokenization_files.is_remote(path):
            return path
        return str(tokenization_files.copied(downloads.autoencoder(training, sae), "autoencoders"))
    what = f"{training.name} has no autoencoder {sae!r}" if sae else f"{training.name} has {len(known)} autoencoders"
    raise errors.InvalidArgument(f"{what}; name one of: {', '.join(known)}.")


class Trainings(Methods, sync.Blocking):
    """Trainings, for `polytok.Client`."""


class AsyncTrainings(Methods, sync.Awaitable):
    """Trainings, for `polytok.AsyncClient`."""
