"""ExtractionService (polytok/extractor/v1/extractions.proto)."""

import functools
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import empty_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc
from services.extractor.server import messages, resource_names, service, tables
from services.extractor.server.estimates import EstimateService
from services.extractor.server.models import LIFECYCLE, Extraction
from services.extractor.server.repository import extractions
from services.extractor.server.service import ExtractionService
from services.jobs.store import JobStore
from services.records import cancellation, etags, pagination
from services.records.hold_client import HoldRenewer
from services.records.holds import resource_held_error, resource_replaced_error
from services.records.queries import Lock
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions, UnitOfWork
from services.records.watch import Watch
from services.runtime.database import Database
from services.runtime.storage import Storage

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Dependencies:
    """The resources of one extractor process."""

    database: Database
    storage: Storage
    store: JobStore
    folders: StorageFolders
    watch: Watch
    transactions: IdempotentTransactions
    extractions: ExtractionService
    estimates: EstimateService
    keeper: HoldRenewer


class ExtractionServicer(extractions_pb2_grpc.ExtractionServiceServicer):
    """Serves extractions."""

    def __init__(self, shared: Dependencies) -> None:
        self._shared = shared
        self._database = shared.database
        self._transactions = shared.transactions

    def _message(self, record: Extraction) -> extractions_pb2.Extraction:
        return messages.extraction(record, self._shared.storage)

    async def CreateExtraction(  # noqa: N802
        self, request: extractions_pb2.CreateExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Start an extraction."""
        answered = await self._transactions.find_response("CreateExtraction", request, extractions_pb2.Extraction)
        if answered is not None:
            return answered
        # Before the transaction, which keeps a connection to the database for as long as the catalog takes.
        found = await self._shared.extractions.find(request.dataset, request.model, request.variant, request.parameters)

        async def act(unit: UnitOfWork) -> extractions_pb2.Extraction:
            return self._message(await self._shared.extractions.create(unit.conn, request.extraction_id, found))

        return await self._transactions.run("CreateExtraction", request, extractions_pb2.Extraction, act)

    async def GetExtraction(  # noqa: N802
        self, request: extractions_pb2.GetExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Read an extraction."""
        async with self._database.connection() as conn:
            return self._message(await extractions.get(conn, resource_names.parse_name(request.name)))

    async def ListExtractions(  # noqa: N802
        self, request: extractions_pb2.ListExtractionsRequest, context: Context
    ) -> extractions_pb2.ListExtractionsResponse:
        """Read a page of extractions."""
        statuses = [extractions_pb2.Extraction.State.Name(state).removeprefix("STATE_") for state in request.states]
        after = pagination.after(request, pagination.read_uuid)
        columns = tables.extractions.c
        filters = ((columns.dataset, request.dataset), (columns.model, request.model))
        conditions = [column == value for column, value in filters if value]
        async with self._database.connection() as conn:
            found = await extractions.page(conn, statuses, after, pagination.size(request) + 1, *conditions)
        page, token = pagination.cut(request, found)
        return extractions_pb2.ListExtractionsResponse(
            extractions=[self._message(record) for record in page], next_page_token=token
        )

    async def DeleteExtraction(  # noqa: N802
        self, request: extractions_pb2.DeleteExtractionRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete an extraction with its files."""

        async def act(unit: UnitOfWork) -> empty_pb2.Empty:
            record = await self._stopped(unit.conn, request.name)
            etags.check(record, request.etag)
            if holders := await extractions.holds.holders(unit.conn, record.id):
                raise resource_held_error(record.resource, holders)
            await cancellation.delete_jobs(unit.conn, self._shared.store, record.resource)
            await extractions.delete(unit.conn, record.id)
            unit.after_commit.append(functools.partial(self._shared.folders.delete_if_unused, record.path))
            if record.held:
                # The row that remembers the hold is gone: now, or when the hold runs out.
                unit.after_commit.append(functools.partial(self._shared.extractions.release, record))
            return empty_pb2.Empty()

        return await self._transactions.run("DeleteExtraction", request, empty_pb2.Empty, act)

    async def _stopped(self, conn: AsyncConnection, name: str) -> Extraction:
        identifier = resource_names.parse_name(name)
        record = await cancellation.cancel_job_and_lock(
            conn, self._shared.store, functools.partial(extractions.find, conn, identifier)
        )
        if record is None:
            raise await extractions.not_found(conn, identifier)
        return record

    async def CancelExtraction(  # noqa: N802
        self, request: extractions_pb2.CancelExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Stop an extraction."""

        async def act(unit: UnitOfWork) -> extractions_pb2.Extraction:
            record = await self._stopped(unit.conn, request.name)
            if record.status != "CANCELLED":
                LIFECYCLE.require_cancellable(record.resource, record.status)
            unit.after_commit.append(functools.partial(self._shared.folders.delete_if_unused, record.path))
            return self._message(record)

        return await self._transactions.run("CancelExtraction", request, extractions_pb2.Extraction, act)

    async def RetryExtraction(  # noqa: N802
        self, request: extractions_pb2.RetryExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Extract again."""
        identifier = resource_names.parse_name(request.name)
        answered = await self._transactions.find_response("RetryExtraction", request, extractions_pb2.Extraction)
        if answered is not None:
            return answered
        async with self._database.connection() as conn:
            before = await extractions.get(conn, identifier)
        LIFECYCLE.require_retryable(before.resource, before.status)
        asked = messages.parameters(before)
        found = await self._shared.extractions.find(before.dataset, before.model, before.variant, asked)

        async def act(unit: UnitOfWork) -> extractions_pb2.Extraction:
            record = await extractions.get(unit.conn, identifier, Lock.CHANGE)
            LIFECYCLE.require_retryable(record.resource, record.status)
            record = await extractions.update(unit.conn, record.id, **service.input_columns(found))
            # Again behind the commit: the hold of the try that failed may be let go of just now.
            unit.after_commit.append(functools.partial(self._shared.keeper.renew, {record.resource}))
            return self._message(await self._shared.extractions.begin(unit.conn, record))

        return await self._transactions.run("RetryExtraction", request, extractions_pb2.Extraction, act)

    async def WatchExtraction(  # noqa: N802
        self, request: extractions_pb2.WatchExtractionRequest, context: Context
    ) -> AsyncGenerator[extractions_pb2.WatchExtractionResponse]:
        """Stream an extraction until it is at rest."""
        async with self._database.connection() as conn:
            first = await extractions.get(conn, resource_names.parse_name(request.name))

        async def read(conn: AsyncConnection) -> Extraction | None:
            return await extractions.find(conn, str(first.id))

        async for record, percent in self._shared.watch.follow(first.id, LIFECYCLE, read):
            message = self._message(record)
            message.progress = percent
            yield extractions_pb2.WatchExtractionResponse(extraction=message)

    async def EstimateExtraction(  # noqa: N802
        self, request: extractions_pb2.EstimateExtractionRequest, context: Context
    ) -> extractions_pb2.EstimateExtractionResponse:
        """Return what an extraction would take."""
        found = await self._shared.extractions.find(request.dataset, request.model, request.variant, request.parameters)
        async with self._shared.extractions.estimate_context(found) as order:
            return await self._shared.estimates.estimate(order)

    async def HoldExtraction(  # noqa: N802
        self, request: extractions_pb2.HoldExtractionRequest, context: Context
    ) -> extractions_pb2.HoldExtractionResponse:
        """Keep an extraction from being deleted."""
        async with self._database.transaction() as conn:
            # Shared with other holders; a deletion, which locks for a change, comes before or after.
            record = await extractions.get(conn, resource_names.parse_name(request.name), Lock.REFERENCE)
            LIFECYCLE.require_ready(record.resource, record.name, record.status, record.error_message)
            if request.manifest_digest not in {"", record.manifest_digest}:
                raise resource_replaced_error(record.resource, request.holder)
            expires_at = await extractions.holds.hold(conn, record.id, request.holder, request.ttl.ToTimedelta())
        held = extractions_pb2.HoldExtractionResponse(extraction=self._message(record))
        held.expire_time.FromDatetime(expires_at)
        return held

    async def ReleaseExtraction(  # noqa: N802
        self, request: extractions_pb2.ReleaseExtractionRequest, context: Context
    ) -> empty_pb2.Empty:
        """End a hold."""
        async with self._database.transaction() as conn:
            record = await extractions.find(conn, resource_names.parse_name(request.name))
            if record is not None:
                await extractions.holds.release(conn, record.id, request.holder)
        return empty_pb2.Empty()
