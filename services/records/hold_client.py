"""What extractor and trainer ask of others: models, and what they read, held for as long as they do.

A tokenization is held in the catalog, an extraction in the extractor; the holder renews its holds until its work ends.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc.aio
from google.protobuf import duration_pb2

from polytok import channels, errors
from polytok.catalog.v1 import models_pb2, models_pb2_grpc, tokenizations_pb2, tokenizations_pb2_grpc
from services.records import lifecycle
from services.runtime.telemetry import logging

TTL = timedelta(minutes=10)
"""How long a hold lasts that nobody prolongs: a service that is away for longer may find its tokenization gone."""
_RENEW_SECONDS = 60.0

_log = logging.get(__name__)

Reply = TypeVar("Reply")


class Hold(NamedTuple):
    """A tokenization or an extraction, and who reads it."""

    resource: str
    """Resource name."""
    holder: str
    """Resource name, such as `extractions/{id}`."""
    manifest_digest: str
    """Which files are read: files recreated under the same name are not these."""


class HoldApi(Protocol):
    """The service that owns what is read; its calls raise Polytok's errors."""

    async def hold(self, hold: Hold) -> object:
        """Hold something, or prolongs that. Raises NotFound, FailedPrecondition (NOT_READY, RESOURCE_CHANGED)."""

    async def release(self, hold: Hold) -> None:
        """End a hold, if there is one."""


class CatalogClient:
    """The catalog's calls; they raise our errors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # The stubs' asynchronous classes exist for type checkers only.
        self._models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self._tokenizations: Any = tokenizations_pb2_grpc.TokenizationServiceStub(channel)

    async def model(self, name: str) -> models_pb2.Model:
        """Read a model, `models/{id}`. Raises NotFound, and FailedPrecondition unless it is READY."""
        model: models_pb2.Model = await await_reply(self._models.GetModel(models_pb2.GetModelRequest(name=name)))
        state = models_pb2.Model.State.Name(model.state).removeprefix("STATE_")
        short = model.name.removeprefix("models/")
        lifecycle.require_ready(
            model.name,
            state,
            model.error_message,
            wait=f"polytok model watch {short}",
            retry=f"polytok model retry {short}",
        )
        return model

    async def resolve(self, dataset: str, model: str, variant: str = "") -> tokenizations_pb2.Tokenization:
        """Find the READY tokenization of a dataset for a model.

        Raises NotFound (the message names the command that makes it) and FailedPrecondition (NOT_READY).
        """
        request = tokenizations_pb2.ResolveTokenizationRequest(dataset=dataset, model=model, variant=variant)
        response: tokenizations_pb2.ResolveTokenizationResponse = await await_reply(
            self._tokenizations.ResolveTokenization(request)
        )
        return response.tokenization

    async def hold(self, hold: Hold, ttl: timedelta = TTL) -> tokenizations_pb2.HoldTokenizationResponse:
        """Hold a tokenization, or prolongs that. Raises NotFound, FailedPrecondition (NOT_READY, RESOURCE_CHANGED)."""
        request = tokenizations_pb2.HoldTokenizationRequest(
            name=hold.resource, holder=hold.holder, ttl=to_duration(ttl), manifest_digest=hold.manifest_digest
        )
        response: tokenizations_pb2.HoldTokenizationResponse = await await_reply(
            self._tokenizations.HoldTokenization(request)
        )
        return response

    async def release(self, hold: Hold) -> None:
        """End a hold, if there is one."""
        request = tokenizations_pb2.ReleaseTokenizationRequest(name=hold.resource, holder=hold.holder)
        await await_reply(self._tokenizations.ReleaseTokenization(request))


def to_duration(span: timedelta) -> duration_pb2.Duration:
    """Return a span of time as a message."""
    message = duration_pb2.Duration()
    message.FromTimedelta(span)
    return message


async def await_reply(call: Awaitable[Reply], who: str = "The catalog, which knows models and tokenizations,") -> Reply:
    """Wait for the answer to a call of another service; raises our errors, which tell who does not answer."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        found = channels.from_rpc_error(error)
        if isinstance(found, errors.Unavailable | errors.DeadlineExceeded):
            # The reader of this message called another service, which does answer.
            raise type(found)(f"{who} does not answer; try again when it is back. ({found.message})") from error
        raise found from error


class HoldRouter:
    """Routes hold requests to the owning service by resource collection: `datasets`, `extractions`."""

    def __init__(self, owners: Mapping[str, HoldApi]) -> None:
        self._owners = owners

    async def hold(self, hold: Hold) -> object:
        """Hold something, or prolongs that."""
        return await self._owners[_collection(hold)].hold(hold)

    async def release(self, hold: Hold) -> None:
        """End a hold, if there is one."""
        await self._owners[_collection(hold)].release(hold)


def _collection(hold: Hold) -> str:
    return hold.resource.partition("/")[0]


class AcquiredHolds(Protocol):
    """What a service knows of its holds; it outlives the service's processes."""

    async def live(self) -> Sequence[Hold]:
        """Return the holds of records that are being made, or will be."""

    async def ended(self) -> Sequence[Hold]:
        """Return the holds of records that ended, until `forget`."""

    async def forget(self, holder: str) -> None:
        """All that a record held was released."""


class HoldRenewer:
    """Prolongs the holds of what is at work and ends those of what ended; any number of replicas may do so."""

    def __init__(self, owners: HoldApi, ledger: AcquiredHolds, *, renew_seconds: float = _RENEW_SECONDS) -> None:
        self._owners = owners
        self._ledger = ledger
        self._renew_seconds = renew_seconds
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something ended: its holds are released now."""
        self._woken.set()

    async def run(self) -> None:
        """Keep the holds until it is cancelled."""
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
        """Prolong every live hold, or those of some holders."""
        away: set[str] = set()
        held: list[Hold] = []
        for hold in await self._ledger.live():
            if _collection(hold) in away or (holders and hold.holder not in holders):
                continue
            try:
                await self._owners.hold(hold)
                held.append(hold)
            except (errors.NotFound, errors.FailedPrecondition) as error:
                # The worker that reads the files finds out by their manifest, and reports it.
                _log.warning("hold lost", resource=hold.resource, holder=hold.holder, error=error.message)
            except errors.PolytokError as error:
                # One owner that is away must not cost the holds at another.
                away.add(_collection(hold))
                _log.warning("holds put off", resource=hold.resource, error=error.message)
        # The hold of what ended or was deleted meanwhile was released, perhaps before it was renewed here.
        live = {hold.holder for hold in await self._ledger.live()} if held else set()
        for hold in held:
            if hold.holder not in live:
                await self._owners.release(hold)

    async def release(self) -> None:
        """End the holds of what ended."""
        away: set[str] = set()
        released: set[str] = set()
        kept: set[str] = set()
        for hold in await self._ledger.ended():
            if _collection(hold) in away:
                kept.add(hold.holder)
                continue
            try:
                await self._owners.release(hold)
                released.add(hold.holder)
            except errors.PolytokError as error:
                away.add(_collection(hold))
                kept.add(hold.holder)
                _log.warning("release put off", resource=hold.resource, holder=hold.holder, error=error.message)
        # The ledger keeps the others for the next time.
        for holder in released - kept:
            await self._ledger.forget(holder)
        if released:
            # What was begun again meanwhile has held what it reads before this took it away.
            await self.renew(released)
