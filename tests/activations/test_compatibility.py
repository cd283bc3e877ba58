"""What does not fit is refused before anything runs."""

import datasets
import pyarrow as pa
import pytest

from polytok import errors
from services.activations import compatibility
from services.activations.models import LoadedModel
from tests.activations import tiny_models
from tests.support.messages import words

NAME = "datasets/docs/tokenizations/gpt2"


def _refusal(
    model: LoadedModel, tokenization: compatibility.TokenizationFacts, **options: object
) -> errors.PolytokError:
    with pytest.raises((errors.FailedPrecondition, errors.InvalidArgument)) as caught:
        compatibility.check_compatible(model.description, tokenization, **options)  # type: ignore[arg-type]
    assert caught.value.reason == "MODEL_MISFIT"
    return caught.value


def test_what_fits(gpt2: LoadedModel) -> None:
    tokenization = compatibility.TokenizationFacts(NAME, "abc", largest_id=96, longest_row=64)
    compatibility.check_compatible(gpt2.description, tokenization, tokenizer_fingerprint="abc")
    compatibility.check_compatible(gpt2.description, tokenization, tokenizer_fingerprint="abc", context_size=64)
    compatibility.check_compatible(
        gpt2.description, compatibility.TokenizationFacts(NAME, longest_row=1000), context_size=32
    )


def test_another_tokenizer(gpt2: LoadedModel) -> None:
    refusal = _refusal(gpt2, compatibility.TokenizationFacts(NAME, "a" * 64), tokenizer_fingerprint="b" * 64)
    assert {NAME, "tokenizer", "a" * 12, "b" * 12} <= words(refusal.message)


def test_ids_beyond_the_embedding(gpt2: LoadedModel) -> None:
    refusal = _refusal(gpt2, compatibility.TokenizationFacts(NAME, largest_id=98))
    assert {NAME, "ids", "98", "97", "96"} <= words(refusal.message)
    _refusal(gpt2, compatibility.TokenizationFacts(NAME, largest_id=97))


def test_rows_beyond_the_context(gpt2: LoadedModel) -> None:
    refusal = _refusal(gpt2, compatibility.TokenizationFacts(NAME, longest_row=65))
    assert {NAME, "rows", "65", "64", "context_size", "max_length"} <= words(refusal.message)


def test_context_beyond_the_models(gpt2: LoadedModel) -> None:
    refusal = _refusal(gpt2, compatibility.TokenizationFacts(NAME), context_size=65)
    assert [violation.field for violation in refusal.violations] == ["context_size"]
    assert "64" in words(refusal.violations[0].description)
    assert {"65", "64"} <= words(refusal.message)


def test_largest_id() -> None:
    rows = [[3, 9], [], [96, 4]]
    assert compatibility.largest_id(tiny_models.dataset(rows)) == 96
    assert compatibility.largest_id(tiny_models.dataset(rows).select([1, 0])) == 9
    assert compatibility.largest_id(pa.table({"input_ids": rows})) == 96
    empty = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int32"))})
    assert compatibility.largest_id(datasets.Dataset.from_dict({"input_ids": [[]]}, features=empty)) is None
