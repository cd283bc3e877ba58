"""Serves an application of a service in the test's own event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol

import grpc.aio

from polytok import channels
from services.runtime import process
from services.runtime.process import StopSignal


class Application(Protocol):
    """A catalog, an extractor or a trainer."""

    async def start(self) -> int:
        """Listen, and return the port."""

    def tasks(self, stop: StopSignal) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return what runs beside the server, by name."""

    async def stop(self) -> None:
        """Drain, and close what was opened."""


@contextlib.asynccontextmanager
async def serving(application: Application) -> AsyncIterator[tuple[grpc.aio.Channel, str]]:
    """Run an application with its background tasks; yield a channel to it and its address.

    Stops it whatever fails, its own tasks included: a server that is left behind fails the tests that come after.
    """
    async with contextlib.AsyncExitStack() as stack:
        port = await application.start()
        stack.push_async_callback(application.stop)
        stop = StopSignal()
        tasks = asyncio.create_task(process.supervise(stop=stop, tasks=application.tasks(stop)))
        stack.push_async_callback(lambda: tasks)
        stack.callback(stop.set)
        channel = channels.open_async_channel(f"127.0.0.1:{port}")
        stack.push_async_callback(channel.close)
        yield channel, f"127.0.0.1:{port}"
