"""Repairs: the catalog's jobs, and the very functions that a worker runs, on real files."""

import asyncio
import json
import pathlib
import uuid
from typing import Any

import datasets
import grpc.aio
import pytest
from google.protobuf import any_pb2

from polytok import errors, manifests
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import answers_pb2
from services.catalog.server.repository.tokenizations import tokenizations
from services.jobs.task_process_main import TaskContext
from services.records import storage_folders
from services.tokenizer.checks import verification
from services.tokenizer.models import loader
from tests.catalog import harness, locks
from tests.catalog.task_runner import TaskRunner
from tests.support.messages import check_names

Repair = tokenizations_pb2.Repair
NAME = "datasets/docs/tokenizations/small"
PLANS = {
    "plain": {"max_length": 16},
    "packed": {"max_length": 16, "packing": tokenizations_pb2.Packing()},
    "shuffled": {"max_length": 16, "shuffle_seed": 7},
    "unique": {"max_length": 16, "filters": tokenizations_pb2.Filters(drop_duplicates=True)},
}


async def _tokenized(
    docs: harness.CatalogHarness, runner: TaskRunner, plan: str = "plain"
) -> tokenizations_pb2.Tokenization:
    await runner.run((await docs.tokenize("docs", "small", **PLANS[plan])).job)
    runner.done.clear()
    found = await docs.tokenization(NAME)
    assert found.statistics.num_files > 2, found
    return found


async def _repair(catalog: harness.CatalogHarness, name: str = NAME, **fields: Any) -> tokenizations_pb2.Tokenization:
    return await catalog.tokenizations.RepairTokenization(
        tokenizations_pb2.RepairTokenizationRequest(name=name, **fields)
    )


async def _files(catalog: harness.CatalogHarness, name: str = NAME) -> list[pathlib.Path]:
    uid = (await catalog.tokenization(name)).uid
    async with catalog.database.connection() as conn:
        return [catalog.storage.local_path(file.key) for file in await tokenizations.files(conn, uid)]


def _damages(catalog: harness.CatalogHarness, record: tokenizations_pb2.Tokenization) -> list[str]:
    task = answers_pb2.VerifyTask(tokenized_path=record.tokenized_path, manifest_digest=record.manifest_digest)
    context = TaskContext(str(uuid.uuid4()), 1, b"", lambda _: None)
    return [
        finding.message
        for finding in verification.verify(task, catalog.storage, loader.TokenizerCache(1), context).findings
    ]


def _contents(record: tokenizations_pb2.Tokenization) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pathlib.Path(record.tokenized_path).iterdir()}


def _times(record: tokenizations_pb2.Tokenization) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in pathlib.Path(record.tokenized_path).iterdir()}


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("plan", "checksums_only"),
    [
        ("plain", True),
        ("packed", False),
        pytest.param("packed", True, marks=pytest.mark.long),
        pytest.param("shuffled", True, marks=pytest.mark.long),
        pytest.param("unique", False, marks=pytest.mark.long),
    ],
)
async def test_bad_files_are_restored(
    docs: harness.CatalogHarness, runner: TaskRunner, plan: str, checksums_only: bool
) -> None:
    record = await _tokenized(docs, runner, plan)
    rows = datasets.load_from_disk(record.tokenized_path)[:]
    files = await _files(docs)
    whole = _contents(record)
    _flip(files[0])
    files[1].write_bytes(files[1].read_bytes()[:-9])
    files[2].unlink()
    (files[0].parent / "state.json").write_text("{}")
    (files[0].parent / "dataset_info.json").unlink()
    damages = _damages(docs, record)
    assert len(damages) == 5
    started = await _repair(docs, checksums_only=checksums_only)
    assert (started.state, started.repair.state) == (record.state, Repair.STATE_QUEUED)
    await runner.run(started.repair.job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert sorted(found.repair.damages) == sorted(damages)
    assert (found.repair.num_remade, list(found.repair.changes), found.repair.progress) == (3, [], 100.0)
    # Nothing else was touched, nor made again.
    assert _contents(record) == whole
    assert _damages(docs, found) == []
    assert (found.manifest_digest, found.etag) == (record.manifest_digest, record.etag)
    assert datasets.load_from_disk(found.tokenized_path)[:] == rows
    # Only a comparison of the ids takes all files.
    made = sum(kind in {"tokenize.shard", "tokenize.assemble"} for kind in runner.done)
    assert made == (3 if checksums_only else (await docs.dataset("docs")).num_shards)
    await docs.catalog.garbage_collector.collect()
    left = {path.name for path in files[0].parent.parent.iterdir()}
    assert left == {"raw", files[0].parent.name}


def _links(record: tokenizations_pb2.Tokenization) -> list[str]:
    folder = pathlib.Path(record.tokenized_path)
    return [path.name for path in (folder, *folder.iterdir()) if path.is_symlink()]


def _link(record: tokenizations_pb2.Tokenization, target: pathlib.Path) -> None:
    """Move the folder elsewhere, and leave a link to it."""
    folder = pathlib.Path(record.tokenized_path)
    folder.rename(target)
    folder.symlink_to(target)


async def _is_repaired(
    docs: harness.CatalogHarness,
    runner: TaskRunner,
    record: tokenizations_pb2.Tokenization,
    whole: dict[str, bytes],
    remade: int,
) -> None:
    damages = _damages(docs, record)
    await runner.run((await _repair(docs, checksums_only=True)).repair.job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert (found.repair.num_remade, list(found.repair.changes)) == (remade, [])
    assert {message.partition(" Without it")[0] for message in damages} <= set(found.repair.damages)
    assert _contents(record) == whole
    assert _links(record) == []
    assert _damages(docs, found) == []
    assert found.manifest_digest == record.manifest_digest


async def test_obstacles_are_removed_and_links_not_written_through(
    docs: harness.CatalogHarness, runner: TaskRunner, tmp_path: pathlib.Path
) -> None:
    record = await _tokenized(docs, runner)
    whole = _contents(record)
    folder, files = pathlib.Path(record.tokenized_path), await _files(docs)
    inside = docs.storage.local_path("inside")
    assert inside is not None
    for path, target in (
        (files[0], tmp_path / "outside"),
        (files[1], inside),
        (folder / "state.json", tmp_path / "outside.json"),
        (folder / "polytok.json", tmp_path / "none"),
    ):
        if target.name != "none":
            target.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(target)
    for path in (files[2], folder / "dataset_info.json"):
        path.unlink()
        (path / "below").mkdir(parents=True)
        (path / "below" / "file").write_text("x")
    before = {path: path.read_bytes() for path in (tmp_path / "outside", tmp_path / "outside.json", inside)}
    assert len(_damages(docs, record)) == 1  # that of the manifest, without which nothing else is known
    await _is_repaired(docs, runner, record, whole, 3)
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", ["outside", "inside", "dangling"])
async def test_a_link_in_place_of_the_folder_is_removed(
    docs: harness.CatalogHarness, runner: TaskRunner, tmp_path: pathlib.Path, place: str
) -> None:
    record = await _tokenized(docs, runner)
    whole = _contents(record)
    inside = docs.storage.local_path("inside")
    assert inside is not None
    target = inside if place == "inside" else tmp_path / place
    _link(record, target)
    if place == "dangling":
        target.rename(tmp_path / "away")
    # What is behind it may not be what was written; nothing of it is read.
    assert (await docs.tokenization(NAME)).tokenized_path == record.tokenized_path
    await _is_repaired(docs, runner, record, whole, record.statistics.num_files)
    left = tmp_path / "away" if place == "dangling" else target
    assert {path.name: path.read_bytes() for path in left.iterdir()} == whole


async def test_intact_files_are_kept(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    before = _times(record)
    for checksums_only in (True, False):
        runner.done.clear()
        await runner.run((await _repair(docs, checksums_only=checksums_only)).repair.job)
        found = (await docs.tokenization(NAME)).repair
        assert (found.state, list(found.damages), found.num_remade) == (Repair.STATE_DONE, [], 0)
        assert _times(record) == before
        made = 0 if checksums_only else record.statistics.num_files
        assert runner.done == ["repair.check", *["tokenize.shard"] * made, "repair.restore"]


async def test_lost_manifest_is_restored(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    manifest = pathlib.Path(record.tokenized_path) / "polytok.json"
    before = manifest.read_bytes()
    manifest.write_text("{}")
    await runner.run((await _repair(docs, checksums_only=True)).repair.job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE
    assert manifest.read_bytes() == before
    check_names(found.repair.damages[0], "polytok.json", "sha256")
    assert "verified" not in found.repair.damages[0]
    assert runner.done == ["repair.check", "repair.restore"]


async def test_manifest_of_another_format_is_replaced_for_all_sharers(
    docs: harness.CatalogHarness, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await _tokenized(docs, runner)
    await docs.tokenize("docs", "other", **PLANS["plain"])
    before = await _files(docs)
    (pathlib.Path(record.tokenized_path) / "polytok.json").unlink()
    _flip(before[0])
    monkeypatch.setattr(manifests, "FORMAT", 2)
    await runner.run((await _repair(docs, "datasets/docs/tokenizations/other")).repair.job)
    found, other = await docs.tokenization(NAME), await docs.tokenization("datasets/docs/tokenizations/other")
    assert found.repair == other.repair
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert any("byte for byte" in change for change in found.repair.changes), found.repair
    assert len(found.repair.damages) == 2
    assert found.tokenized_path == other.tokenized_path != record.tokenized_path
    assert found.manifest_digest == other.manifest_digest != record.manifest_digest
    assert _damages(docs, found) == []
    assert [path.name for path in await _files(docs)] != [path.name for path in before]
    # Readers of the old one can go on reading until it is swept.
    assert all(path.exists() for path in before)
    await docs.catalog.garbage_collector.collect()
    assert not before[0].parent.exists()
    assert _damages(docs, found) == []


@pytest.mark.long
async def test_different_files_are_replaced_and_reported(
    docs: harness.CatalogHarness, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await _tokenized(docs, runner)
    rows = datasets.load_from_disk(record.tokenized_path)["input_ids"][:]
    _flip((await _files(docs))[1])
    # As if another version wrote batches of another size.
    monkeypatch.setattr("services.tokenizer.files.shard_writer._BATCH_ROWS", 3)
    monkeypatch.setattr("services.tokenizer.text.shard_reader.SLICE_BYTES", 64)
    await runner.run((await _repair(docs)).repair.job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert found.repair.num_remade == record.statistics.num_files
    assert found.repair.changes
    assert not any("byte for byte" in change for change in found.repair.changes), found.repair
    assert found.tokenized_path != record.tokenized_path
    assert _damages(docs, found) == []
    assert datasets.load_from_disk(found.tokenized_path)["input_ids"][:] == rows
    resolved = await docs.tokenizations.ResolveTokenization(
        tokenizations_pb2.ResolveTokenizationRequest(dataset="datasets/docs", model="models/small")
    )
    assert resolved.tokenization.tokenized_path == found.tokenized_path


async def test_held_files_are_repaired_and_not_replaced(
    docs: harness.CatalogHarness, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await _tokenized(docs, runner)
    await docs.tokenize("docs", "other", **PLANS["plain"])
    hold = tokenizations_pb2.HoldTokenizationRequest(
        name="datasets/docs/tokenizations/other", holder="extractions/reading", ttl={"seconds": 600}
    )
    await docs.tokenizations.HoldTokenization(hold)
    whole = _contents(record)
    _flip((await _files(docs))[0])
    await runner.run((await _repair(docs)).repair.job)
    assert (await docs.tokenization(NAME)).repair.state == Repair.STATE_DONE
    assert _contents(record) == whole
    (pathlib.Path(record.tokenized_path) / "polytok.json").unlink()
    monkeypatch.setattr(manifests, "FORMAT", 2)
    await runner.run((await _repair(docs)).repair.job)
    found = await docs.tokenization(NAME)
    assert (found.repair.state, found.repair.error_reason) == (Repair.STATE_ERROR, "RESOURCE_HELD")
    check_names(found.repair.error_message, "extractions/reading")
    assert found.tokenized_path == record.tokenized_path


@pytest.mark.long
@pytest.mark.parametrize("first", ["share", "publish"])
async def test_sharing_during_replacement(
    docs: harness.CatalogHarness, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    record = await _tokenized(docs, runner)
    (pathlib.Path(record.tokenized_path) / "polytok.json").unlink()
    monkeypatch.setattr(manifests, "FORMAT", 2)
    job = (await _repair(docs)).repair.job
    await runner.run_until(job, "tokenize.publish")
    async with docs.database.transaction() as conn:
        # Both wait for this lock, or for the one that waits for it.
        await storage_folders.lock(conn, record.tokenized_path.removeprefix(docs.storage.uri("x")[:-1]))
        calls = {"share": docs.tokenize("docs", "other", **PLANS["plain"]), "publish": runner.step(job)}
        running = []
        for place, call in enumerate([first, *(calls.keys() - {first})]):
            running.append(asyncio.create_task(calls[call]))
            await locks.queued(docs, place + 1)
    await asyncio.gather(*running)
    assert runner.done[-1] == "tokenize.publish"
    found, other = await docs.tokenization(NAME), await docs.tokenization("datasets/docs/tokenizations/other")
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert (other.state, other.shared_from) == (found.state, NAME)
    assert found.tokenized_path == other.tokenized_path != record.tokenized_path
    assert found.manifest_digest == other.manifest_digest != record.manifest_digest
    assert await _files(docs, "datasets/docs/tokenizations/other") == await _files(docs)


async def test_retry_after_a_lost_repair_attempt(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    whole = _contents(record)
    for path in await _files(docs):
        _flip(path)
    job = (await _repair(docs)).repair.job
    await runner.run_until(job, "repair.restore")
    leased = await runner.take(job)
    await runner.result(leased)
    await leased.fail("WORKER_LOST", "It died before it could tell.", retryable=True)
    await runner.run(job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE, found.repair
    assert _contents(record) == whole


async def test_sharers_have_one_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    await _tokenized(docs, runner)
    await docs.tokenize("docs", "other", **PLANS["plain"])
    _flip((await _files(docs))[0])
    first = await _repair(docs)
    second = await _repair(docs, "datasets/docs/tokenizations/other")
    assert first.repair == second.repair
    assert (await _repair(docs)).repair.job == first.repair.job
    await runner.run(first.repair.job)
    other = await docs.tokenization("datasets/docs/tokenizations/other")
    assert other.repair.state == Repair.STATE_DONE
    assert _damages(docs, other) == []
    again = await _repair(docs)
    assert again.repair.job != first.repair.job


async def test_damaged_source_stops_the_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    files = await _files(docs)
    _flip(files[0])
    damaged = files[0].read_bytes()
    for raw in sorted((files[0].parent.parent / "raw").glob("*.arrow"))[:1]:
        _flip(raw)
    await runner.run((await _repair(docs)).repair.job)
    found = await docs.tokenization(NAME)
    assert (found.state, found.repair.state) == (record.state, Repair.STATE_ERROR)
    assert found.repair.error_reason == "CHECKSUM_MISMATCH"
    check_names(found.repair.error_message, "`polytok tokenization repair docs/small --checksums-only`")
    assert files[0].read_bytes() == damaged
    assert len(found.repair.damages) == 1


@pytest.mark.long
async def test_cancel_a_repair_or_delete_its_tokenization(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    _flip((await _files(docs))[0])
    started = await _repair(docs)
    await runner.step(started.repair.job)
    cancelled = await docs.tokenizations.CancelTokenization(tokenizations_pb2.CancelTokenizationRequest(name=NAME))
    assert (cancelled.state, cancelled.repair.state) == (record.state, Repair.STATE_CANCELLED)
    assert await runner.due(started.repair.job) == []
    async with harness.expect_error(errors.FailedPrecondition, "WRONG_STATE"):
        await docs.tokenizations.CancelTokenization(tokenizations_pb2.CancelTokenizationRequest(name=NAME))
    again = await _repair(docs)
    await runner.step(again.repair.job)
    await docs.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=NAME))
    assert await runner.due(again.repair.job) == []
    await docs.catalog.garbage_collector.collect()
    assert [key for key in docs.storage.list("datasets") if "_tokenized_" in key] == []


@pytest.mark.long
async def test_files_of_a_running_repair_are_not_swept(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    await _tokenized(docs, runner)
    for path in await _files(docs):
        _flip(path)
    started = await _repair(docs)
    for _ in range(2):
        await runner.step(started.repair.job)
    assert await docs.catalog.garbage_collector.collect() == []
    await runner.run(started.repair.job)
    assert _damages(docs, await docs.tokenization(NAME)) == []


@pytest.mark.long
async def test_worker_without_a_lease_changes_nothing(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    await _tokenized(docs, runner)
    started = await _repair(docs)
    leased = await runner.take(started.repair.job)
    await docs.tokenizations.CancelTokenization(tokenizations_pb2.CancelTokenizationRequest(name=NAME))
    with pytest.raises(grpc.aio.AioRpcError):
        await leased.complete(any_pb2.Any())
    assert (await docs.tokenization(NAME)).repair.state == Repair.STATE_CANCELLED


@pytest.mark.long
async def test_watch_a_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    watching = tokenizations_pb2.WatchTokenizationRequest(name=NAME, repair=True)
    async with harness.expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        _ = [reply async for reply in docs.tokenizations.WatchTokenization(watching)]
    check_names(caught[0].message, "`polytok tokenization repair docs/small`")
    _flip((await _files(docs))[0])
    started = await _repair(docs)
    running = asyncio.create_task(runner.run(started.repair.job))
    seen = [reply.tokenization async for reply in docs.tokenizations.WatchTokenization(watching)]
    await running
    assert seen[-1].repair.state == Repair.STATE_DONE
    assert {each.state for each in seen} == {record.state}
    progress = [each.repair.progress for each in seen]
    assert progress == sorted(progress)


@pytest.mark.long
async def test_a_request_id_begins_one_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    await _tokenized(docs, runner)
    request_id = str(uuid.uuid4())
    first = await _repair(docs, request_id=request_id)
    await runner.run(first.repair.job)
    assert (await _repair(docs, request_id=request_id)).repair.job == first.repair.job


async def test_repair_needs_a_ready_tokenization(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    async with harness.expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await _repair(docs)
    await docs.tokenize("docs", "small", **PLANS["plain"])
    async with harness.expect_error(errors.FailedPrecondition, "NOT_READY"):
        await _repair(docs)


@pytest.mark.long
async def test_the_manifest_names_its_maker(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await _tokenized(docs, runner)
    assert json.loads((pathlib.Path(record.tokenized_path) / "polytok.json").read_text())["name"] == NAME
