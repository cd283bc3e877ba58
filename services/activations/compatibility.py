"""Check that a tokenization and a model match: the tokenizer, the range of ids, the length of rows."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polytok import errors
from services.activations.models import ModelDescription
from services.activations.rows import IDS

_ROWS = 65_536


@dataclass(frozen=True)
class TokenizationFacts:
    """What is known of a tokenization; fields that are empty, 0 or None are not checked."""

    name: str
    """For messages: `datasets/docs/tokenizations/gpt2`."""
    tokenizer_fingerprint: str = ""
    """Fingerprint of the tokenizer that made it."""
    largest_id: int | None = None
    """The result of `largest_id`; which other ids the tokenizer could return does not matter."""
    longest_row: int = 0
    """Number of tokens in its longest row, without padding."""


def check_compatible(
    description: ModelDescription,
    tokenization: TokenizationFacts,
    *,
    tokenizer_fingerprint: str = "",
    context_size: int = 0,
) -> None:
    """Raise FailedPrecondition if they do not match, with the mismatch and its fix.

    `tokenizer_fingerprint` is that of the model's own tokenizer; rows are cut to `context_size` (0: not cut).
    """
    made_by = tokenization.tokenizer_fingerprint
    if made_by and tokenizer_fingerprint and made_by != tokenizer_fingerprint:
        raise _misfit(
            f"{tokenization.name} was made by a different tokenizer (fingerprint {made_by[:12]}…) than the "
            f"model's ({tokenizer_fingerprint[:12]}…), so its ids stand for other tokens. Tokenize the "
            "dataset for this model."
        )
    largest = tokenization.largest_id
    if largest is not None and largest >= description.embedding_rows:
        raise _misfit(
            f"{tokenization.name} has token ids up to {largest}, but the model has "
            f"{description.embedding_rows} embedding rows (ids 0 to {description.embedding_rows - 1}). "
            "Tokenize the dataset for this model, or choose the model that it was tokenized for."
        )
    limit = description.context_length
    if not limit:
        return
    if context_size > limit:
        raise errors.InvalidArgument(
            f"context_size: {context_size} exceeds the model's context of {limit} tokens. Set it to at most {limit}.",
            reason="MODEL_MISFIT",
            violations=[errors.FieldViolation("context_size", f"must be at most {limit}")],
        )
    if not context_size and tokenization.longest_row > limit:
        raise _misfit(
            f"{tokenization.name} has rows of up to {tokenization.longest_row} tokens, but the model takes at "
            f"most {limit}. Set context_size to at most {limit}, or tokenize with a max_length of {limit}."
        )


def largest_id(dataset: Any) -> int | None:
    """Return the largest token id in a `datasets.Dataset` or `pyarrow.Table`, including padding.

    None without any tokens.
    """
    arrow = isinstance(dataset, pa.Table)
    source = dataset if arrow else dataset.select_columns([IDS]).with_format("arrow")
    found: list[int] = []
    for first in range(0, len(source), _ROWS):
        table = source.slice(first, _ROWS) if arrow else source[first : min(first + _ROWS, len(source))]
        found += [value for chunk in table[IDS].chunks if (value := pc.max(chunk.flatten()).as_py()) is not None]
    return max(found, default=None)


def _misfit(message: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(message, reason="MODEL_MISFIT")
