"""Pull messages from the work queue, one at a time, across failures of the server.

A deleted consumer looks like an empty queue, and a pull does not survive a restart of its server. So heartbeats are
requested while a pull waits; if none arrives, stream and consumer are checked and the pull is repeated.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import ServerError

from services.runtime import messaging
from services.runtime.telemetry import logging

_EXPIRES_SECONDS = 60.0
_HEARTBEAT_SECONDS = 2.0
_SILENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_REFUSALS = 4

_HEARTBEAT = "100"
_EXPIRED = ("404", "408")

_log = logging.get(__name__)


class QueueConsumer:
    """The messages of one pool's consumer."""

    def __init__(
        self, client: Client, subjects: messaging.Subjects, pool: str, kinds: Sequence[str], ack_seconds: float
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._pool = pool
        self._kinds = kinds
        self._ack_seconds = ack_seconds
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.stream}.{messaging.consumer_name(pool)}"
        self._inbox = client.new_inbox()
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._ended = False
        self._sure = False
        self._troubled = False
        self._pulls = 0
        self._refusals = 0

    @property
    def confirmed(self) -> bool:
        """Whether the queue existed at the last check."""
        return self._sure

    async def open(self) -> None:
        """Start listening."""
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._arrived.put)

    def end(self) -> None:
        """Make `next` return None from now on."""
        self._ended = True
        self._arrived.put_nowait(None)

    async def next(self) -> Msg | None:
        """Wait for a message; return None once `end` was called."""
        while not self._ended:
            messaging.check_cancelled()
            try:
                if not self._sure:
                    await self._confirm()
                message = await self._pull()
            except (nats.errors.Error, OSError) as error:
                if not self._troubled:
                    _log.warning("worker waits for the queue", error=f"{type(error).__name__}: {error}")
                self._troubled, self._sure = True, False
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if message is not None:
                return message
        return None

    async def renew(self) -> None:
        """Recreate the consumer: tasks wait, and it delivers none."""
        _log.warning("tasks wait but the queue delivers none; recreating the consumer", pool=self._pool)
        self._sure = False
        with contextlib.suppress(nats.errors.Error, OSError):
            await messaging.delete_consumer(self._client, self._subjects, self._pool)

    async def close(self) -> None:
        """Return a message to the queue that arrived too late."""
        self._ended = True
        await self._subscription.unsubscribe()
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message is not None and _status(message) is None:
                await message.nak()

    async def _confirm(self) -> None:
        if not self._client.is_connected:
            raise nats.errors.ConnectionClosedError
        await messaging.ensure_stream(self._client, self._subjects)
        try:
            await messaging.ensure_consumer(
                self._client, self._subjects, self._pool, self._kinds, ack_seconds=self._ack_seconds
            )
        except ServerError:
            # With damaged files, a consumer can be neither created nor deleted while its stream exists.
            self._refusals += 1
            if self._refusals % _REFUSALS == 0:
                _log.warning("NATS cannot create the consumer; recreating the work queue", pool=self._pool)
                await messaging.recreate_stream(self._client, self._subjects)
            raise
        self._refusals = 0
        if self._troubled:
            _log.info("worker found the queue again")
        self._sure, self._troubled = True, False

    async def _pull(self) -> Msg | None:
        self._pulls += 1
        reply = f"{self._inbox}.{self._pulls}"
        request = {
            "batch": 1,
            "expires": int(_EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
        }
        await self._client.publish(self._next, json.dumps(request).encode(), reply=reply)
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await self._arrived.get()
            except TimeoutError:
                self._sure = False
                return None
            status = None if message is None else _status(message)
            if status is None:
                return message
            # Status messages for an earlier pull do not concern this one.
            if message is None or message.subject != reply or status == _HEARTBEAT:
                continue
            if status not in _EXPIRED:
                self._sure = False
                await asyncio.sleep(_PAUSE_SECONDS)
            return None


def _status(message: Msg) -> str | None:
    """Return the status code of a message from the server itself; None for one from the queue."""
    return (message.headers or {}).get(api.Header.STATUS.value)
