"""A bit that changes in any file that a tokenization writes on the way never becomes an id of what is published."""

import copy
import pathlib
from collections.abc import Callable

import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.records import publication
from services.tokenizer.files import arrangement
from services.tokenizer.text import shard_reader
from tests.support import damage
from tests.tokenizer import samples, task_runner
from tests.tokenizer.pipeline import Pipeline, key
from tests.tokenizer.task_runner import Parameters

PARTS = [[*samples.ADVERSARIAL[:12], "again", "a b c"], ["again", *samples.ADVERSARIAL[12:24], "a b c"]]
FORMS = {
    "shards": Parameters(max_length=40),
    "across shards": Parameters(max_length=40, packing={}),
    "all stages": Parameters(max_length=24, packing={}, shuffle_seed=3, filters={"drop_duplicates": True}),
}
SMALL = {"polytok.json", "dataset_info.json", "state.json"}
KINDS = {
    "shards": {"part.arrow", "shard.arrow", "staged-counts.bin", *SMALL},
    "across shards": {
        "part.arrow",
        "staged-ids.bin",
        "staged-phases.bin",
        "staged-arrangement.bin",
        "shard.arrow",
        "staged-counts.bin",
        *SMALL,
    },
    "all stages": {
        "part.arrow",
        "staged-ids.bin",
        "staged-hashes.bin",
        "staged-duplicates.bin",
        "staged-bits.bin",
        "staged-phases.bin",
        "staged-arrangement.bin",
        "shard.arrow",
        "staged-counts.bin",
        *SMALL,
    },
}

Published = tuple[list[list[int]], tokenizations_pb2.TokenizationStatistics]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, pathlib.Path]) -> task_runner.TaskRunner:
    """Run tasks with a tokenizer that is loaded, and its engine chosen, once."""
    return task_runner.TaskRunner(damage.Damaging(str(tmp_path_factory.mktemp("damage"))), folders["sentencepiece"])


@pytest.fixture
def tokenized(
    runner: task_runner.TaskRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Callable[[damage.Damaging, Parameters], Published]:
    """Tokenize from raw shards to what is published; pieces are much smaller than shards."""
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 4000)
    monkeypatch.setattr(arrangement, "_ROWS", 7)

    def run(storage: damage.Damaging, parameters: Parameters) -> Published:
        there = copy.copy(runner)
        there.storage = storage
        raw = [task_runner.text_shard(storage, part, key=key(number)) for number, part in enumerate(PARTS)]
        pipeline = Pipeline(there, parameters, shares=1)
        if parameters.HasField("packing"):
            made = pipeline.assembled(raw)
        else:
            made = [there.tokenize(shard, parameters, ordinal=place, count=len(raw)) for place, shard in enumerate(raw)]
        published = there.publish(made, parameters, counted=pipeline.counted)
        publication.move(storage, published.staged_files)
        return task_runner.opened_folder(storage)["input_ids"][:], published.statistics

    return run


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_bit(
    tokenized: Callable[[damage.Damaging, Parameters], Published], tmp_path: pathlib.Path, form: str
) -> None:
    whole = damage.Damaging(str(tmp_path / "whole"))
    expected = tokenized(whole, FORMS[form])
    assert damage.kinds(whole.written) == KINDS[form]
    for number, victim in enumerate(sorted(whole.written)):
        storage = damage.Damaging(str(tmp_path / str(number)), victim, place=(0.0, 0.5, 0.9, 1.0)[number % 4])
        if damage.kinds([victim]) == {"staged-counts.bin"}:
            # What was counted is counted again.
            assert tokenized(storage, FORMS[form]) == expected, victim
            assert storage.victim_key
            continue
        with pytest.raises(errors.DataLoss) as caught:
            tokenized(storage, FORMS[form])
        assert storage.victim_key in caught.value.message, victim
        # Another attempt at the same task would read the same file.
        assert not caught.value.retryable
