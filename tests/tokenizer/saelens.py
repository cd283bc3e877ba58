"""SAELens's packing, which ours has to equal row for row."""

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from services.tokenizer.rows.packing import Boundaries


@functools.cache
def _function() -> Any:
    with warnings.catch_warnings():
        # It imports what its own dependencies call outdated.
        warnings.simplefilter("ignore")
        from sae_lens import tokenization_and_batching
    return tokenization_and_batching.concat_and_batch_sequences


def batched(
    documents: Iterable[Sequence[int]], length: int, boundaries: Boundaries, *, alone: bool = False
) -> list[list[int]]:
    """What it gives for documents; alone is without concatenation."""
    tensors = (torch.tensor(document, dtype=torch.long) for document in documents)
    return [row.tolist() for row in _function()(tensors, length, *boundaries, disable_concat_sequences=alone)]
