"""Trainings: sparse autoencoders, learned from the activations of a model over a tokenization."""

import asyncio
from collections.abc import AsyncGenerator, MutableSequence, Sequence
from typing import Any, NamedTuple, Unpack

from polytok import errors
from polytok.client import fetching, loading, messages, names, once, resource, saes, watching
from polytok.trainer.v1 import metrics_pb2, saes_pb2
from polytok.trainer.v1 import trainings_pb2 as pb
from polytok.trainer.v1.trainings_pb2_grpc import TrainingServiceStub

Reference = names.Reference

_FULL_MESSAGE = 1000
_PAGE = 10_000


class Update(NamedTuple):
    """A training as it is, and the metrics that came since the update before."""

    training: pb.Training
    metrics: Sequence[metrics_pb2.Metrics]
    """A row of the same autoencoder, step and kind as an earlier one takes its place."""


class Methods(resource.Resource):
    """The calls, written once for both clients. A training is named by its id, its full name, its uid or its record."""

    @property
    def _stub(self) -> TrainingServiceStub:
        return self._via.stub(TrainingServiceStub)

    @once.operation
    async def create(
        self,
        dataset: Reference | None = None,
        model: Reference | None = None,
        *,
        saes: Sequence[saes.Sae | saes_pb2.Sae],
        variant: str = "",
        live: saes.Live | None = None,
        extraction: Reference | None = None,
        name: str = "",
        request_id: str = "",
        **parameters: Unpack[saes.Parameters],
    ) -> pb.Training:
        """Starts a training on a dataset's tokenization for a model, or on an extraction.

        The same training under the same name gives the one that exists; without a name one is made up. Raises NotFound,
        AlreadyExists (another training of that name), FailedPrecondition (not READY, or it does not fit the model),
        InvalidArgument.
        """
        request = messages.build(
            pb.CreateTrainingRequest,
            training_id=name,
            source=_source(dataset, model, variant, live, extraction),
            saes=[_messages.to_message(sae) for sae in saes],
            parameters=_messages.parameters(parameters),
            request_id=request_id,
        )
        return await self._via.unary(self._stub.CreateTraining, request)

    @once.operation
    async def get(self, training: Reference) -> pb.Training:
        """Reads one training. Raises NotFound."""
        return await self._via.unary(
            self._stub.GetTraining, messages.build(pb.GetTrainingRequest, name=names.training(training))
        )

    @once.iteration
    async def list(self, *, states: Sequence[str] = ()) -> AsyncGenerator[pb.Training, None]:
        """All trainings, newest first, page by page; of some states if given."""
        wanted = resource.states(pb.Training.State, states)

        async def fetch(token: str) -> tuple[Any, str]:
            request = messages.build(
                pb.ListTrainingsRequest, page_size=resource.PAGE_SIZE, page_token=token, states=wanted
            )
            reply = await self._via.unary(self._stub.ListTrainings, request)
            return reply.trainings, reply.next_page_token

        async for training in resource.pages(fetch):
            yield training

    @once.operation
    async def delete(self, training: Reference, *, etag: str = "", request_id: str = "") -> None:
        """Deletes a training with its files, and stops it if it runs. Raises NotFound, Aborted (etag)."""
        request = messages.build(
            pb.DeleteTrainingRequest, name=names.training(training), etag=etag, request_id=request_id
        )
        await self._via.unary(self._stub.DeleteTraining, request)

    @once.operation
    async def pause(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Has a training write a checkpoint and stop. Raises NotFound, FailedPrecondition."""
        request = messages.build(pb.PauseTrainingRequest, name=names.training(training), request_id=request_id)
        return await self._via.unary(self._stub.PauseTraining, request)

    @once.operation
    async def resume(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Goes on with a paused training from its checkpoint. Raises NotFound, FailedPrecondition."""
        request = messages.build(pb.ResumeTrainingRequest, name=names.training(training), request_id=request_id)
        return await self._via.unary(self._stub.ResumeTraining, request)

    @once.operation
    async def cancel(self, training: Reference, *, request_id: str = "") -> pb.Training:
        """Stops a training for good. Raises NotFound, FailedPrecondition."""
        request = messages.build(pb.CancelTrainingRequest, name=names.training(training), request_id=request_id)
        return await self._via.unary(self._stub.CancelTraining, request)

    @once.operation
    async def retry(self, training: Reference, *, from_start: bool = False, request_id: str = "") -> pb.Training:
        """Trains again after ERROR, from its last checkpoint unless `from_start`, or after CANCELLED, from the start.

        Raises NotFound, FailedPrecondition.
        """
        request = messages.build(
            pb.RetryTrainingRequest, name=names.training(training), from_start=from_start, request_id=request_id
        )
        return await self._via.unary(self._stub.RetryTraining, request)

    @once.iteration
    async def watch(self, training: Reference) -> AsyncGenerator[pb.Training, None]:
        """The training as it is, then after every change, until it is READY, PAUSED, failed or cancelled."""
        async for record in watching.follow(self._via, self._stream(names.training(training), [], metrics=False)):
            yield record

    @once.iteration
    async def follow(self, training: Reference) -> AsyncGenerator[Update, None]:
        """The training and all its metrics so far, then every change and new metrics, until it is at rest."""
        found: list[metrics_pb2.Metrics] = []
        async for record in watching.follow(self._via, self._stream(names.training(training), found, metrics=True)):
            yield Update(record, tuple(found))
            found.clear()

    @once.operation
    async def wait(
        self,
        training: Reference,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the name that callers expect
    ) -> pb.Training:
        """The training once it is READY.

        Raises FailedPrecondition with the error's reason if it failed or is PAUSED, Cancelled, or DeadlineExceeded
        after so many seconds.
        """
        stream = self._stream(names.training(training), [], metrics=False)
        return await watching.until_ready(self._via, stream, timeout)

    @once.iteration
    async def metrics(
        self, training: Reference, *, sae: str = "", after_step: int = 0
    ) -> AsyncGenerator[metrics_pb2.Metrics, None]:
        """The metrics of a training by step, those of one autoencoder if it is given. Raises NotFound."""

        async def fetch(token: str) -> tuple[Any, str]:
            request = messages.build(
                pb.ListMetricsRequest,
                parent=names.training(training),
                sae=sae,
                after_step=after_step,
                page_size=_PAGE,
                page_token=token,
            )
            reply = await self._via.unary(self._stub.ListMetrics, request)
            return reply.metrics, reply.next_page_token

        async for row in resource.pages(fetch):
            yield row

    @once.operation
    async def checkpoints(self, training: Reference) -> Sequence[pb.Checkpoint]:
        """The checkpoints that a training can go on from, oldest first. Raises NotFound."""
        request = messages.build(pb.ListCheckpointsRequest, parent=names.training(training))
        reply = await self._via.unary(self._stub.ListCheckpoints, request)
        return list(reply.checkpoints)

    @once.operation
    async def path(self, training: Reference, sae: str = "") -> str:
        """The folder of an autoencoder, which SAELens's `SAE.load_from_disk` opens.

        `sae` may be left out where there is one. What lies in an object store is copied once to the user's cache
        folder. Raises NotFound, FailedPrecondition (not READY), InvalidArgument, and DataLoss for damaged files.
        """
        request = messages.build(pb.GetTrainingRequest, name=names.training(training))
        record = await self._via.unary(self._stub.GetTraining, request)
        # Copying takes its time: an event loop, where there is one, goes on meanwhile.
        copying = isinstance(self, once.Awaitable)
        return await asyncio.to_thread(sae_path, record, sae) if copying else sae_path(record, sae)

    def _stream(
        self, name: str, found: MutableSequence[metrics_pb2.Metrics], *, metrics: bool
    ) -> watching.Open[pb.Training]:
        cursor = 0

        async def replies(seconds: float | None) -> AsyncGenerator[pb.Training, None]:
            nonlocal cursor
            request = messages.build(pb.WatchTrainingRequest, name=name, cursor=cursor, without_metrics=not metrics)
            async for reply in self._via.stream(self._stub.WatchTraining, request, seconds):
                cursor = reply.next_cursor
                found.extend(reply.metrics)
                # After a full message there is another of the same record.
                if len(reply.metrics) < _FULL_MESSAGE:
                    yield reply.training

        return replies


_messages = saes


def _source(
    dataset: Reference | None,
    model: Reference | None,
    variant: str,
    live: saes.Live | None,
    extraction: Reference | None,
) -> pb.TrainingSource:
    if extraction is not None:
        if dataset is not None or model is not None or variant or live:
            raise errors.InvalidArgument(
                "An extraction has its dataset and model already; name it alone, or the dataset and the model."
            )
        return messages.build(pb.TrainingSource, extraction=names.extraction(extraction))
    if dataset is None or model is None:
        raise errors.InvalidArgument("Name the dataset and the model to train on, or an extraction.")
    return messages.build(
        pb.TrainingSource, live=saes.live(names.dataset(dataset), names.model(model), variant, live or {})
    )


def sae_path(training: pb.Training, sae: str = "") -> str:
    """The folder of an autoencoder of a training that is READY, on this machine: copied here from an object store."""
    watching.ready(training)
    known = {result.name: result.path for result in training.results}
    if not sae and len(known) == 1:
        sae = next(iter(known))
    if sae in known:
        path = known[sae]
        if not loading.is_remote(path):
            return path
        return str(loading.copied(fetching.autoencoder(training, sae), "autoencoders"))
    what = f"{training.name} has no autoencoder {sae!r}" if sae else f"{training.name} has {len(known)} autoencoders"
    raise errors.InvalidArgument(f"{what}; name one of: {', '.join(known)}.")


class Trainings(Methods, once.Blocking):
    """Trainings, for `polytok.Client`."""


class AsyncTrainings(Methods, once.Awaitable):
    """Trainings, for `polytok.AsyncClient`."""
