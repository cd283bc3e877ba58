"""Garbage collection: what no record refers to is deleted, and nothing else."""

import os
import pathlib
import uuid

import pytest
import structlog.testing

from services.records.garbage_collection import GarbageCollector


@pytest.fixture
async def ready(catalog, worker):
    """Return a catalog with a tokenization that is READY."""
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    await worker.finish(await catalog.tokenize("docs", "gpt2"))
    return catalog


async def test_published_files_are_kept(ready):
    before = ready.storage.list("datasets")
    assert len(before) == 6  # a raw shard and its state, an Arrow file and three manifests
    assert await ready.catalog.garbage_collector.collect() == []
    assert ready.storage.list("datasets") == before


async def test_orphans_are_deleted(ready):
    before = ready.storage.list("datasets")
    uid = (await ready.dataset("docs")).uid
    orphans = [
        f"datasets/{uid}/raw/part-late.arrow",
        f"datasets/{uid}/raw_tokenized_m_ffffffff/data.arrow",
        f"datasets/{uuid.uuid4()}/raw/part.arrow",
        next(key for key in before if "_tokenized_" in key).rpartition("/")[0] + "/data-late.arrow",
    ]
    for key in orphans:
        ready.storage.write_bytes(key, b"x")
    swept = await ready.catalog.garbage_collector.collect()
    assert len(swept) == 4
    assert ready.storage.list("datasets") == before


async def test_files_of_a_running_job_are_kept(ready, worker):
    created = await ready.tokenize("docs", "gpt2", variant="v", max_length=8)
    leased = await worker.take(created.job)
    key = leased.shard_result().files[0].key
    assert await ready.catalog.garbage_collector.collect() == []
    assert ready.storage.exists(key)


async def test_files_of_a_failed_job_are_deleted(ready, worker):
    created = await ready.tokenize("docs", "gpt2", variant="v", max_length=8)
    leased = await worker.take(created.job)
    key = leased.shard_result().files[0].key
    await leased.fail("INTERNAL", "A defect.")
    assert await ready.catalog.garbage_collector.collect() == [key.rpartition("/")[0]]
    assert not ready.storage.exists(key)


async def test_orphans_have_a_grace_period(ready):
    settings = ready.catalog.garbage_collector._settings.model_copy(update={"garbage_grace_seconds": 3600})
    before = ready.catalog.garbage_collector
    garbage_collector = GarbageCollector(ready.database, ready.storage, before._folders, before._policy, settings)
    key = f"datasets/{uuid.uuid4()}/raw/part.arrow"
    ready.storage.write_bytes(key, b"x")
    assert await garbage_collector.collect() == []
    assert ready.storage.exists(key)


async def test_foreign_files_are_kept(ready):
    for key in ("datasets/readme.txt", "datasets/notes/a/b", "elsewhere/file"):
        ready.storage.write_bytes(key, b"x")
    assert await ready.catalog.garbage_collector.collect() == []
    assert ready.storage.exists("datasets/notes/a/b")


def _touch(catalog, key, *names):
    """Make an empty file below a folder, by names that no key can have."""
    path = pathlib.Path(catalog.storage.local_path(key), *names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("name", [b"a[1].txt", b"a*", b"a?", b"back\\slash", b"line\nbreak", b"latin-\xe9.txt"])
async def test_files_with_unusable_names_are_skipped_and_logged_once(ready, name):
    published = next(key for key in ready.storage.list("datasets") if "_tokenized_" in key)
    folder, name = published.rpartition("/")[0], os.fsdecode(name)
    stray = _touch(ready, folder, name)
    _touch(ready, folder.rpartition("/")[0], f"raw_tokenized_{name}", "file")
    late, orphan = f"{folder}/zz-late.arrow", f"datasets/{uuid.uuid4()}"
    reports = []
    for _ in range(2):
        for key in (late, f"{orphan}/raw/part.arrow"):
            ready.storage.write_bytes(key, b"x")
        beside = _touch(ready, orphan, name)
        with structlog.testing.capture_logs() as logs:
            assert sorted(await ready.catalog.garbage_collector.collect()) == sorted([orphan, late])
        assert not beside.parent.exists()
        reports.append([entry["count"] for entry in logs if entry["log_level"] == "warning"])
    assert reports == [[2], []]
    assert stray.exists()
