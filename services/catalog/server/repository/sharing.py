"""Rows of tokenizations that have, or can have, their files in common."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import records
from services.catalog.server.repository.tokenizations import tokenizations
from services.jobs import failures

_table = tables.dataset_tokenizations
_files = tables.tokenization_files
_engines = tables.distrusted_engines

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))")
_ALLOWED = sa.text("SELECT to_regclass('public.uq_tokenization_files_key') IS NULL")


async def is_allowed(conn: AsyncConnection) -> bool:
    """Return whether files may be shared: not before the end of a rollout from a version that knows no sharing."""
    return bool((await conn.execute(_ALLOWED)).scalar_one())


async def lock(conn: AsyncConnection, record: records.Tokenization) -> None:
    """Let one transaction at a time decide who makes the files of a tokenizer's content on a dataset."""
    await conn.execute(_LOCK, {"key": f"{record.dataset_id} {record.tokenizer_fingerprint}"})


async def alike(conn: AsyncConnection, record: records.Tokenization) -> list[records.Tokenization]:
    """Other tokenizations of the dataset by a tokenizer of the same content with the same parameters.

    READY ones first, then those that a job is at; the oldest of each first.
    """
    return await tokenizations.find_all(
        conn,
        _table.c.dataset_id == record.dataset_id,
        _table.c.tokenizer_fingerprint == record.tokenizer_fingerprint,
        _table.c.id != record.id,
        _compared(_table.c.parameters) == _compared(sa.cast(sa.literal(dict(record.parameters), pg.JSONB), pg.JSONB)),
        sa.or_(
            sa.and_(_table.c.status == "READY", _table.c.manifest_digest != "", ~_is_distrusted()),
            sa.and_(_table.c.status.in_(("QUEUED", "PROCESSING")), _table.c.job_id.is_not(None)),
        ),
        order=(_table.c.status != "READY", _table.c.created_at, _table.c.id),
    )


def _is_distrusted() -> sa.ColumnElement[bool]:
    """Return whether an engine made the files that gave other ids than the reference somewhere since."""
    return sa.exists().where(
        _engines.c.tokenizer_fingerprint == _table.c.tokenizer_fingerprint,
        _table.c.statistics["engine_versions"].op("?")(_engines.c.engine),
    )


def _compared(parameters: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    # Why the text column was chosen changes nothing that is in the files.
    return parameters.op("-")(sa.cast("column_choice", sa.Text))


async def is_others(conn: AsyncConnection, path: str, uid: str) -> bool:
    """Return whether a folder is that of another tokenization."""
    statement = sa.select(sa.literal(1)).where(_table.c.tokenized_path == path, _table.c.id != uid).limit(1)
    return (await conn.execute(statement)).first() is not None


async def of_folder(conn: AsyncConnection, path: str) -> list[records.Tokenization]:
    """Return the READY tokenizations whose files are in a folder: the one that made them first, then the oldest."""
    return await tokenizations.find_all(
        conn,
        _table.c.tokenized_path == path,
        _table.c.status == "READY",
        order=(_table.c.shared_from.is_not(None), _table.c.created_at, _table.c.id),
    )


async def waiting(conn: AsyncConnection) -> list[str]:
    """Return the uids of tokenizations that wait for another's files, the oldest first."""
    statement = (
        sa.select(_table.c.id)
        .where(_table.c.status == "QUEUED", _table.c.job_id.is_(None))
        .order_by(_table.c.created_at, _table.c.id)
    )
    return list((await conn.execute(statement)).scalars())


async def take_files(conn: AsyncConnection, uid: str, source: records.Tokenization) -> None:
    """Give a tokenization the files, the folder and the statistics of another, and make it READY."""
    await conn.execute(_files.delete().where(_files.c.tokenization_id == uid))
    columns = [_files.c.ordinal, _files.c.key, _files.c.num_rows, _files.c.size_bytes, _files.c.sha256]
    rows = sa.select(sa.literal(uid), *columns).where(_files.c.tokenization_id == source.id)
    await conn.execute(_files.insert().from_select(["tokenization_id", *(column.name for column in columns)], rows))
    now = sa.func.clock_timestamp()
    await tokenizations.update(
        conn,
        uid,
        status="READY",
        progress=100.0,
        shared_from=source.shared_from or source.resource,
        tokenized_path=source.tokenized_path,
        vocab_size=source.vocab_size,
        num_tokens=source.num_tokens,
        num_sequences=source.num_sequences,
        avg_seq_length=source.avg_seq_length,
        statistics=source.statistics,
        manifest_digest=source.manifest_digest,
        job_id=None,
        **failures.NO_ERROR,
        started_at=now,
        completed_at=now,
    )
