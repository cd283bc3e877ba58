"""Catalog requests of TokenizerService."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc.aio

from polytok import channels, errors
from polytok.catalog.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    tokenizations_pb2,
    tokenizations_pb2_grpc,
)

Reply = TypeVar("Reply")


class CatalogClient:
    """Reads records, and rejects those that are not READY."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # The asynchronous stub classes exist for type checkers only.
        self._models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self._datasets: Any = datasets_pb2_grpc.DatasetServiceStub(channel)
        self._tokenizations: Any = tokenizations_pb2_grpc.TokenizationServiceStub(channel)

    async def model(self, name: str) -> models_pb2.Model:
        """Read a model."""
        model: models_pb2.Model = await _reply(self._models.GetModel(models_pb2.GetModelRequest(name=name)))
        _check_ready(model.name, models_pb2.Model.State.Name(model.state), model.error_message)
        return model

    async def dataset(self, name: str) -> datasets_pb2.Dataset:
        """Read a dataset."""
        request = datasets_pb2.GetDatasetRequest(name=name)
        dataset: datasets_pb2.Dataset = await _reply(self._datasets.GetDataset(request))
        return dataset

    async def tokenization(self, name: str) -> tokenizations_pb2.Tokenization:
        """Read a tokenization."""
        request = tokenizations_pb2.GetTokenizationRequest(name=name)
        found: tokenizations_pb2.Tokenization = await _reply(self._tokenizations.GetTokenization(request))
        _check_ready(found.name, tokenizations_pb2.Tokenization.State.Name(found.state), found.error_message)
        return found


async def _reply(call: Awaitable[Reply]) -> Reply:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise channels.from_rpc_error(error) from error


def _check_ready(resource: str, state: str, error_message: str) -> None:
    word = state.removeprefix("STATE_")
    if word == "READY":
        return
    failed = f" ({error_message})", "retry it, or create it again"
    why, advice = failed if error_message else ("", "wait until it is READY")
    raise errors.FailedPrecondition(
        f"{resource} is {word}{why}; {advice}.", reason="NOT_READY", metadata={"resource": resource}
    )
