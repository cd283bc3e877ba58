"""The frame of every call that changes something: one transaction, request id, and what follows the commit."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.records import idempotency
from services.runtime.database import Database
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_TRIES = 4
# Postgres picks a victim among transactions that wait for each other; the same one goes through when repeated.
_LOST_RACES = frozenset({"40001", "40P01"})

Answer = TypeVar("Answer", bound=Message)


@dataclass
class UnitOfWork:
    """One transaction, and what to do once it has committed."""

    conn: AsyncConnection
    after_commit: list[Callable[[], Awaitable[object]]] = field(default_factory=list)


class IdempotentTransactions:
    """Runs the changes of one service; `answers` is its table of request ids."""

    def __init__(self, database: Database, answers: sa.Table) -> None:
        self._database = database
        self._answers = answers

    async def run(
        self,
        method: str,
        request: Message,
        answer_type: type[Answer],
        act: Callable[[UnitOfWork], Awaitable[Answer]],
    ) -> Answer:
        """Run a change, again if it lost a race, and then what it asked for after the commit."""
        for left in reversed(range(_TRIES)):
            try:
                unit, answer = await self._attempt(method, request, answer_type, act)
            except errors.Unavailable as error:
                if not left or not _lost_race(error):
                    raise
            else:
                await _follow_up(unit)
                return answer
        raise AssertionError("unreachable")

    async def find_response(self, method: str, request: Message, answer_type: type[Answer]) -> Answer | None:
        """Return the earlier response to this request id, if any: for calls that do much before they `run`."""
        async with self._database.connection() as conn:
            return await idempotency.find_response(conn, self._answers, method, request, answer_type)

    async def _attempt(
        self,
        method: str,
        request: Message,
        answer_type: type[Answer],
        act: Callable[[UnitOfWork], Awaitable[Answer]],
    ) -> tuple[UnitOfWork, Answer]:
        async with self._database.transaction() as conn:
            unit = UnitOfWork(conn)
            answer = await idempotency.run_once(conn, self._answers, method, request, answer_type, lambda: act(unit))
        return unit, answer


def _lost_race(error: errors.Unavailable) -> bool:
    cause = error.__cause__
    return isinstance(cause, sa.exc.DBAPIError) and getattr(cause.orig, "sqlstate", None) in _LOST_RACES


async def _follow_up(unit: UnitOfWork) -> None:
    for each in unit.after_commit:
        try:
            await each()
        except errors.PolytokError as error:
            # The change is committed and reported as such; the garbage collector does what is left.
            _log.warning("clean-up put off", error=error.message)
