"""Rows of extractions and of their files."""

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.extractor.v1 import tasks_pb2
from services.extractor.server import resource_names, tables
from services.extractor.server.models import LIFECYCLE, Extraction
from services.extractor.server.settings import SERVICE_NAME
from services.records.holds import HoldStore
from services.records.repository import HoldingRepository

_files = tables.extraction_files


class ExtractionRepository(HoldingRepository[Extraction]):
    """Extractions, which hold their tokenization until they end."""

    holding = LIFECYCLE.live
    holds = HoldStore(tables.extraction_holds)
    """Who reads extractions right now."""

    async def replace_files(
        self, conn: AsyncConnection, uid: uuid.UUID, found: Sequence[tasks_pb2.ActivationFile]
    ) -> None:
        """Set the files of an extraction."""
        await conn.execute(_files.delete().where(_files.c.extraction_id == uid))
        rows = [
            {
                "extraction_id": uid,
                "ordinal": ordinal,
                "key": file.key,
                "num_rows": file.num_rows,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
            }
            for ordinal, file in enumerate(found)
        ]
        if rows:
            await conn.execute(_files.insert(), rows)


extractions = ExtractionRepository(
    tables.extractions,
    Extraction,
    SERVICE_NAME,
    parse_uid=resource_names.parse_uid,
    not_found_error=resource_names.not_found_error,
)
