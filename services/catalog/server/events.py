"""Tells every replica that a record changed."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.runtime import notifications

CHANNEL = "catalog"
"""The Postgres channel; the payload is the uid of the record."""


async def notify_changed(conn: AsyncConnection, uid: object) -> None:
    """Wake whoever watches the record, once the transaction commits."""
    await notifications.notify(conn, CHANNEL, str(uid))
