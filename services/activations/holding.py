"""What extractor and trainer ask of the catalog: models and tokenizations, held for as long as they are read."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc.aio
from google.protobuf import duration_pb2

from polytok import errors, transport
from polytok.catalog.v1 import models_pb2, models_pb2_grpc, tokenizations_pb2, tokenizations_pb2_grpc
from services.runtime.telemetry import logging

TTL = timedelta(minutes=10)
"""How long a hold lasts that nobody prolongs: a service that is away for longer may find its tokenization gone."""
_RENEW_SECONDS = 60.0

_log = logging.get(__name__)

Reply = TypeVar("Reply")


class Hold(NamedTuple):
    """A tokenization and who reads it."""

    tokenization: str
    """Resource name."""
    holder: str
    """Resource name, such as `extractions/{id}`."""
    manifest_digest: str
    """Which files are read: another's that were made anew under the name are none of the holder's business."""


class Catalog:
    """The catalog's calls; they raise our errors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # The stubs' asynchronous classes exist for type checkers only.
        self._models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self._tokenizations: Any = tokenizations_pb2_grpc.TokenizationServiceStub(channel)

    async def model(self, name: str) -> models_pb2.Model:
        """Reads a model, `models/{id}`. Raises NotFound, and FailedPrecondition unless it is READY."""
        model: models_pb2.Model = await _reply(self._models.GetModel(models_pb2.GetModelRequest(name=name)))
        state = models_pb2.Model.State.Name(model.state).removeprefix("STATE_")
        if state != "READY":
            short = model.name.removeprefix("models/")
            advice = (
                f"mend the cause and try again with `polytok model retry {short}`. Its error: {model.error_message}"
                if state == "ERROR"
                else f"wait until it is READY: `polytok model watch {short}` shows how far it is."
            )
            raise errors.FailedPrecondition(
                f"{model.name} is {state}; {advice}", reason="NOT_READY", metadata={"resource": model.name}
            )
        return model

    async def resolve(self, dataset: str, model: str, variant: str = "") -> tokenizations_pb2.Tokenization:
        """Finds the READY tokenization of a dataset for a model.

        Raises NotFound (the message names the command that makes it) and FailedPrecondition (NOT_READY).
        """
        request = tokenizations_pb2.ResolveTokenizationRequest(dataset=dataset, model=model, variant=variant)
        response: tokenizations_pb2.ResolveTokenizationResponse = await _reply(
            self._tokenizations.ResolveTokenization(request)
        )
        return response.tokenization

    async def hold(self, hold: Hold, ttl: timedelta = TTL) -> tokenizations_pb2.HoldTokenizationResponse:
        """Holds a tokenization, or prolongs that. Raises NotFound, FailedPrecondition (NOT_READY, RESOURCE_CHANGED)."""
        span = duration_pb2.Duration()
        span.FromTimedelta(ttl)
        request = tokenizations_pb2.HoldTokenizationRequest(
            name=hold.tokenization, holder=hold.holder, ttl=span, manifest_digest=hold.manifest_digest
        )
        response: tokenizations_pb2.HoldTokenizationResponse = await _reply(
            self._tokenizations.HoldTokenization(request)
        )
        return response

    async def release(self, hold: Hold) -> None:
        """Ends a hold, if there is one."""
        request = tokenizations_pb2.ReleaseTokenizationRequest(name=hold.tokenization, holder=hold.holder)
        await _reply(self._tokenizations.ReleaseTokenization(request))


async def _reply(call: Awaitable[Reply]) -> Reply:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        found = transport.from_rpc_error(error)
        if isinstance(found, errors.Unavailable | errors.DeadlineExceeded):
            # Whoever reads this called another service, which does answer.
            raise type(found)(
                f"The catalog, which knows models and tokenizations, does not answer; try again when it is back. "
                f"({found.message})"
            ) from error
        raise found from error


class Ledger(Protocol):
    """What a service knows of its holds; it outlives the service's processes."""

    async def live(self) -> Sequence[Hold]:
        """The holds of records that are being made, or will be."""

    async def ended(self) -> Sequence[Hold]:
        """The holds of records that ended, until `forget`."""

    async def forget(self, hold: Hold) -> None:
        """The hold was released."""


class Keeper:
    """Prolongs the holds of what is at work and ends those of what ended; any number of replicas may do so."""

    def __init__(self, catalog: Catalog, ledger: Ledger, *, renew_seconds: float = _RENEW_SECONDS) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._renew_seconds = renew_seconds
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something ended: its hold is released now."""
        self._woken.set()

    async def run(self) -> None:
        """Keeps the holds until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._woken.clear()
            try:
                if loop.time() >= due:
                    due = loop.time() + self._renew_seconds
                    await self.renew()
                await self.release()
            except errors.PolytokError as error:
                _log.warning("holds put off", error=error.message)
            try:
                async with asyncio.timeout(max(0.1, due - loop.time())):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def renew(self, holders: Collection[str] = ()) -> None:
        """Prolongs every live hold, or those of some holders."""
        for hold in await self._ledger.live():
            if holders and hold.holder not in holders:
                continue
            try:
                await self._catalog.hold(hold)
            except (errors.NotFound, errors.FailedPrecondition) as error:
                # Whoever reads the files finds out by their manifest, and tells the user.
                _log.warning("hold lost", holder=hold.holder, error=error.message)

    async def release(self) -> None:
        """Ends the holds of what ended."""
        released = set()
        for hold in await self._ledger.ended():
            await self._catalog.release(hold)
            await self._ledger.forget(hold)
            released.add(hold.holder)
        if released:
            # What was begun again meanwhile has held its tokenization before this took it away.
            await self.renew(released)
