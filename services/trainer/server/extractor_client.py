"""What the trainer asks of the extractor: extractions, held for as long as they are read."""

from datetime import timedelta
from typing import Any

import grpc.aio

from polytok import errors
from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc
from services.records import hold_client, lifecycle
from services.records.hold_client import Hold

_WHO = "The extractor, which knows extractions,"


class ExtractorClient:
    """Reads extractions; without a channel there is no extractor, and every call says so."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        # The stubs' asynchronous classes exist for type checkers only.
        self._stub: Any = extractions_pb2_grpc.ExtractionServiceStub(channel) if channel is not None else None

    async def ready(self, name: str) -> extractions_pb2.Extraction:
        """Read an extraction, `extractions/{id}`. Raises NotFound, and FailedPrecondition unless it is READY."""
        request = extractions_pb2.GetExtractionRequest(name=name)
        found: extractions_pb2.Extraction = await hold_client.await_reply(self._known().GetExtraction(request), _WHO)
        state = extractions_pb2.Extraction.State.Name(found.state).removeprefix("STATE_")
        short = found.name.removeprefix("extractions/")
        lifecycle.require_ready(
            found.name,
            state,
            found.error_message,
            wait=f"polytok extraction watch {short}",
            retry=f"polytok extraction retry {short}",
        )
        return found

    async def hold(self, hold: Hold, ttl: timedelta = hold_client.TTL) -> object:
        """Hold an extraction, or prolongs that. Raises NotFound, FailedPrecondition (NOT_READY, RESOURCE_CHANGED)."""
        request = extractions_pb2.HoldExtractionRequest(
            name=hold.resource,
            holder=hold.holder,
            ttl=hold_client.to_duration(ttl),
            manifest_digest=hold.manifest_digest,
        )
        held: extractions_pb2.HoldExtractionResponse = await hold_client.await_reply(
            self._known().HoldExtraction(request), _WHO
        )
        return held

    async def release(self, hold: Hold) -> None:
        """End a hold, if there is one."""
        if self._stub is None:
            # Nobody to tell: it ends when its time is over.
            return
        request = extractions_pb2.ReleaseExtractionRequest(name=hold.resource, holder=hold.holder)
        await hold_client.await_reply(self._stub.ReleaseExtraction(request), _WHO)

    def _known(self) -> Any:
        if self._stub is None:
            raise errors.FailedPrecondition(
                "This trainer knows no extractor. Set POLYTOK_EXTRACTOR_ADDRESS for it, or train on a dataset and a "
                "model.",
                reason="NOT_READY",
            )
        return self._stub
