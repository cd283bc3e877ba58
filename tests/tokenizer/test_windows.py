"""Overflow gives the windows that the Hugging Face fast tokenizer gives, in its order."""

import pathlib

import numpy as np
import pytest
import transformers

from polytok import errors
from services.runtime.storage import Storage
from services.tokenizer.sequences import base, windows
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters
from tests.tokenizer.test_packing import flat, rows_of

TEXTS = [*samples.ADVERSARIAL, *samples.DOCUMENTS[:6]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 5), (64, 61), (4, 1), (100_000, 9)])
def test_windows_equal_transformers(
    storage: Storage,
    folder: pathlib.Path,
    side: str,
    max_length: int,
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So few at once that a document's windows are made in several steps.
    monkeypatch.setattr(windows, "_TOKENS", 1000)
    plain = transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side)
    whole = plain(TEXTS)["input_ids"]
    expected = plain(TEXTS, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True)
    runner = task_runner.TaskRunner(storage, folder)
    truncation = Parameters.TRUNCATION_LEFT if side == "left" else Parameters.TRUNCATION_RIGHT
    parameters = Parameters(max_length=max_length, truncation=truncation, overflow=True, stride=stride)
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    assert task_runner.rows(storage, result) == expected["input_ids"]
    assert result.statistics.num_truncated == sum(len(row) > max_length for row in whole)
    assert (result.statistics.num_sequences, result.statistics.num_documents) == (
        len(expected["input_ids"]),
        len(TEXTS),
    )


def test_without_special_tokens(storage: Storage, folder: pathlib.Path) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    expected = plain(
        TEXTS, truncation=True, max_length=10, stride=7, return_overflowing_tokens=True, add_special_tokens=False
    )
    parameters = Parameters(max_length=10, overflow=True, stride=7, add_special_tokens=False)
    result = task_runner.TaskRunner(storage, folder).tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    assert task_runner.rows(storage, result) == expected["input_ids"]


def test_too_large_a_stride() -> None:
    around = base.Frame(np.array([1], np.int32), np.array([2], np.int32))
    assert rows_of(windows.Windows(around, 4, 1).add(flat([[5, 6, 7]]))) == [[1, 5, 6, 2], [1, 6, 7, 2]]
    for stride in (2, 3):
        with pytest.raises(errors.InvalidArgument) as caught:
            windows.Windows(around, 4, stride)
        assert [violation.field for violation in caught.value.violations] == ["parameters.stride"]
        assert {str(stride), "2"} <= words(caught.value.message)
