"""Padding gives the ids and the attention mask that the Hugging Face fast tokenizer gives."""

import pathlib

import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from services.tokenizer.sequences import padding
from services.tokenizer.text import shard_reader
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters

Padding = tokenizations_pb2.Padding
TEXTS = [*samples.ADVERSARIAL, *samples.DOCUMENTS[:6]]
SIDES = {"right": Padding.SIDE_RIGHT, "left": Padding.SIDE_LEFT}
LENGTHS = {"max_length": Padding.TO_MAX_LENGTH, "longest": Padding.TO_LONGEST}


def loaded(folder: pathlib.Path, side: str) -> tuple[transformers.PreTrainedTokenizerFast, Padding.Token.ValueType]:
    """Return the tokenizer as transformers has it, padding with what we pad with."""
    plain = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    if plain.pad_token is not None:
        return plain, Padding.TOKEN_PAD
    plain.pad_token = plain.eos_token
    return plain, Padding.TOKEN_EOS


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("to", LENGTHS)
def test_padding_equals_transformers(
    storage: Storage, folder: pathlib.Path, side: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several slices, and few sequences at once.
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 5000)
    monkeypatch.setattr(padding, "_TOKENS", 300)
    plain, token = loaded(folder, side)
    expected = plain(TEXTS, truncation=True, max_length=90, padding=to)
    parameters = Parameters(max_length=90, padding=Padding(to=LENGTHS[to], side=SIDES[side], token=token))
    runner = task_runner.TaskRunner(storage, folder)
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    opened = task_runner.opened(storage, runner.publish([result], parameters))
    assert opened["input_ids"] == expected["input_ids"]
    assert opened["attention_mask"] == expected["attention_mask"]
    tokens = sum(map(sum, expected["attention_mask"]))
    assert result.statistics.num_tokens == tokens
    assert result.statistics.num_padded == sum(map(len, expected["input_ids"])) - tokens > 0
    assert result.statistics.max_seq_length == 90


def test_longest_is_shorter_than_max_length(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    plain, token = loaded(folders["byte_level"], "right")
    texts = ["one", "", "one two three", "one two"]
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    parameters = Parameters(max_length=500, padding=Padding(to=Padding.TO_LONGEST, token=token))
    result = runner.tokenize(task_runner.text_shard(storage, texts), parameters)
    assert task_runner.rows(storage, result) == plain(texts, padding=True)["input_ids"]


def test_overflowing_windows_are_padded_too(storage: Storage, folder: pathlib.Path) -> None:
    plain, token = loaded(folder, "left")
    expected = plain(
        TEXTS, truncation=True, max_length=30, stride=4, return_overflowing_tokens=True, padding="max_length"
    )
    parameters = Parameters(
        max_length=30, overflow=True, stride=4, padding=Padding(side=Padding.SIDE_LEFT, token=token)
    )
    result = task_runner.TaskRunner(storage, folder).tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    assert task_runner.rows(storage, result) == expected["input_ids"]


def test_longer_sequences_stay(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    plain, token = loaded(folders["wordpiece"], "right")
    expected = plain(TEXTS, padding="max_length", max_length=20)["input_ids"]
    parameters = Parameters(
        max_length=20, truncation=Parameters.TRUNCATION_NONE, padding=Padding(to=Padding.TO_MAX_LENGTH, token=token)
    )
    result = task_runner.TaskRunner(storage, folders["wordpiece"]).tokenize(
        task_runner.text_shard(storage, TEXTS), parameters
    )
    assert task_runner.rows(storage, result) == expected


def test_a_shard_without_documents(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    parameters = Parameters(max_length=8, padding=Padding(to=Padding.TO_LONGEST, token=Padding.TOKEN_EOS))
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    assert list(runner.tokenize(task_runner.text_shard(storage, []), parameters).files) == []


def test_padding_needs_its_token(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    parameters = Parameters(max_length=8, padding=Padding(token=Padding.TOKEN_PAD))
    with pytest.raises(errors.InvalidArgument) as caught:
        task_runner.TaskRunner(storage, folders["byte_level"]).tokenize(
            task_runner.text_shard(storage, ["a"]), parameters
        )
    assert [violation.field for violation in caught.value.violations] == ["parameters.padding.token"]
    assert "pad_token" in words(caught.value.message)
