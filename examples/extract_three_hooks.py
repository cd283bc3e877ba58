"""Extract three hooks of a model in one pass, and open them with `datasets` and with SAELens.

Needs a running stack with a dataset that is tokenized for the model:

    polytok up
    polytok dataset add docs corpus.jsonl
    polytok model add gpt2 ./gpt2
    polytok tokenize docs --model gpt2 --pack --max-length 128 --watch
    python examples/extract_three_hooks.py docs gpt2
"""

import sys
from typing import Any

import numpy as np
import torch

import polytok

HOOKS = ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")


def main(dataset: str, model: str) -> None:
    """Extract the hooks and show the activations."""
    with polytok.Client() as client:
        # Repeating the call returns the existing extraction.
        asked = client.extractions.create(dataset, model, hooks=HOOKS, max_tokens=1_000_000)
        extraction = client.extractions.wait(asked)
        statistics = extraction.statistics
        print(f"{extraction.name}: {statistics.num_tokens:,} tokens in {statistics.size_bytes / 1e6:.1f} MB")
        for each in statistics.hooks:
            print(f"  {each.hook}: width {each.width}, mean norm {each.mean_norm:.3f}, variance {each.variance:.5f}")

        # 1. With `datasets`, memory-mapped: a row has context_size activations of each hook and their token ids.
        rows = client.activations(extraction).with_format("numpy")
        first = rows[0]
        print(f"datasets: {rows.num_rows:,} rows of {', '.join(rows.column_names)}")
        for hook in HOOKS:
            activations: np.ndarray[Any, Any] = first[hook]
            print(f"  {hook}: {activations.shape} {activations.dtype}")
        print(f"  the first is of token {first['token_ids'][0]}, row {first['row_index'][0]} of the tokenization")

        # 2. With SAELens, as its own cached activations, without conversion.
        for each in statistics.hooks:
            store = _store(extraction.path, each.hook, each.width, extraction.parameters.context_size)
            values, token_ids = store.get_raw_llm_batch()
            print(f"SAELens: {each.hook}: a batch of {tuple(values.shape)}, tokens {tuple(token_ids.shape)}")


def _store(path: str, hook: str, width: int, context_size: int) -> Any:
    """Return SAELens's store of cached activations, from which its trainer reads."""
    from sae_lens.training.activations_store import ActivationsStore  # noqa: PLC0415  slow to import

    return ActivationsStore(
        model=None,  # runs no model
        dataset=None,
        streaming=False,
        hook_name=hook,
        hook_head_index=None,
        context_size=context_size,
        d_in=width,
        n_batches_in_buffer=2,
        total_training_tokens=1024,
        store_batch_size_prompts=1,
        train_batch_size_tokens=32,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=path,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
