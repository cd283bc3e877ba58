"""An engine is wrong about one document: whatever it made for the job, in any process, is made again."""

import json
import pathlib
from typing import Any

import datasets
import pytest

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server.repository import distrusted_engines
from services.tokenizer.engines import selection, spot_check, versions
from services.tokenizer.engines.reference import Reference
from tests.catalog import harness
from tests.catalog.task_runner import TaskRunner
from tests.client import samples
from tests.tokenizer import oracle
from tests.tokenizer.test_fast_engines import Wrong, other_ids

State = tokenizations_pb2.Tokenization.State
NAME = "datasets/docs/tokenizations/small"
ENGINE = versions.format_name_and_version("gigatoken")
PLANS: dict[str, dict[str, Any]] = {
    "plain": {"max_length": 16},
    "packed": {"max_length": 16, "packing": {}},
    "all": {"max_length": 16, "packing": {}, "shuffle_seed": 3, "filters": {"drop_duplicates": True}},
}
TEXTS = [*(f"{text} Number {number}." for number, text in enumerate(samples.TEXTS)), "a zebra", *samples.TEXTS[:5]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[Wrong]:
    """Return the fast engines that workers make: each is wrong about zebras, and no proof but every sample shows it."""
    found: list[Wrong] = []

    def make(tokenizer: Any, content: str, parallel: bool) -> Wrong:
        found.append(Wrong(Reference(tokenizer.backend), "zebra", other_ids))
        return found[-1]

    monkeypatch.setattr(selection, "candidates", lambda content: ("gigatoken",))
    monkeypatch.setitem(selection.MAKERS, "gigatoken", make)
    monkeypatch.setattr(spot_check, "SHARE", 1.0)
    # Engines are asked for little text too, and what is found about these stays here.
    monkeypatch.setenv("POLYTOK_TOKENIZER_PATIENCE_BYTES", "0")
    monkeypatch.setenv("POLYTOK_TOKENIZER_PROOFS", str(tmp_path / "proofs"))
    return found


@pytest.fixture
async def zebras(
    made: list[Wrong], catalog: harness.CatalogHarness, runner: TaskRunner, tmp_path: pathlib.Path
) -> harness.CatalogHarness:
    """Return a dataset of several shards, of which the last but one or so has a zebra, and a model."""
    source = samples.write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    await runner.run((await catalog.create_dataset("docs", source=harness.file_source(str(source)))).job)
    folder = samples.write_model(tmp_path / "small")
    await runner.run((await catalog.create_model("small", repo_id=str(folder))).job)
    assert (await catalog.dataset("docs")).num_shards > 3
    return catalog


def _rows(record: tokenizations_pb2.Tokenization) -> list[list[int]]:
    rows: list[list[int]] = datasets.load_from_disk(record.tokenized_path)["input_ids"][:]
    return rows


def _expected(record: tokenizations_pb2.Tokenization) -> list[list[int]]:
    return oracle.expected(TEXTS, record.parameters, record.tokenizer_repo_id).rows


def _is_told(record: tokenizations_pb2.Tokenization, shards: int) -> None:
    """The record and the manifest say what happened."""
    found = record.statistics
    assert (found.engine, list(found.engine_versions)) == ("reference", [])
    assert (found.num_engine_mismatches, found.num_shards_encoded_again) == (1, shards)
    assert list(found.distrusted_engines) == [ENGINE]
    manifest = json.loads((pathlib.Path(record.tokenized_path) / "polytok.json").read_text())["statistics"]
    for field in ("engine", "num_engine_mismatches", "num_shards_encoded_again", "distrusted_engines"):
        value = getattr(found, field)
        assert manifest[field] == (value if isinstance(value, int | str) else list(value))


@pytest.mark.parametrize("plan", ["plain", pytest.param("packed", marks=pytest.mark.long), "all"])
async def test_every_shard_of_the_engine_is_encoded_again(
    zebras: harness.CatalogHarness, made: list[Wrong], plan: str
) -> None:
    shards = (await zebras.dataset("docs")).num_shards
    created = await zebras.tokenize("docs", "small", **PLANS[plan])
    # All are taken before the first is done; what one process learns the others do not know.
    workers = [TaskRunner(zebras) for _ in range(shards)]
    taken = [(worker, await worker.take(created.job)) for worker in workers]
    for worker, leased in reversed(taken):
        await worker.end(leased)
    (kind,) = {leased.lease.kind for _, leased in taken}
    again = [await workers[0].take(created.job) for _ in range(shards - 1)]
    tasks = [leased.payload(tasks_pb2.TokenizeShardTask) for leased in again]
    assert {leased.lease.kind for leased in again} == {kind}
    assert {(task.reference_only, *task.distrusted_engines) for task in tasks} == {(True, ENGINE)}
    for leased in again:
        await workers[0].end(leased)
    await workers[0].run(created.job)
    record = await zebras.tokenization(NAME)
    assert record.state == State.STATE_READY, record.error_message
    assert record.progress == 100
    assert _rows(record) == _expected(record)
    _is_told(record, shards)


async def test_later_tokenizations_avoid_the_engine(
    zebras: harness.CatalogHarness, runner: TaskRunner, made: list[Wrong]
) -> None:
    await runner.run((await zebras.tokenize("docs", "small", max_length=16)).job)
    del made[:]
    await TaskRunner(zebras).run((await zebras.tokenize("docs", "small", "other", max_length=17)).job)
    found = (await zebras.tokenization(f"{NAME}~other")).statistics
    assert (found.engine, list(found.distrusted_engines)) == ("reference", [ENGINE])
    assert (found.num_engine_mismatches, found.num_shards_encoded_again) == (0, 0)
    assert sum(wrong.calls for wrong in made) == 0


async def test_worker_dies_after_finding_a_mismatch(zebras: harness.CatalogHarness, runner: TaskRunner) -> None:
    created = await zebras.tokenize("docs", "small", max_length=16)
    dying, taken = TaskRunner(zebras), 0
    while not await _distrusted(zebras):
        leased = await dying.take(created.job)
        taken += 1
        result = await dying.result(leased)
        if not await _distrusted(zebras):
            await leased.complete(result)
    await leased.fail("WORKER_LOST", "It died before it could tell.", retryable=True)
    await TaskRunner(zebras).run(created.job)
    record = await zebras.tokenization(NAME)
    assert _rows(record) == _expected(record)
    # The process that finds it again has used the engine for no shard after it.
    _is_told(record, taken)


async def _distrusted(catalog: harness.CatalogHarness) -> list[str]:
    fingerprint = (await catalog.tokenization(NAME)).tokenizer_fingerprint
    async with catalog.database.connection() as conn:
        return await distrusted_engines.distrusted(conn, fingerprint)


async def test_output_of_a_distrusted_engine_is_not_shared(
    zebras: harness.CatalogHarness,
    runner: TaskRunner,
    made: list[Wrong],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.setattr(spot_check, "SHARE", 0.0)
    monkeypatch.setattr(spot_check, "_LEAST", 0)
    await runner.run((await zebras.tokenize("docs", "small", max_length=16)).job)
    wrong = await zebras.tokenization(NAME)
    assert list(wrong.statistics.engine_versions) == [ENGINE]
    assert _rows(wrong) != _expected(wrong)
    found = tasks_pb2.EngineMismatch(tokenizer_fingerprint=wrong.tokenizer_fingerprint, engine=ENGINE)
    async with zebras.database.transaction() as conn:
        await distrusted_engines.distrust(conn, found, wrong.name)
    folder = tmp_path / "small"
    await runner.run((await zebras.create_model("other", repo_id=str(folder))).job)
    other = await zebras.tokenize("docs", "other", max_length=16)
    assert (other.state, other.shared_from) == (State.STATE_QUEUED, "")
    await TaskRunner(zebras).run(other.job)
    assert _rows(await zebras.tokenization(other.name)) == _expected(wrong)
