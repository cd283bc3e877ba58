"""Whether a tokenization and a model fit: the same tokenizer, no id beyond the embedding, no row beyond the context."""

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
    """What is known of a tokenization; what is empty, 0 or None is not checked."""

    name: str
    """For messages: `datasets/docs/tokenizations/gpt2`."""
    tokenizer_fingerprint: str = ""
    """Of the tokenizer that made it."""
    largest_id: int | None = None
    """As `largest_id` finds it: which ids a tokenizer could give does not matter."""
    longest_row: int = 0
    """Tokens in its longest row, padding not counted."""


def check_compatible(
    description: ModelDescription,
    tokenization: TokenizationFacts,
    *,
    tokenizer_fingerprint: str = "",
    context_size: int = 0,
) -> None:
    """Raise FailedPrecondition with what does not fit, and the mend.

    `tokenizer_fingerprint` is of the model's own tokenizer; `context_size` is what rows are cut to (0: they are not).
    """
    made_by = tokenization.tokenizer_fingerprint
    if made_by and tokenizer_fingerprint and made_by != tokenizer_fingerprint:
        raise _misfit(
            f"{tokenization.name} was made by another tokenizer (fingerprint {made_by[:12]}…) than the model's "
            f"({tokenizer_fingerprint[:12]}…): its ids mean other tokens to this model. "
            "Tokenize the dataset for this model."
        )
    largest = tokenization.largest_id
    if largest is not None and largest >= description.embedding_rows:
        raise _misfit(
            f"{tokenization.name} has token ids up to {largest}, and the model {description.embedding_rows} embedding "
            f"rows (ids 0 to {description.embedding_rows - 1}). Tokenize the dataset for this model, or name the model "
            "that it was tokenized for."
        )
    limit = description.context_length
    if not limit:
        return
    if context_size > limit:
        raise errors.InvalidArgument(
            f"context_size: {context_size} is beyond the model's context of {limit} tokens. Take {limit} or less.",
            reason="MODEL_MISFIT",
            violations=[errors.FieldViolation("context_size", f"must be at most {limit}")],
        )
    if not context_size and tokenization.longest_row > limit:
        raise _misfit(
            f"{tokenization.name} has rows of up to {tokenization.longest_row} tokens, and the model looks at {limit}. "
            f"Take a context_size of {limit} or less, or tokenize with a max_length of {limit}."
        )


def largest_id(dataset: Any) -> int | None:
    """Return the largest token id in a `datasets.Dataset` or `pyarrow.Table`, padding included.

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
