"""The extractor's tables, in the Postgres schema `extractor`: the truth about extractions and their jobs.

Alembic (`services.extractor.server.migrations`) makes exactly these. All times come from the database's clock.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from services.jobs.tables import JobTables
from services.records import columns, holds, idempotency

SCHEMA = "extractor"

metadata = sa.MetaData(schema=SCHEMA, naming_convention=columns.NAMING)
"""Every table of the extractor, those of the job library included."""

jobs = JobTables(metadata, SCHEMA)
"""The tables of the jobs that extract and estimate."""

answers = idempotency.table(metadata)
"""Answers that were given, by request id (AIP-155)."""

extractions = sa.Table(
    "extractions",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # the id its creator chose, or one made of what it is
    columns.text("dataset"),  # `datasets/{id}`
    columns.text("model"),  # `models/{id}`
    columns.text("variant"),
    columns.text("tokenization"),  # resource name
    columns.text("tokenization_uid"),
    columns.text("tokenization_key"),  # storage key of the folder that is read
    columns.text("tokenization_digest"),  # sha256 of its manifest
    columns.text("tokenizer_fingerprint"),
    columns.text("model_repo_id"),
    columns.text("model_revision"),
    columns.text("weights_fingerprint"),  # empty until the work is planned
    columns.text("code_version"),
    columns.document("parameters", "{}"),  # a polytok.extractor.v1.ExtractionParameters, every default filled in
    columns.document("excluded_token_ids", "[]"),
    sa.Column("path", sa.Text, nullable=False),  # storage key of the folder
    columns.document("statistics", "{}"),  # a polytok.extractor.v1.ExtractionStatistics
    columns.text("manifest_digest"),
    columns.count("expected_tokens"),  # 0 until the work is planned
    *columns.status("QUEUED", "PROCESSING", "READY", "ERROR", "CANCELLED"),
    *columns.progress(),
    columns.text("error_reason"),
    columns.text("error_message"),
    columns.document("error", "{}"),  # a polytok.errors.v1.Error
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),  # whether the tokenization is, by us
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    columns.time("created_at"),
    columns.time("updated_at"),
    columns.optional_time("started_at"),
    columns.optional_time("completed_at"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "job_id"),
    sa.Index("ix_extractions_held", "held", postgresql_where=sa.text("held")),
)
"""What a model computes on the way, for the tokens of one tokenization."""

extraction_files = sa.Table(
    "extraction_files",
    metadata,
    sa.Column(
        "extraction_id",
        pg.UUID(as_uuid=True),
        sa.ForeignKey(f"{SCHEMA}.extractions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    columns.count("num_rows"),
    columns.count("size_bytes"),
    sa.Column("sha256", sa.Text, nullable=False),
)
"""The published files of an extraction: the Arrow files in the order of its rows, and its vectors last."""

extraction_holds = holds.table(
    metadata,
    "extraction_holds",
    sa.Column(
        "extraction_id",
        pg.UUID(as_uuid=True),
        sa.ForeignKey(f"{SCHEMA}.extractions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
)
"""Who reads an extraction right now, and until when at most: it is not deleted meanwhile."""
