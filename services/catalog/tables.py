"""The catalog's tables (DESIGN §3): the truth about datasets, models, tokenizations and their jobs.

Alembic (`services.catalog.migrations`) makes exactly these. All times come from the database's clock.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from services.runtime.jobs.tables import JobTables

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of the catalog, those of the job library included."""

jobs = JobTables(metadata)
"""The tables of the jobs that make the catalog's records."""


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _document(name: str, default: str) -> sa.Column[object]:
    return sa.Column(name, pg.JSONB, nullable=False, server_default=sa.text(f"'{default}'::jsonb"))


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp())


def _optional_time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _status(*states: str) -> tuple[sa.Column[str], sa.CheckConstraint]:
    listed = ", ".join(f"'{state}'" for state in states)
    return (
        sa.Column("status", sa.Text, nullable=False, server_default=states[0]),
        sa.CheckConstraint(f"status IN ({listed})", name="status"),
    )


def _progress() -> tuple[sa.Column[float], sa.CheckConstraint]:
    return (
        sa.Column("progress", sa.Double, nullable=False, server_default="0"),
        sa.CheckConstraint("progress >= 0 AND progress <= 100", name="progress"),
    )


datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # the id its creator chose
    sa.Column("source", pg.JSONB, nullable=False),  # a polytok.catalog.v1.DatasetSource
    sa.Column("raw_path", sa.Text, nullable=False),  # storage key of the folder
    _count("num_samples"),
    _count("size_bytes"),
    _small("num_shards"),
    _document("columns", "[]"),  # [{"name": …, "type": …}] in file order
    _document("features", "{}"),  # as `datasets` writes them
    _text("fingerprint"),
    *_status("PENDING", "DOWNLOADING", "PROCESSING", "READY", "ERROR", "CANCELLED"),
    *_progress(),
    _text("error_reason"),
    _text("error_message"),
    _document("metadata", "{}"),
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    _time("created_at"),
    _time("updated_at"),
    _optional_time("completed_at"),
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
    _count("num_rows"),
    _count("size_bytes"),
    sa.Column("sha256", sa.Text, nullable=False),
    _count("text_bytes"),
)
"""The raw Arrow files of a dataset, in the order of its rows."""

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # m_ and 8 hexadecimal digits
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("repo_id", sa.Text, nullable=False),
    _text("revision"),
    _text("tokenizer_repo_id"),
    _text("tokenizer_fingerprint"),
    _text("tokenizer_class"),
    _small("vocab_size"),
    _document("special_tokens", "[]"),  # [{"role": …, "text": …, "id": …}]
    _text("architecture"),
    _small("d_model"),
    _small("n_layers"),
    _small("context_length"),
    *_status("PENDING", "READY", "ERROR"),
    _text("error_reason"),
    _text("error_message"),
    _document("metadata", "{}"),
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    _time("created_at"),
    _time("updated_at"),
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
    _text("variant"),  # empty: the one that (dataset, model) resolves to
    _document("parameters", "{}"),  # a polytok.catalog.v1.TokenizationParameters, every default filled in
    _text("tokenizer_repo_id"),
    _text("tokenizer_revision"),
    _text("tokenizer_fingerprint"),
    sa.Column("tokenized_path", sa.Text, nullable=False),  # storage key of the folder
    _small("vocab_size"),
    _count("num_tokens"),
    _count("num_sequences"),
    sa.Column("avg_seq_length", sa.Double, nullable=False, server_default="0"),
    _document("statistics", "{}"),  # the other fields of polytok.catalog.v1.TokenizationStatistics
    _text("manifest_digest"),
    *_status("QUEUED", "PROCESSING", "READY", "ERROR", "CANCELLED"),
    *_progress(),
    _text("error_reason"),
    _text("error_message"),
    sa.Column("job_id", pg.UUID(as_uuid=True)),
    _time("created_at"),
    _time("updated_at"),
    _optional_time("started_at"),
    _optional_time("completed_at"),
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
    sa.Column("key", sa.Text, nullable=False, unique=True),
    _count("num_rows"),
    _count("size_bytes"),
    sa.Column("sha256", sa.Text, nullable=False),
)
"""The published Arrow files of a tokenization, in the order of its rows."""

tokenization_holds = sa.Table(
    "tokenization_holds",
    metadata,
    sa.Column(
        "tokenization_id",
        sa.Text,
        sa.ForeignKey("dataset_tokenizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("holder", sa.Text, primary_key=True),  # a resource name, such as `extractions/…`
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    _time("created_at"),
)
"""Who reads a tokenization right now, and until when at most: it is not deleted meanwhile."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    _time("created_at"),
    sa.Index(None, "created_at"),
)
"""Answers that were given, by request id (AIP-155)."""
