"""Rows of datasets and of their raw shards."""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import names, not_found, records
from services.catalog.server.settings import SERVICE_NAME
from services.records.repository import ChosenIdRepository

_shards = tables.dataset_shards


class DatasetRepository(ChosenIdRepository[records.Dataset]):
    """Datasets and their raw shards."""

    async def shards(self, conn: AsyncConnection, dataset_id: uuid.UUID) -> list[records.Shard]:
        """Read the raw shards of a dataset, in the order of its rows."""
        columns = (_shards.c.key, _shards.c.num_rows, _shards.c.size_bytes, _shards.c.sha256, _shards.c.text_bytes)
        statement = sa.select(*columns).where(_shards.c.dataset_id == dataset_id).order_by(_shards.c.ordinal)
        return [records.Shard(*row) for row in await conn.execute(statement)]

    async def replace_shards(self, conn: AsyncConnection, uid: uuid.UUID, files: Sequence[records.Shard]) -> None:
        """Set the raw shards of a dataset."""
        await conn.execute(_shards.delete().where(_shards.c.dataset_id == uid))
        if files:
            rows = [
                {
                    "dataset_id": uid,
                    "ordinal": ordinal,
                    "key": file.key,
                    "num_rows": file.num_rows,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                    "text_bytes": file.text_bytes,
                }
                for ordinal, file in enumerate(files)
            ]
            await conn.execute(_shards.insert(), rows)


datasets = DatasetRepository(
    tables.datasets, records.Dataset, SERVICE_NAME, parse_uid=names.dataset_uid, not_found_error=not_found.dataset
)
