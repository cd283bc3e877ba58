"""ExtractionService (polytok/extractor/v1/extractions.proto)."""

import functools
from collections.abc import AsyncGenerator

from google.protobuf import empty_pb2

from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc
from services.extractor.server import messages, resource_names, service, tables
from services.extractor.server.estimates import EstimateService
from services.extractor.server.models import LIFECYCLE, Extraction
from services.extractor.server.repository import extractions
from services.extractor.server.service import ExtractionService
from services.records.api import Context, Dependencies, RecordApi
from services.records.hold_client import HoldRenewer
from services.records.holds import resource_held_error, resource_replaced_error
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork


class ExtractionServicer(
    RecordApi[Extraction, str, extractions_pb2.Extraction], extractions_pb2_grpc.ExtractionServiceServicer
):
    """Serves extractions."""

    message_type = extractions_pb2.Extraction

    def __init__(
        self,
        shared: Dependencies,
        extraction_service: ExtractionService,
        estimates: EstimateService,
        holds: HoldRenewer,
    ) -> None:
        super().__init__(shared, extractions, LIFECYCLE)
        self._extractions = extraction_service
        self._estimates = estimates
        self._holds = holds

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
        found = await self._extractions.find(request.dataset, request.model, request.variant, request.parameters)

        async def act(unit: UnitOfWork) -> Extraction:
            return await self._extractions.create(unit.conn, request.extraction_id, found)

        return await self._change("CreateExtraction", request, act)

    async def GetExtraction(  # noqa: N802
        self, request: extractions_pb2.GetExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Read an extraction."""
        return self._message(await self._get(resource_names.parse_name(request.name)))

    async def ListExtractions(  # noqa: N802
        self, request: extractions_pb2.ListExtractionsRequest, context: Context
    ) -> extractions_pb2.ListExtractionsResponse:
        """Read a page of extractions."""
        columns = tables.extractions.c
        filters = ((columns.dataset, request.dataset), (columns.model, request.model))
        page, token = await self._list(request, *(column == value for column, value in filters if value))
        return extractions_pb2.ListExtractionsResponse(
            extractions=[self._message(record) for record in page], next_page_token=token
        )

    async def DeleteExtraction(  # noqa: N802
        self, request: extractions_pb2.DeleteExtractionRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete an extraction with its files."""

        async def act(unit: UnitOfWork, record: Extraction) -> None:
            if holders := await extractions.holds.holders(unit.conn, record.id):
                raise resource_held_error(record.resource, holders)
            await self._delete_rows(unit, record, record.path)
            if record.held:
                # The row that remembers the hold is deleted: release it now, or it ends when it expires.
                unit.after_commit.append(functools.partial(self._extractions.release, record))

        return await self._delete("DeleteExtraction", request, resource_names.parse_name(request.name), act)

    async def CancelExtraction(  # noqa: N802
        self, request: extractions_pb2.CancelExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Stop an extraction."""

        async def act(unit: UnitOfWork) -> Extraction:
            record = await self._stop(unit.conn, resource_names.parse_name(request.name))
            if record.status != "CANCELLED":
                LIFECYCLE.require_cancellable(record.resource, record.status)
            self._delete_folders(unit, record.path)
            return record

        return await self._change("CancelExtraction", request, act)

    async def RetryExtraction(  # noqa: N802
        self, request: extractions_pb2.RetryExtractionRequest, context: Context
    ) -> extractions_pb2.Extraction:
        """Extract again."""
        identifier = resource_names.parse_name(request.name)
        answered = await self._transactions.find_response("RetryExtraction", request, extractions_pb2.Extraction)
        if answered is not None:
            return answered
        before = await self._get(identifier)
        LIFECYCLE.require_retryable(before.resource, before.status)
        asked = messages.parameters(before)
        found = await self._extractions.find(before.dataset, before.model, before.variant, asked)

        async def act(unit: UnitOfWork) -> Extraction:
            record = await extractions.get(unit.conn, identifier, Lock.CHANGE)
            LIFECYCLE.require_retryable(record.resource, record.status)
            record = await extractions.update(unit.conn, record.id, **service.input_columns(found))
            # Again after the commit: the hold of the attempt that failed may be released at this moment.
            unit.after_commit.append(functools.partial(self._holds.renew, {record.resource}))
            return await self._extractions.begin(unit.conn, record)

        return await self._change("RetryExtraction", request, act)

    async def WatchExtraction(  # noqa: N802
        self, request: extractions_pb2.WatchExtractionRequest, context: Context
    ) -> AsyncGenerator[extractions_pb2.WatchExtractionResponse]:
        """Stream an extraction until it is at rest."""
        async for record, percent in self._watch(resource_names.parse_name(request.name)):
            message = self._message(record)
            message.progress = percent
            yield extractions_pb2.WatchExtractionResponse(extraction=message)

    async def EstimateExtraction(  # noqa: N802
        self, request: extractions_pb2.EstimateExtractionRequest, context: Context
    ) -> extractions_pb2.EstimateExtractionResponse:
        """Return what an extraction would take."""
        found = await self._extractions.find(request.dataset, request.model, request.variant, request.parameters)
        async with self._extractions.estimate_context(found) as order:
            return await self._estimates.estimate(order)

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
