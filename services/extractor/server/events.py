"""Tells every replica that an extraction changed."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.runtime import notifications

SERVICE_NAME = "extractor"
"""The name under which workers know this service's LeaseService, and the Postgres channel of changes."""


async def notify_changed(conn: AsyncConnection, uid: object) -> None:
    """Wake whoever watches the record, once the transaction commits."""
    await notifications.notify(conn, SERVICE_NAME, str(uid))
