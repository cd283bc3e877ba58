"""Calls to the owner of a task, retried while the owner is unavailable and the lease lasts."""

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
    """Call, and retry while the owner is unavailable or its disk is full, until a time of the loop's clock.

    `until` is evaluated before each retry. Return the response and when its request was sent; raise our errors.
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
    """Return whether the owner may answer later: it is unavailable, or its database has no space now."""
    full = isinstance(error, errors.ResourceExhausted) and error.reason == disk_space.REASON
    return full or isinstance(error, errors.Unavailable | errors.DeadlineExceeded)
