"""Tells every replica that an extraction changed."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.runtime import notifications

OWNER = "extractor"
"""The name under which workers know this service's LeaseService, and the Postgres channel of changes."""


async def tell(conn: AsyncConnection, uid: object) -> None:
    """Wake whoever watches the record, once the transaction commits."""
    await notifications.notify(conn, OWNER, str(uid))
