"""What the trainer asks of the extractor."""

from typing import Any

import grpc.aio

from polytok import errors, transport
from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc


class Extractions:
    """Reads extractions; without a channel there is no extractor, and every call says so."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        # The stubs' asynchronous classes exist for type checkers only.
        self._stub: Any = extractions_pb2_grpc.ExtractionServiceStub(channel) if channel is not None else None

    async def ready(self, name: str) -> extractions_pb2.Extraction:
        """Reads an extraction, `extractions/{id}`. Raises NotFound, and FailedPrecondition unless it is READY."""
        if self._stub is None:
            raise errors.FailedPrecondition(
                "This trainer knows no extractor. Set POLYTOK_EXTRACTOR_ADDRESS for it, or train on a dataset and a "
                "model.",
                reason="NOT_READY",
            )
        request = extractions_pb2.GetExtractionRequest(name=name)
        try:
            found: extractions_pb2.Extraction = await self._stub.GetExtraction(request)
        except grpc.aio.AioRpcError as error:
            raise transport.from_rpc_error(error) from error
        state = extractions_pb2.Extraction.State.Name(found.state).removeprefix("STATE_")
        if state != "READY":
            short = found.name.removeprefix("extractions/")
            advice = (
                f"mend the cause and try again with `polytok extraction retry {short}`. Its error: "
                f"{found.error_message}"
                if state == "ERROR"
                else f"wait until it is READY: `polytok extraction watch {short}` shows how far it is."
            )
            raise errors.FailedPrecondition(
                f"{found.name} is {state}; {advice}", reason="NOT_READY", metadata={"resource": found.name}
            )
        return found
