"""The holds of one kind of record, as `hold_client.HoldRenewer` asks for them."""

from collections.abc import Callable, Sequence
from typing import Generic

from services.records.hold_client import Hold
from services.records.repository import HoldingRepository, RecordT
from services.runtime.database import Database


class RecordHolds(Generic[RecordT]):
    """What records hold (`services.records.hold_client.AcquiredHolds`).

    `holds` returns what a record holds; `live_holds`, of that, what is renewed while the record needs it.
    """

    def __init__(
        self,
        database: Database,
        repository: HoldingRepository[RecordT],
        holds: Callable[[RecordT], Sequence[Hold]],
        live_holds: Callable[[RecordT], Sequence[Hold]] | None = None,
    ) -> None:
        self._database = database
        self._repository = repository
        self._holds = holds
        self._live_holds = live_holds or holds

    async def live(self) -> Sequence[Hold]:
        """Return the holds of records that need them."""
        return [hold for record in await self._list(needed=True) for hold in self._live_holds(record)]

    async def ended(self) -> Sequence[Hold]:
        """Return the holds of records that ended."""
        return [hold for record in await self._list(needed=False) for hold in self._holds(record)]

    async def forget(self, holder: str) -> None:
        """Note that everything a record held was released."""
        async with self._database.transaction() as conn:
            await self._repository.mark_hold_released(conn, holder.partition("/")[2])

    async def _list(self, *, needed: bool) -> Sequence[RecordT]:
        async with self._database.connection() as conn:
            return await self._repository.list_holders(conn, needed=needed)
