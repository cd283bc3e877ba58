"""The catalog's tables: the truth about datasets, models, tokenizations and their jobs.

Alembic (`services.catalog.server.migrations`) makes exactly these. All times come from the database's clock.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from services.jobs.tables import JobTables
from services.records import columns, holds, idempotency

metadata = sa.MetaData(naming_convention=columns.NAMING)
"""Every table of the catalog, those of the job library included."""

jobs = JobTables(metadata)
"""The tables of the jobs that make the catalog's records."""


datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # the id its creator chose
    sa.Column("source", pg.JSONB, nullable=False),  # a polytok.catalog.v1.DatasetSource
    sa.Column("raw_path", sa.Text, nullable=False),  # storage key of the folder
    columns.count("num_samples"),
    columns.count("size_bytes"),
    columns.small("num_shards"),
    columns.document("columns", "[]"),  # [{"name": …, "type": …}] in file order
    columns.document("features", "{}"),  # as `datasets` writes them
    columns.text("fingerprint"),
    columns.text("commit"),  # of the hub's repository that was read
    *columns.status("PENDING", "DOWNLOADING", "PROCESSING", "READY", "ERROR", "CANCELLED"),
    *columns.progress(),
    columns.text("error_reason"),
    columns.text("error_message"),
    columns.document("error", "{}"),  # a polytok.errors.v1.Error
    columns.document("metadata", "{}"),
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    columns.time("created_at"),
    columns.time("updated_at"),
    columns.optional_time("completed_at"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "job_id"),
)
"""Corpora and where they stand. Tokenizing never changes a row here."""

dataset_shards = sa.Table(
    "dataset_shards",
    metadata,
    sa.Column("dataset_id", pg.UUID(as_uuid=True), sa.ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    columns.count("num_rows"),
    columns.count("size_bytes"),
    sa.Column("sha256", sa.Text, nullable=False),
    columns.count("text_bytes"),
)
"""The raw Arrow files of a dataset, in the order of its rows."""

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # m_ and 8 hexadecimal digits
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("repo_id", sa.Text, nullable=False),
    columns.text("revision"),
    columns.text("commit"),  # of the hub's repository, as the revision named it when the model was registered
    columns.text("tokenizer_repo_id"),
    columns.text("tokenizer_commit"),
    columns.text("tokenizer_fingerprint"),
    columns.text("chat_template_fingerprint"),
    columns.text("tokenizer_class"),
    columns.small("vocab_size"),
    columns.document("special_tokens", "[]"),  # [{"role": …, "text": …, "id": …}]
    columns.text("architecture"),
    columns.small("d_model"),
    columns.small("n_layers"),
    columns.small("context_length"),
    *columns.status("PENDING", "READY", "ERROR"),
    columns.text("error_reason"),
    columns.text("error_message"),
    columns.document("error", "{}"),  # a polytok.errors.v1.Error
    columns.document("metadata", "{}"),
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    columns.time("created_at"),
    columns.time("updated_at"),
    sa.CheckConstraint("id ~ '^m_[0-9a-f]{8}$'", name="id"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "job_id"),
)
"""Models, and what their tokenizers are."""

dataset_tokenizations = sa.Table(
    "dataset_tokenizations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # tok_{dataset_id}_{model_id}, and _{variant}
    sa.Column("dataset_id", pg.UUID(as_uuid=True), sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("model_id", sa.Text, sa.ForeignKey("models.id"), nullable=False),
    columns.text("variant"),  # empty: the one that (dataset, model) resolves to
    columns.document("parameters", "{}"),  # a polytok.catalog.v1.TokenizationParameters, every default filled in
    columns.text("tokenizer_repo_id"),
    columns.text("tokenizer_revision"),
    columns.text("tokenizer_fingerprint"),
    columns.text("chat_template_fingerprint"),  # empty where the tokenizer's own template renders nothing
    sa.Column("tokenized_path", sa.Text, nullable=False),  # storage key of the folder
    columns.small("vocab_size"),
    columns.count("num_tokens"),
    columns.count("num_sequences"),
    sa.Column("avg_seq_length", sa.Double, nullable=False, server_default="0"),
    columns.document("statistics", "{}"),  # the other fields of polytok.catalog.v1.TokenizationStatistics
    columns.text("manifest_digest"),
    *columns.status("QUEUED", "PROCESSING", "READY", "ERROR", "CANCELLED"),
    *columns.progress(),
    columns.text("error_reason"),
    columns.text("error_message"),
    columns.document("error", "{}"),  # a polytok.errors.v1.Error
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    columns.time("created_at"),
    columns.time("updated_at"),
    columns.optional_time("started_at"),
    columns.optional_time("completed_at"),
    sa.Column("shared_from", sa.Text),  # resource name of the tokenization that made the files; null: this one
    sa.UniqueConstraint("dataset_id", "model_id", "variant"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "model_id"),
    sa.Index(None, "job_id"),
)
"""One dataset as token ids for one model."""

tokenization_files = sa.Table(
    "tokenization_files",
    metadata,
    sa.Column(
        "tokenization_id",
        sa.Text,
        sa.ForeignKey("dataset_tokenizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, index=True),
    columns.count("num_rows"),
    columns.count("size_bytes"),
    sa.Column("sha256", sa.Text, nullable=False),
)
"""The published Arrow files of a tokenization, in the order of its rows. Several tokenizations may share them."""

tokenization_repairs = sa.Table(
    "tokenization_repairs",
    metadata,
    sa.Column(
        "tokenization_id",
        sa.Text,
        sa.ForeignKey("dataset_tokenizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("tokenized_path", sa.Text, nullable=False, index=True),  # the folder that is repaired
    *columns.status("QUEUED", "PROCESSING", "DONE", "ERROR", "CANCELLED"),
    *columns.progress(),
    columns.text("error_reason"),
    columns.text("error_message"),
    columns.document("error", "{}"),  # a polytok.errors.v1.Error
    columns.document("outcome", "{}"),  # what was found and done: fields of a polytok.catalog.v1.Repair
    sa.Column("job_id", pg.UUID(as_uuid=True), index=True),
    columns.time("created_at"),
    columns.time("updated_at"),
    columns.optional_time("completed_at"),
)
"""The last repair of a tokenization's files. What is repaired stays READY."""

distrusted_engines = sa.Table(
    "distrusted_engines",
    metadata,
    sa.Column("tokenizer_fingerprint", sa.Text, primary_key=True),
    sa.Column("engine", sa.Text, primary_key=True),  # with its version: `gigatoken 0.10.0`
    columns.text("detail"),  # what it did
    columns.text("found_in"),  # resource name of the tokenization in which that was found
    columns.time("created_at"),
)
"""Fast engines that gave other ids than the reference for a tokenizer: nothing that they make of it is published."""

tokenization_holds = holds.table(
    metadata,
    "tokenization_holds",
    sa.Column(
        "tokenization_id",
        sa.Text,
        sa.ForeignKey("dataset_tokenizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
)
"""Who reads a tokenization right now, and until when at most: it is not deleted meanwhile."""

answers = idempotency.table(metadata)
"""Answers that were given, by request id (AIP-155)."""
