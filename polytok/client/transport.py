"""How requests reach the catalog: the one place of the client that blocks or awaits."""

from __future__ import annotations  # the stubs' generic types exist for type checkers only

import asyncio
import contextlib
import functools
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from polytok import channels, errors
from polytok.client import row_upload

Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply")


class Transport(Protocol):
    """Sends requests and waits, over a channel that it opens when it is first used."""

    timeout: float
    """Seconds that a try of a call may take."""
    patience: float
    """Seconds that a call goes on trying while the service is away, beyond the channel's own four tries."""

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """Return the stub of a service on the channel."""

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, seconds: float | None = None
    ) -> Reply:
        """Return the reply to a request, within so many seconds a try if given.

        Raises the error that the service raised.
        """

    def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Reply], request: Request, seconds: float | None
    ) -> AsyncGenerator[Reply, None]:
        """Return the replies to a request, until the service ends them or the seconds are over."""

    async def upload(self, method: grpc.StreamUnaryMultiCallable[Request, Reply], sent: row_upload.Upload) -> Reply:
        """Return the reply to a stream of requests.

        Raises what went wrong with the rows, or the error of the service.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Close the channel; an exchange that is used again opens another."""


class SyncTransport:
    """Blocks. Its coroutines never suspend, so `once.run` runs them without an event loop."""

    def __init__(self, address: str, tls_ca: str, timeout: float, patience: float) -> None:
        self.timeout = timeout
        self.patience = patience
        self._open = functools.partial(channels.open_channel, address, tls_ca)
        self._channel: grpc.Channel | None = None

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """See Exchange."""
        if self._channel is None:
            self._channel = self._open()
        return kind(self._channel)

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, seconds: float | None = None
    ) -> Reply:
        """See Exchange."""

        async def once(request: Request) -> Reply:
            with _translated_errors():
                return method(request, timeout=seconds or self.timeout)

        return await _call_with_retry(self, once, request)

    async def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Reply], request: Request, seconds: float | None
    ) -> AsyncGenerator[Reply, None]:
        """See Exchange."""
        call = method(request, timeout=seconds)
        try:
            with _translated_errors():
                for reply in call:
                    yield reply
        finally:
            call.cancel()

    async def upload(self, method: grpc.StreamUnaryMultiCallable[Request, Reply], sent: row_upload.Upload) -> Reply:
        """See Exchange."""
        sent.identify()
        with _translated_errors(sent):
            return method(cast("Any", iter(sent)))

    async def sleep(self, seconds: float) -> None:
        """See Exchange."""
        time.sleep(seconds)  # noqa: ASYNC251  this is the exchange that blocks

    async def close(self) -> None:
        """See Exchange."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class AsyncTransport:
    """Awaits, on the event loop that first uses it."""

    def __init__(self, address: str, tls_ca: str, timeout: float, patience: float) -> None:
        self.timeout = timeout
        self.patience = patience
        self._open = functools.partial(channels.open_async_channel, address, tls_ca)
        self._channel: grpc.aio.Channel | None = None

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """See Exchange."""
        if self._channel is None:
            self._channel = self._open()
        return kind(self._channel)

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, seconds: float | None = None
    ) -> Reply:
        """See Exchange."""

        async def once(request: Request) -> Reply:
            with _translated_errors():
                return await cast("Any", method)(request, timeout=seconds or self.timeout)  # type: ignore[no-any-return]

        return await _call_with_retry(self, once, request)

    async def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Reply], request: Request, seconds: float | None
    ) -> AsyncGenerator[Reply, None]:
        """See Exchange."""
        call = cast("Any", method)(request, timeout=seconds)
        try:
            with _translated_errors():
                async for reply in call:
                    yield reply
        finally:
            call.cancel()

    async def upload(self, method: grpc.StreamUnaryMultiCallable[Request, Reply], sent: row_upload.Upload) -> Reply:
        """See Exchange."""
        sent.identify()
        with _translated_errors(sent):
            return await cast("Any", method)(aiter(sent))  # type: ignore[no-any-return]

    async def sleep(self, seconds: float) -> None:
        """See Exchange."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """See Exchange."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


@contextlib.contextmanager
def _translated_errors(sent: row_upload.Upload | None = None) -> Iterator[None]:
    try:
        yield
    except (grpc.RpcError, asyncio.CancelledError) as error:
        # gRPC cancels a call whose requests cannot be made.
        if sent is not None and sent.failure is not None:
            raise sent.failure from None
        if isinstance(error, asyncio.CancelledError):
            raise
        raise channels.from_rpc_error(error) from None


async def _call_with_retry(
    transport: Transport, once: Callable[[Request], Awaitable[Reply]], request: Request
) -> Reply:
    """Ask again and again while the service is away, as while it restarts; what is asked for happens once."""
    identified = _with_request_id(request)
    pauses = iter(_backoff_seconds())
    end = time.monotonic() + transport.patience
    while True:
        try:
            return await once(identified)
        except errors.Unavailable:
            pause = next(pauses)
            if time.monotonic() + pause > end:
                raise
        await transport.sleep(pause)


def _backoff_seconds() -> Iterator[float]:
    """Second between tries: 0.2, 0.4, 0.8, and then 1 for ever."""
    yield from (0.2, 0.4, 0.8)
    yield from itertools.repeat(1.0)


def _with_request_id(request: Request) -> Request:
    """Return a changing request an id (AIP-155): however often the channel tries again, it happens once."""
    if "request_id" in request.DESCRIPTOR.fields_by_name and not cast("Any", request).request_id:
        cast("Any", request).request_id = str(uuid.uuid4())
    return request
