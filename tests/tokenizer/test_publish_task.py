"""What is published opens with `datasets.load_from_disk`, and says what it is."""

import json
import pathlib
import statistics

import datasets
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters

PARAMETERS = Parameters(text_column="text", max_length=40)


@pytest.fixture
def runner(storage: Storage, folders: dict[str, pathlib.Path]) -> task_runner.TaskRunner:
    """Run tasks with the SentencePiece-style tokenizer."""
    return task_runner.TaskRunner(storage, folders["sentencepiece"])


def tokenized(runner: task_runner.TaskRunner, parts: list[list[str]], parameters: Parameters) -> list[object]:
    return [
        runner.tokenize(
            task_runner.text_shard(runner.storage, part, key=f"datasets/d/raw/part-{ordinal:05d}.arrow"),
            parameters,
            ordinal=ordinal,
            count=len(parts),
        )
        for ordinal, part in enumerate(parts)
    ]


def test_load_from_disk_opens_what_is_published(runner: task_runner.TaskRunner, storage: Storage) -> None:
    parts = [samples.DOCUMENTS[:5], samples.DOCUMENTS[5:12], samples.ADVERSARIAL]
    results = tokenized(runner, parts, PARAMETERS)
    published = runner.publish(results, PARAMETERS)
    with pytest.raises(FileNotFoundError):
        datasets.load_from_disk(storage.uri(task_runner.TOKENIZED))
    found = task_runner.opened(storage, published)
    assert found["input_ids"][:] == [row for result in results for row in task_runner.rows(storage, result)]
    assert found["attention_mask"][:] == [[1] * len(row) for row in found["input_ids"]]
    expected = {
        "input_ids": datasets.Sequence(datasets.Value("int32")),
        "attention_mask": datasets.Sequence(datasets.Value("int8")),
    }
    assert found.features == datasets.Features(expected)
    # What `datasets` makes of it is saved and opened again.
    found.select(range(3)).save_to_disk(storage.uri("copy"))
    assert datasets.load_from_disk(storage.uri("copy"))["input_ids"][:] == found["input_ids"][:3]


def test_the_manifest(runner: task_runner.TaskRunner, storage: Storage) -> None:
    results = tokenized(runner, [samples.DOCUMENTS[:3], ["one two"]], PARAMETERS)
    published = runner.publish(results, PARAMETERS)
    task_runner.opened(storage, published)
    manifest = json.loads(storage.read_bytes(f"{task_runner.TOKENIZED}/polytok.json"))
    assert published.manifest_digest == storage.sha256(f"{task_runner.TOKENIZED}/polytok.json")
    assert manifest["name"] == "datasets/docs/tokenizations/small"
    assert manifest["parameters"] == {"text_column": "text", "max_length": 40}
    assert manifest["tokenizer"]["fingerprint"] == runner.reference.fingerprint
    assert manifest["statistics"]["num_tokens"] == published.statistics.num_tokens
    assert manifest["statistics"]["length_histogram"] == list(published.statistics.length_histogram) != []
    assert manifest["versions"].keys() == {"polytok", "tokenizers", "transformers", "jinja2"}
    for entry in manifest["files"]:
        key = f"{task_runner.TOKENIZED}/{entry['name']}"
        assert (entry["size_bytes"], entry["sha256"]) == (storage.size(key), storage.sha256(key))
    assert [entry["num_rows"] for entry in manifest["files"]] == [3, 1]
    # Nothing else lies in the folder: the staged names are gone.
    names = {entry["name"] for entry in manifest["files"]} | {"polytok.json", "state.json", "dataset_info.json"}
    assert storage.list(task_runner.TOKENIZED) == sorted(f"{task_runner.TOKENIZED}/{name}" for name in names)


def test_the_same_work_publishes_the_same_bytes(runner: task_runner.TaskRunner) -> None:
    digests = set()
    for _ in range(2):
        results = tokenized(runner, [samples.DOCUMENTS[:3]], PARAMETERS)
        digests.add(runner.publish(results, PARAMETERS).manifest_digest)
    assert len(digests) == 1


def test_statistics_are_merged(runner: task_runner.TaskRunner, storage: Storage) -> None:
    results = tokenized(runner, [samples.DOCUMENTS[:5], ["", "one"]], PARAMETERS)
    merged = runner.publish(results, PARAMETERS).statistics
    rows = [row for result in results for row in task_runner.rows(storage, result)]
    lengths = [len(row) for row in rows]
    # tests/tokenizer/test_token_counts.py has an oracle for these.
    assert len(merged.most_frequent_tokens) == 20
    merged.ClearField("most_frequent_tokens")
    assert merged == tokenizations_pb2.TokenizationStatistics(
        num_tokens=sum(lengths),
        num_sequences=7,
        num_documents=7,
        avg_seq_length=sum(lengths) / 7,
        min_seq_length=1,
        max_seq_length=40,
        num_truncated=5,
        truncated_share=5 / 7,
        num_unique_tokens=len({token for row in rows for token in row}),
        num_files=2,
        size_bytes=sum(file.size_bytes for result in results for file in result.files),
        engine=results[0].statistics.engine,
        engine_versions=results[0].statistics.engine_versions,
        reference_version=results[0].statistics.reference_version,
        text_bytes=sum(len(text.encode()) for text in [*samples.DOCUMENTS[:5], "one"]),
        median_seq_length=statistics.median(lengths),
        # 1, 2 to 3, …, 32 to 63 tokens.
        length_histogram=[
            0,
            *(sum(least <= length < 2 * least for length in lengths) for least in (1, 2, 4, 8, 16, 32)),
        ],
    )


def test_shards_without_sequences_are_left_out(runner: task_runner.TaskRunner, storage: Storage) -> None:
    parameters = Parameters(max_length=64, packing=tokenizations_pb2.Packing())
    results = tokenized(runner, [["too short"], samples.DOCUMENTS[:4], [""], samples.DOCUMENTS[4:6]], parameters)
    assert [len(result.files) for result in results] == [0, 1, 0, 1]
    published = runner.publish(results, parameters)
    assert published.statistics.num_files == 2
    assert published.statistics.min_seq_length == 64
    assert task_runner.opened(storage, published).num_rows == published.statistics.num_sequences > 0


@pytest.mark.parametrize(
    ("parts", "parameters", "named"),
    [
        (
            [["", ""], [""]],
            Parameters(text_column="text", max_length=8, add_special_tokens=False),
            {"3", "text_column", "text"},
        ),
        (
            [["a few words"], ["and more"]],
            Parameters(text_column="text", max_length=512, packing=tokenizations_pb2.Packing()),
            {"2", "max_length", "512"},
        ),
    ],
)
def test_nothing_to_publish(
    runner: task_runner.TaskRunner, storage: Storage, parts: list[list[str]], parameters: Parameters, named: set[str]
) -> None:
    results = tokenized(runner, parts, parameters)
    before = storage.list(task_runner.TOKENIZED)
    with pytest.raises(errors.FailedPrecondition) as caught:
        runner.publish(results, parameters)
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_EMPTY", False)
    assert named <= words(caught.value.message)
    assert storage.list(task_runner.TOKENIZED) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "gone"])
def test_a_damaged_file_is_not_published(runner: task_runner.TaskRunner, storage: Storage, damage: str) -> None:
    results = tokenized(runner, [samples.DOCUMENTS[:3], samples.DOCUMENTS[3:6]], PARAMETERS)
    file = results[1].files[0]
    data = bytearray(storage.read_bytes(file.key))
    if damage == "gone":
        storage.delete(file.key)
        with pytest.raises(errors.NotFound, match=file.key):
            runner.publish(results, PARAMETERS)
        return
    data[len(data) // 2] ^= 1
    storage.write_bytes(file.key, bytes(data if damage == "flip" else data[:-1]))
    before = storage.list(task_runner.TOKENIZED)
    with pytest.raises(errors.DataLoss) as caught:
        runner.publish(results, PARAMETERS)
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": file.key})
    assert file.key in words(caught.value.message)
    assert storage.list(task_runner.TOKENIZED) == before


@pytest.mark.parametrize("counts", ["removed", "damaged", "never written"])
def test_lost_counts_are_counted_again(runner: task_runner.TaskRunner, storage: Storage, counts: str) -> None:
    results = tokenized(runner, [samples.DOCUMENTS[:3], samples.DOCUMENTS[3:6]], PARAMETERS)
    file = results[1].files[0]
    data = bytearray(storage.read_bytes(file.counts_key))
    first = runner.publish(results, PARAMETERS)
    assert first.statistics.num_unique_tokens > 10
    # An attempt after one that ended before it could tell: nothing of what was counted is there any more.
    assert not any("staged-" in key for key in storage.list(task_runner.TOKENIZED))
    if counts == "damaged":
        data[-4] += 1
        storage.write_bytes(file.counts_key, bytes(data))
    elif counts == "never written":
        file.counts_key = ""
    assert runner.publish(results, PARAMETERS).statistics == first.statistics


def test_documents_without_text(runner: task_runner.TaskRunner, storage: Storage) -> None:
    results = tokenized(runner, [["", ""]], PARAMETERS)
    assert task_runner.rows(storage, results[0]) == [[1], [1]]
    with pytest.raises(errors.FailedPrecondition) as caught:
        runner.publish(results, PARAMETERS)
    assert caught.value.reason == "SOURCE_EMPTY"
    assert {"2", "text_column"} <= words(caught.value.message)
