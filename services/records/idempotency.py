"""Request ids (AIP-155): the same call with the same id happens once and is always answered alike."""

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.records import columns

Answer = TypeVar("Answer", bound=Message)


def table(metadata: sa.MetaData) -> sa.Table:
    """Return the table `requests` of a service: answers that were given, by request id."""
    return sa.Table(
        "requests",
        metadata,
        sa.Column("request_id", pg.UUID(as_uuid=True), primary_key=True),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        columns.time("created_at"),
        sa.Index(None, "created_at"),
    )


async def run_once(
    conn: AsyncConnection,
    answers: sa.Table,
    method: str,
    request: Message,
    answer_type: type[Answer],
    act: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Act, or return the answer that was given to this request id before; both in the caller's transaction.

    A second call with the id waits here until the first one's transaction ends.
    """
    request_id = getattr(request, "request_id", "")
    if not request_id:
        return await act()
    key = uuid.UUID(request_id)
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    first = (
        upsert(answers)
        .values(request_id=key, method=method, request_hash=digest, response=b"")
        .on_conflict_do_nothing()
        .returning(answers.c.request_id)
    )
    if (await conn.execute(first)).one_or_none() is None:
        return await _replay(conn, answers, key, method, digest, answer_type)
    answer = await act()
    await conn.execute(answers.update().where(answers.c.request_id == key).values(response=answer.SerializeToString()))
    return answer


async def find_response(
    conn: AsyncConnection, answers: sa.Table, method: str, request: Message, answer_type: type[Answer]
) -> Answer | None:
    """Return the answer that was given to this request id before; None if there was none."""
    request_id = getattr(request, "request_id", "")
    if not request_id:
        return None
    key = uuid.UUID(request_id)
    if (await conn.execute(sa.select(answers.c.request_id).where(answers.c.request_id == key))).one_or_none() is None:
        return None
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return await _replay(conn, answers, key, method, digest, answer_type)


async def _replay(
    conn: AsyncConnection, answers: sa.Table, key: uuid.UUID, method: str, digest: bytes, answer_type: type[Answer]
) -> Answer:
    row = (await conn.execute(sa.select(answers).where(answers.c.request_id == key))).one_or_none()
    if row is None:
        raise errors.Unavailable("The answer to this request id has just expired; use a new id.")
    if row.method != method or row.request_hash != digest:
        raise errors.InvalidArgument(
            f"request_id {key} was used for a different {row.method} request; use a new id for a new request.",
            reason="REQUEST_ID_REUSED",
            violations=[errors.FieldViolation("request_id", "was used for a different request")],
        )
    return answer_type.FromString(row.response)


async def delete_expired(conn: AsyncConnection, answers: sa.Table, age: timedelta) -> None:
    """Drop answers older than `age`."""
    await conn.execute(answers.delete().where(answers.c.created_at < sa.func.clock_timestamp() - age))
