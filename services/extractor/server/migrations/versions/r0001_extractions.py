"""Extractions, their files, and the jobs that extract."""

from alembic import op

from polytok import errors

revision = "0001"
down_revision = None
phase = "pre"

_NAMES = (
    "job_attempts",
    "job_tasks",
    "extraction_files",
    "requests",
    "jobs",
    "job_outbox",
    "extractions",
)

_MADE = (
    """
    CREATE TABLE extractor.extractions (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        dataset TEXT DEFAULT '' NOT NULL,
        model TEXT DEFAULT '' NOT NULL,
        variant TEXT DEFAULT '' NOT NULL,
        tokenization TEXT DEFAULT '' NOT NULL,
        tokenization_uid TEXT DEFAULT '' NOT NULL,
        tokenization_key TEXT DEFAULT '' NOT NULL,
        tokenization_digest TEXT DEFAULT '' NOT NULL,
        tokenizer_fingerprint TEXT DEFAULT '' NOT NULL,
        model_repo_id TEXT DEFAULT '' NOT NULL,
        model_revision TEXT DEFAULT '' NOT NULL,
        code_version TEXT DEFAULT '' NOT NULL,
        parameters JSONB DEFAULT '{}'::jsonb NOT NULL,
        excluded_token_ids JSONB DEFAULT '[]'::jsonb NOT NULL,
        path TEXT NOT NULL,
        statistics JSONB DEFAULT '{}'::jsonb NOT NULL,
        manifest_digest TEXT DEFAULT '' NOT NULL,
        expected_tokens BIGINT DEFAULT '0' NOT NULL,
        status TEXT DEFAULT 'QUEUED' NOT NULL,
        progress DOUBLE PRECISION DEFAULT '0' NOT NULL,
        error_reason TEXT DEFAULT '' NOT NULL,
        error_message TEXT DEFAULT '' NOT NULL,
        held BOOLEAN DEFAULT false NOT NULL,
        job_id UUID,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        completed_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_extractions PRIMARY KEY (id),
        CONSTRAINT ck_extractions_status CHECK (status IN ('QUEUED', 'PROCESSING', 'READY', 'ERROR', 'CANCELLED')),
        CONSTRAINT ck_extractions_progress CHECK (progress >= 0 AND progress <= 100),
        CONSTRAINT uq_extractions_name UNIQUE (name)
    )
    """,
    "CREATE INDEX ix_extractions_created_at_id ON extractor.extractions (created_at, id)",
    "CREATE INDEX ix_extractions_held ON extractor.extractions (held) WHERE held",
    "CREATE INDEX ix_extractions_job_id ON extractor.extractions (job_id)",
    """
    CREATE TABLE extractor.job_outbox (
        task_id UUID NOT NULL,
        dispatch BIGINT NOT NULL,
        due_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_job_outbox PRIMARY KEY (task_id, dispatch)
    )
    """,
    "CREATE INDEX job_outbox_due ON extractor.job_outbox (due_at)",
    """
    CREATE TABLE extractor.jobs (
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
    "CREATE INDEX jobs_resource ON extractor.jobs (resource)",
    """
    CREATE TABLE extractor.requests (
        request_id UUID NOT NULL,
        method TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        response BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_requests PRIMARY KEY (request_id)
    )
    """,
    "CREATE INDEX ix_requests_created_at ON extractor.requests (created_at)",
    """
    CREATE TABLE extractor.extraction_files (
        extraction_id UUID NOT NULL,
        ordinal INTEGER NOT NULL,
        key TEXT NOT NULL,
        num_rows BIGINT DEFAULT '0' NOT NULL,
        size_bytes BIGINT DEFAULT '0' NOT NULL,
        sha256 TEXT NOT NULL,
        CONSTRAINT pk_extraction_files PRIMARY KEY (extraction_id, ordinal),
        CONSTRAINT fk_extraction_files_extraction_id_extractions FOREIGN KEY(extraction_id)
            REFERENCES extractor.extractions (id) ON DELETE CASCADE,
        CONSTRAINT uq_extraction_files_key UNIQUE (key)
    )
    """,
    """
    CREATE TABLE extractor.job_tasks (
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
        CONSTRAINT ck_job_tasks_job_tasks_state_check CHECK (state IN ('READY', 'RUNNING',
            'SUCCEEDED', 'FAILED', 'CANCELLED')),
        CONSTRAINT fk_job_tasks_job_id_jobs FOREIGN KEY(job_id) REFERENCES extractor.jobs (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX job_tasks_leases ON extractor.job_tasks (lease_expires_at) WHERE state = 'RUNNING'",
    "CREATE INDEX job_tasks_ready ON extractor.job_tasks (not_before) WHERE state = 'READY'",
    """
    CREATE TABLE extractor.job_attempts (
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
        CONSTRAINT fk_job_attempts_task_id_job_tasks FOREIGN KEY(task_id)
            REFERENCES extractor.job_tasks (id) ON DELETE CASCADE
    )
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _MADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables, unless they hold something."""
    rows = op.get_bind().exec_driver_sql("SELECT count(*) FROM extractor.extractions").scalar_one()
    if rows:
        raise errors.FailedPrecondition(
            f"Going below revision 0001 would drop every extraction, and there are {rows}. Delete them first."
        )
    for name in _NAMES:
        op.execute(f"DROP TABLE extractor.{name}")
