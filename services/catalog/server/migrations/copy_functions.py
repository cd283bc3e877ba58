"""Taking records over from the old tables: the functions in SQL that the copy and the triggers call.

`rollout.links` records which datasets were copied, and which tokenization each one's single tokenization became.
A record that was taken over is never overwritten: only what old code changes after that is carried across.
"""

TABLES = (
    "CREATE TABLE rollout.settings (storage_root text NOT NULL)",
    "CREATE TABLE rollout.links (dataset_id uuid PRIMARY KEY, tokenization_id text UNIQUE)",
    # old_id is null for a model that was made because a tokenization needs one.
    "CREATE TABLE rollout.model_links (model_id text PRIMARY KEY, old_id text UNIQUE)",
    # Changes that could not be carried across; `known` is the old row as it was when it last could.
    "CREATE TABLE rollout.unsynced (dataset_id uuid PRIMARY KEY, known jsonb, problem text NOT NULL)",
)
"""Makes the tables that keep the books."""

_NAMES = (
    # A name that nobody has. It never waits: a name that another transaction is just taking counts as taken, because
    # the copy must not wait for a transaction of old code that may be waiting for the copy.
    """
    CREATE FUNCTION rollout.free_name(kind text, wanted text, distinction text) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        candidate text := wanted;
        number integer := 1;
    BEGIN
        WHILE NOT pg_try_advisory_xact_lock(hashtextextended('rollout/' || kind || '/' || candidate, 0))
              OR (kind = 'dataset' AND EXISTS (SELECT FROM rollout.datasets WHERE name = candidate))
              OR (kind = 'model' AND EXISTS (SELECT FROM rollout.models WHERE name = candidate)) LOOP
            candidate := wanted || '-' || distinction || CASE number WHEN 1 THEN '' ELSE '-' || number END;
            number := number + 1;
        END LOOP;
        RETURN candidate;
    END $$
    """,
)

_MODELS = (
    # Adds a model; its id, unless given, follows from the seed. Null if another transaction was faster.
    """
    CREATE FUNCTION rollout.add_model(m rollout.models, display_name text, seed text, old text) RETURNS text
    LANGUAGE plpgsql AS $$
    BEGIN
        m.id := coalesce(m.id, 'm_' || left(md5(seed), 8));
        m.name := rollout.free_name('model', rollout.slug(display_name, 'model'), substr(m.id, 3));
        INSERT INTO rollout.models SELECT m.* ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        INSERT INTO rollout.model_links VALUES (m.id, old);
        RETURN m.id;
    END $$
    """,
    """
    CREATE FUNCTION rollout.copy_model(o public.models) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        m rollout.models := rollout.model_of(o.repo_id, o.architecture, 0, o.name);
        found_id text := (SELECT model_id FROM rollout.model_links WHERE old_id = o.id);
        attempt integer := 0;
    BEGIN
        m.created_at := o.created_at;
        m.updated_at := o.updated_at;
        WHILE found_id IS NULL LOOP
            m.id := CASE WHEN attempt = 0 AND o.id ~ '^m_[0-9a-f]{8}$' THEN o.id END;
            found_id := rollout.add_model(m, o.name, o.id || repeat(' ', attempt), o.id);
            found_id := coalesce(found_id, (SELECT model_id FROM rollout.model_links WHERE old_id = o.id));
            attempt := attempt + 1;
        END LOOP;
        RETURN found_id;
    END $$
    """,
    """
    CREATE FUNCTION rollout.known_model(tokenizer text) RETURNS text LANGUAGE sql AS $$
        SELECT id FROM rollout.models
        WHERE coalesce(nullif(tokenizer_repo_id, ''), repo_id) = tokenizer
        ORDER BY created_at, id LIMIT 1
    $$
    """,
    # The model of a tokenizer's name; made when there is none.
    """
    CREATE FUNCTION rollout.model_for(tokenizer text, vocabulary integer) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        m rollout.models := rollout.model_of(tokenizer, '', vocabulary, tokenizer);
        old public.models;
        found_id text := rollout.known_model(tokenizer);
        attempt integer := 0;
    BEGIN
        IF found_id IS NULL THEN
            SELECT * INTO old FROM public.models WHERE repo_id = tokenizer ORDER BY created_at, id LIMIT 1;
            IF FOUND THEN
                RETURN rollout.copy_model(old);
            END IF;
        END IF;
        m.created_at := clock_timestamp();
        m.updated_at := m.created_at;
        WHILE found_id IS NULL LOOP
            m.id := NULL;
            found_id := rollout.add_model(m, tokenizer, tokenizer || repeat(' ', attempt), NULL);
            found_id := coalesce(found_id, rollout.known_model(tokenizer));
            attempt := attempt + 1;
        END LOOP;
        RETURN found_id;
    END $$
    """,
)

_DATASETS = (
    # Where new code has tokenized for the same model meanwhile, the old tokenization becomes a variant.
    """
    CREATE FUNCTION rollout.put_tokenization(o public.datasets, tried boolean) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        t public.dataset_tokenizations;
    BEGIN
        IF rollout.tokenization_status(o, tried) IS NULL THEN
            RETURN;
        END IF;
        t := rollout.tokenization_of(o, tried, rollout.model_for(rollout.tokenizer_of(o), o.vocab_size));
        INSERT INTO public.dataset_tokenizations SELECT t.* ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            t.variant := 'previous';
            t.id := t.id || '_previous';
            INSERT INTO public.dataset_tokenizations SELECT t.* ON CONFLICT DO NOTHING;
        END IF;
        UPDATE rollout.links SET tokenization_id = t.id WHERE dataset_id = o.id;
    END $$
    """,
    """
    CREATE FUNCTION rollout.copy_dataset(o public.datasets, tried boolean) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        d rollout.datasets := rollout.dataset_of(o, tried);
    BEGIN
        INSERT INTO rollout.links VALUES (o.id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        LOOP
            d.name := rollout.free_name('dataset', rollout.slug(o.name, 'dataset'), left(o.id::text, 8));
            INSERT INTO rollout.datasets SELECT d.* ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND OR EXISTS (SELECT FROM rollout.datasets WHERE id = o.id);
        END LOOP;
        PERFORM rollout.put_tokenization(o, tried);
    END $$
    """,
    # Copies some datasets that were not copied yet, and returns how many it saw. Rows that old code is changing are
    # left to its triggers, and to the next round.
    """
    CREATE FUNCTION rollout.copy_batch(size integer) RETURNS integer LANGUAGE plpgsql AS $$
    DECLARE
        o public.datasets;
        seen integer := 0;
    BEGIN
        FOR o IN
            SELECT * FROM public.datasets AS d
            WHERE NOT EXISTS (SELECT FROM rollout.links AS l WHERE l.dataset_id = d.id)
              AND NOT EXISTS (SELECT FROM rollout.unsynced AS u WHERE u.dataset_id = d.id)
            ORDER BY d.id LIMIT size FOR UPDATE SKIP LOCKED
        LOOP
            seen := seen + 1;
            BEGIN
                PERFORM rollout.copy_dataset(o, NULL);
            EXCEPTION WHEN OTHERS THEN
                INSERT INTO rollout.unsynced VALUES (o.id, NULL, SQLERRM) ON CONFLICT DO NOTHING;
            END;
        END LOOP;
        RETURN seen;
    END $$
    """,
    """
    CREATE FUNCTION rollout.copy_models() RETURNS void LANGUAGE sql AS $$
        SELECT rollout.copy_model(o) FROM public.models AS o ORDER BY o.created_at, o.id;
        -- Every tokenizer's model beforehand: the batches then hardly ever make one, and so wait for nobody.
        SELECT rollout.model_for(tokenizer, vocabulary) FROM (
            SELECT rollout.tokenizer_of(o) AS tokenizer, max(o.vocab_size) AS vocabulary FROM public.datasets AS o
            WHERE rollout.tokenization_status(o, NULL) IS NOT NULL
              AND NOT EXISTS (SELECT FROM rollout.links AS l WHERE l.dataset_id = o.id)
            GROUP BY 1 ORDER BY 1
        ) AS tokenizers
    $$
    """,
)

FUNCTIONS = (*_NAMES, *_MODELS, *_DATASETS)
"""Makes them, in the schema `rollout`."""
