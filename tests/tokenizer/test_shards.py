"""A raw shard becomes a file of exactly the right ids, or an error that tells what to do."""

import importlib.metadata
import pathlib

import pyarrow as pa
import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from services.tokenizer.sequences.packing import Boundaries
from services.tokenizer.text import shard_reader
from tests.support.messages import words
from tests.tokenizer import saelens, samples, task_runner
from tests.tokenizer.task_runner import Parameters
from tests.tokenizer.test_packing import walked, walked_starts

Packing = tokenizations_pb2.Packing
BATCHES = [samples.ADVERSARIAL, samples.DOCUMENTS[:20], [], samples.DOCUMENTS[20:40]]
TEXTS = [text for batch in BATCHES for text in batch]


@pytest.fixture
def runner(storage: Storage, folder: pathlib.Path) -> task_runner.TaskRunner:
    """Run tasks with each of the tokenizers in turn."""
    return task_runner.TaskRunner(storage, folder)


@pytest.fixture
def small(storage: Storage, folders: dict[str, pathlib.Path]) -> task_runner.TaskRunner:
    """Run tasks with the byte-level tokenizer."""
    return task_runner.TaskRunner(storage, folders["byte_level"])


def test_ids_equal_transformers(
    runner: task_runner.TaskRunner, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slices much smaller than the texts: documents larger than one, and several of them in a batch.
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 5000)
    parameters = Parameters(text_column="text", max_length=64)
    result = runner.tokenize(task_runner.text_shard(storage, *BATCHES), parameters)
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    expected = plain(TEXTS, truncation=True, max_length=64)["input_ids"]
    assert task_runner.rows(storage, result) == expected
    whole = plain(TEXTS)["input_ids"]
    lengths = [len(row) for row in expected]
    found = result.statistics
    # GPT-2's way of naming its end of text the unknown token makes no token unknown.
    unknown = None if plain.unk_token == "<|endoftext|>" else plain.unk_token_id
    assert found == tokenizations_pb2.TokenizationStatistics(
        num_tokens=sum(lengths),
        num_sequences=len(TEXTS),
        num_documents=len(TEXTS),
        avg_seq_length=sum(lengths) / len(TEXTS),
        min_seq_length=min(lengths),
        max_seq_length=64,
        num_truncated=sum(len(row) > 64 for row in whole),
        num_unknown=sum(row.count(unknown) for row in expected),
        num_files=1,
        size_bytes=result.files[0].size_bytes,
        engine=found.engine,
        engine_versions=found.engine_versions,
        text_bytes=sum(len(text.encode()) for text in TEXTS),
        reference_version=importlib.metadata.version("tokenizers"),
    )


def test_packed_rows_equal_the_walk(
    runner: task_runner.TaskRunner, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 5000)
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    none = Packing.BOUNDARY_NONE
    parameters = Parameters(text_column="text", max_length=32, packing=Packing(begin_of_batch=none, separator=none))
    boundaries = Boundaries()
    if plain.bos_token_id is not None:
        # Every field at its default.
        parameters.packing.Clear()
        boundaries = Boundaries(plain.bos_token_id, None, plain.bos_token_id)
    result = runner.tokenize(task_runner.text_shard(storage, *BATCHES), parameters)
    documents = plain(TEXTS, add_special_tokens=False)["input_ids"]
    assert task_runner.rows(storage, result) == list(walked(documents, 32, boundaries))


@pytest.mark.parametrize("separator", ["BOS", "EOS", "NONE"])
def test_document_starts_are_stored(
    storage: Storage, folders: dict[str, pathlib.Path], separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 5000)
    runner = task_runner.TaskRunner(storage, folders["sentencepiece"])
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    parameters = Parameters(
        max_length=48, packing=Packing(separator=Packing.Boundary.Value(f"BOUNDARY_{separator}"), document_starts=True)
    )
    result = runner.tokenize(task_runner.text_shard(storage, *BATCHES), parameters)
    opened = task_runner.opened(storage, runner.publish([result], parameters))
    documents = plain(TEXTS, add_special_tokens=False)["input_ids"]
    token = {"BOS": plain.bos_token_id, "EOS": plain.eos_token_id, "NONE": None}[separator]
    boundaries = Boundaries(plain.bos_token_id, None, token)
    assert opened["input_ids"] == list(walked(documents, 48, boundaries))
    expected = walked_starts(documents, 48, boundaries, separator_opens=separator != "EOS")
    assert opened["document_starts"] == list(expected)
    assert max(map(len, opened["document_starts"])) > 1


@pytest.mark.parametrize(
    "tokens",
    [
        {"bos": "<|endoftext|>", "eos": "the"},
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
        {"bos": "<a token of its own>", "eos": "the"},
        {"bos": None, "eos": "<|endoftext|>"},
        {"bos": "the", "eos": None},
        {"bos": None, "eos": None},
    ],
)
def test_default_boundaries_equal_saelens(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, tokens: dict[str, str | None]
) -> None:
    texts = samples.DOCUMENTS[:3]
    plain = transformers.AutoTokenizer.from_pretrained(folders["byte_level"])
    for role, token in tokens.items():
        setattr(plain, f"{role}_token", token)
    plain.save_pretrained(tmp_path / "model")
    runner = task_runner.TaskRunner(storage, tmp_path / "model")
    loaded = runner.tokenizers.get(runner.reference)
    for role, token in tokens.items():
        assert (loaded.special(f"{role}_token") is None) == (token is None)
    made = runner.tokenize(task_runner.text_shard(storage, texts), Parameters(max_length=32, packing=Packing()))
    assert task_runner.rows(storage, made) == saelens.pretokenized(texts, tmp_path / "model", 32)


@pytest.mark.parametrize("boundary", ["BOS", "EOS"])
def test_packing_needs_the_boundary_token(storage: Storage, folders: dict[str, pathlib.Path], boundary: str) -> None:
    runner = task_runner.TaskRunner(storage, folders["wordpiece"])
    parameters = Parameters(max_length=8, packing=Packing(separator=Packing.Boundary.Value(f"BOUNDARY_{boundary}")))
    with pytest.raises(errors.InvalidArgument) as caught:
        runner.tokenize(task_runner.text_shard(storage, ["a"]), parameters)
    assert [violation.field for violation in caught.value.violations] == ["parameters.packing.separator"]
    assert {"packing.separator", f"{boundary.lower()}_token"} <= words(caught.value.message)


def test_without_concatenation(small: task_runner.TaskRunner, storage: Storage) -> None:
    parameters = Parameters(max_length=16, packing=Packing(disable_concatenation=True))
    result = small.tokenize(task_runner.text_shard(storage, ["short", *samples.DOCUMENTS[:3]]), parameters)
    plain = transformers.AutoTokenizer.from_pretrained(small.reference.repo_id)
    expected = [[plain.bos_token_id, *row[:15]] for row in plain(samples.DOCUMENTS[:3])["input_ids"]]
    assert task_runner.rows(storage, result) == expected
    assert result.statistics.num_truncated == 3


def test_truncation_left_and_none(runner: task_runner.TaskRunner, storage: Storage) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id, truncation_side="left")
    shard = task_runner.text_shard(storage, samples.DOCUMENTS[:9])
    left = runner.tokenize(shard, Parameters(max_length=20, truncation=Parameters.TRUNCATION_LEFT), epoch=1)
    assert task_runner.rows(storage, left) == plain(samples.DOCUMENTS[:9], truncation=True, max_length=20)["input_ids"]
    parameters = Parameters(max_length=20, truncation=Parameters.TRUNCATION_NONE, add_special_tokens=False)
    whole = runner.tokenize(shard, parameters, epoch=2)
    assert task_runner.rows(storage, whole) == plain(samples.DOCUMENTS[:9], add_special_tokens=False)["input_ids"]


def test_files_carry_the_attempt_in_their_names(small: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, ["some text"])
    results = [small.tokenize(shard, Parameters(max_length=8), ordinal=2, count=12, epoch=epoch) for epoch in (1, 2)]
    keys = [file.key for result in results for file in result.files]
    assert keys == [f"{task_runner.TOKENIZED}/shard-00002-of-00012-000000070000-e{epoch}.arrow" for epoch in (1, 2)]
    for result in results:
        (file,) = result.files
        assert (file.num_rows, file.size_bytes, file.sha256) == (1, storage.size(file.key), storage.sha256(file.key))


def test_a_shard_without_sequences_gives_no_file(small: task_runner.TaskRunner, storage: Storage) -> None:
    result = small.tokenize(
        task_runner.text_shard(storage, ["few", "words"]), Parameters(max_length=512, packing=Packing())
    )
    assert list(result.files) == []
    assert (result.statistics.num_documents, result.statistics.num_sequences, result.statistics.num_files) == (2, 0, 0)
    assert storage.list(task_runner.TOKENIZED) == []


def test_progress_never_decreases(small: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, *[samples.DOCUMENTS[:10]] * 5)
    small.tokenize(shard, Parameters(max_length=8))
    done = [event.progress.done for event in small.events]
    assert done == sorted(done)
    assert 0 < done[-1] <= shard.size_bytes
    assert {event.progress.total for event in small.events} == {shard.size_bytes}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_string_column(small: task_runner.TaskRunner, storage: Storage, kind: pa.DataType) -> None:
    batch = pa.record_batch({"body": pa.array(["one", "two", "one"]).cast(kind), "n": pa.array([1, 2, 3])})
    result = small.tokenize(task_runner.raw_shard(storage, [batch]), Parameters(max_length=8))
    plain = transformers.AutoTokenizer.from_pretrained(small.reference.repo_id)
    assert task_runner.rows(storage, result) == plain(["one", "two", "one"])["input_ids"]


@pytest.mark.parametrize(
    ("batches", "name", "kind", "reason", "named"),
    [
        (
            [{"text": ["x", "y", "z"]}, {"text": ["a", "b", None]}],
            "text",
            errors.InvalidArgument,
            "COLUMN_INVALID",
            {"text", "no", "value", "5"},
        ),
        (
            [{"text": ["a", "b", "c"], "n": [1, 2, 3]}],
            "n",
            errors.InvalidArgument,
            "COLUMN_INVALID",
            {"n", "int64", "text"},
        ),
        (
            [{"title": ["a", "b", "c"], "n": [1, 2, 3]}],
            "body",
            errors.NotFound,
            "COLUMN_NOT_FOUND",
            {"body", "title", "n"},
        ),
        (
            [{"title": ["a", "b", "c"], "body": ["1", "2", "3"]}],
            "",
            errors.NotFound,
            "COLUMN_NOT_FOUND",
            {"text", "title", "body"},
        ),
        (
            [{"text": pa.nulls(3)}],
            "text",
            errors.InvalidArgument,
            "COLUMN_INVALID",
            {"text", "no", "value", "0"},
        ),
        (
            [{"text": pa.array([b"fine", b"\xff\xfe", b"c"]).view(pa.string())}],
            "text",
            errors.InvalidArgument,
            "COLUMN_INVALID",
            {"text", "UTF-8", "0", "2"},
        ),
    ],
)
def test_column_problems(
    small: task_runner.TaskRunner,
    storage: Storage,
    batches: list[dict[str, object]],
    name: str,
    kind: type[errors.PolytokError],
    reason: str,
    named: set[str],
) -> None:
    shard = task_runner.raw_shard(storage, [pa.record_batch(batch) for batch in batches])
    with pytest.raises(kind) as caught:
        small.tokenize(shard, Parameters(text_column=name, max_length=8))
    assert (caught.value.reason, caught.value.retryable) == (reason, False)
    assert {"part-00000.arrow", *named} <= words(caught.value.message)
    assert storage.list(task_runner.TOKENIZED) == []


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_a_flipped_bit_is_found(small: task_runner.TaskRunner, storage: Storage, place: float) -> None:
    shard = task_runner.text_shard(storage, *[samples.DOCUMENTS[:10]] * 5)
    data = bytearray(storage.read_bytes(shard.key))
    data[int(len(data) * place)] ^= 0x10
    storage.write_bytes(shard.key, bytes(data))
    with pytest.raises(errors.DataLoss) as caught:
        small.tokenize(shard, Parameters(max_length=8))
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": shard.key})
    assert shard.key in words(caught.value.message)
    assert storage.list(task_runner.TOKENIZED) == []


def test_a_truncated_file_is_found(small: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, *[samples.DOCUMENTS[:10]] * 5)
    storage.write_bytes(shard.key, storage.read_bytes(shard.key)[: shard.size_bytes // 2])
    with pytest.raises(errors.DataLoss) as caught:
        small.tokenize(shard, Parameters(max_length=8))
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": shard.key})


def test_a_file_of_another_format(small: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, ["a"])
    shard.sha256 = storage.write_bytes(shard.key, b"plain text, no Arrow")
    shard.size_bytes = storage.size(shard.key)
    with pytest.raises(errors.InvalidArgument) as caught:
        small.tokenize(shard, Parameters(max_length=8))
    assert caught.value.reason == "SOURCE_INVALID"
    assert {"part-00000.arrow", "Arrow"} <= words(caught.value.message)


def test_a_missing_file(small: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, ["a"])
    storage.delete(shard.key)
    with pytest.raises(errors.DataLoss) as caught:
        small.tokenize(shard, Parameters(max_length=8))
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": shard.key})
    assert {shard.key, "dataset"} <= words(caught.value.message)


def test_max_length_is_required(small: task_runner.TaskRunner, storage: Storage) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        small.tokenize(task_runner.text_shard(storage, ["a"]), Parameters())
    assert [violation.field for violation in caught.value.violations] == ["parameters.max_length"]
