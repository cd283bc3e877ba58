"""What the apis of all kinds of records share: reading, lists, changes with request ids, deletion, watching."""

import abc
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import sqlalchemy as sa
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs.store import JobStore
from services.records import cancellation, etags, pagination
from services.records.lifecycle import Lifecycle
from services.records.repository import NameT, RecordRepository, RecordT
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions, UnitOfWork
from services.records.watch import Watch
from services.runtime.database import Database
from services.runtime.storage import Storage

Context = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True)
class Dependencies:
    """The resources of one server process."""

    database: Database
    storage: Storage
    store: JobStore
    folders: StorageFolders
    watch: Watch
    transactions: IdempotentTransactions


class RecordApi(abc.ABC, Generic[RecordT, NameT, MessageT]):
    """The part of a servicer that every kind of record has."""

    message_type: type[MessageT]
    read_id: Callable[[str], Any] = staticmethod(pagination.read_uuid)
    """Reads the uid in a page token."""

    def __init__(
        self, shared: Dependencies, repository: RecordRepository[RecordT, NameT], lifecycle: Lifecycle
    ) -> None:
        self._shared = shared
        self._database = shared.database
        self._transactions = shared.transactions
        self._repository = repository
        self._lifecycle = lifecycle

    @abc.abstractmethod
    def _message(self, record: RecordT) -> MessageT:
        """Return the message of a record."""

    async def _exists(self, name: NameT) -> bool:
        async with self._database.connection() as conn:
            return await self._repository.find(conn, name) is not None

    async def _get(self, name: NameT) -> RecordT:
        async with self._database.connection() as conn:
            return await self._repository.get(conn, name)

    async def _list(self, request: Any, *conditions: sa.ColumnElement[bool]) -> tuple[list[RecordT], str]:
        """Return a page of records and the token of the next page."""
        async with self._database.connection() as conn:
            return await self._page(conn, request, *conditions)

    async def _page(
        self, conn: AsyncConnection, request: Any, *conditions: sa.ColumnElement[bool]
    ) -> tuple[list[RecordT], str]:
        states: Any = self.message_type
        statuses = [states.State.Name(state).removeprefix("STATE_") for state in request.states]
        after = pagination.after(request, self.read_id)
        found = await self._repository.page(conn, statuses, after, pagination.size(request) + 1, *conditions)
        return pagination.cut(request, found)

    async def _change(self, method: str, request: Message, act: Callable[[UnitOfWork], Awaitable[RecordT]]) -> MessageT:
        """Change a record once for each request id, and return its message."""

        async def change(unit: UnitOfWork) -> MessageT:
            return self._message(await act(unit))

        return await self._transactions.run(method, request, self.message_type, change)

    async def _delete(
        self, method: str, request: Any, name: NameT, act: Callable[[UnitOfWork, RecordT], Awaitable[None]]
    ) -> empty_pb2.Empty:
        """Stop and lock a record, check its etag, and delete it by `act`."""

        async def delete(unit: UnitOfWork) -> empty_pb2.Empty:
            record = await self._stop(unit.conn, name)
            etags.check(record, request.etag)
            await act(unit, record)
            return empty_pb2.Empty()

        return await self._transactions.run(method, request, empty_pb2.Empty, delete)

    async def _delete_rows(self, unit: UnitOfWork, record: RecordT, *folders: str) -> None:
        """Delete a record and its jobs, and after the commit the folders that nothing uses any more."""
        await cancellation.delete_jobs(unit.conn, self._shared.store, record.resource)
        await self._repository.delete(unit.conn, record.id)
        self._delete_folders(unit, *folders)

    def _delete_folders(self, unit: UnitOfWork, *folders: str) -> None:
        for folder in folders:
            unit.after_commit.append(functools.partial(self._shared.folders.delete_if_unused, folder))

    async def _stop(self, conn: AsyncConnection, name: NameT) -> RecordT:
        """Cancel the job that works on a record, and return the record, locked."""
        record = await cancellation.cancel_job_and_lock(
            conn, self._shared.store, functools.partial(self._repository.find, conn, name)
        )
        if record is None:
            raise await self._repository.not_found(conn, name)
        return record

    async def _watch(self, name: NameT) -> AsyncGenerator[tuple[RecordT, float]]:
        """Yield a record and its progress until its state is terminal."""
        first = await self._get(name)

        async def read(conn: AsyncConnection) -> RecordT | None:
            return await self._repository.find_by_uid(conn, first.id)

        async for record, percent in self._shared.watch.follow(first.id, self._lifecycle, read):
            yield record, percent
