"""The trainer's tables, in the Postgres schema `trainer`: the truth about trainings, their metrics and their jobs.

Alembic (`services.trainer.server.migrations`) makes exactly these. All times come from the database's clock.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from services.jobs.tables import JobTables
from services.records import columns, idempotency

SCHEMA = "trainer"

metadata = sa.MetaData(schema=SCHEMA, naming_convention=columns.NAMING)
"""Every table of the trainer, those of the job library included."""

jobs = JobTables(metadata, SCHEMA)
"""The tables of the jobs that train."""

answers = idempotency.table(metadata)
"""Answers that were given, by request id (AIP-155)."""


def _training_id() -> sa.Column[object]:
    key = sa.ForeignKey(f"{SCHEMA}.trainings.id", ondelete="CASCADE")
    return sa.Column("training_id", pg.UUID(as_uuid=True), key, primary_key=True)


trainings = sa.Table(
    "trainings",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # the id its creator chose
    sa.Column("source", pg.JSONB, nullable=False),  # a polytok.trainer.v1.TrainingSource
    sa.Column("saes", pg.JSONB, nullable=False),  # a list of polytok.trainer.v1.Sae, every default filled in
    sa.Column("parameters", pg.JSONB, nullable=False),  # a polytok.trainer.v1.TrainingParameters, likewise
    columns.document("lineage", "{}"),  # a polytok.trainer.v1.TrainingLineage
    columns.text("source_key"),  # storage key of what is read
    columns.text("tokenization_key"),  # storage key of the tokenization's folder; empty where it is gone
    columns.small("vocab_size"),
    columns.text("tokenizer_fingerprint"),
    *columns.status("QUEUED", "PROCESSING", "PAUSED", "READY", "ERROR", "CANCELLED"),
    sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    *columns.progress(),
    columns.count("step"),  # from the last report
    columns.text("phase"),  # a polytok.trainer.v1.Training.Phase without its prefix, while it is PROCESSING
    sa.Column("phase_progress", sa.Double, nullable=False, server_default="0"),
    columns.count("total_steps"),
    columns.count("cursor"),  # the highest seq of its metrics
    columns.text("result_key"),  # storage key of the folder of autoencoders, once they are published
    columns.document("results", "[]"),  # a list of polytok.trainer.v1.TrainedSae
    columns.text("manifest_digest"),
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
    sa.Index("ix_trainings_held", "held", postgresql_where=sa.text("held")),
)
"""Sparse autoencoders, learned from the activations of one model over one tokenization."""

metrics = sa.Table(
    "training_metrics",
    metadata,
    _training_id(),
    sa.Column("sae", sa.Text, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Text, nullable=False),  # job and epoch of the lease under which it was measured
    sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False),  # grows with every row and change
    columns.count("samples"),
    sa.Column("figures", pg.JSONB, nullable=False),  # a polytok.trainer.v1.StepFigures or EvaluationFigures
    sa.CheckConstraint("kind IN ('training', 'evaluation')", name="kind"),
    sa.Index(None, "training_id", "seq"),
    sa.Index("ix_training_metrics_place", "training_id", "step", "sae", "kind"),
)
"""What autoencoders looked like along their training, a row a step."""

checkpoints = sa.Table(
    "training_checkpoints",
    metadata,
    _training_id(),
    sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False),
    columns.count("size_bytes"),
    columns.time("created_at"),
)
"""States that trainings can go on from."""
