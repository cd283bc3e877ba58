"""The way back: what new code made or changed, written into the old tables, and what they cannot hold, kept aside.

An old row whose record new code did not change stays as it is, to the byte. `retired.stash` keeps every row of the new
tables, so that a later upgrade goes on where the downgrade left off.
"""

from services.catalog.server.migrations import execution, new_schema

_FUNCTIONS = (
    # The tokenization that an old row stands for: the one it became, else the best one there is.
    """
    CREATE FUNCTION rollout.single_tokenization(dataset uuid) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT t.id FROM public.dataset_tokenizations AS t
        LEFT JOIN rollout.links AS l ON l.tokenization_id = t.id
        WHERE t.dataset_id = dataset
        ORDER BY l.dataset_id IS NULL, t.status <> 'READY', t.variant <> '', t.created_at DESC, t.id
        LIMIT 1
    $$
    """,
    """
    CREATE FUNCTION rollout.old_path(key text, known text) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN known IS NOT NULL AND rollout.storage_key(known, '') = key THEN known
               ELSE coalesce((SELECT nullif(storage_root, '') || '/' FROM rollout.settings), '') || key END
    $$
    """,
    """
    CREATE FUNCTION rollout.old_status(d rollout.datasets, t public.dataset_tokenizations) RETURNS text
    LANGUAGE sql STABLE AS $$
        SELECT CASE
            WHEN d.status IN ('PENDING', 'DOWNLOADING') THEN 'downloading'
            WHEN d.status = 'PROCESSING' THEN 'processing'
            WHEN d.status IN ('ERROR', 'CANCELLED') THEN 'error'
            WHEN t.status IN ('QUEUED', 'PROCESSING') THEN 'tokenizing'
            WHEN t.status = 'ERROR' THEN 'error'
            ELSE 'ready' END
    $$
    """,
    # What the old metadata say about a tokenization; `known` is what they said.
    """
    CREATE FUNCTION rollout.old_facts(t public.dataset_tokenizations, known jsonb) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN t.id IS NULL THEN '{}' ELSE jsonb_build_object('tokenization',
            CASE WHEN known ->> 'tokenizer_name' IS NOT DISTINCT FROM made.tokenizer THEN known ELSE '{}' END
            || jsonb_build_object('tokenizer_name', made.tokenizer, 'num_sequences', t.num_sequences)
            || jsonb_strip_nulls(t.parameters - 'truncation')) END
        FROM (SELECT coalesce(nullif(t.tokenizer_repo_id, ''), (
            SELECT coalesce(nullif(m.tokenizer_repo_id, ''), m.repo_id) FROM rollout.models AS m WHERE m.id = t.model_id
        )) AS tokenizer) AS made
    $$
    """,
    # What the old row of a record is; `o` is the one that there was, or null.
    """
    CREATE FUNCTION rollout.old_dataset(d rollout.datasets, t public.dataset_tokenizations, o public.datasets)
    RETURNS public.datasets LANGUAGE plpgsql STABLE AS $$
    DECLARE
        done boolean := t.status = 'READY';
    BEGIN
        o.id := d.id;
        o.name := left(coalesce(d.metadata ->> 'display_name', d.name), 255);
        o.source := coalesce(o.source, CASE WHEN d.source ? 'hub' THEN 'huggingface' ELSE 'local' END);
        o.repo_id := left(d.source #>> '{hub,repo_id}', 255);
        o.raw_path := CASE WHEN d.status IN ('READY', 'PROCESSING') OR o.raw_path IS NOT NULL
                           THEN left(rollout.old_path(d.raw_path, o.raw_path), 1024) END;
        o.tokenized_path := CASE WHEN done THEN left(rollout.old_path(t.tokenized_path, o.tokenized_path), 1024) END;
        o.vocab_size := CASE WHEN done THEN t.vocab_size END;
        o.num_tokens := CASE WHEN done THEN t.num_tokens END;
        o.avg_seq_length := CASE WHEN done THEN t.avg_seq_length END;
        o.num_samples := coalesce(nullif(d.num_samples, 0), o.num_samples);
        o.size_bytes := coalesce(nullif(d.size_bytes, 0), o.size_bytes);
        o.status := rollout.old_status(d, t);
        o.progress := CASE WHEN o.status = 'tokenizing' OR (o.status = 'error' AND d.status = 'READY')
                           THEN t.progress ELSE d.progress END;
        o.error_message := CASE WHEN o.status <> 'error' THEN NULL
                                WHEN d.status = 'CANCELLED' THEN 'Cancelled.'
                                WHEN d.status = 'ERROR' THEN d.error_message ELSE t.error_message END;
        o.metadata := (CASE WHEN jsonb_typeof(o.metadata) = 'object' THEN o.metadata ELSE d.metadata END
                       - 'tokenization') || rollout.old_facts(t, rollout.section(o.metadata, 'tokenization'));
        o.created_at := d.created_at;
        o.updated_at := d.updated_at;
        RETURN o;
    END $$
    """,
    # Whether a record is still what its old row maps to, as far as the old row can tell.
    """
    CREATE FUNCTION rollout.is_unchanged(o public.datasets, d rollout.datasets, t public.dataset_tokenizations)
    RETURNS boolean LANGUAGE plpgsql STABLE AS $$
    DECLARE
        beyond text[] := ARRAY['id', 'name', 'variant', 'num_shards', 'columns', 'features', 'fingerprint', 'commit',
            'metadata', 'statistics', 'manifest_digest', 'tokenizer_revision', 'tokenizer_fingerprint',
            'chat_template_fingerprint', 'error_reason', 'error', 'job_id',
            'started_at', 'completed_at'];
        tried boolean := CASE WHEN d.status = 'ERROR' THEN false WHEN t.status = 'ERROR' THEN true END;
        mapped public.dataset_tokenizations := rollout.tokenization_of(o, tried, t.model_id);
    BEGIN
        RETURN to_jsonb(rollout.dataset_of(o, tried)) - beyond = to_jsonb(d) - beyond
           AND (mapped.status IS NULL) = (t.id IS NULL)
           AND to_jsonb(mapped) - beyond = to_jsonb(t) - beyond;
    END $$
    """,
    """
    CREATE FUNCTION rollout.give_back_dataset(d rollout.datasets) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        o public.datasets;
        t public.dataset_tokenizations;
    BEGIN
        SELECT * INTO o FROM public.datasets WHERE id = d.id;
        SELECT * INTO t FROM public.dataset_tokenizations WHERE id = rollout.single_tokenization(d.id);
        IF o.id IS NULL OR NOT rollout.is_unchanged(o, d, t) THEN
            o := rollout.old_dataset(d, t, o);
            INSERT INTO public.datasets SELECT o.*
            ON CONFLICT (id) DO UPDATE SET
                name = o.name, source = o.source, repo_id = o.repo_id, raw_path = o.raw_path,
                tokenized_path = o.tokenized_path, vocab_size = o.vocab_size, num_tokens = o.num_tokens,
                avg_seq_length = o.avg_seq_length, num_samples = o.num_samples, size_bytes = o.size_bytes,
                status = o.status, progress = o.progress, error_message = o.error_message, metadata = o.metadata,
                created_at = o.created_at, updated_at = o.updated_at;
        END IF;
        INSERT INTO rollout.links VALUES (d.id, t.id)
        ON CONFLICT (dataset_id) DO UPDATE SET tokenization_id = excluded.tokenization_id;
    END $$
    """,
    """
    CREATE FUNCTION rollout.give_back() RETURNS void LANGUAGE sql AS $$
        DELETE FROM public.datasets AS o USING rollout.links AS l
        WHERE l.dataset_id = o.id AND NOT EXISTS (SELECT FROM rollout.datasets AS d WHERE d.id = o.id);
        DELETE FROM rollout.links AS l WHERE NOT EXISTS (SELECT FROM rollout.datasets AS d WHERE d.id = l.dataset_id);
        SELECT rollout.give_back_dataset(d) FROM rollout.datasets AS d
        WHERE NOT EXISTS (SELECT FROM rollout.unsynced AS u WHERE u.dataset_id = d.id);
        DELETE FROM public.models AS o USING rollout.model_links AS l
        WHERE l.old_id = o.id AND NOT EXISTS (SELECT FROM rollout.models AS m WHERE m.id = l.model_id);
        DELETE FROM rollout.model_links AS l WHERE NOT EXISTS (SELECT FROM rollout.models AS m WHERE m.id = l.model_id);
        WITH returned AS (
            INSERT INTO public.models (id, name, repo_id, architecture, status, error_message, created_at, updated_at)
            SELECT id, left(coalesce(metadata ->> 'display_name', name), 255), left(repo_id, 500),
                   left(architecture, 100), CASE status WHEN 'ERROR' THEN 'error' ELSE 'ready' END,
                   nullif(error_message, ''), created_at, updated_at
            FROM rollout.models AS m
            WHERE NOT EXISTS (SELECT FROM rollout.model_links AS l WHERE l.model_id = m.id)
            RETURNING id
        )
        INSERT INTO rollout.model_links SELECT id, id FROM returned
    $$
    """,
)
"""Makes the functions that only a downgrade calls."""

_DROPPED_FUNCTIONS = tuple(
    f"DROP FUNCTION rollout.{name}"
    for name in (
        "give_back",
        "give_back_dataset",
        "is_unchanged",
        "old_dataset",
        "old_facts",
        "old_status",
        "old_path",
        "single_tokenization",
    )
)

_KEPT = (*new_schema.RELATIONS, "rollout.links", "rollout.model_links")
_PLACES = {
    "rollout.datasets": "EXISTS (SELECT FROM public.datasets AS o WHERE o.id = r.id)",
    "public.dataset_shards": "EXISTS (SELECT FROM rollout.datasets AS d WHERE d.id = r.dataset_id)",
    "public.dataset_tokenizations": "EXISTS (SELECT FROM rollout.datasets AS d WHERE d.id = r.dataset_id)",
    "public.tokenization_files": "EXISTS (SELECT FROM public.dataset_tokenizations WHERE id = r.tokenization_id)",
    "public.tokenization_holds": "EXISTS (SELECT FROM public.dataset_tokenizations WHERE id = r.tokenization_id)",
    "public.tokenization_repairs": "EXISTS (SELECT FROM public.dataset_tokenizations WHERE id = r.tokenization_id)",
    "rollout.links": "EXISTS (SELECT FROM rollout.datasets AS d WHERE d.id = r.dataset_id)",
}


def write_legacy_rows() -> None:
    """Bring the old tables up to date with the new ones."""
    execution.run(*_FUNCTIONS, "SELECT rollout.resync()", "SELECT rollout.give_back()", *_DROPPED_FUNCTIONS)


def stash() -> None:
    """Keep every row of the new tables, and of the old ones as they are now."""
    execution.run(
        "CREATE SCHEMA IF NOT EXISTS retired",
        "CREATE TABLE retired.stash (relation text NOT NULL, record jsonb NOT NULL)",
        *(
            f"INSERT INTO retired.stash SELECT '{relation}', to_jsonb(r) FROM {relation} AS r"  # noqa: S608
            for relation in _KEPT
        ),
        """
        INSERT INTO retired.stash SELECT 'public.datasets', coalesce(u.known, to_jsonb(o))
        FROM public.datasets AS o JOIN rollout.links AS l ON l.dataset_id = o.id
        LEFT JOIN rollout.unsynced AS u ON u.dataset_id = o.id
        """,
    )
    if execution.value("SELECT count(*) FROM retired.stash") == 0:
        execution.run("DROP SCHEMA retired CASCADE")


def restore() -> None:
    """Put the kept rows back, less those whose dataset old code deleted, and carries across what it changed."""
    if not execution.flag("SELECT to_regclass('retired.stash') IS NOT NULL"):
        return
    for relation in _KEPT:
        execution.run(
            f"INSERT INTO {relation} SELECT r.* FROM retired.stash AS s, "  # noqa: S608
            f"jsonb_populate_record(NULL::{relation}, s.record) AS r "
            f"WHERE s.relation = '{relation}' AND {_PLACES.get(relation, 'true')}"
        )
    execution.run(
        """
        SELECT rollout.follow_dataset(jsonb_populate_record(NULL::public.datasets, s.record), o)
        FROM retired.stash AS s JOIN public.datasets AS o ON o.id = (s.record ->> 'id')::uuid
        WHERE s.relation = 'public.datasets' AND s.record <> to_jsonb(o)
        """,
        "DROP SCHEMA retired CASCADE",
    )
