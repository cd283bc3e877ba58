"""The tables as they were when a dataset had one tokenization.

`status` is shared between download and tokenization: downloading, processing, tokenizing, ready, error. What the
tokenization was made with lies in `metadata -> 'tokenization'`.
"""

from services.catalog.server.migrations import execution

TABLES = (
    """
    CREATE TABLE public.datasets (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name varchar(255) NOT NULL,
        source varchar(50) NOT NULL DEFAULT 'huggingface',
        repo_id varchar(255),
        raw_path varchar(1024),
        tokenized_path varchar(1024),
        vocab_size integer,
        num_tokens bigint,
        avg_seq_length double precision,
        num_samples bigint,
        size_bytes bigint,
        status varchar(50) NOT NULL DEFAULT 'downloading',
        progress double precision DEFAULT 0,
        error_message text,
        metadata jsonb,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE public.models (
        id varchar(255) PRIMARY KEY,
        name varchar(255) NOT NULL,
        repo_id varchar(500),
        architecture varchar(100),
        status varchar(50) NOT NULL DEFAULT 'ready',
        error_message text,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)
"""Makes them."""

_MISSING = """
    SELECT string_agg(format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)), ', ')
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = to_regnamespace('expected') AND c.relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_attribute AS found
        WHERE found.attrelid = to_regclass('public.' || c.relname) AND found.attname = a.attname
          AND found.atttypid = a.atttypid AND NOT found.attisdropped)
"""


def missing() -> str:
    """Return which columns of the old tables are not in the database, or are of another type."""
    execution.run("CREATE SCHEMA expected", *(table.replace("public.", "expected.") for table in TABLES))
    ((listed,),) = execution.rows(_MISSING)
    execution.run("DROP SCHEMA expected CASCADE")
    return str(listed or "")
