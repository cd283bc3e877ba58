"""The commands."""

import asyncio

import asyncpg
import pytest

from polytok import errors
from services.catalog.server.migrations.schema import runner
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy


async def test_a_fresh_installation_is_exact(database_settings: DatabaseSettings) -> None:
    assert await asyncio.to_thread(runner.current, database_settings) is None
    await asyncio.to_thread(runner.upgrade, database_settings)
    assert await asyncio.to_thread(runner.current, database_settings) == "0009"
    await asyncio.to_thread(runner.check, database_settings)
    connection = await legacy.connect(database_settings.url)
    schemas = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname IN ('rollout', 'retired')")
    await connection.close()
    assert schemas == []


async def test_a_second_upgrade_changes_nothing(database_settings: DatabaseSettings) -> None:
    await asyncio.to_thread(runner.upgrade, database_settings)
    for phase in ("pre", "post", "all"):
        await asyncio.to_thread(runner.upgrade, database_settings, phase)
    assert await asyncio.to_thread(runner.current, database_settings) == "0009"


async def test_the_phases_in_their_order(database_settings: DatabaseSettings) -> None:
    with pytest.raises(errors.FailedPrecondition, match="'pre'"):
        await asyncio.to_thread(runner.upgrade, database_settings, "post")
    await asyncio.to_thread(runner.upgrade, database_settings, "pre")
    assert await asyncio.to_thread(runner.current, database_settings) == "0003"
    with pytest.raises(errors.FailedPrecondition, match="0003"):
        await asyncio.to_thread(runner.check, database_settings)
    await asyncio.to_thread(runner.upgrade, database_settings, "post")
    assert await asyncio.to_thread(runner.current, database_settings) == "0009"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("ALTER TABLE datasets DROP COLUMN fingerprint", r"\bdatasets\.fingerprint\b.*missing"),
        ("ALTER TABLE models ADD COLUMN extra text", r"\bmodels\.extra\b"),
        ("ALTER TABLE jobs ALTER COLUMN stage TYPE bigint", r"\bjobs\.stage\b.*bigint"),
        ("ALTER TABLE datasets ALTER COLUMN status SET DEFAULT 'READY'", r"\bdatasets\.status\b.*READY"),
        ("ALTER TABLE models DROP CONSTRAINT ck_models_status", r"\bmodels\.ck_models_status\b.*missing"),
        ("DROP INDEX ix_requests_created_at", r"\brequests\.ix_requests_created_at\b.*missing"),
        ("DROP TABLE job_outbox", r"\bjob_outbox\b.*missing"),
    ],
)
async def test_check_names_difference(database_settings: DatabaseSettings, change: str, complaint: str) -> None:
    await asyncio.to_thread(runner.upgrade, database_settings)
    connection = await legacy.connect(database_settings.url)
    await connection.execute(change)
    await connection.close()
    with pytest.raises(errors.FailedPrecondition, match=complaint):
        await asyncio.to_thread(runner.check, database_settings)


async def test_tables_of_previous_version_are_adopted(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await before.execute("DROP TABLE alembic_version")
    await before.execute("ALTER TABLE datasets ADD COLUMN local_notes text")
    await legacy.add(before, name="kept", local_notes="mine")
    await asyncio.to_thread(runner.upgrade, database_settings)
    await asyncio.to_thread(runner.check, database_settings)
    assert [row["name"] for row in await legacy.rows(before, "datasets")] == ["kept"]
    await asyncio.to_thread(runner.downgrade, database_settings, "0001")
    assert [row["local_notes"] for row in await legacy.rows(before, "datasets")] == ["mine"]


async def test_foreign_tables_are_refused(database_settings: DatabaseSettings) -> None:
    connection = await legacy.connect(database_settings.url)
    await connection.execute("CREATE TABLE datasets (id uuid PRIMARY KEY, status integer)")
    with pytest.raises(errors.FailedPrecondition, match=r"datasets\.status\b.*character varying"):
        await asyncio.to_thread(runner.upgrade, database_settings)
    assert await connection.fetchval("SELECT to_regclass('models')") is None
    await connection.close()


async def test_replicas_that_start_together_do_not_race(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await legacy.fill(before)
    await asyncio.gather(*(asyncio.to_thread(runner.upgrade, database_settings) for _ in range(4)))
    await asyncio.to_thread(runner.check, database_settings)


async def _copied(connection: asyncpg.Connection) -> int:
    if await connection.fetchval("SELECT to_regclass('rollout.links')") is None:
        return 0
    count: int = await connection.fetchval("SELECT count(*) FROM rollout.links")
    return count


async def test_interrupted_copy_resumes(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    await before.execute(
        "INSERT INTO datasets (id, name, status) "
        "SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'd', 'ready' "
        "FROM generate_series(1, 450) AS n"
    )
    # Somebody keeps a row locked; the migration is killed while it waits for that row.
    holder = before.transaction()
    await holder.start()
    await before.execute("SELECT FROM datasets WHERE id = '00000000-0000-4000-8000-000000000300' FOR UPDATE")
    migrating = asyncio.create_task(asyncio.to_thread(runner.upgrade, database_settings))
    watcher = await legacy.connect(database_settings.url)
    async with asyncio.timeout(60):
        while await _copied(watcher) < 449:  # noqa: ASYNC110  the condition is in the database
            await asyncio.sleep(0.02)
    await watcher.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), {before.get_server_pid()})"
    )
    with pytest.raises(errors.Unavailable):
        await migrating
    assert await asyncio.to_thread(runner.current, database_settings) == "0002"
    await holder.commit()
    copied = {row["id"]: row["name"] for row in await watcher.fetch("SELECT id, name FROM rollout.datasets")}
    await asyncio.to_thread(runner.upgrade, database_settings)
    names = {row["id"]: row["name"] for row in await watcher.fetch("SELECT id, name FROM datasets")}
    assert len(names) == len(set(names.values())) == 450
    assert copied.items() <= names.items()
    await watcher.close()


async def test_no_database_is_a_clear_error() -> None:
    with pytest.raises(errors.Unavailable):
        await asyncio.to_thread(runner.upgrade, DatabaseSettings(url="postgresql://nobody@127.0.0.1:9/nothing"))
