"""The tables of one dataset with many tokenizations, as revision 0002 makes them.

`datasets` and `models` exist already in their old form, and their old and new columns share names but not meaning
(name, status, source, raw_path, metadata). So the new ones are made in the schema `rollout`, which comes first on the
search path of new code, and move to `public` once no old code is left.
"""

from services.catalog.server.migrations import shared_files

_RECORDS = (
    """
    CREATE TABLE rollout.datasets (
        id uuid NOT NULL,
        name text NOT NULL,
        source jsonb NOT NULL,
        raw_path text NOT NULL,
        num_samples bigint NOT NULL DEFAULT '0',
        size_bytes bigint NOT NULL DEFAULT '0',
        num_shards integer NOT NULL DEFAULT '0',
        columns jsonb NOT NULL DEFAULT '[]',
        features jsonb NOT NULL DEFAULT '{}',
        fingerprint text NOT NULL DEFAULT '',
        status text NOT NULL DEFAULT 'PENDING',
        progress double precision NOT NULL DEFAULT '0',
        error_reason text NOT NULL DEFAULT '',
        error_message text NOT NULL DEFAULT '',
        error jsonb NOT NULL DEFAULT '{}',
        metadata jsonb NOT NULL DEFAULT '{}',
        job_id uuid,
        commit text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        completed_at timestamptz,
        CONSTRAINT pk_datasets PRIMARY KEY (id),
        CONSTRAINT uq_datasets_name UNIQUE (name),
        CONSTRAINT ck_datasets_status
            CHECK (status IN ('PENDING', 'DOWNLOADING', 'PROCESSING', 'READY', 'ERROR', 'CANCELLED')),
        CONSTRAINT ck_datasets_progress CHECK (progress >= 0 AND progress <= 100)
    )
    """,
    "CREATE INDEX ix_datasets_created_at_id ON rollout.datasets (created_at, id)",
    "CREATE INDEX ix_datasets_job_id ON rollout.datasets (job_id)",
    """
    CREATE TABLE rollout.models (
        id text NOT NULL,
        name text NOT NULL,
        repo_id text NOT NULL,
        revision text NOT NULL DEFAULT '',
        commit text NOT NULL DEFAULT '',
        tokenizer_commit text NOT NULL DEFAULT '',
        chat_template_fingerprint text NOT NULL DEFAULT '',
        tokenizer_repo_id text NOT NULL DEFAULT '',
        tokenizer_fingerprint text NOT NULL DEFAULT '',
        tokenizer_class text NOT NULL DEFAULT '',
        vocab_size integer NOT NULL DEFAULT '0',
        special_tokens jsonb NOT NULL DEFAULT '[]',
        architecture text NOT NULL DEFAULT '',
        d_model integer NOT NULL DEFAULT '0',
        n_layers integer NOT NULL DEFAULT '0',
        context_length integer NOT NULL DEFAULT '0',
        status text NOT NULL DEFAULT 'PENDING',
        error_reason text NOT NULL DEFAULT '',
        error_message text NOT NULL DEFAULT '',
        error jsonb NOT NULL DEFAULT '{}',
        metadata jsonb NOT NULL DEFAULT '{}',
        job_id uuid,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_models PRIMARY KEY (id),
        CONSTRAINT uq_models_name UNIQUE (name),
        CONSTRAINT ck_models_status CHECK (status IN ('PENDING', 'READY', 'ERROR')),
        CONSTRAINT ck_models_id CHECK (id ~ '^m_[0-9a-f]{8}$')
    )
    """,
    "CREATE INDEX ix_models_created_at_id ON rollout.models (created_at, id)",
    "CREATE INDEX ix_models_job_id ON rollout.models (job_id)",
    """
    CREATE TABLE public.dataset_shards (
        dataset_id uuid NOT NULL,
        ordinal integer NOT NULL,
        key text NOT NULL,
        num_rows bigint NOT NULL DEFAULT '0',
        size_bytes bigint NOT NULL DEFAULT '0',
        sha256 text NOT NULL,
        text_bytes bigint NOT NULL DEFAULT '0',
        CONSTRAINT pk_dataset_shards PRIMARY KEY (dataset_id, ordinal),
        CONSTRAINT uq_dataset_shards_key UNIQUE (key),
        CONSTRAINT fk_dataset_shards_dataset_id_datasets
            FOREIGN KEY (dataset_id) REFERENCES rollout.datasets (id) ON DELETE CASCADE
    )
    """,
)

_TOKENIZATIONS = (
    """
    CREATE TABLE public.dataset_tokenizations (
        id text NOT NULL,
        dataset_id uuid NOT NULL,
        model_id text NOT NULL,
        variant text NOT NULL DEFAULT '',
        parameters jsonb NOT NULL DEFAULT '{}',
        tokenizer_repo_id text NOT NULL DEFAULT '',
        tokenizer_revision text NOT NULL DEFAULT '',
        tokenizer_fingerprint text NOT NULL DEFAULT '',
        tokenized_path text NOT NULL,
        vocab_size integer NOT NULL DEFAULT '0',
        num_tokens bigint NOT NULL DEFAULT '0',
        num_sequences bigint NOT NULL DEFAULT '0',
        avg_seq_length double precision NOT NULL DEFAULT '0',
        statistics jsonb NOT NULL DEFAULT '{}',
        manifest_digest text NOT NULL DEFAULT '',
        status text NOT NULL DEFAULT 'QUEUED',
        progress double precision NOT NULL DEFAULT '0',
        error_reason text NOT NULL DEFAULT '',
        error_message text NOT NULL DEFAULT '',
        error jsonb NOT NULL DEFAULT '{}',
        job_id uuid,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at timestamptz,
        completed_at timestamptz,
        chat_template_fingerprint text NOT NULL DEFAULT '',
        shared_from text,
        CONSTRAINT pk_dataset_tokenizations PRIMARY KEY (id),
        CONSTRAINT uq_dataset_tokenizations_dataset_id_model_id_variant UNIQUE (dataset_id, model_id, variant),
        CONSTRAINT fk_dataset_tokenizations_dataset_id_datasets
            FOREIGN KEY (dataset_id) REFERENCES rollout.datasets (id),
        CONSTRAINT fk_dataset_tokenizations_model_id_models FOREIGN KEY (model_id) REFERENCES rollout.models (id),
        CONSTRAINT ck_dataset_tokenizations_status
            CHECK (status IN ('QUEUED', 'PROCESSING', 'READY', 'ERROR', 'CANCELLED')),
        CONSTRAINT ck_dataset_tokenizations_progress CHECK (progress >= 0 AND progress <= 100)
    )
    """,
    "CREATE INDEX ix_dataset_tokenizations_created_at_id ON public.dataset_tokenizations (created_at, id)",
    "CREATE INDEX ix_dataset_tokenizations_model_id ON public.dataset_tokenizations (model_id)",
    "CREATE INDEX ix_dataset_tokenizations_job_id ON public.dataset_tokenizations (job_id)",
    """
    CREATE TABLE public.tokenization_files (
        tokenization_id text NOT NULL,
        ordinal integer NOT NULL,
        key text NOT NULL,
        num_rows bigint NOT NULL DEFAULT '0',
        size_bytes bigint NOT NULL DEFAULT '0',
        sha256 text NOT NULL,
        CONSTRAINT pk_tokenization_files PRIMARY KEY (tokenization_id, ordinal),
        CONSTRAINT uq_tokenization_files_key UNIQUE (key),
        CONSTRAINT fk_tokenization_files_tokenization_id_dataset_tokenizations
            FOREIGN KEY (tokenization_id) REFERENCES public.dataset_tokenizations (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE public.tokenization_holds (
        tokenization_id text NOT NULL,
        holder text NOT NULL,
        expires_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_tokenization_holds PRIMARY KEY (tokenization_id, holder),
        CONSTRAINT fk_tokenization_holds_tokenization_id_dataset_tokenizations
            FOREIGN KEY (tokenization_id) REFERENCES public.dataset_tokenizations (id) ON DELETE CASCADE
    )
    """,
    *shared_files.TABLES,
    """
    CREATE TABLE public.requests (
        request_id uuid NOT NULL,
        method text NOT NULL,
        request_hash bytea NOT NULL,
        response bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_requests PRIMARY KEY (request_id)
    )
    """,
    "CREATE INDEX ix_requests_created_at ON public.requests (created_at)",
)

_JOBS = (
    """
    CREATE TABLE public.jobs (
        id uuid NOT NULL,
        kind text NOT NULL,
        resource text NOT NULL,
        state text NOT NULL DEFAULT 'ACTIVE',
        stage integer NOT NULL DEFAULT '0',
        trace jsonb NOT NULL DEFAULT '{}',
        error_reason text,
        error_message text,
        error jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at timestamptz,
        finished_at timestamptz,
        CONSTRAINT pk_jobs PRIMARY KEY (id),
        CONSTRAINT ck_jobs_jobs_state_check CHECK (state IN ('ACTIVE', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
    )
    """,
    """
    CREATE TABLE public.job_tasks (
        id uuid NOT NULL,
        job_id uuid NOT NULL,
        stage integer NOT NULL DEFAULT '0',
        ordinal integer NOT NULL DEFAULT '0',
        kind text NOT NULL,
        payload bytea NOT NULL,
        weight bigint NOT NULL DEFAULT '0',
        state text NOT NULL DEFAULT 'READY',
        epoch bigint NOT NULL DEFAULT '0',
        attempts integer NOT NULL DEFAULT '0',
        max_attempts integer NOT NULL,
        dispatch bigint NOT NULL DEFAULT '1',
        not_before timestamptz NOT NULL DEFAULT clock_timestamp(),
        worker text,
        request_id uuid,
        lease_expires_at timestamptz,
        progress_done bigint NOT NULL DEFAULT '0',
        progress_total bigint NOT NULL DEFAULT '0',
        resume_point bytea NOT NULL DEFAULT '',
        result bytea,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz,
        CONSTRAINT pk_job_tasks PRIMARY KEY (id),
        CONSTRAINT job_tasks_place_key UNIQUE (job_id, stage, kind, ordinal),
        CONSTRAINT fk_job_tasks_job_id_jobs FOREIGN KEY (job_id) REFERENCES public.jobs (id) ON DELETE CASCADE,
        CONSTRAINT ck_job_tasks_job_tasks_state_check
            CHECK (state IN ('READY', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
    )
    """,
    "CREATE INDEX jobs_resource ON public.jobs (resource)",
    "CREATE INDEX job_tasks_leases ON public.job_tasks (lease_expires_at) WHERE state = 'RUNNING'",
    "CREATE INDEX job_tasks_ready ON public.job_tasks (not_before) WHERE state = 'READY'",
    """
    CREATE TABLE public.job_attempts (
        task_id uuid NOT NULL,
        epoch bigint NOT NULL,
        number integer NOT NULL,
        worker text NOT NULL,
        outcome text NOT NULL DEFAULT 'RUNNING',
        will_retry boolean,
        error_reason text,
        error_message text,
        error jsonb NOT NULL DEFAULT '{}',
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at timestamptz,
        CONSTRAINT pk_job_attempts PRIMARY KEY (task_id, epoch),
        CONSTRAINT fk_job_attempts_task_id_job_tasks
            FOREIGN KEY (task_id) REFERENCES public.job_tasks (id) ON DELETE CASCADE,
        CONSTRAINT ck_job_attempts_job_attempts_outcome_check
            CHECK (outcome IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'LOST', 'RELEASED', 'CANCELLED'))
    )
    """,
    """
    CREATE TABLE public.job_outbox (
        task_id uuid NOT NULL,
        dispatch bigint NOT NULL,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_job_outbox PRIMARY KEY (task_id, dispatch)
    )
    """,
    "CREATE INDEX job_outbox_due ON public.job_outbox (due_at)",
)

TABLES = (*_RECORDS, *_TOKENIZATIONS, *_JOBS)
"""Makes them."""

RELATIONS = (
    "rollout.datasets",
    "rollout.models",
    "public.dataset_shards",
    "public.dataset_tokenizations",
    "public.tokenization_files",
    "public.tokenization_holds",
    "public.tokenization_repairs",
    "public.requests",
    "public.jobs",
    "public.job_tasks",
    "public.job_attempts",
    "public.job_outbox",
)
"""Their names, each after those that it refers to."""
