"""ResolveTokenization: calls that come while a query runs are answered together by the next one."""

import asyncio
from collections import OrderedDict

from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server import messages
from services.catalog.server.domain import names, records, states
from services.catalog.server.repository.tokenizations import tokenizations
from services.runtime.database import Database
from services.runtime.storage import Storage

_CACHED = 4096
_PAUSE_SECONDS = 0.002
"""From one query to the next: calls that come close together share one. The first call of all never waits for it."""

_Name = names.TokenizationName
_Answer = tokenizations_pb2.ResolveTokenizationResponse
_Found = _Answer | records.Tokenization | None
"""What a name stands for: a READY tokenization's answer, the record of one that is not READY, or nothing."""


class Resolver:
    """Finds READY tokenizations. Each answer was read from the database after its call came in."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._waiting: dict[_Name, asyncio.Future[_Found]] = {}
        self._reading: asyncio.Task[None] | None = None
        # A message costs more to make than to keep; the etag shows when it is out of date.
        self._answers: OrderedDict[tuple[str, str], _Answer] = OrderedDict()

    async def resolve(self, name: _Name) -> _Answer:
        """Return the published tokenization of that name."""
        found = await self._read(name)
        if isinstance(found, _Answer):
            return found
        if found is None:
            async with self._database.connection() as conn:
                raise await tokenizations.not_found(conn, name)
        states.TOKENIZATION.require_ready(found.resource, found.short, found.status, found.error_message)
        return self._answer(found)

    async def _read(self, name: _Name) -> _Found:
        future = self._waiting.get(name)
        if future is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_waiting(), name="resolve")
        # One caller that goes away must not take the answer from the others.
        return await asyncio.shield(future)

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                await self._read_batch(batch)
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._reading = None

    async def _read_batch(self, batch: dict[_Name, asyncio.Future[_Found]]) -> None:
        try:
            async with self._database.connection() as conn:
                records_found = await tokenizations.resolve(conn, list(batch))
            # An answer is made once for all who asked for it.
            found = {name: self._found(records_found.get(name)) for name in batch}
        except Exception as error:
            # Whatever it is, every caller must hear it.
            for future in batch.values():
                future.set_exception(error)
        else:
            for name, future in batch.items():
                future.set_result(found[name])

    def _found(self, record: records.Tokenization | None) -> _Found:
        return self._answer(record) if record and record.status == "READY" else record

    def _answer(self, record: records.Tokenization) -> _Answer:
        key = (record.id, record.etag)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = _Answer(tokenization=messages.tokenization(record, self._storage))
            if len(self._answers) > _CACHED:
                self._answers.popitem(last=False)
        return answer
