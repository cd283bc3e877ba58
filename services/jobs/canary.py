"""The canary: a message that an owner of tasks sends to itself through the work queue, to test it.

A stream can refuse, lose or hide messages while NATS reports that all is well: after its disk was full once, or with
damaged files. Its listing proves nothing; a message that comes out again does.
"""

import asyncio
import json
import secrets
import time

import nats.errors
from nats.aio.client import Client
from nats.js import api

from services.runtime import messaging

_PUBLISH_SECONDS = 4.0
_DELIVER_SECONDS = 4.0
_PULL_SECONDS = 1.0
_STATUS = api.Header.STATUS.value


class QueueHealth:
    """What a process knows about the work queue. `trouble` describes the problem; empty means none."""

    def __init__(self) -> None:
        self.trouble = ""
        self.since = 0.0

    def fail(self, trouble: str) -> None:
        """Record a problem."""
        if not self.trouble:
            self.since = time.monotonic()
        self.trouble = trouble

    def recover(self) -> None:
        """Record that the queue works."""
        self.trouble = ""


class Canary:
    """The canary of one owner. The replica that holds the reconciler's lock sends one at a time."""

    def __init__(self, client: Client, subjects: messaging.Subjects, owner: str) -> None:
        self._client = client
        self._subjects = subjects
        self._subject = subjects.canary(owner)
        self._consumer = f"canary-{owner}"
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.stream}.{self._consumer}"

    async def trouble(self) -> str:
        """Send a canary and return the problem, or an empty string."""
        token = secrets.token_hex(8).encode()
        try:
            await self._ensure_consumer()
            # No Nats-Msg-Id: each one counts. The stream keeps one message per subject, so canaries do not pile up.
            await self._client.jetstream().publish(self._subject, token, timeout=_PUBLISH_SECONDS)
        except (nats.errors.Error, OSError) as error:
            return f"it does not accept messages ({describe(error)})"
        try:
            async with asyncio.timeout(_DELIVER_SECONDS):
                while await self._pull() != token:
                    pass
        except (TimeoutError, nats.errors.Error, OSError) as error:
            return f"it does not deliver messages ({describe(error)})"
        return ""

    async def _ensure_consumer(self) -> None:
        consumer = api.ConsumerConfig(
            durable_name=self._consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=1,
            filter_subject=self._subject,
            mem_storage=True,
        )
        await self._client.jsm().add_consumer(self._subjects.stream, consumer)

    async def _pull(self) -> bytes | None:
        request = json.dumps({"batch": 1, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        # Old style: a delivered message keeps its subject, and the new style would match the request by that subject.
        message = await self._client.request(self._next, request, timeout=_PULL_SECONDS * 2, old_style=True)
        if _STATUS in (message.headers or {}):
            return None
        await message.ack()
        return message.data


def describe(error: BaseException) -> str:
    """Return a short description of what NATS reported."""
    if isinstance(error, TimeoutError):
        return "NATS does not answer"
    description = getattr(error, "description", None)
    return f"NATS reports: {description}" if description else f"{type(error).__name__}: {error}".rstrip(": ")
