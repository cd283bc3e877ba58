"""SAELens's packing, which ours has to equal row for row."""

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import torch
import transformers

from services.tokenizer.sequences.packing import Boundaries


@functools.cache
def _function() -> Any:
    with warnings.catch_warnings():
        # It imports what its own dependencies call outdated.
        warnings.simplefilter("ignore")
        from sae_lens import tokenization_and_batching
    return tokenization_and_batching.concat_and_batch_sequences


def pretokenized(texts: Sequence[str], folder: object, length: int) -> list[list[int]]:
    """Return what its runner makes of texts with a tokenizer, every boundary token at its default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.config import PretokenizeRunnerConfig
        from sae_lens.pretokenize_runner import pretokenize_dataset
    plain = transformers.AutoTokenizer.from_pretrained(str(folder))
    config = PretokenizeRunnerConfig(tokenizer_name=str(folder), context_size=length, shuffle=False, num_proc=1)
    found = pretokenize_dataset(datasets.Dataset.from_dict({"text": list(texts)}), plain, config)
    return [row.tolist() for row in found["input_ids"]]


def batched(
    documents: Iterable[Sequence[int]], length: int, boundaries: Boundaries, *, alone: bool = False
) -> list[list[int]]:
    """Return what it gives for documents; alone is without concatenation."""
    tensors = (torch.tensor(document, dtype=torch.long) for document in documents)
    return [row.tolist() for row in _function()(tensors, length, *boundaries, disable_concat_sequences=alone)]
