"""Which tokenizations extractions hold."""

from collections.abc import Sequence

from services.extractor.server import repository, resource_names
from services.extractor.server.models import Extraction
from services.records.hold_client import Hold
from services.runtime.database import Database


class ExtractionHolds:
    """The tokenizations that extractions hold (`services.records.hold_client.AcquiredHolds`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def live(self) -> Sequence[Hold]:
        """Return those of extractions that are being made."""
        async with self._database.connection() as conn:
            return [create_hold(record) for record in await repository.list_holders(conn, live=True)]

    async def ended(self) -> Sequence[Hold]:
        """Return those of extractions that ended."""
        async with self._database.connection() as conn:
            return [create_hold(record) for record in await repository.list_holders(conn, live=False)]

    async def forget(self, holder: str) -> None:
        """Note that what an extraction held was released."""
        async with self._database.transaction() as conn:
            await repository.mark_hold_released(conn, resource_names.parse_name(holder))


def create_hold(record: Extraction) -> Hold:
    """Return the hold of an extraction."""
    return Hold(record.tokenization, record.resource, record.tokenization_digest)
