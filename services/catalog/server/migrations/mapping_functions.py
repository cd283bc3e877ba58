"""What a record of the old tables is in the new ones: functions in SQL, used by the copy and by its triggers.

They decide nothing from other rows, so the change of an old row is the difference of what it maps to before and
after. Whatever the old row holds, they give a row that the new tables take.
"""

_TEXTS = (
    # The id that a free text becomes: letters without their accents, everything else a hyphen.
    r"""
    CREATE FUNCTION rollout.slug(given text, kind text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        s text := lower(regexp_replace(normalize(coalesce(given, ''), NFKD), '[\u0300-\u036f]', '', 'g') COLLATE "C");
    BEGIN
        s := regexp_replace(s COLLATE "C", '[^a-z0-9._-]+', '-', 'g');
        s := regexp_replace(regexp_replace(s, '\.{2,}', '.', 'g'), '-{2,}', '-', 'g');
        -- 45 of 63 characters: room for a suffix that makes names distinct, and for `kind` in front.
        s := btrim(left(btrim(s, '._-'), 45), '._-');
        IF s = '' THEN
            RETURN kind;
        ELSIF s ~ '^m_[0-9a-f]{8}$' OR s ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN
            RETURN kind || '-' || s;  -- an id may not look like a uid
        END IF;
        RETURN s;
    END $$
    """,
    # The storage key of an old path: what lies below the storage root, else the path itself made relative.
    r"""
    CREATE FUNCTION rollout.storage_key(path text, fallback text) RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE
        root text := coalesce((SELECT storage_root FROM rollout.settings), '');
        key text := regexp_replace(coalesce(path, ''), '^file://', '');
    BEGIN
        IF root <> '' AND starts_with(key, root || '/') THEN
            key := substr(key, length(root) + 2);
        END IF;
        SELECT coalesce(string_agg(part, '/' ORDER BY place), '') INTO key
        FROM regexp_split_to_table(key, '[/\\]') WITH ORDINALITY AS parts(part, place)
        WHERE part NOT IN ('', '.', '..');
        -- The folder of all datasets belongs to no single one.
        RETURN CASE WHEN key IN ('', 'datasets') THEN fallback ELSE key END;
    END $$
    """,
    """
    CREATE FUNCTION rollout.finite(given double precision) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN given IN ('NaN', 'Infinity', '-Infinity') OR given < 0 THEN 0 ELSE coalesce(given, 0) END
    $$
    """,
    # A non-negative whole number out of a document, or null.
    """
    CREATE FUNCTION rollout.whole(given jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN given #>> '{}' ~ '^[0-9]{1,18}$' THEN (given #>> '{}')::bigint END
    $$
    """,
    # A member that is an object, else an empty one: metadata may be anything.
    """
    CREATE FUNCTION rollout.section(metadata jsonb, name text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN jsonb_typeof(metadata) = 'object' AND jsonb_typeof(metadata -> name) = 'object'
                    THEN metadata -> name ELSE '{}' END
    $$
    """,
    # The display name, and of the old metadata what the new one can hold: short texts, numbers and truths.
    """
    CREATE FUNCTION rollout.metadata_of(display_name text, metadata jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(jsonb_object_agg(key, value), '{}') || jsonb_build_object('display_name', display_name)
        FROM (
            SELECT key, value #>> '{}' AS value
            FROM jsonb_each(CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata ELSE '{}' END)
            WHERE jsonb_typeof(value) IN ('string', 'number', 'boolean')
              AND length(key) BETWEEN 1 AND 63 AND length(value #>> '{}') <= 1024
            ORDER BY key LIMIT 63
        ) AS pairs
    $$
    """,
)

_STATUSES = (
    # Where the tokenization of an old dataset stands, or null if it has none. `tried` says which of the two things
    # that share a status was at work last: true the tokenization, false the download, null nobody knows.
    """
    CREATE FUNCTION rollout.tokenization_status(o public.datasets, tried boolean) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE
            WHEN lower(btrim(o.status)) = 'tokenizing' THEN 'PROCESSING'
            WHEN lower(btrim(o.status)) = 'error' AND tried IS NOT FALSE AND coalesce(o.raw_path, '') <> '' AND (
                tried OR coalesce(o.tokenized_path, '') <> '' OR o.num_tokens IS NOT NULL
                OR rollout.section(o.metadata, 'tokenization') <> '{}'
            ) THEN 'ERROR'
            WHEN coalesce(o.tokenized_path, '') <> '' THEN 'READY'
            WHEN o.num_tokens IS NOT NULL THEN 'ERROR'
        END
    $$
    """,
    """
    CREATE FUNCTION rollout.dataset_status(o public.datasets, tried boolean) RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE lower(btrim(o.status))
            WHEN 'downloading' THEN 'DOWNLOADING'
            WHEN 'processing' THEN 'PROCESSING'
            WHEN 'tokenizing' THEN 'READY'
            WHEN 'ready' THEN 'READY'
            WHEN 'error' THEN CASE WHEN rollout.tokenization_status(o, tried) = 'ERROR' THEN 'READY' ELSE 'ERROR' END
            ELSE CASE WHEN coalesce(o.raw_path, '') <> '' THEN 'READY' ELSE 'ERROR' END
        END
    $$
    """,
    """
    CREATE FUNCTION rollout.progress_of(status text, progress double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE status WHEN 'READY' THEN 100 ELSE least(rollout.finite(progress), 100) END
    $$
    """,
    """
    CREATE FUNCTION rollout.message_of(given text, otherwise text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(nullif(btrim(given), ''), otherwise)
    $$
    """,
    # The tokenizer's name, or a name that says that there is none.
    """
    CREATE FUNCTION rollout.tokenizer_of(o public.datasets) RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN jsonb_typeof(rollout.section(o.metadata, 'tokenization') -> 'tokenizer_name') = 'string'
               THEN rollout.message_of(left(rollout.section(o.metadata, 'tokenization') ->> 'tokenizer_name', 4096),
                                       'unknown-tokenizer')
               ELSE 'unknown-tokenizer' END
    $$
    """,
)

_RECORDS = (
    # A polytok.catalog.v1.DatasetSource.
    """
    CREATE FUNCTION rollout.source_of(o public.datasets) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        facts jsonb := rollout.section(o.metadata, 'download');
        hub jsonb;
    BEGIN
        IF coalesce(btrim(o.repo_id), '') = '' THEN
            RETURN jsonb_build_object('files', jsonb_build_object('uris', jsonb_build_array(
                coalesce(nullif(o.raw_path, ''), 'file:///unknown/' || o.id))));
        END IF;
        hub := jsonb_build_object(
            'repo_id', btrim(o.repo_id), 'split', left(rollout.message_of(facts ->> 'split', 'train'), 128));
        IF coalesce(facts ->> 'config', '') <> '' THEN
            hub := hub || jsonb_build_object('config', left(facts ->> 'config', 256));
        END IF;
        IF coalesce(facts ->> 'revision', '') <> '' THEN
            hub := hub || jsonb_build_object('revision', left(facts ->> 'revision', 256));
        END IF;
        RETURN jsonb_build_object('hub', hub);
    END $$
    """,
    # All of a dataset but its name, which depends on the other names.
    """
    CREATE FUNCTION rollout.dataset_of(o public.datasets, tried boolean) RETURNS rollout.datasets
    LANGUAGE plpgsql STABLE AS $$
    DECLARE
        d rollout.datasets;
    BEGIN
        d.id := o.id;
        d.source := rollout.source_of(o);
        d.raw_path := rollout.storage_key(o.raw_path, 'datasets/' || o.id || '/raw');
        d.num_samples := greatest(coalesce(o.num_samples, 0), 0);
        d.size_bytes := greatest(coalesce(o.size_bytes, 0), 0);
        d.num_shards := 0;
        d.columns := '[]';
        d.features := '{}';
        d.fingerprint := '';
        d.commit := '';
        d.status := rollout.dataset_status(o, tried);
        d.progress := rollout.progress_of(d.status, o.progress);
        d.error := '{}';
        d.error_reason := CASE d.status WHEN 'ERROR' THEN 'INTERNAL' ELSE '' END;
        d.error_message := CASE WHEN d.status = 'ERROR' THEN rollout.message_of(o.error_message,
            'The version before recorded the status ' || quote_literal(o.status) || ' and no message.') ELSE '' END;
        d.metadata := rollout.metadata_of(o.name, o.metadata);
        d.created_at := o.created_at;
        d.updated_at := o.updated_at;
        d.completed_at := CASE WHEN d.status IN ('READY', 'ERROR') THEN o.updated_at END;
        RETURN d;
    END $$
    """,
    # A polytok.catalog.v1.TokenizationParameters, as far as they were recorded.
    """
    CREATE FUNCTION rollout.parameters_of(o public.datasets) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT jsonb_strip_nulls(jsonb_build_object(
            'text_column', left(coalesce(facts ->> 'text_column', facts ->> 'text_column_used'), 256),
            'max_length', CASE WHEN rollout.whole(facts -> 'max_length') BETWEEN 1 AND 524288
                               THEN rollout.whole(facts -> 'max_length') END,
            'truncation', 'TRUNCATION_RIGHT',
            'add_special_tokens', CASE WHEN jsonb_typeof(facts -> 'add_special_tokens') = 'boolean'
                                       THEN facts -> 'add_special_tokens' END))
        FROM rollout.section(o.metadata, 'tokenization') AS facts
    $$
    """,
    # An old dataset's tokenization for that model, or null if it has none.
    """
    CREATE FUNCTION rollout.tokenization_of(o public.datasets, tried boolean, model text)
    RETURNS public.dataset_tokenizations LANGUAGE plpgsql STABLE AS $$
    DECLARE
        t public.dataset_tokenizations;
        facts jsonb := rollout.section(o.metadata, 'tokenization');
        known text := nullif(rollout.tokenizer_of(o), 'unknown-tokenizer');
    BEGIN
        t.status := rollout.tokenization_status(o, tried);
        IF t.status IS NULL THEN
            RETURN NULL;
        END IF;
        t.id := 'tok_' || o.id || '_' || model;
        t.dataset_id := o.id;
        t.model_id := model;
        t.variant := '';
        t.parameters := rollout.parameters_of(o);
        t.tokenizer_repo_id := coalesce(known, '');
        t.tokenizer_revision := '';
        t.tokenizer_fingerprint := '';
        t.chat_template_fingerprint := '';
        t.tokenized_path := rollout.storage_key(o.tokenized_path,
            rollout.storage_key(o.raw_path, 'datasets/' || o.id || '/raw') || '_tokenized_' || model);
        t.vocab_size := greatest(coalesce(o.vocab_size, 0), 0);
        t.num_tokens := greatest(coalesce(o.num_tokens, 0), 0);
        t.num_sequences := CASE t.status WHEN 'READY' THEN greatest(
            coalesce(rollout.whole(facts -> 'num_sequences'), o.num_samples, 0), 0) ELSE 0 END;
        t.avg_seq_length := rollout.finite(o.avg_seq_length);
        t.statistics := '{}';
        t.manifest_digest := '';
        t.progress := rollout.progress_of(t.status, o.progress);
        t.error := '{}';
        t.error_reason := CASE t.status WHEN 'ERROR' THEN 'INTERNAL' ELSE '' END;
        t.error_message := CASE t.status WHEN 'ERROR' THEN rollout.message_of(o.error_message,
            'The version before recorded no path of the tokenized files; tokenize again.') ELSE '' END;
        t.created_at := o.created_at;
        t.updated_at := o.updated_at;
        t.completed_at := CASE WHEN t.status IN ('READY', 'ERROR') THEN o.updated_at END;
        RETURN t;
    END $$
    """,
    # An old model. Its tokenizer was never fingerprinted, so it is not READY.
    """
    CREATE FUNCTION rollout.model_of(repository text, architecture text, vocabulary integer, display_name text)
    RETURNS rollout.models LANGUAGE plpgsql STABLE AS $$
    DECLARE
        m rollout.models;
    BEGIN
        m.repo_id := rollout.message_of(repository, display_name);
        m.revision := '';
        m.tokenizer_repo_id := '';
        m.tokenizer_fingerprint := '';
        m.commit := '';
        m.tokenizer_commit := '';
        m.chat_template_fingerprint := '';
        m.tokenizer_class := '';
        m.vocab_size := greatest(coalesce(vocabulary, 0), 0);
        m.special_tokens := '[]';
        m.architecture := coalesce(architecture, '');
        m.d_model := 0;
        m.n_layers := 0;
        m.context_length := 0;
        m.status := 'ERROR';
        m.error := '{}';
        m.error_reason := 'NOT_READY';
        m.error_message := 'Taken over from the version before, which kept no fingerprint of tokenizers. Retry the '
            'model, and its tokenizer is read; what was tokenized for it can be used as it is.';
        m.metadata := jsonb_build_object('display_name', display_name);
        RETURN m;
    END $$
    """,
)

FUNCTIONS = (*_TEXTS, *_STATUSES, *_RECORDS)
"""Makes them, in the schema `rollout`."""
