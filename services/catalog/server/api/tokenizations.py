"""TokenizationService (polytok/catalog/v1/tokenizations.proto)."""

from collections.abc import AsyncGenerator

from google.protobuf import empty_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2, tokenizations_pb2_grpc
from services.catalog.server import messages
from services.catalog.server.domain import names, records, states
from services.catalog.server.repository import holds, repairs
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.models import models
from services.catalog.server.repository.tokenizations import of_dataset, of_model, tokenizations
from services.catalog.server.service import removal
from services.catalog.server.service import repairs as repair_service
from services.catalog.server.service import tokenizations as tokenization_service
from services.catalog.server.service.resolution import Resolver
from services.records.api import Context, Dependencies, RecordApi
from services.records.holds import resource_replaced_error
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork


class TokenizationServicer(
    RecordApi[records.Tokenization, names.TokenizationName, tokenizations_pb2.Tokenization],
    tokenizations_pb2_grpc.TokenizationServiceServicer,
):
    """Serves tokenizations."""

    message_type = tokenizations_pb2.Tokenization
    read_id = str

    def __init__(self, shared: Dependencies) -> None:
        super().__init__(shared, tokenizations, states.TOKENIZATION)
        self._creation = tokenization_service.TokenizationService(shared.store, shared.folders)
        self._resolver = Resolver(shared.database, shared.storage)

    def _message(
        self, record: records.Tokenization, repaired: records.Repair | None = None
    ) -> tokenizations_pb2.Tokenization:
        return messages.tokenization(record, self._shared.storage, repaired)

    async def CreateTokenization(  # noqa: N802
        self, request: tokenizations_pb2.CreateTokenizationRequest, context: Context
    ) -> tokenizations_pb2.Tokenization:
        """Start a tokenization."""
        name = names.TokenizationName(
            names.parse_dataset(request.parent), names.parse_model(request.model), request.variant
        )

        async def act(unit: UnitOfWork) -> records.Tokenization:
            return await self._creation.create(unit.conn, name, request.parameters)

        return await self._change("CreateTokenization", request, act)

    async def GetTokenization(  # noqa: N802
        self, request: tokenizations_pb2.GetTokenizationRequest, context: Context
    ) -> tokenizations_pb2.Tokenization:
        """Read a tokenization."""
        async with self._database.connection() as conn:
            record = await tokenizations.get(conn, names.parse_tokenization(request.name))
            return self._message(record, await repairs.find_by_folder(conn, record.tokenized_path))

    async def ListTokenizations(  # noqa: N802
        self, request: tokenizations_pb2.ListTokenizationsRequest, context: Context
    ) -> tokenizations_pb2.ListTokenizationsResponse:
        """Read a page of the tokenizations of one dataset, or of all."""
        dataset = names.parse_parent(request.parent)
        model = names.parse_model(request.model) if request.model else None
        conditions = [] if dataset == names.ANY else [of_dataset(dataset)]
        if model is not None:
            conditions.append(of_model(model))
        async with self._database.connection() as conn:
            page, token = await self._page(conn, request, *conditions)
            if not page:
                await _require_known(conn, dataset, model)
            repaired = await repairs.find_by_folders(conn, [record.tokenized_path for record in page])
        return tokenizations_pb2.ListTokenizationsResponse(
            tokenizations=[self._message(record, repaired.get(record.tokenized_path)) for record in page],
            next_page_token=token,
        )

    async def DeleteTokenization(  # noqa: N802
        self, request: tokenizations_pb2.DeleteTokenizationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete a tokenization with its files."""

        async def act(unit: UnitOfWork, record: records.Tokenization) -> None:
            await removal.tokenization(unit, self._shared.store, self._shared.folders, record)

        return await self._delete("DeleteTokenization", request, names.parse_tokenization(request.name), act)

    async def _stop(self, conn: AsyncConnection, name: names.TokenizationName) -> records.Tokenization:
        record = await tokenizations.find(conn, name)
        await repair_service.cancel_repair(conn, self._shared.store, record, own=True)
        return await super()._stop(conn, name)

    async def CancelTokenization(  # noqa: N802
        self, request: tokenizations_pb2.CancelTokenizationRequest, context: Context
    ) -> tokenizations_pb2.Tokenization:
        """Stop a tokenization."""
        name = names.parse_tokenization(request.name)

        async def act(unit: UnitOfWork) -> tokenizations_pb2.Tokenization:
            before = await tokenizations.find(unit.conn, name)
            if await repair_service.cancel_repair(unit.conn, self._shared.store, before, own=False):
                record = await tokenizations.get(unit.conn, name)
                return self._message(record, await repairs.find_by_folder(unit.conn, record.tokenized_path))
            record = await self._stop(unit.conn, name)
            if record.status != "CANCELLED":
                states.TOKENIZATION.require_cancellable(record.resource, record.status)
                # No job was at it: it waited for another's files.
                record = await self._creation.cancel_pending(unit.conn, record)
            self._delete_folders(unit, record.tokenized_path)
            return self._message(record)

        return await self._transactions.run("CancelTokenization", request, tokenizations_pb2.Tokenization, act)

    async def RetryTokenization(  # noqa: N802
        self, request: tokenizations_pb2.RetryTokenizationRequest, context: Context
    ) -> tokenizations_pb2.Tokenization:
        """Tokenize again."""
        name = names.parse_tokenization(request.name)

        async def act(unit: UnitOfWork) -> records.Tokenization:
            record = await tokenizations.get(unit.conn, name, Lock.CHANGE)
            states.TOKENIZATION.require_retryable(record.resource, record.status)
            return await self._creation.start_or_share(unit.conn, record)

        return await self._change("RetryTokenization", request, act)

    async def RepairTokenization(  # noqa: N802
        self, request: tokenizations_pb2.RepairTokenizationRequest, context: Context
    ) -> tokenizations_pb2.Tokenization:
        """Repair a tokenization's files."""
        name = names.parse_tokenization(request.name)

        async def act(unit: UnitOfWork) -> tokenizations_pb2.Tokenization:
            record = await repair_service.start_repair(
                unit.conn, self._shared.store, name, checksums_only=request.checksums_only
            )
            return self._message(record, await repairs.find_by_folder(unit.conn, record.tokenized_path))

        return await self._transactions.run("RepairTokenization", request, tokenizations_pb2.Tokenization, act)

    async def WatchTokenization(  # noqa: N802
        self, request: tokenizations_pb2.WatchTokenizationRequest, context: Context
    ) -> AsyncGenerator[tokenizations_pb2.WatchTokenizationResponse]:
        """Stream a tokenization, or its repair, until that is at rest."""
        name = names.parse_tokenization(request.name)
        if request.repair:
            async for response in self._watch_repair(await self._get(name)):
                yield response
            return
        async for record, percent in self._watch(name):
            message = self._message(record)
            message.progress = percent
            yield tokenizations_pb2.WatchTokenizationResponse(tokenization=message)

    async def _watch_repair(
        self, first: records.Tokenization
    ) -> AsyncGenerator[tokenizations_pb2.WatchTokenizationResponse]:
        seen = first

        async def read(conn: AsyncConnection) -> records.Repair | None:
            nonlocal seen
            found = await tokenizations.find_by_uid(conn, first.id)
            if found is None:
                return None
            seen = found
            repaired = await repairs.find_by_folder(conn, found.tokenized_path)
            if repaired is None:
                raise errors.FailedPrecondition(
                    f"{found.resource} was never repaired. Start that with `polytok tokenization repair {found.short}`."
                )
            return repaired

        async with self._database.connection() as conn:
            repaired = await read(conn)
        watched = repaired.tokenization_id if repaired else first.id
        async for repair, percent in self._shared.watch.follow(watched, states.REPAIR, read):
            message = self._message(seen, repair)
            message.repair.progress = percent
            yield tokenizations_pb2.WatchTokenizationResponse(tokenization=message)

    async def ResolveTokenization(  # noqa: N802
        self, request: tokenizations_pb2.ResolveTokenizationRequest, context: Context
    ) -> tokenizations_pb2.ResolveTokenizationResponse:
        """Find what extractors and trainers load."""
        name = names.TokenizationName(
            names.parse_dataset(request.dataset), names.parse_model(request.model), request.variant
        )
        return await self._resolver.resolve(name)

    async def HoldTokenization(  # noqa: N802
        self, request: tokenizations_pb2.HoldTokenizationRequest, context: Context
    ) -> tokenizations_pb2.HoldTokenizationResponse:
        """Keep a tokenization from being deleted."""
        name = names.parse_tokenization(request.name)
        async with self._database.transaction() as conn:
            # Shared with other holders; a deletion, which locks for a change, comes before or after.
            record = await tokenizations.get(conn, name, Lock.REFERENCE)
            states.TOKENIZATION.require_ready(record.resource, record.short, record.status, record.error_message)
            if request.manifest_digest not in {"", record.manifest_digest}:
                raise resource_replaced_error(record.resource, request.holder)
            expires_at = await holds.hold(conn, record.id, request.holder, request.ttl.ToTimedelta())
        held = tokenizations_pb2.HoldTokenizationResponse(
            tokenization=self._message(record), storage_key=record.tokenized_path
        )
        held.expire_time.FromDatetime(expires_at)
        return held

    async def ReleaseTokenization(  # noqa: N802
        self, request: tokenizations_pb2.ReleaseTokenizationRequest, context: Context
    ) -> empty_pb2.Empty:
        """End a hold."""
        name = names.parse_tokenization(request.name)
        async with self._database.transaction() as conn:
            record = await tokenizations.find(conn, name)
            if record is not None:
                await holds.release(conn, record.id, request.holder)
        return empty_pb2.Empty()


async def _require_known(conn: AsyncConnection, dataset: str, model: str | None) -> None:
    # An empty list must not hide a misspelt name.
    if dataset != names.ANY:
        await datasets.get(conn, dataset)
    if model is not None:
        await models.get(conn, model)
