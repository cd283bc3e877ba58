"""What does not fit is refused before anything runs, with the mend."""

import datasets
import pyarrow as pa
import pytest

from polytok import errors
from services.activations import fitting
from services.activations.models import LoadedModel
from tests.activations import material

NAME = "datasets/docs/tokenizations/gpt2"


def _refusal(model: LoadedModel, tokenization: fitting.Tokenization, **options: object) -> str:
    with pytest.raises((errors.FailedPrecondition, errors.InvalidArgument)) as caught:
        fitting.check(model.description, tokenization, **options)  # type: ignore[arg-type]
    assert caught.value.reason == "MODEL_MISFIT"
    return caught.value.message


def test_what_fits(gpt2: LoadedModel) -> None:
    tokenization = fitting.Tokenization(NAME, "abc", largest_id=96, longest_row=64)
    fitting.check(gpt2.description, tokenization, tokenizer_fingerprint="abc")
    fitting.check(gpt2.description, tokenization, tokenizer_fingerprint="abc", context_size=64)
    fitting.check(gpt2.description, fitting.Tokenization(NAME, longest_row=1000), context_size=32)


def test_another_tokenizer(gpt2: LoadedModel) -> None:
    message = _refusal(gpt2, fitting.Tokenization(NAME, "a" * 64), tokenizer_fingerprint="b" * 64)
    assert f"{NAME} was made by another tokenizer (fingerprint aaaaaaaaaaaa…)" in message
    assert "Tokenize the dataset for this model" in message


def test_ids_beyond_the_embedding(gpt2: LoadedModel) -> None:
    message = _refusal(gpt2, fitting.Tokenization(NAME, largest_id=97))
    assert f"{NAME} has token ids up to 97, and the model 97 embedding rows (ids 0 to 96)" in message


def test_rows_beyond_the_context(gpt2: LoadedModel) -> None:
    message = _refusal(gpt2, fitting.Tokenization(NAME, longest_row=65))
    assert "rows of up to 65 tokens, and the model looks at 64. Take a context_size of 64 or less" in message


def test_context_beyond_the_models(gpt2: LoadedModel) -> None:
    message = _refusal(gpt2, fitting.Tokenization(NAME), context_size=65)
    assert "context_size: 65 is beyond the model's context of 64 tokens" in message


def test_largest_id() -> None:
    rows = [[3, 9], [], [96, 4]]
    assert fitting.largest_id(material.dataset(rows)) == 96
    assert fitting.largest_id(material.dataset(rows).select([1, 0])) == 9
    assert fitting.largest_id(pa.table({"input_ids": rows})) == 96
    empty = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int32"))})
    assert fitting.largest_id(datasets.Dataset.from_dict({"input_ids": [[]]}, features=empty)) is None
