"""Documents of several raw shards, packed across them, shuffled, freed of duplicates, are what plain Python makes."""

import copy
import pathlib
import random
import tracemalloc
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2
from services.runtime.settings import StorageSettings
from services.runtime.storage import Storage, open_storage
from services.tokenizer.engines import spot_check
from services.tokenizer.files import arrangement, staging
from services.tokenizer.sequences.ragged import Ragged
from services.tokenizer.text import shard_reader
from services.tokenizer.worker.tasks import assemble_task
from tests.support.messages import words
from tests.tokenizer import oracle, samples, task_runner, test_fast_engines
from tests.tokenizer.pipeline import Pipeline, some
from tests.tokenizer.pipeline import key as pipeline_key
from tests.tokenizer.task_runner import Parameters

Packing = tokenizations_pb2.Packing
Filters = tokenizations_pb2.Filters
BOS, EOS, NONE = Packing.BOUNDARY_BOS, Packing.BOUNDARY_EOS, Packing.BOUNDARY_NONE


def corpus() -> list[list[str]]:
    """Raw shards of very different sizes, with texts that occur again in the same one and in others."""
    chance = random.Random(5)
    texts = [*samples.ADVERSARIAL, *(document[:900] for document in samples.DOCUMENTS[:40]), "short", "", "a b c"]
    texts += chance.choices(texts, k=30)
    chance.shuffle(texts)
    return [texts[:40], texts[40:41], [""], texts[41:60], [], texts[60:]]


PARTS = corpus()
TEXTS = [text for part in PARTS for text in part]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, pathlib.Path]) -> task_runner.TaskRunner:
    """Run tasks with a SentencePiece tokenizer, which is loaded, and its engine chosen, once."""
    return task_runner.TaskRunner(Storage(str(tmp_path_factory.mktemp("stages"))), folders["sentencepiece"])


@pytest.fixture
def runner(loaded: task_runner.TaskRunner, monkeypatch: pytest.MonkeyPatch) -> task_runner.TaskRunner:
    """Return the same in an empty folder; pieces are much smaller than shards."""
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 4000)
    monkeypatch.setattr(arrangement, "_ROWS", 7)
    monkeypatch.setattr(arrangement, "_IDS", 500)
    monkeypatch.setattr(arrangement, "_OPEN", 2)
    loaded.storage.delete_tree(task_runner.TOKENIZED)
    return loaded


def compare(runner: task_runner.TaskRunner, parameters: Parameters) -> tokenizations_pb2.TokenizationStatistics:
    """Run everything; compares rows, statistics and what is left in the folder."""
    pipeline = Pipeline(runner, parameters)
    found = pipeline.run(PARTS)
    expected = oracle.expected(TEXTS, parameters, runner.reference.repo_id)
    assert found["input_ids"][:] == expected.rows
    if expected.document_starts is not None:
        assert found["document_starts"][:] == expected.document_starts
    statistics = pipeline.published.statistics
    for field in (*expected.counts, "num_too_short", "num_matched", "num_duplicates"):
        assert getattr(statistics, field) == expected.counts.get(field, 0), field
    lengths = [len(row) for row in expected.rows]
    assert statistics.num_tokens == sum(lengths)
    assert statistics.num_sequences == len(lengths)
    assert statistics.num_unknown == sum(row.count(0) for row in expected.rows)
    assert (statistics.min_seq_length, statistics.max_seq_length) == (min(lengths), max(lengths))
    assert statistics.avg_seq_length == pytest.approx(sum(lengths) / len(lengths))
    assert statistics.median_seq_length == median(lengths)
    assert statistics.num_unique_tokens == len({token for row in expected.rows for token in row})
    assert statistics.num_truncated == expected.num_truncated
    assert statistics.num_files == sum(name.startswith("shard-") for name in names_in(runner))
    assert {name for name in names_in(runner) if not name.startswith("shard-")} == {
        "polytok.json",
        "dataset_info.json",
        "state.json",
    }
    return statistics


def names_in(runner: task_runner.TaskRunner) -> set[str]:
    return {key.rpartition("/")[2] for key in runner.storage.list(task_runner.TOKENIZED)}


@pytest.mark.parametrize("separator", [NONE, BOS, EOS])
@pytest.mark.parametrize("begin_of_sequence", some([NONE, BOS, EOS], NONE))
@pytest.mark.parametrize("begin_of_batch", [NONE, BOS])
def test_packing_across_shards(
    runner: task_runner.TaskRunner, begin_of_batch: int, begin_of_sequence: int, separator: int
) -> None:
    packing = Packing(
        begin_of_batch=begin_of_batch,
        begin_of_sequence=begin_of_sequence,
        separator=separator,
        document_starts=True,
    )
    compare(runner, Parameters(max_length=48, packing=packing))


@pytest.mark.parametrize("length", [2, 700, 5000, 400_000])
def test_rows_much_shorter_and_longer_than_shards(runner: task_runner.TaskRunner, length: int) -> None:
    parameters = Parameters(max_length=length, packing=Packing(document_starts=True))
    if length < 400_000:
        compare(runner, parameters)
    else:
        pipeline = Pipeline(runner, parameters)
        raw = [
            task_runner.text_shard(runner.storage, part, key=f"datasets/d/raw/{place}")
            for place, part in enumerate(PARTS)
        ]
        assert [list(made.files) for made in pipeline.assembled(raw)] == [[]] * len(PARTS)


@pytest.mark.parametrize("limit", [1, 40, 41, 55])
def test_the_first_documents_packed(runner: task_runner.TaskRunner, limit: int) -> None:
    compare(runner, Parameters(max_length=24, max_documents=limit, packing=Packing(document_starts=True)))


COMBINATIONS: dict[str, dict[str, Any]] = {
    "duplicates": {"filters": {"drop_duplicates": True}},
    "shuffled": {"shuffle_seed": 3},
    "sample": {"shuffle_seed": 4, "max_documents": 31},
    "sample of all": {"shuffle_seed": 4, "max_documents": 10_000},
    "normalized duplicates": {"filters": {"drop_duplicates": True}, "normalization": Parameters.NORMALIZATION_NFKC},
    "filtered": {"filters": {"drop_duplicates": True, "min_characters": 4, "drop_pattern": "[{]"}, "shuffle_seed": 9},
    "first": {"filters": {"drop_duplicates": True}, "max_documents": 45},
    "sampled duplicates": {"filters": {"drop_duplicates": True}, "max_documents": 45, "shuffle_seed": 0},
}
FORMS: dict[str, dict[str, Any]] = {
    "one each": {"max_length": 40},
    "packed": {"max_length": 40, "packing": {"document_starts": True}},
    "packed otherwise": {"max_length": 33, "packing": {"begin_of_batch": NONE, "separator": EOS}},
    "cut": {"max_length": 20, "packing": {"disable_concatenation": True}},
}


@pytest.mark.parametrize("form", some(FORMS, "one each", "packed"))
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combinations(runner: task_runner.TaskRunner, form: str, combination: str) -> None:
    statistics = compare(runner, Parameters(**COMBINATIONS[combination], **FORMS[form]))
    assert bool(statistics.num_duplicates) == ("drop_duplicates" in COMBINATIONS[combination].get("filters", {}))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_on_a_remote_storage(runner: task_runner.TaskRunner, tmp_path: pathlib.Path, cache_bytes: int) -> None:
    settings = StorageSettings(
        root=f"memory://{tmp_path.name}-{cache_bytes}", cache=str(tmp_path / "cache"), cache_bytes=cache_bytes
    )
    there = copy.copy(runner)
    there.storage = open_storage(settings)
    parameters = Parameters(max_length=40, packing={}, shuffle_seed=2, filters={"drop_duplicates": True})
    raw = [task_runner.text_shard(there.storage, part, key=pipeline_key(number)) for number, part in enumerate(PARTS)]
    made = Pipeline(there, parameters).assembled(raw)
    expected = oracle.expected(TEXTS, parameters, runner.reference.repo_id)
    assert [row for each in made for row in task_runner.rows(there.storage, each)] == expected.rows
    # A copy of every raw shard and of what was staged of it, the empty ones being the same.
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) >= len(PARTS) if cache_bytes else kept == []


def test_a_staged_file_that_became_shorter(runner: task_runner.TaskRunner) -> None:
    parameters = Parameters(max_length=40, shuffle_seed=2)
    pipeline = Pipeline(runner, parameters)
    encoded = pipeline.encoded([task_runner.text_shard(runner.storage, PARTS[0])])
    staged = encoded[0].documents
    runner.storage.write_bytes(staged.key, runner.storage.read_bytes(staged.key)[:-8])
    found = pipeline.arranged(documents=[staged], dataset_rows=len(PARTS[0]))
    task = stages_pb2.ArrangedTask(
        arrangement_key=found.arrangement_key,
        arrangement_sha256=found.arrangement_sha256,
        tokenized_key=task_runner.TOKENIZED,
        tokenizer=runner.reference,
        parameters=parameters,
        count=1,
    )
    with pytest.raises(errors.DataLoss) as caught:
        assemble_task.assemble(task, runner.storage, runner.tokenizers, runner.context())
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": staged.key})
    assert {staged.key, "retry"} <= words(caught.value.message)


def test_wrong_ids_are_encoded_again(
    storage: Storage, folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spot_check, "SHARE", 1.0)
    runner = task_runner.TaskRunner(
        storage, folders["byte_level"], test_fast_engines.selector("zebra", test_fast_engines.other_ids, [])
    )
    parameters = Parameters(max_length=16, packing={"begin_of_batch": NONE}, filters={"drop_duplicates": True})
    texts = ["first of all", *samples.DOCUMENTS[:5], "then a zebra came"]
    pipeline = Pipeline(runner, parameters)
    found = pipeline.run([texts])
    assert found["input_ids"][:] == oracle.expected(texts, parameters, runner.reference.repo_id).rows
    statistics = pipeline.published.statistics
    assert (statistics.num_engine_mismatches, statistics.engine) == (1, "reference")
    assert statistics.num_documents == len(texts)


@pytest.mark.long
def test_memory_does_not_grow_with_the_dataset(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    runner = task_runner.TaskRunner(storage, folders["sentencepiece"])
    shards, rows, length = 8, 10_000, 400
    documents = Ragged(np.tile(np.arange(3, 3 + length, dtype=np.int32), rows), np.arange(rows + 1) * length)
    staged = []
    for number in range(shards):
        with staging.Writer(storage, f"{task_runner.TOKENIZED}/staged-{number}", number * rows, rows) as writer:
            writer.write(documents, np.arange(rows))
        staged.append(writer.documents)
    assert storage.size(staged[0].key) > 15 << 20
    pipeline = Pipeline(runner, Parameters(max_length=1024, packing={}, shuffle_seed=1))
    found = pipeline.arranged(documents=staged, dataset_rows=shards * rows)
    assert found.num_files == shards
    tracemalloc.start()
    try:
        measured = pipeline.measured(found)
        found = pipeline.arranged(found, measured=measured)
        made = pipeline.files(found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of the 128 MB that are staged, a few pieces of 4 MB are in memory at a time.
    assert peak < 64 << 20
    tokens = shards * rows * (length + 1)
    assert sum(each.statistics.num_sequences for each in made) in {tokens // 1023, tokens // 1023 - 1}


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_real_text(storage: Storage, shared: pathlib.Path, name: str) -> None:
    texts = pq.read_table(shared / "corpus" / "mix32.parquet")["text"].to_pylist()[::18]
    texts += texts[10:40]
    parts = [texts[:60], texts[60:180], texts[180:]]
    folder = shared / "tokenizers" / name
    for more in ({}, {"shuffle_seed": 1, "filters": {"drop_duplicates": True}}):
        storage.delete_tree(task_runner.TOKENIZED)
        parameters = Parameters(max_length=512, packing={"begin_of_sequence": BOS, "separator": EOS}, **more)
        pipeline = Pipeline(task_runner.TaskRunner(storage, folder), parameters)
        found = pipeline.run(parts)
        assert found["input_ids"][:] == oracle.expected(texts, parameters, folder).rows
        assert pipeline.published.statistics.engine != "reference"
        assert pipeline.published.statistics.num_duplicates == (30 if more else 0)
