"""The models and tokens of the measurements."""

import os
import pathlib
from dataclasses import dataclass

import datasets
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models

VOCABULARY = 50_257
"""GPT-2's."""


@dataclass(frozen=True)
class Case:
    """A case of the benchmark."""

    name: str
    layers: int
    width: int
    hooks: tuple[str, ...]
    context: int
    rows: int
    batch: int
    """Rows in a forward pass."""
    dtype: str
    device: str

    @property
    def tokens(self) -> int:
        """Number of tokens of a run."""
        return self.context * self.rows

    @property
    def depth(self) -> int:
        """Number of blocks that have to run."""
        return 1 + max(int(hook.split(".")[1]) for hook in self.hooks)


CPU = Case("CPU", 4, 768, ("blocks.2.hook_resid_post",), 128, 96, 16, "float32", "cpu")
"""A GPT-2 of the small model's width, as deep as two cores can run in seconds."""
GPU = Case(
    "GPU", 12, 768, tuple(f"blocks.{layer}.hook_resid_post" for layer in range(12)), 512, 2048, 64, "bfloat16", "cuda"
)
"""GPT-2 small, all residual streams."""


def write_model(case: Case, folder: pathlib.Path) -> pathlib.Path:
    """Write a GPT-2 with random weights, and a tokenizer that only SAELens asks for; return the folder."""
    configuration = transformers.GPT2Config(
        n_layer=case.layers, n_embd=case.width, n_head=case.width // 64, n_ctx=1024, vocab_size=VOCABULARY
    )
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.AutoModelForCausalLM.from_config(configuration).save_pretrained(folder)
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="t1", eos_token="t2").save_pretrained(
        folder
    )
    return folder


def tokens(case: Case) -> datasets.Dataset:
    """Return rows of random tokens, like those of a packed tokenization."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (case.rows, case.context), dtype=np.int32)
    return datasets.Dataset.from_dict({"input_ids": list(ids)})


def threads() -> int:
    """Return the number of usable cores."""
    return len(os.sched_getaffinity(0))
