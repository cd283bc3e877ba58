"""Truncation and special tokens are those of the Hugging Face fast tokenizer."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest
import transformers

from polytok import errors
from services.tokenizer.engines import reference
from services.tokenizer.models import loader
from services.tokenizer.sequences import base
from tests.support.messages import words
from tests.tokenizer import samples
from tests.tokenizer.test_packing import flat, rows_of

TEXTS = [*samples.ADVERSARIAL, *samples.DOCUMENTS[:5]]


def encoded(tokenizer: loader.Tokenizer, texts: list[str], sequencer: base.Sequencer) -> list[list[int]]:
    return rows_of(sequencer.add(reference.Reference(tokenizer.backend).encode(pa.array(texts, pa.large_string()))))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [2, 3, 16, 100_000])
def test_truncation_equals_transformers(
    folder: pathlib.Path, tokenizer: loader.Tokenizer, side: str, max_length: int
) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    plain.truncation_side = side
    whole = plain(TEXTS)["input_ids"]
    expected = plain(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    sequencer = base.WholeDocuments(tokenizer.frame, max_length, keep_end=side == "left")
    assert encoded(tokenizer, TEXTS, sequencer) == expected
    assert sequencer.num_truncated == sum(len(row) > max_length for row in whole)


def test_no_truncation_equals_transformers(folder: pathlib.Path, tokenizer: loader.Tokenizer) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert encoded(tokenizer, TEXTS, base.WholeDocuments(tokenizer.frame, None)) == plain(TEXTS)["input_ids"]


def test_without_special_tokens_equals_transformers(folder: pathlib.Path, tokenizer: loader.Tokenizer) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    expected = plain(TEXTS, add_special_tokens=False, truncation=True, max_length=5)["input_ids"]
    assert encoded(tokenizer, TEXTS, base.WholeDocuments(base.NO_FRAME, 5)) == expected


def test_frames_are_found(folders: dict[str, pathlib.Path]) -> None:
    found = {name: loader.load(folder).frame for name, folder in folders.items()}
    tokens = {name: (frame.prefix.tolist(), frame.suffix.tolist()) for name, frame in found.items()}
    assert tokens == {"byte_level": ([], []), "sentencepiece": ([1], []), "wordpiece": ([1], [2])}


def test_no_room_for_special_tokens() -> None:
    around = base.Frame(np.array([1], np.int32), np.array([2], np.int32))
    assert rows_of(base.WholeDocuments(around, 2).add(flat([[5, 6]]))) == [[1, 2]]
    with pytest.raises(errors.InvalidArgument) as caught:
        base.WholeDocuments(around, 1)
    assert [violation.field for violation in caught.value.violations] == ["parameters.max_length"]
    assert {"1", "2"} <= words(caught.value.message)
