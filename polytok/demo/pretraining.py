"""Train the demo's models for some hundred steps of next-token loss, so that their activations are meaningful."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

if TYPE_CHECKING:
    import torch

STEPS = 250
"""Takes about ten seconds on two cores and brings a model two to three nats below chance."""
LENGTH = 128
"""Tokens per sequence, as in the demo's extraction."""
_BATCH = 4
_LEARNING_RATE = 4e-3
_WARM_UP = 20
_SEED = 0
_TEXTS = 256
"""Number of texts to encode at a time."""


def train(
    model: Any, tokenizer: Tokenizer, texts: Iterable[str], *, steps: int, report: Callable[[int, int], None]
) -> None:
    """Train a causal language model of transformers in place, deterministically on the same machine.

    Cuts consecutive sequences from the texts, and starts over if there are too few texts. `report(done, total)` is
    called after each step.
    """
    import torch  # noqa: PLC0415  slow to import
    from torch.nn import functional  # noqa: PLC0415

    torch.manual_seed(_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step, batch in zip(range(steps), _batches(tokenizer, list(texts)), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * _share(step, steps)
        logits = model(input_ids=batch).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps)
    model.eval()


def _share(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: linear warm-up, then cosine decay."""
    return min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def _batches(tokenizer: Tokenizer, texts: list[str]) -> Iterator["torch.Tensor"]:
    """Yield batches of sequences endlessly, from texts in a random order that is drawn once."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    order = np.random.default_rng(_SEED).permutation(len(texts)).tolist()
    rest: list[int] = []
    size = _BATCH * LENGTH
    while texts:
        for first in range(0, len(order), _TEXTS):
            for encoding in tokenizer.encode_batch_fast([texts[place] for place in order[first : first + _TEXTS]]):
                rest += encoding.ids
            for start in range(0, len(rest) - size + 1, size):
                yield torch.tensor(rest[start : start + size]).view(_BATCH, LENGTH)
            rest = rest[len(rest) // size * size :]
