"""Keeping both schemas true while old and new code run: triggers.

What old code changes is carried across as a change: the columns whose mapped value differs before and after. What
new code deletes goes from the old tables too, or a later copy would bring it back. A trigger never makes old code's
statement fail: what could not be carried across is noted in `rollout.unsynced`, tried again with the next change and
by revision 0004, which refuses to go on while something is left.
"""

_CHANGES = (
    # Whether new code is at work on a record.
    """
    CREATE FUNCTION rollout.is_busy(job uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
        SELECT EXISTS (SELECT FROM public.jobs WHERE id = job AND state = 'ACTIVE')
    $$
    """,
    # `current` with what differs between two other documents.
    """
    CREATE FUNCTION rollout.merged(current jsonb, before jsonb, after jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT current || coalesce(jsonb_object_agg(key, value), '{}')
        FROM jsonb_each(after)
        WHERE before -> key IS DISTINCT FROM value AND key NOT IN ('id', 'name', 'model_id', 'variant', 'metadata')
    $$
    """,
    """
    CREATE FUNCTION rollout.change_dataset(before rollout.datasets, after rollout.datasets) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        d rollout.datasets;
    BEGIN
        SELECT * INTO d FROM rollout.datasets WHERE id = after.id FOR NO KEY UPDATE;
        IF NOT FOUND OR rollout.is_busy(d.job_id) OR before IS NOT DISTINCT FROM after THEN
            RETURN;
        END IF;
        d := jsonb_populate_record(d, rollout.merged(to_jsonb(d), to_jsonb(before), to_jsonb(after)));
        IF before.metadata IS DISTINCT FROM after.metadata THEN
            d.metadata := (d.metadata - ARRAY(SELECT jsonb_object_keys(before.metadata))) || after.metadata;
        END IF;
        UPDATE rollout.datasets SET
            source = d.source, raw_path = d.raw_path, num_samples = d.num_samples, size_bytes = d.size_bytes,
            status = d.status, progress = d.progress, error_reason = d.error_reason, error_message = d.error_message,
            error = d.error,
            metadata = d.metadata, created_at = d.created_at, updated_at = d.updated_at, completed_at = d.completed_at
        WHERE id = d.id;
    END $$
    """,
    """
    CREATE FUNCTION rollout.change_tokenization(
        which text, before public.dataset_tokenizations, after public.dataset_tokenizations
    ) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        t public.dataset_tokenizations;
    BEGIN
        SELECT * INTO t FROM public.dataset_tokenizations WHERE id = which FOR NO KEY UPDATE;
        IF NOT FOUND OR rollout.is_busy(t.job_id) OR before IS NOT DISTINCT FROM after THEN
            RETURN;
        END IF;
        t := jsonb_populate_record(t, rollout.merged(to_jsonb(t), to_jsonb(before), to_jsonb(after)));
        UPDATE public.dataset_tokenizations SET
            parameters = t.parameters, tokenizer_repo_id = t.tokenizer_repo_id, tokenized_path = t.tokenized_path,
            vocab_size = t.vocab_size, num_tokens = t.num_tokens, num_sequences = t.num_sequences,
            avg_seq_length = t.avg_seq_length, status = t.status, progress = t.progress,
            error_reason = t.error_reason, error_message = t.error_message, error = t.error,
            created_at = t.created_at, updated_at = t.updated_at, completed_at = t.completed_at
        WHERE id = t.id;
    END $$
    """,
    # Releases the tokenization that the old one became, and deletes it unless new code works on it.
    """
    CREATE FUNCTION rollout.drop_linked(dataset uuid) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        which text := (SELECT tokenization_id FROM rollout.links WHERE dataset_id = dataset);
    BEGIN
        UPDATE rollout.links SET tokenization_id = NULL WHERE dataset_id = dataset;
        DELETE FROM public.dataset_tokenizations WHERE id = which AND NOT rollout.is_busy(job_id);
    END $$
    """,
)

_FOLLOWING = (
    # Old code tokenized for another tokenizer. Files at another path are still there: their record stays.
    """
    CREATE FUNCTION rollout.replace_tokenization(before public.datasets, after public.datasets, tried boolean)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF coalesce(before.tokenized_path, '') NOT IN ('', coalesce(after.tokenized_path, '')) THEN
            UPDATE public.dataset_tokenizations AS t
            SET status = 'READY', progress = 100, error_reason = '', error_message = '', error = '{}'
            FROM rollout.links AS l
            WHERE l.dataset_id = after.id AND t.id = l.tokenization_id AND NOT rollout.is_busy(t.job_id);
        ELSE
            PERFORM rollout.drop_linked(after.id);
        END IF;
        PERFORM rollout.put_tokenization(after, tried);
    END $$
    """,
    """
    CREATE FUNCTION rollout.follow_tokenization(
        before public.datasets, after public.datasets, tried_before boolean, tried_after boolean
    ) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        linked public.dataset_tokenizations;
    BEGIN
        SELECT t.* INTO linked FROM rollout.links AS l
        JOIN public.dataset_tokenizations AS t ON t.id = l.tokenization_id
        WHERE l.dataset_id = after.id;
        IF rollout.tokenization_status(after, tried_after) IS NULL THEN
            IF rollout.tokenization_status(before, tried_before) IS NOT NULL THEN
                PERFORM rollout.drop_linked(after.id);
            END IF;
        ELSIF linked.id IS NULL THEN
            PERFORM rollout.put_tokenization(after, tried_after);
        ELSIF rollout.tokenizer_of(before) <> rollout.tokenizer_of(after)
              AND rollout.model_for(rollout.tokenizer_of(after), after.vocab_size) <> linked.model_id THEN
            PERFORM rollout.replace_tokenization(before, after, tried_after);
        ELSE
            PERFORM rollout.change_tokenization(
                linked.id,
                rollout.tokenization_of(before, tried_before, linked.model_id),
                rollout.tokenization_of(after, tried_after, linked.model_id));
        END IF;
    END $$
    """,
    # Which of download and tokenization an error is of, is known from what was at work before it.
    """
    CREATE FUNCTION rollout.follow_dataset(before public.datasets, after public.datasets) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        tried_before boolean := (
            SELECT CASE WHEN d.status = 'ERROR' THEN false WHEN t.status = 'ERROR' THEN true END
            FROM rollout.links AS l
            JOIN rollout.datasets AS d ON d.id = l.dataset_id
            LEFT JOIN public.dataset_tokenizations AS t ON t.id = l.tokenization_id
            WHERE l.dataset_id = after.id);
        tried_after boolean := CASE lower(btrim(before.status))
            WHEN 'tokenizing' THEN true
            WHEN 'downloading' THEN false
            WHEN 'processing' THEN false
            WHEN 'error' THEN tried_before END;
    BEGIN
        IF NOT EXISTS (SELECT FROM rollout.links WHERE dataset_id = after.id) THEN
            PERFORM rollout.copy_dataset(after, tried_after);
            RETURN;
        END IF;
        PERFORM rollout.follow_tokenization(before, after, tried_before, tried_after);
        PERFORM rollout.change_dataset(
            rollout.dataset_of(before, tried_before), rollout.dataset_of(after, tried_after));
    END $$
    """,
    # Old code deleted a dataset, and its files with it.
    """
    CREATE FUNCTION rollout.forget_dataset(which uuid) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM rollout.drop_linked(which);
        DELETE FROM rollout.links WHERE dataset_id = which;
        IF EXISTS (SELECT FROM public.dataset_tokenizations WHERE dataset_id = which)
           OR EXISTS (SELECT FROM rollout.datasets WHERE id = which AND rollout.is_busy(job_id)) THEN
            UPDATE rollout.datasets
            SET status = 'ERROR', error_reason = 'SOURCE_NOT_FOUND', error = '{}', updated_at = clock_timestamp(),
                completed_at = clock_timestamp(),
                error_message = 'The version before deleted this dataset and its files while this version was using '
                    'it. Retry to read it in again, or delete it.'
            WHERE id = which AND NOT rollout.is_busy(job_id);
        ELSE
            DELETE FROM rollout.datasets WHERE id = which;
        END IF;
    END $$
    """,
)

_RESYNC = (
    # Retries what could not be copied; returns how many rows are left.
    """
    CREATE FUNCTION rollout.resync() RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        waiting rollout.unsynced;
        o public.datasets;
    BEGIN
        FOR waiting IN SELECT * FROM rollout.unsynced LOOP
            SELECT * INTO o FROM public.datasets WHERE id = waiting.dataset_id FOR UPDATE;
            BEGIN
                IF o.id IS NULL THEN
                    PERFORM rollout.forget_dataset(waiting.dataset_id);
                ELSIF waiting.known IS NULL THEN
                    PERFORM rollout.copy_dataset(o, NULL);
                ELSE
                    PERFORM rollout.follow_dataset(jsonb_populate_record(o, waiting.known), o);
                END IF;
                DELETE FROM rollout.unsynced WHERE dataset_id = waiting.dataset_id;
            EXCEPTION WHEN OTHERS THEN
                UPDATE rollout.unsynced SET problem = SQLERRM WHERE dataset_id = waiting.dataset_id;
            END;
        END LOOP;
        RETURN (SELECT count(*) FROM rollout.unsynced);
    END $$
    """,
)

# They run as the role that migrates, so that the roles that serve need no rights on the tables of the other side.
_TRIGGERED = (
    """
    CREATE FUNCTION rollout.on_old_dataset() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        which uuid := CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END;
        waiting rollout.unsynced;
    BEGIN
        SELECT * INTO waiting FROM rollout.unsynced WHERE dataset_id = which;
        IF TG_OP = 'DELETE' THEN
            PERFORM rollout.forget_dataset(which);
        ELSIF TG_OP = 'INSERT' THEN
            PERFORM rollout.copy_dataset(NEW, NULL);
        ELSIF OLD.id <> NEW.id THEN
            PERFORM rollout.forget_dataset(OLD.id);
            PERFORM rollout.copy_dataset(NEW, NULL);
        ELSIF waiting.known IS NOT NULL THEN
            PERFORM rollout.follow_dataset(jsonb_populate_record(OLD, waiting.known), NEW);
        ELSE
            PERFORM rollout.follow_dataset(OLD, NEW);
        END IF;
        IF waiting.dataset_id IS NOT NULL THEN
            DELETE FROM rollout.unsynced WHERE dataset_id = which;
        END IF;
        RETURN NULL;
    EXCEPTION WHEN OTHERS THEN
        INSERT INTO rollout.unsynced
        VALUES (which, CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) END, SQLERRM)
        ON CONFLICT (dataset_id) DO UPDATE SET problem = excluded.problem;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION rollout.on_old_model() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        which text;
    BEGIN
        IF TG_OP = 'DELETE' THEN
            DELETE FROM rollout.model_links WHERE old_id = OLD.id RETURNING model_id INTO which;
            DELETE FROM rollout.models AS m WHERE m.id = which
                AND NOT EXISTS (SELECT FROM public.dataset_tokenizations AS t WHERE t.model_id = m.id);
            RETURN NULL;
        END IF;
        which := rollout.copy_model(NEW);
        UPDATE rollout.models AS m
        SET repo_id = mapped.repo_id, architecture = mapped.architecture, metadata = m.metadata || mapped.metadata,
            updated_at = clock_timestamp()
        FROM rollout.model_of(NEW.repo_id, NEW.architecture, 0, NEW.name) AS mapped
        WHERE m.id = which AND TG_OP = 'UPDATE' AND NOT rollout.is_busy(m.job_id) AND m.status <> 'READY';
        RETURN NULL;
    EXCEPTION WHEN OTHERS THEN
        RAISE LOG 'model % was not carried across: %; revision 0004 takes it over', which, SQLERRM;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION rollout.on_new_dataset() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        DELETE FROM rollout.links WHERE dataset_id = OLD.id;
        DELETE FROM public.datasets WHERE id = OLD.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION rollout.on_new_tokenization() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        UPDATE rollout.links SET tokenization_id = NULL WHERE tokenization_id = OLD.id;
        IF FOUND THEN
            UPDATE public.datasets
            SET tokenized_path = NULL, vocab_size = NULL, num_tokens = NULL, avg_seq_length = NULL,
                metadata = CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata - 'tokenization'
                                ELSE metadata END,
                error_message = CASE WHEN OLD.status = 'ERROR' THEN NULL ELSE error_message END,
                status = CASE WHEN OLD.status <> 'READY' AND lower(btrim(status)) IN ('tokenizing', 'error')
                              THEN 'ready' ELSE status END
            WHERE id = OLD.dataset_id;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION rollout.on_new_model() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        which text;
    BEGIN
        DELETE FROM rollout.model_links WHERE model_id = OLD.id RETURNING old_id INTO which;
        DELETE FROM public.models WHERE id = which;
        RETURN NULL;
    END $$
    """,
)

FUNCTIONS = (*_CHANGES, *_FOLLOWING, *_RESYNC, *_TRIGGERED)
"""Makes them, in the schema `rollout`."""

_WATCHED = (
    ("rollout_old_dataset", "public.datasets", "INSERT OR UPDATE OR DELETE", "on_old_dataset"),
    ("rollout_old_model", "public.models", "INSERT OR UPDATE OR DELETE", "on_old_model"),
    ("rollout_new_dataset", "rollout.datasets", "DELETE", "on_new_dataset"),
    ("rollout_new_tokenization", "public.dataset_tokenizations", "DELETE", "on_new_tokenization"),
    ("rollout_new_model", "rollout.models", "DELETE", "on_new_model"),
)

TRIGGERS = tuple(
    f"CREATE TRIGGER {name} AFTER {events} ON {relation} FOR EACH ROW EXECUTE FUNCTION rollout.{function}()"
    for name, relation, events, function in _WATCHED
)
"""Makes the triggers."""

DROPPED_TRIGGERS = tuple(f"DROP TRIGGER {name} ON {relation}" for name, relation, _, _ in _WATCHED)
"""Drops the triggers."""
