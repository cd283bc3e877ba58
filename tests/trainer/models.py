"""A language model of a few thousand weights, and sequences of uneven lengths for it."""

import pathlib

import datasets
import numpy as np
import torch
import transformers

from services.activations import activation_stream, models
from services.activations.token_selection import TokenSelection
from services.extractor.worker import extraction
from services.trainer.sae.data import live

HOOK = "blocks.1.hook_resid_post"
D_IN = 16
PAD, EXCLUDED = 0, 1
SELECTION = TokenSelection(excluded_token_ids=(EXCLUDED,))
VOCABULARY = 48


def save(folder: pathlib.Path) -> pathlib.Path:
    """Write a GPT-2 of two layers with weights from a fixed seed."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=D_IN,
        n_layer=3,
        n_head=2,
        bos_token_id=EXCLUDED,
        eos_token_id=EXCLUDED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = transformers.GPT2LMHeadModel(config)
        # Larger than GPT-2's own start, so that what stands in for a hook is felt behind it.
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def tokens(rows: int = 60, seed: int = 0) -> datasets.Dataset:
    """Return sequences of 3 to 40 tokens that begin with EXCLUDED, some of them padded behind."""
    drawn = np.random.default_rng(seed)
    ids, masks = [], []
    for row in range(rows):
        length, padding = int(drawn.integers(3, 40)), row % 3
        ids.append([EXCLUDED, *drawn.integers(2, VOCABULARY, length - 1).tolist(), *[PAD] * padding])
        masks.append([1] * length + [0] * padding)
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": masks})


def data(
    folder: pathlib.Path,
    hooks: tuple[str, ...] = (HOOK,),
    *,
    rows: int = 60,
    held_out_rows: int = 4,
    compile: bool = False,  # noqa: A002  as torch calls it
) -> live.LiveDataset:
    """Return the model of a folder and those sequences, as a training reads them."""
    settings = activation_stream.StreamSettings(hooks=hooks, batch_tokens=128, selection=SELECTION)
    return live.LiveDataset(
        models.load(folder, compile=compile), tokens(rows), settings, seed=0, held_out_rows=held_out_rows
    )


def extract(
    model_folder: pathlib.Path, folder: pathlib.Path, hooks: tuple[str, ...] = (HOOK,), dtype: str = "float32"
) -> pathlib.Path:
    """Make an extraction of those sequences and its folder, as `load_from_disk` opens it."""
    settings = extraction.RangeSettings(
        hooks=hooks, context_size=8, storage_dtype=dtype, excluded_token_ids=(EXCLUDED,)
    )
    loaded = models.load(model_folder)
    found = extraction.extract(loaded, tokens(60), 0, 60, settings, folder / "parts", "part", lambda *_: None)
    files = [datasets.Dataset.from_file(str(folder / "parts" / file.key)) for file in found.files]
    datasets.concatenate_datasets(files).save_to_disk(folder / "extraction")
    return folder / "extraction"
