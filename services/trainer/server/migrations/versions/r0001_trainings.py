"""Trainings, their metrics and checkpoints, and the jobs that train."""

from alembic import op

from polytok import errors

revision = "0001"
down_revision = None
phase = "pre"

_NAMES = (
    "training_checkpoints",
    "training_metrics",
    "trainings",
    "requests",
    "job_outbox",
    "job_attempts",
    "job_tasks",
    "jobs",
)

_MADE = (
    """
    CREATE TABLE trainer.jobs (
        id UUID NOT NULL,
        kind TEXT NOT NULL,
        resource TEXT NOT NULL,
        state TEXT DEFAULT 'ACTIVE' NOT NULL,
        stage INTEGER DEFAULT '0' NOT NULL,
        trace JSONB DEFAULT '{}' NOT NULL,
        error_reason TEXT,
        error_message TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_jobs PRIMARY KEY (id),
        CONSTRAINT ck_jobs_jobs_state_check CHECK (state IN ('ACTIVE', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
    )
    """,
    "CREATE INDEX jobs_resource ON trainer.jobs (resource)",
    """
    CREATE TABLE trainer.job_tasks (
        id UUID NOT NULL,
        job_id UUID NOT NULL,
        stage INTEGER DEFAULT '0' NOT NULL,
        ordinal INTEGER DEFAULT '0' NOT NULL,
        kind TEXT NOT NULL,
        payload BYTEA NOT NULL,
        weight BIGINT DEFAULT '0' NOT NULL,
        state TEXT DEFAULT 'READY' NOT NULL,
        epoch BIGINT DEFAULT '0' NOT NULL,
        attempts INTEGER DEFAULT '0' NOT NULL,
        max_attempts INTEGER NOT NULL,
        dispatch BIGINT DEFAULT '1' NOT NULL,
        not_before TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        worker TEXT,
        request_id UUID,
        lease_expires_at TIMESTAMP WITH TIME ZONE,
        progress_done BIGINT DEFAULT '0' NOT NULL,
        progress_total BIGINT DEFAULT '0' NOT NULL,
        resume_point BYTEA DEFAULT '' NOT NULL,
        result BYTEA,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_job_tasks PRIMARY KEY (id),
        CONSTRAINT job_tasks_place_key UNIQUE (job_id, stage, kind, ordinal),
        CONSTRAINT ck_job_tasks_job_tasks_state_check CHECK (state IN ('READY', 'RUNNING', 'SUCCEEDED',
            'FAILED', 'CANCELLED')),
        CONSTRAINT fk_job_tasks_job_id_jobs FOREIGN KEY(job_id) REFERENCES trainer.jobs (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX job_tasks_leases ON trainer.job_tasks (lease_expires_at) WHERE state = 'RUNNING'",
    "CREATE INDEX job_tasks_ready ON trainer.job_tasks (not_before) WHERE state = 'READY'",
    """
    CREATE TABLE trainer.job_attempts (
        task_id UUID NOT NULL,
        epoch BIGINT NOT NULL,
        number INTEGER NOT NULL,
        worker TEXT NOT NULL,
        outcome TEXT DEFAULT 'RUNNING' NOT NULL,
        will_retry BOOLEAN,
        error_reason TEXT,
        error_message TEXT,
        started_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        ended_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_job_attempts PRIMARY KEY (task_id, epoch),
        CONSTRAINT ck_job_attempts_job_attempts_outcome_check CHECK (outcome IN ('RUNNING', 'SUCCEEDED',
            'FAILED', 'LOST', 'RELEASED', 'CANCELLED')),
        CONSTRAINT fk_job_attempts_task_id_job_tasks FOREIGN KEY(task_id) REFERENCES trainer.job_tasks (id)
            ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE trainer.job_outbox (
        task_id UUID NOT NULL,
        dispatch BIGINT NOT NULL,
        due_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_job_outbox PRIMARY KEY (task_id, dispatch)
    )
    """,
    "CREATE INDEX job_outbox_due ON trainer.job_outbox (due_at)",
    """
    CREATE TABLE trainer.requests (
        request_id UUID NOT NULL,
        method TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        response BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_requests PRIMARY KEY (request_id)
    )
    """,
    "CREATE INDEX ix_requests_created_at ON trainer.requests (created_at)",
    """
    CREATE TABLE trainer.trainings (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        source JSONB NOT NULL,
        saes JSONB NOT NULL,
        parameters JSONB NOT NULL,
        lineage JSONB DEFAULT '{}'::jsonb NOT NULL,
        source_key TEXT DEFAULT '' NOT NULL,
        tokenization_key TEXT DEFAULT '' NOT NULL,
        vocab_size INTEGER DEFAULT '0' NOT NULL,
        tokenizer_fingerprint TEXT DEFAULT '' NOT NULL,
        excluded_token_ids JSONB DEFAULT '[]'::jsonb NOT NULL,
        status TEXT DEFAULT 'QUEUED' NOT NULL,
        pause_requested BOOLEAN DEFAULT false NOT NULL,
        progress DOUBLE PRECISION DEFAULT '0' NOT NULL,
        step BIGINT DEFAULT '0' NOT NULL,
        total_steps BIGINT DEFAULT '0' NOT NULL,
        cursor BIGINT DEFAULT '0' NOT NULL,
        result_key TEXT DEFAULT '' NOT NULL,
        results JSONB DEFAULT '[]'::jsonb NOT NULL,
        manifest_digest TEXT DEFAULT '' NOT NULL,
        error_reason TEXT DEFAULT '' NOT NULL,
        error_message TEXT DEFAULT '' NOT NULL,
        held BOOLEAN DEFAULT false NOT NULL,
        job_id UUID,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        completed_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_trainings PRIMARY KEY (id),
        CONSTRAINT ck_trainings_status CHECK (status IN ('QUEUED', 'PROCESSING', 'PAUSED', 'READY',
            'ERROR', 'CANCELLED')),
        CONSTRAINT ck_trainings_progress CHECK (progress >= 0 AND progress <= 100),
        CONSTRAINT uq_trainings_name UNIQUE (name)
    )
    """,
    "CREATE INDEX ix_trainings_created_at_id ON trainer.trainings (created_at, id)",
    "CREATE INDEX ix_trainings_held ON trainer.trainings (held) WHERE held",
    "CREATE INDEX ix_trainings_job_id ON trainer.trainings (job_id)",
    """
    CREATE TABLE trainer.training_metrics (
        training_id UUID NOT NULL,
        sae TEXT NOT NULL,
        step BIGINT NOT NULL,
        kind TEXT NOT NULL,
        attempt TEXT NOT NULL,
        seq BIGINT GENERATED ALWAYS AS IDENTITY,
        samples BIGINT DEFAULT '0' NOT NULL,
        figures JSONB NOT NULL,
        CONSTRAINT pk_training_metrics PRIMARY KEY (training_id, sae, step, kind),
        CONSTRAINT ck_training_metrics_kind CHECK (kind IN ('training', 'evaluation')),
        CONSTRAINT fk_training_metrics_training_id_trainings FOREIGN KEY(training_id) REFERENCES
            trainer.trainings (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_training_metrics_training_id_seq ON trainer.training_metrics (training_id, seq)",
    "CREATE INDEX ix_training_metrics_place ON trainer.training_metrics (training_id, step, sae, kind)",
    """
    CREATE TABLE trainer.training_checkpoints (
        training_id UUID NOT NULL,
        step BIGINT NOT NULL,
        key TEXT NOT NULL,
        size_bytes BIGINT DEFAULT '0' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_training_checkpoints PRIMARY KEY (training_id, step),
        CONSTRAINT fk_training_checkpoints_training_id_trainings FOREIGN KEY(training_id) REFERENCES
            trainer.trainings (id) ON DELETE CASCADE
    )
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _MADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables, unless they hold something."""
    rows = op.get_bind().exec_driver_sql("SELECT count(*) FROM trainer.trainings").scalar_one()
    if rows:
        raise errors.FailedPrecondition(
            f"Going below revision 0001 would drop {rows} trainings. Delete them first (`polytok training delete`)."
        )
    for table in _NAMES:
        op.execute(f"DROP TABLE trainer.{table}")
