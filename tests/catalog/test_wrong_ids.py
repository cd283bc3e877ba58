"""A repair fixes all that a verification reports, wrong ids with right checksums included."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import datasets
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server import tables
from services.tokenizer.engines import spot_check
from tests.catalog import forging, harness
from tests.catalog.task_runner import TaskRunner
from tests.catalog.test_mismatches import ENGINE, made, zebras  # noqa: F401  fixtures
from tests.catalog.test_repair import NAME, PLANS
from tests.support.messages import check_names

Repair = tokenizations_pb2.Repair


async def tokenized(
    docs: harness.CatalogHarness, runner: TaskRunner, **parameters: Any
) -> tokenizations_pb2.Tokenization:
    await runner.run((await docs.tokenize("docs", "small", **parameters)).job)
    return await docs.tokenization(NAME)


async def repaired(docs: harness.CatalogHarness, runner: TaskRunner, **fields: Any) -> tokenizations_pb2.Tokenization:
    runner.done.clear()
    request = tokenizations_pb2.RepairTokenizationRequest(name=NAME, **fields)
    await runner.run((await docs.tokenizations.RepairTokenization(request)).repair.job)
    found = await docs.tokenization(NAME)
    assert found.repair.state == Repair.STATE_DONE, found.repair
    return found


async def found_in(docs: harness.CatalogHarness, record: tokenizations_pb2.Tokenization) -> list[str]:
    return forging.findings(docs, record, (await docs.dataset("docs")).raw_path)


@pytest.mark.parametrize(
    "plan", ["plain", "packed", *(pytest.param(plan, marks=pytest.mark.long) for plan in ("shuffled", "unique"))]
)
async def test_wrong_ids_are_repaired(docs: harness.CatalogHarness, runner: TaskRunner, plan: str) -> None:
    record = await tokenized(docs, runner, **PLANS[plan])
    folder = record.tokenized_path.removeprefix(docs.storage.uri("x")[:-1])
    rows = datasets.load_from_disk(record.tokenized_path)[:]
    name = await forging.forge_ids(docs, record, 1)
    record = await docs.tokenization(NAME)
    assert await found_in(docs, record) == [f"WRONG_IDS {name}"]
    whole = await repaired(docs, runner, checksums_only=True)
    assert (list(whole.repair.damages), whole.tokenized_path) == ([], record.tokenized_path)
    assert whole.repair.checksums_only
    found = await repaired(docs, runner)
    (damage,) = found.repair.damages
    check_names(damage, name)
    assert not found.repair.checksums_only
    assert found.repair.num_remade == record.statistics.num_files
    assert found.tokenized_path != record.tokenized_path
    assert datasets.load_from_disk(found.tokenized_path)[:] == rows
    assert (found.statistics.engine, found.statistics.num_documents) == ("reference", record.statistics.num_documents)
    assert found.statistics.num_tokens == record.statistics.num_tokens
    assert found.statistics.num_duplicates == record.statistics.num_duplicates
    assert await found_in(docs, found) == []
    again = await repaired(docs, runner)
    assert (list(again.repair.damages), again.tokenized_path) == ([], found.tokenized_path)
    await docs.catalog.garbage_collector.collect()
    assert await found_in(docs, again) == []
    assert not any(key.startswith(f"{folder}/") for key in docs.storage.list(folder.rpartition("/")[0]))


def _manifest(record: tokenizations_pb2.Tokenization) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pathlib.Path(record.tokenized_path) / "polytok.json").read_text())
    return found


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _swap(folder: pathlib.Path) -> tuple[str, str]:
    """Put two files in each other's place, and one beside them that is nobody's."""
    first, second, *_ = sorted(folder.glob("*.arrow"))
    shutil.copy(first, folder / "aside")
    shutil.copy(second, first)
    (folder / "aside").rename(second)
    (folder / "shard-00099-of-00100-000000000000-e1.arrow").write_bytes(b"not ours")
    return first.name, second.name


def _phase(manifest: dict[str, Any]) -> None:
    manifest["files"][1]["phase"] += 2


def _parameters(manifest: dict[str, Any]) -> None:
    manifest["parameters"]["filters"] = {"drop_pattern": "Number 3"}


@pytest.mark.parametrize("change", [_phase, _parameters])
async def test_forged_manifest_is_repaired(
    docs: harness.CatalogHarness, runner: TaskRunner, change: Callable[[dict[str, Any]], None]
) -> None:
    record = await tokenized(docs, runner, **PLANS["packed"])
    rows = datasets.load_from_disk(record.tokenized_path)[:]
    before = _manifest(record)
    await forging.forge_manifest(docs, record, change)
    assert "WRONG_IDS" in (await found_in(docs, await docs.tokenization(NAME)))[0]
    found = await repaired(docs, runner)
    check_names(found.repair.damages[0], "polytok.json")
    assert await found_in(docs, found) == []
    assert datasets.load_from_disk(found.tokenized_path)[:] == rows
    after = _manifest(found)
    assert after["parameters"] == before["parameters"]
    assert [file["phase"] for file in after["files"]] == [file["phase"] for file in before["files"]]


async def test_swapped_and_foreign_files(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await tokenized(docs, runner, **PLANS["plain"])
    folder = pathlib.Path(record.tokenized_path)
    before = _contents(folder)
    swapped = _swap(folder)
    assert {each.split()[1] for each in await found_in(docs, record)} == set(swapped)
    found = await repaired(docs, runner)
    assert (found.repair.num_remade, list(found.repair.changes)) == (2, [])
    await docs.catalog.garbage_collector.collect()
    assert _contents(folder) == before


async def test_held_files_are_not_replaced(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    record = await tokenized(docs, runner, **PLANS["plain"])
    await forging.forge_ids(docs, record, 0)
    hold = tokenizations_pb2.HoldTokenizationRequest(name=NAME, holder="extractions/reading", ttl={"seconds": 600})
    await docs.tokenizations.HoldTokenization(hold)
    request = tokenizations_pb2.RepairTokenizationRequest(name=NAME)
    await runner.run((await docs.tokenizations.RepairTokenization(request)).repair.job)
    refused = (await docs.tokenization(NAME)).repair
    assert (refused.state, refused.error_reason) == (Repair.STATE_ERROR, "RESOURCE_HELD")
    await docs.tokenizations.ReleaseTokenization(
        tokenizations_pb2.ReleaseTokenizationRequest(name=NAME, holder="extractions/reading")
    )
    assert await found_in(docs, await repaired(docs, runner)) == []


@pytest.mark.parametrize("checksums_only", [True, False])
async def test_undetected_engine_error(
    zebras: harness.CatalogHarness,  # noqa: F811
    runner: TaskRunner,
    monkeypatch: pytest.MonkeyPatch,
    checksums_only: bool,
) -> None:
    with monkeypatch.context() as missing:
        missing.setattr(spot_check, "SHARE", 0.0)
        missing.setattr(spot_check, "_LEAST", 0)
        record = await tokenized(zebras, runner, max_length=16)
    (wrong,) = set(await found_in(zebras, record))
    assert wrong.startswith("WRONG_IDS")
    if checksums_only:
        # Its own making shows what the engine is, and then all that it made is suspect.
        path = pathlib.Path(record.tokenized_path) / wrong.split()[1]
        path.write_bytes(path.read_bytes()[:-1])
    found = await repaired(zebras, TaskRunner(zebras), checksums_only=checksums_only)
    assert await found_in(zebras, found) == []
    assert (found.statistics.engine, list(found.statistics.engine_versions)) == ("reference", [])
    distrusted = await zebras.count(tables.distrusted_engines)
    assert distrusted == (1 if checksums_only else 0)
    assert any(ENGINE in damage for damage in found.repair.damages) == checksums_only


async def test_checksum_repair_does_not_count_as_full_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    await tokenized(docs, runner, **PLANS["plain"])
    request = tokenizations_pb2.RepairTokenizationRequest(name=NAME, checksums_only=True)
    job = (await docs.tokenizations.RepairTokenization(request)).repair.job
    assert (await docs.tokenizations.RepairTokenization(request)).repair.job == job
    async with harness.expect_error(errors.FailedPrecondition, "WRONG_STATE"):
        await docs.tokenizations.RepairTokenization(tokenizations_pb2.RepairTokenizationRequest(name=NAME))
    await runner.run(job)
    await repaired(docs, runner)
