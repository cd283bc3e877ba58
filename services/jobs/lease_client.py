"""Calls to the service that owns a task, with patience: an owner that is away may be back before the lease ends."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from polytok import channels, disk_space, errors

_TRY_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 2.0

Response = TypeVar("Response")


async def call_with_retry(
    method: "grpc.aio.UnaryUnaryMultiCallable[Any, Response]",
    request: Any,
    *,
    until: Callable[[], float],
    try_seconds: float = _TRY_SECONDS,
) -> tuple[Response, float]:
    """Call, and again while the owner is away or its disk full, until a time of the loop's clock, asked each time.

    Gives the response and when the request for it was sent; raises our errors.
    """
    loop = asyncio.get_running_loop()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        sent_at = loop.time()
        try:
            return await method(request, timeout=try_seconds), sent_at
        except grpc.aio.AioRpcError as failure:
            error = channels.from_rpc_error(failure)
        left = until() - loop.time()
        if not is_transient(error) or left <= 0:
            raise error
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, _LAST_PAUSE_SECONDS)


def is_transient(error: errors.PolytokError) -> bool:
    """Return whether the owner may answer later: it is away, or its database has no room now."""
    full = isinstance(error, errors.ResourceExhausted) and error.reason == disk_space.REASON
    return full or isinstance(error, errors.Unavailable | errors.DeadlineExceeded)
