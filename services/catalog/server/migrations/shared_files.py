"""Files that several tokenizations share: what new code needs for them, and how they fare under code that knows none.

Old code believes that a file belongs to one tokenization (its key is unique), and that the folder of a tokenization
that it makes is its own. So new code shares nothing before the key may repeat, which is when no old code is left. On
the way back every shared file stays listed once; who else shares it waits in the schema `sharing`, and triggers see to
it that the list passes on when its holder is deleted, and that no new tokenization takes a folder that is in use.
"""

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS public.tokenization_repairs (
        tokenization_id text NOT NULL,
        tokenized_path text NOT NULL,
        status text NOT NULL DEFAULT 'QUEUED',
        progress double precision NOT NULL DEFAULT '0',
        error_reason text NOT NULL DEFAULT '',
        error_message text NOT NULL DEFAULT '',
        error jsonb NOT NULL DEFAULT '{}',
        outcome jsonb NOT NULL DEFAULT '{}',
        job_id uuid,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        completed_at timestamptz,
        CONSTRAINT pk_tokenization_repairs PRIMARY KEY (tokenization_id),
        CONSTRAINT fk_tokenization_repairs_tokenization_id_dataset_tokenizations
            FOREIGN KEY (tokenization_id) REFERENCES public.dataset_tokenizations (id) ON DELETE CASCADE,
        CONSTRAINT ck_tokenization_repairs_status
            CHECK (status IN ('QUEUED', 'PROCESSING', 'DONE', 'ERROR', 'CANCELLED')),
        CONSTRAINT ck_tokenization_repairs_progress CHECK (progress >= 0 AND progress <= 100)
    )
    """,
    "CREATE INDEX IF NOT EXISTS ix_tokenization_repairs_job_id ON public.tokenization_repairs (job_id)",
    "CREATE INDEX IF NOT EXISTS ix_tokenization_repairs_tokenized_path ON public.tokenization_repairs (tokenized_path)",
)
"""What is new beside the tables that there are; nothing where a rollout from the version before made it already."""

COLUMN = "ALTER TABLE public.dataset_tokenizations ADD COLUMN IF NOT EXISTS shared_from text"

INDEX = "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_tokenization_files_key ON public.tokenization_files (key)"
INVALID_INDEX = """
    SELECT EXISTS (
        SELECT FROM pg_index WHERE indexrelid = to_regclass('public.ix_tokenization_files_key') AND NOT indisvalid
    )
"""
"""Whether a CREATE INDEX CONCURRENTLY was interrupted and left its ruin."""
DROPPED_INDEX = "DROP INDEX IF EXISTS public.ix_tokenization_files_key"

REPEATING = "ALTER TABLE public.tokenization_files DROP CONSTRAINT uq_tokenization_files_key"
UNIQUE = "ALTER TABLE public.tokenization_files ADD CONSTRAINT uq_tokenization_files_key UNIQUE (key)"

PUT_BACK = (
    "DROP TRIGGER IF EXISTS pass_on ON public.tokenization_files",
    "DROP TRIGGER IF EXISTS take_a_free_folder ON public.dataset_tokenizations",
    """
    INSERT INTO public.tokenization_files SELECT f.* FROM sharing.files AS f
    WHERE EXISTS (SELECT FROM public.dataset_tokenizations AS t WHERE t.id = f.tokenization_id)
    ON CONFLICT DO NOTHING
    """,
    "DROP SCHEMA sharing CASCADE",
)
"""Lists the shared files again for all who share them."""
IS_PUT_ASIDE = "SELECT to_regclass('sharing.files') IS NOT NULL"

IS_SHARED = "SELECT EXISTS (SELECT FROM public.tokenization_files GROUP BY key HAVING count(*) > 1)"
PUT_ASIDE = (
    "CREATE SCHEMA sharing",
    """
    CREATE TABLE sharing.files AS SELECT f.* FROM public.tokenization_files AS f
    WHERE EXISTS (
        SELECT FROM public.tokenization_files AS o WHERE o.key = f.key AND o.tokenization_id < f.tokenization_id
    )
    """,
    "CREATE INDEX ON sharing.files (key)",
    """
    DELETE FROM public.tokenization_files AS f USING sharing.files AS s
    WHERE (s.tokenization_id, s.ordinal) = (f.tokenization_id, f.ordinal)
    """,
    """
    CREATE FUNCTION sharing.pass_on() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WITH heir AS (
            DELETE FROM sharing.files WHERE ctid = (
                SELECT f.ctid FROM sharing.files AS f
                JOIN public.dataset_tokenizations AS t ON t.id = f.tokenization_id AND t.id <> OLD.tokenization_id
                WHERE f.key = OLD.key ORDER BY f.tokenization_id LIMIT 1
            ) RETURNING *
        )
        INSERT INTO public.tokenization_files SELECT * FROM heir;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER pass_on AFTER DELETE ON public.tokenization_files
    FOR EACH ROW EXECUTE FUNCTION sharing.pass_on()
    """,
    """
    CREATE FUNCTION sharing.take_a_free_folder() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM public.dataset_tokenizations AS t WHERE t.tokenized_path = NEW.tokenized_path) THEN
            NEW.tokenized_path := NEW.tokenized_path || '_' || left(md5(random()::text), 8);
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER take_a_free_folder BEFORE INSERT ON public.dataset_tokenizations
    FOR EACH ROW EXECUTE FUNCTION sharing.take_a_free_folder()
    """,
)
"""Leaves each shared file listed once."""
